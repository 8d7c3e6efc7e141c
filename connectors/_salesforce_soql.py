"""Queries in SOQL: which fields, which rows, in what order, and how many fields fit into an address. Pure functions."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from urllib.parse import quote

from elt_dagster.sdk import ConfigError, CursorValue

MOST_URI_BYTES = 12_000
"""Of the 16,384 bytes that address and headers may have together; a token takes up to 2,000 of them."""
_FIELD_BYTES = 6_000
"""For the fields of a further request about the same rows; their ids take the rest."""
_ID_BYTES = len(quote("'001000000000000AAA',"))


def select(
    name: str,
    fields: Sequence[str],
    *,
    cursor: str | None = None,
    start: CursorValue | None = None,
    end: CursorValue | None = None,
    by: str | None = None,
    ids: Sequence[str] = (),
    ordered: bool = False,
) -> str:
    """``SELECT fields FROM name`` for the rows whose ``cursor`` is in ``[start, end)`` and whose field ``by`` is one of ``ids``."""
    tests = [in_list(by, ids)] if by else []
    tests += [f"{cursor} >= {literal(start)}"] if cursor and start is not None else []
    tests += [f"{cursor} < {literal(end, up=True)}"] if cursor and end is not None else []
    where = f" WHERE {' AND '.join(tests)}" if tests else ""
    order = f" ORDER BY {cursor} ASC, Id ASC" if ordered and cursor else ""
    return f"SELECT {','.join(fields)} FROM {name}{where}{order}"


def in_list(field: str, values: Sequence[str]) -> str:
    """The test that ``field`` is one of ``values``."""
    return f"{field} IN ({','.join(map(_text, values))})"


def literal(value: CursorValue, *, up: bool = False) -> str:
    """A date or time as SOQL writes it, in milliseconds; rounded down, or ``up`` for an end. Raises ConfigError for anything else."""
    if not isinstance(value, date):
        raise ConfigError(
            "The checkpoint of a Salesforce stream is a point in time, and this one is not.",
            fix="Reset the stream's state, and it is read from the beginning.",
        )
    moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day, tzinfo=UTC)
    moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    if up and moment.microsecond % 1000:
        moment += timedelta(milliseconds=1)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def fits_uri(soql: str) -> bool:
    """Whether a query can be sent as part of an address."""
    return len(quote(soql)) <= MOST_URI_BYTES


def shares(name: str, fields: Sequence[str], needed: Sequence[str]) -> list[list[str]]:
    """``fields`` in shares that each fit into an address; the first has ``needed``, whatever their place, the others do not."""
    rest = [f for f in fields if f not in needed]
    found, room = [list(needed)], MOST_URI_BYTES - len(quote(select(name, needed))) - 500
    for field in rest:
        size = len(quote(f"{field},"))
        if size > room:
            found.append([])
            room = _FIELD_BYTES
        found[-1].append(field)
        room -= size
    return found


def ids_per_request(name: str, fields: Sequence[str]) -> int:
    """How many rows one request can name when it asks for ``fields`` of them."""
    room = MOST_URI_BYTES - len(quote(select(name, fields, by="ContentDocumentId", ids=()))) - 200
    return max(1, room // _ID_BYTES)


def _text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
