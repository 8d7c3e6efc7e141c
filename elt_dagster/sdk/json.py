"""JSON pages to Arrow, without a Python object per record.

`Document` peeks into a page (next cursor, totals) with simdjson pointers. `JsonParser` turns the bytes of several pages into one
record batch: DuckDB unpacks the records, finds every key they use, and casts declared columns with a check that nothing is lost.
A key nobody declared becomes a further column; a value that does not fit widens its column from that batch on.

Numbers with a fraction are read as doubles, as everywhere in JSON; integers keep all their digits.
"""

import json
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import simdjson

from elt_dagster.errors import SourceError
from elt_dagster.model.compute import pc
from elt_dagster.sdk.arrow import text_column
from elt_dagster.sdk.json_path import ELEMENTS, VALUES, Step, json_path, literal, parse_path
from elt_dagster.sdk.json_types import cast_sql, infer, kinds_sql, misfit_sql, raw_type, tests_sql, widen

if TYPE_CHECKING:
    import duckdb

MAX_COLUMNS = 2000


class Document:
    """One page, open for looking at single values; what it returns is plain Python, so it may be dropped at any time.

    Raises SourceError when the bytes are not JSON. ``content`` is what `JsonParser` gets: without byte order mark, and with NaN and
    infinities replaced by null, counted in ``non_finite``. An empty body is a document without anything in it.
    """

    def __init__(self, content: bytes, *, where: str = "The source") -> None:
        self.content = content.removeprefix(b"\xef\xbb\xbf").strip() or b"null"
        self.non_finite = 0
        try:
            self._root: Any = simdjson.Parser().parse(self.content)
        except (ValueError, RuntimeError):
            self._root = self._tolerant(where)

    def at(self, path: str) -> Any:
        """The value at ``path``, or None where it breaks off; not for records, which would all become Python objects. A top-level key that is ``path`` itself (``@odata.nextLink``) wins."""
        if path and _is_object(self._root) and path in self._root:
            return _plain(self._root[path])
        return _plain(self._dig(parse_path(path)))

    def has(self, path: str) -> bool:
        """Whether there is anything but null at ``path``; looks without unpacking, so it may be asked about the records."""
        return self._dig(parse_path(path)) is not None

    def size(self, path: str) -> int:
        """How many records are at ``path``: elements of an array, 1 for an object or a scalar, 0 for null or nothing."""
        found = self._dig(parse_path(path))
        if isinstance(found, list):
            return (
                sum(1 if not _is_array(f) else len(f) for f in found)
                if {ELEMENTS, VALUES} & set(parse_path(path))
                else len(found)
            )
        if _is_array(found):
            return len(found)
        return 0 if found is None else 1

    def last(self, path: str, field: str) -> Any:
        """``field`` of the last record at ``path``; None when there is none."""
        found = self._dig(parse_path(path))
        if not _is_array(found):
            return _plain(_walk(found, parse_path(field)))
        return _plain(_walk(found[len(found) - 1], parse_path(field))) if len(found) else None

    def _dig(self, steps: Sequence[Step]) -> Any:
        return _walk(self._root, steps)

    def _tolerant(self, where: str) -> Any:
        """Read what simdjson will not (integers past 64 bits, NaN, infinities), at Python's speed."""
        try:
            root = json.loads(self.content, parse_constant=self._constant, parse_float=self._float)
        except (ValueError, RecursionError):
            raise SourceError(
                f"{where} sent something that is not JSON.", fix="Check the address and what it answers in a browser."
            ) from None
        if self.non_finite or b"\\ud" in self.content.lower():  # half a surrogate pair is no text for anybody
            self.content = json.dumps(root, ensure_ascii=False).encode("utf-8", "replace")
        return root

    def _constant(self, _: str) -> None:
        self.non_finite += 1

    def _float(self, text: str) -> float | None:
        value = float(text)
        if math.isfinite(value):
            return value
        self.non_finite += 1
        return None


def _is_object(value: Any) -> bool:
    return isinstance(value, dict | simdjson.Object)


def _is_array(value: Any) -> bool:
    return isinstance(value, list | simdjson.Array)


def _plain(value: Any) -> Any:
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    return value.as_list() if isinstance(value, simdjson.Array) else value


def _walk(value: Any, steps: Sequence[Step]) -> Any:
    for i, step in enumerate(steps):
        if step in (ELEMENTS, VALUES) and (_is_array(value) or _is_object(value)):
            inner = value.values() if _is_object(value) else value
            found = [_walk(v, steps[i + 1 :]) for v in inner]
            return [f for f in found if f is not None]
        if isinstance(step, int) and _is_array(value):
            value = value[step if step >= 0 else len(value) + step] if -len(value) <= step < len(value) else None
        elif isinstance(step, str) and _is_object(value) and step in value:
            value = value[step]
        else:
            return None
    return value


class JsonParser:
    """Parses pages of one stream; remembers the columns it has met, so that its schema only grows.

    ``schema`` has canonical types; None infers everything from the first pages. ``columns`` are the names to keep, in order; keys in
    ``schema`` but not in ``columns`` are left out, keys in neither are drift and are added. ``records_at`` is a path; where it ends
    in an object under a wildcard (``rates.*``) ``key_as`` names a column for the keys. Use as a context manager.
    """

    def __init__(
        self,
        schema: pa.Schema | None = None,
        records_at: str = "",
        *,
        columns: Sequence[str] | None = None,
        key_as: str | None = None,
        where: str = "The source",
    ) -> None:
        self._fields: dict[str, pa.Field] = {f.name: f for f in schema} if schema is not None else {}
        self._drifts = columns is None or schema is not None
        self._columns = list(columns) if columns is not None else list(self._fields)
        for name in self._columns:
            self._fields.setdefault(name, pa.field(name, pa.null()))
        self._steps = parse_path(records_at)
        self._key_as = key_as
        self._where = where
        self._con: duckdb.DuckDBPyConnection | None = None

    @property
    def schema(self) -> pa.Schema:
        """The columns of the next batch, as far as they are known."""
        return pa.schema([self._fields[n] for n in self._columns])

    def parse(self, pages: Sequence[bytes]) -> pa.RecordBatch:
        """All records of ``pages`` as one batch with canonical types. Raises SourceError when a page cannot be unpacked."""
        return self.parse_with_origin(pages)[0]

    def parse_with_origin(self, pages: Sequence[bytes]) -> tuple[pa.RecordBatch, pa.Array]:
        """As `parse`, and for each row the position in ``pages`` it came from."""
        import duckdb

        try:
            self._load(pages)
            self._meet_new_keys()
            return self._typed()
        except duckdb.Error as error:  # its text quotes the input
            raise SourceError(
                f"{self._where} sent JSON that cannot be unpacked ({type(error).__name__}).",
                fix="Check records_at and the declared schema.",
            ) from None

    def close(self) -> None:
        """Give back the memory of the parser."""
        if self._con is not None:
            self._con.close()
            self._con = None

    def __enter__(self) -> "JsonParser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connection(self) -> "duckdb.DuckDBPyConnection":
        import duckdb

        if self._con is None:
            # DuckDB gives threads whole row groups, and a block has less than one: a second would only take memory.
            self._con = duckdb.connect(":memory:", config={"threads": 1})
            self._con.execute("SET TimeZone = 'UTC'")
        return self._con

    def _load(self, pages: Sequence[bytes]) -> None:
        """Fill the table ``rec`` with one row per record: page number and text."""
        con = self._connection()
        table = pa.table({"i": pa.array(range(len(pages)), pa.int32()), "page": text_column(list(pages))})
        con.register("pages", table)
        try:
            con.execute(
                f"CREATE OR REPLACE TEMP TABLE rec AS "
                f"SELECT i, r FROM (SELECT i, unnest({self._records_sql()}) AS r FROM pages) WHERE r IS NOT NULL"
            )
        finally:
            con.unregister("pages")
        if con.execute("SELECT 1 FROM rec WHERE NOT starts_with(r, '{') LIMIT 1").fetchall():
            con.execute("DELETE FROM rec WHERE CAST(r AS VARCHAR) = 'null'")
            con.execute("UPDATE rec SET r = json_object('value', r) WHERE NOT starts_with(r, '{')")

    def _records_sql(self) -> str:
        """SQL of the list of records in a page. Plain keys go through ``from_json``, which is the fastest way to a list."""
        steps = self._steps
        if {ELEMENTS, VALUES} & set(steps):
            return (
                self._keyed_sql() if self._key_as and steps[-1] == VALUES else f"json_extract(page, {json_path(steps)})"
            )
        path = json_path(steps)
        every = f"json_extract(page, {json_path((*steps, ELEMENTS))})"
        slow = f"CASE json_type(page, {path}) WHEN 'ARRAY' THEN {every} WHEN 'NULL' THEN [] ELSE [json_extract(page, {path})] END"
        if not all(isinstance(s, str) for s in steps):
            return slow
        shape: Any = ["JSON"]
        for step in reversed(steps):
            shape = {step: shape}
        fields = "".join(f".{_name(str(s))}" for s in steps)
        return f"coalesce((from_json(page, {literal(json.dumps(shape, ensure_ascii=False))})){fields}, {slow})"

    def _keyed_sql(self) -> str:
        """A dictionary of records as a list of records, each with its key; a key of that name in the record itself wins."""
        parent, every = json_path(self._steps[:-1]), json_path(self._steps)
        key = f"json_object({literal(self._key_as or '')}, z[1])"
        return (
            f"list_transform(list_zip(json_keys(page, {parent}), json_extract(page, {every})), "
            f"lambda z: CASE WHEN starts_with(z[2], '{{') THEN json_merge_patch({key}, z[2]) "
            f"ELSE json_merge_patch({key}, json_object('value', z[2])) END)"
        )

    def _meet_new_keys(self) -> None:
        if not self._drifts:
            return
        rows = self._connection().execute(
            "WITH s AS (SELECT DISTINCT json_keys(r) AS ks FROM rec) SELECT k, min(p) FROM "
            "(SELECT unnest(ks) AS k, unnest(range(len(ks))) AS p FROM s) GROUP BY k ORDER BY 2, 1"
        )
        new = [k for k, _ in rows.fetchall() if k not in self._fields]
        if len(self._fields) + len(new) > MAX_COLUMNS:
            raise SourceError(
                f"{self._where} uses more than {MAX_COLUMNS} different keys in its records.",
                fix="Set records_at to the list or object that holds the records.",
            )
        for name in new:
            self._fields[name] = pa.field(name, pa.null())
            self._columns.append(name)

    def _typed(self) -> tuple[pa.RecordBatch, pa.Array]:
        for _ in range(3):  # as declared; after widening what did not fit; after falling back to text
            table, misfits = self._cast()
            if not misfits:
                break
            self._widen(misfits)
        batch = _one_batch(table)
        arrays = [_as(batch.column(j), self._fields[n].type) for j, n in enumerate(self._columns)]
        data = pa.RecordBatch.from_arrays(arrays, schema=self.schema) if arrays else _no_columns(batch.num_rows)
        return data, batch.column(len(self._columns))

    def _cast(self) -> tuple[pa.Table, list[str]]:
        raws = dict(zip(self._columns, self._raw(self._columns, None), strict=True))
        wanted = [f"{cast_sql(self._fields[n].type, raws[n])} AS c{j}" for j, n in enumerate(self._columns)]
        checks = {n: misfit_sql(self._fields[n].type, raws[n]) for n in self._columns}
        tests = [f"{sql} AS b{j}" for j, sql in enumerate(checks.values()) if sql]
        query = f"SELECT {', '.join([*wanted, 'i', *tests])} FROM {self._unpacked(self._columns, None)}"
        table = self._connection().sql(query).to_arrow_table()
        bad = [n for j, n in enumerate(checks) if checks[n] and pc.any(table[f"b{j}"]).as_py()]
        return table.select(range(len(wanted) + 1)), bad

    def _widen(self, names: Sequence[str]) -> None:
        """Give each of ``names`` a type that holds what this block has."""
        raws = list(self._raw(names, "JSON"))
        found = self._asked([kinds_sql(raw) for raw in raws], names)
        kinds = [frozenset(k for k in ks or () if k not in (None, "NULL")) for ks in found]
        tests = [tests_sql(k, raw) for k, raw in zip(kinds, raws, strict=True)]
        answers = iter(self._asked([sql for part in tests for sql in part], names))
        for name, kind, part in zip(names, kinds, tests, strict=True):
            known = self._fields[name].type
            wider = widen(known, infer(kind, list(islice(answers, len(part)))))
            self._fields[name] = self._fields[name].with_type(pa.string() if wider == known else wider)

    def _asked(self, aggregates: Sequence[str], names: Sequence[str]) -> tuple[Any, ...]:
        """The values of ``aggregates`` over the records, with the columns ``names`` as JSON text."""
        if not aggregates:
            return ()
        query = f"SELECT {', '.join(aggregates)} FROM {self._unpacked(names, 'JSON')}"
        return tuple(self._connection().execute(query).fetchall()[0])

    def _raw(self, names: Sequence[str], kind: str | None) -> Iterator[str]:
        """SQL of each column's text. DuckDB's structs ignore case and need a name, so keys that differ in case alone go by path."""
        plain = _plain_names(names)
        for name in names:
            path = json_path((name,))
            if name in plain:
                yield f"v.{_name(name)}"
            elif (kind or raw_type(self._fields[name].type)) == "JSON":
                yield f"nullif(json_extract(r, {path}), 'null')"
            else:
                yield f"json_extract_string(r, {path})"

    def _unpacked(self, names: Sequence[str], kind: str | None) -> str:
        shape = {n: kind or raw_type(self._fields[n].type) for n in _plain_names(names)}
        value = f"from_json(r, {literal(json.dumps(shape, ensure_ascii=False))})" if shape else "NULL"
        return f"(SELECT i, r, {value} AS v FROM rec)"


def _plain_names(names: Sequence[str]) -> dict[str, None]:
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(name.lower(), name)
    return {n: None for n in first.values() if n}


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    if batches:
        return batches[0]
    return pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in table.schema], schema=table.schema)


def _no_columns(rows: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_struct_array(pa.array([{}] * rows, pa.struct([])))


def _as(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """``array`` as DuckDB gave it, in its canonical type."""
    if array.type == kind:
        return array
    if pa.types.is_null(kind):
        return pa.nulls(len(array))
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, array.cast(kind.storage_type))
    return array.cast(kind)
