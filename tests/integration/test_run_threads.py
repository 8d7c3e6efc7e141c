"""One `Runs` in many threads, while runs are made and end: on SQLite and on PostgreSQL."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from elt_dagster.control.runs import RunStatus
from elt_dagster.errors import NotFoundError
from elt_dagster.orchestration.hosting import Host
from elt_dagster.orchestration.run_reading import GraphQLReader, InstanceReader
from elt_dagster.orchestration.runs import GraphQLRuns
from elt_dagster.orchestration.tags import SYNC_ID_TAG, SYNC_TAG
from tests import servers

THREADS = 16
ROUNDS = 2
POSTGRES = """
telemetry: {enabled: false}
storage: {postgres: {postgres_url: "%s"}}
"""


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """An instance in each storage that deployments have."""
    home: Path = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, servers.database() as url:
        (home / "dagster.yaml").write_text(
            POSTGRES % url if request.param == "postgres" else "telemetry: {enabled: false}\n"
        )
        patch.setenv("DAGSTER_HOME", str(home))
        host = Host()
        yield host
        host.close()


def made(host: Host, name: str, sync: str, asset: str = "orders") -> dg.DagsterRun:
    """A run that began and reported one asset."""
    tags = {SYNC_ID_TAG: sync, SYNC_TAG: sync}
    run = dg.DagsterRun(job_name="job", run_id=name, status=dg.DagsterRunStatus.STARTED, tags=tags)
    host.instance.add_run(run)
    host.instance.report_engine_event(f"{asset} is being loaded", run)
    return run


def test_sixteen_threads_list_look_and_start_at_once(host: Host) -> None:
    runs = GraphQLRuns(host)
    began = threading.Barrier(THREADS)

    def work(number: int) -> list[str]:
        began.wait()
        names = []
        for turn in range(ROUNDS):
            # a sync has fewer runs than a page
            name, sync = f"many-{number}-{turn}", f"sync-{number % 4}"
            run = made(host, name, sync)
            assert runs.get(name).status is RunStatus.RUNNING
            assert runs.latest([sync, "never"])[sync].newest is not None
            assert runs.active(sync) is not None
            assert name in {v.id for v in runs.page([sync], limit=10, streams=turn == 0).items}
            host.instance.report_run_canceled(run)
            assert runs.get(name).status is RunStatus.CANCELLED
            names.append(name)
        return names

    with ThreadPoolExecutor(THREADS) as pool:
        names = {name for found in pool.map(work, range(THREADS)) for name in found}
    page = runs.page([f"sync-{n}" for n in range(4)], limit=200)
    assert ({v.id for v in page.items}, page.total) == (names, THREADS * ROUNDS)
    assert all(runs.active(f"sync-{n}") is None for n in range(4))


def test_pages_join_while_runs_are_made(host: Host) -> None:
    runs = GraphQLRuns(host)
    for number in range(6):
        made(host, f"page-{number}", "paged")
    first = runs.page(["paged"], limit=3)
    made(host, "page-new", "paged")
    second = runs.page(["paged"], limit=3, before=first.items[-1].id)
    assert [v.id for v in (*first.items, *second.items)] == [f"page-{n}" for n in range(5, -1, -1)]
    assert second.total == 7


def test_the_instance_and_graphql_read_the_same_of_a_run(host: Host) -> None:
    name = f"whole-{type(host.instance.run_storage).__name__}"

    @dg.asset(name="good", metadata={"elt/stream": "good"})
    def good() -> dg.MaterializeResult[Any]:
        rate = {"elt/rows_read": 3_000_000_000, "share": 0.5, "nothing": float("nan")}
        return dg.MaterializeResult(metadata={**rate, "note": dg.MarkdownMetadataValue("*x*"), "page": dg.UrlMetadataValue("u")})  # fmt: skip

    @dg.asset(name="bad", deps=["good"])
    def bad(context: dg.AssetExecutionContext) -> None:
        seen: dict[str, Any] = {"elt/backend": "prefect", "elt/counts/estimated_rows": 7_000_000_000}
        context.log_event(dg.AssetObservation("bad", metadata=seen))
        try:
            raise KeyError("row")
        except KeyError as error:
            raise dg.Failure("It was refused.", metadata={"elt/reason": "auth_failed"}) from error

    done = dg.materialize([good, bad], instance=host.instance, raise_on_error=False, tags={SYNC_ID_TAG: name})
    own, asked = InstanceReader(host.instance), GraphQLReader(host)
    one, other = own.whole([done.run_id, "gone"]), asked.whole([done.run_id, "gone"])
    assert set(one) == set(other) == {done.run_id}
    assert len(one[done.run_id]["stepStats"]) == 2
    for run in (one, other):
        runs = GraphQLRuns(host)
        runs._details.reader = own if run is one else asked
        view = runs.get(done.run_id)
        assert {s.stream: s.status for s in view.streams} == {"good": RunStatus.COMPLETED, "bad": RunStatus.FAILED}
        (failed,) = view.failures
        assert (failed.error, failed.reason) == ("It was refused.", "auth_failed")
        assert failed.expected_rows == 7_000_000_000
        assert view.summary["rows_loaded"] == 3_000_000_000
        assert view.heartbeat_at is not None


def test_what_is_under_way_is_asked_of_both_alike(host: Host) -> None:
    sync = f"busy-{type(host.instance.run_storage).__name__}"
    for number, status in enumerate(
        (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.SUCCESS)
    ):
        run = dg.DagsterRun(job_name="job", run_id=f"{sync}-{number}", status=status, tags={SYNC_ID_TAG: sync})
        host.instance.add_run(run)
    runs = GraphQLRuns(host, fresh_seconds=3600)
    for reader in (InstanceReader(host.instance), GraphQLReader(host)):
        runs._details.reader = reader
        assert reader.active(sync) == [f"{sync}-1", f"{sync}-0"]
        assert reader.active("another") == []
        # a run of no chosen assets loads every stream
        assert runs.active(sync, "orders") == f"{sync}-1"
    assert runs.latest([sync])[sync].active is not None
    started = dg.DagsterRun(
        job_name="job", run_id=f"{sync}-3", status=dg.DagsterRunStatus.NOT_STARTED, tags={SYNC_ID_TAG: sync}
    )
    host.instance.add_run(started)  # by another server
    assert runs.active(sync) == f"{sync}-3"


def test_what_is_no_id_is_not_found(host: Host) -> None:
    runs = GraphQLRuns(host)
    for name in ("", "a\0b", "\ud800", "x" * 300, "' or 1=1 --", "gone"):
        with pytest.raises(NotFoundError):
            runs.get(name)
        with pytest.raises(NotFoundError):
            runs.page(["paged"], limit=1, before=name)
        with pytest.raises(NotFoundError):
            runs.stream_page("paged", "orders", limit=1, after=name)
