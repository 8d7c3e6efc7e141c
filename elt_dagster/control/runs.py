"""Runs of syncs as the rest of the program sees them: launch, look, follow, cancel.

A run is one run of Dagster; we keep no table of our own. `elt_dagster.orchestration.runs` implements `Runs` over Dagster's GraphQL.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Protocol

from elt_dagster.control.run_view import LOST, TIMED_OUT, BackendRun, ResultClass, RunStatus, RunView, StreamRun
from elt_dagster.engine import Progress
from elt_dagster.model import RunMode, TriggeredBy, Window

__all__ = [
    "LOST",
    "TIMED_OUT",
    "AsStored",
    "BackendRun",
    "BackfillView",
    "LatestRuns",
    "ResultClass",
    "RunEvents",
    "RunPage",
    "RunStatus",
    "RunView",
    "Runs",
    "StreamRun",
]


@dataclass(frozen=True, slots=True)
class AsStored:
    """What the store says of a sync at the moment it is started, for Dagster may have loaded an older state of it."""

    revision: int
    """The one that its last change made."""
    streams: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunPage:
    """Some runs, newest first, and how many there are in all."""

    items: tuple[RunView, ...]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LatestRuns:
    """What a list of syncs shows of the runs of one."""

    newest: RunView | None = None
    last_success_at: datetime | None = None
    active: RunView | None = None
    """One that has not ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillView:
    """A backfill: one run per window, side by side; Dagster's daemon starts them."""

    id: str
    status: str
    """requested, completed, failed, canceled ... in Dagster's words, lower case."""
    windows: int = 0
    runs: Mapping[RunStatus, int] = field(default_factory=dict[RunStatus, int])
    """How many windows there are in each state; those that no run was started for yet are pending."""
    error: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen."""
        return self.status not in ("requested", "canceling", "failing")


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
        window: Window | None = None,
        triggered_by: TriggeredBy = TriggeredBy.MANUAL,
        trigger_ref: str = "",
        sync_id: str = "",
        as_stored: AsStored | None = None,
    ) -> str:
        """Start a run of ``sync`` (its slug), of some ``streams`` only when given, and return its id.

        With a ``sync_id`` the job has to be that very sync's, for two workspaces may have the same slug. A sync that was written a moment ago
        is waited for, and so is one that was changed when ``as_stored`` says what it is now. Raises TransientError when Dagster has not loaded
        it, or one of its streams that the run is to load, a while later.

        A full refresh may also begin the history tables anew. With a ``window`` only its rows are read: of a sync that is cut into windows those
        that begin in it, all in this one run; without one such a sync loads the newest. Raises ConfigError where there is no such window.
        """
        ...

    def backfill(
        self, sync: str, window: Window, *, streams: Sequence[str] | None = None, trigger_ref: str = ""
    ) -> str:
        """Load every window that begins in ``window``, each in a run of its own, and return the backfill's id.

        Raises ConfigError for a sync that has no windows, or where no daemon would start the runs.
        """
        ...

    def get_backfill(self, backfill_id: str) -> BackfillView:
        """How far a backfill is."""
        ...

    def cancel_backfill(self, backfill_id: str) -> None:
        """Start no more of its runs, and stop those that are under way."""
        ...

    def retry(self, run_id: str, *, run_mode: RunMode | None = None, trigger_ref: str = "") -> str:
        """Start another attempt of a run that has ended, in the same retry group, and return its id.

        Streams that had landed are not run again, unless a ``run_mode`` is given, which is then that of all streams. Raises ConflictError for a run
        that has not ended, ConfigError for one of which everything landed.
        """
        ...

    def attempts(self, run_id: str) -> Sequence[RunView]:
        """All runs of its retry group, oldest first, without their streams."""
        ...

    def get(self, run_id: str) -> RunView:
        """One run with its streams."""
        ...

    def list(self, sync: str | None = None, *, limit: int = 20) -> list[RunView]:
        """The latest runs, newest first, without their streams."""
        ...

    def page(
        self,
        sync_ids: Sequence[str],
        *,
        limit: int,
        offset: int = 0,
        before: str | None = None,
        streams: bool = False,
    ) -> RunPage:
        """Runs of these syncs, by their ids, newest first, ``before`` a run or after so many; with their ``streams`` if asked.

        The page decides what it costs, not the number of runs. Raises NotFoundError when there is no run ``before``.
        """
        ...

    def latest(self, sync_ids: Sequence[str]) -> Mapping[str, LatestRuns]:
        """What a list shows of the runs of each sync, a few queries for all; a sync that never ran has an entry as well."""
        ...

    def active(self, sync_id: str, stream: str | None = None) -> str | None:
        """A run of the sync that has not ended, and that takes part in loading ``stream`` when given: as it is at this moment, and not a moment
        ago."""
        ...

    def stream_page(
        self,
        sync_id: str,
        stream: str,
        *,
        limit: int,
        after: str | None = None,
        ascending: bool = False,
    ) -> Sequence[tuple[RunView, StreamRun]]:
        """The runs that load or loaded ``stream``, in the asked order, those that come ``after`` a run in it. Raises NotFoundError."""
        ...

    def events(self, run_id: str, *, after: str | None = None) -> RunEvents:
        """What happened since ``after``, without waiting."""
        ...

    def cancel(self, run_id: str, reason: str = "", *, requested_by: str = "") -> None:
        """Ask a run to stop; what it committed stays. A run that has ended is left alone."""
        ...

    def close(self) -> None:
        """Wait for hosted runs, then let go of everything."""
        ...

    def __enter__(self) -> "Runs": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
