"""Keeps the definitions of a code server in step with the store, while Dagster runs.

A `Watcher` looks at the store's revision once a second, and when it moved, has the code location load again (`_live_reload`). It is the
sensor's servant: a tick keeps it awake for `AWAKE_SECONDS`, and what it meets is told by the next tick. So a location whose
sensor is stopped, or that no daemon looks after, is left alone; and a change is seen faster than the daemon's five seconds between ticks.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from elt_dagster.errors import ConfigError, EltError
from elt_dagster.orchestration import _live_reload as reloading
from elt_dagster.orchestration.runs import WEBSERVER_VARIABLE
from elt_dagster.store import Store

LOOK_SECONDS = 1.0
AWAKE_SECONDS = 30.0
"""How long after a tick the watcher goes on by itself: a few ticks, so that a slow one does not put it to sleep."""
QUIET_SECONDS = 0.5
"""A reload waits until the revision has rested so long: a script that writes sync by sync causes one reload and not fifty."""
RESTLESS_SECONDS = 3.0
"""But it waits no longer than this."""
_log = logging.getLogger("elt_dagster")
_RELOAD = """
mutation EltReload($location: String!) {
  reloadRepositoryLocation(repositoryLocationName: $location) { __typename ... on Error { message } }
}
"""


@dataclass(frozen=True, slots=True)
class FirstRun:
    """The run that a sync's creation starts."""

    sync_id: str
    slug: str
    job: str
    windows: dg.TimeWindowPartitionsDefinition | None = None
    """Set when its streams are loaded window by window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What was read from the store when the definitions that are now loaded were built."""

    store: Store
    workspace: str
    revision: int | None
    """None when the store could not be read."""
    first_runs: tuple[FirstRun, ...] = ()
    problem: str = ""
    """Why the store could not be read."""
    at: float = field(default_factory=time.monotonic)


class Watcher:
    """Watches one workspace of one store for the code server of this process. Threads may share it."""

    def __init__(self, store: Store, workspace: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._workspace, self._clock = store, workspace, clock
        self._lock = threading.Lock()
        self._awake_until = 0.0
        self._thread: threading.Thread | None = None
        self._repository: Any = None
        self._origin: Any = None
        self._failed = self._webserver_is_behind = False
        self.loaded: Loaded | None = None
        self.problem = ""
        """What the last look or reload met; empty when all is well."""

    def attend(self, repository: dg.RepositoryDefinition, origin: object) -> None:
        """A tick of the sensor in ``repository``: look, and go on looking until a while after it."""
        with self._lock:
            self._repository, self._origin = repository, origin
            self._failed = False
            self._awake_until = self._clock() + AWAKE_SECONDS
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="elt-live", daemon=True)
                self._thread.start()

    def revision(self) -> int | None:
        """The store's revision now; None, with `problem` set, when it cannot be asked or is not ours to read."""
        try:
            return self._store.look(self._workspace)
        except EltError as error:
            self._meet(f"{error} The definitions that are loaded stay as they are.")
            return None

    def _watch(self) -> None:
        while True:
            try:
                self.step()
            except Exception as error:  # a thread that ends would end the watch, and nobody would know
                self._meet(f"Watching the store failed ({type(error).__name__}: {error}).")
            with self._lock:
                if self._clock() > self._awake_until:
                    self._thread = None
                    return
            time.sleep(LOOK_SECONDS)

    def step(self) -> None:
        """Look once, and reload if the revision moved and came to rest. What failed is tried again after the next tick."""
        wanted = self.revision()
        if wanted is not None and not self._is_loaded(wanted):
            wanted = self._rested(wanted)
        if wanted is None or self._failed:
            return
        try:
            if not self._is_loaded(wanted):
                self._reload(wanted)
            if self._webserver_is_behind:
                _reload_webserver(self._origin)
                self._webserver_is_behind = False
            self.problem = ""
        except EltError as error:
            self._failed = True
            self._meet(f"Revision {wanted} of the store is not shown yet, the next tick tries again: {error}")

    def _reload(self, wanted: int) -> None:
        started, before = self._clock(), self.loaded
        try:
            made = reloading.reload_in_place(self._repository, self._origin, f"{wanted}-{started}")
        except EltError:
            self.loaded = before  # the module may have told us before it failed
            raise
        if made is not None:
            self._repository = made
        if self._is_loaded(wanted):
            _log.info("Revision %s of the store is loaded, in %.1f s.", wanted, self._clock() - started)
            self._webserver_is_behind = True
        elif not reloading.restart(self._origin):
            raise ConfigError(
                "This code server cannot load its definitions again.",
                fix="Call build_definitions() in the module that Dagster loads, or serve it with `dagster code-server start`.",
            )

    def _is_loaded(self, wanted: int) -> bool:
        have = self.loaded.revision if self.loaded is not None else None
        return have is not None and have >= wanted

    def _rested(self, revision: int) -> int | None:
        latest: int | None = revision
        end = self._clock() + RESTLESS_SECONDS
        while self._clock() < end:
            time.sleep(QUIET_SECONDS)
            before, latest = latest, self.revision()
            if latest is None or latest == before:
                break
        return latest

    def _meet(self, problem: str) -> None:
        if problem != self.problem:
            _log.warning("%s", problem)
        self.problem = problem


_watchers: dict[tuple[int, str], Watcher] = {}
_making = threading.Lock()


def watcher_of(store: Store, workspace: str) -> Watcher:
    """The one watcher of this process for a workspace of a store."""
    with _making:
        return _watchers.setdefault((id(store), workspace), Watcher(store, workspace))


def note_loaded(loaded: Loaded) -> None:
    """Tell the watcher what definitions were just built from. A failed reload may have told it in vain: see `Watcher.reload`."""
    watcher_of(loaded.store, loaded.workspace).loaded = loaded


def _reload_webserver(origin: Any) -> None:
    """Where every process starts a code server of its own (a ``python_file`` in workspace.yaml, without ``dagster dev``), the webserver
    has to be asked for its own one; elsewhere it looks at ours. Raises TransientError when it is down."""
    url = os.environ.get(WEBSERVER_VARIABLE)
    if url is None or hasattr(origin, "create_client"):
        return
    from elt_dagster.orchestration.http_transport import HttpTransport

    transport = HttpTransport(url)
    try:
        transport.execute(_RELOAD, {"location": origin.location_name})
    finally:
        transport.close()
