"""Kill a load, start it again until it is through, compare: as often as asked.

Children are forked from a server that has imported everything and opened nothing, so that a kill costs a fraction of a second and no child
inherits a thread or a connection.
"""

import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from multiprocessing.process import BaseProcess
from signal import SIGKILL
from typing import Any

from elt_dagster.store import open_store
from elt_dagster.testing._processes import preload, process
from tests.chaos.child import FAILED, Step, Task, main
from tests.chaos.source import SCHEMA, Kind, difference, rows_of_phase

PHASES_PER_TABLE = 8
LONGEST_SECONDS = 60.0

preload("tests.chaos.child")


@dataclass(slots=True)
class Tally:
    """What came of the kills of one warehouse and mode; rows in all comparisons together."""

    warehouse: str
    kind: Kind
    kills: int = 0
    restarts: int = 0
    lost: int = 0
    doubled: int = 0
    at: dict[str, int] = field(default_factory=dict[str, int])

    def killed(self, where: str) -> None:
        """Count one."""
        self.kills += 1
        self.at[where] = self.at.get(where, 0) + 1


def start(task: Task) -> BaseProcess:
    """A child on ``task``."""
    child = process(main, task, daemon=True)
    child.start()
    return child


@dataclass(slots=True)
class Harness:
    """Kills loads into one warehouse. ``seed`` makes the choice of steps, not the instants, repeatable."""

    warehouse: str
    config: Mapping[str, Any]
    store_url: str
    seed: int = 1
    forgetful: bool = False
    """Kill mutants; see `Task.forgetful`."""

    def run(self, kind: Kind, *, named: int, anytime: int) -> Tally:
        """``named`` kills at steps, in turn, and ``anytime`` at random instants; the first phase of a table is as likely as a later one."""
        open_store(self.store_url).init()
        chance = random.Random(f"{self.seed}/{kind}")  # noqa: S311 - chaos, not secrets
        tally = Tally(self.warehouse, kind)
        wishes = _wishes(kind, named, anytime, chance)
        usual, wish = self._unharmed(kind), next(wishes, None)
        for number in count():
            table = f"{kind.name.lower()}_{number}"
            for phase in range(PHASES_PER_TABLE):
                task = self._task(kind, table, phase)
                while wish is not None:
                    struck = _strike(task, wish, chance.uniform(0, usual))
                    if not struck:
                        break
                    tally.killed(wish[0].value if wish[0] else "any instant")
                    tally.restarts += 1
                    self._compare_midway(task, tally)
                    wish = next(wishes, None)
                    if chance.random() < 0.5:  # otherwise the restarted one is struck as well
                        break
                self._finish(task, tally)
                lost, doubled = difference(rows_of_phase(kind, phase), loaded(task))
                tally.lost, tally.doubled = tally.lost + lost, tally.doubled + doubled
                if wish is None:
                    return tally
        raise AssertionError("unreachable")

    def _unharmed(self, kind: Kind) -> float:
        """Seconds that one load takes when nobody disturbs it. The first one waits for the server's imports, so the second counts."""
        for phase in range(2):
            began = time.monotonic()
            assert _ended(start(self._task(kind, f"calm_{kind.name.lower()}", phase))) == 0
        return time.monotonic() - began

    def _task(self, kind: Kind, table: str, phase: int) -> Task:
        return Task(
            warehouse=self.warehouse, config=self.config, store_url=self.store_url,
            table=table, kind=kind, phase=phase, forgetful=self.forgetful,
        )  # fmt: skip

    def _finish(self, task: Task, tally: Tally) -> None:
        """Run to the end. A commit that the server carried out after its client had died may move the state under the restarted run."""
        for _ in range(5):
            child = start(replace(task, run_id=f"run-{tally.restarts}"))
            if _ended(child) == 0:
                return
            tally.restarts += 1
        raise AssertionError(f"{task} does not come to an end")

    def _compare_midway(self, task: Task, tally: Tally) -> None:
        """Right after a kill: an append holds nothing that the source has not; a replace shows all of the old or all of the new rows."""
        found, new = loaded(task), rows_of_phase(task.kind, task.phase)
        if task.kind is Kind.REPLACE:
            old = rows_of_phase(task.kind, task.phase - 1)
            kept = min((difference(old, found), difference(new, found)), key=sum)
            tally.lost, tally.doubled = tally.lost + kept[0], tally.doubled + kept[1]
        elif task.kind is not Kind.MERGE:
            tally.doubled += difference(new, found)[1]


def loaded(task: Task) -> list[tuple[Any, ...]]:
    """The rows of the task's table; none when there is no table yet."""
    destination = task.destination()
    if destination.columns(task.target) is None:
        return []
    table = destination.read(task.target, SCHEMA.names).read_all()
    return list(zip(*(c.to_pylist() for c in table.columns), strict=True))


def _wishes(kind: Kind, named: int, anytime: int, chance: random.Random) -> Iterator[tuple[Step | None, int]]:
    steps, first = (
        list(Step),
        named * list(Kind).index(kind),
    )  # few kills in each mode still meet every step in one of them
    commits = 1 if kind is Kind.REPLACE else 2
    chosen: list[tuple[Step | None, int]] = [
        (steps[(first + i) % len(steps)], chance.randint(1, commits)) for i in range(named)
    ]
    chosen += [(None, 0)] * anytime
    chance.shuffle(chosen)
    return iter(chosen)


def _strike(task: Task, wish: tuple[Step | None, int], seconds: float) -> bool:
    """Start ``task`` and kill it as wished; False when it was through before."""
    step, times = wish
    child = start(replace(task, step=step, times=times or 1))
    if step is None:
        child.join(seconds)
        child.kill()
    return _ended(child) == -SIGKILL


def _ended(child: BaseProcess) -> int:
    child.join(LONGEST_SECONDS)
    code = child.exitcode
    if code is None:
        child.kill()
        raise AssertionError("a load hangs")
    assert code in (0, -SIGKILL, FAILED), f"a child ended with {code}; its traceback is on stderr"
    return code
