"""Connections that break, two runs at once, a process that slept through its lease, a full disk: the error is of the right class, and the next
run ends with exactly the source's rows."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from elt_dagster.control.connections import StoreConnections
from elt_dagster.destinations import _postgres_load
from elt_dagster.destinations.base import LoadPlan
from elt_dagster.destinations.duckdb import DuckDB
from elt_dagster.errors import ConflictError, DestinationError, TransientError
from elt_dagster.model import Batch, LoadMode, ReadRequest
from elt_dagster.registry import load_connector
from elt_dagster.store import open_store
from tests import servers
from tests.chaos.child import FAILED, Step, Task, arm, read
from tests.chaos.harness import LONGEST_SECONDS, loaded, start
from tests.chaos.source import TIES, ChangingSource, Kind, difference, rows_of_phase
from tests.contract.test_postgres_destination import config_of, execute

BROKEN_OFF = TransientError("The source went away.")
TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND application_name = 'elt_dagster destination'"
)


@pytest.fixture(params=["duckdb", "postgres"])
def task(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Task]:
    """A keyed append into a warehouse of its own, whose first phase is loaded."""
    store_url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    open_store(store_url).init()
    with servers.database("cuts") if request.param == "postgres" else nullcontext("") as url:
        config = config_of(url) if url else {"path": str(tmp_path / "w.duckdb"), "threads": 1}
        yield first_phase(Task(
            warehouse=request.param, config=config, store_url=store_url, table="cut", kind=Kind.APPEND_KEYED, phase=0
        ))  # fmt: skip


@pytest.fixture
def postgres_task(postgres_database: str, tmp_path: Path) -> Task:
    """The same, on PostgreSQL only."""
    store_url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    open_store(store_url).init()
    config = config_of(postgres_database)
    return first_phase(Task(
        warehouse="postgres", config=config, store_url=store_url, table="cut", kind=Kind.APPEND, phase=0
    ))  # fmt: skip


def first_phase(task: Task) -> Task:
    """``task`` for the second phase, the first being loaded."""
    read(task).load()
    return replace(task, phase=1)


def missing_and_doubled(task: Task) -> tuple[int, int]:
    return difference(rows_of_phase(task.kind, task.phase), loaded(task))


@pytest.mark.parametrize("kind", list(Kind))
def test_a_source_that_breaks_off_costs_nothing(task: Task, kind: Kind) -> None:
    task = first_phase(replace(task, kind=kind, table=kind.name.lower(), phase=0))
    before = len(loaded(task))
    with pytest.raises(TransientError) as raised:
        read(task, ChangingSource(kind, 1, fail_after=2, failure=BROKEN_OFF)).load()
    assert raised.value is BROKEN_OFF
    midway = len(loaded(task))
    assert midway == before if kind is Kind.REPLACE else midway > before, "what was committed before stays"
    read(task).load()
    assert missing_and_doubled(task) == (0, 0)


@pytest.mark.parametrize(
    "step", [Step.AFTER_STAGE, Step.BEFORE_COMMIT, Step.ROWS_WITHOUT_STATE, Step.STATE_WITHOUT_COMMIT]
)
def test_a_warehouse_that_hangs_up_is_tried_again(
    postgres_task: Task, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    for owner, name in (
        (_postgres_load.PostgresLoad, "stage"),
        (_postgres_load.PostgresLoad, "commit"),
        (_postgres_load, "save_state"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # to have it back afterwards
    cuts = iter([TERMINATE])

    def cut() -> None:
        if statement := next(cuts, None):
            execute(postgres_task.config, statement)

    before = loaded(postgres_task)
    arm("postgres", step, cut)
    with pytest.raises(TransientError):
        read(postgres_task).load()
    assert loaded(postgres_task) == before
    read(postgres_task).load()
    assert missing_and_doubled(postgres_task) == (0, 0)


# --- PostgreSQL restarted


@pytest.fixture(scope="module")
def restartable() -> Iterator[servers.OwnServer]:
    """A server that nobody else is on."""
    with servers.own_server() as server:
        yield server


@pytest.mark.parametrize("kind", [Kind.APPEND, Kind.MERGE, Kind.REPLACE])
@pytest.mark.parametrize("step", [Step.AFTER_STAGE, Step.STATE_WITHOUT_COMMIT])
def test_a_warehouse_that_restarts_in_the_middle_is_tried_again(
    restartable: servers.OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, step: Step
) -> None:
    store_url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    open_store(store_url).init()
    config = config_of(restartable.url)
    table = f"{kind.name}_{step.name}".lower()
    task = first_phase(Task(
        warehouse="postgres", config=config, store_url=store_url, table=table, kind=kind, phase=0
    ))  # fmt: skip
    for owner, name in ((_postgres_load.PostgresLoad, "stage"), (_postgres_load, "save_state")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # to have it back afterwards
    before = loaded(task)
    arm("postgres", step, once(restartable.restart))
    with pytest.raises(TransientError):
        read(task).load()
    assert loaded(task) == before
    read(task).load()
    assert missing_and_doubled(task) == (0, 0)


def once(action: Callable[[], None]) -> Callable[[], None]:
    """``action``, which does nothing from the second call on."""
    left = iter([action])

    def act() -> None:
        for wanted in left:
            wanted()

    return act


class InSmallBatches:
    """A connector whose server is restarted after the first batch of its first read, while most of the rows are still there."""

    def __init__(self, connector: Any, restart: Callable[[], None]) -> None:
        self.name = connector.name
        self._connector, self._restart = connector, once(restart)

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        for batch in self._connector.read(replace(request, batch_bytes=64 * 1024)):
            yield batch
            self._restart()


def test_a_source_that_restarts_in_the_middle_is_read_again(restartable: servers.OwnServer, tmp_path: Path) -> None:
    rows = 60_000
    config = config_of(restartable.url)
    execute(config, f"CREATE TABLE IF NOT EXISTS long_events AS SELECT n AS id, n / {TIES} AS at, repeat('x', 500) AS note "
            f"FROM generate_series(1, {rows}) n")  # fmt: skip
    store_url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    open_store(store_url).init()
    task = Task(
        warehouse="duckdb", config={"path": str(tmp_path / "w.duckdb"), "threads": 1}, store_url=store_url,
        table="long_events", kind=Kind.APPEND_KEYED, phase=0,
    )  # fmt: skip
    connector = load_connector("postgres").configured(config)
    (found,) = [s for s in connector.discover().streams if s.name == "public.long_events"]
    source: Any = InSmallBatches(connector, restartable.restart)
    with pytest.raises(TransientError):
        read(task, source, stream=found).load()
    assert read(task, source, stream=found).load().table_rows == rows
    assert {row[0] for row in loaded(task)} == set(range(1, rows + 1))


def test_a_second_run_is_refused_with_the_id_of_the_first(task: Task) -> None:
    connections = StoreConnections(open_store(task.store_url))
    with connections.lease(task.binding_id, "run-first"):
        with pytest.raises(ConflictError, match="run-first") as refused:
            read(task, lease=lambda: other_process(task)).load()
        assert refused.value.with_id == "run-first"
    read(task).load()
    assert missing_and_doubled(task) == (0, 0)


def other_process(task: Task) -> Any:
    store = open_store(task.store_url)
    lease = store.acquire_lease(task.binding_id, "another process", "run-second")
    return nullcontext(lease.fence)


@pytest.mark.parametrize("kind", list(Kind))
def test_without_leases_only_one_of_two_runs_commits(task: Task, kind: Kind) -> None:
    task = first_phase(replace(task, kind=kind, table=kind.name.lower(), phase=0))
    state = task.destination().state("chaos", task.binding_id)
    assert state is not None
    fence, overtaken = state.fence, False

    class Overtaken(ChangingSource):
        def read(self, request: Any) -> Any:
            nonlocal overtaken
            for batch in super().read(request):
                if not overtaken:
                    overtaken = True
                    read(task, lease=lambda: nullcontext(fence)).load()
                yield batch

    with pytest.raises(TransientError, match="while this load was reading"):
        read(task, Overtaken(kind, 1), lease=lambda: nullcontext(fence)).load()
    assert overtaken
    assert missing_and_doubled(task) == (0, 0)


def test_a_process_that_slept_through_its_lease_cannot_commit(task: Task) -> None:
    asleep = replace(
        task, step=Step.BEFORE_COMMIT, sent=signal.SIGSTOP, holder="sleeper", run_id="asleep", lease_seconds=1.0
    )
    child = start(asleep)
    assert child.pid is not None
    wait_until_stopped(child.pid)
    awake = replace(task, holder="awake", run_id="run-awake")
    refusals = loads_once_it_may(awake)
    assert set(refusals) <= {"asleep"}
    rows, history = loaded(task), task.destination().history("chaos", task.binding_id)
    os.kill(child.pid, signal.SIGCONT)
    child.join(LONGEST_SECONDS)
    assert child.exitcode == FAILED
    assert loaded(task) == rows
    assert task.destination().history("chaos", task.binding_id) == history
    assert missing_and_doubled(task) == (0, 0)


def loads_once_it_may(task: Task) -> list[str | None]:
    """Load as soon as the lease can be had; the ids of the runs that were in the way."""
    refusals: list[str | None] = []
    deadline = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < deadline:
        try:
            read(task).load()
        except ConflictError as refused:
            refusals.append(refused.with_id)
            time.sleep(0.1)
        else:
            return refusals
    raise AssertionError("the lease never passed")


def wait_until_stopped(pid: int) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline, "it never came to its commit"
        time.sleep(0.02)


# --- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("full", ["staging", "warehouse"])
@pytest.mark.parametrize("mode", [LoadMode.APPEND, LoadMode.REPLACE])
def test_a_full_disk_is_told_and_leaves_the_table(small_disk: Path, tmp_path: Path, mode: LoadMode, full: str) -> None:
    place = {"staging": tmp_path, "warehouse": small_disk}[full]
    staging = {"staging": small_disk, "warehouse": tmp_path / "staging"}[full]
    warehouse = DuckDB.configured({"path": str(place / "w.duckdb"), "staging": str(staging), "threads": 1})
    few, many = random_rows(1_000), random_rows(2_000_000)
    load(warehouse, few, mode)
    with pytest.raises(DestinationError, match=r"(?i)space|disk"):
        load(warehouse, many, mode)
    assert [s.run_id for s in warehouse.history("raw", "b")] == ["run"]
    plan = plan_for(warehouse, mode)
    assert warehouse.read(plan.table).read_all().sort_by("id").equals(pa.table(few).sort_by("id"))
    assert not list(staging.glob("*")), "what was staged is gone"
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)  # somebody frees some space
    load(warehouse, many, LoadMode.REPLACE)
    load(warehouse, few, LoadMode.REPLACE)
    assert warehouse.count(plan.table) == few.num_rows


def random_rows(count: int) -> pa.RecordBatch:
    """Eight bytes per row that no compression makes smaller."""
    values = pa.Array.from_buffers(pa.int64(), count, [None, pa.py_buffer(os.urandom(8 * count))])
    return pa.record_batch([values], names=["id"])


def plan_for(warehouse: Any, mode: LoadMode) -> LoadPlan:
    from elt_dagster.destinations.base import TableRef

    state = warehouse.state("raw", "b")
    return LoadPlan(
        table=TableRef("raw", "t"), columns=pa.schema([("id", pa.int64())]), mode=mode, binding_id="b",
        load_id=os.urandom(8).hex(), run_id="run", after_load=state.load_id if state else None,
    )  # fmt: skip


def load(warehouse: Any, rows: pa.RecordBatch, mode: LoadMode) -> None:
    with warehouse.begin(plan_for(warehouse, mode)) as begun:
        for start in range(0, rows.num_rows, 100_000):
            begun.stage(rows.slice(start, 100_000))
        begun.commit(None)
