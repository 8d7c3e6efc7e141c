"""What checks say of facts, without a warehouse or a run."""

from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elt_dagster.destinations.duckdb import DuckDB
from elt_dagster.destinations.keys import KeyFacts, key_facts
from elt_dagster.engine import resolve_binding
from elt_dagster.errors import DestinationError, DriftError, PrimaryKeyError, RejectedError
from elt_dagster.model import Checks, LoadMode, RunMode, Stream, StreamResult, TableBinding
from elt_dagster.model.checks import VolumeCheck
from elt_dagster.model.run import SchemaChange
from elt_dagster.orchestration import checks
from elt_dagster.orchestration.checks import Past, Verdict
from elt_dagster.orchestration.lineage import MAX_COLUMNS, column_lineage, source_key
from elt_dagster.orchestration.metadata import PARTITION_ROW_COUNT, result_metadata

SETTINGS = VolumeCheck()


def volume(past: list[Past], rows: int, table: int, *, whole: bool = True) -> Verdict:
    return checks.volume_verdict(SETTINGS, past, rows_read=rows, table_rows=table, whole=whole)


def result(mode: LoadMode, rows: int, table_rows: int) -> StreamResult:
    return StreamResult(
        stream="orders", table="raw.orders", load_mode=mode, run_mode=RunMode.INCREMENTAL, rows_read=rows, table_rows=table_rows
    )  # fmt: skip


@given(st.lists(st.integers(0, 10**9), max_size=checks.MIN_PAST - 1), st.integers(0, 10**9))
def test_without_enough_of_a_past_nothing_is_wrong(before: list[int], rows: int) -> None:
    assert volume([Past(n, n) for n in before], rows, rows).passed


@given(st.lists(st.integers(1, 10**9), min_size=checks.MIN_PAST, max_size=20))
def test_a_load_like_the_others_passes_and_an_empty_one_does_not(before: list[int]) -> None:
    past = [Past(n, n) for n in before]
    assert volume(past, max(before), max(before)).passed
    assert not volume(past, 0, 0).passed


@given(st.lists(st.integers(0, 10**6), min_size=checks.MIN_PAST, max_size=10), st.data())
def test_an_increment_no_smaller_than_one_before_passes(before: list[int], data: st.DataObject) -> None:
    rows = data.draw(st.integers(min(before), 10**6))
    assert volume([Past(n, 100) for n in before], rows, 100, whole=False).passed


def test_one_odd_load_among_many_does_not_move_what_is_usual() -> None:
    past = [Past(n, n) for n in (100, 101, 99, 100, 1_000_000)]
    assert volume(past, 98, 98).passed
    assert not volume(past, 49, 49).passed


def test_loads_of_another_kind_tell_of_the_table_and_not_of_what_is_read() -> None:
    past = [Past(1000, 1000, alike=False)] * 5
    assert volume(past, 3, 1000, whole=False).passed
    assert "table_rows" in volume(past, 3, 400, whole=False).metadata
    assert not volume(past, 3, 400, whole=False).passed


def test_only_as_much_past_as_was_asked_for_counts() -> None:
    recent, long_ago = [Past(10, 10)] * 10, [Past(1000, 1000)] * 30
    assert volume(recent + long_ago, 9, 9).passed


def test_a_switch_may_be_a_plain_false() -> None:
    off = Checks.model_validate({"volume": False, "primary_key": True})
    assert (off.volume.enabled, off.primary_key.enabled) == (False, True)


@pytest.mark.parametrize("wrong", [{"min_ratio": 0}, {"min_ratio": 1.1}, {"history": 2}, {"ratio": 0.5}, "no"])
def test_thresholds_that_make_no_sense_are_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="volume"):
        Checks.model_validate({"volume": wrong})


def test_a_diff_is_cut_where_it_is_long_and_still_counted() -> None:
    changes = [SchemaChange("added", f"c{i}", None, "string") for i in range(checks.MAX_LISTED + 1)]
    told = checks.changes_metadata(changes)
    assert told["changes"] == checks.MAX_LISTED + 1
    assert len(told["diff"].records) == checks.MAX_LISTED


@pytest.mark.parametrize(
    ("error", "check"),
    [
        (DriftError("x", differences=[("a", None, "string")]), checks.SCHEMA_DRIFT),
        (PrimaryKeyError("x", column="id", missing=1, rows=2), checks.PRIMARY_KEY),
        (RejectedError("x", rejected=3, columns=["a"]), checks.REJECTED_ROWS),
    ],
)
def test_errors_about_the_data_are_failed_checks(error: DestinationError, check: str) -> None:
    verdict = checks.failed_verdict(error)
    assert verdict is not None
    assert (verdict.check, verdict.passed, verdict.error) == (check, False, True)


def test_other_errors_are_none() -> None:
    assert checks.failed_verdict(DestinationError("the disk is full")) is None


@pytest.mark.parametrize(
    ("mode", "rows", "table_rows", "counted"),
    [
        (LoadMode.REPLACE, 5, 100, True),
        (LoadMode.REPLACE, 5, 101, False),
        (LoadMode.REPLACE, 0, 100, False),
        (LoadMode.MERGE, 5, 100, False),
        (LoadMode.APPEND, 5, 100, False),
    ],
)
def test_keys_are_counted_where_nothing_else_sees_to_them_and_the_table_is_small(
    mode: LoadMode, rows: int, table_rows: int, counted: bool
) -> None:
    schema = pa.schema([("id", pa.int64()), ("at", pa.timestamp("us", "UTC"))])
    binding = TableBinding(name="orders", load_mode=mode, primary_key=("id",), cursor_field="at")
    resolved = resolve_binding(binding, Stream(name="orders", schema=schema))
    why_not = checks.keys_need_counting(resolved, result(mode, rows, table_rows), max_rows=100)
    assert (why_not is None) is counted


def test_columns_of_ours_and_unknown_ones_have_no_origin_and_renamed_ones_have_the_sources_name() -> None:
    stream = Stream(name="sales.Order Lines", schema=pa.schema([("OrderID", pa.int64()), ("e-mail", pa.string())]))
    resolved = resolve_binding(TableBinding(name=stream.name, hashed_columns=("e-mail",)), stream)
    columns = pa.schema([(n, pa.string()) for n in ("order_id", "e_mail", "_elt_loaded_at", "new")])
    lineage = column_lineage(columns, resolved, source_key("shop-db", stream.name))
    assert lineage is not None
    assert {name: deps[0].column_name for name, deps in lineage.deps_by_column.items()} == {
        "order_id": "OrderID", "e_mail": "e-mail",
    }  # fmt: skip
    assert source_key("shop-db", stream.name).path == ["source", "shop_db", "sales", "order_lines"]


def test_a_very_wide_table_goes_without_lineage() -> None:
    schema = pa.schema([(f"c{i}", pa.int64()) for i in range(MAX_COLUMNS + 1)])
    resolved = resolve_binding(TableBinding(name="wide"), Stream(name="wide", schema=schema))
    assert column_lineage(schema, resolved, source_key("a", "wide")) is None


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.one_of(st.none(), st.integers(0, 3)), st.one_of(st.none(), st.sampled_from("ab"))), max_size=12
    )
)
def test_key_facts_are_those_of_a_plain_count(keys: list[tuple[int | None, str | None]]) -> None:
    class Table(DuckDB):
        def read(self, *_: object, **__: object) -> pa.RecordBatchReader:
            columns = [pa.array([k[i] for k in keys], kind) for i, kind in enumerate((pa.int64(), pa.string()))]
            return pa.table(columns, names=["a", 'b"b']).to_reader()

    whole = [k for k in keys if None not in k]
    repeated = {k for k in whole if whole.count(k) > 1}
    expected = KeyFacts(len(keys), len(keys) - len(whole), len(repeated), len(whole) - len(set(whole)))
    assert key_facts(Table.configured({"path": "none"}), None, ["a", 'b"b']) == expected  # type: ignore[arg-type]


def test_a_window_tells_its_own_rows_and_a_whole_load_does_not() -> None:
    resolved = resolve_binding(TableBinding(name="orders"), Stream(name="orders"))
    loaded = replace(result(LoadMode.APPEND, 7, 1000), rows_inserted=5, rows_updated=2)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert result_metadata(loaded, resolved, now=now, is_partition=True)[PARTITION_ROW_COUNT] == 7
    assert PARTITION_ROW_COUNT not in result_metadata(loaded, resolved, now=now)
