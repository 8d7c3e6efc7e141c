"""One pace per connection, whoever asks, in whatever thread or process."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from elt_dagster.control.connections import StoreConnections
from elt_dagster.errors import TransientError
from elt_dagster.sdk.budget import Budget, Ledger, LocalLedger, Page, grant
from elt_dagster.sdk.connector import Runtime
from elt_dagster.sdk.http import Http
from elt_dagster.sdk.pages import Call
from elt_dagster.store import Store, open_store

NEARLY_USED = {"x-ratelimit-limit": "100", "x-ratelimit-remaining": "10", "x-ratelimit-reset": "5"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = open_store(f"sqlite:///{tmp_path}/store.sqlite")
    found.init()
    yield found
    found.close()


@pytest.fixture(params=["process", "store"])
def ledger(request: pytest.FixtureRequest, store: Store) -> Ledger:
    return LocalLedger() if request.param == "process" else StoreConnections(store).ledger("shop")


def test_turns_follow_each_other_and_are_taken_in_small_leases() -> None:
    turns, page = grant(Page(), 100.0, 10.0, 60.0)
    assert (turns.wait, turns.interval, turns.count) == (0.0, 0.1, 10)
    turns, page = grant(page, 100.5, 10.0, 60.0)
    assert turns.wait == pytest.approx(0.5)
    assert turns.count == 10
    turns, after = grant(page, 100.5, 10.0, 1.0)
    assert (turns.count, after) == (0, page), "who has no patience takes no turn"


def test_the_slowest_rate_counts_and_pauses_come_before_it() -> None:
    slowed = Page(left_over=2.0, left_over_until=200.0, hold_until=103.0)
    assert grant(slowed, 100.0, 10.0, 60.0)[0].interval == 0.5
    assert grant(slowed, 100.0, None, 60.0)[0].wait == 3.0
    assert grant(slowed, 300.0, 10.0, 60.0)[0].interval == 0.1, "after the reset the vendor's limit is full again"
    assert grant(Page(), 300.0, None, 60.0)[0].interval == 0, "no limit, no turns"


def test_threads_and_budgets_of_one_ledger_keep_one_pace(ledger: Ledger) -> None:
    budgets = [Budget(100.0, ledger) for _ in range(3)]
    began, count = time.time(), 20

    def ask(budget: Budget) -> None:
        for _ in range(count):
            time.sleep(budget.wait(time.time(), 60.0))

    threads = [threading.Thread(target=ask, args=(budget,)) for budget in budgets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.time() - began >= 3 * count / 100.0 - 0.25, "three readers are not three times as fast"


def test_a_pause_that_one_was_asked_for_holds_all(ledger: Ledger) -> None:
    first, second = Budget(None, ledger), Budget(50.0, ledger)
    now = time.time()
    assert first.wait(now, 60.0) == 0.0
    assert second.wait(now, 60.0) < 0.1
    first.hold(30.0)
    for budget in (first, Budget(None, ledger), Budget(50.0, ledger)):
        assert 25 < budget.wait(now, 60.0) <= 30.1


def test_a_limit_that_is_nearly_used_up_slows_all_and_a_fresh_one_nobody(ledger: Ledger) -> None:
    now = time.time()
    fresh = {**NEARLY_USED, "x-ratelimit-remaining": "60"}
    Budget(None, ledger).heard(fresh, now)
    assert Budget(None, ledger).wait(now, 60.0) == 0.0
    Budget(None, ledger).heard(NEARLY_USED, now)
    other = Budget(None, ledger)
    waits = [other.wait(now, 60.0) for _ in range(4)]
    assert waits[1] - waits[0] == pytest.approx(0.5, abs=0.05), "ten requests for five seconds"
    Budget(None, ledger).heard({**NEARLY_USED, "x-ratelimit-remaining": "0"}, now)
    assert Budget(None, ledger).wait(now, 60.0) > 4


@pytest.mark.parametrize(
    "headers", [{}, {"x-ratelimit-limit": "0"}, {"x-ratelimit-limit": "many", "x-ratelimit-remaining": "few"}]
)
def test_headers_that_say_nothing_slow_nobody(headers: dict[str, str]) -> None:
    budget = Budget()
    budget.heard(headers, 100.0)
    assert budget.wait(100.0, 60.0) == 0.0


def test_a_wait_too_long_for_a_worker_is_handed_to_dagster(store: Store) -> None:
    ledger = StoreConnections(store).ledger("shop")
    ledger.hold(600.0)
    answered = httpx.MockTransport(lambda request: httpx.Response(200, json=[]))
    with (
        Http(
            "https://api.test", title="Shop", runtime=Runtime(transport=answered), budget=Budget(None, ledger)
        ) as http,
        pytest.raises(TransientError, match="shared by all syncs") as waits,
    ):
        http.fetch(Call(url="orders"))
    assert waits.value.retry_after is not None
    assert 590 < waits.value.retry_after <= 600


def test_a_store_out_of_reach_slows_nobody(tmp_path: Path) -> None:
    gone = open_store("postgresql+psycopg2://nobody@127.0.0.1:1/none")
    ledger = StoreConnections(gone).ledger("shop")
    assert ledger.take(None, 60.0).wait == 0.0
    assert ledger.take(5.0, 60.0).interval == 0.2
    ledger.hold(5.0)
    ledger.slow(1.0, 5.0)
