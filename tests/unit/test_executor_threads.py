"""Between threads: who writes, who is refused, who is told to stop and how."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import duckdb
import pytest

from elt_dagster.orchestration._executor_desk import Desk, Ended, Happened
from elt_dagster.orchestration._executor_interrupt import Interrupter
from elt_dagster.sdk.cancellation import Cancellation, cancelled, interruptible


class Refused(BaseException):
    """Not an Exception, as Dagster's own is not."""


class Stop(BaseException):
    """Raised in other threads."""


def started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def allowed() -> bool:
    return False


def test_what_others_ask_for_is_done_by_the_writer_in_their_order() -> None:
    desk: Desk[str, int] = Desk(Refused)
    written: list[tuple[str, int, int]] = []

    def work(name: str) -> None:
        for i in range(20):
            desk.write(lambda i=i: written.append((name, i, threading.get_ident())), allowed)  # type: ignore[misc]
            desk.tell(Happened(name, i))
        desk.tell(Ended(name, None))

    threads = [started(lambda name=name: work(name)) for name in ("a", "b", "c")]  # type: ignore[misc]
    news: list[object] = []
    while sum(isinstance(n, Ended) for n in news) < len(threads):
        news += desk.take(0.1)
    for name in ("a", "b", "c"):
        own = [n for n in news if (n.step if isinstance(n, Happened | Ended) else "") == name]
        assert own == [*(Happened(name, i) for i in range(20)), Ended(name, None)]
        assert [i for by, i, _ in written if by == name] == list(range(20))
    assert {thread for _, _, thread in written} == {threading.get_ident()}


def test_an_error_of_the_writing_is_raised_where_it_was_asked_for() -> None:
    desk: Desk[str, int] = Desk(Refused)
    seen: list[str] = []

    def fail() -> None:
        raise OSError("full")

    def work() -> None:
        try:
            desk.write(fail, allowed)
        except OSError as error:
            seen.append(str(error))

    thread = started(work)
    while thread.is_alive():
        desk.take(0.05)
    assert seen == ["full"]


@pytest.mark.parametrize("closed", [True, False])
def test_whoever_was_given_up_is_refused_and_so_is_everybody_once_it_is_closed(closed: bool) -> None:
    desk: Desk[str, int] = Desk(Refused)
    written: list[int] = []
    refused: list[bool] = []

    def work() -> None:
        try:
            desk.write(lambda: written.append(1), lambda: True)
        except Refused:
            refused.append(True)

    thread = started(work)
    if closed:
        desk.close()
    while thread.is_alive():
        desk.take(0.05)
    assert (written, refused) == ([], [True])


def test_a_crowd_that_never_stops_talking_does_not_keep_the_writer_from_its_other_work() -> None:
    desk: Desk[str, int] = Desk(Refused)
    for i in range(1000):
        desk.tell(Happened("a", i))
    first = desk.take(0)
    assert 0 < len(first) < 1000
    rest = [n for _ in range(10) for n in desk.take(0)]
    assert [n.event for n in [*first, *rest] if isinstance(n, Happened)] == list(range(1000))


def test_a_thread_that_waits_in_pieces_is_interrupted_and_cleans_up() -> None:
    ready, cleaned = threading.Event(), threading.Event()
    never = threading.Event()

    def work() -> None:
        try:
            with interrupter.listening():
                ready.set()
                while not never.wait(0.05):
                    pass
        except Stop:
            cleaned.set()

    thread = threading.Thread(target=work, daemon=True)
    interrupter = Interrupter(thread, Stop)
    thread.start()
    ready.wait()
    until = time.monotonic() + 5
    while thread.is_alive() and time.monotonic() < until:
        interrupter.step()
        time.sleep(0.02)
    assert cleaned.is_set()


def test_nothing_is_raised_where_a_thread_sets_up_or_cleans_up() -> None:
    inside, leave, stopped, done = (threading.Event() for _ in range(4))

    def work() -> None:
        inside.wait(5)
        try:
            with interrupter.listening():
                leave.wait(5)
        except Stop:
            stopped.set()
        for _ in range(1000):
            time.sleep(0)
        done.set()

    thread = threading.Thread(target=work, daemon=True)
    interrupter = Interrupter(thread, Stop)
    thread.start()
    interrupter.send_anyway()
    inside.set()
    time.sleep(0.05)
    assert not stopped.is_set()
    leave.set()
    thread.join(5)
    interrupter.send_anyway()
    assert done.is_set()
    assert not stopped.is_set()


def test_a_thread_in_one_long_call_does_not_move() -> None:
    def work() -> None:
        with suppress(Stop), interrupter.listening():
            time.sleep(0.5)

    thread = threading.Thread(target=work, daemon=True)
    interrupter = Interrupter(thread, Stop)
    thread.start()
    time.sleep(0.1)
    for _ in range(5):
        interrupter.step()
        time.sleep(0.02)
    assert not interrupter.moved
    thread.join()


def test_nothing_is_cancelled_where_nobody_can_cancel() -> None:
    assert not cancelled()
    with interruptible(lambda: pytest.fail("interrupted")):
        assert not cancelled()


def test_a_thread_knows_its_own_cancellation_and_no_other() -> None:
    mine, other = Cancellation(), Cancellation()
    other.cancel()
    with mine.active():
        assert not cancelled()
        mine.cancel()
        assert cancelled()
    assert not cancelled()


def test_a_long_query_ends_when_it_is_interrupted_from_outside() -> None:
    cancellation = Cancellation()
    connection = duckdb.connect()
    running, errors = threading.Event(), list[Exception]()

    def work() -> None:
        with cancellation.active(), interruptible(connection.interrupt):
            running.set()
            try:
                connection.execute("SELECT count(*) FROM range(1000000000000) t(n) WHERE n * 7 % 13 = 5").fetchall()
            except duckdb.Error as error:
                errors.append(error)

    thread = started(work)
    running.wait()
    until = time.monotonic() + 10
    while thread.is_alive() and time.monotonic() < until:
        cancellation.interrupt()
        thread.join(0.05)
    assert [type(e) for e in errors] == [duckdb.InterruptException]
    cancellation.interrupt()  # nothing is left to interrupt
