"""What the server answers, as typed data. Fields that a newer server adds are ignored."""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

FINAL = frozenset({"completed", "failed", "cancelled"})
"""Statuses of a run that will not change any more."""


class _Answer(BaseModel):
    """Base of what the Connect dialect answers."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True, hide_input_in_errors=True)


class _Camel(_Answer):
    """Base of what the Syncs dialect answers."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Integration(_Answer):
    """Something that can be connected."""

    id: str
    name: str
    supports_start_date: bool = False
    abilities: tuple[str, ...] = ()


class Connection(_Answer):
    """An account at a source or a warehouse; never its credentials."""

    id: str
    label: str
    integration_id: str
    abilities: tuple[str, ...] = ()
    status: str = ""
    created_at: datetime | None = None
    updated_at: datetime | None = None


class Bridge(_Answer):
    """A bridge that was just made: send a person to ``authorize_url``."""

    id: str
    authorize_url: str
    expires_at: datetime


class OpenBridge(_Answer):
    """A bridge that nobody has crossed yet."""

    id: str
    expires_at: datetime
    integration_id: str = ""
    label: str = ""
    redirect_uri: str = ""
    connection_id: str | None = None


class Schedule(_Camel):
    """When a sync runs by itself."""

    cron: str
    timezone: str = "UTC"


class TableBinding(_Camel):
    """One stream of a sync and the table it loads."""

    id: str
    entity_key: str
    """The stream's name at the source."""
    table_name: str
    load_mode: str
    cursor_field: str | None = None
    primary_key_columns: tuple[str, ...] = ()
    logical_table_name: str | None = None
    physical_table_name: str | None = None
    source_instance_key: str | None = None
    table_naming_version: str = ""
    created_at: datetime | None = None
    updated_at: datetime | None = None


class Sync(_Camel):
    """A configured sync. ``etag`` is empty in lists."""

    id: str
    slug: str
    name: str
    status: str
    provider_key: str
    connection_id: str
    trigger_mode: str
    execution_mode: str
    execution_backend: str
    schedule: Schedule | None = None
    entities: tuple[str, ...] = ()
    table_bindings: tuple[TableBinding, ...] = ()
    source_config: Mapping[str, Any] = Field(default_factory=dict)
    destination_config: Mapping[str, Any] = Field(default_factory=dict)
    execution_config: Mapping[str, Any] = Field(default_factory=dict)
    freshness_sla_seconds: int | None = None
    task_slug: str | None = None
    last_error: str | None = None
    last_success_at: datetime | None = None
    created_at: datetime | None = None
    created_by: str | None = None
    updated_at: datetime | None = None
    updated_by: str | None = None
    etag: str = ""
    """What it was when it was read: changes under it fail where somebody else was quicker."""


class Run(_Camel):
    """One run of a sync: one run of Dagster."""

    id: str
    sync_id: str
    status: str
    run_mode: str
    triggered_by: str
    trigger_ref: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    updated_at: datetime | None = None
    attempt_number: int | None = None
    attempt_root_run_id: str | None = None
    previous_attempt_run_id: str | None = None
    next_attempt_run_id: str | None = None
    max_auto_resume_attempts: int | None = None
    result_class: str | None = None
    result_reason_code: str | None = None
    error: str | None = None
    summary: Mapping[str, Any] = Field(default_factory=dict)
    """``rowsLoaded``, ``bytesLoaded``, ``streamsTotal`` ..., and under ``streams`` what each did."""
    execution_mode: str | None = None
    execution_backend: str | None = None
    backend_run_ref: str | None = None
    backend_run_url: str | None = None
    backend_status: Mapping[str, Any] | None = None
    backend_heartbeat_at: datetime | None = None
    last_heartbeat_at: datetime | None = None
    executor_id: str | None = None
    cancel_reason: str | None = None
    cancel_requested_at: datetime | None = None
    cancel_requested_by: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.status in FINAL


class AvailableStream(_Answer):
    """A stream that the source offers."""

    name: str
    is_selectable: bool = True
    preselect: bool = False
    sub_streams: tuple[str, ...] = ()
    retired: bool = False


class Stream(_Answer):
    """One stream of a sync, and how it is loaded."""

    id: str
    elt_sync_id: str
    name: str
    incremental_primary_key_name: tuple[str, ...] = ()
    incremental_pointer_id: str | None = None
    excluded_columns: tuple[str, ...] = ()
    hashed_columns: tuple[str, ...] = ()
    full_sync_at_midnight: bool = False
    full_sync_always: bool = False
    protected_from_full_sync: bool = False
    excluded_substreams: tuple[str, ...] = ()
    enabled_history_table: bool = False
    full_refresh_requested: bool = False
    created_at: datetime | None = None
    updated_at: datetime | None = None


class StreamRun(_Answer):
    """One stream of one run."""

    id: str
    elt_sync_id: str
    elt_stream_id: str
    status: str
    started_at: datetime | None = None
    finished_at: datetime | None = None
    rows_synced: int | None = None

    @property
    def run_id(self) -> str:
        """The whole run, for `Runs.get`."""
        return self.id.partition(".")[0]


class StreamSnapshot(_Answer):
    """What a stream is doing, or did last."""

    status: str
    operation_mode: str
    full_sync_trigger: str
    records_synced: int = 0
    bytes_synced: int = 0
    estimated_total_count: int | None = None
    retry_attempt: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error_message: str | None = None
    details: str | None = None


class StreamState(_Answer):
    """Where one stream of a sync is."""

    name: str
    active_sync: StreamSnapshot | None = None
    latest_sync: StreamSnapshot | None = None


class Draft(_Answer):
    """A sync as the Connect dialect tells of it. ``etag`` as in `Sync`."""

    id: str
    status: str
    enabled: bool
    source_connection_id: str
    destination_connection_id: str
    destination_schema_name: str
    account_id: str = ""
    """The workspace's id."""
    source_integration_id: str = ""
    destination_integration_id: str = ""
    sync_interval: str | None = None
    start_date: date | None = None
    config: Mapping[str, Any] = Field(default_factory=dict)
    source_streams: tuple[Stream, ...] = ()
    created_at: datetime | None = None
    updated_at: datetime | None = None
    etag: str = ""


class SelectedStream(_Answer):
    """A stream of a loader."""

    name: str
    sync_mode: str


class Loader(_Answer):
    """A connection and the sync that reads it, as one thing; secrets of ``config`` are masks. ``etag`` as in `Sync`."""

    id: str
    workspace_id: str
    source_id: str
    """The warehouse."""
    name: str
    loader_type: str
    config: Mapping[str, Any]
    target_schema: str
    selected_streams: tuple[SelectedStream, ...]
    sync_mode: str
    status: str
    schedule: str | None = None
    status_error: str = ""
    created_by: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    last_run_at: datetime | None = None
    last_run_id: str | None = None
    etag: str = ""


class LoaderRun(_Answer):
    """One run of a loader: one run of Dagster."""

    id: str
    loader_id: str
    workspace_id: str
    status: str
    started_at: datetime | None = None
    completed_at: datetime | None = None
    rows_loaded: int = 0
    streams_total: int = 0
    streams_failed: int = 0
    error_message: str = ""
    triggered_by: str | None = None
    job_id: str | None = None
    created_at: datetime | None = None

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.status in FINAL


class LoaderType(_Answer):
    """A connector that can be read from, under one of its names."""

    type: str
    name: str
    description: str = ""
    config_schema: Mapping[str, Any] = Field(default_factory=dict)
    streams: tuple[Mapping[str, Any], ...] = ()
    """Those that every account has."""
