"""SQL text: identifiers, literals, column types and the few statements that every SQL warehouse needs.

A warehouse describes itself as a `Dialect`; the statements below are the same for all. Values travel as bound parameters, never here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from elt_dagster.errors import DestinationError
from elt_dagster.model.types import type_name


def quote(name: str) -> str:
    """``name`` as a quoted identifier, whatever is in it. Raises DestinationError for a name no warehouse can hold."""
    if not name or "\0" in name:
        raise DestinationError(f"{name!r} cannot be the name of a table or column.", fix="Give it another name.")
    return '"' + name.replace('"', '""') + '"'


def quoted(names: Iterable[str], prefix: str = "") -> str:
    """A comma-separated list of quoted identifiers, each after ``prefix`` (such as ``s.``)."""
    return ", ".join(prefix + quote(name) for name in names)


def literal(text: str) -> str:
    """``text`` as a string literal, for the few places where SQL takes no parameter (comments, file names)."""
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True, slots=True)
class Dialect:
    """The column types of one warehouse: canonical type name -> SQL type; ``decimal`` is a template with p and s."""

    types: Mapping[str, str]
    decimal: str = "DECIMAL({p},{s})"

    def column_type(self, kind: pa.DataType) -> str:
        """SQL type of a column of canonical type ``kind``; a null column has none, for it is not made yet."""
        if pa.types.is_decimal(kind):
            return self.decimal.format(p=kind.precision, s=kind.scale)
        return self.types[type_name(kind)]

    def create_table(self, table: str, columns: pa.Schema) -> str:
        """DDL of ``table`` (already quoted)."""
        lines = ", ".join(f"{quote(f.name)} {self.column_type(f.type)}" for f in columns)
        return f"CREATE TABLE {table} ({lines})"

    def add_column(self, table: str, field: pa.Field) -> str:
        """DDL that adds one column to ``table`` (already quoted)."""
        return f"ALTER TABLE {table} ADD COLUMN {quote(field.name)} {self.column_type(field.type)}"


def comment_on_table(table: str, text: str) -> str:
    """DDL that describes ``table`` (already quoted); an empty text removes the description."""
    return f"COMMENT ON TABLE {table} IS {literal(text) if text else 'NULL'}"


def comment_on_column(table: str, column: str, text: str) -> str:
    """DDL that describes a column of ``table`` (already quoted); an empty text removes the description."""
    return f"COMMENT ON COLUMN {table}.{quote(column)} IS {literal(text) if text else 'NULL'}"


def same_key(columns: Iterable[str], left: str = "t", right: str = "s") -> str:
    """The join condition on a primary key; a NULL equals nothing, so rows without a key never match."""
    return " AND ".join(f"{left}.{quote(c)} = {right}.{quote(c)}" for c in columns)


def no_key(columns: Iterable[str]) -> str:
    """The condition that some part of a primary key is missing."""
    return " OR ".join(f"{quote(c)} IS NULL" for c in columns)
