"""DuckDB as a calculator, for what Arrow has no function for: JSON text of nested values, hashes, hexadecimal.

One instance in memory for each process: making one takes 30 ms of a processor, which for a small batch is most of its work.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from elt_dagster.sdk.forks import leave_to_parent

if TYPE_CHECKING:
    import duckdb

_lock = threading.Lock()
_instance: "duckdb.DuckDBPyConnection | None" = None


@contextmanager
def calculator() -> Iterator["duckdb.DuckDBPyConnection"]:
    """A connection for expressions over Arrow columns, on one thread and in UTC; what is registered with it ends with it. Threads may have one each."""
    connection = _shared().cursor()
    try:
        yield connection
    finally:
        connection.close()


def _shared() -> "duckdb.DuckDBPyConnection":
    global _instance  # noqa: PLW0603 - there is one for the process
    import duckdb

    with _lock:
        if _instance is None:
            _instance = duckdb.connect(config={"threads": 1})
            # else text of the same moment would differ between machines
            _instance.execute("SET GLOBAL TimeZone = 'UTC'")
        return _instance


def _forget_parent() -> None:
    """In a forked child: the parent's instance can neither be used here nor be ended."""
    global _lock, _instance  # noqa: PLW0603 - another thread may have held the lock when the fork came
    _lock = threading.Lock()
    if _instance is not None:
        leave_to_parent(_instance)
        _instance = None


os.register_at_fork(after_in_child=_forget_parent)
