"""Setting by hand where a stream goes on: back in its history, back to a value of its cursor, or to the beginning.

Two steps, so that a person can look in between: `plan_rewind` and `plan_reset` say what would change, `carry_out` does it, in one transaction and
under the leases of all streams concerned. What happened in the meantime makes it refuse (see docs/adr/0004).
"""

import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from elt_dagster.control.configured import ConfiguredSync
from elt_dagster.destinations.base import State, StateMove
from elt_dagster.errors import ConfigError, NotFoundError, nearest
from elt_dagster.model import Checkpoint, CursorValue, LoadMode, TableBinding, cursor_text


@dataclass(frozen=True, slots=True)
class PlannedMove:
    """A stream's position before and after; nothing has happened yet."""

    binding: TableBinding
    state: State
    after: Checkpoint


def plan_rewind(
    sync: ConfiguredSync,
    stream: str,
    *,
    to_load: str | None = None,
    cursor: str | None = None,
    steps: int | None = None,
) -> PlannedMove:
    """Where ``stream`` would go on after a rewind: exactly one of a load of its history (its id, or how that begins), a cursor value, or a number
    of commits back. Rows are read again, inclusive, and none is doubled.

    Raises NotFoundError for what is not in the history, ConfigError for a value that is ahead, of the wrong type, or of no use to the stream.
    """
    if [to_load, cursor, steps].count(None) != 2:
        raise ConfigError(
            "A rewind goes to one place.", fix="Give exactly one of --to-load LOAD, --cursor VALUE and --steps N."
        )
    binding = _binding(sync, stream)
    if sync.resolved(binding).load_mode is LoadMode.REPLACE or binding.full_sync_always:
        raise ConfigError(
            f"Stream {stream!r} is read from the beginning by every run, so it has no position to set back.",
            fix=f"Run it: elt-dagster run {sync.spec.slug} --stream {stream}",
        )
    history = sync.open_destination().history(sync.spec.dataset, sync.binding_ids[stream])
    if not history:
        raise NotFoundError(f"Stream {stream!r} was never loaded, so it has no position to set back.", fix="Run it.")
    if cursor is not None:
        return PlannedMove(binding, history[0], _before(history, cursor, stream))
    found = _of_load(history, to_load, stream) if to_load is not None else _steps_back(history, steps or 0, stream)
    return PlannedMove(binding, history[0], found.checkpoint)


def plan_reset(sync: ConfiguredSync, stream: str | None = None) -> list[PlannedMove]:
    """Forgetting the position of ``stream``, or of every stream that has one: the next run starts from the beginning, the table stays."""
    wanted = [_binding(sync, stream)] if stream is not None else list(sync.spec.streams)
    states = {s.binding_id: s for s in sync.open_destination().states(sync.spec.dataset)}
    found = [(b, states.get(sync.binding_ids[b.name])) for b in wanted]
    return [
        PlannedMove(b, state, Checkpoint())
        for b, state in found
        if state is not None and state.checkpoint != Checkpoint()
    ]


def carry_out(sync: ConfiguredSync, moves: Sequence[PlannedMove], *, by: str) -> list[State]:
    """Do what was planned: all of it or nothing; ``by`` stands in the history as the run. The new states, in the order of ``moves``.

    Raises ConflictError, with the active run's id, while one of the streams is being loaded; DestinationError when one was loaded since.
    """
    with ExitStack() as leases:
        rows = []
        for move in sorted(moves, key=lambda m: m.state.binding_id):
            fence = leases.enter_context(sync.connections.lease(move.state.binding_id, by))
            now = sync.runtime.now()
            new = replace(
                move.state, checkpoint=move.after, load_id=uuid.uuid4().hex, run_id=by, fence=fence, committed_at=now
            )
            rows.append(StateMove(new, after_load=move.state.load_id))
        sync.open_destination().move_states(rows)
    done = {row.state.binding_id: row.state for row in rows}
    return [done[move.state.binding_id] for move in moves]


def _binding(sync: ConfiguredSync, stream: str) -> TableBinding:
    binding = sync.spec.binding(stream)
    if binding is None:
        known = [b.name for b in sync.spec.streams]
        raise NotFoundError(f"Sync {sync.spec.slug!r} has no stream {stream!r}.", fix=nearest(stream, known))
    return binding


def _of_load(history: Sequence[State], load: str, stream: str) -> State:
    found = [s for s in history if s.load_id.startswith(load)]
    if not load or not found:
        raise NotFoundError(
            f"The history of stream {stream!r} has no load {load!r}.", fix=nearest(load, [s.load_id for s in history])
        )
    if len({s.load_id for s in found}) > 1:
        raise ConfigError(
            f"Several loads of stream {stream!r} begin with {load!r}.",
            fix="Give more of the id, as `elt-dagster state history --json` shows it.",
        )
    return found[0]


def _steps_back(history: Sequence[State], steps: int, stream: str) -> State:
    if not 1 <= steps < len(history):
        raise ConfigError(
            f"Stream {stream!r} cannot go back {steps} commits: its history holds {len(history) - 1} before the last one.",
            fix="See them with `elt-dagster state history`, or give a --cursor.",
        )
    return history[steps]


def _before(history: Sequence[State], text: str, stream: str) -> Checkpoint:
    """A checkpoint at ``text``, which must not be ahead of what is committed: the rows between would never be read."""
    known = next((s.checkpoint for s in history if s.checkpoint.cursor is not None), None)
    if known is None or known.cursor is None or any(s.checkpoint.extra for s in history):
        raise ConfigError(
            f"The position of stream {stream!r} is more than a cursor value.",
            fix="Use --to-load, --steps, or reset it.",
        )
    value, current = _like(known.cursor, text, stream), history[0].checkpoint.cursor
    if current is None or value > current:  # type: ignore[operator]  # both are of the one type of this cursor
        where = f"at {cursor_text(current)}" if current is not None else "at the beginning"
        raise ConfigError(
            f"Stream {stream!r} is {where}, and {text} is ahead of that: the rows between would never be read.",
            fix="Give an earlier value.",
        )
    return Checkpoint(value)


def _like(example: CursorValue, text: str, stream: str) -> CursorValue:
    """``text`` as a value of the type of ``example``; a point in time without a zone is UTC where the cursor has a zone."""
    try:
        return _parsed(example, text)
    except (ValueError, InvalidOperation):
        raise ConfigError(
            f"{text!r} is no value of the cursor of stream {stream!r}, which is of type {type(example).__name__}.",
            fix=f"Write it like {cursor_text(example)}.",
        ) from None


def _parsed(example: Any, text: str) -> CursorValue:
    if isinstance(example, datetime):
        return _moment(text, has_zone=example.tzinfo is not None)
    if isinstance(example, date):
        return date.fromisoformat(text)
    kind: type[int] | type[float] | type[Decimal] | type[str] = type(example)
    value = kind(text)
    if value != value:  # noqa: PLR0124 - NaN, which has no place in any order
        raise ValueError("not a number")
    return value


def _moment(text: str, *, has_zone: bool) -> datetime:
    value = datetime.fromisoformat(text)
    if has_zone:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if value.tzinfo is not None:
        raise ValueError("this cursor has no zone")
    return value
