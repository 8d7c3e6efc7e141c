"""Processes that tests start: forked from a server that has imported everything and opened nothing.

So a process costs a hundredth of a second, where one that starts anew first imports for one or two; and it inherits no thread and no connection.
"""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
_preloaded = ["elt_dagster.testing.destination"]


def preload(*modules: str) -> None:
    """Have the server import ``modules`` before it forks: the ones that processes would import first of all. To be said before the first of them."""
    _preloaded.extend(modules)
    CONTEXT.set_forkserver_preload(_preloaded)


def process(target: Callable[..., None], *arguments: Any, name: str | None = None, daemon: bool = False) -> BaseProcess:
    """A process that will call ``target`` in the environment of now; to be started. Both have to be picklable."""
    return CONTEXT.Process(target=_run, args=(dict(os.environ), target, arguments), name=name, daemon=daemon)


def _run(environment: Mapping[str, str], target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    # the server's is the one in which the first process was started
    os.environ.clear()
    os.environ.update(environment)
    target(*arguments)
