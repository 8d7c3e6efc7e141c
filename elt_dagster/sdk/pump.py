"""A bridge from an asyncio driver to a plain iterator: network in one thread, decoding in another, bytes in between bounded.

Back-pressure is real: a producer that meets a full `BlockQueue` stops reading from its socket, and so the server stops sending.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
_POLL_SECONDS = 0.25


class LoopThread:
    """An asyncio loop in a daemon thread of its own. `close` ends both and cancels what still runs.

    The thread keeps what was started in it alive: a connection that reads nothing at the moment is known to no selector, and an
    abandoned iterator could otherwise be collected together with the tasks it still has to cancel.
    """

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._running: set[Future[Any]] = set()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, waited for by the calling thread; an interrupt of that thread cancels the work."""
        future = self.start(work)
        try:
            while True:
                try:
                    # Not for ever: an exception that is raised in this thread from outside gets in between two waits only.
                    return future.result(timeout=_POLL_SECONDS)
                except TimeoutError:
                    if future.done():
                        return future.result()
        except BaseException:
            future.cancel()
            raise

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin ``work`` without waiting for it."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return future

    def close(self) -> None:
        """Cancel what still runs, then end the thread. Idempotent."""
        if self._thread.is_alive():
            self.run(_cancel_others())
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()


async def _cancel_others() -> None:
    others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class BlockQueue:
    """Blocks of bytes from coroutines of ``pump`` to one thread that iterates; holds about ``max_bytes``, or one block if that is larger."""

    def __init__(self, pump: LoopThread, max_bytes: int) -> None:
        self._loop = pump.loop
        self._max_bytes = max_bytes
        self._held = 0  # only touched in the loop's thread
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._blocks: SimpleQueue[bytes | BaseException | None] = SimpleQueue()

    async def put(self, block: bytes) -> None:
        """Hand over ``block``, after waiting for room."""
        while self._held and self._held + len(block) > self._max_bytes:
            room: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append(room)
            await room
        self._held += len(block)
        self._blocks.put(block)

    async def fill(self, produce: Callable[[], Awaitable[None]]) -> None:
        """Run ``produce`` and end the iteration when it ends, with its error if it raised one."""
        try:
            await produce()
        except BaseException as error:
            self._blocks.put(error)
            if not isinstance(error, Exception):
                raise
        else:
            self._blocks.put(None)

    def __iter__(self) -> Iterator[bytes]:
        """Blocks until the producer ends; raises what it raised."""
        while (block := self._blocks.get()) is not None:
            if isinstance(block, BaseException):
                raise block
            self._loop.call_soon_threadsafe(self._release, len(block))
            yield block

    def _release(self, size: int) -> None:
        self._held -= size
        while self._waiting:
            room = self._waiting.popleft()
            if not room.done():
                room.set_result(None)


class Blocks:
    """Collects small chunks into blocks of at least ``block_bytes`` for a `BlockQueue`; each chunk must end at a row boundary."""

    def __init__(self, queue: BlockQueue, block_bytes: int) -> None:
        self._queue = queue
        self._block_bytes = block_bytes
        self._chunks: list[bytes] = []
        self._size = 0

    async def add(self, chunk: bytes) -> None:
        """Take ``chunk``; waits while the queue is full."""
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size >= self._block_bytes:
            await self.flush()

    async def flush(self) -> None:
        """Hand over what was collected."""
        if self._chunks:
            block = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
            self._chunks, self._size = [], 0
            await self._queue.put(block)
