"""``status``, ``runs``, ``cancel``: what ran, what runs, and what will."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from elt_dagster.cli.session import Session, steering
from elt_dagster.cli.show import ago, clock, seconds, table

if TYPE_CHECKING:
    from elt_dagster.cli.desk import SyncRow
    from elt_dagster.control.runs import RunView

RECENT_RUNS = 500
"""How far back `status` looks for the last run of each sync."""


@click.command()
@steering
def status(session: Session) -> None:
    """Show every sync: its last run, its next one, and whether its tables are fresh."""
    now = datetime.now(UTC)
    recent = _recent_runs(session)
    rows = list(_statuses(session, recent, now))
    shown = [
        (
            row["sync"],
            row["status"],
            row["streams"],
            row["last_status"],
            ago(row["last_ended_at"] or row["last_started_at"], now),
            ago(row["next_at"], now),
            row["freshness"],
        )
        for row in rows
    ]
    columns = ("sync", "status", "streams", "last run", "when", "next", "freshness")
    session.answer(rows, table(columns, shown, right=("streams",)))
    for row in rows:
        if row["error"]:
            session.say(f"{row['sync']}: {row['error']}", style="red")


def _recent_runs(session: Session) -> "list[RunView]":
    """The latest runs; none, with a message, when Dagster cannot be asked: the rest of the answer is still worth having."""
    from elt_dagster.errors import EltError

    try:
        with session.past_runs() as runs:
            return runs.list(limit=RECENT_RUNS)
    except EltError as error:
        session.say(f"No runs are shown: {error}", style="yellow")
        return []


def _statuses(session: Session, recent: "list[RunView]", now: datetime) -> Iterator[dict[str, Any]]:
    last: dict[str, RunView] = {}
    loaded: dict[str, RunView] = {}
    for view in recent:
        last.setdefault(view.sync, view)
        if view.status.value == "completed":
            loaded.setdefault(view.sync, view)
    for sync in session.desk().syncs():
        yield {
            "sync": sync.slug,
            "status": sync.status,
            "streams": len(sync.streams),
            "next_at": next_tick(sync, now),
            "freshness": _freshness(sync, loaded.get(sync.slug), now),
            "error": sync.error,
            **_last(last.get(sync.slug)),
        }


def _last(view: "RunView | None") -> dict[str, Any]:
    return {
        "last_run_id": view.id if view else None,
        "last_status": view.status.value if view else None,
        "last_started_at": view.started_at if view else None,
        "last_ended_at": view.ended_at if view else None,
    }


def next_tick(sync: "SyncRow", now: datetime) -> datetime | None:
    """When the sync's schedule fires next, in UTC; None for one that does not run by itself."""
    from zoneinfo import ZoneInfo

    from croniter import croniter

    if sync.cron is None or sync.status != "active" or sync.trigger_mode != "scheduled":
        return None
    local = now.astimezone(ZoneInfo(sync.timezone))
    tick: datetime = croniter(sync.cron, local).get_next(datetime)
    return tick.astimezone(UTC)


def _freshness(sync: "SyncRow", loaded: "RunView | None", now: datetime) -> str:
    limit = sync.freshness_sla_seconds
    if limit is None:
        return ""
    if loaded is None or loaded.ended_at is None:
        return "never loaded"
    return "fresh" if (now - loaded.ended_at).total_seconds() <= limit else "stale"


@click.command()
@click.argument("sync", required=False)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many, newest first.")
@click.option("--run", "run_id", metavar="RUN", help="This run alone, with its streams and attempts.")
@steering
def runs(session: Session, sync: str | None, limit: int, run_id: str | None) -> None:
    """List the latest runs, of all syncs or of one; or show one RUN."""
    from elt_dagster.cli.run import run_json

    if run_id is not None:
        _one_run(session, run_id)
        return
    if sync is not None:
        session.stream_names(sync)  # an unknown slug is answered with the nearest one
    with session.past_runs() as gateway:
        views = gateway.list(sync, limit=limit)
    rows = [
        (v.id, v.sync, v.status.value, v.run_mode.value, v.triggered_by, clock(v.started_at or v.created_at), _took(v))
        for v in views
    ]
    columns = ("run", "sync", "status", "mode", "triggered by", "started", "took")
    session.answer([run_json(v) for v in views], table(columns, rows, right=("took",)))


def _one_run(session: Session, run_id: str) -> None:
    from elt_dagster.cli.run import closing, result_table, run_json

    with session.past_runs() as gateway:
        view = gateway.get(run_id)
        attempts = gateway.attempts(run_id)
    session.answer({**run_json(view), "attempts": [a.id for a in attempts]}, result_table(view), closing(view))
    if view.reason:
        session.say(f"Reason: {view.reason}. {view.cancel_reason or view.error or ''}".strip(), style="red")
    for failed in view.failures:
        session.say(f"{failed.stream}: {failed.error or failed.reason or 'failed'}", style="red")
    if len(attempts) > 1:
        session.say("Attempts: " + ", ".join(f"{a.id} {a.status.value}" for a in attempts))


def _took(view: "RunView") -> str:
    if view.started_at is None:
        return ""
    return seconds(((view.ended_at or datetime.now(UTC)) - view.started_at).total_seconds())


@click.command()
@click.argument("run")
@click.option("--reason", default="", help="Kept with the run.")
@steering
def cancel(session: Session, run: str, reason: str) -> None:
    """Ask a run to stop, again if it was asked before. What it has committed stays."""
    from elt_dagster.control.running import stop

    with session.past_runs() as gateway:
        stop(gateway, gateway.get(run), reason)
        view = gateway.get(run)
    session.answer({"id": view.id, "status": view.status.value}, f"Run {view.id}: {view.status.value}")
