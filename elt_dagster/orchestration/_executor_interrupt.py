"""An exception in somebody else's thread: how a step that does not ask whether it is cancelled is stopped."""

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType

_NEVER_INSIDE = frozenset({"logging", "threading", "queue", "concurrent", "contextlib", "sqlalchemy", "dagster"})
"""Packages that hold locks others wait for: an exception out of nowhere could leave one locked for good."""


class Interrupter:
    """Raises an exception in another thread, once, and tells a thread that cleans up from one that sits in a native call.

    Python delivers such an exception before the next bytecode; a thread inside ``time.sleep`` or a long query gets it when the call
    returns. Call `step` now and then until the thread is gone.
    """

    def __init__(self, thread: threading.Thread, error: type[BaseException]) -> None:
        self._thread, self._error = thread, error
        self._sent = False
        self._listens, self._turn = False, threading.Lock()
        self._stood: tuple[CodeType, int] | None = None
        self.moved = False
        """Whether the thread has done anything since the exception was sent."""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """For the thread itself: only inside is anything raised in it, so what surrounds this is set up and cleaned up in full."""
        self._listens = True
        try:
            yield
        finally:
            with self._turn:  # what was sent before is raised here at the latest
                self._listens = False

    def step(self) -> None:
        """Send the exception if the thread is in a place that can take it, else see whether it moves."""
        ident = self._thread.ident
        frame = sys._current_frames().get(ident) if ident is not None else None
        if ident is None or frame is None:
            return
        stands = (frame.f_code, frame.f_lasti)
        if not self._sent:
            self._stood = stands
            if _is_safe(frame):
                self._send(ident)
        elif stands != self._stood:
            self.moved = True

    def send_anyway(self) -> None:
        """Send the exception wherever the thread is, so that it does not go on with its work when a native call returns."""
        if not self._sent and self._thread.ident is not None:
            self._send(self._thread.ident)

    def _send(self, ident: int) -> None:
        with self._turn:
            if self._listens:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(self._error))
                self._sent = True


def _is_safe(frame: FrameType) -> bool:
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    # Everything that waits politely waits there, and it puts its lock back in order whatever ends the wait.
    waits = package == "threading" and frame.f_code.co_name == "wait"
    return waits or package not in _NEVER_INSIDE
