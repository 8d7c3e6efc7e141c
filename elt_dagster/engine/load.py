"""Run one stream: state, plan, read, transform, stage, commit. Knows nothing of Dagster.

`StreamRead` is what an asset returns: nothing has happened when it is made; `StreamRead.load` does all of it.
"""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

import pyarrow as pa

from elt_dagster.destinations.base import Committed, Destination, Load, TableRef
from elt_dagster.engine.binding import resolve_binding
from elt_dagster.engine.plan import RunContext, StreamPlan, plan_stream
from elt_dagster.engine.prefetch import prefetched
from elt_dagster.engine.transform import Transform
from elt_dagster.engine.windows import window_binding_id
from elt_dagster.errors import (
    CancelledError,
    ConflictError,
    ContractError,
    EltError,
    LimitError,
    TransientError,
    WarehouseBusyError,
)
from elt_dagster.model import (
    ESTIMATED_ROWS,
    Batch,
    Checkpoint,
    LoadMode,
    RunMode,
    Stream,
    StreamResult,
    SyncSpec,
    TableBinding,
    Window,
)
from elt_dagster.model.run import SchemaChange
from elt_dagster.sdk.arrow import split
from elt_dagster.sdk.connector import Connector

COMMIT_BYTES = 512 * 1024 * 1024
COMMIT_SECONDS = 300.0
_LEASE_POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a load is: rows and Arrow bytes read so far, seconds since it began."""

    stream: str
    rows: int
    bytes: int
    seconds: float
    expected: int | None = None
    """About how many rows there will be, when everything is read and the source tells."""


class Observer(Protocol):
    """Told of progress after every batch; must return quickly."""

    def __call__(self, progress: Progress, /) -> None: ...


Lease = Callable[[], AbstractContextManager[int]]
"""Opens the lease of a binding and yields its fence; leaving it gives the lease back."""


class Mark(Protocol):
    """Somebody's wish that the next run of a binding reads everything again."""

    @property
    def mark_id(self) -> str:
        """Another one for each wish."""
        ...

    @property
    def reset_history(self) -> bool:
        """Whether the history table begins anew as well."""
        ...


@dataclass(frozen=True, kw_only=True)
class StreamRead:
    """One stream of one run, not yet begun. Making it does no I/O; connections are opened by `load` and closed again."""

    sync: SyncSpec
    binding: TableBinding
    binding_id: str
    stream: Stream
    open_source: Callable[[], Connector[Any]]
    open_destination: Callable[[], Destination[Any]]
    run_id: str
    run_mode: RunMode = RunMode.INCREMENTAL
    window: Window | None = None
    reset_history: bool = False
    """Whether a full refresh begins the history table anew."""
    salt: Callable[[], bytes] = bytes
    lease: Lease = field(default=lambda: nullcontext(0))
    waits_for_lease: bool = False
    """Whether to wait while another run loads the same table, or to raise its ConflictError."""
    mark: Callable[[], Mark | None] = lambda: None
    """Looks for the wish when the load begins."""
    end_mark: Callable[[str], None] = lambda _: None
    """Takes it away, after the commit: a load that is killed in between reads everything once more, which harms nothing."""
    commit_bytes: int = COMMIT_BYTES
    commit_seconds: float = COMMIT_SECONDS

    def load(
        self,
        observe: Observer | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda _: None,
    ) -> StreamResult:
        """Read the stream and load its table; rows and checkpoint are committed together. ``say`` is told what a person may wonder about.

        Raises EltError. Whatever it raises, the table holds exactly what was committed before, and the state says so.
        """
        resolved = resolve_binding(self.binding, self.stream)
        with at_warehouse():
            destination = self.open_destination()
        with self.leased(cancelled, say) as fence:
            mark = self.mark() if self.window is None else None
            with at_warehouse():
                state = destination.state(self.sync.dataset, self.state_id)
            run = RunContext(
                run_id=self.run_id,
                load_id=uuid.uuid4().hex,
                started_at=datetime.now(UTC),
                mode=RunMode.FULL_REFRESH if mark is not None else self.run_mode,
                # Without a lease (0) the load goes on under the table's own fence: it may have been loaded with leases before.
                fence=fence or (state.fence if state is not None else 0),
                window=self.window,
                reset_history=self.reset_history or (mark is not None and mark.reset_history),
            )
            table = state.table if state is not None else TableRef(self.sync.dataset, self.binding.table_name)
            # Only where a cursor goes on does it matter: opening a file to look costs more than a small load.
            with at_warehouse():
                exists = resolved.cursor_field is None or destination.columns(table) is not None
            plan = plan_stream(self.sync, resolved, self.binding_id, state, run, table_exists=exists)
            result = _Pipeline(self, plan, destination, observe, cancelled).run()
            if mark is not None:
                self.end_mark(mark.mark_id)
            return result

    @contextmanager
    def leased(self, cancelled: Callable[[], bool], say: Callable[[str], None]) -> Iterator[int]:
        """The lease, as soon as it is free; its holder may be dead, and then it ends by itself."""
        with ExitStack() as held:
            waiting_for: str | None = None
            while True:
                try:
                    fence = held.enter_context(self.lease())
                    break
                except ConflictError as error:
                    if not self.waits_for_lease:
                        raise
                    if error.with_id != waiting_for:
                        waiting_for = error.with_id
                        say(f"{self.binding.name}: waiting for run {waiting_for}, which is loading the same table.")
                if cancelled():
                    raise CancelledError(f"Stream {self.binding.name!r} was cancelled while it waited for its turn.")
                time.sleep(_LEASE_POLL_SECONDS)
            yield fence

    @property
    def state_id(self) -> str:
        """Whose state and lease the load works with: the binding's, or its window's."""
        return window_binding_id(self.binding_id, self.window) if self.window is not None else self.binding_id

    def batches(self, at_most: int | None = None) -> Iterator[pa.RecordBatch]:
        """The transformed rows of a full read, without loading them anywhere: for other people's IO managers, and for previews, which want
        ``at_most`` so many.
        """
        resolved = resolve_binding(self.binding, self.stream)
        run = RunContext(run_id=self.run_id, load_id="", started_at=datetime.now(UTC), mode=self.run_mode)
        plan = plan_stream(self.sync, resolved, self.binding_id, None, run)
        transform = Transform(plan, self.salt())
        source = self.open_source().read(replace(plan.request, at_most=at_most))
        try:
            for batch in source:
                yield transform(batch.data)
        finally:
            source.close()  # type: ignore[attr-defined]  # every read is a generator


@contextmanager
def at_warehouse() -> Iterator[None]:
    """What a destination raises because it is busy says so: the reason of a run tells who was, the source or the destination."""
    try:
        yield
    except LimitError:
        raise
    except TransientError as error:
        raise WarehouseBusyError(error.what, fix=error.fix, retry_after=error.retry_after) from error


class _Pipeline:
    """The moving parts of one `StreamRead.load`."""

    def __init__(
        self,
        read: StreamRead,
        plan: StreamPlan,
        destination: Destination[Any],
        observe: Observer | None,
        cancelled: Callable[[], bool],
    ) -> None:
        self.read, self.plan, self.destination = read, plan, destination
        self.observe, self.cancelled = observe, cancelled
        self.started = time.perf_counter()
        self.warehouse_seconds = self.source_seconds = 0.0
        self.rows = self.bytes = self.batches = self.commits = self.staged_bytes = 0
        self.total = Committed()
        self.changes: list[SchemaChange] = []
        self.counts: Counter[str] = Counter()
        self.checkpoint = plan.request.since
        self.committed_at = self.started

    def run(self) -> StreamResult:
        transform = Transform(self.plan, self.read.salt() if self.plan.hashed else b"")
        with self._timed_begin() as load, prefetched(self._read) as batches:
            for batch in self._timed(batches):
                self._stop_if_cancelled()
                self._take(batch, transform, load)
            self._stop_if_cancelled()
            self._finish(load)
        return self._result()

    def _read(self) -> Iterator[Batch]:
        source = self.read.open_source()
        try:
            yield from source.read(self.plan.request)
        except EltError:
            raise
        except Exception as error:
            raise ContractError(
                f"The connector {source.name} failed while reading {self.plan.request.stream.name!r} with {type(error).__name__}.",
                fix="This is a bug in the connector; the cause is in the log.",
            ) from error

    def _timed_begin(self) -> Load:
        with self._at_warehouse():
            return self.destination.begin(self.plan.load)

    @contextmanager
    def _at_warehouse(self) -> Iterator[None]:
        start = time.perf_counter()
        with at_warehouse():
            yield
        self.warehouse_seconds += time.perf_counter() - start

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.source_seconds += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def _take(self, batch: Batch, transform: Transform, load: Load) -> None:
        self.counts.update(batch.counts)
        for part in split(batch.data, 4 * self.plan.request.batch_bytes):
            if not part.num_rows:
                continue
            ready = transform(part)
            with self._at_warehouse():
                load.stage(ready)
            self.rows += part.num_rows
            self.bytes += part.nbytes
            self.staged_bytes += part.nbytes
            self.batches += 1
        if batch.checkpoint is not None and self.plan.request.window is None:
            self.checkpoint = batch.checkpoint
            if self._is_commit_due():
                self._commit(load)
        if self.observe is not None:
            stream = self.plan.request.stream.name
            seconds, expected = time.perf_counter() - self.started, self.counts.get(ESTIMATED_ROWS)
            self.observe(Progress(stream, self.rows, self.bytes, seconds, expected))

    def _is_commit_due(self) -> bool:
        if self.plan.load.mode is LoadMode.REPLACE or self.plan.request.window is not None or not self.staged_bytes:
            return False
        waited = time.perf_counter() - self.committed_at
        return self.staged_bytes >= self.read.commit_bytes or waited >= self.read.commit_seconds

    def _finish(self, load: Load) -> None:
        nothing_new = (
            self.plan.request.window is None  # an empty window empties its rows
            and not self.staged_bytes
            and self.checkpoint == self.plan.before
            and self.plan.load.after_load is not None
        )
        if nothing_new and self.plan.load.mode is not LoadMode.REPLACE:
            # Nothing to write: the warehouse's lock is not worth taking for an unchanged state row.
            table = self.plan.load.table
            with self._at_warehouse():
                count, columns = self.destination.count(table), self.destination.columns(table)
            self.total = Committed(table_rows=count, columns=columns)
            return
        if self.staged_bytes or not self.commits:
            self._commit(load)

    def _commit(self, load: Load) -> None:
        with self._at_warehouse():
            done = load.commit(self.checkpoint)
        self.committed_at = time.perf_counter()
        self.staged_bytes = 0
        self.commits += 1
        self.changes += done.schema_changes
        self.total = Committed(
            inserted=self.total.inserted + done.inserted,
            updated=self.total.updated + done.updated,
            deleted=self.total.deleted + done.deleted,
            rejected=self.total.rejected + done.rejected,
            table_rows=done.table_rows,
            columns=done.columns,
        )

    def _stop_if_cancelled(self) -> None:
        if self.cancelled():
            raise CancelledError(
                f"Stream {self.plan.request.stream.name!r} was cancelled after {self.rows} rows.",
                fix="What was committed stays; the next run goes on from there.",
            )

    def _result(self) -> StreamResult:
        load, done = self.plan.load, self.total
        after: Checkpoint | None = self.checkpoint if self.checkpoint is not None else self.plan.before
        return StreamResult(
            stream=self.plan.request.stream.name,
            table=str(load.table),
            load_mode=load.mode,
            run_mode=self.plan.mode,
            rows_read=self.rows,
            rows_inserted=done.inserted,
            rows_updated=done.updated,
            rows_deleted=done.deleted,
            rows_rejected=done.rejected,
            bytes_read=self.bytes,
            table_rows=done.table_rows,
            batches=self.batches,
            commits=self.commits,
            seconds_total=time.perf_counter() - self.started,
            seconds_source=self.source_seconds,
            seconds_warehouse=self.warehouse_seconds,
            before=self.plan.before,
            after=after,
            columns=done.columns if done.columns is not None else load.columns,
            schema_changes=tuple(self.changes),
            counts=dict(self.counts),
        )
