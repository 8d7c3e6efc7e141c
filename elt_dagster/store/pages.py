"""Pages of a list. The page decides what it costs, not the table: an index leads to its first row."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from elt_dagster.errors import NotFoundError
from elt_dagster.store.schema import connections, syncs

Words = tuple[str, ...] | frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a page is in a list by age. What is made meanwhile moves nothing in a list that is ``newest_first`` and read ``after`` an id,
    nor in one that is oldest first."""

    limit: int
    offset: int = 0
    after: str | None = None
    """The id of the last row of the page before."""
    newest_first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncFilter:
    """Which syncs; what is left out narrows nothing."""

    text: str = ""
    """A part of the name or the slug, whatever its case."""
    statuses: Words = ()
    without_statuses: Words = ()
    connectors: Words = ()
    connection_id: str | None = None

    def clause(self) -> sa.ColumnElement[bool]:
        """As a condition on ``elt_syncs``."""
        parts: list[sa.ColumnElement[bool]] = [sa.true()]
        if self.text:
            parts.append(sa.or_(*(c.icontains(self.text, autoescape=True) for c in (syncs.c.slug, syncs.c.title))))
        if self.statuses:
            parts.append(syncs.c.status.in_(self.statuses))
        if self.without_statuses:
            parts.append(syncs.c.status.not_in(self.without_statuses))
        if self.connection_id is not None:
            parts.append(syncs.c.connection_id == self.connection_id)
        if self.connectors:
            of_kind = sa.select(connections.c.id).where(connections.c.connector.in_(self.connectors))
            parts.append(syncs.c.connection_id.in_(of_kind))
        return sa.and_(*parts)


def page_of(conn: Connection, table: sa.Table, which: sa.ColumnElement[bool], at: Place) -> tuple[list[Row[Any]], int]:
    """The rows of ``table`` on one page of those that ``which`` names, and how many it names.

    Raises NotFoundError when the row that the page comes after is not there.
    """
    rows = rows_of(conn, table, which, at)
    if at.after is None and len(rows) < at.limit and (rows or not at.offset):
        return rows, at.offset + len(rows)  # the page is the end, and tells it
    return rows, conn.scalar(sa.select(sa.func.count()).select_from(table).where(which)) or 0


def rows_of(conn: Connection, table: sa.Table, which: sa.ColumnElement[bool], at: Place) -> list[Row[Any]]:
    """The same, uncounted: a list that grows costs no more."""
    order = (table.c.created_at, table.c.id)
    wanted = sa.select(table).where(which).order_by(*(c.desc() if at.newest_first else c for c in order))
    if at.after is not None:
        row = conn.execute(sa.select(*order).where(which, table.c.id == at.after)).one_or_none()
        if row is None:
            raise NotFoundError(
                f"There is nothing with the id {at.after!r} to go on from.", fix="Begin at the first page."
            )
        here = sa.tuple_(*(sa.literal(v, c.type) for v, c in zip(row, order, strict=True)))
        wanted = wanted.where(sa.tuple_(*order) < here if at.newest_first else sa.tuple_(*order) > here)
    return list(conn.execute(wanted.limit(at.limit).offset(at.offset)))
