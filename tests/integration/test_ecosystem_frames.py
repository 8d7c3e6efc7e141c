"""What a user's own asset returns goes through our IO manager: appended once, merged by key, a partition in the place of its old rows."""

from datetime import datetime
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest

from tests.integration.dagster_project import ShopProject, shop

DAYS = dg.DailyPartitionsDefinition(start_date="2026-03-01", end_date="2026-03-05")


@pytest.fixture
def frames(project: ShopProject) -> ShopProject:
    """A store with one sync, for the IO manager it brings."""
    project.put(shop())
    return project


def run(
    frames: ShopProject, asset: dg.AssetsDefinition, *also: dg.AssetsDefinition, ok: bool = True, **options: Any
) -> Any:
    """One run of ``asset`` (and ``also``) merged with the project's definitions."""
    defs = dg.Definitions.merge(frames.defs(), dg.Definitions(assets=[asset, *also]))
    job = defs.resolve_implicit_global_asset_job_def()
    keys = [key for a in (asset, *also) for key in a.keys]
    result = job.execute_in_process(asset_selection=keys, raise_on_error=False, **options)
    assert result.success is ok
    return result


def why(result: Any) -> str:
    (event,) = [e for e in result.all_events if e.is_step_failure]
    return str(event.step_failure_data.user_failure_data.description)


def test_an_appending_asset_adds_its_rows_in_every_run(frames: ShopProject) -> None:
    @dg.asset(key=["marts", "log"], io_manager_key="warehouse_io", metadata={"load_mode": "append"})
    def log() -> pd.DataFrame:
        return pd.DataFrame({"line": ["a", "b"]})

    run(frames, log)
    run(frames, log)
    assert frames.rows("SELECT line, count(*) FROM marts.log GROUP BY ALL ORDER BY ALL") == [("a", 2), ("b", 2)]


def test_a_step_that_is_tried_again_after_its_commit_appends_once(
    frames: ShopProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def broken_once(*_: object) -> dict[str, Any]:
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("after the commit")
        return {}

    monkeypatch.setattr("elt_dagster.orchestration.io_manager.written_metadata", broken_once)

    @dg.asset(
        key=["marts", "log"],
        io_manager_key="warehouse_io",
        metadata={"load_mode": "append"},
        retry_policy=dg.RetryPolicy(max_retries=1),
    )
    def log() -> pa.Table:
        return pa.table({"line": ["a"]})

    run(frames, log)
    assert len(tries) == 2
    assert frames.rows("SELECT count(*) FROM marts.log") == [(1,)]


def test_a_merging_asset_keeps_one_row_per_key(frames: ShopProject) -> None:
    returned = [{"id": [1, 2], "name": ["a", "b"]}, {"id": [2, 3], "name": ["B", "c"]}]

    metadata = {"load_mode": "merge", "primary_key": ["id"]}

    @dg.asset(key=["marts", "people"], io_manager_key="warehouse_io", metadata=metadata)
    def people() -> pa.Table:
        return pa.table(returned.pop(0))

    run(frames, people)
    told = run(frames, people).get_asset_materialization_events()[0].materialization.metadata
    assert frames.rows("SELECT id, name FROM marts.people ORDER BY id") == [(1, "a"), (2, "B"), (3, "c")]
    assert (told["elt/rows_inserted"].value, told["elt/rows_updated"].value) == (1, 1)


KINDS = {"timestamp": "datetime64[us]", "utc": "datetime64[us, UTC]", "date": None}


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_partition_takes_the_place_of_its_own_rows_only(frames: ShopProject, kind: str) -> None:
    rows = 2

    @dg.asset(
        key=["marts", kind], io_manager_key="warehouse_io", partitions_def=DAYS, metadata={"partition_expr": "day"}
    )
    def daily(context: dg.AssetExecutionContext) -> pd.DataFrame:
        days = pd.to_datetime([context.partition_key] * rows)
        typed = days.date if KINDS[kind] is None else days.tz_localize("UTC" if kind == "utc" else None)
        return pd.DataFrame({"day": typed, "n": range(rows)})

    run(frames, daily, partition_key="2026-03-01")
    run(frames, daily, partition_key="2026-03-02")
    rows = 1
    result = run(frames, daily, partition_key="2026-03-01")
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["dagster/partition_row_count"].value == 1
    found = frames.rows(f"SELECT day::DATE::VARCHAR, count(*) FROM marts.{kind} GROUP BY ALL ORDER BY ALL")
    assert found == [("2026-03-01", 1), ("2026-03-02", 2)]


def test_an_asset_downstream_is_handed_its_partition(frames: ShopProject) -> None:
    seen: list[list[Any]] = []

    @dg.asset(
        key=["marts", "daily"], io_manager_key="warehouse_io", partitions_def=DAYS, metadata={"partition_expr": "day"}
    )
    def daily(context: dg.AssetExecutionContext) -> pa.Table:
        return pa.table({"day": [datetime.fromisoformat(context.partition_key)]})

    @dg.asset(ins={"daily": dg.AssetIn(key=["marts", "daily"])}, partitions_def=DAYS)
    def report(daily: pa.Table) -> None:
        seen.append(daily.column("day").to_pylist())

    @dg.asset(ins={"daily": dg.AssetIn(key=["marts", "daily"])})
    def total(daily: pa.Table) -> None:
        seen.append(daily.column("day").to_pylist())

    run(frames, daily, report, partition_key="2026-03-01")
    run(frames, daily, report, partition_key="2026-03-02")
    assert seen == [[datetime(2026, 3, 1)], [datetime(2026, 3, 2)]]
    defs = dg.Definitions.merge(frames.defs(), dg.Definitions(assets=[daily, total]))
    job = defs.resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(asset_selection=[*total.keys]).success
    assert sorted(seen.pop()) == [datetime(2026, 3, 1), datetime(2026, 3, 2)]


def test_a_window_of_a_sync_is_what_its_downstream_partition_reads(frames: ShopProject) -> None:
    frames.say("rows", 7_300)  # one a second
    hours = {"execution_mode": "fan_out_window", "slicing": {"window": "1h", "start": "2026-01-01"}}
    frames.put(shop(**hours, streams=[{"name": "public.orders", "load_mode": "append"}]))
    seen: list[int] = []

    @dg.asset(
        ins={"orders": dg.AssetIn(key=["raw_shop", "orders"])},
        partitions_def=dg.HourlyPartitionsDefinition(start_date="2026-01-01-00:00", timezone="UTC"),
    )
    def report(orders: pa.RecordBatchReader) -> None:
        seen.append(orders.read_all().num_rows)

    defs = dg.Definitions.merge(frames.defs(), dg.Definitions(assets=[report]))
    job = defs.resolve_implicit_global_asset_job_def()
    for hour in ("2026-01-01-00:00", "2026-01-01-01:00"):
        keys = [dg.AssetKey(["raw_shop", "orders"]), *report.keys]
        assert job.execute_in_process(asset_selection=keys, partition_key=hour).success
    assert seen == [3_599, 3_600]


@pytest.fixture
def days_of() -> Any:
    """Makes partitioned assets out of metadata and a table."""

    def make(metadata: dict[str, Any], table: pa.Table, partitions: Any = DAYS) -> dg.AssetsDefinition:
        @dg.asset(key=["marts", "bad"], io_manager_key="warehouse_io", partitions_def=partitions, metadata=metadata)
        def bad() -> pa.Table:
            return table

        return bad

    return make


def test_rows_of_another_partition_are_refused(frames: ShopProject, days_of: Any) -> None:
    stray = pa.table({"day": [datetime(2026, 3, 1), datetime(2026, 3, 2)]})
    said = why(run(frames, days_of({"partition_expr": "day"}, stray), partition_key="2026-03-01", ok=False))
    assert "outside of it" in said
    assert not frames.file.exists()


def test_a_partition_that_cannot_be_told_never_replaces_the_table(frames: ShopProject, days_of: Any) -> None:
    table = pa.table({"day": ["2026-03-01"]})
    said = why(run(frames, days_of({}, table), partition_key="2026-03-01", ok=False))
    assert "does not say which column" in said
    said = why(run(frames, days_of({"partition_expr": "dya"}, table), partition_key="2026-03-01", ok=False))
    assert "Did you mean 'day'?" in said
    said = why(run(frames, days_of({"partition_expr": "day"}, table), partition_key="2026-03-01", ok=False))
    assert "not a time" in said
    countries = dg.StaticPartitionsDefinition(["DK", "SE"])
    said = why(run(frames, days_of({}, table, countries), partition_key="DK", ok=False))
    assert "no spans of time" in said


def test_an_unknown_load_mode_is_answered_with_the_nearest(frames: ShopProject) -> None:
    @dg.asset(key=["marts", "log"], io_manager_key="warehouse_io", metadata={"load_mode": "apend"})
    def log() -> pa.Table:
        return pa.table({"line": ["a"]})

    assert "Did you mean 'append'?" in why(run(frames, log, ok=False))
