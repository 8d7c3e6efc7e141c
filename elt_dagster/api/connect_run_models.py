"""What the Connect dialect answers of runs: what was loaded, what is being loaded, and why."""

from enum import StrEnum

from elt_dagster.api.connect_model_parts import Moment
from elt_dagster.api.model_base import Sent, Shown


class SnapshotStatus(StrEnum):
    """Where one stream is: DELAYED is one that should have been loaded by now."""

    COMPLETED = "COMPLETED"
    DELAYED = "DELAYED"
    FAILED = "FAILED"
    RETRYING = "RETRYING"
    RUNNING = "RUNNING"
    SCHEDULED = "SCHEDULED"


class OperationMode(StrEnum):
    """How rows reach the table."""

    APPEND = "APPEND"
    FULL = "FULL"
    INCREMENTAL = "INCREMENTAL"


class FullSyncTrigger(StrEnum):
    """Why everything was read; NONE where only what is new was."""

    ALWAYS_FULL = "ALWAYS_FULL"
    ERROR = "ERROR"
    INITIAL_SYNC = "INITIAL_SYNC"
    LOOKBACK = "LOOKBACK"
    MIDNIGHT = "MIDNIGHT"
    MIGRATION = "MIGRATION"
    NONE = "NONE"
    SCHEMA_CHANGE = "SCHEMA_CHANGE"
    USER = "USER"


class StreamRunStatus(StrEnum):
    """Where a stream's run is; CHUNK_COMPLETED has committed a part and goes on."""

    CHUNK_COMPLETED = "CHUNK_COMPLETED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    RUNNING = "RUNNING"


class SortDirection(StrEnum):
    """asc is oldest first."""

    ASC = "asc"
    DESC = "desc"


class StreamSnapshot(Shown):
    """One stream at this moment."""

    status: SnapshotStatus
    """Where it is."""
    operation_mode: OperationMode
    """How rows reach the table."""
    full_sync_trigger: FullSyncTrigger
    """Why everything was read."""
    records_synced: int
    """Rows read so far."""
    bytes_synced: int
    """Their size in memory."""
    estimated_total_count: int | None
    """How many rows there will be, where the source tells."""
    retry_attempt: int
    """How many attempts came before."""
    started_at: Moment | None
    """When the run began."""
    finished_at: Moment | None
    """When it ended."""
    error_message: str | None
    """What went wrong, and what to do."""
    details: str | None
    """More, such as why it is delayed or that it was cancelled."""


class StreamSnapshots(Shown):
    """What is being loaded of a stream, and what was loaded last."""

    name: str
    """The stream."""
    active_sync: StreamSnapshot | None
    """What is being loaded, or late; null otherwise."""
    latest_sync: StreamSnapshot | None
    """What came of the last run that ended; null before the first."""


class EltSyncState(Shown):
    """A snapshot of a sync."""

    elt_sync_id: str
    """The sync."""
    source_streams: list[StreamSnapshots]
    """Each of its streams."""


class RunRequested(Shown):
    """A run was started."""

    status_url: str
    """Ask here for it; an empty list means that it is not scheduled yet, never that it failed."""


class FullRefreshRequest(Sent):
    """How to refresh."""

    reset_history_table: bool = False
    """Begin the history table anew as well: its older versions are lost."""


class EltStreamRun(Shown):
    """One stream of one Dagster run."""

    id: str
    """Opaque."""
    elt_sync_id: str
    """The sync."""
    elt_stream_id: str
    """The stream."""
    started_at: Moment | None
    """When the run began, else when it was asked for."""
    finished_at: Moment | None
    """When it ended."""
    status: StreamRunStatus
    """RUNNING from the moment it is asked for."""
    rows_synced: int | None
    """Rows read; null while nothing is known."""
