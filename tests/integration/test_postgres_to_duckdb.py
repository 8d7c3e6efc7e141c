"""A table with every PostgreSQL type goes to DuckDB through the engine, and every value is compared with what PostgreSQL says it is.

The other side of the comparison shares nothing with the product: PostgreSQL writes each value as text by its own output functions, another
driver fetches it, DuckDB compares the two texts, all rows and all columns. ``ELT_DAGSTER_TEST_ROWS`` sets how many rows there are.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import psycopg2
import pytest

from elt_dagster.control.configured import ConfiguredSync
from elt_dagster.model import LoadMode, StreamResult, SyncSpec
from tests import servers
from tests.integration.hand_made import HandMadeConnections
from tests.integration.postgres_source import PostgresSource

ROWS = int(os.environ.get("ELT_DAGSTER_TEST_ROWS", "20000"))
CHUNK = 100_000
CHANGED, ADDED = 3_000, 2_000
STREAM = "public.everything"


@dataclass(frozen=True)
class Text:
    """How a value is written as text on both sides; ``{0}`` is the value."""

    postgres: str
    duckdb: str
    expected: str = "{0}"
    """What DuckDB makes of PostgreSQL's text before comparing: for numbers that both write, but not alike."""


# The type's own output function; as hexadecimal, so that the file between needs no quoting, and never empty, for that is NULL.
_HEX = "'x' || encode(convert_to(format('%s', {0}), 'UTF8'), 'hex')"
PLAIN = Text("{0}::text", "CAST({0} AS VARCHAR)")
CHARACTERS = Text(_HEX, "'x' || lower(hex(encode(CAST({0} AS VARCHAR))))")
BYTES = Text("'x' || encode({0}, 'hex')", "'x' || lower(hex({0}))")
DOUBLE = Text("{0}::text", "CAST({0} AS VARCHAR)", "CAST(CAST({0} AS DOUBLE) AS VARCHAR)")
FLOAT = Text("{0}::text", "CAST({0} AS VARCHAR)", "CAST(CAST({0} AS FLOAT) AS VARCHAR)")
# What these types cannot hold is promised to be NULL.
DECIMAL = Text("nullif({0}::numeric, 'NaN')::text", "CAST({0} AS VARCHAR)")
DATE = Text("CASE WHEN {0} BETWEEN '0001-01-01' AND '9999-12-31' THEN {0}::text END", "CAST({0} AS VARCHAR)")
TIME = Text(
    "CASE WHEN {0} < '24:00' THEN to_char({0}, 'HH24:MI:SS.US') END", "strftime(DATE '2000-01-01' + {0}, '%H:%M:%S.%f')"
)
TIMESTAMP = Text(
    "CASE WHEN {0} >= '0001-01-01' AND {0} < '10000-01-01' THEN to_char({0}, 'YYYY-MM-DD HH24:MI:SS.US') END",
    "strftime({0}, '%Y-%m-%d %H:%M:%S.%f')",
)
TIMESTAMP_UTC = Text(TIMESTAMP.postgres, "strftime({0} AT TIME ZONE 'UTC', '%Y-%m-%d %H:%M:%S.%f')")
INTERVAL = Text(
    "format('%s/%s/%s', (extract(year FROM {0}) * 12 + extract(month FROM {0}))::int, extract(day FROM {0})::int, "
    "(extract(hour FROM {0}) * 3600000000 + extract(minute FROM {0}) * 60000000 + extract(microseconds FROM {0}))::bigint)",
    "concat(year({0}) * 12 + month({0}), '/', day({0}), '/', "
    "hour({0}) * 3600000000 + minute({0}) * 60000000 + microsecond({0}))",
)
# Arrays and composites are JSON on the other side, so they are taken apart here and there.
LIST = Text(
    "'x' || encode(convert_to(array_to_string({0}, chr(31), chr(30)), 'UTF8'), 'hex')",
    "'x' || lower(hex(encode(array_to_string(list_transform(from_json({0}, '[\"VARCHAR\"]'), "
    "lambda v: coalesce(v, chr(30))), chr(31)))))",
)
MATRIX = Text(
    "array_to_string({0}, '/', 'NULL')",
    "array_to_string(list_transform(flatten(from_json({0}, '[[\"VARCHAR\"]]')), lambda v: coalesce(v, 'NULL')), '/')",
)
COMPOSITE = Text(
    "'x' || encode(convert_to(concat(({0}).x, '/', ({0}).label, '/', (({0}).more)[1]), 'UTF8'), 'hex')",
    "'x' || lower(hex(encode(concat({0}->>'x', '/', {0}->>'label', '/', {0}->'more'->>0))))",
)
HSTORE = Text(
    "'x' || encode(convert_to(concat({0}->'a', '/', {0}->'b c', '/', array_length(akeys({0}), 1)), 'UTF8'), 'hex')",
    "'x' || lower(hex(encode(concat({0}->>'a', '/', {0}->>'b c', '/', len(json_keys({0}))))))",
)
JSONB = Text(_HEX, CHARACTERS.duckdb)

_WORDS = r"""(ARRAY['', 'NULL', '\N', '\.', 'a,b', 'say "hi"', '''', E'line\nbreak', E'\r\n', E'\ttab\t', 'żółć 漢字 🦆', ' spaces ',
    E'\u0001\u001f', E'\uFEFFmark', '"', '""', E'"\n"', E'\\', ',', E'e\u0301', repeat('long ', 60)])[1 + i % 21]"""
_SPAN = "((i * 2654435761) % 4294967296)::int8"  # scattered over 32 bits


def _choice(extremes: str, usual: str) -> str:
    """One of ``extremes`` in every 97th row, ``usual`` in the others."""
    count = extremes.count(",") + 1
    return f"CASE WHEN i % 97 = 0 THEN (ARRAY[{extremes}])[1 + i / 97 % {count}] ELSE {usual} END"


# column type -> how row i gets its value, how the value is compared
COLUMNS: dict[str, tuple[str, Text]] = {
    "bool": ("i % 3 = 0", PLAIN),
    "smallint": (_choice("-32768, 32767", "i % 32768"), PLAIN),
    "integer": (_choice("-2147483648, 2147483647", f"{_SPAN} - 2147483648"), PLAIN),
    "bigint": (_choice("-9223372036854775808, 9223372036854775807", f"{_SPAN} * i"), PLAIN),
    "oid": (_SPAN, PLAIN),
    "xid": (f"({_SPAN})::text", PLAIN),
    "xid8": (f"(18446744073709551615 - {_SPAN})::text", CHARACTERS),
    "real": (_choice("'NaN', 'Infinity', '-Infinity', '-0', '1e-45', '3.4028235e38'", "(i * 0.37)::text"), FLOAT),
    "double precision": (
        _choice("'NaN', 'Infinity', '-Infinity', '-0', '5e-324', '1.7976931348623157e308'", "(i::float8 / 7)::text"), DOUBLE,
    ),
    "numeric(10,2)": (_choice("'NaN', '-99999999.99', '99999999.99'", "(i * 1.01)::text"), DECIMAL),
    "numeric(38,0)": (f"repeat('9', (1 + i % 28)::int) || {_SPAN} % 10", DECIMAL),
    "numeric(38,20)": (f"'-' || i || '.' || lpad(({_SPAN})::text, 20, '7')", DECIMAL),
    "numeric(38,38)": (f"'0.' || lpad(({_SPAN})::text, 38, '5')",
                       Text("{0}::text", "CAST({0} AS VARCHAR)", "CAST(CAST({0} AS DECIMAL(38,38)) AS VARCHAR)")),
    "numeric(45,3)": ("repeat('8', 40) || '.125'", CHARACTERS),
    "numeric(5,-2)": ("i % 100000", CHARACTERS),
    "numeric": (_choice("'NaN', '0.000', '1e40', '-1e-40'", "(i * 1.5)::text"), CHARACTERS),
    "money": (_choice("-92233720368547758.08, 92233720368547758.07", "i * 1.37"), DECIMAL),
    "text": (f"{_WORDS} || CASE i % 5 WHEN 0 THEN '' ELSE i::text END", CHARACTERS),
    "varchar(400)": (_WORDS, CHARACTERS),
    "char(12)": ("'c' || i % 1000", CHARACTERS),
    "name": ("'n' || i", CHARACTERS),
    '"char"': ("chr(65 + i::int % 26)", CHARACTERS),
    "citext": ("'CaSe ' || i", CHARACTERS),
    "bytea": ("CASE i % 9 WHEN 0 THEN '' ELSE decode(md5(i::text), 'hex') || '\\x00ff0a0d22'::bytea END", BYTES),
    "date": (_choice("'infinity', '-infinity', '0044-03-15 BC', '0001-01-01', '9999-12-31', '10000-01-01'",
                     "('1900-01-01'::date + i::int % 80000)::text"), DATE),
    "time": (_choice("'24:00:00', '00:00:00', '23:59:59.999999'",
                     "('00:00'::time + (i * 7919 % 86399999999) * interval '1 microsecond')::text"), TIME),
    "timetz": ("('01:02:03.5'::time + i % 3600 * interval '1 second')::text || '+05:30'", CHARACTERS),
    "timestamp": (_choice("'infinity', '-infinity', '0044-03-15 12:00 BC', '0001-01-01', '9999-12-31 23:59:59.999999', '12000-01-01'",
                          "('1970-01-01'::timestamp + i * interval '1799.123457 seconds')::text"), TIMESTAMP),
    "timestamptz": (_choice("'infinity', '-infinity', '20000-01-01', '0001-01-01 00:00+00', '9999-12-31 23:59:59.999999+00'",
                            "('1950-01-01'::timestamptz + i * interval '3601.000001 seconds')::text"), TIMESTAMP_UTC),
    "timestamp(0)": ("'2000-01-01'::timestamp + i * interval '1.6 seconds'", TIMESTAMP),
    "interval": ("(i % 50 - 25) * interval '1 month' + (20 - i % 41) * interval '1 day' "
                 "+ (i * 977 - 5000000) * interval '1 microsecond'", INTERVAL),
    "uuid": ("md5(i::text)::uuid", PLAIN),
    "json": (f"""'{{"i":  ' || i || ', "w":' || to_json({_WORDS}) || ', "n": [null, 1.50, 1e400]}}'""", CHARACTERS),
    "jsonb": (f"jsonb_build_object('w', {_WORDS}, 'i', i, 'deep', jsonb_build_array(NULL, true, i * 1.10))", JSONB),
    "integer[]": ("ARRAY[i, NULL, -i]", LIST),
    "text[]": (f"CASE i % 7 WHEN 0 THEN '{{}}' ELSE ARRAY[{_WORDS}, NULL, i::text] END", LIST),
    "integer[][]": ("ARRAY[[i, 1], [NULL, -i]]", MATRIX),
    "mood[]": ("ARRAY['ok', 'so, so']::mood[]", LIST),
    "point_in_space": (f"ROW(i, {_WORDS}, ARRAY[i * 1.5])::point_in_space", COMPOSITE),
    "hstore": (f"hstore(ARRAY['a', 'b c'], ARRAY[i::text, {_WORDS}])", HSTORE),
    "mood": ("(ARRAY['ok', 'so, so'])[1 + i % 2]::mood", CHARACTERS),
    "price": ("i % 1000000 / 100.0", DECIMAL),
    "tags": ("ARRAY['a', i::text]", LIST),
    "int4range": ("int4range((i % 1000)::int, (i % 1000 + i % 5)::int)", CHARACTERS),
    "tstzrange": ("tstzrange('2024-01-01 00:00+00'::timestamptz + i * interval '1 second', NULL)", CHARACTERS),
    "int4multirange": ("int4multirange(int4range(1, 3), int4range(5, 6 + (i % 9)::int))", CHARACTERS),
    "inet": (f"'0.0.0.0'::inet + {_SPAN}", CHARACTERS),
    "cidr": ("('10.' || i % 256 || '.0.0/16')", CHARACTERS),
    "macaddr": ("substr(md5(i::text), 1, 12)", CHARACTERS),
    "macaddr8": ("substr(md5(i::text), 1, 16)", CHARACTERS),
    "bit(8)": ("(i % 256)::int::bit(8)", CHARACTERS),
    "bit varying": ("substr((i % 65536)::int::bit(16)::text, 1, (i % 17)::int)::varbit", CHARACTERS),
    "xml": (f"xmlelement(name a, translate({_WORDS}, E'\\u0001\\u001f', ''))", CHARACTERS),
    "point": ("point(i / 3.0, -i)", CHARACTERS),
    "line": ("line(point(0, 0), point(1 + i, 2))", CHARACTERS),
    "box": ("box(point(0, 0), point(i, 1.5))", CHARACTERS),
    "path": ("'((0,0),(1,' || i || '))'", CHARACTERS),
    "polygon": ("'((0,0),(1,1),(' || i || ',0))'", CHARACTERS),
    "circle": ("circle(point(i, 0), 0.1)", CHARACTERS),
    "tsvector": ("to_tsvector('simple', 'a fat cat ' || i)", CHARACTERS),
    "tsquery": ("('fat & r' || i)", CHARACTERS),
    "pg_lsn": ("to_hex(i) || '/B374D848'", CHARACTERS),
    "jsonpath": ("'$.a[' || i || ']'", CHARACTERS),
    "regclass": ("'pg_class'", CHARACTERS),
}  # fmt: skip
NAMES = {kind: f"c{i}" for i, kind in enumerate(COLUMNS)}
COUNTED = ("numeric(10,2)", "date", "time", "timestamp", "timestamptz", "timestamp(0)")
"""Columns whose values may have no counterpart; each that becomes NULL is counted."""

_TYPES = """
CREATE EXTENSION hstore; CREATE EXTENSION citext;
CREATE TYPE point_in_space AS (x int, label text, more numeric[]); CREATE TYPE mood AS ENUM ('ok', 'so, so');
CREATE DOMAIN price AS numeric(8,2) CHECK (VALUE >= 0); CREATE DOMAIN tags AS text[]
"""


def _rows(first: int, last: int, changed_at: str) -> str:
    """A SELECT of the rows ``first`` up to ``last``; each column is NULL in rows of its own."""
    values = [
        f"CASE WHEN i % {7 + n % 11} = {n % 7} THEN NULL ELSE {making} END::{kind}"
        for n, (kind, (making, _)) in enumerate(COLUMNS.items())
    ]
    return f"SELECT i, {changed_at}, {', '.join(values)} FROM generate_series({first}::int8, {last}) AS i"


@pytest.fixture(scope="module")
def source(postgres_server: str) -> Iterator[PostgresSource]:
    with servers.database() as url:
        source = PostgresSource(url)
        source.run("SET TimeZone = 'UTC'")
        source.run(_TYPES)
        columns = ", ".join(f"{NAMES[kind]} {kind}" for kind in COLUMNS)
        source.run(f"CREATE TABLE everything (id int8 PRIMARY KEY, changed_at timestamptz, {columns})")
        source.run(f"INSERT INTO everything {_rows(1, ROWS, _PAST)}")
        yield source
        source.close()


_PAST = "'2024-01-01'::timestamptz + i * interval '1 millisecond'"


def _load(source: PostgresSource, folder: Path, mode: LoadMode) -> StreamResult:
    binding: dict[str, object] = {"name": STREAM, "table": "t", "load_mode": mode}
    if mode is LoadMode.MERGE:
        binding |= {"primary_key": ["id"], "cursor_field": "changed_at"}
    spec = SyncSpec.model_validate(
        {"slug": "whole", "connection": "source", "destination": "warehouse", "schema": "raw", "streams": [binding]}
    )
    sync = ConfiguredSync(
        id="whole",
        spec=spec,
        streams={STREAM: source.connector().discover()[STREAM]},
        binding_ids={STREAM: "everything"},
        connections=HandMadeConnections(
            {"source": "postgres", "warehouse": "duckdb"},
            {"source": source.config(), "warehouse": {"path": str(folder / "warehouse.duckdb")}},
        ),
    )
    return sync.read(STREAM, run_id="run").load()


def _differences(source: PostgresSource, folder: Path, rows: int) -> dict[str, int]:
    """Number of values by column type that are not what PostgreSQL says; ``rows`` if a row is missing or too many."""
    found: dict[str, int] = {}
    with duckdb.connect(str(folder / "warehouse.duckdb"), config={"threads": 2, "memory_limit": "1GB"}) as warehouse:
        warehouse.execute("SET TimeZone = 'UTC'")
        assert warehouse.sql("SELECT count(*), count(DISTINCT id) FROM raw.t").fetchall() == [(rows, rows)]
        for first in range(1, rows + 1, CHUNK):
            last = min(first + CHUNK - 1, rows)
            path = folder / "expected.csv"
            _write_expected(source.url, path, first, last)
            compared, *wrong = warehouse.sql(_comparison(path, first, last)).fetchall()[0]
            assert compared == last - first + 1
            for kind, count in zip(["changed_at", *COLUMNS], wrong, strict=True):
                if count:
                    found[kind] = found.get(kind, 0) + count
    return found


def _write_expected(url: str, path: Path, first: int, last: int) -> None:
    terms = [_unless_null(text.postgres, NAMES[kind]) for kind, (_, text) in COLUMNS.items()]
    select = f"SELECT id, changed_at::text, {', '.join(terms)} FROM everything WHERE id BETWEEN {first} AND {last}"
    connection = psycopg2.connect(url, options="-c TimeZone=UTC -c DateStyle=ISO -c extra_float_digits=1")
    try:
        with connection.cursor() as cursor, path.open("wb") as file:
            cursor.copy_expert(f"COPY ({select}) TO STDOUT (FORMAT csv)", file)
    finally:
        connection.close()


def _comparison(path: Path, first: int, last: int) -> str:
    """SQL: how many rows there are on both sides, then for each column how many of them differ."""
    kinds = ", ".join(f"'e{i}': 'VARCHAR'" for i in range(len(COLUMNS)))
    differs = ["e.changed_at IS DISTINCT FROM t.changed_at"] + [
        f"{text.expected.format(f'e.e{i}')} IS DISTINCT FROM {_unless_null(text.duckdb, f't.{NAMES[kind]}')}"
        for i, (kind, (_, text)) in enumerate(COLUMNS.items())
    ]
    counts = ", ".join(f"count(*) FILTER (WHERE {sql})" for sql in differs)
    return (
        f"SELECT count(*), {counts} FROM read_csv('{path}', header = false, auto_detect = false, delim = ',', quote = '\"', "
        f"columns = {{'id': 'BIGINT', 'changed_at': 'TIMESTAMPTZ', {kinds}}}) AS e "
        f"JOIN (FROM raw.t WHERE id BETWEEN {first} AND {last}) AS t USING (id)"
    )


def _unless_null(template: str, value: str) -> str:
    return f"CASE WHEN {value} IS NOT NULL THEN {template.format(value)} END"


def _without_counterpart(source: PostgresSource) -> int:
    terms = [f"count({NAMES[k]}) - count({COLUMNS[k][1].postgres.format(NAMES[k])})" for k in COUNTED]
    ((count,),) = source.fetch(f"SELECT {' + '.join(terms)} FROM everything")
    return int(count)


def test_every_value_of_every_type_is_the_same_after_replace_and_after_merge(
    source: PostgresSource, tmp_path: Path
) -> None:
    replaced = _load(source, tmp_path, LoadMode.REPLACE)
    assert (replaced.rows_read, replaced.rows_inserted) == (ROWS, ROWS)
    assert replaced.counts["non_finite_values"] == _without_counterpart(source) > 0
    assert _differences(source, tmp_path, ROWS) == {}

    # the same rows again, now by key: what differs from what is there would count as updated
    again = _load(source, tmp_path, LoadMode.MERGE)
    assert (again.rows_read, again.rows_inserted, again.rows_updated) == (ROWS, 0, 0)

    _change(source)
    merged = _load(source, tmp_path, LoadMode.MERGE)
    assert (merged.rows_inserted, merged.rows_updated) == (ADDED, CHANGED)
    assert merged.rows_read < ADDED + CHANGED + 10
    assert _differences(source, tmp_path, ROWS + ADDED) == {}


def _change(source: PostgresSource) -> None:
    """Add rows, and give some all over the table the values of other rows."""
    now = "'2024-06-01'::timestamptz + i * interval '1 second'"
    source.run(f"INSERT INTO everything {_rows(ROWS + 1, ROWS + ADDED, now)}")
    names = ", ".join(NAMES.values())
    source.run(
        f"UPDATE everything AS e SET (changed_at, {names}) = (SELECT '2024-06-01'::timestamptz + e.id * interval '1 second', {names} "
        f"FROM everything AS other WHERE other.id = {ROWS + 1} - e.id) "
        f"WHERE id % {ROWS // CHANGED} = 0 AND id <= {ROWS // CHANGED * CHANGED}"
    )
