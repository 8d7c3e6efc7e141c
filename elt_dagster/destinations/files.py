"""Staging: what was read but is not committed yet, where nobody else looks.

A small load stays in memory as Arrow; a larger one becomes files in a folder of its own. What is read once, from front to back, becomes Arrow
files that are mapped when they are read: nothing is decoded and nothing copied, where writing and reading Parquet costs half as much again as
inserting the rows. What is read several times, some columns at a time, and joined, becomes Parquet: a third of the space, and DuckDB
knows how many rows there are, without which it may hold all of them for a join. Beside the folder lies an
``.owner`` file that its process keeps locked (flock), so that whoever comes later can tell a folder in use from one whose owner died, also
across containers, where process ids mean nothing.

Not all canonical types are written to files or read from them alike everywhere, so they are staged so:
``json`` as its text, ``interval`` as ``struct<months: int32, days: int32, micros: int64>``, ``null`` not at all.
"""

import contextlib
import fcntl
import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from elt_dagster.errors import DestinationError
from elt_dagster.model.types import JSON
from elt_dagster.sdk.arrow import canonical_schema, split

ARRIVAL = "_elt_arrival"
"""A staged column with the row's position in the load, for "the last one wins"."""
IN_MEMORY_BYTES = 8 * 1024 * 1024
_FILE_BYTES = 32 * 1024 * 1024
"""How much of the rows one file has: it is mapped as a whole, and what is mapped counts as memory of this process."""
_PLAIN_BYTES = 1024 * 1024 * 1024
"""How much of the rows is not compressed: space is taken for one gigabyte, not for a table of any size."""
_SMALL_BYTES = 1024 * 1024
_OWNER = ".owner"
_INTERVAL = pa.struct([("months", pa.int32()), ("days", pa.int32()), ("micros", pa.int64())])
_compute: Any = pc  # its functions are made at import, where type checkers do not see them
_open_owners: set[int] = set()


def _close_inherited() -> None:
    """In a forked child: an inherited descriptor would keep the parent's lock alive after the parent has died."""
    for descriptor in _open_owners:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _open_owners.clear()


os.register_at_fork(after_in_child=_close_inherited)


@dataclass(frozen=True, slots=True)
class Part:
    """Staged rows of one shape. ``schema`` has canonical types; the data is a Parquet file, Arrow files, or a table in memory."""

    schema: pa.Schema
    data: "Path | ArrowFiles | pa.Table"


@dataclass(frozen=True, slots=True)
class ArrowFiles:
    """Arrow files of one shape, ``schema`` as they were staged. Whoever takes Arrow streams (DuckDB, pyarrow) may read them, as often as it likes.

    One file after another is mapped for as long as its rows are in use: memory does not grow with the number of files.
    """

    schema: pa.Schema
    paths: tuple[Path, ...]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows in order. Raises OSError when a file cannot be read."""
        for path in self.paths:
            with pa.memory_map(str(path)) as source:  # what has been read of it stays mapped as long as it is in use
                reader = pa.ipc.open_file(source)
                for index in range(reader.num_record_batches):
                    yield reader.get_batch(index)

    def __arrow_c_schema__(self) -> object:
        return self.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        reader = pa.RecordBatchReader.from_batches(self.schema, self.batches())
        return reader.__arrow_c_stream__(requested_schema)


class Staging:
    """The staged rows of one load, in the order they came. Use from one thread at a time.

    ``read_once`` says that every row is read once, with all its columns: see the module for what follows from that.
    """

    def __init__(self, root: Path, load_id: str, *, number_rows: bool, read_once: bool = False) -> None:
        self._folder = OwnedFolder(root, load_id)
        self._number_rows = number_rows
        self._read_once = read_once
        self._parts: list[Part] = []
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0
        self._schema: pa.Schema | None = None
        self._files: _ArrowWriter | _ParquetWriter | None = None
        self._written_bytes = 0
        self.rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Keep ``batch``. Raises DestinationError when the staging folder cannot be written."""
        schema = canonical_schema(batch.schema)
        if self._schema is not None and not schema.equals(self._schema):
            self._end_part()
        self._schema = schema
        for piece in split(stored(batch), 2 * IN_MEMORY_BYTES):
            numbered = _with_arrival(piece, self.rows) if self._number_rows else piece
            self._pending.append(numbered)
            self._pending_bytes += numbered.nbytes
            self.rows += piece.num_rows
            if self._pending_bytes > IN_MEMORY_BYTES:
                self._write_pending()

    def parts(self) -> list[Part]:
        """Everything staged, in order. Adding goes on in a new part."""
        self._end_part()
        return list(self._parts)

    def work_folder(self) -> Path:
        """An existing folder that lives and dies with the staged rows."""
        return self._folder.path()

    def clear(self) -> None:
        """Forget and remove everything staged. Idempotent."""
        if self._files is not None:
            self._files.discard()
            self._files = None
        self._parts, self._pending, self._pending_bytes, self._schema = [], [], 0, None
        self._written_bytes = self.rows = 0
        self._folder.remove()

    def _end_part(self) -> None:
        if self._schema is None:
            return
        if self._files is not None:
            self._write_pending()
            self._parts.append(Part(self._schema, self._files.finish()))
            self._files = None
        elif self._pending:
            self._parts.append(Part(self._schema, pa.Table.from_batches(self._pending)))
            self._pending, self._pending_bytes = [], 0
        self._schema = None

    def _write_pending(self) -> None:
        if not self._pending:
            return
        if self._files is None:
            kind = _ArrowWriter if self._read_once else _ParquetWriter
            self._files = kind(self._folder.path(), len(self._parts), self._pending[0].schema)
        self._files.write(self._pending, compress=self._written_bytes >= _PLAIN_BYTES)
        self._written_bytes += self._pending_bytes
        self._pending, self._pending_bytes = [], 0


class _ParquetWriter:
    """Writes the Parquet file of the ``part``-th part."""

    def __init__(self, folder: Path, part: int, schema: pa.Schema) -> None:
        self._path = folder / f"{part:06d}.parquet"
        with _disk_errors(self._path):
            # Dictionaries and statistics make writing three times slower and nobody filters these files.
            self._writer = pq.ParquetWriter(
                self._path, schema, compression="snappy", use_dictionary=False, write_statistics=False
            )

    def write(self, batches: Sequence[pa.RecordBatch], *, compress: bool) -> None:
        """Append ``batches`` as one row group. ``compress`` is for files that are not compressed anyway."""
        table = pa.Table.from_batches(batches)
        with _disk_errors(self._path):
            self._writer.write_table(table, row_group_size=max(1, table.num_rows))

    def finish(self) -> Path:
        """What was written, ready to be read."""
        with _disk_errors(self._path):
            self._writer.close()
        return self._path

    def discard(self) -> None:
        """Let go of the open file, whatever is in it: a full disk must not keep a load from being forgotten."""
        with contextlib.suppress(OSError):
            self._writer.close()


class _ArrowWriter:
    """Writes the Arrow files of the ``part``-th part, one after another."""

    def __init__(self, folder: Path, part: int, schema: pa.Schema) -> None:
        self._folder = folder
        self._part = part
        self._schema = schema
        self._paths: list[Path] = []
        self._bytes = 0
        self._sink: pa.OSFile | None = None
        self._writer: pa.RecordBatchFileWriter | None = None

    def write(self, batches: Sequence[pa.RecordBatch], *, compress: bool) -> None:
        """Append ``batches``; ``compress`` counts for files that begin here."""
        with _disk_errors(self._folder / f"{self._part:06d}"):
            if self._bytes >= _FILE_BYTES:
                self._close()
            writer = self._writer or self._open(compress=compress)
            for batch in _joined(batches):
                writer.write_batch(batch)
                self._bytes += batch.nbytes

    def finish(self) -> ArrowFiles:
        """What was written, ready to be read."""
        with _disk_errors(self._folder / f"{self._part:06d}"):
            self._close()
        return ArrowFiles(self._schema, tuple(self._paths))

    def discard(self) -> None:
        """Let go of the open file, whatever is in it: a full disk must not keep a load from being forgotten."""
        with contextlib.suppress(OSError):
            self._close()

    def _open(self, *, compress: bool) -> pa.RecordBatchFileWriter:
        path = self._folder / f"{self._part:06d}-{len(self._paths):06d}.arrow"
        options = pa.ipc.IpcWriteOptions(compression="lz4" if compress else None)
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, self._schema, options=options)
        self._paths.append(path)
        return self._writer

    def _close(self) -> None:
        writer, sink = self._writer, self._sink
        self._writer, self._sink, self._bytes = None, None, 0
        try:
            if writer is not None:
                writer.close()
        finally:
            if sink is not None:
                sink.close()


def _joined(batches: Sequence[pa.RecordBatch]) -> Sequence[pa.RecordBatch]:
    """``batches``, put together where they are many and small: each one that is read has its price."""
    size = sum(batch.nbytes for batch in batches)
    return (
        batches if size >= _SMALL_BYTES * len(batches) else pa.Table.from_batches(batches).combine_chunks().to_batches()
    )


class OwnedFolder:
    """A folder below ``root`` that is made when needed and recognisably belongs to this process until removed."""

    def __init__(self, root: Path, label: str) -> None:
        self._root = root
        plain = re.sub(r"[^A-Za-z0-9_-]", "_", label)[:40]
        self._name = f"{os.getpid()}-{uuid.uuid4().hex[:12]}-{plain}"
        self._descriptor: int | None = None
        self._process = os.getpid()
        self._lock = threading.Lock()

    def path(self) -> Path:
        """The folder, made on the first call. Raises DestinationError when it cannot be made."""
        folder = self._root / self._name
        with self._lock, _disk_errors(self._root):
            if self._descriptor is None:
                self._descriptor = _own(self._root, self._name)
                folder.mkdir()
        return folder

    def remove(self) -> None:
        """Delete the folder and give up its owner file. Idempotent; does nothing in a forked child, which owns nothing."""
        with self._lock:
            if self._descriptor is not None and self._process == os.getpid():
                _delete(self._root, self._name, self._descriptor)
            self._descriptor = None


def sweep(root: Path) -> int:
    """Remove folders below ``root`` whose owner died; returns how many. Folders in use are left alone."""
    removed = 0
    for owner in root.glob(f"*{_OWNER}"):
        with contextlib.suppress(OSError):
            descriptor = os.open(owner, os.O_RDWR | os.O_CLOEXEC)
            if _try_lock(descriptor, owner):
                _delete(root, owner.name.removesuffix(_OWNER), descriptor)
                removed += 1
    return removed


def stored(batch: pa.RecordBatch) -> pa.RecordBatch:
    """``batch`` (canonical types) as it is staged; see the module's first page."""
    fields, columns = [], []
    for field, column in zip(canonical_schema(batch.schema), batch.columns, strict=True):
        if pa.types.is_null(field.type):
            continue
        kept = _storage(column if column.type == field.type else column.cast(field.type))
        fields.append(pa.field(field.name, kept.type))
        columns.append(kept)
    if not fields:  # a batch needs a column to have rows
        fields, columns = [pa.field(ARRIVAL + "_none", pa.bool_())], [pa.nulls(batch.num_rows, pa.bool_())]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def _storage(column: pa.Array) -> pa.Array:
    if column.type == JSON:
        return column.storage
    return _interval_parts(column) if pa.types.is_interval(column.type) else column


def _interval_parts(column: pa.Array) -> pa.Array:
    """Months, days and microseconds of intervals: 16 bytes each, read as two int32 and one int64 without touching a value."""
    rows, data = len(column), column.buffers()[1]
    if data is None:
        return pa.nulls(rows, _INTERVAL)
    first = column.offset
    halves = pa.Array.from_buffers(pa.int32(), 4 * (rows + first), [None, data])
    wholes = pa.Array.from_buffers(pa.int64(), 2 * (rows + first), [None, data])
    at = _numbers(rows, first)
    months, days = halves.take(_compute.multiply(at, 4)), halves.take(_compute.add(_compute.multiply(at, 4), 1))
    micros = _compute.divide(wholes.take(_compute.add(_compute.multiply(at, 2), 1)), 1000)
    return pa.StructArray.from_arrays([months, days, micros], fields=list(_INTERVAL), mask=column.is_null())


def _with_arrival(batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
    return batch.append_column(ARRIVAL, _numbers(batch.num_rows, first))


def _numbers(count: int, first: int) -> pa.Array:
    """``first``, ``first + 1``, ... as int64."""
    return _compute.cumulative_sum(pa.repeat(pa.scalar(1, pa.int64()), count), start=first - 1)


def _own(root: Path, name: str) -> int:
    """Make the owner file and lock it, against a sweep that sees it between the two."""
    path = root / f"{name}{_OWNER}"
    while True:
        root.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # another load just removed the empty folder
            continue
        if _try_lock(descriptor, path):
            _open_owners.add(descriptor)
            return descriptor


def _try_lock(descriptor: int, path: Path) -> bool:
    """Lock the open owner file if nobody else has it and it is still the one at ``path``; closes it otherwise."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return True
    except OSError:
        pass
    os.close(descriptor)
    return False


def _delete(root: Path, name: str, descriptor: int) -> None:
    """Folder first, owner file last: a kill in between leaves something that a sweep still recognises."""
    shutil.rmtree(root / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        (root / f"{name}{_OWNER}").unlink()
    _open_owners.discard(descriptor)
    os.close(descriptor)
    with contextlib.suppress(OSError):
        root.rmdir()  # only when it is empty


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DestinationError(
            f"The staging file {path} cannot be written: {error.strerror or type(error).__name__}.",
            fix="Free disk space there, give this user the right to write, or set `staging` to another folder.",
        ) from error
