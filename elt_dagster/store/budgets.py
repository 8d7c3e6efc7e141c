"""Rate budgets in the store: one row per connection, so that all processes that read from an account keep to one pace.

The database's clock decides. A row is written once per lease of turns, not once per request.
"""

from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from elt_dagster.sdk.budget import Page, Turns, credible, grant, noted
from elt_dagster.store.lease import insert_for
from elt_dagster.store.schema import database_now, rate_budgets


def take(conn: Connection, connection: str, per_second: float | None, patience: float) -> Turns:
    """See `Ledger.take`; in a write transaction."""
    page, now = _locked(conn, connection)
    turns, after = grant(page, now, per_second, patience)
    if after != page:
        _save(conn, connection, after)
    return turns


def pause(conn: Connection, connection: str) -> float | None:
    """Seconds until anybody may ask; None where turns have to be taken, for the vendor's limit is nearly used up."""
    row = conn.execute(sa.select(rate_budgets).where(rate_budgets.c.connection == connection)).one_or_none()
    if row is None:
        return 0.0
    now = float(conn.execute(sa.select(database_now())).scalar_one())
    page = credible(Page(row.next_at, row.hold_until, row.left_over, row.left_over_until), now)
    return None if page.left_over_until > now else max(0.0, page.hold_until - now)


def hold(conn: Connection, connection: str, seconds: float) -> None:
    """See `Ledger.hold`."""
    page, now = _locked(conn, connection)
    _save(conn, connection, replace(page, hold_until=max(page.hold_until, now + noted(seconds))))


def slow(conn: Connection, connection: str, per_second: float, seconds: float) -> None:
    """See `Ledger.slow`."""
    page, now = _locked(conn, connection)
    _save(conn, connection, replace(page, left_over=per_second, left_over_until=now + noted(seconds)))


def _locked(conn: Connection, connection: str) -> tuple[Page, float]:
    free = {"connection": connection, "next_at": 0.0, "hold_until": 0.0, "left_over": 0.0, "left_over_until": 0.0}
    conn.execute(insert_for(conn)(rate_budgets).values(free).on_conflict_do_nothing())
    row = conn.execute(sa.select(rate_budgets).where(rate_budgets.c.connection == connection).with_for_update()).one()
    now = float(conn.execute(sa.select(database_now())).scalar_one())
    return credible(Page(row.next_at, row.hold_until, row.left_over, row.left_over_until), now), now


def _save(conn: Connection, connection: str, page: Page) -> None:
    values = {
        "next_at": page.next_at, "hold_until": page.hold_until,
        "left_over": page.left_over, "left_over_until": page.left_over_until,
    }  # fmt: skip
    conn.execute(sa.update(rate_budgets).where(rate_budgets.c.connection == connection).values(values))
