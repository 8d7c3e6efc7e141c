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
    sent: int = signal.SIGKILL
    """The signal that ends it; SIGSTOP pauses it."""
    holder: str = "the process that is started again"
    """So nobody waits for the lease of the dead one to pass."""
    lease_seconds: float = 90.0
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
    """The store's lease, not renewed."""
    store = open_store(task.store_url)
    lease = store.acquire_lease(task.binding_id, task.holder, task.run_id, task.lease_seconds)
    yield lease.fence
    store.release_lease(lease)


def main(task: Task) -> None:
    """Entry point of the child: exit code 0 when the phase is loaded, `FAILED` for an error of ours (told to stderr)."""
    if task.step is not None:
        arm(task.warehouse, task.step, _Trip(task.times, task.sent).end)
    if task.forgetful:
        plan._boundary = lambda since, lookback_seconds: None  # type: ignore[assignment,return-value]
    try:
        read(task).load()
    except EltError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(FAILED)


def arm(warehouse: str, step: Step, strike: Callable[[], None]) -> None:
    """Call ``strike`` whenever this process comes to ``step``."""
    module, name = _LOADS[warehouse]
    loads: Any = importlib.import_module(f"elt_dagster.destinations.{module}")
    owner, method = {
        Step.AFTER_STAGE: (getattr(loads, name), "stage"),
        Step.BEFORE_COMMIT: (getattr(loads, name), "commit"),
        Step.AFTER_COMMIT: (getattr(loads, name), "commit"),
    }.get(step, (loads, "save_state"))
    call: Callable[..., Any] = getattr(owner, method)
    is_before = step in (Step.BEFORE_COMMIT, Step.ROWS_WITHOUT_STATE)

    def struck(*args: Any, **kwargs: Any) -> Any:
        if is_before:
            strike()
        result = call(*args, **kwargs)
        if not is_before:
            strike()
        return result

    setattr(owner, method, struck)


class _Trip:
    """Sends this process a signal at the ``times``-th call of `end`."""

    def __init__(self, times: int, sent: int) -> None:
        self._left, self._sent = times, sent

    def end(self) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), self._sent)
