"""``run``: one Dagster run of one sync, followed until it has ended."""

import time
from datetime import datetime
from itertools import count
from typing import TYPE_CHECKING, Any

import click

from elt_dagster.cli.progress import Board, ProgressView, progress_view
from elt_dagster.cli.session import Session, steering, workspace_option
from elt_dagster.cli.show import cell, number, seconds, size, table

if TYPE_CHECKING:
    from elt_dagster.control.runs import BackendRun, Runs, RunView
    from elt_dagster.errors import EltError
    from elt_dagster.model import Window

POLL_SECONDS = 0.4
SLOW_POLL_SECONDS = 1.0
"""For runs of more than a few seconds: every look costs Dagster's database some milliseconds."""
CANCELLED = 130


@click.command()
@click.argument("sync")
@click.option("--stream", "streams", multiple=True, metavar="NAME", help="Only this stream; may be repeated.")
@click.option("--full-refresh", is_flag=True, help="Read everything again and replace the tables.")
@click.option("--reset-history-table", is_flag=True, help="With --full-refresh: begin the history tables anew as well.")
@click.option(
    "--from", "start", metavar="TIME", help="Read only rows from this time on (2026-07-01, 2026-07-01T06:00)."
)
@click.option("--to", "end", metavar="TIME", help="End of that window, exclusive; default now.")
@workspace_option
@steering
def run(
    session: Session,
    sync: str,
    *,
    streams: tuple[str, ...],
    full_refresh: bool,
    reset_history_table: bool,
    start: str | None,
    end: str | None,
    workspace_file: str | None,
) -> int:
    """Run SYNC now and watch it. The run is Dagster's: the UI shows it, and can re-execute it.

    A sync that is cut into windows loads the newest one, or with --from and --to those that begin in between. Of any other sync --from and --to
    read again what the cursor says is in between; the position it goes on from stays.

    Ctrl-C cancels the run; what it has committed stays. The exit code tells the class of what went wrong.
    """
    from elt_dagster.model import RunMode

    if reset_history_table and not full_refresh:
        raise click.UsageError("--reset-history-table goes with --full-refresh.")
    wanted = _wanted(session, sync, streams)
    window = window_between(session, sync, start, end)
    mode = RunMode.FULL_REFRESH if full_refresh else RunMode.INCREMENTAL
    with session.runs(workspace_file) as runs:
        run_id = runs.launch(
            sync,
            streams=list(streams) or None,
            run_mode=mode,
            reset_history_table=reset_history_table,
            window=window,
        )
        session.say(f"Run {run_id} of {sync}{' (full refresh)' if full_refresh else ''}")
        view = follow(session, runs, run_id, Board(wanted))
    session.answer(run_json(view), result_table(view), closing(view))
    for failed in view.failures:
        session.say(f"{failed.stream}: {failed.error or 'failed; its log is in the Dagster UI.'}", style="red")
    if view.error:
        session.say(view.error, style="red")
    return exit_code(view)


def window_between(session: Session, slug: str, start: str | None, end: str | None) -> "Window | None":
    """The window two options name, in the sync's own zone; None for neither. Raises ConfigError for an end without a beginning."""
    from zoneinfo import ZoneInfo

    from elt_dagster.errors import ConfigError
    from elt_dagster.model import Window
    from elt_dagster.model.slicing import parse_window

    if start is None and end is None:
        return None
    if start is None:
        raise ConfigError(
            "--to without --from names no window.", fix="Give both, or --from alone for everything since."
        )
    if session.url:
        raise ConfigError("A server takes no window.", fix="Run it where the store is, or without --from and --to.")
    spec = session.workspace.configured(slug).spec
    schedule = spec.schedule.timezone if spec.schedule is not None else "UTC"
    zone = (spec.slicing.timezone if spec.slicing is not None else None) or schedule
    found = parse_window(start, end or datetime.now(ZoneInfo(zone)).isoformat(), zone)
    return Window(found.start.astimezone(ZoneInfo(zone)), found.end.astimezone(ZoneInfo(zone)))


def _wanted(session: Session, slug: str, streams: tuple[str, ...]) -> list[str]:
    """The streams to run, checked before anything starts."""
    from elt_dagster.errors import ConfigError, NotFoundError, nearest

    known = session.stream_names(slug)
    for name in streams:
        if name not in known:
            raise NotFoundError(f"Sync {slug!r} has no stream {name!r}.", fix=nearest(name, known))
    if not known:
        raise ConfigError(f"Sync {slug!r} has no streams.", fix="Add streams to it and apply it.")
    return list(streams) or known


def follow(session: Session, runs: "Runs", run_id: str, board: Board) -> "RunView":
    """Show a run until it has ended. The first Ctrl-C cancels it, the second one stops watching."""
    cancelling = False
    with progress_view(session.err, board) as shown:
        while True:
            try:
                return _watch(runs, run_id, board, shown)
            except KeyboardInterrupt:
                if cancelling:
                    raise
                cancelling = True
                shown.message("Cancelling; what is committed stays. Press Ctrl-C again to stop watching.")
                runs.cancel(run_id, "Ctrl-C on the command line")


def _watch(runs: "Runs", run_id: str, board: Board, shown: ProgressView) -> "RunView":
    cursor: str | None = None
    for looks in count():
        # The view first: events that come after it are read in the next round, so that none is missed at the end.
        view = runs.get(run_id)
        events = runs.events(run_id, after=cursor)
        cursor = events.cursor
        for progress in events.progress:
            shown.progressed(board.see_progress(progress))
        for text in events.messages:
            shown.message(text)
        for line in board.see_view(view):
            shown.changed(line)
        if view.status.is_final:
            break
        time.sleep(POLL_SECONDS if looks < 20 else SLOW_POLL_SECONDS)
    return view


def exit_code(view: "RunView") -> int:
    """What the command exits with: 0, 130 for a cancelled run, else the code of the one class all failures share, else 1."""
    from elt_dagster.control.runs import RunStatus

    if view.status is RunStatus.COMPLETED:
        return 0
    if view.status is RunStatus.CANCELLED:
        return CANCELLED
    codes = {_codes().get(failed.reason or "", 1) for failed in view.failures}
    return codes.pop() if len(codes) == 1 else 1


def _codes() -> dict[str, int]:
    from elt_dagster import errors

    found: dict[str, int] = {}
    kinds: list[type[EltError]] = [errors.EltError]
    while kinds:
        kind = kinds.pop()
        found.setdefault(kind.reason, kind.exit_code)
        kinds += kind.__subclasses__()
    return found


def run_json(view: "RunView") -> dict[str, Any]:
    """A run as plain data with stable keys."""
    return {
        "id": view.id,
        "sync": view.sync,
        "status": view.status.value,
        "run_mode": view.run_mode.value,
        "triggered_by": view.triggered_by,
        "trigger_ref": view.trigger_ref,
        "created_at": view.created_at,
        "started_at": view.started_at,
        "ended_at": view.ended_at,
        "partition": view.partition,
        "root_id": view.root_id,
        "parent_id": view.parent_id,
        "attempt": view.attempt,
        "next_id": view.next_id,
        "max_retries": view.max_retries,
        "result_class": view.result_class,
        "reason": view.reason,
        "cancel_reason": view.cancel_reason,
        "heartbeat_at": view.heartbeat_at,
        "error": view.error,
        "url": view.url,
        "backend": backend_json(view.backend),
        "streams": [
            {
                "stream": s.stream,
                "status": s.status.value,
                "rows": s.rows,
                "bytes": s.bytes,
                "seconds": s.seconds,
                "error": s.error,
                "reason": s.reason,
                "error_class": s.error_class,
                "rows_inserted": s.rows_inserted,
                "rows_updated": s.rows_updated,
                "rows_deleted": s.rows_deleted,
                "rows_rejected": s.rows_rejected,
                "cursor_before": s.cursor_before,
                "cursor_after": s.cursor_after,
                "backend": backend_json(s.backend),
                "metrics": dict(s.metrics),
            }
            for s in view.streams
        ],
    }


def backend_json(backend: "BackendRun | None") -> dict[str, Any] | None:
    """Work elsewhere as plain data; None where Dagster itself loads."""
    from dataclasses import asdict

    return asdict(backend) if backend is not None else None


def result_table(view: "RunView") -> Any:
    """What each stream did, for people."""
    numbers = ("read", "inserted", "updated", "rows/s", "bytes", "time", "table rows")
    rows = []
    for s in view.streams:
        m = s.metrics
        counts = (number(s.rows), number(m.get("rows_inserted")), number(m.get("rows_updated")))
        speed = (number(m.get("rows_per_second")), size(s.bytes), seconds(s.seconds), number(m.get("table_rows")))
        cursor = " → ".join(cell(c) for c in (m.get("cursor_before"), m.get("cursor_after")) if c)
        rows.append((s.stream, s.status.value, *counts, *speed, cursor))
    return table(("stream", "status", *numbers, "cursor"), rows, right=numbers)


def closing(view: "RunView") -> str:
    """The last line: how the run ended."""
    took = ""
    if view.started_at and view.ended_at:
        took = f" in {seconds((view.ended_at - view.started_at).total_seconds())}"
    return f"Run {view.id} {view.status.value}{took}.{f' {view.url}' if view.url else ''}"
