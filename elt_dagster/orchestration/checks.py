"""Asset checks of a load: which there are, and what each says of the facts. Pure; `elt_dagster.orchestration.checking` gets the facts.

| check | after a load | when the load failed by it | run by itself |
|---|---|---|---|
| ``schema_drift`` | the table's columns changed (WARN) | frozen, or no type holds both (ERROR) | the table is not as the last load left it |
| ``primary_key`` | keys are there twice (ERROR) | a key is NULL (ERROR) | the same, over the whole table |
| ``rejected_rows`` | rows were set aside (WARN) | no row of a replace fits (ERROR) | rows lie in ``<table>__rejected`` |
| ``volume`` | far fewer rows than usual (WARN) | | the table is far smaller than usual |
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import dagster as dg

from elt_dagster.destinations.keys import KeyFacts
from elt_dagster.engine import ResolvedBinding
from elt_dagster.errors import DriftError, EltError, PrimaryKeyError, RejectedError
from elt_dagster.model import Checks, DeleteMode, LoadMode, StreamResult, SyncSpec, TableBinding
from elt_dagster.model.checks import VolumeCheck
from elt_dagster.model.run import SchemaChange

SCHEMA_DRIFT, PRIMARY_KEY, REJECTED_ROWS, VOLUME = "schema_drift", "primary_key", "rejected_rows", "volume"
MIN_PAST = 3
"""With fewer earlier loads nobody knows what is usual."""
MAX_LISTED = 200
"""More columns than this are counted and not listed: an event log is no place for them."""
_WHAT = {
    SCHEMA_DRIFT: "The table's columns are as they were.",
    PRIMARY_KEY: "The primary key is unique and never NULL.",
    REJECTED_ROWS: "Every row fits the table.",
    VOLUME: "As many rows as usual.",
}
_LOOKS_AT = {
    SCHEMA_DRIFT: "Whether the table's columns changed with this load, or had to and may not.",
    PRIMARY_KEY: "Whether the primary key is unique and never NULL.",
    REJECTED_ROWS: "Whether rows were set aside because a value does not fit its column.",
    VOLUME: "Whether far fewer rows came, or are left in the table, than in recent loads.",
}
_VOLUMES = {"rows_read": "rows read", "table_rows": "rows in the table"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check says: passed or not, whether that is serious, and why."""

    check: str
    passed: bool
    text: str
    metadata: Mapping[str, Any]
    error: bool = False

    def result(self, key: dg.AssetKey) -> dg.AssetCheckResult:
        """As an op yields it."""
        return dg.AssetCheckResult(
            asset_key=key, check_name=self.check, passed=self.passed, severity=self._severity,
            description=self.text, metadata=self.metadata,
        )  # fmt: skip

    def evaluation(self, key: dg.AssetKey) -> dg.AssetCheckEvaluation:
        """As an op logs it when nothing can be yielded any more."""
        return dg.AssetCheckEvaluation(
            asset_key=key, check_name=self.check, passed=self.passed, severity=self._severity,
            description=self.text, metadata=self.metadata,
        )  # fmt: skip

    @property
    def _severity(self) -> dg.AssetCheckSeverity:
        return dg.AssetCheckSeverity.ERROR if self.error else dg.AssetCheckSeverity.WARN


def checks_of(sync: SyncSpec, binding: TableBinding) -> Checks:
    """The stream's own checks, else the sync's."""
    return binding.checks if binding.checks is not None else sync.checks


def check_specs(sync: SyncSpec, resolved: ResolvedBinding, key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """The checks of one asset. None blocks: what a failed one would hold back is loaded already."""
    checks = checks_of(sync, resolved.binding)
    wanted = {
        SCHEMA_DRIFT: checks.schema_drift,
        PRIMARY_KEY: checks.primary_key.enabled and bool(resolved.primary_key),
        REJECTED_ROWS: checks.rejected_rows,
        VOLUME: checks.volume.enabled,
    }
    return [dg.AssetCheckSpec(name, asset=key, description=_LOOKS_AT[name]) for name, on in wanted.items() if on]


def drift_verdict(changes: Sequence[SchemaChange], by: str = "this load") -> Verdict:
    """Whether the table's columns changed ``by`` something."""
    if not changes:
        return Verdict(SCHEMA_DRIFT, True, _WHAT[SCHEMA_DRIFT], {"changes": 0})
    return Verdict(SCHEMA_DRIFT, False, f"{_count(len(changes), 'column')} changed by {by}.", changes_metadata(changes))


def changes_metadata(changes: Sequence[SchemaChange]) -> dict[str, Any]:
    """How many columns changed, and how, as a table."""
    records = [
        dg.TableRecord({"column": c.column, "change": c.kind, "before": c.before or "", "after": c.after or ""})
        for c in changes[:MAX_LISTED]
    ]
    return {"changes": len(changes), "diff": _table(records, ("column", "change", "before", "after"))}


def key_verdict(facts: KeyFacts | None, why_not: str = "", duplicates_removed: int = 0) -> Verdict:
    """Whether the key holds; without ``facts`` the load itself sees to it, as ``why_not`` says."""
    told: dict[str, Any] = {"duplicates_removed": duplicates_removed} if duplicates_removed else {}
    if facts is None:
        return Verdict(PRIMARY_KEY, True, why_not, told)
    told |= {"rows": facts.rows, "null_keys": facts.nulls, "keys_twice": facts.repeated, "rows_too_many": facts.surplus}
    if not facts.nulls and not facts.surplus:
        return Verdict(PRIMARY_KEY, True, _WHAT[PRIMARY_KEY], told)
    wrong = [f"{_count(facts.nulls, 'row')} without a key"] if facts.nulls else []
    wrong += [f"{_count(facts.repeated, 'key')} more than once"] if facts.repeated else []
    return Verdict(PRIMARY_KEY, False, f"Of {_count(facts.rows, 'row')}: {', '.join(wrong)}.", told, error=True)


def rejected_verdict(rejected: int, where: str, reasons: Mapping[str, int]) -> Verdict:
    """Whether rows were set aside; ``reasons`` are the columns that did not fit, with the number of rows."""
    if not rejected:
        return Verdict(REJECTED_ROWS, True, _WHAT[REJECTED_ROWS], {"rejected": 0})
    told: dict[str, Any] = {"rejected": rejected, "table": where}
    if reasons:
        ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:MAX_LISTED]
        told["reasons"] = _table([dg.TableRecord({"reason": r, "rows": n}) for r, n in ordered], ("reason", "rows"))
    return Verdict(REJECTED_ROWS, False, f"{_count(rejected, 'row')} did not fit and lie in {where}.", told)


@dataclass(frozen=True, slots=True)
class Past:
    """Row counts of one earlier load; ``alike`` says whether it read the same way as the one in question, so that what both read compares."""

    rows_read: int
    table_rows: int
    alike: bool = True


def volume_verdict(
    settings: VolumeCheck, past: Sequence[Past], *, rows_read: int | None, table_rows: int | None, whole: bool, enough: int = MIN_PAST
) -> Verdict:  # fmt: skip
    """Whether far fewer rows came, or are left in the table, than in ``past`` loads; a count of None is not looked at.

    The table is held against the median. So are rows read where every load reads the ``whole`` content; what increments bring varies with the
    hour and the day, so they are held against the smallest of them. With fewer than ``enough`` loads to compare with, nothing is said.
    """
    alike = [p.rows_read for p in past if p.alike][: settings.history]
    tables = [p.table_rows for p in past][: settings.history]
    usual = {
        "rows_read": (rows_read, alike, median if whole else min),
        "table_rows": (table_rows, tables, median),
    }
    told: dict[str, Any] = {"min_ratio": settings.min_ratio}
    low: list[str] = []
    for what, (now, before, expectation) in usual.items():
        if now is None or len(before) < enough:
            continue
        expected = float(expectation(before))
        told |= {what: now, f"usual_{what}": expected, f"compared_{what}": len(before)}
        if now < settings.min_ratio * expected:
            low.append(f"{now:,} {_VOLUMES[what]} where {expected:,.0f} are usual")
    if low:
        return Verdict(VOLUME, False, f"{'; '.join(low)}.", told)
    if len(told) == 1:
        return Verdict(VOLUME, True, f"Not enough history yet: {_count(len(past), 'earlier load')}.", told)
    return Verdict(VOLUME, True, _WHAT[VOLUME], told)


def failed_verdict(error: EltError) -> Verdict | None:
    """What the failure of a load says about its data; None where it says nothing."""
    told = {"reason": error.reason}
    if isinstance(error, DriftError):
        changes = [SchemaChange(_kind(before, after), c, before, after) for c, before, after in error.differences]
        return Verdict(SCHEMA_DRIFT, False, str(error), {**told, **changes_metadata(changes)}, error=True)
    if isinstance(error, PrimaryKeyError):
        told |= {"column": error.column}
        return Verdict(PRIMARY_KEY, False, str(error), {**told, "null_keys": error.missing}, error=True)
    if isinstance(error, RejectedError):
        columns = ", ".join(error.columns)
        return Verdict(
            REJECTED_ROWS, False, str(error), {**told, "rejected": error.rejected, "columns": columns}, error=True
        )
    return None


def unknown_verdict(check: str, why: str) -> Verdict:
    """What a check says that could not look."""
    return Verdict(check, False, f"Could not be checked: {why}", {})


def keys_need_counting(resolved: ResolvedBinding, result: StreamResult, max_rows: int) -> str | None:
    """None when the table's keys have to be counted after this load; else why not."""
    if resolved.load_mode is LoadMode.MERGE:
        return "The load keeps one row per key, and takes none without a key."
    if resolved.load_mode is LoadMode.APPEND:
        return "Every row has a key. Rows are appended as they come, so a key may be there several times."
    if not result.rows_read:
        return "Nothing was loaded."
    if result.table_rows > max_rows:
        return (
            f"Every row has a key. Whether keys are unique was not counted, for the table has more than {max_rows:,} rows "
            "(checks.primary_key.max_rows): run this check by itself, or load with merge."
        )
    return None


def duplicates_removed(resolved: ResolvedBinding, result: StreamResult) -> int:
    """How many rows a full load of a merged stream left out because another has their key; 0 where the counts cannot tell."""
    merged_afresh = resolved.load_mode is LoadMode.MERGE and result.load_mode is LoadMode.REPLACE
    may_delete = resolved.deleted_field is not None or resolved.binding.deletes in (DeleteMode.SOFT, DeleteMode.IGNORE)
    if not merged_afresh or may_delete:
        return 0
    return max(0, result.rows_read - result.rows_inserted - result.rows_rejected)


def _kind(before: str | None, after: str | None) -> str:
    if before is None:
        return "added"
    return "removed" if after is None else "retyped"


def _table(records: Iterable[dg.TableRecord], columns: Sequence[str]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(list(records), schema=dg.TableSchema([dg.TableColumn(name) for name in columns]))


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
