"""``state``: how far each stream is, asked from the warehouse itself, and setting it back by hand."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from elt_dagster.cli.app import Suggesting
from elt_dagster.cli.session import Session, command
from elt_dagster.cli.show import ago, cell, clock, table

if TYPE_CHECKING:
    from elt_dagster.control.configured import ConfiguredSync
    from elt_dagster.control.positions import PlannedMove
    from elt_dagster.destinations.base import State
    from elt_dagster.model import Checkpoint


@click.group(cls=Suggesting)
def state() -> None:
    """See how far each stream of a sync is, and set it back. The truth is the table _elt_state in the warehouse."""


@state.command()
@click.argument("sync")
@command
def show(session: Session, sync: str) -> None:
    """The committed position of every stream of SYNC."""
    found = session.workspace.states(sync)
    data = [{"stream": b.binding.name, "table": str(b.table), **_state(b.state)} for b in found]
    rows = [
        (
            cell(b.binding.name),
            str(b.table),
            cell(_cursor(b.state)),
            ago(b.state.committed_at) if b.state else "never loaded",
            b.state.run_id[:8] if b.state else "",
        )
        for b in found
    ]
    session.answer(data, table(("stream", "table", "cursor", "committed", "run"), rows))


@state.command()
@click.argument("sync")
@click.argument("stream")
@command
def history(session: Session, sync: str, stream: str) -> None:
    """The last 20 commits of one stream of SYNC, newest first."""
    found = session.workspace.history(sync, stream)
    rows = [(clock(s.committed_at), cell(_cursor(s)), s.run_id[:8], s.load_id[:8], s.fence) for s in found]
    session.answer([_state(s) for s in found], table(("committed", "cursor", "run", "load", "fence"), rows))


@state.command()
@click.argument("sync")
@click.argument("stream")
@click.option("--to-load", metavar="LOAD", help="A load of `state history`: its id, or how that begins.")
@click.option("--cursor", metavar="VALUE", help="A value of the cursor column, not ahead of what is committed.")
@click.option("--steps", metavar="N", type=click.IntRange(min=1), help="So many commits back.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@command
def rewind(
    session: Session, sync: str, stream: str, *, to_load: str | None, cursor: str | None, steps: int | None, yes: bool
) -> None:
    """Set STREAM of SYNC back, so that its next run reads again from there, inclusive.

    No row is doubled: rows that the table has already are recognised. The table stays as it is until then.
    """
    from elt_dagster.control.positions import plan_rewind

    configured = session.workspace.configured(sync)
    move = plan_rewind(configured, stream, to_load=to_load, cursor=cursor, steps=steps)
    _carry_out(session, configured, [move], by="rewind", yes=yes)


@state.command()
@click.argument("sync")
@click.argument("stream", required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
@command
def reset(session: Session, sync: str, stream: str | None, *, yes: bool) -> None:
    """Forget the position of STREAM, or of every stream of SYNC: the next run starts from the beginning.

    The table and its rows stay, and none is doubled: rows that the table has already are recognised. `elt-dagster run --full-refresh` is what replaces them.
    """
    from elt_dagster.control.positions import plan_reset

    configured = session.workspace.configured(sync)
    moves = plan_reset(configured, stream)
    _carry_out(session, configured, moves, by="reset", yes=yes)


def _carry_out(session: Session, sync: "ConfiguredSync", moves: "Sequence[PlannedMove]", *, by: str, yes: bool) -> None:
    from elt_dagster.control.positions import carry_out

    rows = [
        (cell(m.binding.name), str(m.state.table), cell(_place(m.state.checkpoint)), cell(_place(m.after)))
        for m in moves
    ]
    shown = table(("stream", "table", "position", "new position"), rows)
    if not moves:
        session.say("Nothing to do: there is no position to forget.")
        session.answer([])
        return
    if not yes:
        session.err.print(shown)
        click.confirm("Set it so?", abort=True, err=True)
    done = carry_out(sync, moves, by=by)
    data = [{**_move(move), "load_id": new.load_id} for move, new in zip(moves, done, strict=True)]
    session.answer(data, shown if yes else f"Done; the next run of {sync.spec.slug} goes on from there.")


def _move(move: "PlannedMove") -> dict[str, Any]:
    return {
        "stream": move.binding.name,
        "table": str(move.state.table),
        "before": move.state.checkpoint.to_json(),
        "after": move.after.to_json(),
    }


def _place(checkpoint: "Checkpoint") -> str:
    from elt_dagster.model import cursor_text

    if checkpoint.cursor is None:
        return f"({', '.join(checkpoint.extra)})" if checkpoint.extra else "the beginning"
    return cursor_text(checkpoint.cursor)


def _cursor(found: "State | None") -> str:
    known = found is not None and (found.checkpoint.cursor is not None or found.checkpoint.extra)
    return _place(found.checkpoint) if found is not None and known else ""


def _state(found: "State | None") -> dict[str, Any]:
    if found is None:
        return dict.fromkeys(("binding_id", "checkpoint", "load_id", "run_id", "fence", "committed_at"))
    return {
        "binding_id": found.binding_id,
        "checkpoint": found.checkpoint.to_json(),
        "load_id": found.load_id,
        "run_id": found.run_id,
        "fence": found.fence,
        "committed_at": found.committed_at,
    }
