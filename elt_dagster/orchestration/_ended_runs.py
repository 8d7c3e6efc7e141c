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
        for run in read(unknown) if unknown else ():
            found[run["runId"]] = run
            self._note(run)
        return [found[i] for i in run_ids if i in found]

    def _note(self, run: Run) -> None:
        ended = run["endTime"] or run["updateTime"]
        if run["status"] in self._active or not ended or self._clock() - ended < _SETTLED_SECONDS:
            return
        with self._lock:
            self._runs[run["runId"]] = run
            if len(self._runs) > self._kept:
                self._runs.popitem(last=False)
