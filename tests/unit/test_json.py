"""JSON to Arrow: nothing is lost, whatever the pages hold."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elt_dagster.errors import ConfigError, SourceError
from elt_dagster.model.types import JSON, TIMESTAMP, TIMESTAMP_UTC, parse_type
from elt_dagster.sdk import Document, JsonParser, parse_path
from elt_dagster.sdk.json_types import widen


def schema(**columns: str) -> pa.Schema:
    return pa.schema([(name, parse_type(kind)) for name, kind in columns.items()])


def parsed(*pages: Any, at: str = "", known: pa.Schema | None = None, **more: Any) -> pa.RecordBatch:
    with JsonParser(known, at, **more) as parser:
        return parser.parse([p if isinstance(p, bytes) else json.dumps(p).encode() for p in pages])


def column(values: list[Any], kind: str | None = None) -> pa.Array:
    """The column that ``values`` become; declared as ``kind``, or inferred."""
    return parsed([{"c": v} for v in values], known=schema(c=kind) if kind else None).column(0)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, None, -2], pa.int64(), [1, None, -2]),
        ([1, 2.5], pa.float64(), [1.0, 2.5]),
        ([True, None], pa.bool_(), [True, None]),
        (["a", None], pa.string(), ["a", None]),
        ([1, "a"], pa.string(), ["1", "a"]),
        ([True, 1], pa.string(), ["true", "1"]),
        (["1", "2"], pa.string(), ["1", "2"]),
        ([None, None], pa.null(), [None, None]),
        ([2**63, 1], pa.decimal128(38, 0), [Decimal(2**63), Decimal(1)]),
        ([10**40, 1], pa.string(), [str(10**40), "1"]),
        ([9007199254740993], pa.int64(), [9007199254740993]),
        ([[1, 2], None], JSON, ["[1,2]", None]),
        ([{"a": None}, 5, "x"], JSON, ['{"a":null}', "5", '"x"']),
        (["2024-01-01T00:00:00Z", None, "2024-01-01T02:00:00.5+02:00"], TIMESTAMP_UTC,
         [datetime(2024, 1, 1, tzinfo=UTC), None, datetime(2024, 1, 1, 0, 0, 0, 500000, tzinfo=UTC)]),
        (["2024-01-01T10:00:00", "2024-01-01 10:00:00"], TIMESTAMP, [datetime(2024, 1, 1, 10)] * 2),
        (["2024-01-01T10:00:00", "2024-01-01T10:00:00Z"], pa.string(), ["2024-01-01T10:00:00", "2024-01-01T10:00:00Z"]),
        (["2024-02-29", None], pa.date32(), [date(2024, 2, 29), None]),
        (["2023-02-29"], pa.string(), ["2023-02-29"]),
        (["2024-01-01", ""], pa.string(), ["2024-01-01", ""]),
        (["6f1c1f9e-0000-4000-8000-000000000000"], pa.string(), ["6f1c1f9e-0000-4000-8000-000000000000"]),
    ],
)  # fmt: skip
def test_types_are_inferred_from_every_value(values: list[Any], kind: pa.DataType, expected: list[Any]) -> None:
    found = column(values)
    assert found.type == kind
    assert found.to_pylist() == expected


@pytest.mark.parametrize(
    ("kind", "values", "wider", "expected"),
    [
        ("int64", [1, "x"], "string", ["1", "x"]),
        ("int64", [1, 1.5], "double", [1.0, 1.5]),
        ("int8", [1, 300], "int64", [1, 300]),
        ("int64", [2**64], "decimal(38,0)", [Decimal(2**64)]),
        ("int64", [1, True], "string", ["1", "true"]),
        ("int64", ["007"], "string", ["007"]),
        ("int64", ["7"], "int64", [7]),
        ("int64", [1, {"a": 1}], "json", ["1", '{"a":1}']),
        ("bool", [True, 1], "string", ["true", "1"]),
        ("double", ["1.5", 2], "double", [1.5, 2.0]),
        ("double", ["n/a"], "string", ["n/a"]),
        ("decimal(5,2)", [1.25, "3.5"], "decimal(5,2)", [Decimal("1.25"), Decimal("3.50")]),
        ("decimal(5,2)", [1.255], "double", [1.255]),
        ("decimal(5,2)", [123456], "decimal(38,0)", [Decimal(123456)]),
        ("date", ["2024-01-01T10:00:00Z"], "string", ["2024-01-01T10:00:00Z"]),
        ("timestamp", ["2024-01-01T10:00:00+02:00"], "string", ["2024-01-01T10:00:00+02:00"]),
        ("timestamp_utc", ["soon", None], "string", ["soon", None]),
        ("timestamp_utc", [1700000000], "string", ["1700000000"]),
        ("null", [1, None], "int64", [1, None]),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_widens_its_column(
    kind: str, values: list[Any], wider: str, expected: list[Any]
) -> None:
    found = column(values, kind)
    assert found.type == parse_type(wider)
    assert found.to_pylist() == expected


def test_later_batches_may_have_more_columns_but_never_fewer() -> None:
    with JsonParser() as parser:
        first = parser.parse([b'[{"a": 1}]'])
        second = parser.parse([b'[{"b": "x"}]', b'[{"a": "y", "c": [1]}]'])
        third = parser.parse([b'[{"a": 5}]'])
    assert first.schema == pa.schema([("a", pa.int64())])
    assert second.schema == pa.schema([("a", pa.string()), ("b", pa.string()), ("c", JSON)])
    assert second.to_pylist() == [{"a": None, "b": "x", "c": None}, {"a": "y", "b": None, "c": "[1]"}]
    assert third.schema == second.schema
    assert third.to_pylist() == [{"a": "5", "b": None, "c": None}]


def test_rows_know_the_page_they_came_from() -> None:
    with JsonParser(None, "d") as parser:
        batch, origin = parser.parse_with_origin([b'{"d": [{"a": 1}, {"a": 2}]}', b'{"d": []}', b'{"d": [{"a": 3}]}'])
    assert origin.to_pylist() == [0, 0, 2]
    assert batch.column(0).to_pylist() == [1, 2, 3]


def test_only_wanted_columns_and_drift_come() -> None:
    page = [{"a": 1, "b": 2, "new": 3}]
    assert parsed(page, known=schema(a="int64", b="int64"), columns=("b",)).to_pylist() == [{"b": 2, "new": 3}]
    assert parsed(page, columns=("b", "zz")).to_pylist() == [{"b": 2, "zz": None}]


def test_odd_keys_survive() -> None:
    row = {"a": 1, "A": "x", "": 2, "it's": 3, 'q"t': 4, "æ ø": 5, "a.b": 6, "$x": 7, "select": 8, "back\\slash": 9}
    assert parsed([row]).to_pylist() == [row]


@pytest.mark.parametrize(
    ("page", "at", "expected"),
    [
        ({"id": 1}, "", [{"id": 1}]),
        (5, "", [{"value": 5}]),
        (["a", None, "b"], "", [{"value": "a"}, {"value": "b"}]),
        (None, "", []),
        ({"d": {"id": 1}}, "d", [{"id": 1}]),
        ({"d": None}, "d", []),
        ({}, "d", []),
        ({"d": [[{"id": 1}], [{"id": 2}]]}, "d[1]", [{"id": 2}]),
        ({"d": {"edges": [{"node": {"id": 1}}, {"node": {"id": 2}}]}}, "$.d.edges[*].node", [{"id": 1}, {"id": 2}]),
        ({"d": {"x": {"id": 1}, "y": {"id": 2}}}, "d.*", [{"id": 1}, {"id": 2}]),
        ({"a.b": {"c": [{"id": 1}]}}, '"a.b".c', [{"id": 1}]),
    ],
)
def test_records_are_found(page: Any, at: str, expected: list[dict[str, Any]]) -> None:
    assert parsed(page, at=at).to_pylist() == expected
    assert Document(json.dumps(page).encode()).size(at) >= len(expected)


@pytest.mark.parametrize("path", ["a[x]", "a[1", '"a', "a..b", "[-]"])
def test_a_broken_path_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="not a path"):
        parse_path(path)


def test_a_document_shows_single_values() -> None:
    document = Document(b'\xef\xbb\xbf {"a": {"b": [1, {"c": "x"}]}, "@odata.nextLink": "l", "n": null} ')
    assert document.at("a.b[1].c") == "x"
    assert document.at("a.b[-1].c") == "x"
    assert document.at("@odata.nextLink") == "l"
    assert document.at("a.b") == [1, {"c": "x"}]
    assert (document.at("n"), document.at("a.zz"), document.at("a.b[7]"), document.at("a.b.c")) == (None,) * 4
    assert document.last("a.b", "c") == "x"


def test_what_json_does_not_know_becomes_null_and_is_counted() -> None:
    document = Document(b'[{"a": NaN, "b": [Infinity, 1], "big": 123456789012345678901234567890, "c": 1e400}]')
    assert document.non_finite == 3
    assert parsed(document.content).to_pylist() == [
        {"a": None, "b": "[null,1]", "big": Decimal("123456789012345678901234567890"), "c": None}
    ]


def test_half_a_surrogate_pair_does_not_stop_a_read() -> None:
    assert parsed(Document(b'[{"a": "x\\ud800"}]').content).to_pylist() == [{"a": "x?"}]


@pytest.mark.parametrize("content", [b"<html>", b'{"secret-row": ', b"\xff\xfe", b"[1,]x"])
def test_what_is_not_json_is_an_error_that_does_not_quote_it(content: bytes) -> None:
    with pytest.raises(SourceError) as caught:
        Document(content)
    assert "secret-row" not in str(caught.value)


def test_too_many_keys_are_an_error() -> None:
    with pytest.raises(SourceError, match="records_at"):
        parsed({str(i): i for i in range(2001)})


def test_widening_follows_the_ladder() -> None:
    null, integer, double, text = pa.null(), pa.int64(), pa.float64(), pa.string()
    assert [widen(null, integer), widen(integer, null)] == [integer, integer]
    assert [widen(integer, double), widen(double, integer)] == [double, double]
    assert [widen(integer, text), widen(text, JSON), widen(TIMESTAMP_UTC, pa.date32())] == [text, JSON, text]


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
)
records = st.lists(st.dictionaries(st.sampled_from(["a", "b", "C"]), scalars, max_size=3), max_size=5)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(records, min_size=1, max_size=3))
def test_every_value_of_every_record_arrives(pages: list[list[dict[str, Any]]]) -> None:
    rows = parsed(*pages).to_pylist()
    wanted = [r for p in pages for r in p]
    assert len(rows) == len(wanted)
    for got, row in zip(rows, wanted, strict=True):
        for name, value in row.items():
            assert got[name] == value or got[name] == (json.dumps(value) if isinstance(value, bool) else str(value))
