"""``state show`` and ``state history``: how far each stream is, asked from the warehouse itself."""

from typing import TYPE_CHECKING, Any

import click

from elt_dagster.cli.app import Suggesting
from elt_dagster.cli.session import Session, command
from elt_dagster.cli.show import ago, cell, clock, table

if TYPE_CHECKING:
    from elt_dagster.destinations.base import State


@click.group(cls=Suggesting)
def state() -> None:
    """See how far each stream of a sync is. The truth is the table _elt_state in the warehouse."""


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


def _cursor(found: "State | None") -> str:
    from elt_dagster.model import cursor_text

    if found is None:
        return ""
    if found.checkpoint.cursor is None:
        return f"({', '.join(found.checkpoint.extra)})" if found.checkpoint.extra else ""
    return cursor_text(found.checkpoint.cursor)


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
