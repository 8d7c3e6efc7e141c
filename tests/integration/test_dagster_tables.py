"""The IO manager as users' own assets meet it: what they may ask for, what they may return."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from elt_dagster.orchestration import metadata as keys
from elt_dagster.orchestration.definitions import build_definitions
from tests.dagster_connectors.scripted import Scripted
from tests.integration.dagster_project import ORDERS, ShopProject, shop


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShopProject]:
    """A project whose tables are there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("elt_dagster.control.configured.load_connector", {"scripted": Scripted}.__getitem__)
        project = ShopProject.make(tmp_path_factory.mktemp("tables"))
        project.put(shop())
        assert project.defs().resolve_job_def("sync_shop").execute_in_process().success
        yield project


def materialize(project: ShopProject, *assets: dg.AssetsDefinition, ok: bool = True) -> Any:
    """Run ``assets`` alone, merged with the project's definitions as a user would."""
    defs = dg.Definitions.merge(build_definitions(project.url), dg.Definitions(assets=assets))
    job = defs.resolve_implicit_global_asset_job_def()
    selection = [key for asset in assets for key in asset.keys]
    result = job.execute_in_process(asset_selection=selection, raise_on_error=False)
    assert result.success is ok
    return result


def reader_of(
    kind: Any, columns: list[str] | None = None, key: dg.AssetKey = ORDERS
) -> tuple[dg.AssetsDefinition, list[Any]]:
    """A downstream asset that keeps what it is given, turned into a list of dicts."""
    seen: list[Any] = []

    def report(orders) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        seen.append((type(orders), rows_of(orders)))

    if kind is not None:
        report.__annotations__["orders"] = kind
    metadata = {"columns": columns} if columns else None
    return dg.asset(name="report", ins={"orders": dg.AssetIn(key=key, metadata=metadata)})(report), seen


def rows_of(table: Any) -> Any:
    match table:
        case pd.DataFrame():
            return table.to_dict("records")
        case pl.LazyFrame():
            return table.filter(pl.col("id") > 0).select(pl.all()).collect().to_dicts()
        case pl.DataFrame():
            return table.to_dicts()
        case pa.RecordBatchReader():
            return table.read_all().to_pylist()
        case duckdb.DuckDBPyRelation():
            assert table.count("*").fetchall() == [(3,)]  # and it may be asked again
            return table.to_arrow_table().to_pylist()
        case _:
            return table.to_pylist()


@pytest.mark.parametrize(
    "kind", [None, pd.DataFrame, pl.DataFrame, pl.LazyFrame, pa.Table, pa.RecordBatchReader, duckdb.DuckDBPyRelation]
)
def test_a_table_arrives_as_its_annotation_says(loaded: ShopProject, kind: Any) -> None:
    asset, seen = reader_of(kind)
    materialize(loaded, asset)
    ((found, rows),) = seen
    assert issubclass(found, kind or pa.Table)
    assert sorted(r["id"] for r in rows) == [1, 2, 3]
    assert {r["amount"] for r in rows} == {Decimal(1), Decimal(2), Decimal(3)}


@pytest.mark.parametrize("kind", [None, pd.DataFrame, pl.LazyFrame, pa.RecordBatchReader])
def test_only_the_columns_asked_for_are_read(loaded: ShopProject, kind: Any) -> None:
    asset, seen = reader_of(kind, ["amount", "id"])
    materialize(loaded, asset)
    assert set(seen[0][1][0]) == {"amount", "id"}


def test_a_lazy_frame_reads_what_its_query_needs(loaded: ShopProject) -> None:
    seen: list[Any] = []

    @dg.asset(ins={"orders": dg.AssetIn(key=ORDERS)})
    def query(orders: pl.LazyFrame) -> None:
        seen.append(orders.filter(pl.col("id") >= 2).select("amount").collect())
        seen.append(orders.head(1).collect())

    materialize(loaded, query)
    assert seen[0].to_dicts() == [{"amount": Decimal(2)}, {"amount": Decimal(3)}]
    assert seen[1].shape[0] == 1


def failure_text(result: Any) -> str:
    (event,) = [e for e in result.all_events if e.is_step_failure]
    data = event.step_failure_data
    return str(data.user_failure_data.description if data.user_failure_data else data.error)


def test_a_missing_table_or_column_is_said_clearly(loaded: ShopProject) -> None:
    @dg.asset(key=["raw_shop", "nothing"], io_manager_key="warehouse_io")
    def nothing() -> pa.Table:
        raise AssertionError("not run here")

    asset, _ = reader_of(None, key=dg.AssetKey(["raw_shop", "nothing"]))
    defs = dg.Definitions.merge(loaded.defs(), dg.Definitions(assets=[nothing, asset]))
    job = defs.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(asset_selection=[dg.AssetKey("report")], raise_on_error=False)
    assert "raw_shop.nothing" in failure_text(result)
    asset, _ = reader_of(None, ["amonut"])
    assert "amonut" in failure_text(materialize(loaded, asset, ok=False))


def test_an_annotation_that_is_no_table_is_refused(loaded: ShopProject) -> None:
    asset, _ = reader_of(dict)
    said = failure_text(materialize(loaded, asset, ok=False))
    assert "builtins.dict" in said
    assert "pandas.DataFrame" in said


FRAMES: dict[str, Any] = {
    "pandas": lambda: pd.DataFrame({"Day": [pd.Timestamp("2026-01-01"), None], "total": [1.5, 2.5]}, index=[7, 8]),
    "polars": lambda: pl.DataFrame({"Day": [None, "b"], "total": [1.5, 2.5]}),
    "lazy": lambda: pl.LazyFrame({"Day": [None, "b"], "total": [1.5, 2.5]}),
    "table": lambda: pa.table({"Day": pa.array(["a", None], pa.large_string()), "total": [1.5, 2.5]}),
    "dictionary": lambda: pa.table({"Day": pa.array(["a", None]).dictionary_encode(), "total": [1.5, 2.5]}),
    "reader": lambda: pa.table({"Day": [[1], None], "total": [1.5, 2.5]}).to_reader(),
    "batch": lambda: pa.record_batch({"Day": [1, None], "total": [1.5, 2.5]}),
    "relation": lambda: duckdb.connect().sql("SELECT * FROM (VALUES (1, 1.5), (NULL, 2.5)) t(\"Day\", total)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(FRAMES))
def test_a_users_frame_replaces_its_table(loaded: ShopProject, kind: str) -> None:
    @dg.asset(key=["marts", kind], io_manager_key="warehouse_io")
    def mart() -> Any:
        return FRAMES[kind]()

    for _ in range(2):
        result = materialize(loaded, mart)
    (event,) = result.get_asset_materialization_events()
    told = {name: value.value for name, value in event.materialization.metadata.items()}
    assert (told[keys.ROW_COUNT], told[keys.TABLE_NAME]) == (2, f"marts.{kind}")
    assert loaded.rows(f'SELECT count(*), count("Day"), sum(total)::DOUBLE FROM marts."{kind}"') == [(2, 1, 4.0)]
    names = loaded.rows(f"SELECT column_name FROM information_schema.columns WHERE table_name = '{kind}'")
    assert [n for (n,) in names] == ["Day", "total"]


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame, pl.LazyFrame, pa.Table, pa.RecordBatchReader])
def test_an_empty_frame_makes_an_empty_table_that_can_be_read(loaded: ShopProject, kind: Any) -> None:
    @dg.asset(key=["marts", "empty"], io_manager_key="warehouse_io")
    def empty() -> pa.Table:
        return pa.table({"id": pa.array([], pa.int64())})

    asset, seen = reader_of(kind, key=dg.AssetKey(["marts", "empty"]))
    materialize(loaded, empty, asset)
    assert loaded.rows("SELECT count(*) FROM marts.empty") == [(0,)]
    assert seen[0][1] == []


def test_metadata_may_name_the_table(loaded: ShopProject) -> None:
    @dg.asset(metadata={keys.TABLE_NAME: "marts.elsewhere"}, io_manager_key="warehouse_io")
    def named() -> pa.Table:
        return pa.table({"a": [1]})

    materialize(loaded, named)
    assert loaded.rows("SELECT a FROM marts.elsewhere") == [(1,)]


def test_an_asset_without_table_or_with_no_frame_is_refused(loaded: ShopProject) -> None:
    @dg.asset(io_manager_key="warehouse_io")
    def nowhere() -> pa.Table:
        return pa.table({"a": [1]})

    assert "'nowhere' does not say which table" in failure_text(materialize(loaded, nowhere, ok=False))

    @dg.asset(key=["marts", "number"], io_manager_key="warehouse_io")
    def number() -> int:
        return 1

    assert "builtins.int" in failure_text(materialize(loaded, number, ok=False))


def test_a_frame_that_breaks_half_way_leaves_the_old_table(loaded: ShopProject) -> None:
    broken = False

    def batches() -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"a": [1, 2]})
        if broken:
            raise RuntimeError("half way")

    @dg.asset(key=["marts", "halves"], io_manager_key="warehouse_io")
    def halves() -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(pa.schema([("a", pa.int64())]), batches())

    materialize(loaded, halves)
    broken = True
    materialize(loaded, halves, ok=False)
    assert loaded.rows("SELECT count(*) FROM marts.halves") == [(2,)]
