"""A request is answered in one worker thread from beginning to end.

FastAPI sends each dependency, the endpoint and the check of its answer to a thread of its own choosing, one after the other. With everybody
asking at once these changes of threads cost more than the answers: a thread that waits for the interpreter waits for its turn each time.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")
THREADS = 40
"""As many requests are answered at once: those that ask a source wait for it most of their time."""
_workers = ThreadPoolExecutor(THREADS, "elt-api")


async def in_thread(function: Callable[..., T], *values: Any) -> T:
    """What ``function`` gives, from a worker thread. The way there that asyncio has itself is shorter than FastAPI's."""
    return await asyncio.get_running_loop().run_in_executor(_workers, partial(copy_context().run, function, *values))


def awaitable(function: Callable[..., T]) -> Callable[..., Awaitable[T]]:
    """``function`` as a coroutine function that waits for nothing, so that FastAPI calls it where it is; parameters and name stay."""

    async def called(**values: Any) -> T:
        return function(**values)

    called.__name__, called.__qualname__ = function.__name__, function.__qualname__
    called.__doc__, called.__module__ = function.__doc__, function.__module__
    # not __wrapped__: FastAPI would look through it
    called.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return called


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine that waits for nothing gives. Raises what it raises; RuntimeError when it does wait, for there is nobody to wake it."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    coroutine.close()
    raise RuntimeError("A route that is answered in one thread waits for something.")
