"""The checks of a step: gets the facts that `elt_dagster.orchestration.checks` judges, from the load itself, the event log and the warehouse.

The load has committed when its checks are made, so nothing here may fail the step: a check that cannot look says so and warns.
Nothing is asked of the source, and no large table is scanned unless a person runs the check by itself.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import dagster as dg

from elt_dagster.control.configured import ConfiguredSync
from elt_dagster.destinations.base import TableRef
from elt_dagster.destinations.keys import key_facts
from elt_dagster.destinations.rejected import REASON, rejected_table
from elt_dagster.engine import Observer, ResolvedBinding, StreamRead
from elt_dagster.engine.plan import warehouse_name
from elt_dagster.errors import EltError, NotFoundError
from elt_dagster.model import LoadMode, RunMode, StreamResult
from elt_dagster.model.run import SchemaChange
from elt_dagster.orchestration import checks
from elt_dagster.orchestration.checks import Past, Verdict
from elt_dagster.orchestration.metadata import (
    COLUMN_SCHEMA,
    CURSOR_BEFORE,
    LOAD_MODE,
    ROW_COUNT,
    ROWS_READ,
    RUN_MODE,
    table_schema,
)

MAX_REASONS = 100_000
"""Rejected rows whose reasons are counted; a load that rejects more has one reason to be looked at already."""


@dataclass(frozen=True, kw_only=True)
class CheckedRead(StreamRead):
    """A read that remembers what came of its load, and tells at once when it failed: after a failure no op can yield anything."""

    told: Callable[[EltError], None]
    results: list[StreamResult] = field(default_factory=list[StreamResult])

    @classmethod
    def of(cls, read: StreamRead, told: Callable[[EltError], None]) -> "CheckedRead":
        """``read``, watched."""
        return cls(**{f.name: getattr(read, f.name) for f in fields(StreamRead)}, told=told)

    def load(
        self,
        observe: Observer | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda _: None,
    ) -> StreamResult:
        """See `StreamRead.load`."""
        try:
            result = super().load(observe, cancelled, say)
        except EltError as error:
            self.told(error)
            raise
        self.results.append(result)
        return result


@dataclass(frozen=True, kw_only=True)
class StepChecks:
    """The checks that one step was asked for; ``resolved`` may know more columns than the sync did when it was written."""

    context: dg.AssetExecutionContext
    sync: ConfiguredSync
    resolved: ResolvedBinding
    key: dg.AssetKey

    def watched(self, read: StreamRead) -> CheckedRead:
        """``read``, whose failure is told as a failed check where it is about the data."""
        return CheckedRead.of(read, self._report)

    def after(self, read: CheckedRead) -> Iterator[dg.AssetCheckResult]:
        """What the checks say of the load that ``read`` was."""
        if not read.results:
            return
        result = read.results[-1]
        yield from self._all(
            {
                checks.SCHEMA_DRIFT: lambda: checks.drift_verdict(result.schema_changes),
                checks.PRIMARY_KEY: lambda: self._keys_after(result),
                checks.REJECTED_ROWS: lambda: self._rejected_after(result, read.run_id),
                checks.VOLUME: lambda: self._volume_after(result, windowed=read.window is not None),
            }
        )

    def after_elsewhere(self) -> Iterator[dg.AssetCheckResult]:
        """What the checks say of a load that something else made: its columns. The others would have to scan the table."""
        yield from self._all({checks.SCHEMA_DRIFT: self._drift_now})

    def alone(self) -> Iterator[dg.AssetCheckResult]:
        """What the checks say of the table as it is, when they are run without a load."""
        yield from self._all(
            {
                checks.SCHEMA_DRIFT: self._drift_now,
                checks.PRIMARY_KEY: lambda: checks.key_verdict(self._count_keys()),
                checks.REJECTED_ROWS: self._rejected_now,
                checks.VOLUME: self._volume_now,
            }
        )

    def _report(self, error: EltError) -> None:
        verdict = checks.failed_verdict(error)
        if verdict is not None and verdict.check in self._selected:
            # Dagster's annotation of the method leaves out one of the kinds of events that it takes.
            self.context.log_event(verdict.evaluation(self.key))  # pyright: ignore[reportArgumentType]

    def _all(self, judges: Mapping[str, Callable[[], Verdict]]) -> Iterator[dg.AssetCheckResult]:
        for name, judge in judges.items():
            if name in self._selected:
                yield self._careful(name, judge).result(self.key)

    def _careful(self, name: str, judge: Callable[[], Verdict]) -> Verdict:
        try:
            return judge()
        except EltError as error:
            return checks.unknown_verdict(name, str(error))
        except Exception as error:
            self.context.log.warning(f"The check {name} failed.", exc_info=True)
            return checks.unknown_verdict(name, f"{type(error).__name__}, see the log.")

    @property
    def _selected(self) -> frozenset[str]:
        return frozenset(key.name for key in self.context.selected_asset_check_keys)

    @property
    def _table(self) -> TableRef:
        return TableRef(self.sync.spec.dataset, self.resolved.binding.table_name)

    def _keys_after(self, result: StreamResult) -> Verdict:
        settings = checks.checks_of(self.sync.spec, self.resolved.binding).primary_key
        why_not = checks.keys_need_counting(self.resolved, result, settings.max_rows)
        facts = self._count_keys() if why_not is None else None
        return checks.key_verdict(facts, why_not or "", checks.duplicates_removed(self.resolved, result))

    def _count_keys(self) -> Any:
        key = [warehouse_name(self.resolved.names, column) for column in self.resolved.primary_key]
        return key_facts(self.sync.open_destination(), self._table, key)

    def _rejected_after(self, result: StreamResult, run_id: str) -> Verdict:
        where = rejected_table(self._table)
        reasons = self._reasons(where, run_id) if result.rows_rejected else {}
        return checks.rejected_verdict(result.rows_rejected, str(where), reasons)

    def _rejected_now(self) -> Verdict:
        where, destination = rejected_table(self._table), self.sync.open_destination()
        try:
            rejected = destination.count(where)
        except NotFoundError:  # it is made with the first rejected row
            rejected = 0
        return checks.rejected_verdict(rejected, str(where), self._reasons(where, None) if rejected else {})

    def _reasons(self, where: TableRef, run_id: str | None) -> dict[str, int]:
        # A half-open range is all that `read` can filter by; nothing sorts between a text and the same text with one more digit but texts that begin so.
        only = {"_elt_run_id": (run_id, f"{run_id}0")} if run_id is not None else None
        found: Counter[str] = Counter()
        for batch in self.sync.open_destination().read(where, [REASON], only):
            for entry in batch.column(0).value_counts().to_pylist():  # one per reason, not per row
                found[str(entry["values"])] += entry["counts"]
            if found.total() >= MAX_REASONS:
                break
        return dict(found)

    def _volume_after(self, result: StreamResult, *, windowed: bool) -> Verdict:
        context, settings = self.context, checks.checks_of(self.sync.spec, self.resolved.binding).volume
        partition = context.partition_key if context.has_partition_key else None
        if windowed and partition is None:
            return Verdict(checks.VOLUME, True, "Loads of several windows at once are not compared.", {})
        past = self._past(settings.history, partition, result)
        return checks.volume_verdict(
            settings,
            past,
            rows_read=result.rows_read,
            table_rows=None if windowed else result.table_rows,
            whole=windowed or _is_whole(result),
            enough=1 if windowed else checks.MIN_PAST,
        )

    def _volume_now(self) -> Verdict:
        settings = checks.checks_of(self.sync.spec, self.resolved.binding).volume
        rows = self.sync.open_destination().count(self._table)
        return checks.volume_verdict(
            settings, self._past(settings.history, None, None), rows_read=None, table_rows=rows, whole=True
        )

    def _past(self, wanted: int, partition: str | None, result: StreamResult | None) -> list[Past]:
        """Earlier loads, newest first: twice as many as ``wanted``, for full refreshes and increments may take turns."""
        found = self.context.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=self.key, asset_partitions=[partition] if partition else None), 2 * wanted
        )
        past: list[Past] = []
        for record in found.records:
            event = record.asset_materialization
            if event is None or record.run_id == self.context.run.run_id:
                continue
            said = {name: value.value for name, value in event.metadata.items() if name != COLUMN_SCHEMA}
            rows, table = said.get(ROWS_READ), said.get(ROW_COUNT)
            if isinstance(rows, int) and isinstance(table, int):
                past.append(Past(rows, table, result is None or partition is not None or _is_alike(said, result)))
        return past

    def _drift_now(self) -> Verdict:
        now = self.sync.open_destination().columns(self._table)
        if now is None:
            raise NotFoundError(f"There is no table {self._table}.", fix="Materialize the asset first.")
        event = self.context.instance.get_latest_materialization_event(self.key)
        known = (
            event.asset_materialization.metadata.get(COLUMN_SCHEMA) if event and event.asset_materialization else None
        )
        if not isinstance(known, dg.TableSchemaMetadataValue):
            return Verdict(checks.SCHEMA_DRIFT, True, "No load has told its columns yet.", {})
        before = {c.name: c.type for c in known.schema.columns}
        after = {c.name: c.type for c in table_schema(now).columns}
        changes = [
            SchemaChange(_change(name, before, after), name, before.get(name), after.get(name))
            for name in {**before, **after}
            if before.get(name) != after.get(name)
        ]
        return checks.drift_verdict(changes, "something other than a load since the last one")


def _is_whole(result: StreamResult) -> bool:
    return result.run_mode is RunMode.FULL_REFRESH or result.load_mode is LoadMode.REPLACE


def _is_alike(said: Mapping[str, Any], result: StreamResult) -> bool:
    went_on = result.before is not None and result.before.cursor is not None
    same_mode = said.get(RUN_MODE) == result.run_mode.value and said.get(LOAD_MODE) == result.load_mode.value
    return same_mode and (_is_whole(result) or (CURSOR_BEFORE in said) == went_on)


def _change(name: str, before: Mapping[str, str], after: Mapping[str, str]) -> str:
    if name not in before:
        return "added"
    return "retyped" if name in after else "removed"
