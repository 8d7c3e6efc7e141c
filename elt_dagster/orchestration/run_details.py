"""Runs with what each of their streams did, why it failed, and where they stand among their attempts."""

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from elt_dagster.control.kept import Kept
from elt_dagster.control.runs import BackendRun, RunStatus, RunView
from elt_dagster.errors import NotFoundError
from elt_dagster.orchestration import graphql
from elt_dagster.orchestration.launching import Launcher
from elt_dagster.orchestration.run_lists import GraphQLLists, InstanceLists, Run, RunLists
from elt_dagster.orchestration.run_reading import Event, GraphQLReader, InstanceReader, RunReader, no_run
from elt_dagster.orchestration.run_views import (
    JobStream,
    in_chain,
    is_id,
    observed_backend,
    observed_estimate,
    run_view,
    stream_errors,
    with_streams,
)
from elt_dagster.orchestration.tags import SYNC_ID_TAG

_REMEMBERED = 5000
"""How many runs that have ended are kept with their streams."""
_SETTLED_SECONDS = 10.0
"""How long after its end a run may still change."""


@dataclass(slots=True)
class _Followed:
    """How far the log of a run was read, the time of its newest event, and the newest sight of work elsewhere and of sizes by step."""

    cursor: str | None = None
    newest: datetime | None = None
    events: Sequence[Event] = ()
    """Those of the latest look."""
    backends: dict[str, BackendRun] = field(default_factory=dict[str, BackendRun])
    estimates: dict[str, int] = field(default_factory=dict[str, int])


class RunDetails:
    """Reads whole runs of one deployment, and remembers those that have ended. Threads may share it."""

    def __init__(self, transport: graphql.Transport, launcher: Launcher, *, hosts: bool = False) -> None:
        self._transport, self._launcher, self._hosts = transport, launcher, hosts
        self._followed: dict[str, _Followed] = {}
        self._ended: dict[str, tuple[RunView, RunView]] = {}
        self._views = Kept[Run, RunView](_REMEMBERED)
        self._lock = threading.Lock()

    @cached_property
    def lists(self) -> RunLists:
        """Where lists of runs come from."""
        instance = self._transport.instance_at_hand()
        return InstanceLists(instance) if instance is not None else GraphQLLists(self._transport)

    @cached_property
    def reader(self) -> RunReader:
        """Where single runs come from."""
        instance = self._transport.instance_at_hand()
        return InstanceReader(instance) if instance is not None else GraphQLReader(self._transport)

    def view(self, run: Run) -> RunView:
        """A listed run without its streams; the same object as long as the list gives the same one."""
        run_id = run["runId"]
        return self._views.of(run_id, run, lambda _: run_view(run, self._transport.run_url(run_id)))

    def bare(self, run_id: str) -> RunView:
        """A run without its streams. Raises NotFoundError."""
        for run in self.lists.those([run_id]) if is_id(run_id) else ():
            return self.view(run)
        raise no_run(run_id)

    def whole(self, views: Sequence[RunView], *, are_all: bool = False) -> Sequence[RunView]:
        """``views`` with their streams and their places among attempts. What has ended is read once, but for who retries it.
        ``are_all``: their syncs have no other runs, so that the other attempts are among them."""
        known = {view.id: seen for view in views if (seen := self._ended.get(view.id)) is not None and seen[0] == view}
        runs = self.reader.whole([view.id for view in views if view.id not in known])
        whole = [known[view.id][1] if view.id in known else self._look(view, runs.get(view.id)) for view in views]
        groups = self.groups(views, are_all=are_all)
        return [self._in_chain(view, groups[view.root_id]) for view in whole]

    def _in_chain(self, view: RunView, attempts: Sequence[RunView]) -> RunView:
        """`in_chain`; what has ended stays one object until it is retried."""
        chained = in_chain(view, attempts)
        with self._lock:
            known = self._ended.get(view.id)
            if known is not None and known[1] is view:
                self._ended[view.id] = known[0], chained
        return chained

    def groups(self, views: Sequence[RunView], *, are_all: bool = False) -> Mapping[str, Sequence[RunView]]:
        """All attempts of the groups that ``views`` belong to, oldest first, by root; a root may have been deleted."""
        roots = list(dict.fromkeys(v.root_id for v in views))
        others = [run_view(run, None) for run in (self.lists.groups(roots) if roots and not are_all else [])]
        known = {v.id: v for v in (*others, *views)}
        for root in (r for r in roots if r not in known):
            with suppress(NotFoundError):
                known[root] = run_view(self.run(root), None)
        found: dict[str, list[RunView]] = {root: [] for root in roots}
        for view in sorted(known.values(), key=_age):
            if view.root_id in found:
                found[view.root_id].append(view)
        return found

    def run(self, run_id: str) -> Mapping[str, Any]:
        """A run in the fields of `graphql.RUN`. Raises NotFoundError."""
        found = self.reader.whole([run_id])
        if run_id not in found:
            raise no_run(run_id)
        return found[run_id]

    def loads(self, run_id: str, stream: str) -> bool:
        """Whether a run takes part in loading ``stream``. Where only the job can tell, it is loaded, and again when it does not know all that
        the run is about: that may be newer than what was seen last."""
        run = self.reader.whole([run_id]).get(run_id)
        if run is None:
            return False
        if not run["assetSelection"] and not run["stepKeysToExecute"]:
            return True
        streams = self._streams_of(run, at_any_cost=True)
        if not streams or len(streams) < max(len(run["assetSelection"] or ()), len(run["stepKeysToExecute"] or ())):
            self._launcher.forget(run["jobName"])
            streams = self._streams_of(run, at_any_cost=True)
        return any(s.stream == stream for s in streams)

    def _look(self, bare: RunView, run: Mapping[str, Any] | None) -> RunView:
        if run is None:  # deleted since it was listed
            return bare
        view = run_view(run, bare.url)
        failed = view.status is RunStatus.FAILED or any(s["status"] == "FAILURE" for s in run["stepStats"])
        followed = _Followed()
        if failed:
            followed = self._told(view.id, followed)
        elif view.status is RunStatus.RUNNING:
            followed = self._told(view.id, self._followed.setdefault(view.id, followed))
        errors = stream_errors(followed.events) if failed else {}
        view = replace(view, heartbeat_at=followed.newest)
        view = with_streams(view, run, self._streams_of(run), errors, followed.backends, estimates=followed.estimates)
        self._remember(bare, view)
        return view

    def _remember(self, bare: RunView, view: RunView) -> None:
        """What ended a while ago stays as it is; a process that lost its run may tell a last thing."""
        if not bare.status.is_final:
            return
        self._followed.pop(bare.id, None)
        if bare.ended_at is None or (datetime.now(UTC) - bare.ended_at).total_seconds() < _SETTLED_SECONDS:
            return
        with self._lock:
            if len(self._ended) >= _REMEMBERED:
                del self._ended[next(iter(self._ended))]
            self._ended[bare.id] = bare, view

    def _told(self, run_id: str, known: "_Followed") -> "_Followed":
        """What the run's log tells beyond what is known of it."""
        known.events, known.cursor, newest = self.reader.log(run_id, known.cursor)
        known.newest = datetime.fromtimestamp(newest, UTC) if newest is not None else known.newest
        for event in known.events:
            if (backend := observed_backend(event)) is not None:
                known.backends[event["stepKey"]] = backend
            if (expected := observed_estimate(event)) is not None:
                known.estimates[event["stepKey"]] = expected
        return known

    def _streams_of(self, run: Mapping[str, Any], *, at_any_cost: bool = False) -> tuple[JobStream, ...]:
        """The streams a run was about: those of its job, cut down to its selection. Empty when the job is gone, or when loading the
        workspace only to name steps that have not begun would be out of proportion."""
        name = run["jobName"]
        if not name.startswith("sync_") or (self._hosts and not at_any_cost and not self._launcher.knows(name)):
            return ()
        try:
            sync_id = next((t["value"] for t in run["tags"] if t["key"] == SYNC_ID_TAG), "")
            streams = self._launcher.job(name, name, sync_id=sync_id, as_it_was=True).streams
        except NotFoundError:
            return ()
        selected = {tuple(k["path"]) for k in run["assetSelection"] or ()}
        steps = set(run["stepKeysToExecute"] or ())
        return tuple(s for s in streams if (not selected or s.key in selected) and (not steps or s.step in steps))


def _age(view: RunView) -> tuple[datetime, bool]:
    """The root comes before what was made in the same moment."""
    return view.created_at or datetime.min.replace(tzinfo=UTC), view.id != view.root_id
