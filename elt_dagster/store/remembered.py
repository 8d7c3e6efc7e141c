"""What was read of syncs, kept for as long as nothing changes: a server is asked the same again and again, and most of the time goes into
understanding rows, not into fetching them."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

from elt_dagster.store.records import Workspace

SYNCS_KEPT = 4_000
"""In all; a page counts as many as it has."""
WORKSPACES_KEPT = 100


class Memory:
    """Answers by question, for the latest revision of each workspace; those that were asked for least recently go first. Threads may share it.

    Only what moves the revision when it changes may be asked through it, and nobody may change what it gives.
    """

    def __init__(self, syncs_kept: int = SYNCS_KEPT) -> None:
        self._room, self._lock = syncs_kept, threading.Lock()
        self._answers: OrderedDict[tuple[str, Hashable], tuple[int, Any]] = OrderedDict()
        self._revisions: OrderedDict[str, int] = OrderedDict()
        self._used = 0

    def recall(self, workspace_id: str, revision: int, question: Hashable) -> tuple[Any, ...]:
        """The answer, alone in a tuple, when the workspace was of this revision; empty if it is not known."""
        key = (workspace_id, question)
        with self._lock:
            if self._revisions.get(workspace_id) != revision or key not in self._answers:
                return ()
            self._answers.move_to_end(key)
            return (self._answers[key][1],)

    def keep(self, workspace: Workspace, question: Hashable, answer: object, size: int) -> None:
        """Remember an answer, unless a later revision was seen."""
        with self._lock:
            if self._is_latest(workspace):
                self._keep((workspace.id, question), size, answer)

    def _is_latest(self, workspace: Workspace) -> bool:
        latest = self._revisions.get(workspace.id, -1)
        if workspace.revision > latest:
            self._forget(workspace.id)
            self._revisions[workspace.id] = workspace.revision
            if len(self._revisions) > WORKSPACES_KEPT:
                self._forget(next(iter(self._revisions)))
        return workspace.revision >= latest

    def _forget(self, workspace_id: str) -> None:
        self._revisions.pop(workspace_id, None)
        for key in [k for k in self._answers if k[0] == workspace_id]:
            self._used -= self._answers.pop(key)[0]

    def _keep(self, key: tuple[str, Hashable], size: int, found: object) -> None:
        if key in self._answers:
            self._used -= self._answers.pop(key)[0]
        self._answers[key] = (size, found)
        self._used += size
        while self._used > self._room:
            _, (gone, _) = self._answers.popitem(last=False)
            self._used -= gone
