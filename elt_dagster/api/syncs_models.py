"""What goes in and out of the Syncs dialect, as its OpenAPI document shows it. All fields of an answer are always there, null where unknown."""

import datetime as dt
import uuid
from enum import StrEnum
from typing import Annotated, Any

from pydantic import ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel

from elt_dagster.api import model_base
from elt_dagster.api.words import moment
from elt_dagster.model import ExecutionBackend, ExecutionMode, SyncStatus, TriggerMode

Moment = Annotated[
    dt.datetime,
    PlainSerializer(moment),
    WithJsonSchema({"type": "string", "format": "date-time"}, mode="serialization"),
]
CONNECTION = "84b500d7-71c8-4b1f-adf4-f1eb0000973d"


class LoadModeWord(StrEnum):
    """How rows reach the table."""

    APPEND_EVENT = "append_event"
    UPSERT_ENTITY = "upsert_entity"
    REPLACE_SNAPSHOT = "replace_snapshot"


class TableNaming(StrEnum):
    """How the table got its name; a binding keeps what it was made with."""

    LEGACY = "legacy"
    V1 = "v1"


class Shown(model_base.Shown):
    """Base of what is answered."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Sent(model_base.Sent):
    """Base of what is sent."""

    model_config = ConfigDict(alias_generator=to_camel)


# --- errors ------------------------------------------------------------------------------------------------------------------


class FieldProblem(Shown):
    """One thing that is wrong with a request."""

    loc: list[str | int] = Field(examples=[["body", "tableBindings", 0, "cursorField"]])
    """Where: body, query or path, then the way to the field."""
    msg: str
    """What was found, and what is allowed."""
    type: str
    """For machines."""


class Invalid(Shown):
    """What is wrong with a request."""

    detail: list[FieldProblem]
    """Each of it."""


class Refusal(Shown):
    """Why nothing was done."""

    detail: str
    """What happened and where, and what to do."""


class Conflict(Shown):
    """What is in the way."""

    detail: str
    """What happened and where, and what to do."""
    conflict_id: str | None = None
    """The id of what is in the way: a sync, or an active run."""


# --- syncs -------------------------------------------------------------------------------------------------------------------


class TableBinding(Shown):
    """One stream of a sync and the table it loads: one asset in Dagster."""

    id: str
    """Opaque; also the id of the stream in the Connect dialect."""
    entity_key: str
    """The stream's name at the source."""
    load_mode: LoadModeWord
    """How rows reach the table."""
    primary_key_columns: list[str]
    """The columns that identify a row."""
    cursor_field: str | None
    """The column that grows with every change; null where everything is read each time."""
    table_name: str
    """The table in the sync's schema."""
    physical_table_name: str
    """What it is called in the warehouse."""
    logical_table_name: str
    """What people call it."""
    table_naming_version: TableNaming
    """How the name was made."""
    source_instance_key: str
    """Which account of the source the rows are from; by default the connection's id."""
    created_at: Moment
    """When the stream was added."""
    updated_at: Moment
    """When it was last changed."""


class Schedule(Shown):
    """When a sync runs by itself."""

    cron: str = Field(examples=["*/10 * * * *"])
    """Five cron fields, or @hourly, @daily, @weekly, @monthly."""
    timezone: str = Field(examples=["Europe/Copenhagen"])
    """An IANA time zone."""


class Sync(Shown):
    """A configured sync: one source connection, one warehouse, its streams, and when they run."""

    id: str
    """A UUID."""
    name: str
    """For people."""
    slug: str
    """Short and unique in the workspace."""
    task_slug: str
    """The sync's job in Dagster."""
    provider_key: str
    """The connector; empty where it is not known any more."""
    connection_id: str
    """The source."""
    status: SyncStatus
    """`error` also for a sync that cannot be read; `lastError` says why."""
    trigger_mode: TriggerMode
    """What starts its runs."""
    schedule: Schedule | None
    """When it runs by itself, if its trigger mode is scheduled."""
    source_config: dict[str, Any]
    """Settings of the connector that belong to this sync."""
    destination_config: dict[str, Any] = Field(examples=[{"connectionId": CONNECTION, "schema": "raw_shop"}])
    """`connectionId` of the warehouse, `schema`, and whatever else was sent."""
    entities: list[str]
    """The streams that are loaded."""
    table_bindings: list[TableBinding]
    """How each of them is."""
    execution_mode: ExecutionMode
    """How the streams of one run are spread."""
    execution_backend: ExecutionBackend
    """Who loads the tables."""
    execution_config: dict[str, Any] = Field(examples=[{"maxConcurrent": 8, "maxRetries": 3}])
    """What was sent, and what is not as usual."""
    freshness_sla_seconds: int | None
    """How old the tables may get."""
    last_error: str | None
    """Why the newest run failed; null where it did not."""
    last_success_at: Moment | None
    """When a run last succeeded."""
    created_at: Moment
    """When it was made."""
    created_by: str | None
    """The id of an API key; null for what a file says."""
    updated_at: Moment
    """When it was last changed."""
    updated_by: str | None
    """By whom."""


class SyncPage(Shown):
    """Some syncs, oldest first."""

    has_next: bool
    """Whether there are more."""
    limit: int
    """How many a page has at most."""
    offset: int
    """How many come before."""
    total: int
    """How many there are in all."""
    syncs: list[Sync]
    """This page's."""


class ScheduleWanted(Sent):
    """When a sync is to run by itself."""

    cron: str | None = Field(default=None, examples=["0 */6 * * *"])
    """Five cron fields, or @hourly, @daily, @weekly, @monthly."""
    timezone: str | None = Field(default=None, examples=["Europe/Copenhagen"])
    """An IANA time zone; UTC if not given."""


class TableBindingWanted(Sent):
    """How a stream is to be loaded. What is not sent is as the source says, or as it was; null takes a choice back."""

    entity_key: str = Field(min_length=1, examples=["public.orders"])
    """The stream's name at the source."""
    load_mode: str | None = Field(default=None, examples=["upsert_entity"])
    """append_event, upsert_entity or replace_snapshot; append, merge and replace are understood as well."""
    primary_key_columns: list[str] | None = Field(default=None, examples=[["id"]])
    """The columns that identify a row."""
    cursor_field: str | None = Field(default=None, examples=["updated_at"])
    """The column that grows with every change."""
    table_name: str | None = Field(default=None, examples=["orders"])
    """The table in the sync's schema; by default the stream's last part in snake_case."""
    physical_table_name: str | None = None
    """The same; if both are sent they have to be equal."""
    logical_table_name: str | None = Field(default=None, max_length=255)
    """What people call it."""
    table_naming_version: TableNaming | None = None
    """Kept as it is sent."""
    source_instance_key: str | None = Field(default=None, max_length=255)
    """Kept as it is sent."""
    id: str | None = None
    """Ignored, so that an answer can be sent back."""
    created_at: str | None = None
    """Ignored."""
    updated_at: str | None = None
    """Ignored."""


class _Wanted(Sent):
    """The fields that a new sync and a change share."""

    destination_config: dict[str, Any] | None = Field(default=None, examples=[{"schema": "raw_shop"}])
    """`connectionId` of the warehouse (else the workspace's own), `schema` (else made of the slug), `schemaDrift`, `addMetadataColumns`; anything else
    is kept as it is. Secrets belong to the connection."""
    entities: list[str] | None = Field(default=None, examples=[["public.orders"]])
    """The streams to load."""
    execution_config: dict[str, Any] | None = Field(default=None, examples=[{"maxConcurrent": 8}])
    """`maxConcurrent`, `maxRetries`, `retryDelaySeconds`, `executor`, `overlap`, `maxRuntimeSeconds`, `heartbeatTimeoutSeconds`, `stallTimeoutSeconds`;
    for fan_out_window `window`, `from`, `to`, `timezone`, `includeCurrent`; for prefect and temporal where it is and what it runs. Anything else is
    kept as it is."""
    freshness_sla_seconds: int | None = Field(default=None, examples=[3600])
    """How old the tables may get before Dagster says they are stale; at least 60."""
    schedule: ScheduleWanted | None = None
    """When it runs by itself; trigger mode scheduled needs one."""
    slug: str | None = Field(default=None, max_length=63, examples=["shop"])
    """Lower-case letters and digits, joined by - or _; made of the name if not given."""
    source_config: dict[str, Any] | None = None
    """Settings of the connector that belong to this sync; see the provider's catalog."""
    table_bindings: list[TableBindingWanted] | None = None
    """How streams are loaded. One that `entities` does not name is selected by this, unless `entities` is sent as well."""


class SyncWanted(_Wanted):
    """A new sync."""

    connection_id: uuid.UUID = Field(examples=[CONNECTION])
    """The source."""
    name: str = Field(min_length=1, max_length=255, examples=["Shop database"])
    """For people."""
    execution_backend: ExecutionBackend = ExecutionBackend.NATIVE
    """Who loads the tables."""
    execution_mode: ExecutionMode = ExecutionMode.SEQUENTIAL
    """How the streams of one run are spread."""
    status: SyncStatus = SyncStatus.DRAFT
    """A draft does not run."""
    trigger_mode: TriggerMode = TriggerMode.MANUAL
    """What starts its runs."""


class SyncChange(_Wanted):
    """What is to change. In configs and the schedule too only what is named; null takes it away, where it may be missing."""

    name: str | None = Field(default=None, min_length=1, max_length=255)
    """For people."""
    execution_backend: ExecutionBackend | None = None
    """Who loads the tables."""
    execution_mode: ExecutionMode | None = None
    """How the streams of one run are spread."""
    status: SyncStatus | None = None
    """Only an active sync runs by itself."""
    trigger_mode: TriggerMode | None = None
    """What starts its runs."""


# --- what a provider offers --------------------------------------------------------------------------------------------------


class Resource(Shown):
    """A stream that every account of a provider has."""

    entity_key: str
    """Its name, for `entities`."""
    display_name: str
    """For people."""
    description: str
    """What is in it."""
    load_mode: LoadModeWord
    """How it is loaded if nothing else is said."""
    cursor_field: str | None
    """The column that grows with every change."""
    depends_on: list[str]
    """Streams that are loaded before it."""
    default_selected: bool
    """Whether a form should offer it as chosen."""
    size_class: str = Field(examples=["s"])
    """xs, s, m, l or xl: how much there usually is."""
    slicing: dict[str, Any] = Field(examples=[{"cursorField": "updated_at", "windows": ["1d"]}])
    """How it can be cut into windows of time; empty where it cannot."""
    storage_kind: str | None = Field(examples=["postgres"])
    """The warehouse of syncs that name none; null where there is no such warehouse."""
    storage_description: str
    """Where its rows go."""
    config_schema: dict[str, Any]
    """JSON Schema of its own settings."""


class ProviderCatalog(Shown):
    """What a connector offers, without asking the source."""

    provider: str
    """The connector."""
    name: str
    """The same."""
    display_name: str
    """For people."""
    config_schema: dict[str, Any]
    """JSON Schema of `sourceConfig`."""
    defaults: dict[str, Any]
    """What a new sync has if nothing else is sent."""
    dynamic_resources: bool
    """Whether only the source itself knows its streams: then `resources` is empty."""
    available_resources: list[str]
    """The names of the streams."""
    default_resources: list[str]
    """Those that a form should offer as chosen."""
    resources: list[Resource]
    """The streams."""
