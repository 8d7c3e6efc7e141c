"""Every PostgreSQL type arrives as its canonical type and with its value; NULL and what has no counterpart is NULL."""

import json
import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.extras import execute_values

from elt_dagster.errors import SourceError
from elt_dagster.model.types import type_name
from tests import servers
from tests.integration.postgres_source import PostgresSource, counted

AS_TEXT = object()
"""Expect what PostgreSQL itself calls the value: its ``::text``, fetched by another driver."""
NOON = datetime(2024, 2, 29, 12, 30, 15, 123456)

# SQL type, literal, canonical type, value
CASES: list[tuple[str, str, str, Any]] = [
    ("bool", "true", "bool", True),
    ("bool", "false", "bool", False),
    ("smallint", "'-32768'", "int16", -32768),
    ("integer", "'-2147483648'", "int32", -(2**31)),
    ("bigint", "'-9223372036854775808'", "int64", -(2**63)),
    ("bigint", "9223372036854775807", "int64", 2**63 - 1),
    ("oid", "4294967295", "int64", 2**32 - 1),
    ("xid", "'4294967295'", "int64", 2**32 - 1),
    ("real", "'3.4028235e38'", "float", 3.4028234663852886e38),
    ("real", "'0.1'", "float", 0.10000000149011612),
    ("double precision", "'0.1'", "double", 0.1),
    ("double precision", "'5e-324'", "double", 5e-324),
    ("double precision", "'1.7976931348623157e308'", "double", 1.7976931348623157e308),
    ("double precision", "'Infinity'", "double", math.inf),
    ("double precision", "'-Infinity'", "double", -math.inf),
    ("numeric(10,2)", "'-12345678.90'", "decimal(10,2)", Decimal("-12345678.90")),
    ("numeric(38,0)", "'" + "9" * 38 + "'", "decimal(38,0)", Decimal("9" * 38)),
    ("numeric(38,38)", "'0." + "1" * 38 + "'", "decimal(38,38)", Decimal("0." + "1" * 38)),
    ("numeric(39,2)", "'" + "9" * 37 + ".25'", "string", "9" * 37 + ".25"),
    ("numeric(5,-2)", "'12345'", "string", "12300"),
    ("numeric(2,4)", "'0.0012'", "string", "0.0012"),
    ("numeric", "'1.50'", "string", "1.50"),
    ("numeric", "'NaN'", "string", "NaN"),
    ("money", "'-1234.56'", "decimal(19,2)", Decimal("-1234.56")),
    ("money", "'92233720368547758.07'", "decimal(19,2)", Decimal("92233720368547758.07")),
    ("text", "''", "string", ""),
    ("text", r"E'a\\b \"q\" ''x'' \n\r\t, NULL \\N \\.'", "string", "a\\b \"q\" 'x' \n\r\t, NULL \\N \\."),
    ("text", "'żółć 漢字 🦆'", "string", "żółć 漢字 🦆"),
    ("varchar(10)", "'NULL'", "string", "NULL"),
    ("char(5)", "'ab'", "string", "ab   "),
    ("name", "'n'", "string", "n"),
    ('"char"', "'c'", "string", "c"),
    ("bytea", r"'\x00ff10deadbeef'", "binary", bytes.fromhex("00ff10deadbeef")),
    ("bytea", "''", "binary", b""),
    ("date", "'2024-02-29'", "date", date(2024, 2, 29)),
    ("date", "'0001-01-01'", "date", date(1, 1, 1)),
    ("date", "'9999-12-31'", "date", date(9999, 12, 31)),
    ("date", "'infinity'", "date", None),
    ("date", "'-infinity'", "date", None),
    ("date", "'0044-03-15 BC'", "date", None),
    ("date", "'10000-01-01'", "date", None),
    ("time", "'23:59:59.999999'", "time", time(23, 59, 59, 999999)),
    ("time", "'24:00:00'", "time", None),
    ("timetz", "'12:30:15.5+05:30'", "string", "12:30:15.5+05:30"),
    ("timestamp", "'2024-02-29 12:30:15.123456'", "timestamp", NOON),
    ("timestamp(0)", "'2024-02-29 12:30:15'", "timestamp", NOON.replace(microsecond=0)),
    ("timestamp", "'infinity'", "timestamp", None),
    ("timestamp", "'0044-03-15 12:00 BC'", "timestamp", None),
    ("timestamptz", "'2024-02-29 14:30:15.123456+02'", "timestamp_utc", NOON.replace(tzinfo=UTC)),
    ("timestamptz", "'-infinity'", "timestamp_utc", None),
    ("timestamptz", "'20000-01-01 00:00+00'", "timestamp_utc", None),
    ("interval", "'1 year 2 mons -3 days 04:05:06.789'", "interval", (14, -3, 14706789000000)),
    ("interval", "'-1 year 2 mons 3 days -00:00:00.000001'", "interval", (-10, 3, -1000)),
    ("interval", "'0'", "interval", (0, 0, 0)),
    ("interval", "'100 hours'", "interval", (0, 0, 360_000 * 10**9)),
    ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "uuid", UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
    ("json", """'{"a":  [1, null, "x\\n"]}'""", "json", '{"a":  [1, null, "x\\n"]}'),
    ("json", "'null'", "json", "null"),
    ("jsonb", """'{"b": 1.50, "a": "é"}'""", "json", '{"a": "é", "b": 1.50}'),
    ("integer[]", "'{1,NULL,3}'", "json", [1, None, 3]),
    ("integer[][]", "'{{1,2},{3,4}}'", "json", [[1, 2], [3, 4]]),
    ("text[]", """'{"a,b","c\\"d",""}'""", "json", ["a,b", 'c"d', ""]),
    ("text[]", "'{}'", "json", []),
    ("point_in_space", "ROW(1, 'x,y', ARRAY[1.5])", "json", {"x": 1, "label": "x,y", "more": [1.5]}),
    ("point_in_space[]", "ARRAY[ROW(1, NULL, NULL)::point_in_space]", "json", [{"x": 1, "label": None, "more": None}]),
    ("hstore", """'a=>1, "b c"=>NULL'""", "json", {"a": "1", "b c": None}),
    ("mood", "'so, so'", "string", "so, so"),
    ("mood[]", "ARRAY['ok']::mood[]", "json", ["ok"]),
    ("price", "'12.50'", "decimal(8,2)", Decimal("12.50")),
    ("discount", "'2.50'", "decimal(8,2)", Decimal("2.50")),
    ("tags", "'{a,b}'", "json", ["a", "b"]),
    ("citext", "'CaSe'", "string", "CaSe"),
    ("int4range", "'[1,5)'", "string", "[1,5)"),
    ("tstzrange", "'[2024-01-01 00:00+00,)'", "string", AS_TEXT),
    ("int4multirange", "'{[1,3),[5,7)}'", "string", "{[1,3),[5,7)}"),
    ("inet", "'192.168.0.1/24'", "string", "192.168.0.1/24"),
    ("cidr", "'10.0.0.0/8'", "string", "10.0.0.0/8"),
    ("macaddr", "'08:00:2b:01:02:03'", "string", "08:00:2b:01:02:03"),
    ("macaddr8", "'08:00:2b:01:02:03:04:05'", "string", "08:00:2b:01:02:03:04:05"),
    ("bit(4)", "B'1010'", "string", "1010"),
    ("bit varying", "B'101'", "string", "101"),
    ("xml", "'<a>&amp;</a>'", "string", "<a>&amp;</a>"),
    ("point", "'(1.5,-2)'", "string", "(1.5,-2)"),
    ("box", "'(1,1),(0,0)'", "string", AS_TEXT),
    ("tsvector", "'a fat cat'", "string", AS_TEXT),
    ("tsquery", "'fat & rat'", "string", AS_TEXT),
    ("pg_lsn", "'16/B374D848'", "string", "16/B374D848"),
    ("xid8", "'18446744073709551615'", "string", "18446744073709551615"),
    ("regclass", "'pg_class'", "string", "pg_class"),
    ("jsonpath", "'$.a'", "string", AS_TEXT),
]
LOST = sum(expected is None for *_, expected in CASES)
_TYPES = """
CREATE EXTENSION hstore; CREATE EXTENSION citext;
CREATE TYPE point_in_space AS (x int, label text, more numeric[]); CREATE TYPE mood AS ENUM ('ok', 'so, so');
CREATE DOMAIN price AS numeric(8,2) CHECK (VALUE >= 0); CREATE DOMAIN discount AS price NOT NULL; CREATE DOMAIN tags AS text[];
"""


@pytest.fixture(scope="module")
def source(postgres_server: str) -> Iterator[PostgresSource]:
    with servers.database() as url:
        source = PostgresSource(url)
        source.run(_TYPES)
        columns = ", ".join(f"c{i} {case[0].replace('discount', 'price')}" for i, case in enumerate(CASES))
        source.run(f"CREATE TABLE everything (id int PRIMARY KEY, {columns})")
        source.run(f"INSERT INTO everything VALUES (1, {', '.join(f'{c[1]}' for c in CASES)})")
        source.run("INSERT INTO everything VALUES (2)")
        yield source
        source.close()


@pytest.fixture(scope="module")
def everything(source: PostgresSource) -> pa.Table:
    return source.table("public.everything").sort_by("id")


@pytest.mark.parametrize("index", range(len(CASES)), ids=[f"{c[0]} {c[1][:20]}" for c in CASES])
def test_value_and_type(source: PostgresSource, everything: pa.Table, index: int) -> None:
    _, _, kind, expected = CASES[index]
    column = everything.column(f"c{index}")
    value, missing = column.to_pylist()
    if expected is AS_TEXT:
        ((expected,),) = source.fetch(f"SET TimeZone = 'UTC'; SELECT c{index}::text FROM everything WHERE id = 1")
    if kind == "json" and not isinstance(expected, str):
        value = json.loads(value)
    assert (type_name(column.type), value, missing) == (kind, expected, None)


def test_the_catalog_promises_the_types_that_are_read(source: PostgresSource, everything: pa.Table) -> None:
    promised = source.connector().discover()["public.everything"].schema
    assert promised is not None
    assert [(f.name, f.type) for f in promised] == [(f.name, f.type) for f in everything.schema]


def test_a_nan_float_survives(source: PostgresSource) -> None:
    source.run("CREATE TABLE floats (a float8, b float4); INSERT INTO floats VALUES ('NaN', 'NaN')")
    (row,) = source.table("public.floats").to_pylist()
    assert math.isnan(row["a"])
    assert math.isnan(row["b"])


def test_what_has_no_counterpart_is_counted(source: PostgresSource) -> None:
    assert counted(source.batches("public.everything"), "non_finite_values") == LOST
    source.run("CREATE TABLE nans (n numeric(8,2)); INSERT INTO nans VALUES ('NaN'), (1.5), (NULL), ('NaN')")
    batches = source.batches("public.nans")
    assert counted(batches, "non_finite_values") == 2
    assert batches[0].data.column("n").to_pylist() == [None, Decimal("1.50"), None, None]


def test_domains_over_domains_keep_precision(source: PostgresSource) -> None:
    source.run("CREATE TABLE offers (d discount); INSERT INTO offers VALUES (2.5)")
    assert source.table("public.offers").column("d").to_pylist() == [Decimal("2.50")]


@pytest.mark.parametrize(
    ("policy", "values"),
    [
        ("text", ["1.50", "NaN", "Infinity", "1" + "0" * 20 + ".0000000001"]),
        ("decimal(38,9)", [Decimal("1.5"), None, None, Decimal(10**20)]),
        ("double", [1.5, "nan", math.inf, 1e20]),
    ],
)
def test_numeric_without_precision_follows_the_setting(source: PostgresSource, policy: str, values: list[Any]) -> None:
    source.run("CREATE TABLE IF NOT EXISTS wild (n numeric); TRUNCATE wild")
    source.run("INSERT INTO wild VALUES ('1.50'), ('NaN'), ('Infinity'), (100000000000000000000.0000000001)")
    read = source.table("public.wild", settings={"unconstrained_numeric": policy}).column("n").to_pylist()
    assert [("nan" if isinstance(v, float) and math.isnan(v) else v) for v in read] == values


def test_a_number_too_large_for_the_chosen_decimal_is_an_error_without_the_number(source: PostgresSource) -> None:
    source.run(f"CREATE TABLE huge (n numeric); INSERT INTO huge VALUES ('{'7' * 40}')")
    with pytest.raises(SourceError) as caught:
        source.table("public.huge", settings={"unconstrained_numeric": "decimal(38,9)"})
    assert "'n'" in str(caught.value)
    assert "777" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_single_column_tells_null_from_empty(source: PostgresSource) -> None:
    source.run(r"CREATE TABLE single (t text); INSERT INTO single VALUES (''), (NULL), ('\.'), (NULL), (E'\n')")
    assert source.table("public.single").column("t").to_pylist() == ["", None, "\\.", None, "\n"]


# PostgreSQL has no NUL character; lone surrogates are not UTF-8
_TEXT = st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(_TEXT, _TEXT, st.none() | st.binary(max_size=20)), min_size=1, max_size=20))
def test_any_text_and_bytes_arrive_unchanged(source: PostgresSource, rows: list[tuple[Any, ...]]) -> None:
    source.run("DROP TABLE IF EXISTS anything; CREATE TABLE anything (n int, a text, b text, c bytea)")
    with source.transaction() as cursor:
        execute_values(cursor, "INSERT INTO anything VALUES %s", [(i, *row) for i, row in enumerate(rows)])
    read = source.table("public.anything").sort_by("n").drop_columns(["n"])
    assert [tuple(r.values()) for r in read.to_pylist()] == rows


def test_a_value_of_50_megabytes_arrives_whole(source: PostgresSource) -> None:
    source.run("""CREATE TABLE large (id int, t text);
        INSERT INTO large SELECT 1, repeat(E'a"b\nc,', 50 * 1024 * 1024 / 6); INSERT INTO large VALUES (2, 'small')""")
    first, second = sorted(source.table("public.large").to_pylist(), key=lambda r: r["id"])
    assert first["t"] == 'a"b\nc,' * (50 * 1024 * 1024 // 6)
    assert second["t"] == "small"
