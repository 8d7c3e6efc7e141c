"""CSV and JSON lines to Arrow: text columns first, types second.

Both are cut into blocks of lines by Arrow and become columns of text (CSV by Arrow, JSON by DuckDB with a declared struct); then
`elt_dagster.sdk.text` gives the types. That costs a tenth more than parsing straight into types, and a value that does not fit
widens its column instead of ending the file.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pyarrow as pa

from elt_dagster.errors import SourceError
from elt_dagster.model.compute import pc
from elt_dagster.model.types import JSON, type_name
from elt_dagster.sdk.opening import ROWS_ONLY, CsvDialect, Decoding, FileFormat, OpenedText, refuse_duplicates
from elt_dagster.sdk.text import SAMPLE_ROWS, cast, infer, join

BLOCK_BYTES = 4 * 1024 * 1024
LONG_ROW_BYTES = 64 * 1024 * 1024
SAMPLE_BYTES = 1024 * 1024
STRUCTURE_ROWS = 2_000  # describing JSON costs ten times as much per row as reading it
_DELIMITERS = ",;\t|"
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class _Block:
    """Rows as text; ``verbatim`` are columns of which the source itself says that they are text."""

    text: pa.RecordBatch
    verbatim: frozenset[str] = frozenset()


def read_csv(opened: OpenedText, wanted: Decoding) -> Iterator[pa.RecordBatch]:
    """The rows of a CSV file; an empty field is NULL. Raises SourceError for a bad header and ragged rows."""
    return _typed(opened, wanted, _csv_blocks(opened, wanted, BLOCK_BYTES))


def read_jsonl(opened: OpenedText, wanted: Decoding) -> Iterator[pa.RecordBatch]:
    """The objects of a file of JSON lines; nested values become JSON. Raises SourceError for a line that is no object."""
    return _typed(opened, wanted, _json_blocks(opened, wanted, BLOCK_BYTES))


def sample_text(opened: OpenedText, wanted: Decoding) -> pa.Schema:
    """The columns that the head of the file shows; a column without any value there is ``null``."""
    is_csv = opened.format is FileFormat.CSV
    blocks = (_csv_blocks if is_csv else _json_blocks)(opened, wanted, SAMPLE_BYTES)
    first = next(_typed(opened, wanted, blocks), None)
    if first is not None:
        return first.schema
    return pa.schema([(name, pa.null()) for name in _header(opened, wanted.csv)] if is_csv else [])


def _typed(opened: OpenedText, wanted: Decoding, blocks: Iterator[_Block]) -> Iterator[pa.RecordBatch]:
    types = _FileTypes(opened.file.name, wanted)
    for block in blocks:
        names = block.text.schema.names
        yield pa.RecordBatch.from_arrays([types.column(name, block) for name in names], names)
        types.done += block.text.num_rows


@dataclass
class _FileTypes:
    """What each column of one file was so far; types only widen on the way to its end."""

    file: str
    wanted: Decoding
    seen: dict[str, pa.DataType] = field(default_factory=dict[str, pa.DataType])
    done: int = 0
    """Rows before the current block."""

    def column(self, name: str, block: _Block) -> pa.Array:
        """One column of a block with its type. Raises SourceError when it does not fit the declared one."""
        text = block.text.column(name)
        if text.type != pa.string():
            return text
        if name in self.wanted.declared:
            return self._declared(name, text)
        verbatim = name in block.verbatim
        if name not in self.seen:
            sampled = pa.string() if verbatim else infer(text[:SAMPLE_ROWS])
            self.seen[name] = join(self.wanted.known.get(name, pa.null()), sampled)
        value = cast(text, self.seen[name])
        if value is None:
            self.seen[name] = join(self.seen[name], pa.string() if verbatim else infer(text))
            value = cast(text, self.seen[name])
        if value is None:
            self.seen[name] = pa.string()
        return text if value is None else value

    def _declared(self, name: str, text: pa.Array) -> pa.Array:
        kind = self.wanted.declared[name]
        value = cast(text, kind, exact=False)
        if value is not None:
            return value
        low, high = 0, len(text)
        while high - low > 1:  # halve: the first value that does not fit, in a few vectorised steps
            middle = (low + high) // 2
            low, high = (low, middle) if cast(text[low:middle], kind, exact=False) is None else (middle, high)
        raise SourceError(
            f"The column {name!r} of the file {self.file} has a value in row {self.done + low + 1} that is no {type_name(kind)}.",
            fix="Correct the file, or declare another type in the stream's schema.",
        )


def _in_blocks(
    opened: OpenedText, block_bytes: int, reader: Callable[[pa.NativeFile, int], Iterator[pa.RecordBatch]]
) -> Iterator[pa.RecordBatch]:
    """Batches of ``reader``; begins again with long blocks, and skips what is out, when a row is longer than a block."""
    done = 0
    for size in (block_bytes, LONG_ROW_BYTES):
        skip = done
        try:
            with opened.open() as stream:
                for batch in reader(stream, size):
                    rest = batch.slice(skip) if skip else batch
                    skip = max(0, skip - batch.num_rows)
                    if rest.num_rows:
                        done += rest.num_rows
                        yield rest
            return
        except pa.ArrowInvalid as error:
            if "straddl" not in str(error) or size == LONG_ROW_BYTES:
                raise


# --- CSV


def _csv_blocks(opened: OpenedText, wanted: Decoding, block_bytes: int) -> Iterator[_Block]:
    import pyarrow.csv as pacsv

    dialect = wanted.csv
    names = _header(opened, dialect)
    if opened.complete and len(_first_rows(opened, dialect, 2)) <= int(dialect.header):
        return  # Arrow takes a header without a line end for a damaged file
    wants = wanted.chosen(names)
    # at least one column is parsed, for the rows have to be counted
    convert = pacsv.ConvertOptions(
        include_columns=wants or names[:1], column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True,
        null_values=list(dialect.null_values), auto_dict_encode=False,
    )  # fmt: skip
    parse = pacsv.ParseOptions(
        delimiter=_delimiter(opened, dialect), quote_char=dialect.quote or False, newlines_in_values=True
    )

    def reader(stream: pa.NativeFile, size: int) -> Iterator[pa.RecordBatch]:
        read = pacsv.ReadOptions(
            use_threads=False, block_size=size, column_names=names, skip_rows=dialect.skip_rows,
            skip_rows_after_names=int(dialect.header), encoding=dialect.encoding,
        )  # fmt: skip
        yield from pacsv.open_csv(stream, read_options=read, parse_options=parse, convert_options=convert)

    for batch in _in_blocks(opened, block_bytes, reader):
        yield _Block(batch if wants else pa.RecordBatch.from_arrays([pa.nulls(batch.num_rows)], [ROWS_ONLY]))


def _header(opened: OpenedText, dialect: CsvDialect) -> list[str]:
    """Column names of a CSV file; none when it is empty. Raises SourceError when a name is there twice."""
    first = next(iter(_first_rows(opened, dialect, 1)), [])
    if not dialect.header:
        return [f"column_{i + 1}" for i in range(len(first))]
    names = [name.strip() or f"column_{i + 1}" for i, name in enumerate(first)]
    refuse_duplicates(opened.file.name, names)
    return names


def _first_rows(opened: OpenedText, dialect: CsvDialect, count: int) -> list[list[str]]:
    text = _head_text(opened, dialect)
    rows = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=_delimiter(opened, dialect),
        quotechar=dialect.quote or None,
        quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE,
    )
    try:
        return list(islice((row for row in rows if row), count))
    except csv.Error:
        raise SourceError(
            f"The first line of the file {opened.file.name} is no CSV header.", fix="Set csv.quote or csv.header."
        ) from None


def _head_text(opened: OpenedText, dialect: CsvDialect) -> str:
    text = opened.head.decode(dialect.encoding, errors="replace").removeprefix("\ufeff")
    for _ in range(dialect.skip_rows):
        text = text.partition("\n")[2]
    return text


def _delimiter(opened: OpenedText, dialect: CsvDialect) -> str:
    if dialect.delimiter:
        return dialect.delimiter
    line = _head_text(opened, dialect).lstrip("\r\n").partition("\n")[0]
    unquoted: str = re.sub(r'"[^"]*"', "", line)
    return max(_DELIMITERS, key=unquoted.count)  # the first of several equals: a comma


# --- JSON lines


def _json_blocks(opened: OpenedText, wanted: Decoding, block_bytes: int) -> Iterator[_Block]:
    import duckdb

    with duckdb.connect(config={"enable_external_access": "false"}) as memory:
        columns = _JsonColumns(opened.file.name, wanted, memory)
        if opened.complete and not opened.head.removeprefix(_BOM).strip():
            return  # Arrow takes a file without any line for a damaged one
        for batch in _in_blocks(opened, block_bytes, _text_lines):
            yield columns.extract(batch)


def _text_lines(stream: pa.NativeFile, size: int) -> Iterator[pa.RecordBatch]:
    """One text column ``line``; a byte that JSON forbids serves as delimiter."""
    import pyarrow.csv as pacsv

    yield from pacsv.open_csv(
        stream,
        read_options=pacsv.ReadOptions(use_threads=False, block_size=size, column_names=["line"]),
        parse_options=pacsv.ParseOptions(delimiter="\x01", quote_char=False),
        convert_options=pacsv.ConvertOptions(column_types={"line": pa.string()}, null_values=[]),
    )


@dataclass
class _JsonColumns:
    """The keys seen in one file of JSON lines, and how to get them out of each line."""

    file: str
    wanted: Decoding
    memory: Any
    kinds: dict[str, str] = field(default_factory=dict[str, str])
    """Key -> what DuckDB calls its values: ``VARCHAR``, ``BOOLEAN``, numbers, ``NULL``, or ``JSON`` for nested ones."""
    done: int = 0

    def extract(self, lines: pa.RecordBatch) -> _Block:
        """The columns of a block of lines."""
        import duckdb

        # valid JSON that begins with a brace is an object; that it is valid, DuckDB says
        objects = pc.starts_with(pc.utf8_ltrim_whitespace(lines.column(0)), "{")
        if not pc.all(objects).as_py():
            raise self._no_object(pc.index(objects, False).as_py())
        table = self.memory.from_arrow(pa.Table.from_batches([lines]))
        try:
            self._learn_new(table)
            asked = set(self.wanted.chosen(self.kinds))
            names = [n for n in self.kinds if n in asked]
            block = self._columns(table, names)
            if late := [n for n in names if self.kinds[n] == _UNSEEN and _has_values(block.text.column(n))]:
                self._learn(table, late)
                block = self._columns(table, names)
        except duckdb.Error as error:
            raise self._refusal(table, error) from None
        self.done += lines.num_rows
        return block

    def _learn_new(self, table: Any) -> None:
        keys = table.project("json_keys(line) AS k").aggregate("flatten(list(DISTINCT k))").fetchall()[0][0] or []
        if new := sorted(set(keys) - self.kinds.keys()):
            if "" in new or len({k.lower() for k in [*self.kinds, *new]}) < len(self.kinds) + len(new):
                raise SourceError(
                    f"The file {self.file} has keys that are empty or differ only in case.",
                    fix="Rename them in the file.",
                )
            self._learn(table, new)

    def _learn(self, table: Any, keys: list[str]) -> None:
        """Remember what the values of ``keys`` are, from the first rows that have one, in the order the rows have them."""
        present = " OR ".join(f"json_extract_string(line, {_quoted(_path(k))}) IS NOT NULL" for k in keys)
        rows = table.filter(present)
        shown = rows.limit(STRUCTURE_ROWS)
        described = json.loads(shown.aggregate("json_group_structure(line::JSON)").fetchall()[0][0] or "{}")
        for key in [*(described if isinstance(described, dict) else {}), *keys]:
            if key in keys and self.kinds.get(key, _UNSEEN) == _UNSEEN:
                kind = described.get(key, _UNSEEN) if isinstance(described, dict) else _UNSEEN
                self.kinds[key] = kind if isinstance(kind, str) and kind != _JSON else self._mixed(shown, key)

    def _mixed(self, rows: Any, key: str) -> str:
        """Nested values are JSON; a mix of numbers, booleans and text is text."""
        nested = f"bool_or(json_type(line, {_quoted(_path(key))}) IN ('OBJECT', 'ARRAY'))"
        return _JSON if rows.aggregate(nested).fetchall()[0][0] else _TEXT

    def _columns(self, table: Any, names: list[str]) -> _Block:
        struct = json.dumps(
            {n: _JSON if self._is_json(n) else _TEXT for n in names} or {"x": _TEXT}, ensure_ascii=False
        )
        found = table.project(f"from_json(line, {_quoted(struct)}) AS s")
        arrow = found.project("unnest(s)").to_arrow_table().combine_chunks()
        if not names:
            return _Block(pa.RecordBatch.from_arrays([pa.nulls(arrow.num_rows)], [ROWS_ONLY]))
        texts = [arrow.column(i).combine_chunks().cast(pa.string()) for i in range(len(names))]
        arrays = [cast(t, JSON) if self._is_json(n) else t for n, t in zip(names, texts, strict=True)]
        return _Block(pa.RecordBatch.from_arrays(arrays, names), frozenset(n for n in names if self.kinds[n] == _TEXT))

    def _is_json(self, name: str) -> bool:
        if name in self.wanted.declared:
            return bool(self.wanted.declared[name] == JSON)
        known = self.wanted.known.get(name)
        if (
            known == JSON or known == pa.string()
        ):  # what it is called already wins: text can hold a nested value as well
            return bool(known == JSON)
        return self.kinds[name] == _JSON

    def _refusal(self, table: Any, error: Exception) -> SourceError:
        valid = table.project("coalesce(json_valid(line), false) AS v").to_arrow_table().column("v").combine_chunks()
        if not pc.all(valid).as_py():
            return self._no_object(pc.index(valid, False).as_py())
        return SourceError(f"The file {self.file} cannot be read as JSON lines ({type(error).__name__}).")

    def _no_object(self, index: int) -> SourceError:
        return SourceError(
            f"The file {self.file} is not JSON lines: row {self.done + index + 1} is no JSON object.",
            fix="Write one object per line (not one array for the whole file), or set the stream's format.",
        )


_TEXT, _JSON, _UNSEEN = "VARCHAR", "JSON", "NULL"  # DuckDB's names


def _has_values(column: pa.Array) -> bool:
    return int(column.null_count) < len(column)


def _path(key: str) -> str:
    return '$."' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
