"""Canonical types: their text form, what they fold, and which can be a cursor."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elt_dagster.errors import ConfigError
from elt_dagster.model.types import (
    JSON,
    UUID,
    canonical,
    column,
    description_of,
    is_orderable,
    parse_type,
    schema_from_json,
    schema_to_json,
    type_name,
)

CANONICAL = [
    pa.bool_(), pa.int8(), pa.int64(), pa.uint64(), pa.float32(), pa.float64(), pa.decimal128(12, 2), pa.string(), JSON, UUID,
    pa.binary(), pa.date32(), pa.time64("us"), pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.timestamp("ns"),
    pa.month_day_nano_interval(), pa.null(),
]  # fmt: skip


@pytest.mark.parametrize("kind", CANONICAL, ids=str)
def test_a_canonical_type_stays_itself_and_survives_its_name(kind: pa.DataType) -> None:
    assert canonical(kind) == kind
    assert parse_type(type_name(kind)) == kind


@pytest.mark.parametrize(
    ("kind", "becomes"),
    [
        (pa.large_string(), pa.string()),
        (pa.dictionary(pa.int8(), pa.string()), pa.string()),
        (pa.float16(), pa.float32()),
        (pa.binary(16), pa.binary()),
        (pa.list_(pa.int32()), JSON),
        (pa.struct([("a", pa.int8())]), JSON),
        (pa.date64(), pa.date32()),
        (pa.timestamp("s", "Europe/Copenhagen"), pa.timestamp("us", "UTC")),
        (pa.timestamp("ns", "+02:00"), pa.timestamp("ns", "UTC")),
        (pa.decimal256(60, 2), pa.string()),
        (pa.duration("ms"), pa.month_day_nano_interval()),
        (pa.time32("s"), pa.time64("us")),
    ],
    ids=str,
)
def test_other_types_are_folded(kind: pa.DataType, becomes: pa.DataType) -> None:
    assert canonical(kind) == becomes


@given(st.lists(st.sampled_from(CANONICAL), max_size=8), st.text(max_size=20))
def test_schemas_survive_the_store(kinds: list[pa.DataType], description: str) -> None:
    schema = pa.schema(
        [
            column(f"c{i}", k, nullable=i % 2 == 0 or k == pa.null(), description=description)
            for i, k in enumerate(kinds)
        ]
    )
    back = schema_from_json(schema_to_json(schema))
    assert back.equals(schema)
    assert [description_of(f) for f in back] == [description] * len(kinds)


def test_what_has_no_order_cannot_be_a_cursor() -> None:
    assert not any(is_orderable(k) for k in (JSON, UUID, pa.bool_(), pa.binary(), pa.month_day_nano_interval()))
    assert all(is_orderable(k) for k in (pa.int64(), pa.timestamp("us"), pa.string(), pa.date32(), pa.decimal128(9, 2)))


def test_a_misspelt_type_gets_a_hint() -> None:
    with pytest.raises(ConfigError, match="timestamp_utc"):
        parse_type("timestamp_utz")
