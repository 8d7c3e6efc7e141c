"""The use cases on runs, by the id of their sync: what may be started, and whose run it is. The runs themselves are Dagster's (`control.runs`)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from elt_dagster.control.runs import AsStored, LatestRuns, ResultClass, RunPage, Runs, RunStatus, RunView, StreamRun
from elt_dagster.control.snapshots import StreamState, look
from elt_dagster.control.starting import starting
from elt_dagster.control.workspace import Workspace
from elt_dagster.errors import ConfigError, ConflictError, NotFoundError, TransientError
from elt_dagster.model import ExecutionBackend, RunMode, SyncStatus, TriggeredBy
from elt_dagster.store import StoredSync

SHOWN = frozenset({SyncStatus.ACTIVE, SyncStatus.PAUSED, SyncStatus.ERROR})
"""Only these have assets and a job in Dagster."""
ASKED_AT_ONCE = 5
REMEMBERED = 10_000


class NotRunnableError(ConflictError):
    """The sync is a draft or archived, so that Dagster does not know it."""


@dataclass
class Failures:
    """Why runs failed. A run that has failed does not change any more, so it is asked for once. One object per server; threads may share it."""

    _known: dict[str, str] = field(default_factory=dict[str, str])

    def texts(self, runs: Runs, failed: Mapping[str, RunView]) -> dict[str, str]:
        """A sentence for each of these runs. Of those that were never asked for a few are, so that a list costs the same whatever it shows; the
        others say where to look."""
        unknown = [view for view in failed.values() if view.id not in self._known]
        for view in unknown[:ASKED_AT_ONCE]:
            self._ask(runs, view)
        return {
            key: self._known.get(view.id, view.error or f"Run {view.id} failed. Look at that run to see why.")
            for key, view in failed.items()
        }

    def _ask(self, runs: Runs, view: RunView) -> None:
        try:
            whole = runs.get(view.id)
        except (NotFoundError, TransientError):
            return
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[view.id] = whole.first_error or f"Run {view.id} failed."


@dataclass(frozen=True)
class Running:
    """Runs of the syncs of one workspace; those of another are not found. Methods raise EltError and nothing else on purpose."""

    workspace: Workspace
    runs: Runs
    failures: Failures = field(default_factory=Failures)

    def trigger(
        self,
        sync_id: str,
        *,
        run_mode: RunMode = RunMode.INCREMENTAL,
        streams: Sequence[str] | None = None,
        by: str = "",
    ) -> str:
        """Start a run of a sync, or of some of its streams, and return its id.

        Of several starts at once, here or elsewhere, one gets its run, and the others are told which that is; runs of one stream each are only in
        the way of those that load the same one. Raises NotFoundError; ConfigError for a sync that has no streams or that Dagster does not start;
        ConflictError for a draft or an archived sync, for a protected stream, and, with the run's id, while one is active; TransientError where
        Dagster has not loaded the streams yet.
        """
        sync = self._sync(sync_id)
        self._refuse(sync, run_mode, streams)
        with self.alone(sync, streams[0] if streams is not None and len(streams) == 1 else None):
            now = self._sync(sync_id)
            return self.runs.launch(
                now.slug,
                streams=streams,
                run_mode=run_mode,
                triggered_by=TriggeredBy.API,
                trigger_ref=by,
                sync_id=now.id,
                as_stored=AsStored(now.revision, tuple(now.binding_ids)),
            )

    @contextmanager
    def alone(self, sync: StoredSync, stream: str | None = None) -> Iterator[None]:
        """While no run loads the sync, or one stream of it, and nobody can start one. Raises as `refuse_second`; ConflictError also when another
        start takes too long."""
        self.refuse_second(sync, stream)
        with starting(self.workspace.store, sync):
            self.refuse_second(sync, stream)
            yield

    def refuse_second(self, sync: StoredSync, stream: str | None = None) -> None:
        """Raise ConflictError, with the run's id, while a run loads the sync, or one stream of it."""
        active = self.runs.active(sync.id, stream)
        if active is not None:
            what = f"stream {stream!r}" if stream is not None else f"sync {sync.slug!r}"
            raise ConflictError(
                f"The {what} is being loaded by run {active}.", fix="Wait for it, or cancel it.", with_id=active
            )

    def trigger_stream(self, sync: StoredSync, stream: str, *, by: str = "") -> tuple[str | None, str]:
        """Start a run of one stream: the stream's newest run before it, and its own id. Raises as `trigger` does."""
        before = self.runs.stream_page(sync.id, stream, limit=1)
        run_id = self.trigger(sync.id, streams=[stream], by=by)
        return (before[0][0].id if before else None), run_id

    def stream_page(
        self, sync: StoredSync, stream: str, *, limit: int, after: str | None = None, ascending: bool = False
    ) -> Sequence[tuple[RunView, StreamRun]]:
        """The runs that load or loaded one stream. Raises NotFoundError when there is no run ``after``."""
        return self.runs.stream_page(sync.id, stream, limit=limit, after=after, ascending=ascending)

    def states(self, sync: StoredSync) -> list[StreamState]:
        """Where each stream of a sync is at this moment."""
        return look(sync, self.runs, self.workspace.runtime.now())

    def get(self, run_id: str) -> tuple[RunView, StoredSync]:
        """A run with its streams, and its sync. Raises NotFoundError, also for the run of another workspace or of a sync that is gone."""
        view = self.runs.get(run_id)
        if not view.sync_id:
            raise NotFoundError(f"There is no run {run_id!r}.")
        try:
            return view, self._sync(view.sync_id)
        except NotFoundError:
            raise NotFoundError(f"There is no run {run_id!r}.") from None

    def page(self, sync_id: str, *, limit: int, offset: int = 0) -> tuple[RunPage, StoredSync]:
        """Runs of a sync with their streams, newest first. Raises NotFoundError."""
        sync = self._sync(sync_id)
        return self.runs.page([sync.id], limit=limit, offset=offset, streams=True), sync

    def latest(self, sync_ids: Sequence[str]) -> Mapping[str, LatestRuns]:
        """The newest run of each sync, and its last success."""
        return self.runs.latest(sync_ids) if sync_ids else {}

    def latest_known(self, sync_ids: Sequence[str]) -> Mapping[str, LatestRuns]:
        """`latest`, or nothing while Dagster cannot be asked: syncs can be listed and changed all the same."""
        try:
            return self.latest(sync_ids)
        except TransientError:
            return {}

    def last_errors(self, latest: Mapping[str, LatestRuns]) -> dict[str, str]:
        """Why the newest run of each sync failed, by the sync's id; only of those whose newest run did."""
        newest = {sync_id: found.newest for sync_id, found in latest.items() if found.newest is not None}
        failed = {sync_id: view for sync_id, view in newest.items() if view.status is RunStatus.FAILED}
        return self.failures.texts(self.runs, failed)

    def cancel(self, run_id: str, reason: str = "", *, by: str = "") -> RunView:
        """Ask a run to stop, again if it was asked before; the first reason stays. Raises NotFoundError, ConflictError for one that has ended otherwise,
        TransientError where Dagster cannot stop it."""
        view, _ = self.get(run_id)
        if view.result_class is ResultClass.CANCELLED:
            return view
        if view.status.is_final:
            raise ConflictError(f"Run {run_id} has ended; it is {view.status.value}.", with_id=run_id)
        stop(self.runs, view, reason, by=by)
        return self.get(run_id)[0]

    def retry(self, run_id: str, *, run_mode: RunMode | None = None, by: str = "") -> str:
        """Another attempt of a run that has ended; only what failed, unless a ``run_mode`` is given. Returns the new run's id.

        Raises NotFoundError, ConflictError for a run that has not ended or while another one of its sync is active, ConfigError where nothing failed.
        """
        view, sync = self.get(run_id)
        if not view.status.is_final:
            raise ConflictError(
                f"Run {run_id} has not ended; it is {view.status.value}.", fix="Cancel it first.", with_id=run_id
            )
        with self.alone(sync):
            if run_mode is RunMode.FULL_REFRESH:
                self._refuse(sync, run_mode, [s.stream for s in view.streams] or None)
            return self.runs.retry(run_id, run_mode=run_mode, trigger_ref=by)

    def _sync(self, sync_id: str) -> StoredSync:
        return self.workspace.store.sync_by_id(sync_id, workspace=self.workspace.name)

    def _refuse(self, sync: StoredSync, run_mode: RunMode, streams: Sequence[str] | None) -> None:
        spec = sync.spec
        if spec.status not in SHOWN:
            raise NotRunnableError(
                f"The sync {spec.slug!r} is {spec.status.value} and cannot run.",
                fix="Activate it first.",
                with_id=sync.id,
            )
        if spec.execution_backend is ExecutionBackend.EXTERNAL:
            raise ConfigError(
                f"The sync {spec.slug!r} is external: something else loads its tables.", fix="Start it there."
            )
        if not spec.streams:
            raise ConfigError(f"The sync {spec.slug!r} has no streams.", fix="Add streams first.")
        chosen = [b for b in spec.streams if streams is None or b.name in streams]
        protected = [b.name for b in chosen if b.protected_from_full_sync]
        if run_mode is RunMode.FULL_REFRESH and protected:
            text = f"The stream {protected[0]!r} is protected from full refresh."
            raise ConflictError(text, fix="Take protected_from_full_sync away first, or leave the stream out.")


def stop(runs: Runs, view: RunView, reason: str = "", *, by: str = "") -> None:
    """Ask the run that ``view`` shows to stop, again if it was asked before; the first reason stays. Raises TransientError where Dagster cannot stop it."""
    is_asked = view.cancel_requested_at is not None
    try:
        runs.cancel(view.id, "" if is_asked else reason, **({"requested_by": by} if by else {}))
    except TransientError:
        # Dagster stops nothing twice: what is being stopped is as good as stopped
        if not is_asked:
            raise
