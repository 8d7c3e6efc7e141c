"""Values that PostgreSQL takes in no column of their type, found in Arrow: asked only for rows that a COPY was refused for."""

import json
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

import pyarrow as pa

from elt_dagster.destinations._postgres_types import representable
from elt_dagster.destinations.base import DELETED_AT
from elt_dagster.model.compute import pc
from elt_dagster.model.types import JSON, type_name

NUL_IN_JSON = r"((?:^|[^\\])(?:\\\\)*)(?:\\u0000)+"
_FIRST_DAY, _LAST_DAY = -2_440_588, 2_145_042_905  # 4713 BC and 5874897 AD, counted from 1970
_FIRST_MICROSECOND = -210_866_803_200_000_000
_DAY_MICROSECONDS = 86_400_000_000


def unstorable(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """By column: which rows of ``batch`` (canonical types) hold a value that the server would refuse; only columns that have some.

    https://www.postgresql.org/docs/current/datatype-datetime.html has the ranges.
    """
    found = {f.name: _refused(values) for f, values in zip(batch.schema, batch.columns, strict=True)}
    return {name: mask for name, mask in found.items() if mask is not None and pc.any(mask).as_py()}


def spared(
    batch: pa.RecordBatch, wrong: Mapping[str, pa.Array], keys: Collection[str]
) -> tuple[pa.RecordBatch, dict[str, pa.Array]]:
    """``batch`` and what is wrong in it, with values at fault made NULL where a row is only there to delete another: of it, nothing but the key counts."""
    deleted = batch.column(DELETED_AT).is_valid()
    left = dict(wrong)
    for name in wrong.keys() - set(keys):
        index = batch.schema.get_field_index(name)
        values = batch.column(index)
        places = pc.if_else(pc.and_(wrong[name], deleted), pa.scalar(None, pa.int64()), pa.array(range(len(values))))
        kept = values.take(places)  # not if_else, which knows no JSON
        batch = batch.set_column(index, batch.schema.field(index), kept)
        left[name] = pc.and_not(wrong[name], deleted)
    return batch, {name: mask for name, mask in left.items() if pc.any(mask).as_py()}


def reasons(wrong: Mapping[str, pa.Array], schema: pa.Schema) -> pa.Array:
    """For each row the columns of ``wrong`` that are at fault, with their types."""
    names = [
        pc.if_else(mask, pa.scalar(reason(schema.field(name))), pa.scalar(None, pa.string()))
        for name, mask in wrong.items()
    ]
    return pc.binary_join_element_wise(*names, "; ", null_handling="skip")


def reason(field: pa.Field) -> str:
    """A column at fault, in words; see `elt_dagster.destinations._postgres_rejected.columns_at_fault`."""
    return f"{field.name} does not fit {type_name(representable(field.type))}"


def loosened(batch: pa.RecordBatch, names: Mapping[str, Any]) -> pa.RecordBatch:
    """``batch`` with the columns ``names`` as text that PostgreSQL can hold; a NUL is shown as ``\\u0000``."""
    fields, columns = [], []
    for field, values in zip(batch.schema, batch.columns, strict=True):
        if field.name in names:
            text = values.storage if values.type == JSON else values.cast(pa.string())
            values = pc.replace_substring(text, "\0", "\\u0000")  # noqa: PLW2901
        fields.append(pa.field(field.name, values.type))
        columns.append(values)
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def may_be_refused(kind: pa.DataType) -> bool:
    """Whether columns of this type have values that the server refuses."""
    t = pa.types
    return bool(kind == JSON or t.is_string(kind) or t.is_temporal(kind))


def _refused(values: pa.Array) -> pa.Array | None:
    t, kind = pa.types, values.type
    if kind == JSON:
        text = values.storage
        return pc.fill_null(pc.or_(pc.match_substring_regex(text, NUL_IN_JSON), _is_no_json(text)), False)
    if t.is_string(kind):
        return pc.fill_null(pc.match_substring(values, "\0"), False)
    if t.is_date32(kind):
        return _outside(values.view(pa.int32()), _FIRST_DAY, _LAST_DAY)
    if t.is_timestamp(kind) and kind.unit == "us":
        return _outside(values.view(pa.int64()), _FIRST_MICROSECOND, None)
    if t.is_time(kind):
        return _outside(values.view(pa.int64()), 0, _DAY_MICROSECONDS)
    return None


def _outside(numbers: pa.Array, first: int, last: int | None) -> pa.Array:
    below = pc.less(numbers, pa.scalar(first, numbers.type))
    found = below if last is None else pc.or_(below, pc.greater(numbers, pa.scalar(last, numbers.type)))
    return pc.fill_null(found, False)


def _is_no_json(text: pa.Array) -> pa.Array:
    return pa.array([value is not None and not _is_json(value) for value in text.to_pylist()], pa.bool_())


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        return True  # deeper than Python goes: the server shall say
    except ValueError:
        return False
    return True


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
