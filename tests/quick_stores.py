"""Stores for tests, made by the statements of the first one's migrations.

Hundreds of tests make a store of their own. Alembic needs seven times as long to find out what to do as the database needs to do it, and it is the
same each time: so the first empty store of a process, on each engine, is migrated for real, and the statements it took are said again to those that
follow. A store that has tables already is always migrated for real; `real_migrations` is for tests that are about the making itself.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection

from elt_dagster.store import upgrade
from elt_dagster.store.schema import workspaces

_migrate = upgrade._migrate
_statements: dict[str, list[tuple[str, Any]]] = {}


def install() -> None:
    """From now on, in this process."""
    upgrade._migrate = _quickly


@contextmanager
def real_migrations() -> Iterator[None]:
    """Alembic makes every store, as it does everywhere but in tests."""
    upgrade._migrate = _migrate
    try:
        yield
    finally:
        install()


def _quickly(conn: Connection) -> None:
    name = conn.dialect.name
    if upgrade.stored_version(conn) is not None:
        _migrate(conn)
    elif name not in _statements:
        _statements[name] = _recorded(conn)
    else:
        for statement, parameters in _statements[name]:
            conn.exec_driver_sql(statement, parameters or None)
        # no two stores have the same id
        conn.execute(sa.update(workspaces).values(id=str(uuid.uuid4()), created_at=datetime.now(UTC)))


def _recorded(conn: Connection) -> list[tuple[str, Any]]:
    said: list[tuple[str, Any]] = []

    def hear(_conn: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        if not statement.lstrip().startswith(("SELECT", "PRAGMA")):
            said.append((statement, parameters))

    event.listen(conn, "before_cursor_execute", hear)
    try:
        _migrate(conn)
    finally:
        event.remove(conn, "before_cursor_execute", hear)
    return said
