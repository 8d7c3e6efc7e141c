"""Connections and transactions of the store, and its driver's errors in our words."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Connection, Engine, Row
from sqlalchemy.pool import NullPool, QueuePool

from elt_dagster.errors import AuthError, ConfigError, EltError, TransientError
from elt_dagster.store.location import shown, sqlite_file

BUSY_SECONDS = 30
"""How long a writer waits for another one."""
CONNECT_SECONDS = 10
_POOL = {"pool_size": 10, "max_overflow": 30}
"""Together as many as a server has threads; those beyond the first ten are closed again at once."""
_ENGINES = ("engine", "_glances")
_REOPENED_SECONDS = 30
"""After which a file is opened anew: it may have been put back from a backup."""


class Database:
    """One engine, made when it is first needed. Threads may share it; a forked child gets connections of its own."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self.shown = shown(url)
        self.file = sqlite_file(url)
        self._keeps_open = False

    def keep_open(self) -> None:
        """Keep connections to a file open between uses, which saves reading its schema each time; for a process that never forks."""
        self.close()
        for engine in _ENGINES:
            self.__dict__.pop(engine, None)
        self._keeps_open = True

    @cached_property
    def engine(self) -> Engine:
        """The engine. Raises ConfigError when the driver is not installed."""
        if self.file is not None:
            return _sqlite_engine(self._url, keeps_open=self._keeps_open)
        return _postgres_engine(self._url, pool_pre_ping=True)

    @cached_property
    def _glances(self) -> Engine:
        """Connections outside of transactions, which nobody asks first whether they are alive."""
        return self.engine if self.file is not None else _postgres_engine(self._url, isolation_level="AUTOCOMMIT")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one state of the store, whatever is written meanwhile."""
        with self.errors_in_words(), self.engine.connect() as conn:
            if self.file is None:
                conn.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with conn.begin():
                yield conn

    def glance(self, statement: str, *values: str) -> tuple[Any, ...] | None:
        """The first row that ``statement`` gives at this moment, by the shortest way there is; its ``{}`` stand for ``values``."""
        with self.errors_in_words():
            engine = self._glances
            statement = statement.format(*["?" if self.file is not None else "%s"] * len(values))
            with suppress(engine.dialect.loaded_dbapi.Error, exc.SQLAlchemyError):
                return _first(engine, statement, values)
        with self.read() as conn:  # which connects anew, or says what is wrong
            return _plain(conn.exec_driver_sql(statement, values).first())

    @contextmanager
    def write(self, *, wait_seconds: float | None = None) -> Iterator[Connection]:
        """A transaction: committed at the end, rolled back on any exception. SQLite lets one writer in at a time.

        Raises TransientError when it had to wait for another writer longer than `BUSY_SECONDS`, or in Postgres ``wait_seconds``, where
        0 is for ever.
        """
        wait = BUSY_SECONDS if wait_seconds is None else wait_seconds
        with self.errors_in_words(), self.engine.connect() as conn:
            if self.file is None:
                conn.execution_options(isolation_level="READ COMMITTED")
            else:
                conn.execution_options(elt_writes=True)
            with conn.begin():
                if self.file is None:
                    conn.exec_driver_sql(f"SET LOCAL lock_timeout = {int(wait * 1000)}")
                yield conn

    @contextmanager
    def errors_in_words(self) -> Iterator[None]:
        """Turn SQLAlchemy's errors into ours: they show statements, and their tracebacks help no user."""
        try:
            yield
        except exc.SQLAlchemyError as error:
            raise _in_words(error, self.shown) from None

    def close(self, *, inherited: bool = False) -> None:
        """Close idle connections; new ones are made when needed. ``inherited``, in a forked child, leaves them open for the parent."""
        for engine in {id(e): e for name in _ENGINES if (e := self.__dict__.get(name)) is not None}.values():
            engine.dispose(close=not inherited)


def _first(engine: Engine, statement: str, values: tuple[str, ...]) -> tuple[Any, ...] | None:
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute(statement, values)
        found: tuple[Any, ...] | None = cursor.fetchone()
        return found
    except BaseException:
        connection.invalidate()
        raise
    finally:
        connection.close()


def _plain(row: Row[Any] | None) -> tuple[Any, ...] | None:
    return None if row is None else tuple(row)


def _postgres_engine(url: URL, **more: Any) -> Engine:
    told = {"connect_timeout": CONNECT_SECONDS, "application_name": "elt_dagster"}
    try:
        return sa.create_engine(url, hide_parameters=True, connect_args=told, **_POOL, **more)
    except ImportError:
        raise ConfigError(
            "The store is in Postgres, but its driver is not installed.",
            fix="Run: pip install 'elt-dagster[postgres]'.",
        ) from None


def _sqlite_engine(url: URL, *, keeps_open: bool) -> Engine:
    # NullPool: opening a file costs 0.1 ms, and nothing is shared between threads or after a fork
    pool: dict[str, Any] = (
        {"poolclass": QueuePool, "pool_recycle": _REOPENED_SECONDS, **_POOL} if keeps_open else {"poolclass": NullPool}
    )
    engine = sa.create_engine(url, hide_parameters=True, connect_args={"timeout": BUSY_SECONDS}, **pool)

    @event.listens_for(engine, "connect")
    def _prepare(dbapi: Any, _record: Any) -> None:
        dbapi.isolation_level = None  # the driver would begin transactions late, and never IMMEDIATE
        dbapi.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def _begin(conn: Connection) -> None:
        writes = conn.get_execution_options().get("elt_writes", False)
        conn.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


_SAID: tuple[tuple[str, str, type[EltError], str, str], ...] = (
    # the start of the SQLSTATE, a part of the text, and what it means; a failing connect has no SQLSTATE
    ("28", "authentication failed", AuthError, "refused the credentials", "Correct user and password in its URL."),
    ("-", 'role "', AuthError, "does not know the user", "Correct the user in its URL."),
    ("-", "pg_hba.conf", AuthError, "does not let this user in from here", "Allow it in the server's pg_hba.conf."),
    ("3D000", '" does not exist', ConfigError, "names a database that is not there", "Create it or correct the URL."),
    ("42P01", "no such table", ConfigError, "is not initialised", "Run: elt-dagster init."),
    ("42501", "permission denied", ConfigError, "denies this user the rights it needs", "Grant them."),
    ("25006", "readonly", ConfigError, "is read-only for this user", "Correct the rights, or the URL."),
    ("-", "unable to open", ConfigError, "cannot be opened by this user", "Correct the path or its rights."),
    ("-", "not a database", ConfigError, "is not a SQLite database", "Correct the path."),
    ("-", "malformed", ConfigError, "is damaged", "Restore it from a backup."),
    ("55P03", "locked", TransientError, "is busy with another writer", "Try again in a moment."),
)


def _in_words(error: exc.SQLAlchemyError, store: str) -> EltError:
    cause = getattr(error, "orig", None)
    state = getattr(cause, "pgcode", None) or ""
    text = str(cause).lower()
    for code, part, kind, what, fix in _SAID:
        if state.startswith(code) or (not state and part in text):
            return kind(f"The store {store} {what}.", fix=fix)
    lost = isinstance(error, exc.DBAPIError) and error.connection_invalidated
    if lost or isinstance(error, exc.OperationalError | exc.InterfaceError | exc.TimeoutError):
        return TransientError(
            f"The store {store} cannot be reached.", fix="Try again; look whether the database is up."
        )
    name = type(cause or error).__name__
    return ConfigError(
        f"The store {store} refused a statement ({name}{' ' + state if state else ''}).",
        fix="Its tables may not be those of this version: run elt-dagster init.",
    )
