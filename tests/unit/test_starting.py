"""Several starts of one sync at once: from threads of two servers that share a store, on both engines."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from threading import Barrier
from typing import Any

import pytest
import sqlalchemy as sa

from elt_dagster.control import running as module
from elt_dagster.control import starting as claiming
from elt_dagster.control.running import Running
from elt_dagster.control.runs import RunStatus
from elt_dagster.control.setup import Setup
from elt_dagster.control.starting import starting
from elt_dagster.control.workspace import Workspace
from elt_dagster.errors import ConflictError, TransientError
from elt_dagster.model import ConnectionSpec, SyncSpec
from elt_dagster.store import Store, StoredSync
from elt_dagster.store.location import store_url
from tests import servers
from tests.dagster_connectors.scripted import STREAMS
from tests.unit.connect_stage import MemoryRuns

THREADS = 8
ORDERS, CUSTOMERS = "public.orders", "public.customers"
_numbers = itertools.count(1)


@dataclass
class SlowRuns(MemoryRuns):
    """Between a look and a launch there is time for others to look as well."""

    fails: bool = False
    seconds: float = 0.03
    started: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def launch(self, sync: str, **wish: Any) -> str:
        time.sleep(self.seconds)
        if self.fails:
            raise TransientError("Dagster cannot be reached.")
        self.started.append({"sync": sync, **wish})
        return super().launch(sync, **wish)

    def retry(self, run_id: str, *, run_mode: Any = None, trigger_ref: str = "") -> str:
        before = self.get(run_id)
        return self.launch(before.sync, sync_id=before.sync_id)


@dataclass
class Servers:
    """Two of them, each with a store of its own over the same tables, and one Dagster."""

    stores: tuple[Store, Store]
    runs: SlowRuns
    sync: StoredSync

    def running(self, number: int) -> Running:
        """The use cases on runs, in one of the servers."""
        return Running(Workspace(store=self.stores[number % 2]), self.runs)  # type: ignore[arg-type]  # as much of Runs as is asked

    def at_once(self, starts: Sequence[Callable[[Running], object]]) -> list[object]:
        """What came of each: an answer, or an error."""
        together = Barrier(len(starts))

        def start(number: int) -> object:
            together.wait()
            try:
                return starts[number](self.running(number))
            except ConflictError as error:
                return error

        with ThreadPoolExecutor(len(starts)) as pool:
            return list(pool.map(start, range(len(starts))))

    def trigger(self, *streams: str) -> Callable[[Running], object]:
        """A start of the sync, or of some of its streams."""
        return lambda running: running.trigger(self.sync.id, streams=streams or None)

    def expire(self, seconds: float) -> None:
        """Have every claim end so soon."""
        with self.stores[0]._database.write() as conn:
            conn.execute(sa.text("UPDATE elt_leases SET expires_at = expires_at - 8 + :s"), {"s": seconds})


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def stores(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Store]]:
    with servers.database() if request.param == "postgres" else nullcontext() as database:
        url = store_url(database or f"sqlite:///{tmp_path_factory.mktemp('starts')}/store.sqlite")
        both = Store(url), Store(url)
        both[0].init()
        with both[0].transaction() as tx:
            source = {"host": "nowhere", "database": "shop", "user": "me"}
            tx.put_connection(ConnectionSpec(name="source", connector="postgres", config=source))
            tx.put_connection(ConnectionSpec(name="warehouse", connector="duckdb", config={"path": "/nowhere"}))
        yield both
        for store in both:
            store.close()


@pytest.fixture
def two(stores: tuple[Store, Store]) -> Servers:
    """A sync that has never run."""
    slug = f"shop-{next(_numbers)}"
    return Servers(stores, SlowRuns(lambda _: [ORDERS, CUSTOMERS]), put(stores[0], slug))


def put(store: Store, slug: str, **changes: Any) -> StoredSync:
    plain = {"slug": slug, "connection": "source", "destination": "warehouse", "schema": slug.replace("-", "_")}
    chosen = {"streams": [{"name": ORDERS}, {"name": CUSTOMERS}]}
    with store.transaction() as tx:
        return tx.put_sync(SyncSpec.model_validate({**plain, **chosen, **changes}), {s.name: s for s in STREAMS})


def check_one(two: Servers, found: list[object]) -> None:
    """One run was started, and everybody else was told which."""
    (run,) = two.runs.views
    assert found.count(run.id) <= 1
    refused = [error for error in found if isinstance(error, ConflictError)]
    assert len(refused) == len(found) - 1
    assert {error.with_id for error in refused} == {run.id}


def test_of_starts_at_once_one_gets_a_run_and_the_others_are_told_which(two: Servers) -> None:
    check_one(two, two.at_once([two.trigger()] * THREADS))
    (wish,) = two.runs.started
    assert wish["as_stored"].revision == two.sync.revision
    assert wish["as_stored"].streams == (ORDERS, CUSTOMERS)


def test_without_the_claim_there_would_be_several(two: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "starting", lambda *_: nullcontext())
    two.runs.seconds = 0.3  # whoever is late has time to look
    two.at_once([two.trigger()] * THREADS)
    assert len(two.runs.views) > 1


def test_activating_a_draft_twice_at_once_starts_one_run(two: Servers) -> None:
    two.sync = put(two.stores[0], two.sync.slug, status="draft")
    check_one(two, two.at_once([lambda it: Setup(it.workspace, it).start(two.sync.id)] * 4))


def test_retries_at_once_make_one_attempt(two: Servers) -> None:
    first = two.runs.launch(two.sync.slug, sync_id=two.sync.id)
    two.runs.put(first, RunStatus.FAILED)
    found = two.at_once([lambda it: it.retry(first)] * 4)
    two.runs.views.pop(0)
    check_one(two, found)


def test_runs_of_different_streams_may_start_at_once(two: Servers) -> None:
    found = two.at_once([two.trigger(ORDERS), two.trigger(CUSTOMERS)])
    assert found == [two.runs.active(two.sync.id, ORDERS), two.runs.active(two.sync.id, CUSTOMERS)]
    assert len(two.runs.views) == 2


@pytest.mark.parametrize("other", [(), (ORDERS,)], ids=["the whole sync", "the same stream"])
def test_runs_that_share_a_stream_may_not(two: Servers, other: tuple[str, ...]) -> None:
    check_one(two, two.at_once([two.trigger(ORDERS), two.trigger(*other)]))


def test_a_launch_that_fails_gives_the_claim_back(two: Servers) -> None:
    two.runs.fails = True
    with pytest.raises(TransientError):
        two.running(0).trigger(two.sync.id)
    two.runs.fails = False
    begun = time.monotonic()
    two.running(1).trigger(two.sync.id)
    assert time.monotonic() - begun < 5


def test_a_killed_server_holds_a_sync_up_only_until_its_claim_ends(two: Servers) -> None:
    assert two.stores[0].claims.take(two.sync.id, "killed")
    two.expire(0.3)
    begun = time.monotonic()
    two.running(1).trigger(two.sync.id)
    assert 0.2 < time.monotonic() - begun < 5
    (run,) = two.runs.views
    assert run.sync_id == two.sync.id


def test_a_start_that_takes_long_keeps_its_claim_and_is_not_waited_for_for_ever(
    two: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "_RENEW_SECONDS", 0.05)
    with starting(two.stores[0], two.sync):
        two.expire(0.6)
        time.sleep(0.7)
        with (
            pytest.raises(ConflictError, match="is being started"),
            starting(two.stores[1], two.sync, wait_seconds=0.1),
        ):
            pytest.fail("two at once")
    with starting(two.stores[1], two.sync, wait_seconds=0):
        pass


def test_a_claim_that_another_took_is_neither_renewed_nor_given_back(two: Servers) -> None:
    one, other = (store.claims for store in two.stores)
    assert one.take(two.sync.id, "late", seconds=0)
    assert other.take(two.sync.id, "next")
    assert not one.renew(two.sync.id, "late")
    one.release(two.sync.id, "late")
    assert not one.take(two.sync.id, "third")
    assert other.renew(two.sync.id, "next")
    other.release(two.sync.id, "next")
    assert one.take(two.sync.id, "third")


def test_a_claim_from_before_the_clock_was_set_back_is_free(two: Servers) -> None:
    assert two.stores[0].claims.take(two.sync.id, "future", seconds=86_400)
    assert two.stores[1].claims.take(two.sync.id, "now")
