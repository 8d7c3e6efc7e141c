"""Between the threads of steps and the one thread that writes: requests to write, what happened, and who has ended.

A step waits until what it logs is written, so that it can read its own events back, and events stand in the log in the order in which
its step made them. Whoever has been given up on is refused, so that a run that has ended stays as it is.
"""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

S = TypeVar("S")
E = TypeVar("E")
_LOOK_SECONDS = 0.5
_AT_ONCE = 256  # then the writer looks after everything else, however much there is to write


@dataclass(frozen=True, slots=True)
class Happened(Generic[S, E]):
    """``step`` made ``event``; it is written already."""

    step: S
    event: E


@dataclass(frozen=True, slots=True)
class Ended(Generic[S]):
    """The thread of ``step`` is done; ``crash`` is what came out of it."""

    step: S
    crash: BaseException | None


class _Request:
    __slots__ = ("done", "error", "refused", "work")

    def __init__(self, work: Callable[[], None], refused: Callable[[], bool]) -> None:
        self.work, self.refused = work, refused
        self.done = threading.Lock()
        self.done.acquire()
        self.error: BaseException | None = None


class Desk(Generic[S, E]):
    """The mailbox of the thread that made it: the writer. Nothing here holds a lock while somebody else runs."""

    def __init__(self, refusal: type[BaseException]) -> None:
        self._refusal = refusal
        self._writer = threading.get_ident()
        self._inbox: queue.SimpleQueue[_Request | Happened[S, E] | Ended[S]] = queue.SimpleQueue()
        self._closed = False

    def write(self, work: Callable[[], None], refused: Callable[[], bool]) -> None:
        """Have the writer do ``work`` and wait for it. Raises what it raises, and the refusal if ``refused()`` or the desk is closed."""
        if threading.get_ident() == self._writer:
            work()
            return
        request = _Request(work, refused)
        self._inbox.put(request)
        while not request.done.acquire(timeout=_LOOK_SECONDS):
            if self._closed:
                raise self._refusal
        if request.error is not None:
            raise request.error

    def tell(self, news: Happened[S, E] | Ended[S]) -> None:
        """Tell the writer, without waiting."""
        self._inbox.put(news)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to take."""
        return self._inbox.empty()

    def take(self, timeout: float) -> list[Happened[S, E] | Ended[S]]:
        """Wait at most ``timeout`` seconds for the first thing to do, do all there is, and return the news in order."""
        news: list[Happened[S, E] | Ended[S]] = []
        for i in range(_AT_ONCE):
            try:
                item = self._inbox.get_nowait() if i or timeout <= 0 else self._inbox.get(timeout=timeout)
            except queue.Empty:
                break
            if isinstance(item, _Request):
                self._answer(item)
            else:
                news.append(item)
        return news

    def close(self) -> None:
        """Refuse everything from now on."""
        self._closed = True
        while not self._inbox.empty():
            self.take(0)

    def _answer(self, request: _Request) -> None:
        try:
            if self._closed or request.refused():
                raise self._refusal
            request.work()
        except BaseException as error:
            request.error = error
        finally:
            request.done.release()
