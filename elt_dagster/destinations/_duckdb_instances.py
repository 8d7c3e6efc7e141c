"""DuckDB in memory, ready to attach a file to: made once and used again, for a load opens its file three times.

Making an instance, asking its catalog for the first time and closing it takes 50 ms of a processor, which is most of a small load; using one
again takes 4. An idle one holds no file, no lock and no rows, only about 5 MB. One that was interrupted, that met an error, or whose settings were
changed is not used again.
"""

import contextlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from elt_dagster.destinations.sql import literal, quote
from elt_dagster.sdk.forks import leave_to_parent

_IDLE = 2  # more than two files are rarely loaded at the same time
_lock = threading.Lock()
_idle: "list[tuple[Settings, duckdb.DuckDBPyConnection]]" = []


@dataclass(frozen=True, slots=True)
class Settings:
    """What an instance is made with; one made with others is another."""

    memory_limit: str
    threads: int | None


@dataclass(slots=True)
class Instance:
    """A DuckDB in memory that is ours alone, and a connection to it whose zone is UTC."""

    settings: Settings
    root: duckdb.DuckDBPyConnection
    connection: duckdb.DuckDBPyConnection
    attached: str | None = None
    """The name of the file that is attached."""
    changed: bool = False
    """Whether its settings are no longer those it was made with."""

    def attach(self, path: Path, options: str) -> str:
        """Attach the file; the name it got. Raises duckdb.Error, after which it may be tried again.

        Every table that is not temporary has to be made under that name: others would be found by the next user of the instance."""
        self.connection.execute(f"ATTACH {literal(str(path))}{options}")
        names = self.connection.execute("SELECT database_name FROM duckdb_databases() WHERE NOT internal").fetchall()
        name: str = next(n for (n,) in names if n != "memory")
        self.attached = name
        return name

    def leave(self, *, clean: bool) -> None:
        """Close the file, so that nobody else waits for it; it can be used again when all went well, which ``clean`` says."""
        self.connection.close()
        if clean and not self.changed and self._empty():
            _keep(self.settings, self.root)
        else:
            self.root.close()

    def _empty(self) -> bool:
        """Detach the file; whether nothing is left of what the instance was used for."""
        try:
            if self.attached is not None:
                self.root.execute(f"DETACH {quote(self.attached)}")
            self.root.execute("SET temp_directory = ''")  # refused once something was written there
        except duckdb.Error:  # of no concern to whoever committed: at most, the log was not yet written into the file
            return False
        return True


def take(settings: Settings, temporary: Path | None) -> Instance:
    """An instance until it `leave`s. ``temporary`` is a folder for what does not fit into memory; without one, all has to.

    Raises duckdb.Error when DuckDB does not take the settings."""
    root = _idle_one(settings) or _made(settings)
    try:
        root.execute(f"SET temp_directory = {literal(str(temporary or ''))}")
        return Instance(settings, root, _connected(root))
    except BaseException:
        root.close()
        raise


def _made(settings: Settings) -> duckdb.DuckDBPyConnection:
    config: dict[str, Any] = {
        "memory_limit": settings.memory_limit,
        "preserve_insertion_order": "false",
        "autoinstall_known_extensions": "false",
    }
    if settings.threads is not None:
        config["threads"] = settings.threads
    root = duckdb.connect(":memory:", config=config)
    for statement in ("TimeZone = 'UTC'", "arrow_lossless_conversion = true"):
        root.execute(f"SET GLOBAL {statement}")
    return root


def _connected(root: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """A connection of its own: its temporary tables, registered Arrow tables and open transaction end with it."""
    connection = root.cursor()
    # In a notebook without ipywidgets there is no progress bar, and DuckDB refuses even to be told so.
    with contextlib.suppress(duckdb.InvalidInputException):
        connection.execute("SET enable_progress_bar = false")
    return connection


def _idle_one(settings: Settings) -> duckdb.DuckDBPyConnection | None:
    with _lock:
        for place, (made_with, root) in enumerate(_idle):
            if made_with == settings:
                del _idle[place]
                return root
    return None


def _keep(settings: Settings, root: duckdb.DuckDBPyConnection) -> None:
    with _lock:
        _idle.append((settings, root))
        surplus = _idle.pop(0)[1] if len(_idle) > _IDLE else None
    if surplus is not None:
        surplus.close()


def _forget_parent() -> None:
    """In a forked child: the parent's instances have no threads here, so they can neither be used nor be ended."""
    global _lock  # noqa: PLW0603 - another thread may have held it when the fork came
    _lock = threading.Lock()
    for _, root in _idle:
        leave_to_parent(root)
    _idle.clear()


os.register_at_fork(after_in_child=_forget_parent)
