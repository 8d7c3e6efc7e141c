"""Base of connectors whose source is a folder of files: CSV, JSON lines and Parquet, packed or not.

A connector says where the files are (`FileConnector.open_folder`, an fsspec file system); listing, incremental reading and decoding
are here. Every row carries the file it came from and its number there, which together are the default primary key.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from elt_dagster.errors import ConfigError, EltError, NotFoundError, SourceError, nearest
from elt_dagster.model import Batch, Catalog, CheckResult, ReadRequest, Stream, SyncMode
from elt_dagster.model.compute import pc
from elt_dagster.model.types import TIMESTAMP_UTC, UUID, column, parse_type
from elt_dagster.sdk.arrow import split
from elt_dagster.sdk.connector import Config, Connector
from elt_dagster.sdk.formats import Compression, CsvDialect, Decoding, File, FileFormat, decode, sample
from elt_dagster.sdk.listing import Found, Manifest, New, group_of, list_files, matcher
from elt_dagster.sdk.text import union

FILE, MODIFIED, ROW = "_file", "_file_modified", "_row"
ORIGIN = pa.schema(
    [
        column(FILE, pa.string(), nullable=False, description="Path of the file, relative to the connection's folder"),
        column(MODIFIED, TIMESTAMP_UTC, nullable=False, description="When the file was last written"),
        column(ROW, pa.int64(), nullable=False, description="Number of the row in its file, from 1"),
    ]
)
SAMPLED_FILES = 5
OBJECT_STORE_OVERLAP = 3600.0
LOCAL_OVERLAP = 5.0


class CsvOptions(Config):
    """How the CSV files of a stream are written."""

    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """The character between two fields; by default whichever of `,` `;` tab `|` the header line has most of."""
    quote: str = Field(default='"', max_length=1)
    """The character around fields that hold a delimiter or a line end; empty for none."""
    header: bool = True
    """Whether the first line names the columns; else they are called `column_1`, `column_2`, ..."""
    encoding: str = "utf-8"
    """The files' encoding, such as `utf-8`, `latin-1`, `cp1252` or `utf-16`."""
    null_values: tuple[str, ...] = ("",)
    """Texts that mean "no value", such as `NA`."""
    skip_rows: int = Field(default=0, ge=0)
    """Lines to leave out before the header."""

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        import codecs

        try:
            codecs.lookup(value)
        except LookupError:
            raise ValueError("there is no such encoding; try utf-8, latin-1, cp1252 or utf-16") from None
        return value


class FileStream(Config):
    """A set of files that become one table."""

    name: str = Field(min_length=1)
    """What the stream is called."""
    glob: str = Field(min_length=1)
    """Which files, relative to the folder, such as `orders/*.csv.gz` or `**/*.parquet`."""
    format: FileFormat = FileFormat.AUTO
    """csv, jsonl or parquet; auto goes by the file's name, then by its content."""
    compression: Compression = Compression.AUTO
    """none, gzip, bz2, zstd or zip; auto goes by the file's name, then by its first bytes."""
    csv: CsvOptions = CsvOptions()
    """How CSV files are written."""
    primary_key: tuple[str, ...] = ()
    """Columns that identify a row; by default `_file` and `_row`."""
    types: dict[str, str] = Field(default_factory=dict, alias="schema")
    """Types of columns by name, such as `{zip: string, amount: "decimal(12,2)"}`; the others are inferred."""

    @field_validator("types")
    @classmethod
    def _known_types(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            try:
                kind = parse_type(text)
            except ConfigError as error:
                raise ValueError(f"column {name!r}: {error}") from None
            if kind == UUID or pa.types.is_interval(kind) or pa.types.is_null(kind):
                raise ValueError(f"column {name!r}: {text} cannot be declared for files; use string")
            if name in ORIGIN.names:
                raise ValueError(f"column {name!r} is added to every file and cannot be declared")
        return value

    @field_validator("glob")
    @classmethod
    def _relative(cls, value: str) -> str:
        if value.startswith("/") or ".." in value.split("/"):
            raise ValueError("a glob is relative to the folder and stays inside it")
        return value


class FileConfig(Config):
    """Settings that every connector of files has."""

    streams: tuple[FileStream, ...] = ()
    """Which files make which stream; when empty, each top folder and each kind of file name becomes one."""
    overlap_seconds: float | None = Field(default=None, ge=0, le=30 * 86400)
    """Files that appear later with an older time are still found when they are at most this much older than the newest file read;
    by default an hour for remote storage, 5 seconds for local folders."""
    settle_seconds: float = Field(default=0, ge=0, le=86400)
    """Leave out files written less than this long ago: they may still grow."""

    @model_validator(mode="after")
    def _unique_names(self) -> "FileConfig":
        names = [s.name for s in self.streams]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"two streams are called {twice[0]!r}")
        return self


FC = TypeVar("FC", bound=FileConfig)


class FileConnector(Connector[FC]):
    """Reads a folder of files; a subclass says where it is."""

    @abstractmethod
    def open_folder(self) -> tuple[Any, str]:
        """The fsspec file system and the folder's path in it. Raises ConfigError or AuthError when it cannot be opened."""

    def check(self) -> CheckResult:
        """Whether the folder can be listed, and how many files each stream matches."""
        try:
            fs, root = self.open_folder()
            counts = {s.name: len(files) for s, files in self._streams(fs, root)}
        except EltError as error:
            return CheckResult(False, str(error))
        if not counts:
            return CheckResult(True, "The folder can be listed, but holds no CSV, JSON lines or Parquet file.")
        words = ", ".join(f"{name} {count}" for name, count in list(counts.items())[:20])
        total = sum(counts.values())
        return CheckResult(True, f"{total} {'file matches' if total == 1 else 'files match'}: {words}.")

    def discover(self, settings: Mapping[str, Any] | None = None) -> Catalog:
        """One stream per configured set of files, with the columns that the heads of its oldest and newest files show."""
        fs, root = self.open_folder()
        return Catalog(tuple(self._described(fs, s, files) for s, files in self._streams(fs, root)))

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        """Rows file by file in the order of (modified, path), with a checkpoint after each file."""
        incremental = _check_cursor(request)
        fs, root = self.open_folder()
        spec, files = self._one_stream(fs, root, request.stream)
        if not files and request.mode is SyncMode.FULL_REFRESH and request.window is None:
            raise _nothing_to_read(spec)
        now = self.runtime.now()
        overlap = timedelta(seconds=max(self._overlap_seconds(fs), request.lookback_seconds))
        settled = now - timedelta(seconds=self.config.settle_seconds) if self.config.settle_seconds else None
        chosen = New(overlap=overlap, since=request.since, window=request.window, until=settled)(files)
        manifest = Manifest(request.since, overlap, now)
        wanted = _decoding(spec, request)
        for file in chosen:
            last: pa.RecordBatch | None = None
            for batch in _rows(_opened(fs, file), file, wanted, request):
                if last is not None:
                    yield Batch(last)
                last = batch
            manifest.add(file)
            if last is not None:
                yield Batch(last, manifest.checkpoint() if incremental else None)

    def _overlap_seconds(self, fs: Any) -> float:
        if self.config.overlap_seconds is not None:
            return self.config.overlap_seconds
        return LOCAL_OVERLAP if _is_local(fs) else OBJECT_STORE_OVERLAP

    def _streams(self, fs: Any, root: str) -> list[tuple[FileStream, list[Found]]]:
        if self.config.streams:
            return [(s, _matching(fs, root, s)) for s in self.config.streams]
        groups: dict[str, list[Found]] = {}
        for file in list_files(fs, root):
            if (name := group_of(file.path)) is not None:
                groups.setdefault(name, []).append(file)
        return [(FileStream(name=name, glob="**"), groups[name]) for name in sorted(groups)]

    def _one_stream(self, fs: Any, root: str, stream: Stream) -> tuple[FileStream, list[Found]]:
        spec = next((s for s in self.config.streams if s.name == stream.name), None)
        if spec is not None:
            return spec, _matching(fs, root, spec)
        known = [s.name for s in self.config.streams]
        if not known:
            streams = {s.name: (s, files) for s, files in self._streams(fs, root)}
            if stream.name in streams:
                return streams[stream.name]
            if stream.schema is not None:  # it was discovered once: its files may have been moved away since
                return FileStream(name=stream.name, glob="**"), []
            known = list(streams)
        raise NotFoundError(f"The source has no stream {stream.name!r}.", fix=nearest(stream.name, known))

    def _described(self, fs: Any, spec: FileStream, files: list[Found]) -> Stream:
        schema = _sampled(fs, spec, files)
        key = spec.primary_key or (FILE, ROW)
        if schema is not None and (gone := [c for c in key if c not in schema.names]):
            raise ConfigError(
                f"The primary key {gone[0]!r} is no column of stream {spec.name!r}.", fix=nearest(gone[0], schema.names)
            )
        return Stream(
            name=spec.name, schema=schema, primary_key=key, cursor_field=MODIFIED, cursor_fields=(MODIFIED,), ordered=True,
            size_class=_size_class(sum(f.size for f in files)),
            description=f"Files {spec.glob}" if self.config.streams else f"Files of {spec.name}",
        )  # fmt: skip


def _check_cursor(request: ReadRequest) -> bool:
    """Whether checkpoints are wanted. Raises ConfigError for any other cursor than the files' time."""
    if request.cursor_field not in (None, MODIFIED):
        raise ConfigError(
            f"Files cannot be read on by {request.cursor_field!r}.",
            fix=f"Use cursor_field: {MODIFIED}, or load_mode replace.",
        )
    return request.cursor_field is not None and request.window is None


def _matching(fs: Any, root: str, spec: FileStream) -> list[Found]:
    pattern = matcher(spec.glob)
    return [f for f in list_files(fs, root, spec.glob) if pattern.match(f.path)]


def _decoding(spec: FileStream, request: ReadRequest | None = None) -> Decoding:
    c = spec.csv
    plain = Decoding(
        format=spec.format, compression=spec.compression,
        csv=CsvDialect(c.delimiter, c.quote, c.header, c.encoding, c.null_values, c.skip_rows),
        declared={name: parse_type(kind) for name, kind in spec.types.items()},
    )  # fmt: skip
    if request is None:
        return plain
    schema = request.stream.schema or pa.schema([])
    columns = request.columns
    return replace(
        plain, known={f.name: f.type for f in schema if f.name not in ORIGIN.names}, batch_bytes=request.batch_bytes,
        columns=None if columns is None else tuple(c for c in columns if c not in ORIGIN.names),
    )  # fmt: skip


def _sampled(fs: Any, spec: FileStream, files: list[Found]) -> pa.Schema | None:
    """The union of what a few files show, declared types first of all; None without any file or declaration."""
    old, new = files[: SAMPLED_FILES // 2], files[SAMPLED_FILES // 2 :][-(SAMPLED_FILES - SAMPLED_FILES // 2) :]
    wanted = _decoding(spec)
    seen = union(sample(_opened(fs, f), wanted) for f in [*old, *new])
    if not seen.names and not wanted.declared:
        return None
    names = list(dict.fromkeys([*seen.names, *wanted.declared]))
    if reserved := [n for n in names if n in ORIGIN.names]:
        raise _reserved(reserved[0], spec.glob)
    fields = [pa.field(n, wanted.declared.get(n) or seen.field(n).type) for n in names]
    return pa.schema([*fields, *ORIGIN])


def _opened(fs: Any, file: Found) -> File:
    if _is_local(fs):  # Arrow reads local files without Python in between
        return File(file.path, lambda: pa.OSFile(file.full_path))
    return File(file.path, lambda: pa.PythonFile(fs.open(file.full_path, "rb"), mode="r"))


def _is_local(fs: Any) -> bool:
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def _rows(opened: File, file: Found, wanted: Decoding, request: ReadRequest) -> Iterator[pa.RecordBatch]:
    """The rows of a file with its origin: the columns asked for in their order, else the known ones and then what is new."""
    known = [] if request.stream.schema is None else request.stream.schema.names
    done = 0
    for batch in decode(opened, wanted):
        names = [n for n in batch.schema.names if n]
        if reserved := [n for n in names if n in ORIGIN.names]:
            raise _reserved(reserved[0], file.path)
        if request.columns is not None:
            order = [*request.columns, *(n for n in names if known and n not in known and n not in request.columns)]
        else:
            order = [*known, *(n for n in [*names, *ORIGIN.names] if n not in known)]
        arrays = [_array(n, batch, file, done, request.stream.schema) for n in order]
        done += batch.num_rows
        yield from split(pa.RecordBatch.from_arrays(arrays, names=order), request.batch_bytes)


def _array(name: str, batch: pa.RecordBatch, file: Found, done: int, schema: pa.Schema | None) -> pa.Array:
    count = batch.num_rows
    if name == FILE:
        return pa.repeat(pa.scalar(file.path), count)
    if name == MODIFIED:
        return pa.repeat(pa.scalar(file.modified, TIMESTAMP_UTC), count)
    if name == ROW:
        return pc.cumulative_sum(pa.repeat(pa.scalar(1, pa.int64()), count), start=done)
    if name in batch.schema.names:
        return batch.column(name)
    if schema is not None and name in schema.names:  # an older or newer file without this column
        return pa.nulls(count, schema.field(name).type)
    raise NotFoundError(f"The stream has no column {name!r}.", fix=nearest(name, batch.schema.names))


def _nothing_to_read(spec: "FileStream") -> SourceError:
    # Files that were moved or not yet delivered are likelier than a table that is meant to be emptied.
    return SourceError(
        f"No file matches {spec.glob!r}, which stream {spec.name!r} is read from; a full refresh would empty its table.",
        fix="Put the files back, or correct the glob. A file without rows empties the table.",
    )


def _reserved(name: str, where: str) -> SourceError:
    return SourceError(
        f"{where} has a column {name!r}, which is added to every file.", fix="Rename the column in the files."
    )


def _size_class(size: int) -> str:
    return next((name for name, most in (("xs", 1e6), ("s", 1e8), ("m", 1e9), ("l", 1e10)) if size < most), "xl")
