"""The newest runs of many syncs, known without asking for each."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import dagster as dg

from elt_dagster.errors import NotFoundError
from elt_dagster.orchestration.run_lists import ACTIVE, ACTIVE_WORDS, PAGE, Run, RunLists
from elt_dagster.orchestration.tags import SYNC_ID_TAG

_SUCCESS = dg.DagsterRunStatus.SUCCESS.value
_UNSETTLED_SECONDS = 10.0
_CHECKED_SECONDS = 5.0
_LOOKED_THROUGH = 3000
_FEW = 5


@dataclass(slots=True)
class _Entry:
    """What is known of the runs of one sync."""

    newest: Run | None = None
    success: Run | None = None
    active: dict[str, Run] = field(default_factory=dict[str, Run])


class Newest:
    """The newest run of each sync, its last success, and those that have not ended. Threads may share it.

    What was asked once is kept: a later question costs one look at what was started since, and one at what was under way, however many syncs
    and runs there are.
    """

    def __init__(
        self, lists: RunLists, clock: Callable[[], float] = time.monotonic, fresh_seconds: float = 0.0
    ) -> None:
        self._lists, self._lock, self._clock = lists, threading.Lock(), clock
        self._fresh_seconds, self._looked_at, self._checked_at = fresh_seconds, float("-inf"), float("-inf")
        self._entries: dict[str, _Entry] = {}
        self._seen: str | None = None
        self._unsettled: deque[tuple[float, str]] = deque()

    def of(self, sync_ids: Sequence[str]) -> dict[str, tuple[Run | None, Run | None, list[Run]]]:
        """Newest run, last success and active runs, newest first, of each sync."""
        with self._lock:
            if self._clock() - self._looked_at >= self._fresh_seconds:
                self._catch_up()
                self._forget_deleted(sync_ids)
                self._looked_at = self._clock()
            self._fill([s for s in sync_ids if s not in self._entries])
            return {s: (e.newest, e.success, [*e.active.values()][::-1]) for s in sync_ids for e in [self._entries[s]]}

    def outdated(self) -> None:
        """Have the next question look again: this process has just started or stopped something."""
        self._looked_at = float("-inf")

    def _catch_up(self) -> None:
        """Note what was started since the last look, and what became of what was under way.

        Runs get their places before they are committed, so a run may appear behind one that was seen: the last seconds are looked at again.
        """
        newer = self._newer()
        under_way = [run_id for entry in self._entries.values() for run_id in entry.active]
        for run in sorted([*self._lists.those(under_way), *newer], key=_made):
            self._note(run)
        if newer:
            self._unsettled.append((self._clock(), max(newer, key=_made)["runId"]))
        while self._unsettled and self._clock() - self._unsettled[0][0] > _UNSETTLED_SECONDS:
            _, self._seen = self._unsettled.popleft()

    def _newer(self) -> list[Run]:
        if self._seen is not None and self._is_there(self._seen):
            with suppress(NotFoundError):
                return self._lists.newer(self._seen)
        if self._seen is not None:  # deleted in Dagster
            self._entries.clear()
            self._unsettled.clear()
            self._seen = None
        return self._lists.page({}, limit=PAGE, offset=0, before=None)

    def _is_there(self, run_id: str) -> bool:
        """Asked now and then: a run that is gone leads nowhere."""
        if self._clock() - self._checked_at < (_CHECKED_SECONDS if self._fresh_seconds else 0.0):
            return True
        self._checked_at = self._clock()
        return bool(self._lists.present([run_id]))

    def _forget_deleted(self, sync_ids: Sequence[str]) -> None:
        """Runs may be deleted in Dagster, which nobody tells."""
        shown = {s: [r["runId"] for r in (e.newest, e.success) if r] for s in sync_ids if (e := self._entries.get(s))}
        present = self._lists.present([run_id for ids in shown.values() for run_id in ids])
        for sync_id, ids in shown.items():
            if not present.issuperset(ids):
                del self._entries[sync_id]

    def _fill(self, sync_ids: Sequence[str]) -> None:
        """A look at the latest runs tells of most syncs at once; the rest are asked for one by one."""
        if not sync_ids:
            return
        latest = self._lists.page({}, limit=_LOOKED_THROUGH, offset=0, before=None) if len(sync_ids) > _FEW else []
        self._entries |= {sync_id: _Entry() for sync_id in sync_ids}
        for run in reversed(latest):
            self._note(run)
        if 0 < len(latest) < _LOOKED_THROUGH:
            return  # these were all there are
        rest = [s for s in sync_ids if self._entries[s].newest is None]
        unknown = [s for s in sync_ids if self._entries[s].success is None]
        found = [*self._lists.newest(SYNC_ID_TAG, unknown, [dg.DagsterRunStatus.SUCCESS]),
                 *self._lists.newest(SYNC_ID_TAG, rest, ACTIVE), *self._lists.newest(SYNC_ID_TAG, rest, None)]  # fmt: skip
        for run in sorted({run["runId"]: run for run in found}.values(), key=_made):
            self._note(run)

    def _note(self, run: Run) -> None:
        entry = self._entries.get(_tag(run, SYNC_ID_TAG))
        if entry is None:
            return
        if entry.newest is None or _made(run) >= _made(entry.newest):
            entry.newest = run
        if run["status"] in ACTIVE_WORDS:
            entry.active[run["runId"]] = run
            return
        entry.active.pop(run["runId"], None)
        ended = run["endTime"] or 0
        if run["status"] == _SUCCESS and (entry.success is None or ended >= (entry.success["endTime"] or 0)):
            entry.success = run


def _made(run: Run) -> float:
    return float(run["creationTime"])


def _tag(run: Run, key: str) -> str:
    return next((tag["value"] for tag in run["tags"] if tag["key"] == key), "")
