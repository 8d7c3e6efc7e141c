"""What goes in and out of the Connect dialect, as its OpenAPI document shows it; what it says of runs is in `connect_run_models`."""

import datetime as dt
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator

from elt_dagster.api.connect_model_parts import ConflictProblem, Moment, Paged, Problem, RunConflictProblem
from elt_dagster.api.connect_run_models import (
    EltStreamRun,
    EltSyncState,
    FullRefreshRequest,
    FullSyncTrigger,
    OperationMode,
    RunRequested,
    SnapshotStatus,
    SortDirection,
    StreamRunStatus,
    StreamSnapshot,
    StreamSnapshots,
)
from elt_dagster.api.model_base import Sent, Shown

__all__ = [
    "Ability", "AvailableStream", "ConflictProblem", "Connection", "Cron", "EltStream", "EltStreamRun", "EltSync",
    "EltSyncCreate", "EltSyncState", "EltSyncStatus", "EltSyncUpdate", "FullRefreshRequest", "FullSyncTrigger", "Id",
    "Integration", "OperationMode", "Paged", "Problem", "RetirementDetails", "RunConflictProblem", "RunRequested",
    "SettingsSchema", "SnapshotStatus", "SortDirection", "SourceStream", "SourceStreamsAdd", "SourceStreamsAdded",
    "StreamRunStatus", "StreamSnapshot", "StreamSnapshots",
]  # fmt: skip


class Ability(StrEnum):
    """What an integration can do in a sync."""

    SOURCE = "EltSource"
    DESTINATION = "EltDestination"


class EltSyncStatus(StrEnum):
    """Where a sync is in its life."""

    NOT_STARTED = "NOT_STARTED"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    FAILED = "FAILED"


class Integration(Shown):
    """Something that can be connected."""

    id: str = Field(examples=["salesforce"])
    """What `integration_id` means elsewhere."""
    name: str = Field(examples=["Salesforce"])
    """For people."""
    supports_start_date: bool
    """Whether a sync of it may have a `start_date`."""
    abilities: list[Ability]
    """Whether it can be read from, loaded into, or both."""


class Connection(Shown):
    """An account at a source or a warehouse; never its credentials."""

    id: str
    """Opaque."""
    label: str
    """What people call it."""
    integration_id: str
    """What it connects to."""
    abilities: list[Ability]
    """Whether it can be read from, loaded into, or both; empty while its integration is not installed."""
    status: Literal["ACTIVE", "FAILED"]
    """FAILED is one whose stored settings cannot be read: authorise it again."""
    created_at: Moment
    """When it was made."""
    updated_at: Moment
    """When it was last changed."""


class EltStream(Shown):
    """One stream of a sync, and how it is loaded: one asset in Dagster."""

    id: str
    """Opaque."""
    elt_sync_id: str
    """Whose it is."""
    name: str
    """The stream's name at the source."""
    incremental_primary_key_name: list[str]
    """The columns that identify a row."""
    incremental_pointer_id: str | None
    """The column that grows with every change; null where everything is read each time."""
    excluded_columns: list[str]
    """Columns that never leave the source."""
    hashed_columns: list[str]
    """Columns replaced by a salted SHA-256 before they reach the warehouse."""
    full_sync_at_midnight: bool
    """One full refresh a day, at midnight in the sync's zone."""
    full_sync_always: bool
    """Every run reads everything and replaces the table."""
    protected_from_full_sync: bool
    """No full refresh by any route."""
    excluded_substreams: list[str]
    """Child streams that are not loaded."""
    enabled_history_table: bool
    """Every version of a row is kept in `<table>__history`."""
    full_refresh_requested: bool
    """Whether the next run is a full refresh."""
    created_at: Moment
    """When it was added."""
    updated_at: Moment
    """When it was last changed."""


class EltSync(Shown):
    """A configured sync: one source connection, one warehouse, its streams, and when they run."""

    account_id: str
    """The workspace."""
    id: str
    """Opaque."""
    status: EltSyncStatus
    """NOT_STARTED until it is started or enabled."""
    enabled: bool
    """Whether its schedule is on."""
    config: dict[str, Any]
    """Its `elt_settings`."""
    created_at: Moment
    """When it was made."""
    updated_at: Moment
    """When it was last changed."""
    source_connection_id: str
    """Where it reads."""
    source_integration_id: str
    """What that is."""
    destination_connection_id: str
    """Where it loads."""
    destination_integration_id: str
    """What that is."""
    destination_schema_name: str
    """The schema that gets the tables."""
    sync_interval: str | None
    """Cron; null for a sync without a schedule, which only the other dialects make."""
    start_date: dt.date | None
    """Nothing older is read."""
    source_streams: list[EltStream]
    """What it loads."""


Cron = Annotated[str, Field(min_length=1, max_length=255, examples=["0 */6 * * *"])]
Id = Annotated[str, Field(min_length=1, max_length=255)]


class EltSyncCreate(Sent):
    """A sync to make: without streams, and not started yet."""

    connection_id: Id
    """The source connection."""
    destination_schema_name: str = Field(min_length=1, max_length=63, examples=["salesforce"])
    """The schema in the warehouse that gets the tables."""
    sync_interval: Cron
    """Cron, in UTC."""
    elt_settings: dict[str, Any] = Field(default_factory=dict)
    """What `/connections/{id}/settings` asks for."""
    start_date: Annotated[dt.date, Field(examples=["2024-01-01"])] | None = None
    """Nothing older is read, where the integration supports it."""
    destination_connection_id: Id | None = None
    """The warehouse; by default the workspace's."""

    @field_validator("start_date", mode="before")
    @classmethod
    def _plain_day(cls, value: Any) -> Any:
        # pydantic would take a number for seconds since 1970
        if value is not None and not isinstance(value, str):
            raise ValueError("expected a day, such as 2024-01-01")
        return value


class EltSyncUpdate(Sent):
    """What changes; the rest stays."""

    elt_settings: dict[str, Any] | None = None
    """In the place of all former ones."""
    sync_interval: Cron | None = None
    """Cron, in the zone that the sync has."""


class SourceStream(Sent):
    """A stream to add, or to change: what is left out stays as it is."""

    name: str = Field(min_length=1, max_length=255, examples=["contacts"])
    """As `/elt_syncs/{id}/available_source_streams` has it."""
    incremental_pointer_id: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    """The column that grows with every change; null for the source's own."""
    excluded_columns: list[str] | None = None
    """Columns that never leave the source."""
    hashed_columns: list[str] | None = None
    """Columns replaced by a salted SHA-256 before they reach the warehouse."""
    full_sync_always: bool | None = None
    """Every run reads everything and replaces the table."""
    full_sync_at_midnight: bool | None = None
    """One full refresh a day, at midnight in the sync's zone."""
    protected_from_full_sync: bool | None = None
    """No full refresh by any route."""
    excluded_substreams: list[str] | None = None
    """Child streams that are not loaded."""
    enabled_history_table: bool | None = None
    """Keep every version of a row in `<table>__history`."""


class SourceStreamsAdd(Sent):
    """Streams to add or to change; none is removed."""

    source_streams: list[SourceStream] = Field(min_length=1, max_length=5000)
    """Each by its name."""

    @field_validator("source_streams")
    @classmethod
    def _each_once(cls, value: list[SourceStream]) -> list[SourceStream]:
        names = [s.name for s in value]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"the stream {twice[0]!r} is there twice")
        return value


class SourceStreamsAdded(Shown):
    """The streams that were asked for, as they are now."""

    source_streams: list[EltStream]
    """In the order of the request."""


class SettingsSchema(Shown):
    """JSON Schema of `elt_settings`. Options are asked of the source: `anyOf` with a `const` and a `title` each."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    draft: str = Field(alias="$schema", examples=["https://json-schema.org/draft/2020-12/schema"])
    """The draft it is written in, and checked with."""
    title: str
    """For people."""
    type: Literal["object"]
    """Always an object."""
    properties: dict[str, Any]
    """Each setting."""
    required: list[str] = []
    """Settings that have to be there."""
    dependencies: dict[str, Any] = {}
    """Settings whose options depend on others: send those chosen so far as `partial_settings`."""


class RetirementDetails(Shown):
    """Why a stream should not be used any more."""

    in_favor_of: str | None = None
    """Another stream to use instead."""
    removal_date: dt.date | None = None
    """When it will be gone."""
    details: str | None = None
    """More about it."""
    link: str | None = None
    """Where the vendor explains it."""


class AvailableStream(Shown):
    """A stream that the source offers."""

    name: str
    """What to send as `name`."""
    is_selectable: bool
    """Whether it can be added."""
    preselect: bool
    """Whether a form should offer it as chosen."""
    sub_streams: list[str]
    """Child streams that are read out of it."""
    retired: bool
    """Whether the vendor gives it up."""
    retirement_details: RetirementDetails | None
    """Only for a retired one."""
