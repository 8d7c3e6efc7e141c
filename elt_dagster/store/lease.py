"""Leases: who may load a binding now. The database's clock decides, so the clocks of the machines do not matter.

Each acquisition gets a fence one higher than the last; the warehouse refuses a commit with a lower one than it has seen. So a
process that was paused past its lease, and wakes up, can do no harm.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from elt_dagster.errors import ConflictError
from elt_dagster.store.schema import database_now, leases

LEASE_SECONDS = 90.0
LONGEST_SECONDS = 900.0
"""What seems to last longer was written before the database's clock was set back; such a lease is free, and its fence protects the data."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to load one binding until ``expires_at`` (UTC, by the database's clock)."""

    binding_id: str
    holder: str
    run_id: str
    fence: int
    expires_at: datetime
    seconds: float
    """For how long it was asked, and each renewal lasts."""


def acquire(conn: Connection, binding_id: str, holder: str, run_id: str, seconds: float) -> Lease:
    """Take the lease, in a write transaction. The holder itself may take it again and then has a new fence.

    Raises ConflictError, with the active run's id, while another holder's lease is alive.
    """
    conn.execute(_make_sure_of_row(conn, binding_id))
    row = conn.execute(sa.select(leases).where(leases.c.binding_id == binding_id).with_for_update()).one()
    now = _now(conn)
    if _is_alive(row, now) and row.holder != holder:
        raise ConflictError(
            f"The binding {binding_id} is being loaded by run {row.run_id}, whose lease ends in {row.expires_at - now:.0f} s.",
            fix="Wait for that run or cancel it.",
            with_id=row.run_id,
        )
    taken = {"holder": holder, "run_id": run_id, "fence": row.fence + 1, "expires_at": now + seconds}
    conn.execute(sa.update(leases).where(leases.c.binding_id == binding_id).values(taken))
    return Lease(binding_id, holder, run_id, row.fence + 1, _moment(now + seconds), seconds)


def active_run(conn: Connection, binding_id: str) -> str | None:
    """The run whose lease on the binding is alive."""
    row = conn.execute(sa.select(leases).where(leases.c.binding_id == binding_id)).one_or_none()
    return str(row.run_id) if row is not None and _is_alive(row, _now(conn)) else None


def end(conn: Connection, binding_id: str, run_id: str) -> None:
    """Free the lease of a run that is over, without waiting for it to expire. Should its process still live, the next fence shuts it out."""
    mine = (leases.c.binding_id == binding_id) & (leases.c.run_id == run_id)
    conn.execute(sa.update(leases).where(mine).values(expires_at=0.0))


def renew(conn: Connection, lease: Lease) -> Lease:
    """Extend ``lease`` from now on. An expired lease that nobody else took is renewed as well: its fence is still the highest.

    Raises ConflictError, with the other run's id where there is one, when it was taken, released, or its binding deleted.
    """
    until = _now(conn) + lease.seconds
    alive = _is(lease) & (leases.c.expires_at > 0)
    if conn.execute(sa.update(leases).where(alive).values(expires_at=until)).rowcount:
        return replace(lease, expires_at=_moment(until))
    other = conn.execute(sa.select(leases).where(leases.c.binding_id == lease.binding_id)).one_or_none()
    taken = other is not None and other.fence != lease.fence
    by = f"run {other.run_id} took it" if other is not None and taken else "it was released or its binding deleted"
    raise ConflictError(
        f"The lease of run {lease.run_id} on the binding {lease.binding_id} is lost: {by}.",
        fix="Start the run again; nothing of it was committed since.",
        with_id=other.run_id if other is not None and taken else None,
    )


def release(conn: Connection, lease: Lease) -> None:
    """Give ``lease`` back; the row stays, for its fence must never start again. Nothing happens when it was lost already."""
    conn.execute(sa.update(leases).where(_is(lease)).values(expires_at=0.0))


def _is_alive(row: Any, now: float) -> bool:
    return bool(now < row.expires_at <= now + LONGEST_SECONDS)


def _is(lease: Lease) -> sa.ColumnElement[bool]:
    return (
        (leases.c.binding_id == lease.binding_id) & (leases.c.fence == lease.fence) & (leases.c.holder == lease.holder)
    )


def insert_for(conn: Connection) -> Any:
    """The INSERT of the connection's dialect that has ``on_conflict_do_nothing``."""
    return postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert


def _make_sure_of_row(conn: Connection, binding_id: str) -> Any:
    free = {"binding_id": binding_id, "holder": "", "run_id": "", "fence": 0, "expires_at": 0.0}
    return insert_for(conn)(leases).values(free).on_conflict_do_nothing()


def _now(conn: Connection) -> float:
    return float(conn.execute(sa.select(database_now())).scalar_one())


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
