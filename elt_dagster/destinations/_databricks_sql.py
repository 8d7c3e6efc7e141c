"""SQL text as Databricks wants it: identifiers in backticks, literals with backslash escapes.

https://docs.databricks.com/aws/en/sql/language-manual/sql-ref-identifiers
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time

from elt_dagster.destinations.base import LoadPlan, TableRef
from elt_dagster.errors import DestinationError

NAME_LENGTH = 255
_NOT_IN_OBJECTS = re.compile(r"[./ \x00-\x1f\x7f]")
_NEEDS_MAPPING = re.compile(r"[ ,;{}()\n\t=]")


def quote(name: str) -> str:
    """``name`` as an identifier, whatever is in it. Raises DestinationError for a name no column can have."""
    if not name or "\0" in name:
        raise DestinationError(f"{name!r} cannot be the name of a table or column.", fix="Give it another name.")
    return "`" + name.replace("`", "``") + "`"


def quoted(names: Iterable[str], prefix: str = "") -> str:
    """A comma-separated list of identifiers, each after ``prefix`` (such as ``s.``)."""
    return ", ".join(prefix + quote(name) for name in names)


def text(value: str) -> str:
    """``value`` as a string literal; ``$`` is spelled as an escape, for Spark substitutes ``${name}`` even inside of literals."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("$", "\\u0024")
    return "'" + escaped.replace("\n", "\\n").replace("\r", "\\r").replace("\0", "\\0") + "'"


def instant(moment: datetime) -> str:
    """A TIMESTAMP literal that no session's zone changes."""
    return f"TIMESTAMP'{moment.astimezone(UTC).isoformat(sep=' ', timespec='microseconds')}'"


def moment(value: date, *, kind: str) -> str:
    """``value`` as a literal that compares exactly with a column of the canonical type called ``kind``; a date is its first instant."""
    if kind == "date":
        return f"DATE'{(value.date() if isinstance(value, datetime) else value).isoformat()}'"
    if not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if kind == "timestamp":
        naive = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
        return f"TIMESTAMP_NTZ'{naive.isoformat(sep=' ', timespec='microseconds')}'"
    return instant(value if value.tzinfo else value.replace(tzinfo=UTC))


def qualified(catalog: str, table: TableRef) -> str:
    """The three-part name of ``table``."""
    return f"{quote(catalog)}.{quote(table.schema)}.{quote(table.name)}"


def properties(values: Mapping[str, str]) -> str:
    """A TBLPROPERTIES clause; empty for no values."""
    return f" TBLPROPERTIES ({', '.join(f'{text(k)} = {text(v)}' for k, v in values.items())})" if values else ""


def same_key(columns: Iterable[str], left: str = "t", right: str = "s") -> str:
    """The join condition on a primary key; a NULL equals nothing, so rows without a key never match."""
    return " AND ".join(f"{left}.{quote(c)} = {right}.{quote(c)}" for c in columns)


def has_key(columns: Iterable[str], prefix: str = "") -> str:
    """The condition that no part of a primary key is missing."""
    return " AND ".join(f"{prefix}{quote(c)} IS NOT NULL" for c in columns)


def folded(name: str) -> str:
    """How Databricks compares names: without regard to case."""
    return name.lower()


def needs_column_mapping(names: Iterable[str]) -> bool:
    """Whether Delta takes these column names only with column mapping.

    https://docs.databricks.com/aws/en/delta/column-mapping
    """
    return any(_NEEDS_MAPPING.search(name) for name in names)


def check_names(plan: LoadPlan, columns: Iterable[str]) -> None:
    """Raise DestinationError for a name that Unity Catalog refuses.

    https://docs.databricks.com/aws/en/sql/language-manual/sql-ref-names
    """
    for what, name in (("schema", plan.table.schema), ("table", plan.table.name)):
        if _NOT_IN_OBJECTS.search(name) or len(name) > NAME_LENGTH:
            raise DestinationError(
                f"{name!r} cannot be the name of a {what} in Unity Catalog: no dots, spaces, slashes or control characters, "
                f"and at most {NAME_LENGTH} characters.",
                fix=f"Give this stream another `{what}`.",
            )
    for name in columns:
        if len(name) > NAME_LENGTH:
            raise DestinationError(
                f"{plan.table}: the column name {name[:40]!r}... is longer than {NAME_LENGTH} characters.",
                fix="Exclude the column.",
            )
