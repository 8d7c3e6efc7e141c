"""A file of rows before it is decoded: which format and compression it has, its first bytes, and errors that name it.

What a file is follows from its name unless the options say so; its first bytes must agree.
"""

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

import pyarrow as pa

from elt_dagster.errors import EltError, SourceError, TransientError

HEAD_BYTES = 256 * 1024


class FileFormat(StrEnum):
    """How rows are written in a file."""

    AUTO = "auto"
    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


class Compression(StrEnum):
    """What a file was packed with."""

    AUTO = "auto"
    NONE = "none"
    GZIP = "gzip"
    BZ2 = "bz2"
    ZSTD = "zstd"
    ZIP = "zip"


_FORMATS = {
    ".csv": FileFormat.CSV, ".tsv": FileFormat.CSV, ".txt": FileFormat.CSV,
    ".jsonl": FileFormat.JSONL, ".ndjson": FileFormat.JSONL, ".json": FileFormat.JSONL,
    ".parquet": FileFormat.PARQUET, ".pq": FileFormat.PARQUET,
}  # fmt: skip
_PACKED = {".gz": Compression.GZIP, ".bz2": Compression.BZ2, ".zst": Compression.ZSTD, ".zip": Compression.ZIP}
_PACKED_MAGIC = {
    b"\x1f\x8b": Compression.GZIP, b"BZh": Compression.BZ2, b"\x28\xb5\x2f\xfd": Compression.ZSTD,
    b"PK\x03\x04": Compression.ZIP,
}  # fmt: skip
_BINARY_MAGIC = {
    b"PAR1": "a Parquet file", b"PARE": "an encrypted Parquet file", b"\x1f\x8b": "a gzip file", b"PK\x03\x04": "a zip file",
    b"\xd0\xcf\x11\xe0": "an old Excel file", b"%PDF": "a PDF", b"SQLite format 3": "an SQLite database", b"Obj\x01": "an Avro file",
    b"ORC": "an ORC file", b"ARROW1": "an Arrow file",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class CsvDialect:
    """How a CSV file is written; ``delimiter`` None takes the likeliest of the header line."""

    delimiter: str | None = None
    quote: str = '"'
    header: bool = True
    encoding: str = "utf-8"
    null_values: tuple[str, ...] = ("",)
    skip_rows: int = 0


@dataclass(frozen=True, slots=True)
class File:
    """A file to decode: its name for messages, and how to open it at its first byte as a seekable Arrow file."""

    name: str
    open: Callable[[], pa.NativeFile]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """What is wanted of a file.

    ``declared`` types must fit; ``known`` ones come from earlier files and are widened where this file's values need it.
    ``columns`` None reads every column; else those, and what is neither asked for nor known, for it came later.
    """

    format: FileFormat = FileFormat.AUTO
    compression: Compression = Compression.AUTO
    csv: CsvDialect = CsvDialect()
    declared: Mapping[str, pa.DataType] = field(default_factory=dict[str, pa.DataType])
    known: Mapping[str, pa.DataType] = field(default_factory=dict[str, pa.DataType])
    columns: tuple[str, ...] | None = None
    batch_bytes: int = 16 * 1024 * 1024

    def chosen(self, present: Iterable[str]) -> list[str]:
        """The columns to read of a file that has those of ``present``."""
        names = list(present)
        if self.columns is None:
            return names
        asked = [name for name in self.columns if name in names]
        return [*asked, *(name for name in names if self.known and name not in self.known and name not in asked)]


@dataclass(frozen=True, slots=True)
class OpenedText:
    """A file whose format and compression are known. ``head`` is the start of its unpacked bytes."""

    file: File
    format: FileFormat
    compression: Compression
    head: bytes
    complete: bool
    """Whether ``head`` is all there is."""

    def open(self) -> pa.NativeFile:
        """The unpacked bytes from the first one on."""
        return _unpacked(self.file.open(), self.compression, self.file.name)


def format_of(name: str) -> FileFormat | None:
    """The format that a file's name tells, below a compression suffix; None when it tells none."""
    return _FORMATS.get(_suffix(stem(name)))


def stem(name: str) -> str:
    """``name`` without its compression suffix."""
    return name[: -len(_suffix(name))] if _suffix(name) in _PACKED else name


def _suffix(name: str) -> str:
    base = name.rpartition("/")[2].lower()
    return base[base.rindex(".") :] if "." in base else ""


def identify(file: File, wanted: Decoding) -> OpenedText:
    with file.open() as raw:
        head = raw.read(HEAD_BYTES)
        whole = len(head) < HEAD_BYTES
    compression = _compression(file.name, head, wanted.compression)
    if compression is not Compression.NONE and head:
        with _unpacked(file.open(), compression, file.name) as unpacked:
            head = unpacked.read(HEAD_BYTES)
            whole = len(head) < HEAD_BYTES
    kind = wanted.format if wanted.format is not FileFormat.AUTO else format_of(file.name) or _guess(head)
    _refuse_other_content(file.name, kind, head, wanted, packed=compression is not Compression.NONE)
    return OpenedText(file, kind, compression, head, whole)


def _guess(head: bytes) -> FileFormat:
    if head.startswith(b"PAR1"):
        return FileFormat.PARQUET
    return FileFormat.JSONL if head.lstrip().startswith(b"{") else FileFormat.CSV


def _compression(name: str, head: bytes, wanted: Compression) -> Compression:
    magic = next((c for m, c in _PACKED_MAGIC.items() if head.startswith(m)), Compression.NONE)
    if wanted is Compression.AUTO:
        wanted = _PACKED.get(_suffix(name), magic)
    if wanted is not Compression.NONE and wanted is not magic and head:
        raise SourceError(
            f"The file {name} is not {wanted}, though its name or the stream's compression says so.",
            fix="Correct the file, or set the stream's compression (none reads it as it is).",
        )
    return wanted


def _unpacked(raw: pa.NativeFile, compression: Compression, name: str) -> pa.NativeFile:
    if compression is Compression.NONE:
        return raw
    if compression is not Compression.ZIP:
        return pa.CompressedInputStream(raw, compression.value)
    archive = zipfile.ZipFile(raw)
    members = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
    if len(members) != 1:
        raise SourceError(
            f"The zip file {name} holds {len(members)} files; only one can be read.", fix="Unpack it into the folder."
        )
    return pa.PythonFile(archive.open(members[0]), mode="r")


def _refuse_other_content(name: str, kind: FileFormat, head: bytes, wanted: Decoding, *, packed: bool) -> None:
    if kind is FileFormat.PARQUET:
        if packed:
            raise SourceError(f"The file {name} is packed Parquet.", fix="Unpack it: Parquet compresses by itself.")
        if not head.startswith(b"PAR1"):
            raise SourceError(f"The file {name} is not a Parquet file.", fix=_OTHER_FORMAT)
        return
    looks = next((words for magic, words in _BINARY_MAGIC.items() if head.startswith(magic)), None)
    wide = re.match(r"utf[-_]?(16|32)", wanted.csv.encoding, re.IGNORECASE)
    if looks is None and b"\0" in head and not wide:
        looks = "binary data, or text in another encoding"
    if looks is not None:
        raise SourceError(f"The file {name} is not {kind} text: it looks like {looks}.", fix=_OTHER_FORMAT)


_OTHER_FORMAT = "Correct the file, set the stream's format, or narrow its glob so that the file is left out."


@contextmanager
def reading(name: str, kind: FileFormat | None = None) -> Iterator[None]:
    """Turn what goes wrong while a file is read into our errors, which name the file and repeat nothing of its content."""
    what = f"The file {name}"
    try:
        yield
    except EltError:
        raise
    except FileNotFoundError:
        raise TransientError(
            f"{what} vanished between listing and reading.", fix="It is left out once the next run lists the files."
        ) from None
    except PermissionError:
        raise SourceError(
            f"{what} may not be read.", fix="Give the user of this process permission to read it."
        ) from None
    except (zipfile.BadZipFile, EOFError, pa.ArrowException, UnicodeError, OSError, ValueError) as error:
        raise _explained(what, kind, error) from None


def _explained(what: str, kind: FileFormat | None, error: Exception) -> EltError:
    text = str(error)
    as_kind = f" as {kind}" if kind else ""
    if ragged := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", text):
        row, expected, got = ragged.groups()
        return SourceError(
            f"{what} cannot be read{as_kind}: row {row} has {got} columns instead of {expected}.",
            fix="Correct the row, or set csv.delimiter, csv.quote or csv.skip_rows.",
        )
    if "UTF8" in text or isinstance(error, UnicodeError):
        return SourceError(
            f"{what} is not text in the encoding it is read with.", fix="Set csv.encoding, such as latin-1 or cp1252."
        )
    if re.search(r"inflate|ompressed|ompression|BZ2|bz2|ZSTD|zstd|Bad CRC|zip", text):
        return SourceError(f"{what} is damaged: it cannot be unpacked to its end.", fix="Write the file again.")
    if re.search(r"straddl", text):
        return SourceError(
            f"{what} has a row of more than 64 MiB, or a quote that never ends.", fix="Correct csv.quote or the file."
        )
    if isinstance(error, OSError) and not isinstance(error, pa.ArrowException) and error.errno is not None:
        return TransientError(f"{what} could not be read ({error.strerror or type(error).__name__}).")
    return SourceError(f"{what} cannot be read{as_kind}: it is damaged or of another format.", fix=_OTHER_FORMAT)


def refuse_duplicates(name: str, columns: list[str]) -> None:
    """Raise SourceError when a column name is there twice."""
    twice = sorted({c for c in columns if columns.count(c) > 1})
    if twice:
        raise SourceError(
            f"The file {name} has two columns called {twice[0]!r}.", fix="Rename one of them in the file."
        )


ROWS_ONLY = ""
"""The name of the only column of a batch that stands for a number of rows."""
