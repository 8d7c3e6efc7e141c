"""Lists of runs, asked of the instance and asked over GraphQL: both say the same."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy.exc import OperationalError

from elt_dagster.control.runs import LatestRuns, RunStatus
from elt_dagster.errors import NotFoundError, TransientError
from elt_dagster.orchestration.graphql import Transport
from elt_dagster.orchestration.hosting import Host, instance_of_webserver
from elt_dagster.orchestration.newest_runs import Newest
from elt_dagster.orchestration.run_lists import ACTIVE, GraphQLLists, InstanceLists, RunLists
from elt_dagster.orchestration.runs import GraphQLRuns
from elt_dagster.orchestration.tags import ROOT_RUN_TAG, SYNC_ID_TAG, SYNC_TAG

FINISHED = dg.DagsterRunStatus.SUCCESS


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """An instance with eight runs of two syncs, of which the seventh is under way and the eighth retries the first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(tmp_path_factory.mktemp("home")))
        host = Host()
        for number in range(8):
            tags = {
                SYNC_ID_TAG: f"sync-{number % 2}",
                SYNC_TAG: "s",
                **({ROOT_RUN_TAG: "run-0"} if number == 7 else {}),
            }
            status = dg.DagsterRunStatus.STARTED if number == 6 else FINISHED
            host.instance.add_run(dg.DagsterRun(job_name="job", run_id=f"run-{number}", status=status, tags=tags))
        yield host
        host.close()


@pytest.fixture(params=["instance", "graphql"])
def lists(request: pytest.FixtureRequest, host: Host) -> RunLists:
    return InstanceLists(host.instance) if request.param == "instance" else GraphQLLists(host)


def ids(runs: object) -> list[str]:
    return [run["runId"] for run in runs]  # type: ignore[attr-defined]


def test_pages_are_newest_first_and_join_without_gap(lists: RunLists) -> None:
    mine = {SYNC_ID_TAG: "sync-0"}
    assert ids(lists.page(mine, limit=2, offset=0, before=None)) == ["run-6", "run-4"]
    assert (
        ids(lists.page(mine, limit=2, offset=2, before=None))
        == ids(lists.page(mine, limit=2, offset=0, before="run-4"))
        == ["run-2", "run-0"]
    )
    assert ids(lists.page(mine, limit=9, offset=9, before=None)) == []
    assert ids(lists.page(mine, limit=1, offset=0, before="run-2", ascending=True)) == ["run-4"]
    assert ids(lists.page(mine, limit=9, offset=0, before=None, ascending=True)) == ["run-0", "run-2", "run-4", "run-6"]
    assert (lists.count(mine), lists.count({SYNC_ID_TAG: "none"})) == (4, 0)


def test_the_newest_of_each_sync_is_found_in_any_state(lists: RunLists) -> None:
    both = ["sync-0", "sync-1", "none"]
    assert sorted(ids(lists.newest(SYNC_ID_TAG, both, None))) == ["run-6", "run-7"]
    assert sorted(ids(lists.newest(SYNC_ID_TAG, both, [FINISHED]))) == ["run-4", "run-7"]
    assert ids(lists.newest(SYNC_ID_TAG, both, ACTIVE)) == ["run-6"]
    assert ids(lists.groups(["run-0", "run-1"])) == ["run-7"]


def test_what_was_started_or_ended_since_is_seen_by_the_next_look(lists: RunLists, host: Host) -> None:
    newest = Newest(lists)
    name = f"moving-{type(lists).__name__}"
    assert newest.of([name, "sync-1"])[name] == (None, None, [])
    tags = {SYNC_ID_TAG: name}
    first = dg.DagsterRun(job_name="job", run_id=f"{name}-1", status=dg.DagsterRunStatus.STARTED, tags=tags)
    host.instance.add_run(first)
    last, success, active = newest.of([name])[name]
    assert last is not None
    assert (last["runId"], success, ids(active)) == (first.run_id, None, [first.run_id])
    host.instance.report_run_canceled(first)
    host.instance.add_run(dg.DagsterRun(job_name="job", run_id=f"{name}-2", status=FINISHED, tags=tags))
    last, success, active = newest.of([name])[name]
    assert last is not None
    assert success is not None
    assert (last["runId"], success["runId"], active) == (f"{name}-2", f"{name}-2", [])
    host.instance.delete_run(f"{name}-2")
    assert ids(r for r in newest.of([name])[name][:1] if r) == [first.run_id]
    host.instance.delete_run(first.run_id)


def test_a_server_that_asks_often_looks_now_and_then_and_after_what_it_did_itself(host: Host) -> None:
    now = [0.0]
    newest = Newest(InstanceLists(host.instance), lambda: now[0], fresh_seconds=1.0)
    assert newest.of(["often"])["often"] == (None, None, [])
    host.instance.add_run(dg.DagsterRun(job_name="job", run_id="often-1", status=FINISHED, tags={SYNC_ID_TAG: "often"}))
    assert newest.of(["often"])["often"][0] is None
    newest.outdated()
    assert newest.of(["often"])["often"][0] is not None
    host.instance.delete_run("often-1")
    now[0] = 2.0
    assert newest.of(["often"])["often"][0] is None


def test_both_give_runs_in_the_same_fields(host: Host) -> None:
    one, other = (
        of.page({SYNC_ID_TAG: "sync-1"}, limit=1, offset=0, before=None)[0]
        for of in (InstanceLists(host.instance), GraphQLLists(host))
    )
    for name in ("runId", "status", "jobName", "creationTime", "startTime", "endTime"):
        assert one[name] == other[name], name
    assert set(one) <= set(other)


def test_a_page_after_a_run_that_is_gone_is_refused(host: Host) -> None:
    with pytest.raises(NotFoundError, match="no run 'gone'"):
        InstanceLists(host.instance).page({SYNC_ID_TAG: "sync-0"}, limit=1, offset=0, before="gone")


def test_what_a_list_of_syncs_shows_is_one_answer(host: Host) -> None:
    runs = GraphQLRuns(host)
    latest = runs.latest(["sync-0", "sync-1", "none"])
    newest, active = latest["sync-0"].newest, latest["sync-0"].active
    assert newest is not None
    assert active is not None
    assert (newest.id, newest.sync_id, active.id, active.status) == ("run-6", "sync-0", "run-6", RunStatus.RUNNING)
    assert latest["none"] == LatestRuns()
    assert (runs.active("sync-0"), runs.active("sync-1")) == ("run-6", None)
    page = runs.page(["sync-0", "sync-1"], limit=3, offset=1)
    assert ([v.id for v in page.items], page.total) == (["run-6", "run-5", "run-4"], 8)
    (retried,) = [v for v in runs.page(["sync-0"], limit=9, streams=True).items if v.id == "run-0"]
    assert (retried.attempt, retried.result_class is not None) == (1, True)


def test_the_instance_of_another_webserver_is_not_taken_for_ours(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport: Transport = host
    ours = transport.instance_at_hand()
    assert ours is not None
    with dg.DagsterInstance.get() as home:
        found = instance_of_webserver(home.info_str())
        assert found is not None
        found.dispose()
    assert instance_of_webserver("another") is None
    assert instance_of_webserver(None) is None
    monkeypatch.delenv("DAGSTER_HOME")
    assert instance_of_webserver(ours.info_str()) is None


def test_a_storage_that_does_not_answer_is_told_without_its_address(tmp_path: Path) -> None:
    class Away:
        def get_runs_count(self, filters: object) -> int:
            raise OperationalError("SELECT", {}, Exception("host=10.0.0.9 user=secret"))

    with pytest.raises(TransientError, match="OperationalError") as told:
        InstanceLists(Away()).count({})  # type: ignore[arg-type]
    assert "10.0.0.9" not in str(told.value)
