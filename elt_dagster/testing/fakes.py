"""A source and a warehouse in memory, for tests of what stands between them."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

import pyarrow as pa

from elt_dagster.destinations.base import Committed, Destination, Load, LoadPlan, State, StateMove, TableRef
from elt_dagster.destinations.state import check_moves
from elt_dagster.errors import NotFoundError, TransientError
from elt_dagster.model import Batch, Catalog, Checkpoint, CheckResult, LoadMode, ReadRequest, Stream
from elt_dagster.model.compute import pc
from elt_dagster.sdk.arrow import highest
from elt_dagster.sdk.connector import Config, Connector, Runtime


class MemoryConfig(Config):
    """Nothing to configure."""


class MemorySource(Connector[MemoryConfig]):
    """Tables in memory, read in cursor order in batches of `rows_per_batch`; ``fail_after`` batches it raises ``failure``."""

    name = "memory"
    title = "Memory"
    docs_url = "https://arrow.apache.org/docs/python/"

    def __init__(self, tables: Mapping[str, tuple[Stream, pa.Table]], *, rows_per_batch: int = 2) -> None:
        super().__init__(MemoryConfig(), Runtime())
        self.tables = dict(tables)
        self.rows_per_batch = rows_per_batch
        self.requests: list[ReadRequest] = []
        self.fail_after: int | None = None
        self.failure: Exception = NotFoundError("gone")
        self.closed = 0

    def check(self) -> CheckResult:
        return CheckResult(True, f"{len(self.tables)} tables in memory.")

    def discover(self, settings: Mapping[str, Any] | None = None) -> Catalog:
        return Catalog(tuple(stream for stream, _ in self.tables.values()))

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        self.requests.append(request)
        table = self.tables[request.stream.name][1]
        if request.columns is not None:
            table = table.select([c for c in request.columns if c in table.column_names])
        if request.cursor_field is not None:
            if request.since is not None and request.since.cursor is not None:
                table = table.filter(pc.field(request.cursor_field) >= request.since.cursor)
            table = table.sort_by(request.cursor_field)
        cursor = request.since.cursor if request.since is not None else None
        try:
            for number, start in enumerate(range(0, table.num_rows, self.rows_per_batch)):
                if number == self.fail_after:
                    raise self.failure
                part = table.slice(start, self.rows_per_batch).combine_chunks().to_batches()[0]
                if request.cursor_field is not None:
                    cursor = highest(part, request.cursor_field, cursor)
                yield Batch(part, Checkpoint(cursor) if cursor is not None else None)
        finally:
            self.closed += 1


class MemoryWarehouse(Destination[MemoryConfig]):
    """Tables in a dictionary, replaced as a whole in `_MemoryLoad.commit`, as a transaction would."""

    name = "memory"
    title = "Memory"
    docs_url = "https://arrow.apache.org/docs/python/"
    capabilities: ClassVar[frozenset[str]] = frozenset()

    def __init__(self) -> None:
        super().__init__(MemoryConfig(), Runtime())
        self.tables: dict[TableRef, pa.Table] = {}
        self.saved: dict[str, list[State]] = {}
        self.plans: list[LoadPlan] = []

    def check(self) -> CheckResult:
        return CheckResult(True, "memory")

    def begin(self, plan: LoadPlan) -> Load:
        self.plans.append(plan)
        return _MemoryLoad(self, plan)

    def state(self, schema: str, binding_id: str) -> State | None:
        found = self.saved.get(binding_id)
        return found[-1] if found else None

    def states(self, schema: str) -> list[State]:
        return [found[-1] for found in self.saved.values()]

    def history(self, schema: str, binding_id: str) -> list[State]:
        return self.saved.get(binding_id, [])[::-1]

    def move_states(self, moves: Sequence[StateMove]) -> None:
        check_moves(moves, self.states(""))
        for move in moves:
            self.saved[move.state.binding_id].append(move.state)

    def columns(self, table: TableRef) -> pa.Schema | None:
        return self.tables[table].schema if table in self.tables else None

    def count(self, table: TableRef) -> int:
        return int(self.tables[table].num_rows)

    def read(
        self, table: TableRef, columns: list[str] | None = None, where: Mapping[str, tuple[Any, Any]] | None = None
    ) -> pa.RecordBatchReader:
        if table not in self.tables:
            raise NotFoundError(f"There is no table {table}.")
        found = self.tables[table]
        return (found.select(columns) if columns else found).to_reader()

    def uri(self, table: TableRef) -> str:
        return f"memory://{table}"


class _MemoryLoad(Load):
    def __init__(self, warehouse: MemoryWarehouse, plan: LoadPlan) -> None:
        self.warehouse, self.plan = warehouse, plan
        self.staged: list[pa.RecordBatch] = []
        self.after = plan.after_load

    def stage(self, batch: pa.RecordBatch) -> None:
        self.staged.append(batch)

    def commit(self, checkpoint: Checkpoint | None) -> Committed:
        plan, warehouse = self.plan, self.warehouse
        state = warehouse.state(plan.table.schema, plan.binding_id)
        if (state.load_id if state else None) != self.after:
            raise TransientError(f"{plan.table} was loaded by another run in the meantime.", fix="Run again.")
        new = pa.Table.from_batches(self.staged, self.staged[0].schema if self.staged else plan.columns)
        old = warehouse.tables.get(plan.table)
        if plan.mode is LoadMode.REPLACE or old is None:
            table, updated = new, 0
        else:
            kept = self._untouched(old, new) if plan.mode is LoadMode.MERGE else old
            table, updated = pa.concat_tables([kept, new], promote_options="default"), old.num_rows - kept.num_rows
        warehouse.tables[plan.table] = table
        row = State(
            plan.binding_id,
            plan.table,
            checkpoint or Checkpoint(),
            plan.load_id,
            plan.run_id,
            plan.fence,
            datetime.now(UTC),
        )
        warehouse.saved.setdefault(plan.binding_id, []).append(row)
        self.after, self.staged = plan.load_id, []
        return Committed(new.num_rows - updated, updated, table_rows=table.num_rows, columns=table.schema)

    def _untouched(self, old: pa.Table, new: pa.Table) -> pa.Table:
        keys = list(self.plan.primary_key)
        changed = {tuple(r.values()) for r in new.select(keys).to_pylist()}
        return old.filter(
            pa.array([tuple(r.values()) not in changed for r in old.select(keys).to_pylist()], pa.bool_())
        )

    def abort(self) -> None:
        self.staged = []
