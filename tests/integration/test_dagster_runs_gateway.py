"""`Runs` without a webserver: real runs, in the processes Dagster starts for them."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from elt_dagster.control.runs import ResultClass, Runs, RunStatus, RunView
from elt_dagster.errors import ConfigError, ConflictError, NotFoundError
from elt_dagster.model import RunMode, TriggeredBy, Window
from elt_dagster.orchestration.runs import open_runs
from tests.integration.dagster_project import REPOSITORY, WARM_DEFINITIONS, ShopProject, shop

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShopProject]:
    """A workspace with one sequential sync and one that fans out."""
    project = ShopProject.make(tmp_path_factory.mktemp("gateway"))
    shutil.copy(REPOSITORY / "workspace.yaml", project.folder)
    shutil.copy(WARM_DEFINITIONS, project.folder / "definitions.py")
    project.put(shop())
    project.put(shop(slug="fan", schema="fan", execution_mode="fan_out_entity", execution={"max_retries": 3}))
    hourly = {"window": "1h", "start": "2026-01-01"}
    project.put(
        shop(
            slug="hourly",
            schema="hourly",
            execution_mode="fan_out_window",
            slicing=hourly,
            streams=[{"name": "public.orders"}],
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in project.environ().items():
            patch.setenv(name, value)
        patch.delenv("ELT_DAGSTER_WEBSERVER_URL", raising=False)
        patch.chdir(project.folder)
        yield project


@pytest.fixture(scope="module")
def runs(project: ShopProject) -> Iterator[Runs]:
    with open_runs() as runs:
        yield runs


def wait(runs: Runs, run_id: str, until: Callable[[RunView], bool] = lambda v: v.status.is_final) -> RunView:
    end = time.monotonic() + 90
    while not until(view := runs.get(run_id)):
        assert time.monotonic() < end, view
        time.sleep(0.2)
    return view


def test_a_run_is_launched_followed_and_listed(project: ShopProject, runs: Runs) -> None:
    run_id = runs.launch("shop", run_mode=RunMode.FULL_REFRESH, triggered_by=TriggeredBy.API, trigger_ref="req-1")
    view = wait(runs, run_id)
    assert (view.status, view.run_mode) == (RunStatus.COMPLETED, RunMode.FULL_REFRESH)
    assert (view.triggered_by, view.trigger_ref) == ("api", "req-1")
    assert (view.execution_mode, view.execution_backend) == ("sequential", "native")
    assert view.started_at is not None
    assert view.ended_at is not None
    assert {s.stream: (s.rows, s.status) for s in view.streams} == {
        f"public.{t}": (3, RunStatus.COMPLETED) for t in ("orders", "customers", "items")
    }
    events = runs.events(run_id)
    assert {p.stream for p in events.progress} == {s.stream for s in view.streams}
    assert not runs.events(run_id, after=events.cursor).progress
    assert [v.id for v in runs.list("shop", limit=1)] == [run_id]
    assert run_id in [v.id for v in runs.list()]
    assert runs.list("no-such-sync") == []


@pytest.fixture(scope="module")
def first(project: ShopProject, runs: Runs) -> RunView:
    """A run of two streams of which one failed."""
    project.say("customers.fail", "yes")
    view = wait(runs, runs.launch("shop", streams=["public.orders", "public.customers"]))
    project.say("customers.fail", "")
    return view


def test_one_stream_can_fail_alone(first: RunView) -> None:
    assert first.status is RunStatus.FAILED
    (failed,) = first.failures
    assert (failed.stream, failed.reason) == ("public.customers", "auth_failed")
    assert failed.error == "Scripted refused 'customers'. Check the credentials."
    assert len(first.streams) == 2
    with open_runs() as others:  # another process, which has not loaded the workspace, tells the same
        assert others.get(first.id).failures == first.failures


def test_a_retry_runs_what_failed_and_stays_in_its_group(project: ShopProject, runs: Runs, first: RunView) -> None:
    assert (first.result_class, first.reason, first.max_retries) == (ResultClass.PARTIAL, "auth_failed", 2)
    project.say("customers.fail", "yes")
    second = wait(runs, runs.retry(first.id))
    assert (second.result_class, [s.stream for s in second.streams]) == (ResultClass.FAILURE, ["public.customers"])
    project.say("customers.fail", "")
    third = wait(runs, runs.retry(second.id))
    assert (third.result_class, [s.stream for s in third.streams]) == (ResultClass.SUCCESS, ["public.customers"])
    assert (third.triggered_by, third.root_id, third.parent_id) == ("retry", first.id, second.id)
    with pytest.raises(ConfigError, match="failed nowhere"):
        runs.retry(third.id)
    fourth = wait(runs, runs.retry(first.id, run_mode=RunMode.FULL_REFRESH))
    assert (fourth.run_mode, fourth.root_id) == (RunMode.FULL_REFRESH, first.id)
    assert {s.stream for s in fourth.streams} == {"public.orders", "public.customers"}
    for run in (first, second, third, fourth):
        assert [v.id for v in runs.attempts(run.id)] == [first.id, second.id, third.id, fourth.id]


def test_a_sync_in_windows_loads_the_newest_or_those_that_are_named(project: ShopProject, runs: Runs) -> None:
    project.say("rows", 7_300)
    newest = wait(runs, runs.launch("hourly"))
    assert newest.result_class is ResultClass.SUCCESS
    assert newest.partition is not None
    window = Window(datetime(2026, 1, 1, 0, tzinfo=UTC), datetime(2026, 1, 1, 2, tzinfo=UTC))
    several = wait(runs, runs.launch("hourly", window=window))
    assert several.partition == "2026-01-01-00:00...2026-01-01-01:00"
    assert [s.rows for s in several.streams] == [7_199]
    again = wait(runs, runs.retry(several.id, run_mode=RunMode.INCREMENTAL))
    assert (again.partition, [s.rows for s in again.streams]) == (several.partition, [7_199])
    with pytest.raises(ConfigError, match="begins between"):
        runs.launch("hourly", window=Window(datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 2, tzinfo=UTC)))
    with pytest.raises(ConfigError, match="daemon"):
        runs.backfill("hourly", window)
    with pytest.raises(ConfigError, match="not loaded in windows"):
        runs.backfill("shop", window)
    project.say("rows", 3)


@pytest.mark.parametrize("sync", ["shop", "fan"])
def test_a_running_run_shows_signs_of_life_and_stops_within_seconds_although_its_step_may_retry(
    project: ShopProject, runs: Runs, sync: str
) -> None:
    project.say("orders.slow", 60)
    began = datetime.now(UTC)
    run_id = runs.launch(sync, streams=["public.orders"])
    view = wait(runs, run_id, lambda v: any(s.status is RunStatus.RUNNING for s in v.streams))
    assert view.heartbeat_at is not None
    assert began <= view.heartbeat_at <= datetime.now(UTC)
    assert (view.result_class, view.reason) == (None, None)
    with pytest.raises(ConflictError, match="has not ended"):
        runs.retry(run_id)
    time.sleep(1)
    asked = time.monotonic()
    runs.cancel(run_id, "enough")
    view = wait(runs, run_id)
    project.say("orders.slow", "")
    assert time.monotonic() - asked < 15
    assert (view.status, view.result_class) == (RunStatus.CANCELLED, ResultClass.CANCELLED)
    assert (view.reason, view.cancel_reason) == ("cancelled", "enough")
    assert [s.status for s in view.streams] == [RunStatus.CANCELLED]
    runs.cancel(run_id, "again")  # a run that has ended is left alone


def test_wrong_names_are_answered_with_the_right_ones(project: ShopProject, runs: Runs) -> None:
    with pytest.raises(NotFoundError, match="no job for the sync 'shopp'"):
        runs.launch("shopp")
    with pytest.raises(NotFoundError, match=r"Did you mean 'public\.orders'"):
        runs.launch("shop", streams=["public.order"])
    for ask in (runs.get, runs.events, runs.cancel):
        with pytest.raises(NotFoundError, match="no run"):
            ask("no-such-run")


def test_without_home_or_workspace_it_says_what_to_set(
    project: ShopProject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with open_runs(str(tmp_path / "none.yaml")) as runs, pytest.raises(ConfigError, match=r"none\.yaml"):
        runs.launch("shop")
    monkeypatch.chdir(tmp_path)
    with open_runs() as runs, pytest.raises(ConfigError, match="ELT_DAGSTER_WEBSERVER_URL"):
        runs.launch("shop")
    monkeypatch.delenv("DAGSTER_HOME")
    with pytest.raises(ConfigError, match="DAGSTER_HOME"):
        open_runs()
    assert "DAGSTER_HOME" not in os.environ
