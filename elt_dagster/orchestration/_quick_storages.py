"""Dagster's storages as somebody needs them who asks all the time, with many threads.

What they are asked and what they answer stays the same. What took the time in them:

- every question about runs begins with three to the catalog of the database, for the columns of the table;
- on a server, one connection is kept for each storage, and every other one is closed after its question: to connect to PostgreSQL takes ten
  times as long as to ask it;
- on SQLite, each question has an engine of its own, which compiles its statement anew, and for the log of each run Alembic, which reads all its
  migrations, is asked whether the log is of today: 4 ms a question, 60 ms a log.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster._core.storage.event_log import SqliteEventLogStorage  # noqa: TID251 - as the docstring says
from dagster._core.storage.runs import SqliteRunStorage, SqlRunStorage  # noqa: TID251
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import QueuePool

_REOPENED_SECONDS = 30
"""After which a file is opened anew: it may be another one by then."""
_KEPT_CONNECTIONS = 10
"""For each storage. More are opened when more threads ask at once, as many as Dagster's pool was made for."""


def quicken(instance: dg.DagsterInstance) -> None:
    """Change how the storages of ``instance`` work, in this object only. For a process that never forks. After `optimize_for_webserver`, which
    makes the pools."""
    runs, events = instance.run_storage, instance.event_log_storage
    for storage in (runs, events, instance.schedule_storage):
        _keep_connections(getattr(storage, "_engine", None))
    if isinstance(runs, SqlRunStorage):
        _replace(runs, "has_run_stats_index_cols", _until_true(runs.has_run_stats_index_cols))
    if isinstance(runs, SqliteRunStorage):
        engine = sa.create_engine(runs._conn_string, pool_recycle=_REOPENED_SECONDS, max_overflow=35)
        _replace(runs, "connect", _connecting(engine))
    if isinstance(events, SqliteEventLogStorage):
        _replace(events, "_initdb", _initdb_once(events._initdb))
        _replace(events, "get_step_stats_for_run", _where_there_is_a_log(events))


def _keep_connections(engine: Engine | None) -> None:
    if engine is not None and isinstance(engine.pool, QueuePool):
        # no public way changes it, and an engine of our own would lack what Dagster told its one
        engine.pool._pool.maxsize = max(engine.pool._pool.maxsize, _KEPT_CONNECTIONS)


def _until_true(asks: Callable[[], bool]) -> Callable[[], bool]:
    """A migration adds columns and takes none away, so a yes is asked for once."""
    known = False

    def ask() -> bool:
        nonlocal known
        known = known or asks()
        return known

    return ask


def _replace(storage: object, method: str, by: Callable[..., Any]) -> None:
    if not hasattr(storage, method):
        raise AttributeError(
            f"{type(storage).__name__} has no {method}: this Dagster is not the one that was looked at."
        )
    setattr(storage, method, by)


def _connecting(engine: Engine) -> Callable[[], Any]:
    @contextmanager
    def connect() -> Iterator[Connection]:
        with engine.connect() as conn, conn.begin():
            yield conn

    return connect


def _initdb_once(initdb: Callable[..., None]) -> Callable[..., None]:
    def unless_stamped(engine: Engine, for_index_shard: bool = False) -> None:
        # all that it does to a log that Alembic knows is to find that out
        if not _is_stamped(engine):
            initdb(engine, for_index_shard)

    return unless_stamped


def _where_there_is_a_log(events: SqliteEventLogStorage) -> Callable[..., Any]:
    ask = events.get_step_stats_for_run

    def asked(run_id: str, *more: Any, **named: Any) -> Any:
        # to answer that a run without a log has no steps, one would be made
        return ask(run_id, *more, **named) if Path(events.path_for_shard(run_id)).exists() else []

    return asked


def _is_stamped(engine: Engine) -> bool:
    try:
        with engine.connect() as conn:
            return conn.scalar(sa.text("SELECT version_num FROM alembic_version")) is not None
    except exc.DBAPIError:
        return False
