"""First runs exactly once, and a watcher that keeps definitions in step with the store; reloading itself is in `test_live_reload`."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest

from elt_dagster.errors import ConfigError, TransientError
from elt_dagster.orchestration import _live_reload as reloading
from elt_dagster.orchestration import http_transport, live, sensors
from elt_dagster.orchestration.live import FirstRun, Loaded, Watcher, watcher_of
from elt_dagster.store import Store
from elt_dagster.store.schema import VERSION_TABLE
from tests.integration.dagster_project import ShopProject, shop


@pytest.fixture
def project(tmp_path: Path) -> ShopProject:
    return ShopProject.make(tmp_path)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(live, "QUIET_SECONDS", 0.0)


def on_create(project: ShopProject, slug: str = "new", **changes: Any) -> str:
    """Write a sync that runs when it is created; its id."""
    project.put(shop(slug=slug, schema=slug.replace("-", "_"), trigger_mode="on_create", **changes))
    return project.store.sync(slug).id


def tick(project: ShopProject, instance: dg.DagsterInstance, **options: Any) -> list[dg.RunRequest]:
    """What the sensor asks for after definitions were loaded anew, as after any restart; it is never given a cursor."""
    repository = project.defs(**options).get_repository_def()
    sensor = repository.get_sensor_def("elt_syncs")
    with dg.build_sensor_context(instance, repository_def=repository) as context:
        return list(sensor.evaluate_tick(context).run_requests or ())


def start(instance: dg.DagsterInstance, request: dg.RunRequest) -> str:
    """What the daemon does with a request, as far as the sensor can see it later."""
    job = dg.job(name=request.job_name or "")(_nothing)
    tags = {**request.tags, "dagster/run_key": request.run_key or ""}
    return instance.create_run_for_job(job, tags=tags).run_id


@dg.op
def nothing() -> None:
    """Stands for a sync."""


def _nothing() -> None:
    nothing()


# --- first runs ----------------------------------------------------------------------------------------------------------------


def test_the_run_that_a_creation_starts_says_what_it_is(project: ShopProject, instance: dg.DagsterInstance) -> None:
    sync_id = on_create(project, "my-shop")
    (request,) = tick(project, instance)
    assert request.run_key == f"on_create:{sync_id}"
    assert request.job_name == "sync_my_shop"
    assert request.run_config == {"resources": {"sync_run": {"config": {"run_mode": "incremental"}}}}
    assert {
        "elt/sync": "my-shop",
        "elt/sync_id": sync_id,
        "elt/triggered_by": "on_create",
    }.items() <= request.tags.items()


@pytest.mark.parametrize(
    "changes",
    [
        {"trigger_mode": "manual"},
        {"trigger_mode": None},
        {"status": "paused"},
        {"status": "archived"},
        {"status": "error"},
        {"status": "draft"},
        {"streams": []},
    ],
    ids=str,
)
def test_only_an_active_sync_that_asks_for_it_and_is_whole_has_a_first_run(
    project: ShopProject, instance: dg.DagsterInstance, changes: dict[str, Any]
) -> None:
    project.put(shop(**{"trigger_mode": "on_create", **changes}))
    assert tick(project, instance) == []


def test_a_request_that_came_to_nothing_is_made_again_under_the_same_key(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    on_create(project)
    first, second = tick(project, instance), tick(project, instance)
    assert [r.run_key for r in first] == [r.run_key for r in second] != []


def test_a_run_that_is_there_is_not_asked_for_again(project: ShopProject, instance: dg.DagsterInstance) -> None:
    on_create(project, "old")
    (request,) = tick(project, instance)
    start(instance, request)
    on_create(project, "other")
    assert [r.job_name for r in tick(project, instance)] == ["sync_other"]


def test_once_seen_it_is_never_asked_for_again_though_runs_ticks_and_instance_are_gone(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    sync_id = on_create(project)
    (request,) = tick(project, instance)
    run_id = start(instance, request)
    assert tick(project, instance) == []
    instance.delete_run(run_id)
    assert tick(project, instance) == []
    with dg.DagsterInstance.ephemeral() as another:
        assert tick(project, another) == []
    assert project.store.without_first_run({sync_id, "other"}) == {"other"}


def test_changing_pausing_and_resuming_a_sync_start_nothing_and_a_new_one_of_the_same_name_does(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    on_create(project)
    start(instance, tick(project, instance)[0])
    for changes in ({"name": "Changed"}, {"status": "paused"}, {}):
        on_create(project, **changes)
        assert tick(project, instance) == []
    with project.store.transaction() as tx:
        tx.delete_sync("new")
    again = on_create(project)
    assert [r.run_key for r in tick(project, instance)] == [f"on_create:{again}"]


def test_a_paused_sync_has_its_first_run_when_it_becomes_active(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    on_create(project, status="paused")
    assert tick(project, instance) == []
    on_create(project)
    assert len(tick(project, instance)) == 1


def test_what_is_not_loaded_here_is_not_started_here(project: ShopProject, instance: dg.DagsterInstance) -> None:
    on_create(project, "a-1")
    on_create(project, "b-1")
    assert [r.job_name for r in tick(project, instance, select="a-*")] == ["sync_a_1"]


def test_hundreds_are_started_over_several_ticks(
    project: ShopProject, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "MOST_A_TICK", 2)
    for number in range(3):
        on_create(project, f"s-{number}")
    for expected in (2, 1, 0):
        requests = tick(project, instance)
        assert len(requests) == expected
        for request in requests:
            start(instance, request)


def test_a_job_that_was_loaded_this_second_waits_for_the_next_tick(
    project: ShopProject, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "SETTLE_SECONDS", 60.0)
    on_create(project)
    assert tick(project, instance) == []


def test_a_sync_loaded_in_windows_begins_with_the_newest_and_waits_for_the_first(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    days = dg.DailyPartitionsDefinition(start_date="2026-01-01")
    later = dg.DailyPartitionsDefinition(start_date=datetime(2999, 1, 1))
    first = FirstRun("id-1", "one", "sync_one", days)
    loaded = Loaded(
        store=project.store,
        workspace="default",
        revision=project.store.revision(),
        first_runs=(first, replace(first, sync_id="id-2", windows=later)),
    )
    (request,) = sensors.tick(instance, loaded, Watcher(project.store, "default"))
    assert isinstance(request, dg.RunRequest)
    assert request.run_key == "on_create:id-1"
    assert request.partition_key == days.get_last_partition_key()


# --- the sensor ------------------------------------------------------------------------------------------------------------------


def test_definitions_bring_one_sensor_that_runs_by_itself_and_merge(project: ShopProject) -> None:
    on_create(project)

    @dg.asset
    def mine() -> None: ...

    merged = dg.Definitions.merge(project.defs(executor=None), dg.Definitions(assets=[mine]))
    (sensor,) = (s for s in merged.get_repository_def().sensor_defs if s.name != "elt_runs")
    assert (sensor.name, sensor.default_status) == ("elt_syncs", dg.DefaultSensorStatus.RUNNING)
    assert (sensor.minimum_interval_seconds or 30) < 5


def test_several_parts_of_a_workspace_share_the_sensor_of_one_and_another_workspace_has_its_own(
    project: ShopProject,
) -> None:
    project.put(shop(slug="a-1", schema="a"))
    project.put(shop(slug="b-1", schema="b"))
    project.store.create_workspace("second-one")
    parts = [
        project.defs(select="a-*"),
        project.defs(select="b-*", live=False),
        project.defs(workspace="second-one"),
    ]
    repository = dg.Definitions.merge(*parts).get_repository_def()
    assert sorted(s.name for s in repository.sensor_defs) == [
        "elt_runs", "elt_runs_second_one", "elt_syncs", "elt_syncs_second_one",
    ]  # fmt: skip


def skipped(loaded: Loaded, watcher: Watcher, instance: dg.DagsterInstance) -> str:
    (answer,) = sensors.tick(instance, loaded, watcher)
    assert isinstance(answer, dg.SkipReason)
    return str(answer.skip_message)


def test_a_tick_says_which_revision_is_loaded(project: ShopProject, instance: dg.DagsterInstance) -> None:
    project.put(shop())
    project.defs()
    watcher = watcher_of(project.store, "default")
    assert watcher.loaded is not None
    assert skipped(watcher.loaded, watcher, instance) == f"Revision {project.store.revision()} of the store is loaded."
    project.put(shop(name="Changed"))
    assert "is being loaded" in skipped(watcher.loaded, watcher, instance)


# --- the watcher -----------------------------------------------------------------------------------------------------------------


class Server:
    """Stands for `_live_reload`: loads what the store says, unless told to fail or to be of another kind."""

    def __init__(self, project: ShopProject, monkeypatch: pytest.MonkeyPatch) -> None:
        self.project, self.reloads, self.restarts = project, 0, 0
        self.error: Exception | None = None
        self.in_place = self.restartable = True
        monkeypatch.setattr(reloading, "reload_in_place", self.reload_in_place)
        monkeypatch.setattr(reloading, "restart", self.restart)

    def reload_in_place(self, repository: Any, origin: Any, version: str) -> object:
        self.reloads += 1
        if self.in_place:
            self.project.defs()
        if self.error is not None:
            raise self.error
        return "made" if self.in_place else None

    def restart(self, origin: Any) -> bool:
        self.restarts += 1
        return self.restartable


class Tick:
    """A watcher whose steps are taken by hand."""

    def __init__(self, project: ShopProject) -> None:
        project.defs()
        self.watcher = watcher_of(project.store, "default")

    def __call__(self, origin: object = None) -> Watcher:
        self.watcher._failed = False
        self.watcher._origin = origin
        self.watcher.step()
        return self.watcher


@pytest.fixture
def server(project: ShopProject, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.delenv("ELT_DAGSTER_WEBSERVER_URL", raising=False)
    return Server(project, monkeypatch)


def test_a_change_is_loaded_once(project: ShopProject, server: Server) -> None:
    tick = Tick(project)
    tick()
    assert server.reloads == 0
    project.put(shop())
    tick()
    tick()
    assert server.reloads == 1
    assert tick.watcher.loaded is not None
    assert tick.watcher.loaded.revision == project.store.revision()


def test_changes_in_a_row_are_loaded_together(
    project: ShopProject, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick = Tick(project)
    project.put(shop())
    names = iter(["One", "Two", "Three"])

    def sleep(_: float) -> None:
        if (name := next(names, None)) is not None:
            project.put(shop(name=name))

    monkeypatch.setattr(time, "sleep", sleep)
    tick()
    assert server.reloads == 1
    assert tick.watcher.loaded is not None
    assert tick.watcher.loaded.revision == project.store.revision()


def test_a_store_that_never_rests_is_loaded_all_the_same(
    project: ShopProject, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick = Tick(project)
    count = iter(range(1000))
    monkeypatch.setattr(live, "RESTLESS_SECONDS", 0.05)
    monkeypatch.setattr(time, "sleep", lambda _: project.put(shop(name=f"Name {next(count)}")))
    project.put(shop())
    tick()
    assert server.reloads == 1


@pytest.mark.parametrize("what", ["gone", "newer"])
def test_a_store_out_of_reach_or_newer_leaves_what_is_loaded_and_says_so_until_it_is_back(
    project: ShopProject, server: Server, instance: dg.DagsterInstance, what: str
) -> None:
    tick = Tick(project)
    before = tick.watcher.loaded
    assert before is not None
    project.put(shop())
    version = project.store._database
    if what == "gone":
        (project.folder / "store.sqlite").rename(project.folder / "elsewhere")
    else:
        _write(version, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    watcher = tick()
    assert server.reloads == 0
    assert watcher.loaded is before
    told = skipped(before, watcher, instance)
    assert ("not initialised" if what == "gone" else "newer version of elt-dagster") in told
    assert "stay as they are" in told
    if what == "gone":
        (project.folder / "elsewhere").rename(project.folder / "store.sqlite")
    else:
        _write(version, f"UPDATE {VERSION_TABLE} SET version_num = '{live_head()}'")
    assert tick().problem == ""
    assert server.reloads == 1


def live_head() -> str:
    from elt_dagster.store.schema import HEAD

    return HEAD


def _write(database: Any, statement: str) -> None:
    with database.write() as conn:
        conn.exec_driver_sql(statement)


@pytest.mark.parametrize("error", [ConfigError("A typo."), TransientError("No answer.")], ids=["wrong", "silent"])
def test_a_reload_that_fails_keeps_the_old_and_is_tried_again_after_the_next_tick_and_not_before(
    project: ShopProject, server: Server, error: Exception
) -> None:
    tick = Tick(project)
    before = tick.watcher.loaded
    project.put(shop())
    server.error = error
    watcher = tick()
    watcher.step()
    assert server.reloads == 1
    assert watcher.loaded is before
    assert str(error) in watcher.problem
    assert server.restarts == 0, "the definitions that work are not given up"
    server.error = None
    assert tick().problem == ""
    assert watcher.loaded is not before


def test_a_server_that_cannot_swap_is_started_anew_or_says_how_it_could(project: ShopProject, server: Server) -> None:
    tick = Tick(project)
    project.put(shop())
    server.in_place = False
    assert tick().problem == ""
    assert server.restarts == 1
    server.restartable = False
    assert "code-server start" in tick().problem


class Managed:
    """The origin of a location that every process serves for itself."""

    location_name = "elt"


def test_a_webserver_that_is_down_is_asked_again(
    project: ShopProject, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELT_DAGSTER_WEBSERVER_URL", "http://127.0.0.1:1/secret?token=hunter2")
    tick = Tick(project)
    project.put(shop())
    watcher = tick(Managed())
    assert "cannot be reached" in watcher.problem
    assert "hunter2" not in watcher.problem
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.content.decode())
        return httpx.Response(200, json={"data": {"reloadRepositoryLocation": {"__typename": "X"}}})

    real = http_transport.HttpTransport
    monkeypatch.setattr(http_transport, "HttpTransport", lambda url: real(url, httpx.MockTransport(answer)))
    assert tick(Managed()).problem == ""
    tick(Managed())
    assert len(asked) == 1
    assert server.reloads == 1, "what was loaded is not loaded again for its sake"
    assert '"elt"' in asked[0]


def test_the_watch_ends_a_while_after_the_last_tick(
    project: ShopProject, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(live, "AWAKE_SECONDS", 0.1)
    watcher = Watcher(project.store, "default")
    watcher.attend(dg.Definitions().get_repository_def(), None)
    thread = watcher._thread
    assert isinstance(thread, threading.Thread)
    assert thread.daemon, "a code server is never kept from ending"
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert server.reloads >= 1


def test_a_watch_survives_what_nobody_foresaw(
    project: ShopProject, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "AWAKE_SECONDS", -1.0)
    watcher = Watcher(project.store, "default")
    monkeypatch.setattr(Store, "look", lambda *_: 1 / 0)
    watcher._watch()
    assert "ZeroDivisionError" in watcher.problem
