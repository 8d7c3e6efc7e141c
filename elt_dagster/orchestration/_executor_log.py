"""What steps in threads log, written by one thread under each step's own name.

Dagster has no public way to change who writes what ``context.log`` says, so this file and `executor` import from ``dagster._core``;
`docs/adr/0007-threads-for-fan-out.md` says what keeps that safe.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dagster._core.log_manager import DagsterLogHandler, DagsterLogManager  # noqa: TID251 - as the docstring says

Write = Callable[[logging.LogRecord, Callable[[], None]], None]
"""Has the writing thread write a record, and waits for it."""


class RelayedHandler(DagsterLogHandler):
    """Dagster's handler, whose work is done by the thread that writes."""

    def __init__(self, like: DagsterLogHandler, write: Write, **new_tags: str) -> None:
        metadata = {**like.metadata, **new_tags}
        super().__init__(metadata=metadata, loggers=like._loggers, handlers=like._handlers)  # type: ignore[arg-type]
        self._write = write

    def createLock(self) -> None:  # noqa: N802 - logging's name
        """None: it would be held while another thread writes, and that thread may log, too."""
        self.lock = None

    def with_tags(self, **new_tags: str) -> "RelayedHandler":
        """The same for a part of the step."""
        return RelayedHandler(self, self._write, **new_tags)

    def emit(self, record: logging.LogRecord) -> None:
        """Have ``record`` written. Raises what the writing raises, as Dagster's own handler does."""
        self._write(record, lambda: DagsterLogHandler.emit(self, record))


class CapturedLogs(logging.Handler):
    """Gives what a step says to Python's own loggers (Dagster's ``managed_python_loggers``) to that step and to no other.

    Dagster adds one handler per step to those loggers, which is right while there is one step at a time: side by side, each would take
    the others' words for its own. A helper thread of a step is known by no step; what it says goes to the run.
    """

    def __init__(self, run_log: DagsterLogManager, write: Write) -> None:
        super().__init__()
        self._loggers = list(run_log._managed_loggers)
        self._for_run = RelayedHandler(run_log._dagster_handler, write)
        self._main = threading.get_ident()
        self._local = threading.local()

    def createLock(self) -> None:  # noqa: N802 - logging's name
        """None, for the same reason."""
        self.lock = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Listen to the loggers."""
        for logger in self._loggers:
            logger.addHandler(self)
        try:
            yield
        finally:
            for logger in self._loggers:
                logger.removeHandler(self)

    def step_thread(self) -> None:
        """Say that this thread runs steps: what it says while no user code runs is Dagster's own, and not captured."""
        self._local.stack = []

    def begin(self, handler: RelayedHandler) -> None:
        """This thread speaks for ``handler``."""
        self._local.stack.append(handler)

    def end(self) -> None:
        """It does no longer."""
        self._local.stack.pop()

    def emit(self, record: logging.LogRecord) -> None:
        """Pass ``record`` on to whom it belongs."""
        stack = getattr(self._local, "stack", None)
        if stack is None:
            handler = None if record.thread == self._main else self._for_run
        else:
            handler = stack[-1] if stack else None
        if handler is not None:
            handler.handle(record)


class StepLog(DagsterLogManager):
    """``context.log`` of one step."""

    def __init__(self, handler: RelayedHandler, captured: CapturedLogs, level: int) -> None:
        super().__init__(dagster_handler=handler, level=level)
        self._handler, self._captured = handler, captured

    @classmethod
    def of(cls, run_log: DagsterLogManager, captured: CapturedLogs, write: Write) -> "StepLog":
        """What becomes of ``run_log`` in a step's thread."""
        return cls(RelayedHandler(run_log._dagster_handler, write), captured, run_log.level)

    def with_tags(self, **new_tags: str) -> "StepLog":
        """The same for a part of the step."""
        return StepLog(self._handler.with_tags(**new_tags), self._captured, self.level)

    def begin_python_log_capture(self) -> None:
        """From here on user code runs."""
        self._captured.begin(self._handler)

    def end_python_log_capture(self) -> None:
        """Until here."""
        self._captured.end()
