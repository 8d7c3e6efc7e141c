"""Runs that ended a while ago, as they were read: nothing changes them any more, and to read one again takes longer than to find it."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Run = Mapping[str, Any]
_SETTLED_SECONDS = 60.0
"""After its end a run may still be told why it ended."""
_KEPT = 5_000


class EndedRuns:
    """By id; those that were asked for least recently go first. Threads may share it."""

    def __init__(self, active: Iterable[str], clock: Callable[[], float] = time.time, kept: int = _KEPT) -> None:
        self._active, self._clock, self._kept = frozenset(active), clock, kept
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._lock = threading.Lock()

    def fill(self, run_ids: Sequence[str], read: Callable[[Sequence[str]], Sequence[Run]]) -> list[Run]:
        """The runs with these ids, in this order; ``read`` gives those that are not known, as far as they are there."""
        with self._lock:
            found = {i: self._runs[i] for i in run_ids if i in self._runs}
            for run_id in found:
                self._runs.move_to_end(run_id)
        unknown = [i for i in run_ids if i not in found]
        found |= {run["runId"]: run for run in (self.noted(read(unknown)) if unknown else ())}
        return [found[i] for i in run_ids if i in found]

    def knows(self, run_ids: Sequence[str]) -> bool:
        """Whether there is nothing to read for any of them, but whether it is still there."""
        with self._lock:
            return all(run_id in self._runs for run_id in run_ids)

    def noted(self, runs: Sequence[Run]) -> list[Run]:
        """``runs``, as they were read just now."""
        for run in runs:
            self._note(run)
        return list(runs)

    def _note(self, run: Run) -> None:
        ended = run["endTime"] or run["updateTime"]
        if run["status"] in self._active or not ended or self._clock() - ended < _SETTLED_SECONDS:
            return
        with self._lock:
            self._runs[run["runId"]] = run
            if len(self._runs) > self._kept:
                self._runs.popitem(last=False)
