"""How staged rows get into a Snowflake table: all at once, those that are not there yet, or by primary key. Pure SQL, counted exactly.

What can be done before the transaction is done before it, into temporary tables of this session: setting rows aside, one row per key, looking up what
an append had already. Making a table would commit the transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from elt_dagster.destinations._snowflake_session import Session, qualified
from elt_dagster.destinations._snowflake_stage import ARRIVAL, Part
from elt_dagster.destinations._snowflake_table import Table
from elt_dagster.destinations._snowflake_types import (
    DIALECT,
    bound_text,
    comparable,
    converted,
    from_staged,
    literal,
    misfit,
    representable,
    travels_as_number,
)
from elt_dagster.destinations.base import DELETED_AT, LoadPlan, TableRef
from elt_dagster.destinations.drift import OURS
from elt_dagster.destinations.history import VALIDITY
from elt_dagster.destinations.rejected import REJECTED
from elt_dagster.destinations.sql import no_key, quote, quoted, same_key
from elt_dagster.model.types import JSON, UUID, type_name

COMING = '"_elt_coming"'
"""Temporary table with the rows of this commit, as the table will have them."""
GONE = "_elt_gone"
"""Whether a row of `COMING` was deleted at the source."""
_FIT = '"_elt_fit"'
_SEEN = '"_elt_seen_{}"'
_HASH, _TIMES, _TIME = '"_elt_hash"', '"_elt_times"', '"_elt_time"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfits:
    """Staged rows that the table cannot take: how many, and in which columns."""

    rows: int = 0
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What a merge did, in rows."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0


class Source:
    """The staged ``parts`` seen through a table's ``columns``; ``before`` is the table as it was, for columns with a limit of their own."""

    def __init__(self, parts: Sequence[Part], columns: pa.Schema, before: Table | None) -> None:
        self._parts = parts
        self._columns = columns
        self._before = before

    def misfits(self, session: Session) -> Misfits:
        """What would be rejected; asks the server only where something could be."""
        rows, columns = 0, dict[str, None]()
        for part in self._parts:
            if conditions := self._conditions(part):
                counts = [
                    f"COUNT_IF({' OR '.join(conditions.values())})",
                    *(f"COUNT_IF({c})" for c in conditions.values()),
                ]
                (found,) = session.rows(f"SELECT {', '.join(counts)} FROM {part.table}")
                rows += int(found[0])
                columns |= dict.fromkeys(name for name, n in zip(conditions, found[1:], strict=True) if n)
        return Misfits(rows=rows, columns=tuple(columns))

    def select(self, *, fitting: bool) -> str:
        """The rows in the table's columns and types, with `ARRIVAL` and `GONE`; with ``fitting`` only those that `misfits` does not count."""
        selects = [self._select(part, fitting) for part in self._parts]
        return " UNION ALL ".join(selects) if selects else self._nothing()

    def rejected(self) -> str:
        """The rows that `misfits` counts, as columns ``reason`` and ``content`` (the row as it arrived, as JSON text)."""
        selects = []
        for part in self._parts:
            if conditions := self._conditions(part):
                reasons = " || ".join(
                    f"CASE WHEN {c} THEN {literal(f'{name} does not fit {type_name(self._columns.field(name).type)}; ')} ELSE '' END"
                    for name, c in conditions.items()
                )
                selects.append(
                    f"SELECT RTRIM({reasons}, '; ') AS reason, {self._content(part)} AS content FROM {part.table} "
                    f"WHERE {' OR '.join(conditions.values())}"
                )
        return " UNION ALL ".join(selects)

    def _conditions(self, part: Part) -> dict[str, str]:
        """By column, when its value does not fit; never NULL."""
        found: dict[str, str] = {}
        for name in part.schema.names:
            if name in self._columns.names and not pa.types.is_null(part.schema.field(name).type):
                limit = self._before.limit(name) if self._before is not None else None
                kind, to = part.schema.field(name).type, self._columns.field(name).type
                if condition := misfit(part.column(name), _staged_kind(kind), to, limit):
                    found[name] = f"COALESCE({condition}, FALSE)"
        return found

    def _content(self, part: Part) -> str:
        pairs = [
            f"{literal(f.name)}, {_shown(part, f)}"
            for f in part.schema
            if not f.name.startswith(OURS) and not pa.types.is_null(f.type)
        ]
        return f"TO_JSON(OBJECT_CONSTRUCT_KEEP_NULL({', '.join(pairs)}))"

    def _select(self, part: Part, fitting: bool) -> str:
        terms = [f"{self._term(part, f)} AS {quote(f.name)}" for f in self._columns]
        marked = DELETED_AT in part.schema.names and not pa.types.is_null(part.schema.field(DELETED_AT).type)
        gone = f"{part.column(DELETED_AT)} IS NOT NULL" if marked else "FALSE"
        conditions = self._conditions(part) if fitting else {}
        where = f" WHERE NOT ({' OR '.join(conditions.values())})" if conditions else ""
        return f"SELECT {', '.join(terms)}, {ARRIVAL}, {gone} AS {quote(GONE)} FROM {part.table}{where}"

    def _term(self, part: Part, field: pa.Field) -> str:
        if field.name not in part.schema.names or pa.types.is_null(part.schema.field(field.name).type):
            return f"CAST(NULL AS {DIALECT.column_type(field.type)})"
        kind = part.schema.field(field.name).type
        return converted(_value(part.column(field.name), kind), representable(kind), field.type)

    def _nothing(self) -> str:
        terms = [f"CAST(NULL AS {DIALECT.column_type(f.type)}) AS {quote(f.name)}" for f in self._columns]
        return f"SELECT {', '.join(terms)}, CAST(NULL AS NUMBER(19,0)) AS {ARRIVAL}, FALSE AS {quote(GONE)} WHERE FALSE"


def _staged_kind(kind: pa.DataType) -> pa.DataType:
    return kind if kind == JSON else representable(kind)


def _value(expression: str, kind: pa.DataType) -> str:
    """SQL for the `representable` value out of its staged form."""
    if kind == UUID:
        text = f"LOWER(HEX_ENCODE({expression}))"
        return " || '-' || ".join(
            f"SUBSTR({text}, {start}, {n})" for start, n in ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
        )
    return from_staged(expression, representable(kind))


def _shown(part: Part, field: pa.Field) -> str:
    """A staged value as it is shown in a rejected row."""
    expression, kind = part.column(field.name), field.type
    if pa.types.is_binary(kind):
        return f"HEX_ENCODE({expression})"
    if travels_as_number(kind):
        outside = misfit(expression, kind, kind, None)
        text = f"CAST({_value(expression, kind)} AS VARCHAR)"
        return f"CASE WHEN {outside} THEN CAST({expression} AS VARCHAR) ELSE {text} END" if outside else text
    return _value(expression, kind) if kind == UUID else expression


def gather(session: Session, plan: LoadPlan, select: str, *, unique: bool) -> None:
    """Put the rows of ``select`` into `COMING`; with ``unique`` one per key: the highest cursor, then the last to arrive. Rows without a key all stay."""
    sql = f"CREATE OR REPLACE TEMPORARY TABLE {COMING} AS SELECT * FROM ({select}) AS s"
    if unique:
        order = f"{ARRIVAL} DESC"
        if plan.cursor_field:
            order = f"{quote(plan.cursor_field)} DESC NULLS LAST, {order}"
        sql += (
            f" QUALIFY ROW_NUMBER() OVER (PARTITION BY {quoted(plan.primary_key)} ORDER BY {order}) = 1 "
            f"OR {no_key(plan.primary_key)}"
        )
    session.run(sql)


def save_rejected(session: Session, table: TableRef, source: Source, plan: LoadPlan, now: str) -> None:
    """List the rejected rows, unless they are listed already."""
    names = quoted(REJECTED.names)
    session.run(
        f"INSERT INTO {qualified(table)} ({names}) "
        f"SELECT CAST(? AS TIMESTAMP_TZ(6)), CAST(? AS VARCHAR), CAST(? AS VARCHAR), n.reason, PARSE_JSON(n.content) "
        f"FROM (SELECT DISTINCT reason, content FROM ({source.rejected()}) AS r) AS n "
        f"WHERE NOT EXISTS (SELECT 1 FROM {qualified(table)} AS k WHERE k.{quote('_elt_reason')} = n.reason "
        f"AND TO_JSON(k.{quote('_elt_row')}) = n.content)",
        [now, plan.run_id, plan.load_id],
    )


def insert(
    session: Session, table: str, columns: pa.Schema, source: str, where: str = "", *, overwrite: bool = False
) -> int:
    """Insert the rows of the relation ``source`` that fulfil ``where`` (of s); returns how many. With ``overwrite`` they take the place of all others.

    INSERT OVERWRITE is no DDL: it empties the table in the transaction that fills it, and so keeps readers, grants and views.
    """
    names = quoted(columns.names)
    word = "INSERT OVERWRITE INTO" if overwrite else "INSERT INTO"
    return session.run(
        f"{word} {table} ({names}) SELECT {names} FROM {source} AS s{f' WHERE {where}' if where else ''}"
    )


def merge(session: Session, table: str, plan: LoadPlan, columns: pa.Schema) -> Merged:
    """Rows of `COMING` (one per key) replace those of the same key, or remove or mark them.

    A row that is equal in all but the ``_elt_`` columns is not written at all, and keeps its load time.
    """
    soft = DELETED_AT in columns.names
    marked = _mark(session, table, plan) if soft else 0
    twins = _remove_twins(session, table, plan)
    changed = _differences(columns, plan.primary_key)
    if soft:
        changed.append(f"t.{quote(DELETED_AT)} IS NOT NULL")
    gone, names = f"s.{quote(GONE)}", columns.names
    sql = f"MERGE INTO {table} AS t USING {COMING} AS s ON {same_key(plan.primary_key)}"
    if not soft:
        sql += f" WHEN MATCHED AND {gone} THEN DELETE"
    if changed:
        values = ", ".join(f"{quote(n)} = s.{quote(n)}" for n in names if n not in plan.primary_key)
        sql += f" WHEN MATCHED AND NOT {gone} AND ({' OR '.join(changed)}) THEN UPDATE SET {values}"
    sql += f" WHEN NOT MATCHED{'' if soft else f' AND NOT {gone}'} THEN INSERT ({quoted(names)}) VALUES ({quoted(names, 's.')})"
    (found,) = session.named(sql)
    counts = {
        word: int(next((n for name, n in found.items() if word in name), 0))
        for word in ("inserted", "updated", "deleted")
    }
    return Merged(
        inserted=counts["inserted"] - twins,
        updated=counts["updated"] + twins,
        deleted=counts["deleted"] + marked,
    )


def _mark(session: Session, table: str, plan: LoadPlan) -> int:
    """Mark living rows that were deleted at the source, and change nothing else in them."""
    mark = quote(DELETED_AT)
    return session.run(
        f"UPDATE {table} AS t SET {mark} = s.{mark} FROM {COMING} AS s "
        f"WHERE {same_key(plan.primary_key)} AND s.{quote(GONE)} AND t.{mark} IS NULL"
    )


def _remove_twins(session: Session, table: str, plan: LoadPlan) -> int:
    """A key may be in the table several times, from a time when it was appended to: then all go and the staged row comes; returns how many keys."""
    keys = quoted(plan.primary_key, "t.")
    doubled = (
        f"SELECT {keys} FROM {table} AS t JOIN {COMING} AS s ON {same_key(plan.primary_key)} "
        f"WHERE NOT s.{quote(GONE)} GROUP BY {keys} HAVING COUNT(*) > 1"
    )
    twins = int(session.value(f"SELECT COUNT(*) FROM ({doubled}) AS d"))
    if twins:
        session.run(f"DELETE FROM {table} AS t USING ({doubled}) AS d WHERE {same_key(plan.primary_key, 't', 'd')}")
    return twins


def remove_window(session: Session, table: str, plan: LoadPlan, columns: pa.Schema) -> int:
    """Take away the rows of the plan's window, in a merge those that do not come again; returns how many."""
    inside, bounds = window(plan, columns)
    again = (
        f" AND NOT EXISTS (SELECT 1 FROM {COMING} AS s WHERE {same_key(plan.primary_key)})"
        if plan.mode.value == "merge"
        else ""
    )
    return session.run(f"DELETE FROM {table} AS t WHERE {inside}{again}", bounds)


def mark_missing(session: Session, table: str, plan: LoadPlan, columns: pa.Schema, now: str) -> int:
    """Mark living rows that did not come again, all of them or those of the plan's window; returns how many."""
    inside, bounds = window(plan, columns) if plan.replaces is not None else ("TRUE", [])
    mark = quote(DELETED_AT)
    return session.run(
        f"UPDATE {table} AS t SET {mark} = CAST(? AS TIMESTAMP_TZ(6)) WHERE t.{mark} IS NULL AND {inside} "
        f"AND NOT EXISTS (SELECT 1 FROM {COMING} AS s WHERE {same_key(plan.primary_key)})",
        [now, *bounds],
    )


def window(plan: LoadPlan, columns: pa.Schema) -> tuple[str, list[str]]:
    """The condition that a row of t is in the plan's window, with its parameters."""
    assert plan.replaces is not None  # noqa: S101 - the caller looked
    kind = columns.field(plan.replaces.column).type
    name, to = quote(plan.replaces.column), DIALECT.column_type(kind)
    bounds = [bound_text(plan.replaces.start, kind), bound_text(plan.replaces.end, kind)]
    return f"t.{name} >= CAST(CAST(? AS VARCHAR) AS {to}) AND t.{name} < CAST(CAST(? AS VARCHAR) AS {to})", bounds


def keep_new(
    session: Session, table: str, columns: pa.Schema, *, identity: Sequence[str], cursor: str, seen: str | None
) -> str:
    """Take from `COMING` what ``table`` had before this load, each row as many times as it had it.

    Two rows are the same when the columns ``identity`` are. The first commit of a load (``seen`` None) looks up what the table holds from
    the lowest staged cursor on; later ones go on with what is left of that: rows not read again so far. Returns the name of the
    temporary table with what is left now, for the next commit, should this one succeed. Rows are compared whole; the hash is there to join by.
    """
    if seen is None:
        seen = _SEEN.format("first")
        lowest = f"(SELECT MIN({quote(cursor)}) FROM {COMING})"
        session.run(
            f"CREATE OR REPLACE TEMPORARY TABLE {seen} AS SELECT {_grouped(columns, identity)}, {_hash(columns, identity)} AS {_HASH}, "
            f"COUNT(*) AS {_TIMES} FROM {table} WHERE {quote(cursor)} >= {lowest} GROUP BY ALL"
        )
    numbered = (
        f"SELECT *, {_hash(columns, identity)} AS {_HASH}, "
        f"ROW_NUMBER() OVER (PARTITION BY {_keys(columns, identity)} ORDER BY {ARRIVAL}) AS {_TIME} FROM {COMING}"
    )
    same = f"b.{_HASH} = c.{_HASH} AND {_same(columns, identity, 'c', 'b')}"
    left, fresh = _SEEN.format("odd" if "even" in seen else "even"), _FIT
    session.run(
        f"CREATE OR REPLACE TEMPORARY TABLE {fresh} AS SELECT c.* FROM ({numbered}) AS c LEFT JOIN {seen} AS b ON {same} "
        f"WHERE c.{_TIME} > COALESCE(b.{_TIMES}, 0)"
    )
    counted = f"SELECT {_grouped(columns, identity)}, {_hash(columns, identity)} AS {_HASH}, COUNT(*) AS {_TIMES} FROM {COMING} GROUP BY ALL"
    kept = ", ".join(f"b.{quote(name)}" for name in identity)
    session.run(
        f"CREATE OR REPLACE TEMPORARY TABLE {left} AS SELECT {kept}, b.{_HASH}, b.{_TIMES} - COALESCE(c.{_TIMES}, 0) AS {_TIMES} "
        f"FROM {seen} AS b LEFT JOIN ({counted}) AS c ON b.{_HASH} = c.{_HASH} AND {_same_grouped(identity)} "
        f"WHERE b.{_TIMES} > COALESCE(c.{_TIMES}, 0)"
    )
    session.run(f"CREATE OR REPLACE TEMPORARY TABLE {COMING} AS SELECT * FROM {fresh}")
    return left


def _grouped(columns: pa.Schema, names: Sequence[str]) -> str:
    return ", ".join(f"{comparable(quote(n), columns.field(n).type)} AS {quote(n)}" for n in names)


def _keys(columns: pa.Schema, names: Sequence[str]) -> str:
    return ", ".join(comparable(quote(n), columns.field(n).type) for n in names)


def _hash(columns: pa.Schema, names: Sequence[str]) -> str:
    return f"HASH({_keys(columns, names)})"


def _same(columns: pa.Schema, names: Sequence[str], rows: str, grouped: str) -> str:
    return " AND ".join(
        f"{comparable(f'{rows}.{quote(n)}', columns.field(n).type)} IS NOT DISTINCT FROM {grouped}.{quote(n)}"
        for n in names
    )


def _same_grouped(names: Sequence[str]) -> str:
    return " AND ".join(f"b.{quote(n)} IS NOT DISTINCT FROM c.{quote(n)}" for n in names)


def _differences(columns: pa.Schema, primary_key: Sequence[str]) -> list[str]:
    return [
        f"{comparable(f't.{quote(f.name)}', f.type)} IS DISTINCT FROM {comparable(f's.{quote(f.name)}', f.type)}"
        for f in columns
        if not f.name.startswith(OURS) and f.name not in primary_key
    ]


def same_version(columns: pa.Schema, history: pa.Schema, primary_key: Sequence[str]) -> str:
    """The condition that t and h, of the tables with ``columns`` and ``history``, agree in every column but the key and ours."""
    terms = []
    for field in columns:
        if not field.name.startswith(OURS) and field.name not in primary_key:
            kind = history.field(field.name).type
            mine = comparable(converted(f"t.{quote(field.name)}", field.type, kind), kind)
            terms.append(f"{mine} IS NOT DISTINCT FROM {comparable(f'h.{quote(field.name)}', kind)}")
    # a column that the table has lost is NULL in a version of now
    gone = [n for n in history.names if n not in columns.names and n not in VALIDITY.names and n not in primary_key]
    terms += [f"h.{quote(name)} IS NULL" for name in gone if not name.startswith(OURS)]
    return f"({' AND '.join(terms)})" if terms else "TRUE"
