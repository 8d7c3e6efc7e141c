"""A warehouse on the test bench: what the tests of the destination contract hold in their hands."""

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from elt_dagster.destinations.base import Committed, Destination, LoadPlan, StateMove, TableRef
from elt_dagster.model import Checkpoint, LoadMode

APPEND, MERGE, REPLACE = LoadMode.APPEND, LoadMode.MERGE, LoadMode.REPLACE
ROWS = pa.schema([("id", pa.int64()), ("name", pa.string()), ("at", pa.int64())])
KEYED: dict[str, Any] = {"primary_key": ("id",), "cursor_field": "at"}
TYPES_TEST, COMMENTS_TEST = "test_every_canonical_type_comes_back_exactly", "test_descriptions_become_comments"
NASTY = (
    "select",
    'quo"te',
    "per cent %s",
    "semi;colon",
    "uniçødé",
    "✨ emoji",
    "x" * 63,
    "back\\slash",
    "a.b",
    "$1",
    "?",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a warehouse can and cannot do; the defaults are what we hope for. `scripts/docs.py` makes a table of it for the reader."""

    unsupported: Mapping[str, str] = field(default_factory=dict[str, str])
    """Name of a test of the contract -> why this warehouse cannot pass it. ``test_x`` stands for every parameter, ``test_x[append]`` for one.

    The test runs all the same and has to fail, by an assertion or an error of ours (or NotImplementedError out of `run_sql`): a test that passes
    although it is listed here is an error, and so is a name that no test has."""
    stand_in: str = ""
    """What the tests run against, where it is not the vendor's own warehouse; what passes there is shown as emulated."""
    missing_types: Mapping[str, str] = field(default_factory=dict[str, str])
    """Canonical type name -> why this warehouse does not give its values back exactly; strict, as ``unsupported``."""
    many_columns: int = 500
    names: tuple[str, ...] = NASTY
    comments: bool = True
    """Whether descriptions of tables and columns are kept."""
    processes: bool = True
    """Whether a second process on this machine can reach the same warehouse."""

    def refusal(self, test: str, parameter: str = "") -> str | None:
        """Why the contract's test called ``test``, with this ``parameter`` (pytest's id), must fail here; None when it must pass."""
        if test == TYPES_TEST and parameter in self.missing_types:
            return self.missing_types[parameter]
        if test == COMMENTS_TEST and not self.comments:
            return "This warehouse keeps no comments."
        return self.unsupported.get(f"{test}[{parameter}]", self.unsupported.get(test))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A warehouse on the test bench."""

    destination: Destination[Any]
    config: Mapping[str, Any]
    schema: str
    can: Capabilities
    run_sql: Callable[[str], None]
    """Execute a statement in the warehouse, as a stranger would."""

    def table(self, name: str = "orders") -> TableRef:
        """A table in the bench's schema."""
        return TableRef(self.schema, name)

    def plan(self, mode: LoadMode, columns: pa.Schema = ROWS, *, table: str = "orders", **more: Any) -> LoadPlan:
        """A plan from the state as it is now; its binding is called as its table. ``more`` overrides."""
        filled = {"binding_id": f"binding-{table}", "load_id": uuid.uuid4().hex, "run_id": "run-1", **more}
        if "after_load" not in filled:
            state = self.destination.state(self.schema, filled["binding_id"])
            filled["after_load"] = state.load_id if state is not None else None
        return LoadPlan(table=self.table(table), columns=columns, mode=mode, **filled)

    def load(
        self, mode: LoadMode, *rows: Iterable[tuple[Any, ...]], columns: pa.Schema = ROWS, arriving: pa.Schema | None = None,
        checkpoint: Checkpoint | None = None, **more: Any,
    ) -> Committed:  # fmt: skip
        """One whole load: each of ``rows`` is a batch of columns ``arriving`` (default: the planned ones)."""
        with self.destination.begin(self.plan(mode, columns, **more)) as load:
            for batch in rows:
                load.stage(batch_of(batch, arriving or columns))
            return load.commit(checkpoint)

    def move(self, checkpoint: Checkpoint, table: str = "orders") -> StateMove:
        """The state of a table's binding as it is now, moved by hand to ``checkpoint``."""
        state = self.destination.state(self.schema, f"binding-{table}")
        assert state is not None
        moved = replace(state, checkpoint=checkpoint, load_id=uuid.uuid4().hex, run_id="by hand")
        return StateMove(moved, state.load_id)

    def rows(self, table: str = "orders", columns: list[str] | None = None) -> list[tuple[Any, ...]]:
        """All rows, sorted by their text."""
        return rows_of(self.destination.read(self.table(table), columns).read_all())

    def type_of(self, name: str, table: str = "orders") -> pa.DataType:
        """Canonical type of a column."""
        columns = self.destination.columns(self.table(table))
        assert columns is not None
        return columns.field(name).type

    def cursor(self, table: str = "orders") -> Any:
        """The cursor that is committed for a table's binding."""
        state = self.destination.state(self.schema, f"binding-{table}")
        return state.checkpoint.cursor if state else None


def batch_of(rows: Iterable[tuple[Any, ...]], schema: pa.Schema = ROWS) -> pa.RecordBatch:
    """Rows as a batch."""
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.RecordBatch.from_arrays(
        [array_of(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema
    )


def array_of(values: Iterable[Any], kind: pa.DataType) -> pa.Array:
    """Python values as an array, extension types included."""
    if isinstance(kind, pa.BaseExtensionType):
        plain = [v.bytes if isinstance(v, uuid.UUID) else v for v in values]
        return pa.ExtensionArray.from_storage(kind, pa.array(plain, kind.storage_type))
    return pa.array(list(values), kind)


def rows_of(table: pa.Table) -> list[tuple[Any, ...]]:
    """The rows of a table as tuples, sorted by their text."""
    return sorted(zip(*(c.to_pylist() for c in table.columns), strict=True), key=repr)
