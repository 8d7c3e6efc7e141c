"""A source whose rows are known for every phase of its life: it grows, changes rows, has ties and true duplicates.

Rows come from events. Each phase adds some: changes of older rows first, then new ones. Seven events share a cursor value, and a phase ends in the
middle of such a tie, so that a resumed read meets rows it has seen, rows it has not, and rows equal to both.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

import pyarrow as pa

from elt_dagster.model import Batch, Catalog, Checkpoint, CheckResult, LoadMode, ReadRequest, Stream, TableBinding
from elt_dagster.model.compute import pc
from elt_dagster.sdk.arrow import highest
from elt_dagster.sdk.connector import Config, Connector, Runtime

SCHEMA = pa.schema([("id", pa.int64()), ("at", pa.int64()), ("note", pa.string())])
STREAM = "events"
NEW_PER_PHASE, TIES, CHANGED_EVERY, TWICE_EVERY, SETTLED = 87, 7, 11, 13, 20
ROWS_PER_BATCH = 45


class Kind(StrEnum):
    """How the table is loaded, which decides what the source offers."""

    APPEND = "append"
    """Every event, some of them twice, and nothing that tells two equal rows apart."""
    APPEND_KEYED = "append, keyed"
    """Every event once; key and cursor together are unique."""
    MERGE = "merge"
    """The last version of every row."""
    REPLACE = "replace"
    """The same, read from the beginning each time."""

    @property
    def binding(self) -> TableBinding:
        """The stream's binding."""
        mode = {Kind.MERGE: LoadMode.MERGE, Kind.REPLACE: LoadMode.REPLACE}.get(self, LoadMode.APPEND)
        key = () if self is Kind.APPEND else ("id",)
        cursor = None if self is Kind.REPLACE else "at"
        return TableBinding(name=STREAM, load_mode=mode, primary_key=key, cursor_field=cursor)


@dataclass(frozen=True, slots=True)
class _Event:
    id: int
    number: int

    @property
    def row(self) -> tuple[int, int, str]:
        return (self.id, self.number // TIES, f"version {self.number}")


@lru_cache(maxsize=64)
def _events(phase: int) -> tuple[_Event, ...]:
    if phase < 0:
        return ()
    before = _events(phase - 1)
    known = NEW_PER_PHASE * phase
    changed = [i for i in range(max(0, known - SETTLED)) if i % CHANGED_EVERY == phase % CHANGED_EVERY]
    ids = [*changed, *range(known, known + NEW_PER_PHASE)]
    return (*before, *(_Event(i, len(before) + n) for n, i in enumerate(ids)))


def rows_of_phase(kind: Kind, phase: int) -> list[tuple[int, int, str]]:
    """What the source holds in ``phase`` (-1: nothing yet), in cursor order: ``(id, at, note)``."""
    events = _events(phase)
    if kind is Kind.APPEND:
        return [e.row for e in events for _ in range(2 if e.number % TWICE_EVERY == 0 else 1)]
    if kind is Kind.APPEND_KEYED:
        return [e.row for e in events]
    last = {e.id: e for e in events}
    return [e.row for e in sorted(last.values(), key=lambda e: e.number)]


def difference(wanted: list[tuple[Any, ...]], found: list[tuple[Any, ...]]) -> tuple[int, int]:
    """How many rows are lost, and how many are there that should not be (mostly: doubled)."""
    source, target = Counter(wanted), Counter(found)
    return (source - target).total(), (target - source).total()


class NoConfig(Config):
    """Nothing to configure."""


class ChangingSource(Connector[NoConfig]):
    """The rows of one phase; ``fail_after`` that many batches it raises ``failure``."""

    name = "changing"
    title = "Changing"
    docs_url = "https://arrow.apache.org/docs/python/"

    def __init__(
        self, kind: Kind, phase: int, *, fail_after: int | None = None, failure: Exception | None = None
    ) -> None:
        super().__init__(NoConfig(), Runtime())
        columns = list(zip(*rows_of_phase(kind, phase), strict=True))
        self._table = pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
        self._fail_after, self._failure = fail_after, failure

    def check(self) -> CheckResult:
        """It is always there."""
        return CheckResult(ok=True, message="here")

    def discover(self, settings: Mapping[str, Any] | None = None) -> Catalog:
        """One stream."""
        return Catalog((stream(),))

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        """In cursor order, from the checkpoint on, inclusive."""
        table, cursor = self._table, request.since.cursor if request.since is not None else None
        if cursor is not None:
            table = table.filter(pc.field("at") >= cursor)
        for number, start in enumerate(range(0, table.num_rows, ROWS_PER_BATCH)):
            if number == self._fail_after and self._failure is not None:
                raise self._failure
            batch = table.slice(start, ROWS_PER_BATCH).combine_chunks().to_batches()[0]
            cursor = highest(batch, "at", cursor)
            yield Batch(batch, Checkpoint(cursor) if request.cursor_field else None)


def stream() -> Stream:
    """The stream as a catalog describes it."""
    return Stream(name=STREAM, schema=SCHEMA, cursor_field="at", cursor_fields=("at",), ordered=True)
