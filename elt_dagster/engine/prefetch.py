"""Read ahead: the source fills the next batches while the warehouse stages the last one."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from elt_dagster.errors import CancelledError
from elt_dagster.model import Batch

_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 30.0
_PATIENCE_WHEN_INTERRUPTED = 1.0


class _End:
    """Marks the end of the source, with the error that ended it if there was one."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


@contextmanager
def prefetched(read: Callable[[], Iterator[Batch]], *, ahead: int = 2) -> Iterator[Iterator[Batch]]:
    """An iterator over ``read()`` that stays at most ``ahead`` batches before its consumer.

    The source runs in one thread of its own: opened, drained and closed there. Its errors keep their class. Leaving the context early
    closes the source's iterator, so that its connections end.
    """
    batches: queue.Queue[Batch | _End] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def put(item: Batch | _End) -> bool:
        while not stopped.is_set():
            try:
                batches.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def fill() -> None:
        end = _End()
        try:
            source = read()
            try:
                for batch in source:
                    if not put(batch):
                        break
            finally:
                close = getattr(source, "close", None)
                if close is not None:
                    close()
        except BaseException as error:
            end = _End(error)
        put(end)

    thread = threading.Thread(target=fill, name="elt-source", daemon=True)

    def drain() -> Iterator[Batch]:
        thread.start()
        while True:
            try:
                # Not for ever: an exception that is raised in this thread from outside gets in between two waits only.
                item = batches.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    patience = _PATIENCE_SECONDS
    try:
        yield drain()
    except BaseException as error:
        if isinstance(error, CancelledError) or not isinstance(error, Exception):
            # Whoever cancels a run does not wait for an answer that the source may never give. The thread ends with the process.
            patience = _PATIENCE_WHEN_INTERRUPTED
        raise
    finally:
        stopped.set()
        if thread.ident is not None:
            thread.join(timeout=patience)
