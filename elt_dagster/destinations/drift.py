"""What a table's columns become when the source's differ: a pure decision, the same for every warehouse.

Types widen along null < bool < int < decimal < double < text < json. Dates widen to timestamps, microseconds to nanoseconds (a value
before 1677 or after 2262 then refuses). Whatever
else meets becomes text; bytes meet nothing but bytes. An integer column that meets fractions becomes double, as the chain says, and so keeps
53 bits; decimals that need more than 38 digits together become text, which keeps every digit.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from elt_dagster.errors import DestinationError, DriftError
from elt_dagster.model import SchemaDrift
from elt_dagster.model.run import SchemaChange
from elt_dagster.model.types import JSON, MAX_DECIMAL_DIGITS, type_name

_DIGITS = {8: 3, 16: 5, 32: 10, 64: 19}
_SIGNED = {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}
OURS = "_elt_"
"""Columns and tables whose names start so are ours: they never count as a difference between source and table."""


def widen(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    """The narrowest canonical type that holds the values of both canonical types; None if no type does."""
    t = pa.types
    if first == second or t.is_null(second):
        return first
    if t.is_null(first):
        return second
    if t.is_binary(first) or t.is_binary(second):
        return None
    if JSON in (first, second):
        return JSON
    if _is_number(first) and _is_number(second):
        return _wider_number(first, second)
    return _wider_time(first, second) or pa.string()


def _is_number(kind: pa.DataType) -> bool:
    t = pa.types
    return bool(t.is_boolean(kind) or t.is_integer(kind) or t.is_decimal(kind) or t.is_floating(kind))


def _wider_number(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    t = pa.types
    if t.is_floating(first) or t.is_floating(second):
        return pa.float64()
    if t.is_decimal(first) or t.is_decimal(second):
        scale = max(_scale(first), _scale(second))
        precision = scale + max(_whole_digits(first), _whole_digits(second))
        return pa.decimal128(precision, scale) if precision <= MAX_DECIMAL_DIGITS else pa.string()
    if t.is_boolean(first) or t.is_boolean(second):
        return second if t.is_boolean(first) else first
    return _wider_integer(first, second)


def _wider_integer(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    t = pa.types
    if t.is_signed_integer(first) == t.is_signed_integer(second):
        return max(first, second, key=lambda kind: kind.bit_width)
    signed, unsigned = (first, second) if t.is_signed_integer(first) else (second, first)
    width = max(signed.bit_width, unsigned.bit_width * 2)
    return _SIGNED[width] if width in _SIGNED else pa.decimal128(20, 0)


def _scale(kind: pa.DataType) -> int:
    return kind.scale if pa.types.is_decimal(kind) else 0


def _whole_digits(kind: pa.DataType) -> int:
    if pa.types.is_decimal(kind):
        return int(kind.precision - kind.scale)
    if pa.types.is_boolean(kind):
        return 1
    return 20 if kind == pa.uint64() else _DIGITS[kind.bit_width]


def _wider_time(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    t = pa.types
    if t.is_timestamp(first) and t.is_timestamp(second):
        return pa.timestamp("ns", first.tz) if first.tz == second.tz else None
    for one, other in ((first, second), (second, first)):
        if t.is_date(one) and t.is_timestamp(other) and other.tz is None:
            return other
    return None


@dataclass(frozen=True, slots=True)
class Evolution:
    """What to do to a table: ``columns`` is how it ends, ``added`` and ``widened`` are the columns to alter, by name."""

    columns: pa.Schema
    added: tuple[str, ...] = ()
    widened: tuple[str, ...] = ()
    changes: tuple[SchemaChange, ...] = ()


class Difference(NamedTuple):
    """A column that is not the same in the table and at the source: its type there and here, None where it is missing."""

    column: str
    table: str | None
    source: str | None

    def __str__(self) -> str:
        if self.source is None:
            return f"{self.column}: {self.table} in the table, not wanted"
        return f"{self.column}: {self.table or 'missing'} in the table, {self.source} wanted"


Fold = Callable[[str], str]
"""How a warehouse compares names: two names that fold alike are one column."""


def merged_schema(schemas: Iterable[pa.Schema], fold: Fold, where: str) -> pa.Schema:
    """One schema that holds the rows of all ``schemas``: columns in order of appearance, each as wide as needed.

    Raises DestinationError when two types have no common one, or when one schema has two columns of the same (folded) name.
    """
    fields: dict[str, pa.Field] = {}
    for schema in schemas:
        _refuse_twins(schema, fold, where)
        for field in schema:
            known = fields.get(fold(field.name))
            fields[fold(field.name)] = field if known is None else known.with_type(_wider(known, field, where))
    return pa.schema(list(fields.values()))


def evolve(
    table: pa.Schema | None, planned: pa.Schema, incoming: pa.Schema, drift: SchemaDrift, *,
    rebuild: bool, fold: Fold, where: str,
) -> Evolution:  # fmt: skip
    """How ``table`` (None: not there) takes ``incoming``, which is ``planned`` and what further columns arrived.

    A column in which nothing was ever seen (type null) waits until something is. With ``rebuild`` the table is built anew, so that
    under `evolve` it takes the source's columns as they are now. Raises DestinationError: under `freeze` with every difference,
    otherwise when a column's values fit its type no more.
    """
    if table is None:
        return _new_table(planned, incoming, drift, fold, where)
    if drift is SchemaDrift.FREEZE:
        _refuse_differences(table, incoming, fold, where)
    if drift is not SchemaDrift.EVOLVE:
        _refuse_changed_values(table, incoming, fold, where)
        return Evolution(table)
    return _rebuilt(table, incoming, fold) if rebuild else _altered(table, incoming, fold, where)


def differences(table: pa.Schema, planned: pa.Schema, fold: Fold) -> list[str]:
    """`column_differences` in words."""
    return [str(difference) for difference in column_differences(table, planned, fold)]


def column_differences(table: pa.Schema, planned: pa.Schema, fold: Fold) -> list[Difference]:
    """Every difference in names and types; columns of type null and ``_elt_`` columns differ from nothing."""
    have, want = by_name(table, fold), by_name(planned, fold)
    found = [
        Difference(field.name, _type(have.get(name)), _type(field))
        for name, field in want.items()
        if not pa.types.is_null(field.type) and (name not in have or have[name].type != field.type)
    ]
    return found + [
        Difference(field.name, _type(field), None)
        for name, field in have.items()
        if name not in want and not name.startswith(OURS)
    ]


def by_name(schema: pa.Schema, fold: Fold) -> dict[str, pa.Field]:
    """The fields of ``schema`` by folded name, in order."""
    return {fold(field.name): field for field in schema}


def _new_table(planned: pa.Schema, incoming: pa.Schema, drift: SchemaDrift, fold: Fold, where: str) -> Evolution:
    expected = by_name(planned, fold)
    further = [f for f in incoming if fold(f.name) not in expected and not pa.types.is_null(f.type)]
    if further and drift is SchemaDrift.FREEZE:
        raise _frozen(where, [Difference(f.name, None, _type(f)) for f in further])
    kept = [f for f in incoming if drift is SchemaDrift.EVOLVE or fold(f.name) in expected]
    # A table needs a column: where nothing but NULL was seen in any, text holds whatever comes.
    typed = [f for f in kept if not pa.types.is_null(f.type)] or [f.with_type(pa.string()) for f in kept]
    return Evolution(pa.schema(typed))


def _rebuilt(table: pa.Schema, incoming: pa.Schema, fold: Fold) -> Evolution:
    have = by_name(table, fold)
    fields = [
        field.with_type(have[fold(field.name)].type)
        if pa.types.is_null(field.type) and fold(field.name) in have
        else field
        for field in incoming
    ]
    typed = [f for f in fields if not pa.types.is_null(f.type)] or [f.with_type(pa.string()) for f in fields]
    now = by_name(pa.schema(typed), fold)
    changes = [
        SchemaChange(_change_kind(have.get(name), field), field.name, _type(have.get(name)), _type(field))
        for name, field in now.items()
        if name not in have or have[name].type != field.type
    ]
    removed = [SchemaChange("removed", f.name, _type(f), None) for name, f in have.items() if name not in now]
    return Evolution(pa.schema(typed), changes=(*changes, *removed))


def _altered(table: pa.Schema, incoming: pa.Schema, fold: Fold, where: str) -> Evolution:
    have, arriving = by_name(table, fold), by_name(incoming, fold)
    fields: list[pa.Field] = []
    changes: list[SchemaChange] = []
    for name, field in have.items():
        kind = _wider(field, arriving[name], where) if name in arriving else field.type
        if kind != field.type:
            changes.append(SchemaChange("widened", field.name, _type(field), type_name(kind)))
        metadata = arriving[name].metadata if name in arriving else None
        fields.append(field.with_type(kind).with_metadata(metadata or field.metadata))
    for name, field in arriving.items():
        if name not in have and not pa.types.is_null(field.type):
            changes.append(SchemaChange("added", field.name, None, _type(field)))
            fields.append(field)
    return Evolution(
        pa.schema(fields),
        added=tuple(c.column for c in changes if c.kind == "added"),
        widened=tuple(c.column for c in changes if c.kind == "widened"),
        changes=tuple(changes),
    )


def _refuse_differences(table: pa.Schema, incoming: pa.Schema, fold: Fold, where: str) -> None:
    """A frozen table takes narrower values than its own, and nothing else that is new or gone."""
    have = by_name(table, fold)
    fitting = [
        have[fold(f.name)]
        if fold(f.name) in have and widen(have[fold(f.name)].type, f.type) == have[fold(f.name)].type
        else f
        for f in incoming
    ]
    if found := column_differences(table, pa.schema(fitting), fold):
        raise _frozen(where, found)


def _refuse_changed_values(table: pa.Schema, incoming: pa.Schema, fold: Fold, where: str) -> None:
    """Integers may be tried in a narrower integer column, where one that is too large fails; whatever would round or cut may not."""
    have = by_name(table, fold)
    for field in incoming:
        known = have.get(fold(field.name))
        if known is None or _wider(known, field, where) == known.type:
            continue
        if not (pa.types.is_integer(known.type) and pa.types.is_integer(field.type)):
            raise DriftError(
                f"{where}: column {known.name!r} is {_type(known)} and now gets {_type(field)}.",
                fix="Set schema_drift to evolve, or exclude the column.",
                differences=[Difference(known.name, _type(known), _type(field))],
            )


def _frozen(where: str, found: Sequence[Difference]) -> DriftError:
    return DriftError(
        f"The columns of {where} are frozen and differ from the source: {'; '.join(map(str, found))}.",
        fix="Set schema_drift to evolve or discard, or change the table or the source.",
        differences=found,
    )


def _refuse_twins(schema: pa.Schema, fold: Fold, where: str) -> None:
    seen: dict[str, str] = {}
    for name in schema.names:
        if fold(name) in seen:
            raise DestinationError(
                f"{where}: the columns {seen[fold(name)]!r} and {name!r} are one column to this warehouse.",
                fix="Exclude or rename one of them.",
            )
        seen[fold(name)] = name


def _wider(known: pa.Field, field: pa.Field, where: str) -> pa.DataType:
    kind = widen(known.type, field.type)
    if kind is None:
        raise DriftError(
            f"{where}: column {known.name!r} is {_type(known)} and now gets {_type(field)}; no type holds both.",
            fix="Exclude the column, or load it into a table of another name.",
            differences=[Difference(known.name, _type(known), _type(field))],
        )
    return kind


def _change_kind(before: pa.Field | None, after: pa.Field) -> str:
    if before is None:
        return "added"
    return "widened" if widen(before.type, after.type) == after.type else "retyped"


def _type(field: pa.Field | None) -> str | None:
    return None if field is None else type_name(field.type)
