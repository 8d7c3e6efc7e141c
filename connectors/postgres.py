"""PostgreSQL 12 and newer, read through ``COPY (SELECT ...) TO STDOUT (FORMAT csv)`` in one read-only snapshot.

What is odd about it, and what we do:
- ``now()`` is when a transaction *began*. A row may appear with a value below the checkpoint when its transaction commits late, so a
  checkpoint on a point in time never passes the start of the oldest transaction still open when the snapshot was taken. To see other users'
  transactions a role needs ``pg_read_all_stats``; without it, and for integers, read a little again (``lookback_seconds``, ``cursor_overlap``).
- numeric may be NaN or have any number of digits, dates may be ``infinity`` or before Christ: what has no counterpart becomes NULL and is counted.
- Row-level security hides rows without a word; such tables say so in their description.
- A partitioned table is one stream; its partitions are not listed.
"""

from collections.abc import Generator, Mapping
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import groupby
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from elt_dagster.sdk import (
    JSON,
    TIMESTAMP,
    TIMESTAMP_UTC,
    UUID,
    CheckResult,
    Column,
    CsvDecoder,
    CursorValue,
    EltError,
    Query,
    SqlConnector,
    SqlSettings,
    Stream,
    Table,
    split,
)
from elt_dagster.sdk.pgwire import CopyConnections, ServerConfig

APPLICATION_NAME = "elt_dagster source"
BLOCK_BYTES = 4 * 1024 * 1024
PARALLEL_FROM_BYTES = 64 * 1024 * 1024
"""Smaller tables are not worth a second connection."""


class PostgresConfig(ServerConfig):
    """How to reach a database, and which part of it to offer."""

    schemas: tuple[str, ...] = ()
    """Schemas to offer; all but the system's when empty."""
    include_views: bool = True
    """Offer views, materialized views and foreign tables too."""


class PostgresSettings(SqlSettings):
    """What a sync from PostgreSQL may choose."""

    unconstrained_numeric: Literal["text", "decimal(38,9)", "double"] = "text"
    """How to read `numeric` without precision: exactly as text, rounded to nine places, or as a float."""
    parallel_reads: int = Field(default=2, ge=1, le=8)
    """Connections that share a full read of a table of more than 64 MB, all in one snapshot."""


class Postgres(SqlConnector[PostgresConfig]):
    """Tables and views of a PostgreSQL database, complete or by a growing column.

    Reads one consistent snapshot per stream and leaves the work to COPY, so a read costs the server little more than a dump.
    """

    name = "postgres"
    title = "PostgreSQL"
    docs_url = "https://www.postgresql.org/docs/current/sql-copy.html"
    aliases = ("postgresql",)
    requires = ("asyncpg",)
    settings_type = PostgresSettings
    nulls_first = " NULLS FIRST"

    def open(self, settings: PostgresSettings) -> "PostgresSession":
        return PostgresSession(self, settings)

    def check(self) -> CheckResult:
        try:
            with closing(self.open(PostgresSettings())) as session:
                return CheckResult(True, session.describe())
        except EltError as error:
            return CheckResult(False, str(error))

    def literal(self, value: CursorValue, column: Column) -> str:
        if isinstance(value, str):
            # hexadecimal has nothing to escape, whatever the text holds
            return f"convert_from(decode('{value.encode().hex()}', 'hex'), 'UTF8')"
        if isinstance(value, datetime):
            return f"'{value.isoformat(' ')}'::{'timestamptz' if value.tzinfo else 'timestamp'}"
        if isinstance(value, date):
            return f"'{value.isoformat()}'::date"
        kind = "float8" if isinstance(value, float) else "numeric" if isinstance(value, Decimal) else "int8"
        return f"'{value}'::{kind}"


# --- types -------------------------------------------------------------------------------------------------------------

_SAME: dict[str, pa.DataType] = {
    "bool": pa.bool_(), "int2": pa.int16(), "int4": pa.int32(), "int8": pa.int64(), "oid": pa.int64(), "xid": pa.int64(),
    "float4": pa.float32(), "float8": pa.float64(), "date": pa.date32(), "time": pa.time64("us"),
    "timestamp": TIMESTAMP, "timestamptz": TIMESTAMP_UTC, "interval": pa.month_day_nano_interval(),
    "bytea": pa.binary(), "uuid": UUID, "json": JSON, "jsonb": JSON,
}  # fmt: skip
_COMPARABLE = {"int2", "int4", "int8", "float4", "float8", "date", "timestamp", "timestamptz"}
_NUMERIC: dict[str, tuple[pa.DataType, str]] = {
    "text": (pa.string(), "{}"),
    "decimal(38,9)": (pa.decimal128(38, 9), "round({}, 9)"),
    "double": (pa.float64(), "{}"),
}


def _typed(row: Mapping[str, Any], unconstrained: str) -> tuple[pa.DataType, str, str | None]:
    """Canonical type, SQL expression and cursor expression of a column of the catalog query."""
    name = row["type_name"] if row["type_schema"] == "pg_catalog" else None
    if row["type_category"] == "A" or row["type_kind"] == "c" or row["type_name"] == "hstore":
        return JSON, "to_json({})", None
    if name in _SAME:
        return _SAME[name], "{}", "{}" if name in _COMPARABLE else None
    if name == "numeric":
        return _numeric(row["type_modifier"], unconstrained)
    if name == "money":
        return pa.decimal128(19, 2), "{}::numeric", "{}::numeric"
    # Python compares text by code point, and so must the source
    return pa.string(), "{}", '({} COLLATE "C")' if name in ("text", "varchar") else None


def _numeric(modifier: int, unconstrained: str) -> tuple[pa.DataType, str, str | None]:
    if modifier < 0:
        return *_NUMERIC[unconstrained], None
    precision, scale = (modifier - 4) >> 16 & 0xFFFF, ((modifier - 4 & 0x7FF) ^ 1024) - 1024
    if precision > 38 or not 0 <= scale <= precision:
        return pa.string(), "{}", None
    return pa.decimal128(precision, scale), "{}", "{}"


# --- catalog -----------------------------------------------------------------------------------------------------------

_TABLES = """
WITH RECURSIVE domains AS (
    SELECT oid, typbasetype AS base, typtypmod AS modifier FROM pg_type WHERE typtype = 'd'
    UNION ALL
    SELECT d.oid, t.typbasetype, CASE WHEN d.modifier >= 0 THEN d.modifier ELSE t.typtypmod END
    FROM domains d JOIN pg_type t ON t.oid = d.base WHERE t.typtype = 'd'
)
SELECT n.nspname AS schema, c.relname AS table, c.oid::int8 AS oid, c.relkind::text AS kind, c.reltuples::int8 AS rows,
       coalesce(obj_description(c.oid, 'pg_class'), '') AS table_comment, row_security_active(c.oid) AS row_security,
       a.attname AS column, a.attnotnull AS not_null, coalesce(col_description(c.oid, a.attnum), '') AS comment,
       a.attidentity <> '' OR coalesce(pg_get_expr(s.adbin, s.adrelid) LIKE 'nextval(%', false) AS growing,
       CASE WHEN d.oid IS NULL THEN a.atttypmod ELSE d.modifier END AS type_modifier,
       t.typname AS type_name, t.typtype::text AS type_kind, t.typcategory::text AS type_category,
       tn.nspname AS type_schema, array_position(k.columns, a.attnum) AS key_position
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef s ON s.adrelid = c.oid AND s.adnum = a.attnum
LEFT JOIN domains d ON d.oid = a.atttypid AND NOT EXISTS (SELECT FROM pg_type x WHERE x.oid = d.base AND x.typtype = 'd')
JOIN pg_type t ON t.oid = coalesce(d.base, a.atttypid)
JOIN pg_namespace tn ON tn.oid = t.typnamespace
LEFT JOIN LATERAL (
    SELECT (i.indkey::int2[])[0:i.indnkeyatts - 1] AS columns FROM pg_index i
    WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
      AND NOT EXISTS (SELECT FROM pg_attribute x WHERE x.attrelid = c.oid AND NOT x.attnotnull
                      AND x.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
    ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid LIMIT 1
) k ON true
WHERE c.relkind::text = ANY ($1::text[]) AND NOT c.relispartition
  AND CASE WHEN $2::text[] = '{}' THEN n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
           ELSE n.nspname = ANY ($2) END
  AND ($3::text IS NULL OR n.nspname || '.' || c.relname = $3)
  AND has_schema_privilege(n.oid, 'USAGE') AND has_column_privilege(c.oid, a.attnum, 'SELECT')
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C", a.attnum
"""


def _table(rows: list[Mapping[str, Any]], unconstrained: str) -> Table:
    first = rows[0]
    keys = sorted((r["key_position"], r["column"]) for r in rows if r["key_position"] is not None)
    hidden = "Row-level security is active for this role and may hide rows." if first["row_security"] else ""
    return Table(
        schema=first["schema"],
        name=first["table"],
        columns=tuple(_column(r, unconstrained) for r in rows),
        primary_key=tuple(name for _, name in keys),
        description=" ".join(text for text in (first["table_comment"], hidden) if text),
        rows=max(first["rows"], 0),
        details={"oid": first["oid"], "kind": first["kind"]},
    )


def _column(row: Mapping[str, Any], unconstrained: str) -> Column:
    kind, expression, cursor_expression = _typed(row, unconstrained)
    return Column(
        name=row["column"],
        kind=kind,
        expression=expression,
        cursor_expression=cursor_expression,
        nullable=not row["not_null"],
        growing=row["growing"],
        description=row["comment"],
    )


# --- session -----------------------------------------------------------------------------------------------------------

# Before the snapshot: a transaction that is open when it is taken either was open now, or begins after now. The tenth of a second
# covers the moment between a transaction's start and its showing up. A prepared transaction shows when it was prepared, not begun.
_STATE = """
WITH others AS (
    SELECT * FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND coalesce(backend_type, '') NOT IN ('autovacuum worker', 'walsender') AND application_name <> $1
), bound AS (
    SELECT least(
        clock_timestamp(), (SELECT min(xact_start) FROM others),
        (SELECT min(prepared) - interval '10 minutes' FROM pg_prepared_xacts WHERE database = current_database())
    ) - interval '100 milliseconds' AS at
)
SELECT at, least(at AT TIME ZONE 'UTC', at AT TIME ZONE current_setting('TimeZone')) AS naive,
       pg_is_in_recovery() OR EXISTS (SELECT FROM others WHERE query = '<insufficient privilege>') AS blind,
       pg_is_in_recovery() AS replica, current_setting('server_version') AS version, current_user AS role,
       current_setting('server_version_num')::int AS version_number,
       current_setting('server_encoding') = 'UTF8' AS utf8
FROM bound
"""
_SETTINGS = """
SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL IntervalStyle = 'postgres';
SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex'
"""
_PAGES = "SELECT pg_relation_size($1::oid) / current_setting('block_size')::int8 AS pages, pg_relation_size($1::oid) AS bytes"
_BLIND = "Transactions of other roles are hidden from this one: grant it pg_read_all_stats, or set lookback_seconds, lest late commits be missed."
_REPLICA = (
    "This is a replica, where open transactions cannot be seen: set lookback_seconds, lest late commits be missed."
)


class PostgresSession:
    """One snapshot of a database: a first connection that took it and, where it pays, others that share it."""

    def __init__(self, connector: Postgres, settings: PostgresSettings) -> None:
        self._connector = connector
        self._settings = settings
        self._wire = CopyConnections(
            connector.config,
            application_name=APPLICATION_NAME,
            settings=_SETTINGS,
            environ=connector.runtime.environ,
        )
        try:
            (self._state,) = self._wire.fetch(_STATE, APPLICATION_NAME)
            self._wire.begin()
        except BaseException:
            self._wire.close()
            raise

    def describe(self) -> str:
        """What was reached, in words."""
        config, state, count = self._connector.config, self._state, len(self.tables())
        text = (
            f"Connected to {config.database} on {config.host} as {state['role']}: PostgreSQL {state['version']}, "
            f"{count} readable table{'' if count == 1 else 's'}."
        )
        return f"{text} {self._warning}" if self._warning else text

    def tables(self, stream: Stream | None = None) -> list[Table]:
        """Readable tables, sorted by name; with ``stream`` the one behind it, or none."""
        config = self._connector.config
        kinds = "rpvmf" if config.include_views else "rp"
        rows = self._wire.fetch(_TABLES, list(kinds), list(config.schemas), stream.name if stream else None)
        grouped = groupby(rows, key=lambda r: (r["schema"], r["table"]))
        found = [_table(list(group), self._settings.unconstrained_numeric) for _, group in grouped]
        if stream is None or "table" not in stream.metadata:
            return found
        return [t for t in found if (t.schema, t.name) == (stream.metadata.get("schema"), stream.metadata["table"])]

    def safe_bound(self, column: Column) -> CursorValue | None:
        """Where rows of open transactions may still appear, for points in time."""
        if not (pa.types.is_timestamp(column.kind) or pa.types.is_date(column.kind)):
            return None
        if self._warning:
            self._connector.runtime.log.warning("%s", self._warning)
            return None
        at: datetime = self._state["at"].astimezone(UTC)
        naive: datetime = self._state["naive"]
        if pa.types.is_date(column.kind):
            return naive.date()
        return at if column.kind.tz else naive

    def batches(self, query: Query, batch_bytes: int) -> Generator[tuple[pa.RecordBatch, Mapping[str, int]]]:
        """Rows of ``query``, decoded in the caller's thread while the next block arrives."""
        what = query.table.stream_name
        decoder = CsvDecoder(query.schema, what=what, check_utf8=not self._state["utf8"])
        block_bytes = max(min(BLOCK_BYTES, batch_bytes // 2), 1)
        with closing(self._wire.copy(self._selects(query), block_bytes, what=what)) as blocks:
            for block in blocks:
                data, lost = decoder.decode(block)
                counts = {"non_finite_values": lost} if lost else {}
                for part in split(data, batch_bytes):
                    yield part, counts
                    counts = {}

    def close(self) -> None:
        """Cancel what runs on the server and disconnect. Idempotent."""
        self._wire.close()

    @property
    def _warning(self) -> str:
        return _REPLICA if self._state["replica"] else _BLIND if self._state["blind"] else ""

    def _selects(self, query: Query) -> list[str]:
        """One SELECT, or for a full read of a large table one per range of row addresses, as many as connections were to be had."""
        select, wanted = self._connector.select, self._settings.parallel_reads
        scannable = query.table.details["kind"] in "rm" and self._state["version_number"] >= 140000
        if wanted == 1 or query.conditions or query.ordered or not scannable:
            return [select(query)]
        (size,) = self._wire.fetch(_PAGES, query.table.details["oid"])
        if size["bytes"] < PARALLEL_FROM_BYTES or (parts := self._wire.share(wanted)) == 1:
            return [select(query)]
        return [select(query, *addresses) for addresses in _ranges(size["pages"], parts)]


def _ranges(pages: int, parts: int) -> list[list[str]]:
    """Conditions that cut a table into ``parts``; the last is open, for pages added since."""
    starts = [pages * i // parts for i in range(parts)]
    lows = [[f"ctid >= '({page},0)'"] if page else [] for page in starts]
    highs = [[f"ctid < '({page},0)'"] for page in starts[1:]] + [[]]
    return [low + high for low, high in zip(lows, highs, strict=True)]


connector = Postgres
