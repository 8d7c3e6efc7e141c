"""How work in one of several threads learns that it is to stop.

Signals reach the main thread only. Whoever runs work in other threads gives each a `Cancellation`; the work asks `cancelled` wherever it may
stop cleanly, and says by `interruptible` how a call that blocks can be ended from outside. Where nobody set one, nothing is ever cancelled
this way: the interrupt is then an exception in the thread itself.
"""

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_current: "contextvars.ContextVar[Cancellation | None]" = contextvars.ContextVar("elt_cancellation", default=None)


class Cancellation:
    """Whether the work of one thread is to stop. Asked for by another thread."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._interrupts: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """Ask for the end."""
        self._event.set()

    @property
    def requested(self) -> bool:
        """Whether somebody asked."""
        return self._event.is_set()

    def interrupt(self) -> None:
        """End the calls that block now, each in its own way. May be called again: the work may have begun another."""
        with (
            self._lock
        ):  # whoever leaves `interruptible` has to wait: its connection may not close while it is interrupted
            for end in self._interrupts:
                with suppress(Exception):  # what cannot be interrupted is given up on, which is the caller's part
                    end()

    @contextmanager
    def active(self) -> Iterator[None]:
        """What `cancelled` and `interruptible` speak of in this thread."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def _add(self, end: Callable[[], None]) -> None:
        with self._lock:
            self._interrupts.append(end)

    def _remove(self, end: Callable[[], None]) -> None:
        with self._lock:
            self._interrupts.remove(end)


def cancelled() -> bool:
    """Whether what this thread does is to stop."""
    current = _current.get()
    return current is not None and current.requested


@contextmanager
def interruptible(end: Callable[[], None]) -> Iterator[None]:
    """While the body runs, ``end`` (called from another thread) makes a blocking call of this thread return at once, with an error."""
    current = _current.get()
    if current is None:
        yield
        return
    current._add(end)
    try:
        yield
    finally:
        current._remove(end)
