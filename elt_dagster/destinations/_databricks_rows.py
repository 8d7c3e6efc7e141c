"""The SQL of one commit, as pure functions of a `Work`: how staged rows get into a table, its history and its rejected rows.

Staged rows are first written into a Delta table of their own, typed, numbered and told apart (`ready_statement`), because a transaction may
read no files. Every statement after that changes one table, and doing it twice changes nothing more: so a commit that was interrupted
can be finished by anybody from its `Work` alone.
"""

from collections.abc import Sequence
from datetime import date
from typing import Any

import pyarrow as pa

from elt_dagster.destinations._databricks_sql import (
    folded,
    has_key,
    moment,
    needs_column_mapping,
    properties,
    quote,
    quoted,
    same_key,
    text,
)
from elt_dagster.destinations._databricks_stage import ARRIVAL as STORED_ARRIVAL
from elt_dagster.destinations._databricks_stage import Shape
from elt_dagster.destinations._databricks_table import COMMIT
from elt_dagster.destinations._databricks_types import converted, may_not_fit, representable, unstored
from elt_dagster.destinations._databricks_work import Names, Work, names_of
from elt_dagster.destinations.base import DELETED_AT, IS_CURRENT, VALID_FROM, VALID_TO, LoadPlan
from elt_dagster.destinations.drift import OURS, by_name
from elt_dagster.destinations.history import VALIDITY
from elt_dagster.destinations.rejected import REASON, REJECTED, ROW
from elt_dagster.model.types import JSON, type_name

ARRIVAL, MISFIT, WHOLE = "_elt_arrival", "_elt_misfit", "_elt_row"


# --- staged rows


def ready_statement(
    names: Names, shapes: Sequence[Shape], columns: pa.Schema, *, key: Sequence[str], cursor: str | None, marks: bool, transactional: bool
) -> str:  # fmt: skip
    """Make the table of staged rows: ``columns`` in their types, `ARRIVAL`, and for a row that does not fit `MISFIT` and `WHOLE`.

    With ``key``, only the row with the highest cursor of each key stays, then the last to arrive; rows without a key all stay.
    """
    wanted = [
        *columns,
        *([pa.field(DELETED_AT, pa.timestamp("us", "UTC"))] if marks and DELETED_AT not in columns.names else []),
    ]
    selects = [_select(shape, wanted) for shape in shapes]
    if not selects:
        nothing = Shape(pa.schema([]), "")
        selects = [_select(nothing, wanted, "(SELECT CAST(NULL AS BIGINT) AS arrival) AS nothing WHERE false")]
    rows = " UNION ALL ".join(selects)
    values = {"delta.feature.catalogManaged": "supported"} if transactional else {}
    if needs_column_mapping(f.name for f in wanted):
        values["delta.columnMapping.mode"] = "name"
    listed = quoted([*(f.name for f in wanted), ARRIVAL, MISFIT, WHOLE])
    if key:
        order = f"{quote(cursor)} DESC NULLS LAST, {ARRIVAL} DESC" if cursor else f"{ARRIVAL} DESC"
        first = f"row_number() OVER (PARTITION BY {quoted(key)}, {MISFIT} IS NULL ORDER BY {order})"
        rank = f"CASE WHEN {has_key(key)} AND {MISFIT} IS NULL THEN {first} ELSE 1 END"
        rows = f"SELECT * FROM (SELECT *, {rank} AS _elt_rank FROM ({rows}) AS s) AS r WHERE _elt_rank = 1"
    return f"CREATE OR REPLACE TABLE {names.staged}{properties(values)} AS SELECT {listed} FROM ({rows}) AS q"


def _select(shape: Shape, columns: Sequence[pa.Field], source: str | None = None) -> str:
    have = {folded(field.name): (name, field) for name, field in shape.fields()}
    terms, misfits = [], []
    for field in columns:
        name, kind = ("", pa.null()) if folded(field.name) not in have else _found(have[folded(field.name)])
        value = converted(unstored(name, kind), _converted_kind(kind), field.type)
        terms.append(f"{value} AS {quote(field.name)}")
        if may_not_fit(_converted_kind(kind), field.type):
            said = text(f"{field.name} ({'json' if kind == JSON else type_name(field.type)})")
            fits = f"try_parse_json({name})" if kind == JSON else value
            misfits.append(f"CASE WHEN {name} IS NOT NULL AND {fits} IS NULL THEN {said} END")
    reason = f"nullif(concat_ws(', ', {', '.join(misfits)}), '')" if misfits else "CAST(NULL AS STRING)"
    raw = ", ".join(
        f"{unstored(n, f.type)} AS {quote(f.name)}" for n, f in shape.fields() if not f.name.startswith(OURS)
    )
    whole = f"CASE WHEN {reason} IS NOT NULL THEN to_json(struct({raw})) END" if misfits else "CAST(NULL AS STRING)"
    terms += [f"{STORED_ARRIVAL} AS {ARRIVAL}", f"{reason} AS {MISFIT}", f"{whole} AS {WHOLE}"]
    return f"SELECT {', '.join(terms)} FROM {source or shape.source}"


def _found(entry: tuple[str, pa.Field]) -> tuple[str, pa.DataType]:
    return entry[0], entry[1].type


def _converted_kind(kind: pa.DataType) -> pa.DataType:
    """The type of a staged value in SQL: JSON is known by its own type though it is text still."""
    return kind if kind == JSON or pa.types.is_null(kind) else representable(kind)


# --- counting


def tally_staged(names: Names, *, marks: bool) -> str:
    """A query of staged rows, those that do not fit, and those of the others that say a row is gone."""
    gone = f"count_if({MISFIT} IS NULL AND {quote(DELETED_AT)} IS NOT NULL)" if marks else "0"
    return f"SELECT count(*), count_if({MISFIT} IS NOT NULL), {gone} FROM {names.staged}"


def tally_merge(names: Names, work: Work) -> str:
    """A query of what a merge will do: inserted, updated, deleted rows, and the most rows that one key has in the table."""
    marked = f"s.{quote(DELETED_AT)} IS NOT NULL" if work.marks else "false"
    first = quote(work.key[0])
    living = f"t.{quote(DELETED_AT)} IS NULL" if work.deletes == "soft" else "true"
    found = (
        f"SELECT s.{ARRIVAL}, {marked} AS gone, count(t.{first}) AS n, coalesce(bool_and({same_row(work)}), false) AS same, "
        f"coalesce(bool_or({living}), false) AS living FROM {names.staged} AS s LEFT JOIN {names.target} AS t "
        f"ON {same_key(work.key)} WHERE s.{MISFIT} IS NULL GROUP BY s.{ARRIVAL}, {marked}"
    )
    inserted = "n = 0" if work.deletes == "soft" else "n = 0 AND NOT gone"
    deleted = (
        "count_if(gone AND n > 0 AND living)"
        if work.deletes == "soft"
        else "coalesce(sum(CASE WHEN gone THEN n ELSE 0 END), 0)"
    )
    return (
        f"SELECT count_if({inserted}), count_if(n > 0 AND NOT gone AND NOT (same AND n = 1)), {deleted}, coalesce(max(n), 0) "
        f"FROM ({found}) AS m"
    )


def tally_gone(names: Names, work: Work) -> str:
    """A query of how many rows of the table will go because no staged row has their key."""
    on = same_key(work.key) if work.key and work.mode != "append" else "false"
    fit = f"(SELECT * FROM {names.staged} WHERE {MISFIT} IS NULL)"
    return f"SELECT count(*) FROM {names.target} AS t LEFT ANTI JOIN {fit} AS s ON {on} WHERE {work.gone}"


def tally_resumed(names: Names, work: Work) -> str:
    """A query of how many staged rows were not in the table before the load."""
    return f"SELECT count(*) FROM {_fresh(names, work)} AS f"


# --- an append that goes on where another ended


def seen_statement(names: Names, work: Work, cursor: str) -> str:
    """Note what the table holds from the lowest staged cursor on."""
    lowest = f"(SELECT min({quote(cursor)}) FROM {names.staged} WHERE {MISFIT} IS NULL)"
    return (
        f"CREATE OR REPLACE TABLE {names.seen} AS SELECT row, count(*) AS times FROM "
        f"(SELECT {_fingerprint(work, 't')} AS row FROM {names.target} AS t WHERE t.{quote(cursor)} >= {lowest}) AS f GROUP BY row"
    )


def seen_again_statement(names: Names, work: Work) -> str:
    """Take from what was noted what a commit read again."""
    again = f"SELECT {_fingerprint(work, 's')} AS row, count(*) AS times FROM {names.staged} AS s WHERE {MISFIT} IS NULL GROUP BY {_fingerprint(work, 's')}"
    return (
        f"CREATE OR REPLACE TABLE {names.seen} AS SELECT b.row, b.times - coalesce(a.times, 0) AS times FROM {names.seen} AS b "
        f"LEFT JOIN ({again}) AS a ON a.row = b.row WHERE b.times > coalesce(a.times, 0)"
    )


def _fresh(names: Names, work: Work) -> str:
    numbered = (
        f"SELECT f.*, row_number() OVER (PARTITION BY _elt_print ORDER BY {ARRIVAL}) AS _elt_time FROM "
        f"(SELECT s.*, {_fingerprint(work, 's')} AS _elt_print FROM {names.staged} AS s WHERE {MISFIT} IS NULL) AS f"
    )
    return (
        f"(SELECT c.* FROM ({numbered}) AS c LEFT JOIN {names.seen} AS b ON b.row = c._elt_print "
        "WHERE c._elt_time > coalesce(b.times, 0))"
    )


def _fingerprint(work: Work, prefix: str) -> str:
    """128 bits over the JSON text of the values, which tells NULL from empty and knows where a value ends."""
    terms = [f"{_compared(work, name, prefix)} AS {quote(name)}" for name in work.resumed]
    return f"md5(to_json(struct({', '.join(terms)})))" if terms else "'all the same'"


def _compared(work: Work, name: str, prefix: str) -> str:
    value = f"{prefix}.{quote(name)}"
    return f"to_json({value})" if name in work.variants else value


def same_row(work: Work, right: str = "s") -> str:
    """The condition that t and ``right`` agree in all but the key and our own columns."""
    keys = {folded(name) for name in work.key}
    terms = [
        f"{_compared(work, name, 't')} <=> {_compared(work, name, right)}"
        for name in work.columns
        if folded(name) not in keys and not name.startswith(OURS)
    ]
    if work.deletes == "soft" and right == "s":
        terms.append(f"t.{quote(DELETED_AT)} IS NULL")
    if right == "h":  # a column that the table has no more is NULL in its rows
        terms += [f"h.{quote(name)} IS NULL" for name in work.versioned if not name.startswith(OURS)]
    return _all_of(terms)


def _all_of(terms: Sequence[str]) -> str:
    """A conjunction as a balanced tree: as a chain, that of a wide table would be nested too deep for a parser."""
    if len(terms) <= 1:
        return terms[0] if terms else "true"
    middle = len(terms) // 2
    return f"({_all_of(terms[:middle])} AND {_all_of(terms[middle:])})"


# --- the tables


def data_statements(catalog: str, work: Work) -> list[str]:
    """The statements that bring the rows, each of one table; the first is the one that may be refused because of its rows."""
    names = names_of(catalog, work)
    statements = _rows_statements(names, work)
    if work.rejects:
        statements.append(_reject(names, work))
    return statements + (_versions(names, work) if work.versions else [])


def _rows_statements(names: Names, work: Work) -> list[str]:
    living = f" AND {quote(DELETED_AT)} IS NULL" if work.marks and work.deletes == "hard" else ""
    fit = f"SELECT {_listed(work)} FROM {names.staged} AS s WHERE {MISFIT} IS NULL{living}"
    if work.rebuild is not None:
        words = f" COMMENT {text(work.comment)}" if work.comment else ""
        return [f"CREATE OR REPLACE TABLE {names.target}{words}{properties(work.rebuild)} AS {fit}"]
    into = _targets(work)
    if work.mode == "replace" and work.deletes == "hard":
        if not work.atomic:
            return [f"INSERT OVERWRITE {names.target} ({into}) {fit}"]
        return [f"DELETE FROM {names.target}", f"INSERT INTO {names.target} ({into}) {fit}"]
    if work.mode == "append":
        return [_append(names, work)]
    return [_merge(names, work)]


def _append(names: Names, work: Work) -> str:
    source = _fresh(names, work) if work.resumed else f"(SELECT * FROM {names.staged} WHERE {MISFIT} IS NULL)"
    rows = f"SELECT {_listed(work)} FROM {source} AS s WHERE {_not_yet(names, work)}"
    if not work.gone:
        return f"INSERT INTO {names.target} ({_targets(work)}) {rows}"
    return (
        f"MERGE INTO {names.target} AS t USING ({rows}) AS s ON false "
        f"WHEN NOT MATCHED THEN INSERT ({_targets(work)}) VALUES ({_values(work)}) "
        f"WHEN NOT MATCHED BY SOURCE AND {work.gone}{_of_others(work)} THEN DELETE"
    )


def _merge(names: Names, work: Work) -> str:
    marked = f"s.{quote(DELETED_AT)} IS NOT NULL" if work.marks else ""
    lively = f" AND NOT ({marked})" if marked else ""
    clauses = []
    if work.twins:
        clauses.append("WHEN MATCHED AND s._elt_twin THEN DELETE")
    if marked and work.deletes == "soft":
        mark = f"{quote(DELETED_AT)} = s.{quote(DELETED_AT)}{_tag(work)}"
        clauses.append(f"WHEN MATCHED AND {marked} AND t.{quote(DELETED_AT)} IS NULL THEN UPDATE SET {mark}")
    elif marked:
        clauses.append(f"WHEN MATCHED AND {marked} THEN DELETE")
    sets = ", ".join(f"{quote(n)} = s.{quote(n)}" for n in work.columns) + _tag(work)
    clauses.append(f"WHEN MATCHED{lively} AND NOT {same_row(work)} THEN UPDATE SET {sets}")
    new = lively if work.deletes != "soft" else ""
    clauses.append(f"WHEN NOT MATCHED{new} THEN INSERT ({_targets(work)}) VALUES ({_values(work)})")
    if work.mode == "replace":  # rows without a key were read anew, and nothing tells which they were
        clauses.append(f"WHEN NOT MATCHED BY SOURCE AND NOT ({has_key(work.key, 't.')}){_of_others(work)} THEN DELETE")
    if work.gone and work.deletes == "soft":
        at = f"{quote(DELETED_AT)} = {work.at}{_tag(work)}"
        clauses.append(f"WHEN NOT MATCHED BY SOURCE AND {work.gone}{_of_others(work)} THEN UPDATE SET {at}")
    elif work.gone:
        clauses.append(f"WHEN NOT MATCHED BY SOURCE AND {work.gone}{_of_others(work)} THEN DELETE")
    on = same_key(work.key) + (" AND s._elt_match" if work.twins else "")
    return f"MERGE INTO {names.target} AS t USING ({_merge_source(names, work)}) AS s ON {on} {' '.join(clauses)}"


def _merge_source(names: Names, work: Work) -> str:
    """The staged rows; those of keys that are in the table several times come twice: once to remove these, once to be inserted."""
    keyless = f"({has_key(work.key)} OR {_not_yet(names, work)})" if work.once else "true"
    if not work.twins:
        return f"SELECT * FROM {names.staged} WHERE {MISFIT} IS NULL AND {keyless}"
    twice = f"SELECT {quoted(work.key)} FROM {names.target} WHERE {has_key(work.key)} GROUP BY {quoted(work.key)} HAVING count(*) > 1"
    fit = f"SELECT s.*, w.n IS NOT NULL AS _elt_twice FROM {names.staged} AS s LEFT JOIN (SELECT *, 1 AS n FROM ({twice}) AS g) AS w ON {same_key(work.key, 'w', 's')} WHERE s.{MISFIT} IS NULL"
    return (
        f"SELECT *, _elt_twice AS _elt_twin, true AS _elt_match FROM ({fit}) AS a WHERE {keyless} "
        f"UNION ALL SELECT *, false AS _elt_twin, false AS _elt_match FROM ({fit}) AS b WHERE _elt_twice"
    )


def _reject(names: Names, work: Work) -> str:
    """Set aside what does not fit, unless the same row is there for the same reason."""
    json_row = f"to_json(parse_json(s.{WHOLE}))"
    row = f"parse_json(s.{WHOLE})" if ROW in work.variants else f"s.{WHOLE}"
    known = f"to_json(r.{ROW})" if ROW in work.variants else f"to_json(parse_json(r.{ROW}))"
    wrong = f"(SELECT DISTINCT {MISFIT}, {WHOLE} FROM {names.staged} WHERE {MISFIT} IS NOT NULL)"
    values = f"{work.at} AS a, {text(work.run_id)} AS b, {text(work.load_id)} AS c, s.{MISFIT} AS d, {row} AS e"
    return (
        f"INSERT INTO {names.rejected} ({quoted(REJECTED.names)}) SELECT {values} FROM {wrong} AS s "
        f"LEFT ANTI JOIN {names.rejected} AS r ON r.{REASON} = s.{MISFIT} AND {known} = {json_row}"
    )


def _versions(names: Names, work: Work) -> list[str]:
    """Close the versions that are no more, then open new ones; see `elt_dagster.destinations.history`."""
    copied = [name for name in work.columns if name != DELETED_AT]
    alive = f" AND t.{quote(DELETED_AT)} IS NULL" if work.deletes == "soft" else ""
    touched = f"(SELECT DISTINCT {quoted(work.key)} FROM {names.staged} WHERE {MISFIT} IS NULL AND {has_key(work.key)})"
    among = f" LEFT SEMI JOIN {touched} AS s ON {{}}" if work.versions == "touched" else ""
    living = f"(SELECT * FROM {names.target} AS t WHERE {has_key(work.key, 't.')}{alive})"
    ended = (
        f"SELECT {quoted(work.key, 'h.')} FROM (SELECT * FROM {names.history} WHERE {IS_CURRENT}) AS h"
        f"{among.format(same_key(work.key, 's', 'h'))} LEFT ANTI JOIN {living} AS t ON {same_key(work.key, 't', 'h')} AND {same_row(work, 'h')}"
    )
    close = (
        f"MERGE INTO {names.history} AS h USING ({ended}) AS e ON {same_key(work.key, 'h', 'e')} AND h.{IS_CURRENT} "
        f"WHEN MATCHED THEN UPDATE SET {VALID_TO} = greatest(h.{VALID_FROM}, {work.at}), {IS_CURRENT} = false"
    )
    terms = [
        *(f"t.{quote(n)} AS {quote(n)}" for n in copied),
        *(f"NULL AS {quote(n)}" for n in work.versioned),
        f"{work.at} AS {VALID_FROM}",
        f"CAST(NULL AS TIMESTAMP) AS {VALID_TO}",
        f"true AS {IS_CURRENT}",
    ]
    begin = (
        f"INSERT INTO {names.history} ({quoted([*copied, *work.versioned, *VALIDITY.names])}) SELECT {', '.join(terms)} FROM {living} AS t"
        f"{among.format(same_key(work.key, 's', 't'))} LEFT ANTI JOIN (SELECT * FROM {names.history} WHERE {IS_CURRENT}) AS h ON {same_key(work.key, 't', 'h')}"
    )
    anew = [f"DELETE FROM {names.history} WHERE {VALID_FROM} < {work.at}"] if work.versions == "anew" else []
    return [*anew, close, begin]


def gone_condition(plan: LoadPlan, columns: pa.Schema, *, whole: bool) -> str:
    """The condition on t for rows that go when they were not read again; ``whole`` when everything was read."""
    terms = []
    if plan.deletes.value == "ignore":
        return ""
    if plan.replaces is not None:
        column = quote(plan.replaces.column)
        kind = type_name(by_name(columns, folded)[folded(plan.replaces.column)].type)
        start, end = (_bound(value, kind) for value in (plan.replaces.start, plan.replaces.end))
        terms.append(f"t.{column} >= {start} AND t.{column} < {end}")
    elif not whole:
        return ""
    if plan.deletes.value == "soft":
        terms.append(f"t.{quote(DELETED_AT)} IS NULL")
    return " AND ".join(terms) or "true"


def _bound(value: date, kind: str) -> str:
    return text(value.isoformat()) if kind == "string" else moment(value, kind=kind)


def _not_yet(names: Names, work: Work) -> str:
    """The condition that this commit has brought no rows so far."""
    return f"(SELECT count(*) FROM {names.target} WHERE {COMMIT} = {text(work.commit)}) = 0" if work.once else "true"


def _of_others(work: Work) -> str:
    return f" AND NOT (t.{COMMIT} <=> {text(work.commit)})" if work.once else ""


def _tag(work: Work) -> str:
    return f", {COMMIT} = {text(work.commit)}" if work.once else ""


def _targets(work: Work) -> str:
    return quoted([*work.columns, *([COMMIT] if work.once else [])])


def _values(work: Work) -> str:
    return quoted(work.columns, "s.") + (f", {text(work.commit)}" if work.once else "")


def _listed(work: Work) -> str:
    terms = [f"s.{quote(name)} AS {quote(name)}" for name in work.columns]
    return ", ".join([*terms, f"{text(work.commit)} AS {COMMIT}"] if work.once else terms)


def summary(row: Sequence[Any]) -> list[int]:
    """The numbers of a tally."""
    return [int(value or 0) for value in row]
