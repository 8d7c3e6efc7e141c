"""Opening a DuckDB file: one process at a time, and in it one thread at a time, for as short as possible.

DuckDB lets one process hold a file. So whoever opens it here waits in three queues, within one bounded time: threads of this process on
a lock per real path, processes that use this package on ``flock`` of ``<path>.lock`` (readers share it), and everybody else (a notebook,
the duckdb shell) on DuckDB's own lock, which can only be tried again. ``flock`` covers one host; so does a DuckDB file.

The file is attached to an in-memory database rather than connected to: the settings are then ours alone, and a process that was forked while
the file was open gets a clear refusal instead of the parent's half-copied database.
"""

import contextlib
import fcntl
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from elt_dagster.destinations._duckdb_instances import Instance, Settings, take
from elt_dagster.destinations.base import TableRef
from elt_dagster.destinations.sql import quote
from elt_dagster.errors import CancelledError, DestinationError, EltError, TransientError
from elt_dagster.sdk.cancellation import cancelled, interruptible

DEFAULT_MEMORY = 256
"""MB: at this a load of millions of rows is as fast as with more, and a process that holds Dagster stays below 700 MB."""
_WIDE, _MB_PER_COLUMN = 100, 1.5  # each thread buffers a row group of every column, and COMMIT pins a block of each
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25  # seconds between two tries
_CANCEL_LOOK = 0.1
_HOLDER = re.compile(r"held in (.*?\(PID \d+\)[^.]*)")
_DISK_FULL = re.compile(r"No space left|Disk quota exceeded|File too large")
_FILE = re.compile(r'file "([^"]+)"')
_registry_lock = threading.Lock()
_path_locks: dict[str, threading.Lock] = {}
_open_locks: set[int] = set()


def _forget_parent() -> None:
    """In a forked child: nobody here holds anything, and an inherited descriptor would prolong the parent's lock."""
    global _registry_lock  # noqa: PLW0603 - another thread may have held it when the fork came
    _registry_lock = threading.Lock()
    _path_locks.clear()
    for descriptor in _open_locks:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _open_locks.clear()


def _stop_if_cancelled(path: Path) -> None:
    if cancelled():
        raise CancelledError(f"Waiting for the DuckDB file {path} was cancelled.", fix="Nothing was written meanwhile.")


os.register_at_fork(after_in_child=_forget_parent)


@dataclass(frozen=True, slots=True)
class Session:
    """An open file: a connection whose zone is UTC, and the name under which the file is attached."""

    connection: duckdb.DuckDBPyConnection
    catalog: str
    instance: Instance | None = None

    def table(self, table: TableRef) -> str:
        """The full quoted name; two parts alone are ambiguous when schema and file are called the same."""
        return f"{quote(self.catalog)}.{quote(table.schema)}.{quote(table.name)}"

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """All rows of a small result."""
        return self.connection.execute(sql, list(parameters)).fetchall()

    def value(self, sql: str, *parameters: Any) -> Any:
        """The first value of the first row; None if there is no row."""
        rows = self.rows(sql, *parameters)
        return rows[0][0] if rows else None

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Execute a statement; the number of rows an INSERT, DELETE or CREATE TABLE AS reports."""
        rows = self.rows(sql, *parameters)
        return int(rows[0][0]) if rows and isinstance(rows[0][0], int) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFile:
    """One DuckDB file and how it is opened."""

    path: Path
    memory_limit: str | None
    """None: `DEFAULT_MEMORY`, and what a wide table needs beyond it."""
    threads: int | None
    timeout: float
    """Seconds to wait for other holders, in all."""
    sleep: Callable[[float], None] = time.sleep

    def exists(self) -> bool:
        """Whether there is a database; an empty file is none yet."""
        return self.path.is_file() and self.path.stat().st_size > 0

    @contextlib.contextmanager
    def open(self, *, write: bool, temporary: Path | None = None) -> Iterator[Session]:
        """Hold the file. ``temporary`` is a folder for what does not fit into memory.

        Raises TransientError when others hold it longer than ``timeout``, DestinationError when it cannot be opened at all.
        """
        deadline = time.monotonic() + self.timeout
        with self._among_threads(deadline), self._among_processes(deadline, shared=not write):
            used, clean = self._instance(temporary), False
            try:
                session = self._attach(deadline, used, write=write)
                with interruptible(session.connection.interrupt):
                    yield session
                clean = True
            finally:
                used.leave(clean=clean)

    def suit(self, session: Session, columns: int) -> None:
        """Settle a session's threads and memory for writing a table of so many ``columns``."""
        if columns > _WIDE:
            if session.instance is not None:
                session.instance.changed = True
            session.run("SET threads = 1")
            if self.memory_limit is None:
                session.run(f"SET memory_limit = '{DEFAULT_MEMORY + int(columns * _MB_PER_COLUMN)}MB'")

    @contextlib.contextmanager
    def _among_threads(self, deadline: float) -> Iterator[None]:
        with _registry_lock:
            lock = _path_locks.setdefault(os.path.realpath(self.path), threading.Lock())
        while not lock.acquire(timeout=min(_CANCEL_LOOK, max(0.0, deadline - time.monotonic()))):
            _stop_if_cancelled(self.path)
            if time.monotonic() >= deadline:
                raise self._busy("another thread of this process")
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def _among_processes(self, deadline: float, *, shared: bool) -> Iterator[None]:
        try:
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if shared:  # a folder we may only read has no writers of ours either
                yield
                return
            raise DestinationError(
                f"The lock file {self._lock_path} cannot be written: {error.strerror}.",
                fix="Make sure the folder exists and this user may write in it.",
            ) from error
        _open_locks.add(descriptor)
        try:
            while not _flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
                self._pause(deadline, lambda: self._busy(_read_holder(descriptor)))
            if not shared:
                _write_holder(descriptor)
            yield
        finally:
            _open_locks.discard(descriptor)
            os.close(descriptor)

    def _instance(self, temporary: Path | None) -> Instance:
        settings = Settings(self.memory_limit or f"{DEFAULT_MEMORY}MB", self.threads)
        try:
            return take(settings, temporary)
        except duckdb.Error as error:
            raise explained(error, "applying memory_limit and threads") from None

    def _attach(self, deadline: float, used: Instance, *, write: bool) -> Session:
        pause = _FIRST_PAUSE
        while True:
            try:
                return Session(used.connection, used.attach(self.path, self._attach_options(write)), used)
            except duckdb.Error as error:
                holder = _foreign_holder(error)
                if holder is None:
                    raise explained(error, f"opening {self.path}") from None
            self._pause(deadline, lambda holder=holder: self._busy(holder), pause)  # type: ignore[misc]
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _attach_options(self, write: bool) -> str:
        name = ' AS "memory_db"' if self.path.stem == "memory" else ""  # "memory" is what holds the attachment
        return f"{name} (READ_WRITE)" if write else f"{name} (READ_ONLY)"

    def _pause(self, deadline: float, give_up: Callable[[], EltError], seconds: float = 0.02) -> None:
        _stop_if_cancelled(self.path)
        if time.monotonic() >= deadline:
            raise give_up()
        self.sleep(seconds)

    def _busy(self, holder: str) -> TransientError:
        return TransientError(
            f"The DuckDB file {self.path} was held by {holder} for more than {self.timeout:g} seconds.",
            fix="Close it there (a run that loads, a notebook, the duckdb shell, a BI tool), or raise lock_timeout_seconds.",
        )

    @property
    def _lock_path(self) -> Path:
        return self.path.with_name(self.path.name + ".lock")


def _flock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_holder(descriptor: int) -> None:
    text = f"process {os.getpid()} on {socket.gethostname()}".encode()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text, 0)


def _read_holder(descriptor: int) -> str:
    return os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"


def _foreign_holder(error: duckdb.Error) -> str | None:
    """Who holds the file, if that is why it could not be attached."""
    text = str(error)
    if "already attached" in text or "Unique file handle conflict" in text:
        return "another connection in this process (a duckdb.connect() in user code)"
    if "Could not set lock" not in text:
        return None
    found = _HOLDER.search(text)
    return found[1].strip() if found else "another process"


_SAFE_TO_SHOW = (duckdb.IOException, duckdb.CatalogException, duckdb.BinderException, duckdb.PermissionException)


def explained(error: duckdb.Error, doing: str) -> EltError:
    """``error`` as one of ours. Texts that may quote a row (conversions, constraints) stay out of it."""
    text = str(error).partition("\n")[0]
    if isinstance(error, duckdb.OutOfMemoryException) or "failed to pin block" in text:
        return DestinationError(
            f"DuckDB ran out of memory while {doing}.", fix="Raise memory_limit, or lower threads, of this destination."
        )
    if _DISK_FULL.search(text):
        file = _FILE.search(text)
        which = f": {file[1]} could not be written" if file else ""
        return DestinationError(
            f"The disk was full while {doing}{which}.", fix="Free some space there; nothing was committed."
        )
    if isinstance(error, _SAFE_TO_SHOW):
        return DestinationError(f"DuckDB refused while {doing}: {text}", fix=_advice(text))
    return DestinationError(
        f"DuckDB refused while {doing} ({type(error).__name__}).", fix="Nothing was committed; the table is as it was."
    )


def _advice(text: str) -> str:
    if "not a valid DuckDB" in text:
        return "Point `path` at a DuckDB file, or at a name that does not exist yet."
    if "index depends on it" in text:
        return "Drop that index, or set schema_drift to discard."
    if "version" in text.lower():
        return "Open it with a DuckDB that is at least as new as the one that wrote it."
    if any(word in text for word in ("Permission denied", "No such file", "Read-only file system")):
        return "Check that the path exists and that this user may read and write it."
    return "Nothing was committed; the table is as it was."


@contextlib.contextmanager
def explaining(doing: str) -> Iterator[None]:
    """Turn DuckDB's errors into ours; ``doing`` completes "DuckDB refused while ..."."""
    try:
        yield
    except duckdb.Error as error:
        # Without the original: tracebacks are shown to people, and its text may quote a row.
        raise explained(error, doing) from None
