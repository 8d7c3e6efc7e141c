"""What goes in and out of the Loaders dialect, as its OpenAPI document shows it."""

import datetime as dt
import uuid
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer, WithJsonSchema

from elt_dagster.api.model_base import RunStatusWord, Sent, Shown
from elt_dagster.api.words import moment

Moment = Annotated[
    dt.datetime,
    PlainSerializer(moment),
    WithJsonSchema({"type": "string", "format": "date-time"}, mode="serialization"),
]
WAREHOUSE = "770e8400-e29b-41d4-a716-446655440000"


class LoaderSyncMode(StrEnum):
    """How a loader reads: everything each time, or what is new."""

    FULL_REFRESH = "full_refresh"
    INCREMENTAL = "incremental"


class StreamSyncMode(StrEnum):
    """How a stream is loaded: replaced each time, merged by its key, or every row that ever came is kept."""

    FULL_REFRESH = "full_refresh"
    INCREMENTAL = "incremental"
    APPEND = "append"


class LoaderStatus(StrEnum):
    """Only an active loader runs by itself."""

    DRAFT = "draft"
    ACTIVE = "active"
    PAUSED = "paused"
    ERROR = "error"


class LoaderProblem(Shown):
    """Why nothing was done."""

    error: str
    """What happened and where, and what to do."""


class LoaderConflictProblem(LoaderProblem):
    """What is in the way."""

    conflict_id: str | None = None
    """The id of what is in the way: a loader, or an active run."""


class LoaderFieldProblem(Shown):
    """One thing that is wrong with a request."""

    loc: list[str | int] = Field(examples=[["body", "config", "host"]])
    """Where: body or query, then the way to the field."""
    msg: str
    """What was found, and what is allowed."""
    type: str
    """For machines."""


class LoaderInvalid(Shown):
    """What is wrong with a request."""

    detail: list[LoaderFieldProblem]
    """Each of it."""


class SelectedStream(Shown):
    """A stream that is loaded."""

    name: str
    """Its name at the source."""
    sync_mode: StreamSyncMode
    """How it is loaded."""


class Loader(Shown):
    """A source connection and the sync that reads it."""

    id: str
    """A UUID; the sync's in the other dialects."""
    workspace_id: str
    """Whose it is."""
    source_id: str
    """The warehouse that is loaded: the id of its connection."""
    name: str
    """For people."""
    loader_type: str
    """The connector; empty where it is not known any more."""
    config: dict[str, Any]
    """Its settings; a secret that is kept here is a mask."""
    target_schema: str
    """The schema in the warehouse."""
    selected_streams: list[SelectedStream]
    """What is loaded."""
    sync_mode: LoaderSyncMode
    """How streams are loaded that say nothing of their own."""
    schedule: str | None
    """A cron expression, or null."""
    status: LoaderStatus
    """`error` also for a loader that cannot be read."""
    status_error: str
    """What is wrong when the status is error; else empty."""
    created_by: str | None
    """The id of an API key; null for what a file says."""
    created_at: Moment
    """When it was made."""
    updated_at: Moment
    """When it was last changed."""
    last_run_at: Moment | None
    """When its newest run began, or was asked for."""
    last_run_id: str | None
    """Its newest run."""


class LoaderRun(Shown):
    """One run: a run of Dagster, also one that was started there."""

    id: str
    """The run's id in Dagster."""
    loader_id: str
    """Whose it is."""
    workspace_id: str
    """In which workspace."""
    status: RunStatusWord
    """Where it is."""
    started_at: Moment | None
    """When it began."""
    completed_at: Moment | None
    """When it ended."""
    rows_loaded: int
    """Rows read, of all streams."""
    streams_total: int
    """How many streams it loads."""
    streams_failed: int
    """How many of them failed."""
    error_message: str
    """What went wrong first, and what to do; else empty."""
    triggered_by: str | None
    """The API key that asked for it; null for a schedule."""
    job_id: str | None
    """What the work is called in another scheduler, where one does it."""
    created_at: Moment | None
    """When it was asked for."""


class Deleted(Shown):
    """It is gone."""

    status: Literal["deleted"] = "deleted"
    """Always this."""


class TypeStream(Shown):
    """A stream that every account of a connector has."""

    name: str
    """What to send as `name`."""
    description: str
    """What is in it."""
    sync_modes: list[StreamSyncMode]
    """How it can be loaded."""


class LoaderType(Shown):
    """A connector that can be read from."""

    type: str = Field(examples=["salesforce"])
    """What to send as `loader_type`; one that has another name too is there under each."""
    name: str
    """For people."""
    description: str
    """What it reads."""
    config_schema: dict[str, Any]
    """JSON Schema of `config`."""
    streams: list[TypeStream]
    """Streams that every account has; empty where only the source itself knows them."""


class StreamWanted(Sent):
    """A stream to load."""

    name: str = Field(min_length=1, examples=["Contact"])
    """Its name at the source."""
    sync_mode: StreamSyncMode | None = None
    """How; as the loader says if not given."""


class LoaderWanted(Sent):
    """What a loader is to be."""

    name: str = Field(min_length=1, max_length=255, examples=["Salesforce CRM Loader"])
    """For people."""
    loader_type: str = Field(min_length=1, max_length=255, examples=["salesforce"])
    """A connector, see the loader types."""
    source_id: uuid.UUID = Field(examples=[WAREHOUSE])
    """The warehouse to load: the id of its connection."""
    config: dict[str, Any] = Field(examples=[{"client_id": "..."}])
    """The connector's settings. A secret is kept sealed and never shown again; its mask sent back stands for it."""
    target_schema: str = Field(examples=["salesforce_raw"])
    """The schema in the warehouse."""
    selected_streams: list[StreamWanted]
    """What to load."""
    sync_mode: LoaderSyncMode
    """How streams are loaded that say nothing of their own."""
    schedule: str | None = Field(default=None, examples=["0 */6 * * *"])
    """A cron expression in UTC; without one it runs when it is triggered."""


class LoaderReplaced(LoaderWanted):
    """What a loader is to be from now on. An answer, changed, can be sent back."""

    status: LoaderStatus | None = None
    """As it was if not given."""
    id: str | None = None
    """Ignored."""
    workspace_id: str | None = None
    """Ignored."""
    status_error: str | None = None
    """Ignored."""
    created_by: str | None = None
    """Ignored."""
    created_at: str | None = None
    """Ignored."""
    updated_at: str | None = None
    """Ignored."""
    last_run_at: str | None = None
    """Ignored."""
    last_run_id: str | None = None
    """Ignored."""
