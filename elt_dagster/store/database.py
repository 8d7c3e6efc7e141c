"""Connections and transactions of the store, and its driver's errors in our words."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.pool import NullPool

from elt_dagster.errors import AuthError, ConfigError, EltError, TransientError
from elt_dagster.store.location import shown, sqlite_file

BUSY_SECONDS = 30
"""How long a writer waits for another one."""
CONNECT_SECONDS = 10


class Database:
    """One engine, made when it is first needed. Threads may share it; a forked child gets connections of its own."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self.shown = shown(url)
        self.file = sqlite_file(url)

    @cached_property
    def engine(self) -> Engine:
        """The engine. Raises ConfigError when the driver is not installed."""
        if self.file is not None:
            return _sqlite_engine(self._url)
        try:
            return sa.create_engine(
                self._url,
                hide_parameters=True,
                pool_pre_ping=True,
                pool_size=5,
                max_overflow=15,
                connect_args={"connect_timeout": CONNECT_SECONDS, "application_name": "elt_dagster"},
            )
        except ImportError:
            raise ConfigError(
                "The store is in Postgres, but its driver is not installed.",
                fix="Run: pip install 'elt-dagster[postgres]'.",
            ) from None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one state of the store, whatever is written meanwhile."""
        with self.errors_in_words(), self.engine.connect() as conn:
            if self.file is None:
                conn.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with conn.begin():
                yield conn

    @contextmanager
    def write(self, *, wait_seconds: int = BUSY_SECONDS) -> Iterator[Connection]:
        """A transaction: committed at the end, rolled back on any exception. SQLite lets one writer in at a time.

        Raises TransientError when it had to wait for another writer longer than ``wait_seconds`` (0: forever, in Postgres).
        """
        with self.errors_in_words(), self.engine.connect() as conn:
            if self.file is None:
                conn.execution_options(isolation_level="READ COMMITTED")
            else:
                conn.execution_options(elt_writes=True)
            with conn.begin():
                if self.file is None:
                    conn.exec_driver_sql(f"SET LOCAL lock_timeout = '{wait_seconds}s'")
                yield conn

    @contextmanager
    def errors_in_words(self) -> Iterator[None]:
        """Turn SQLAlchemy's errors into ours: they show statements, and their tracebacks help no user."""
        try:
            yield
        except exc.SQLAlchemyError as error:
            raise _in_words(error, self.shown) from None

    def forget_connections(self) -> None:
        """In a forked child: leave the parent's connections to the parent."""
        if "engine" in self.__dict__:
            self.engine.dispose(close=False)


def _sqlite_engine(url: URL) -> Engine:
    # NullPool: opening a file costs 0.1 ms, and nothing is shared between threads or after a fork
    engine = sa.create_engine(url, hide_parameters=True, poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS})

    @sa.event.listens_for(engine, "connect")
    def _prepare(dbapi: Any, _record: Any) -> None:
        dbapi.isolation_level = None  # the driver would begin transactions late, and never IMMEDIATE
        dbapi.execute("PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine, "begin")
    def _begin(conn: Connection) -> None:
        writes = conn.get_execution_options().get("elt_writes", False)
        conn.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _in_words(error: exc.SQLAlchemyError, store: str) -> EltError:
    cause = getattr(error, "orig", None)
    state = getattr(cause, "pgcode", None) or ""
    text = str(cause).lower()
    if state.startswith("28") or "authentication failed" in text:
        return AuthError(f"The store {store} refused the credentials.", fix="Correct user and password in its URL.")
    if state == "3D000" or ('database "' in text and "does not exist" in text):
        return ConfigError(f"The store's database does not exist: {store}.", fix="Create it, or correct the URL.")
    if state == "42501" or "readonly" in text or "unable to open" in text:
        return ConfigError(f"The store {store} may not be written by this user.", fix="Grant the rights it needs.")
    if "not a database" in text or "malformed" in text:
        return ConfigError(
            f"The store {store} is not a SQLite database, or damaged.", fix="Correct the path or restore it."
        )
    lost = isinstance(error, exc.DBAPIError) and error.connection_invalidated
    if lost or isinstance(error, exc.OperationalError | exc.InterfaceError | exc.TimeoutError):
        busy = "locked" in text or state == "55P03"
        what = "is busy with another writer" if busy else "cannot be reached"
        return TransientError(f"The store {store} {what}.", fix="Try again; if it stays so, look at the database.")
    kind = type(cause or error).__name__
    return ConfigError(f"The store {store} refused a statement ({kind}{' ' + state if state else ''}).",
                       fix="Compare its tables with this version of elt-dagster: run elt-dagster init.")  # fmt: skip
