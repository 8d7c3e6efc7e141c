"""Decode files to Arrow batches: CSV, JSON lines and Parquet, packed or not.

`decode` reads one file as a stream of batches of bounded size; `sample` tells its columns from its head.
"""

from collections.abc import Iterator

import pyarrow as pa

from elt_dagster.sdk.arrow import split
from elt_dagster.sdk.lines import read_csv, read_jsonl, sample_text
from elt_dagster.sdk.opening import (
    Compression,
    CsvDialect,
    Decoding,
    File,
    FileFormat,
    format_of,
    identify,
    reading,
    stem,
)
from elt_dagster.sdk.parquet import read_parquet, sample_parquet

__all__ = ["Compression", "CsvDialect", "Decoding", "File", "FileFormat", "decode", "format_of", "sample", "stem"]


def decode(file: File, wanted: Decoding) -> Iterator[pa.RecordBatch]:
    """The rows of ``file`` in order, in batches of about ``batch_bytes`` at most, with canonical types and the file's column names.

    Columns the file does not have are left out. The types of a column may widen from one batch to the next. Raises SourceError for
    a file that is not what its name or ``wanted`` says, TransientError for one that vanished or could not be read to its end.
    """
    with reading(file.name):
        opened = identify(file, wanted)
    what = opened.format
    with reading(file.name, what):
        if what is FileFormat.PARQUET:
            rows = read_parquet(file, wanted)
        elif what is FileFormat.CSV:
            rows = read_csv(opened, wanted)
        else:
            rows = read_jsonl(opened, wanted)
        for batch in rows:
            yield from split(batch, wanted.batch_bytes)


def sample(file: File, wanted: Decoding) -> pa.Schema:
    """The columns of ``file`` as its head shows them, reading a few megabytes at most; empty for an empty file. Raises as `decode`."""
    with reading(file.name):
        opened = identify(file, wanted)
    with reading(file.name, opened.format):
        if opened.format is FileFormat.PARQUET:
            return sample_parquet(file)
        return sample_text(opened, wanted)
