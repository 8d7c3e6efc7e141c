"""History as partitions: windows are Dagster partitions, loaded side by side, again and again, beside the checkpoint."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from elt_dagster.model import ExecutionMode
from tests.integration.dagster_project import CUSTOMERS, ORDERS, ShopProject, shop

HOURLY = {"execution_mode": "fan_out_window", "slicing": {"window": "1h", "start": "2026-01-01"}}
STREAMS = [{"name": "public.orders", "load_mode": "append"}, {"name": "public.customers"}]
FIRST_HOUR, SECOND_HOUR = "2026-01-01-00:00", "2026-01-01-01:00"


@pytest.fixture
def project(project: ShopProject) -> ShopProject:
    project.say("rows", 7_300)  # one a second: two hours and a bit
    return project


def sliced(**changes: Any) -> dict[str, Any]:
    return shop(**{**HOURLY, "streams": STREAMS, **changes})


def load(
    project: ShopProject, instance: dg.DagsterInstance, partition: str | None, *keys: dg.AssetKey, **more: Any
) -> bool:
    job = project.defs(executor=dg.in_process_executor).resolve_job_def("sync_shop")
    return job.execute_in_process(
        partition_key=partition, asset_selection=list(keys) or None, instance=instance, raise_on_error=False, **more
    ).success


def hours(project: ShopProject) -> list[tuple[int, int]]:
    return project.rows(
        "SELECT date_part('hour', updated_at)::INT, count(*) FROM raw_shop.orders GROUP BY 1 ORDER BY 1"
    )


def test_a_window_loads_its_rows_and_no_others(project: ShopProject, instance: dg.DagsterInstance) -> None:
    project.put(sliced())
    assert load(project, instance, SECOND_HOUR, ORDERS)
    assert hours(project) == [(1, 3_600)]
    assert load(project, instance, FIRST_HOUR, ORDERS)
    assert hours(project) == [(0, 3_599), (1, 3_600)]
    assert instance.get_materialized_partitions(ORDERS) == {FIRST_HOUR, SECOND_HOUR}


def test_a_window_loaded_again_is_replaced(project: ShopProject, instance: dg.DagsterInstance) -> None:
    project.put(sliced())
    for rows, found in ((7_300, 3_600), (4_000, 401), (7_300, 3_600)):
        project.say("rows", rows)
        assert load(project, instance, SECOND_HOUR, ORDERS)
        assert hours(project) == [(1, found)]


def test_an_empty_window_is_materialized(project: ShopProject, instance: dg.DagsterInstance) -> None:
    project.put(sliced())
    assert load(project, instance, "2026-01-05-00:00", ORDERS)
    assert instance.get_materialized_partitions(ORDERS) == {"2026-01-05-00:00"}
    assert project.rows("SELECT count(*) FROM raw_shop.orders") == [(0,)]


def test_a_range_of_windows_loads_in_one_run(project: ShopProject, instance: dg.DagsterInstance) -> None:
    project.put(sliced())
    tags = {"dagster/asset_partition_range_start": FIRST_HOUR, "dagster/asset_partition_range_end": SECOND_HOUR}
    assert load(project, instance, None, ORDERS, tags=tags)
    assert hours(project) == [(0, 3_599), (1, 3_600)]
    assert instance.get_materialized_partitions(ORDERS) == {FIRST_HOUR, SECOND_HOUR}


def test_windows_of_a_merged_stream_end_with_one_row_per_key(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    project.put(sliced(streams=[{"name": "public.orders", "deletes": "hard"}]))
    for rows in (7_300, 5_000):
        project.say("rows", rows)
        assert load(project, instance, SECOND_HOUR, ORDERS)
    assert hours(project) == [(1, 1_401)]


def test_going_on_by_cursor_after_windows_doubles_nothing(project: ShopProject, instance: dg.DagsterInstance) -> None:
    project.put(sliced())
    assert load(project, instance, SECOND_HOUR, ORDERS)
    project.put(shop(streams=STREAMS))
    assert load(project, instance, None, ORDERS)
    assert hours(project) == [(0, 3_599), (1, 3_600), (2, 101)]
    project.put(sliced())
    assert load(project, instance, FIRST_HOUR, ORDERS)
    assert hours(project) == [(0, 3_599), (1, 3_600), (2, 101)]
    sync = project.store.sync("shop")
    states = project.rows("SELECT binding_id, checkpoint FROM raw_shop._elt_state ORDER BY binding_id")
    by_id = dict(states)
    assert "02:01:40" in by_id[sync.binding_ids["public.orders"]], "the windows left the checkpoint alone"
    assert len(states) == 3


def test_a_stream_without_a_time_is_loaded_whole_beside_a_window(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    project.put(sliced())
    defs = project.defs()
    assert defs.resolve_assets_def(CUSTOMERS).partitions_def is None
    assert defs.resolve_assets_def(ORDERS).partitions_def is not None
    assert load(project, instance, SECOND_HOUR)
    assert project.rows("SELECT count(*) FROM raw_shop.customers") == [(7_300,)]
    assert hours(project) == [(1, 3_600)]


def test_a_run_without_a_window_says_what_is_missing(project: ShopProject, instance: dg.DagsterInstance) -> None:
    project.put(sliced())
    job = project.defs(executor=dg.in_process_executor).resolve_job_def("sync_shop")
    with pytest.raises(dg.Failure, match="loaded in windows, and this run names none"):
        job.execute_in_process(asset_selection=[ORDERS], instance=instance)


def test_any_span_of_an_unsliced_stream_can_be_read_again(project: ShopProject, instance: dg.DagsterInstance) -> None:
    project.put(shop(streams=STREAMS))
    assert load(project, instance, None, ORDERS)
    project.file.touch()
    project.rows(
        "DELETE FROM raw_shop.orders WHERE updated_at >= '2026-01-01 00:30:00+00' AND updated_at < '2026-01-01 00:40:00+00'"
    )
    config = {"window_start": "2026-01-01T00:30:00+00:00", "window_end": "2026-01-01T00:45:00+00:00"}
    assert load(project, instance, None, ORDERS, run_config={"resources": {"sync_run": {"config": config}}})
    assert hours(project) == [(0, 3_599), (1, 3_600), (2, 101)]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"window_start": "2026-01-01"}, "names one of them"),
        ({"window_start": "2026-01-02", "window_end": "2026-01-01"}, "ends before it begins"),
        ({"window_start": "soon", "window_end": "2026-01-01"}, "'soon' is no date"),
    ],
)
def test_half_a_window_is_refused(
    project: ShopProject, instance: dg.DagsterInstance, config: dict[str, str], message: str
) -> None:
    project.put(shop(streams=STREAMS))
    job = project.defs(executor=dg.in_process_executor).resolve_job_def("sync_shop")
    with pytest.raises(dg.Failure, match=message):
        job.execute_in_process(
            asset_selection=[ORDERS], instance=instance, run_config={"resources": {"sync_run": {"config": config}}}
        )


class TestTheSchedule:
    """What a tick asks for."""

    @pytest.fixture
    def instance(self, instance_on_disk: dg.DagsterInstance) -> dg.DagsterInstance:
        """Ticks open the instance anew, by its reference."""
        return instance_on_disk

    def tick(self, project: ShopProject, instance: dg.DagsterInstance, at: datetime) -> dg.RunRequest | dg.SkipReason:
        defs = project.defs()
        schedule = defs.resolve_schedule_def("sync_shop_schedule")
        context = dg.build_schedule_context(
            instance=instance, scheduled_execution_time=at, repository_def=defs.get_repository_def()
        )
        found = schedule.evaluate_tick(context)
        if found.run_requests:
            (request,) = found.run_requests
            return request
        return dg.SkipReason(found.skip_message)

    def test_asks_for_the_newest_window_until_it_is_loaded(
        self, project: ShopProject, instance: dg.DagsterInstance
    ) -> None:
        project.put(sliced(streams=STREAMS[:1], schedule={"cron": "*/10 * * * *"}))
        early, later = datetime(2026, 1, 1, 2, 10, tzinfo=UTC), datetime(2026, 1, 1, 3, 0, tzinfo=UTC)
        request = self.tick(project, instance, early)
        assert isinstance(request, dg.RunRequest)
        assert (request.partition_key, request.tags["elt/triggered_by"]) == (SECOND_HOUR, "schedule")
        assert load(project, instance, SECOND_HOUR, ORDERS)
        assert isinstance(self.tick(project, instance, early), dg.SkipReason)
        request = self.tick(project, instance, later)
        assert isinstance(request, dg.RunRequest)
        assert request.partition_key == "2026-01-01-02:00"

    def test_loads_what_has_no_windows_at_every_tick(self, project: ShopProject, instance: dg.DagsterInstance) -> None:
        project.put(sliced(schedule={"cron": "*/10 * * * *"}))
        assert load(project, instance, SECOND_HOUR)
        request = self.tick(project, instance, datetime(2026, 1, 1, 2, 20, tzinfo=UTC))
        assert isinstance(request, dg.RunRequest)
        assert (request.partition_key, request.asset_selection) == (None, [CUSTOMERS])

    def test_has_nothing_to_do_before_the_first_window(
        self, project: ShopProject, instance: dg.DagsterInstance
    ) -> None:
        future = {"window": "1d", "start": "2999-01-01"}
        project.put(sliced(streams=STREAMS[:1], slicing=future, schedule={"cron": "@daily"}))
        assert isinstance(self.tick(project, instance, datetime(2026, 1, 1, 2, 20, tzinfo=UTC)), dg.SkipReason)

    def test_loads_the_open_window_again_and_again_where_that_is_asked(
        self, project: ShopProject, instance: dg.DagsterInstance
    ) -> None:
        slicing = {"window": "1h", "start": "2026-01-01", "include_current": True}
        project.put(sliced(streams=STREAMS[:1], slicing=slicing, schedule={"cron": "*/10 * * * *"}))
        at = datetime(2026, 1, 1, 1, 10, tzinfo=UTC)
        for _ in range(2):
            request = self.tick(project, instance, at)
            assert isinstance(request, dg.RunRequest)
            assert request.partition_key == SECOND_HOUR
            assert load(project, instance, SECOND_HOUR, ORDERS)

    def test_days_begin_where_the_zone_says(self, project: ShopProject, instance: dg.DagsterInstance) -> None:
        slicing = {"window": "1d", "start": "2026-03-28"}
        schedule = {"cron": "0 3 * * *", "timezone": "Europe/Copenhagen"}
        project.put(sliced(streams=STREAMS[:1], slicing=slicing, schedule=schedule))
        partitions = project.defs().resolve_assets_def(ORDERS).partitions_def
        assert isinstance(partitions, dg.TimeWindowPartitionsDefinition)
        short = partitions.time_window_for_partition_key("2026-03-29")
        assert (short.end - short.start).total_seconds() in (23 * 3600, 24 * 3600)
        assert short.end.timestamp() - short.start.timestamp() == 23 * 3600, "the day on which clocks go forward"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slicing": None}, "needs `slicing`"),
        ({"execution_mode": "sequential"}, "slicing needs execution_mode fan_out_window"),
        ({"slicing": {"window": "5m", "start": "2026-01-01"}}, "'5m' is no window; allowed: 1h"),
        ({"slicing": {"window": "1d", "start": "2026-01-01", "timezone": "Mars"}}, "no time zone 'Mars'"),
        ({"streams": [{"name": "public.orders", "sliced": True, "full_sync_always": True}]}, "no full refresh"),
    ],
)
def test_words_that_contradict_each_other_are_refused(
    project: ShopProject, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        project.put(sliced(**change))


def test_a_stream_that_insists_on_windows_and_has_no_time_is_one_broken_asset(project: ShopProject) -> None:
    assert ExecutionMode.FAN_OUT_WINDOW
    project.put(sliced(streams=[{"name": "public.customers", "sliced": True}]))
    specs = list(project.defs().resolve_all_asset_specs())
    assert [spec.group_name for spec in specs] == ["broken"]
    assert "has no cursor" in str(specs[0].description)
