"""Staged rows: Parquet files in a Unity Catalog volume, uploaded piece by piece while the source is read.

Memory is bounded by one piece, and nothing touches the local disk. A load's folder is named after the time it began, so that what a dead process
left can be told from what is in use: `sweep` removes folders older than a day. Columns are called c0, c1, ... in the files, for not every name
of a column can be one in Parquet.
"""

import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq

from elt_dagster.destinations._databricks_errors import StatementFailedError
from elt_dagster.destinations._databricks_session import Session
from elt_dagster.destinations._databricks_sql import qualified, quote
from elt_dagster.destinations._databricks_types import INTERVAL, representable, stored_type
from elt_dagster.destinations.base import TableRef
from elt_dagster.destinations.files import stored
from elt_dagster.model.compute import pc
from elt_dagster.model.types import JSON, UUID
from elt_dagster.sdk.arrow import canonical_schema, split

ARRIVAL = "arrival"
PIECE_BYTES = 32 * 1024 * 1024
_STAMP = "%Y%m%dT%H%M%S"
_ABANDONED = timedelta(days=1)
# Readers take files that do not say which Spark wrote them for ancient ones, whose dates before 1582 meant something else.
_WRITTEN_BY = {b"org.apache.spark.version": b"3.5.0"}


@dataclass(frozen=True, slots=True)
class Shape:
    """Staged rows of one schema (canonical types; null columns are not in the files), in all files of ``folder``."""

    schema: pa.Schema
    folder: str

    def fields(self) -> Iterator[tuple[str, pa.Field]]:
        """Each column's name in the files, and its field."""
        return ((f"c{i}", f) for i, f in enumerate(self.schema) if not pa.types.is_null(f.type))

    @property
    def source(self) -> str:
        """The rows as a table function. The types are told, so that nothing is guessed from the first file."""
        columns = ", ".join(
            [*(f"{name} {stored_type(field.type)}" for name, field in self.fields()), f"{ARRIVAL} BIGINT"]
        )
        return f"read_files('{_escaped(self.folder)}', format => 'parquet', schema => '{columns}')"


@dataclass(frozen=True, slots=True)
class Volume:
    """Where the staged rows of one schema are. ``create`` is the statement that makes the volume; None: it has to exist."""

    schema: str
    folder: str
    create: str | None

    @classmethod
    def of(cls, session: Session, schema: str) -> "Volume":
        """The staging volume of ``schema``."""
        catalog, name = session.config.catalog, session.config.staging_volume
        if "." in name:
            return cls(schema, f"/Volumes/{name.replace('.', '/')}/{catalog}.{schema}", None)
        made = f"CREATE VOLUME IF NOT EXISTS {qualified(catalog, TableRef(schema, name))}"
        return cls(schema, f"/Volumes/{catalog}/{schema}/{name}", made)

    def make(self, session: Session) -> None:
        """Make the volume, and its schema where that is missing."""
        if self.create is None:
            return
        try:
            session.run(self.create)
        except StatementFailedError as error:
            if not error.is_missing:
                raise
            session.run(f"CREATE SCHEMA IF NOT EXISTS {quote(session.config.catalog)}.{quote(self.schema)}")
            session.run(self.create)


class Staging:
    """The staged rows of one load, in the order they came. Use from one thread at a time.

    The folder is made before anything else and removed last: whatever a dead process leaves can be found by it.
    """

    def __init__(self, session: Session, volume: Volume, label: str) -> None:
        self._session, self._volume = session, volume
        self._folder = f"{volume.folder}/{label}"
        self._shapes: dict[pa.Schema, Shape] = {}
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = self._files = self._commits = 0
        self._current: Shape | None = None
        self.is_empty = True
        """Whether nothing was made that has to be removed."""
        self.rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Keep ``batch``; uploads a file whenever enough has come together."""
        schema = canonical_schema(batch.schema).remove_metadata()
        if self._current is None or not self._current.schema.equals(schema):
            self._upload()
            self._current = self._shape(schema)
        for piece in split(batch, PIECE_BYTES):
            self._pending.append(_storable(piece, schema, self.rows))
            self.rows += piece.num_rows
            self._pending_bytes += piece.nbytes
            if self._pending_bytes >= PIECE_BYTES:
                self._upload()

    def shapes(self) -> list[Shape]:
        """Everything staged since the last `clear`, uploaded."""
        self._make_folder(self._folder)
        self._upload()
        return list(self._shapes.values())

    def clear(self) -> None:
        """Forget everything staged, and remove its files; the folder stays until `remove`."""
        folder = f"{self._folder}/{self._commits}" if self._shapes else None
        self._shapes, self._pending, self._pending_bytes, self._current, self.rows = {}, [], 0, None, 0
        self._commits += 1
        if folder is not None:
            self._session.remove_folder(folder)

    def remove(self) -> None:
        """Remove everything. Idempotent."""
        self.clear()
        self._session.remove_folder(self._folder)
        self.is_empty = True

    def _shape(self, schema: pa.Schema) -> Shape:
        if schema not in self._shapes:
            folder = f"{self._folder}/{self._commits}/{len(self._shapes)}"
            self._make_folder(folder)
            self._shapes[schema] = Shape(schema, folder)
        return self._shapes[schema]

    def _make_folder(self, folder: str) -> None:
        if folder == self._folder and not self.is_empty:
            return
        from databricks.sdk.errors import NotFound

        try:
            self._session.make_folder(folder)
        except NotFound:
            if self._volume.create is None:
                raise
            self._volume.make(self._session)
            self._session.make_folder(folder)
        self.is_empty = False

    def _upload(self) -> None:
        if self._current is None or not self._pending:
            return
        data = _parquet(self._pending)
        self._pending, self._pending_bytes = [], 0
        self._files += 1
        self._session.upload(f"{self._current.folder}/part-{self._files:06d}.parquet", data)


def sweep(session: Session, schema: str, claimed: Collection[str]) -> None:
    """Remove what loads left that began more than a day ago, unless their load id is in ``claimed``: their commit can be finished still."""
    volume = Volume.of(session, schema)
    for folder, load_id in abandoned(session.folders(volume.folder), session.runtime.now()).items():
        if load_id not in claimed:
            for kind in ("staged", "seen"):
                session.run(
                    f"DROP TABLE IF EXISTS {qualified(session.config.catalog, TableRef(schema, f'_elt_{kind}_{load_id}'))}"
                )
            session.remove_folder(f"{volume.folder}/{folder}")


def label_of(load_id: str, now: datetime) -> str:
    """The name of a load's folder."""
    return f"{now.strftime(_STAMP)}-{load_id}"


def abandoned(names: Sequence[str], now: datetime) -> dict[str, str]:
    """Folders of loads that began too long ago to be still under way, and their load ids."""
    found: dict[str, str] = {}
    for name in names:
        stamp, _, load_id = name.partition("-")
        try:
            began = datetime.strptime(stamp, _STAMP).replace(tzinfo=now.tzinfo)
        except ValueError:
            continue
        if now - began > _ABANDONED:
            found[name] = load_id
    return found


def _storable(batch: pa.RecordBatch, schema: pa.Schema, first: int) -> pa.RecordBatch:
    """``batch`` as it is written: see `stored_type`."""
    names, columns = [], []
    kept = stored(batch) if any(f.type in (JSON, INTERVAL) for f in schema) else batch
    for i, field in enumerate(schema):
        if not pa.types.is_null(field.type):
            names.append(f"c{i}")
            columns.append(_plain(kept.column(field.name), field.type))
    numbers = pc.cumulative_sum(pa.repeat(pa.scalar(1, pa.int64()), batch.num_rows), start=first - 1)
    return pa.RecordBatch.from_arrays([*columns, numbers], names=[*names, ARRIVAL])


def _plain(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if kind == UUID:
        storage = column.storage if isinstance(column, pa.ExtensionArray) else column
        return storage.cast(pa.binary())
    if kind in (JSON, INTERVAL):
        return column
    return column.cast(representable(kind), safe=False)  # nanoseconds are cut knowingly; all else gets wider


def _parquet(batches: Sequence[pa.RecordBatch]) -> bytes:
    table = pa.Table.from_batches(batches)
    table = table.replace_schema_metadata(_WRITTEN_BY)
    target = io.BytesIO()
    pq.write_table(table, target, compression="snappy", use_dictionary=False, write_statistics=False)
    return target.getvalue()


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace("'", "\\'").replace("$", "\\u0024")
