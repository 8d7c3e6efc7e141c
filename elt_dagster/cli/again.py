"""``retry`` and ``backfill``: another attempt of a run, and windows of the past."""

import time
from typing import TYPE_CHECKING, Any

import click

from elt_dagster.cli.progress import Board
from elt_dagster.cli.run import closing, exit_code, follow, result_table, run_json, window_between
from elt_dagster.cli.session import Session, command, steering, workspace_option
from elt_dagster.cli.show import table

if TYPE_CHECKING:
    from elt_dagster.control.runs import BackfillView

POLL_SECONDS = 2.0


@click.command()
@click.argument("run")
@click.option("--full-refresh", is_flag=True, help="All of its streams once more, from the beginning.")
@click.option("--incremental", is_flag=True, help="All of its streams once more, each from where it is.")
@workspace_option
@steering
def retry(session: Session, run: str, *, full_refresh: bool, incremental: bool, workspace_file: str | None) -> int:
    """Start another attempt of RUN and watch it: what failed, and what hangs on it.

    With --full-refresh or --incremental all of its streams are run again. Attempts of one run stay together in the UI.
    """
    from elt_dagster.model import RunMode

    if full_refresh and incremental:
        raise click.UsageError("--full-refresh and --incremental exclude each other.")
    mode = RunMode.FULL_REFRESH if full_refresh else RunMode.INCREMENTAL if incremental else None
    with session.runs(workspace_file) as runs:
        run_id = runs.retry(run, run_mode=mode)
        attempts = len(runs.attempts(run_id))
        session.say(f"Run {run_id}, attempt {attempts} of {run}")
        view = follow(session, runs, run_id, Board([s.stream for s in runs.get(run_id).streams]))
    session.answer({**run_json(view), "attempt": attempts}, result_table(view), closing(view))
    for failed in view.failures:
        session.say(f"{failed.stream}: {failed.error or 'failed; its log is in the Dagster UI.'}", style="red")
    return exit_code(view)


@click.command()
@click.argument("sync")
@click.option("--from", "start", required=True, metavar="TIME", help="Windows that begin from this time on.")
@click.option("--to", "end", metavar="TIME", help="And before this time; default now.")
@click.option("--stream", "streams", multiple=True, metavar="NAME", help="Only this stream; may be repeated.")
@click.option("--detach", is_flag=True, help="Do not wait for it.")
@command
def backfill(
    session: Session, sync: str, *, start: str, end: str | None, streams: tuple[str, ...], detach: bool
) -> int:
    """Load the windows of SYNC between two times, each in a run of its own, side by side.

    Dagster's daemon starts the runs, so $ELT_DAGSTER_WEBSERVER_URL must name a deployment that has one. Windows that fail can be run again alone, in
    the UI or with `elt-dagster retry`.
    """
    window = window_between(session, sync, start, end)
    assert window is not None  # noqa: S101 - --from is required
    with session.runs() as runs:
        backfill_id = runs.backfill(sync, window, streams=list(streams) or None)
        session.say(f"Backfill {backfill_id} of {sync}")
        view = runs.get_backfill(backfill_id)
        while not detach and not view.is_final:
            time.sleep(POLL_SECONDS)
            view = runs.get_backfill(backfill_id)
    session.answer(_backfill_json(view), table(("backfill", "status", "windows", *view.runs), [_cells(view)]))
    if view.error:
        session.say(view.error, style="red")
    done = detach or view.status in ("completed", "completed_success")
    return 0 if done else 1


def _cells(view: "BackfillView") -> tuple[Any, ...]:
    return (view.id, view.status, view.windows, *view.runs.values())


def _backfill_json(view: "BackfillView") -> dict[str, Any]:
    """A backfill as plain data with stable keys."""
    runs = {status.value: number for status, number in view.runs.items()}
    return {"id": view.id, "status": view.status, "windows": view.windows, "runs": runs, "error": view.error}
