"""Runs of syncs as the rest of the program sees them: launch, look, follow, cancel.

A run is one run of Dagster; we keep no table of our own. `elt_dagster.orchestration.runs` implements `Runs` over Dagster's GraphQL.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import TracebackType
from typing import Any, Protocol

from elt_dagster.engine import Progress
from elt_dagster.model import RunMode, TriggeredBy


class RunStatus(StrEnum):
    """Where a run is, or where one stream of it is. ``skipped`` is a stream whose parent failed."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"

    @property
    def is_final(self) -> bool:
        """Whether it will not change any more."""
        return self not in (RunStatus.PENDING, RunStatus.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRun:
    """One stream of one run. Sizes are Arrow bytes, times seconds; what is not known yet is None."""

    stream: str
    status: RunStatus
    rows: int | None = None
    """Rows read."""
    bytes: int | None = None
    seconds: float | None = None
    error: str | None = None
    """Two sentences: what happened and where; what to do."""
    reason: str | None = None
    """The `reason` of the error's class, such as ``auth_failed``."""
    metrics: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Everything the materialization reported, without the ``elt/`` prefix: rows_inserted, cursor_after, table_rows ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """One run of one sync. Times are aware, in UTC."""

    id: str
    sync: str
    """Slug; empty for a run that was started on assets of several syncs."""
    status: RunStatus
    run_mode: RunMode
    triggered_by: str
    trigger_ref: str = ""
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    streams: tuple[StreamRun, ...] = ()
    """In a list of runs this is empty; `Runs.get` fills it."""
    error: str | None = None
    """Why the run as a whole failed, where no single stream says it."""
    url: str | None = None
    """The run's page in the Dagster UI, when a webserver is known."""

    @property
    def failures(self) -> tuple[StreamRun, ...]:
        """The streams that failed."""
        return tuple(s for s in self.streams if s.status is RunStatus.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvents:
    """What a run's log said after a position, oldest first."""

    cursor: str | None
    """Hand it back to go on from here."""
    progress: tuple[Progress, ...] = ()
    messages: tuple[str, ...] = ()
    """Lines worth showing to a person: warnings, errors, retries."""


class Runs(Protocol):
    """The runs of one Dagster deployment. Use as a context manager: leaving it lets a run that it hosts come to its end first.

    Every method raises NotFoundError for an unknown run or sync, TransientError when Dagster cannot be asked.
    """

    def launch(
        self,
        sync: str,
        *,
        streams: Sequence[str] | None = None,
        run_mode: RunMode = RunMode.INCREMENTAL,
        reset_history_table: bool = False,
        triggered_by: TriggeredBy = TriggeredBy.MANUAL,
        trigger_ref: str = "",
    ) -> str:
        """Start a run of ``sync`` (its slug), of some ``streams`` only when given, and return its id.

        A full refresh may also begin the history tables anew."""
        ...

    def get(self, run_id: str) -> RunView:
        """One run with its streams."""
        ...

    def list(self, sync: str | None = None, *, limit: int = 20) -> list[RunView]:
        """The latest runs, newest first, without their streams."""
        ...

    def events(self, run_id: str, *, after: str | None = None) -> RunEvents:
        """What happened since ``after``, without waiting."""
        ...

    def cancel(self, run_id: str, reason: str = "") -> None:
        """Ask a run to stop; what it committed stays. A run that has ended is left alone."""
        ...

    def close(self) -> None:
        """Wait for hosted runs, then let go of everything."""
        ...

    def __enter__(self) -> "Runs": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
