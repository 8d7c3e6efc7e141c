"""Dagster's SQLite storages as somebody needs them who asks all the time.

They make an engine for every question, which compiles its statement anew, and for the log of each run they ask Alembic, which reads all its
migrations, whether the log is of today: 4 ms a question, 60 ms a log. What they are asked and what they answer stays the same.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster._core.storage.event_log import SqliteEventLogStorage  # noqa: TID251 - as the docstring says
from dagster._core.storage.runs import SqliteRunStorage  # noqa: TID251
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine

_REOPENED_SECONDS = 30
"""After which a file is opened anew: it may be another one by then."""


def quicken(instance: dg.DagsterInstance) -> None:
    """Change what ``instance`` does with SQLite, in this object only; other storages stay as they are. For a process that never forks."""
    runs, events = instance.run_storage, instance.event_log_storage
    if isinstance(runs, SqliteRunStorage):
        engine = sa.create_engine(runs._conn_string, pool_recycle=_REOPENED_SECONDS, max_overflow=35)
        _replace(runs, "connect", _connecting(engine))
    if isinstance(events, SqliteEventLogStorage):
        _replace(events, "_initdb", _initdb_once(events._initdb))


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


def _is_stamped(engine: Engine) -> bool:
    try:
        with engine.connect() as conn:
            return conn.scalar(sa.text("SELECT version_num FROM alembic_version")) is not None
    except exc.DBAPIError:
        return False
