"""Where each stream of a sync is at this moment: what is being loaded, what was loaded last, and whether it is late. Pure, but for `look`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from croniter import croniter

from elt_dagster.control.runs import LatestRuns, Runs, RunStatus, RunView, StreamRun
from elt_dagster.engine import defaults
from elt_dagster.model import LoadMode, RunMode, SyncStatus, TriggeredBy, TriggerMode
from elt_dagster.store import StoredSync

GRACE = timedelta(minutes=5)
"""A scheduler ticks, and a queue lets a run wait, so long without anybody being late."""
RECENT_RUNS = 12
_UNDER_WAY = (RunStatus.PENDING, RunStatus.RUNNING)
_ENDED = (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)


class Situation(StrEnum):
    """Where one stream is in one run; ``delayed`` is one that should have been loaded by now."""

    SCHEDULED = "scheduled"
    DELAYED = "delayed"
    RUNNING = "running"
    RETRYING = "retrying"
    COMPLETED = "completed"
    FAILED = "failed"


class Trigger(StrEnum):
    """Why everything was read; ``none`` where only what is new was."""

    NONE = "none"
    INITIAL = "initial"
    ALWAYS = "always"
    MIDNIGHT = "midnight"
    USER = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One stream in one run, or in none yet. Sizes are Arrow bytes; times are aware, in UTC."""

    situation: Situation
    load_mode: LoadMode
    trigger: Trigger = Trigger.NONE
    rows: int = 0
    bytes: int = 0
    expected_rows: int | None = None
    """About how many there are, when everything is read and the source tells."""
    attempt: int = 0
    """How many attempts came before this one."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: str | None = None
    details: str | None = None
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class StreamState:
    """``active`` is what is being loaded, or late; ``latest`` what came of the last run that has ended."""

    stream: str
    active: Snapshot | None
    latest: Snapshot | None


def look(sync: StoredSync, runs: Runs, now: datetime) -> list[StreamState]:
    """Every stream of ``sync`` at ``now``, in its order. Raises TransientError when Dagster cannot be asked."""
    page = runs.page([sync.id], limit=RECENT_RUNS, streams=True)
    newest = runs.latest([sync.id])[sync.id]
    late = lateness(sync, newest, now)
    older = page.total > len(page.items)
    attempts = {view.id: _attempt(view, runs) for view in page.items if view.parent_id is not None}
    states: list[StreamState] = []
    for name in sync.binding_ids:
        parts = [(view, part) for view in page.items for part in view.streams if part.stream == name]
        if older and not any(part.status in _ENDED for _, part in parts):
            parts = list(runs.stream_page(sync.id, name, limit=2))
        states.append(_state(sync, name, parts, attempts, late))
    return states


def lateness(sync: StoredSync, runs: LatestRuns, now: datetime) -> str | None:
    """Why an active sync is late, in a sentence; None where it is not."""
    if sync.spec.status is not SyncStatus.ACTIVE:
        return None
    sla = sync.spec.freshness_sla_seconds
    since = runs.last_success_at or sync.updated_at
    if sla is not None and now - since > timedelta(seconds=sla):
        return f"The tables are older than {sla} s, which is what was promised of them."
    due = _last_tick(sync, now - GRACE)
    begun = runs.newest.created_at if runs.newest is not None else None
    if due is None or due <= sync.updated_at or (begun is not None and begun >= due - GRACE):
        return None
    return f"A run was due at {due.astimezone(UTC).isoformat(timespec='seconds').replace('+00:00', 'Z')} and was not started."


def _last_tick(sync: StoredSync, before: datetime) -> datetime | None:
    """When the schedule last had to start a run; None for a sync that is started by hand, or whose ticks find no new window now and then."""
    spec = sync.spec
    schedule = spec.schedule
    if schedule is None or spec.trigger is not TriggerMode.SCHEDULED or spec.slicing is not None:
        return None
    local = before.astimezone(ZoneInfo(schedule.timezone))
    found: datetime = croniter(schedule.cron, local, ret_type=datetime).get_prev(datetime)
    return found


def _attempt(view: RunView, runs: Runs) -> int:
    attempt = view.attempt or runs.get(view.id).attempt or 2
    return attempt - 1


def _state(
    sync: StoredSync,
    name: str,
    parts: Sequence[tuple[RunView, StreamRun]],
    attempts: Mapping[str, int],
    late: str | None,
) -> StreamState:
    def shot(view: RunView, part: StreamRun) -> Snapshot:
        return snapshot(sync, view, part, attempts.get(view.id, 0), late)

    active = next((shot(v, p) for v, p in parts if not v.status.is_final and p.status in _UNDER_WAY), None)
    latest = next((shot(v, p) for v, p in parts if p.status in _ENDED or _is_lost(v, p)), None)
    if active is None and late is not None:
        active = Snapshot(situation=Situation.DELAYED, load_mode=_load_mode(sync, name), details=late)
    return StreamState(name, active, latest)


def _is_lost(view: RunView, part: StreamRun) -> bool:
    """Whether its run has ended without a word about it."""
    return view.status.is_final and part.status in _UNDER_WAY


def snapshot(sync: StoredSync, view: RunView, part: StreamRun, attempt: int = 0, late: str | None = None) -> Snapshot:
    """One stream in one run. ``attempt`` is how many attempts came before, ``late`` why the sync is late."""
    situation = _situation(view, part, attempt, late)
    failed = situation is Situation.FAILED
    return Snapshot(
        situation=situation,
        load_mode=LoadMode(part.metrics.get("load_mode", _load_mode(sync, part.stream))),
        trigger=_trigger(sync, view, part),
        rows=part.rows or 0,
        bytes=part.bytes or 0,
        expected_rows=part.expected_rows,
        attempt=attempt,
        started_at=view.started_at,
        ended_at=view.ended_at if view.status.is_final else None,
        error=(part.error or view.error) if failed else None,
        details=_details(view, part) if failed else late if situation is Situation.DELAYED else None,
        run_id=view.id,
    )


def _situation(view: RunView, part: StreamRun, attempt: int, late: str | None) -> Situation:
    if part.status is RunStatus.COMPLETED:
        return Situation.COMPLETED
    if view.status.is_final or part.status.is_final:
        return Situation.FAILED
    if part.status is RunStatus.RUNNING:
        return Situation.RETRYING if attempt else Situation.RUNNING
    return Situation.DELAYED if late is not None and view.status is RunStatus.PENDING else Situation.SCHEDULED


def _details(view: RunView, part: StreamRun) -> str:
    if view.status is RunStatus.CANCELLED:
        return f"cancelled: {view.cancel_reason}" if view.cancel_reason else "cancelled"
    return part.reason or view.reason or "unknown"


def _load_mode(sync: StoredSync, name: str) -> LoadMode:
    binding = sync.spec.binding(name)
    if binding is None or name not in sync.streams:
        return LoadMode.REPLACE
    return LoadMode.REPLACE if binding.full_sync_always else defaults(binding, sync.streams[name])[0]


def _trigger(sync: StoredSync, view: RunView, part: StreamRun) -> Trigger:
    """Why it read everything, as far as the run and its binding tell."""
    return next(_reasons(sync, view, part), Trigger.NONE)


def _reasons(sync: StoredSync, view: RunView, part: StreamRun) -> Iterator[Trigger]:
    asked = view.run_mode is RunMode.FULL_REFRESH
    full = asked or part.metrics.get("run_mode") == RunMode.FULL_REFRESH.value
    if asked and view.triggered_by == TriggeredBy.MIDNIGHT.value:
        yield Trigger.MIDNIGHT
    if _load_mode(sync, part.stream) is LoadMode.REPLACE:
        yield Trigger.ALWAYS
    if full:
        yield Trigger.USER
    if part.status is RunStatus.COMPLETED and part.cursor_before is None and part.cursor_after is not None:
        yield Trigger.INITIAL
