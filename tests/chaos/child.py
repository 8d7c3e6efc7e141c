"""What the process does that gets killed: load one phase, and perhaps end itself with SIGKILL at a named step.

The steps are methods of the warehouse's load that are wrapped in the child only; production code knows nothing of them.
"""

import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from elt_dagster.destinations.base import Destination, TableRef
from elt_dagster.engine import StreamRead, plan
from elt_dagster.errors import EltError
from elt_dagster.model import SyncSpec
from elt_dagster.registry import load_destination
from elt_dagster.store import open_store
from tests.chaos.source import ChangingSource, Kind, stream

# What a child would import while it runs is imported once, by the server that all children are forked from.
for _module in (
    "elt_dagster.destinations.duckdb",
    "elt_dagster.destinations.postgres",
    "asyncpg",
    "sqlalchemy.dialects.sqlite",
):
    importlib.import_module(_module)

SCHEMA = "chaos"
FAILED = 3
HOLDER = "the process that is started again"


class Step(StrEnum):
    """Where a child ends itself."""

    AFTER_STAGE = "after stage"
    BEFORE_COMMIT = "before commit"
    ROWS_WITHOUT_STATE = "in commit, after rows, before state"
    STATE_WITHOUT_COMMIT = "in commit, after state, before COMMIT"
    AFTER_COMMIT = "after commit, before anybody is told"


_LOADS = {"duckdb": ("_duckdb_load", "DuckDBLoad"), "postgres": ("_postgres_load", "PostgresLoad")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run of one phase. Pickled on its way to the child."""

    warehouse: str
    config: Mapping[str, Any]
    store_url: str
    table: str
    kind: Kind
    phase: int
    run_id: str = "run"
    step: Step | None = None
    times: int = 1
    """End at the step when it comes up for the so-manieth time."""
    forgetful: bool = False
    """A mutant: resume an append without looking at what is there already. For the test of the harness itself."""

    @property
    def target(self) -> TableRef:
        """The table it loads."""
        return TableRef(SCHEMA, self.table)

    @property
    def binding_id(self) -> str:
        """As unique as its table."""
        return f"binding-{self.table}"

    def destination(self) -> Destination[Any]:
        """The warehouse, not yet connected."""
        return load_destination(self.warehouse).configured(self.config)


def read(task: Task, source: ChangingSource | None = None, **more: Any) -> StreamRead:
    """The engine's read of ``task``; every batch is committed, as checkpoints of a long stream are."""
    binding = task.kind.binding.model_copy(update={"table": task.table})
    sync = SyncSpec.model_validate(
        {"slug": "chaos", "connection": "c", "destination": "d", "schema": SCHEMA, "streams": (binding,)}
    )
    values: dict[str, Any] = {
        "sync": sync, "binding": binding, "binding_id": task.binding_id, "stream": stream(), "run_id": task.run_id,
        "open_source": lambda: source or ChangingSource(task.kind, task.phase), "open_destination": task.destination,
        "lease": lambda: leased(task), "commit_bytes": 1, **more,
    }  # fmt: skip
    return StreamRead(**values)


@contextmanager
def leased(task: Task) -> Iterator[int]:
    """The store's lease; the restarted process is the same holder, so nobody waits for the dead one's lease to pass."""
    store = open_store(task.store_url)
    lease = store.acquire_lease(task.binding_id, HOLDER, task.run_id)
    yield lease.fence
    store.release_lease(lease)


def main(task: Task) -> None:
    """Entry point of the child: exit code 0 when the phase is loaded, `FAILED` for an error of ours (told to stderr)."""
    if task.step is not None:
        arm(task.warehouse, task.step, task.times)
    if task.forgetful:
        plan._boundary = lambda since, lookback_seconds: None
    try:
        read(task).load()
    except EltError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(FAILED)


def arm(warehouse: str, step: Step, times: int) -> None:
    """Make this process end itself at ``step``."""
    module, name = _LOADS[warehouse]
    loads: Any = importlib.import_module(f"elt_dagster.destinations.{module}")
    load = getattr(loads, name)
    trip = _Trip(times)
    match step:
        case Step.AFTER_STAGE:
            load.stage = trip.after(load.stage)
        case Step.BEFORE_COMMIT:
            load.commit = trip.before(load.commit)
        case Step.ROWS_WITHOUT_STATE:
            loads.save_state = trip.before(loads.save_state)
        case Step.STATE_WITHOUT_COMMIT:
            loads.save_state = trip.after(loads.save_state)
        case Step.AFTER_COMMIT:
            load.commit = trip.after(load.commit)


class _Trip:
    def __init__(self, times: int) -> None:
        self._left = times

    def _pass(self) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def tripped(*args: Any, **kwargs: Any) -> Any:
            self._pass()
            return call(*args, **kwargs)

        return tripped

    def after(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def tripped(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            self._pass()
            return result

        return tripped
