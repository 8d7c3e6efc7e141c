"""One load through dlt: staged here, handed over at the commit, its state written afterwards.

Afterwards, because dlt commits by itself. A process that is killed between the two leaves rows without a state, and the next load brings them again: a merge or
replace ends the same, an append with a cursor looks up what is there, any other append has the rows twice. What dlt had half done is
never taken up again: each commit has a folder of its own, which goes with its process.
"""

import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from elt_dagster.destinations._dlt_errors import explaining
from elt_dagster.destinations._dlt_rows import Rows, arranged, canonical, counted_fingerprints, without
from elt_dagster.destinations._dlt_runtime import library
from elt_dagster.destinations._dlt_session import Session
from elt_dagster.destinations._dlt_types import dlt_column, schema_name, storable
from elt_dagster.destinations.base import DELETED_AT, Committed, Load, LoadPlan
from elt_dagster.destinations.drift import Evolution, evolve, merged_schema
from elt_dagster.destinations.files import Staging
from elt_dagster.destinations.plans import arriving, check_owner, row_identity
from elt_dagster.destinations.sql import quote
from elt_dagster.destinations.state import check_state, next_state
from elt_dagster.errors import ContractError, DestinationError
from elt_dagster.model import Checkpoint, LoadMode
from elt_dagster.model.types import TIMESTAMP_UTC
from elt_dagster.sdk.connector import Runtime

AT_LEAST_ONCE = "dlt commits rows before our state: at least once. A merge or replace that is repeated ends the same; an append without a cursor may hold rows twice after a crash."
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True)
class Formats:
    """dlt's names of the file formats that a load travels in; None is what dlt prefers there."""

    rows: str | None
    nothing: str | None
    """For a load of no rows, of which some drivers make no table out of Parquet."""


def formats(wished: str | None, supported: Sequence[str]) -> Formats:
    """The formats to load in: ``wished``, else Parquet where it is ``supported``."""
    rows = wished or ("parquet" if "parquet" in supported else None)
    return Formats(
        rows, next((name for name in ("csv", "insert_values", "typed-jsonl", "jsonl") if name in supported), rows)
    )


def exactly(name: str) -> str:
    """How names are compared: as they are, for dlt is told to quote them."""
    return name


class DltLoad(Load):
    """A load into one table through dlt; see `Load` for the promises, and the module for the one that is weaker."""

    def __init__(
        self, plan: LoadPlan, staging: Staging, runtime: Runtime, *, factory: Callable[[], Any],
        session: Callable[[str], AbstractContextManager[Session]], inside: Callable[[], AbstractContextManager[None]], merge_strategy: str, formats: Formats, destination: str,
    ) -> None:  # fmt: skip
        self._plan, self._staging, self._runtime = plan, staging, runtime
        self._factory, self._session, self._inside = factory, session, inside
        self._merge_strategy, self._formats = merge_strategy, formats
        self._destination = destination
        self._commits = 0
        self._seen: pa.Table | None = None

    def stage(self, batch: pa.RecordBatch) -> None:
        """Keep ``batch`` in memory, or in files once the load has grown."""
        if batch.num_rows:
            self._staging.add(batch)

    def abort(self) -> None:
        """Throw away what was staged since the last commit."""
        self._staging.clear()

    def commit(self, checkpoint: Checkpoint | None) -> Committed:
        """See `Load.commit`; the state is written after the rows, not with them."""
        plan = self._plan
        if plan.mode is LoadMode.REPLACE and self._commits:
            raise ContractError(f"A replace of {plan.table} was committed twice.")
        plan_log(self._runtime.log, plan, self._destination)
        parts = self._staging.parts()
        with self._session(f"looking at {plan.table}") as session:
            states = session.states()
            before = session.columns(plan.table)
            had = session.count(plan.table) if before is not None else 0
        found = next((s for s in states if s.binding_id == plan.binding_id), None)
        check_owner(plan, states, exactly)
        check_state(plan, found, first=not self._commits)
        evolution = planned(plan, before, [part.schema for part in parts])
        with arranged(plan, parts, evolution.columns, self._staging.work_folder()) as rows:
            fresh = self._new_rows(rows, before, evolution)
            changes = fresh.count or before is None or evolution.added or plan.mode is LoadMode.REPLACE
            version = self._run(fresh, evolution.columns) if changes else None
        with self._session(f"saving the state of {plan.table}") as session:
            session.save([next_state(plan, found, checkpoint, self._runtime.now())])
            if version is not None:
                session.forget_old_schemas(plan.table, version)
            committed = self._committed(fresh, session.count(plan.table), had, evolution)
        self._commits += 1
        self._staging.clear()
        return committed

    def _new_rows(self, rows: Rows, before: pa.Schema | None, evolution: Evolution) -> Rows:
        """Of an append that goes on from a cursor: the rows that the table does not have."""
        plan = self._plan
        if (
            plan.mode is not LoadMode.APPEND
            or before is None
            or plan.boundary is None
            or not plan.cursor_field
            or not rows.count
        ):
            return rows
        identity = row_identity(plan, before, evolution.columns, exactly)
        if self._seen is None:
            lowest = rows.session.value(f"SELECT min({quote(plan.cursor_field)}) FROM {rows.source}")
            kinds = pa.schema([before.field(name) for name in identity])
            with self._session(f"looking for rows that {plan.table} has") as session:
                there = session.read(plan.table, kinds, {plan.cursor_field: (lowest, None)})
                self._seen = counted_fingerprints(
                    rows.session, (canonical(rows.session, t, kinds) for t in there), identity
                )
        fresh, self._seen = without(rows, self._seen, identity)
        return fresh

    def _run(self, rows: Rows, columns: pa.Schema) -> str:
        """Let dlt load ``rows``; returns the version of its schema."""
        plan = self._plan
        hints = [dlt_column(field) for field in columns]
        sent = columns
        if rows.marked:
            mark = pa.field(DELETED_AT, TIMESTAMP_UTC)
            sent = columns.append(mark)
            hints.append({**dlt_column(mark), "hard_delete": True})
        for hint in hints:
            if plan.mode is LoadMode.MERGE and hint["name"] in plan.primary_key:
                # Not a primary key of dlt's where that can be helped: it would refuse rows without one, and look for those that come twice.
                hint["primary_key" if self._merge_strategy == "upsert" else "merge_key"] = True

        def tables() -> Iterator[pa.Table]:
            yield from rows.tables(sent)

        folder = self._staging.work_folder() / f"dlt-{self._commits}"
        with self._inside(), explaining(f"loading {plan.table}", self._destination), _one_at_a_time:
            return self._hand_over(
                tables, hints, str(folder), self._formats.rows if rows.count else self._formats.nothing
            )

    def _hand_over(
        self,
        tables: Callable[[], Iterator[pa.Table]],
        hints: list[dict[str, Any]],
        folder: str,
        file_format: str | None,
    ) -> str:
        dlt, plan = library(), self._plan
        resource = dlt.resource(tables, name=plan.table.name, columns=hints, write_disposition=self._disposition())
        schema = dlt.Schema(schema_name(plan.table))
        # Names the load, so that each has a version of its own: dlt makes tables and columns for versions it has not seen, and only then.
        resource.apply_hints(additional_table_hints={"x-elt-load": uuid.uuid4().hex})
        pipeline = dlt.pipeline(
            "elt", destination=self._factory(), dataset_name=plan.table.schema, pipelines_dir=folder
        )
        try:
            pipeline.run(resource, schema=schema, loader_file_format=file_format)
            return str(pipeline.default_schema.stored_version_hash)
        finally:
            pipeline.deactivate()

    def _disposition(self) -> Any:
        if self._plan.mode is LoadMode.MERGE:
            return {"disposition": "merge", "strategy": self._merge_strategy}
        return self._plan.mode.value

    def _committed(self, rows: Rows, has: int, had: int, evolution: Evolution) -> Committed:
        """What became of the table, as far as its size tells: dlt counts nothing, and a merge rewrites rows that did not change."""
        plan, more = self._plan, has - had
        if plan.mode is LoadMode.REPLACE:
            inserted, updated, deleted = rows.count, 0, had
        elif plan.mode is LoadMode.APPEND:
            inserted, updated, deleted = rows.count, 0, 0
        else:
            inserted, deleted = max(0, more), max(0, -more) if rows.marked else 0
            updated = max(0, rows.count - rows.marked - inserted)
        return Committed(
            inserted=inserted, updated=updated, deleted=deleted, table_rows=has,
            columns=evolution.columns, schema_changes=evolution.changes,
        )  # fmt: skip


def plan_log(log: logging.Logger, plan: LoadPlan, destination: str) -> None:
    """Say at each load what a repeated one means here."""
    log.info("Loading %s (%s) into dlt's destination %s. %s", plan.table, plan.mode.value, destination, AT_LEAST_ONCE)


def planned(plan: LoadPlan, found: pa.Schema | None, arrived: list[pa.Schema]) -> Evolution:
    """What the table's columns become. Raises DestinationError for a frozen table that differs, and for a column whose type would have to change."""
    where = str(plan.table)
    wanted = storable(plan.columns, found)
    coming = [storable(schema, found) for schema in arriving(plan, arrived)]
    incoming = merged_schema([wanted, *coming], exactly, where)
    evolution = evolve(found, wanted, storable(incoming, found), plan.drift, rebuild=False, fold=exactly, where=where)
    changed = [c for c in evolution.changes if c.kind not in ("added", "removed")]
    if changed:
        told = "; ".join(f"{c.column} is {c.before} and would have to be {c.after}" for c in changed)
        raise DestinationError(
            f"{plan.table}: dlt changes no column's type: {told}.",
            fix="Exclude the column, give this stream another `table`, or drop the table and reset its state.",
        )
    return evolution
