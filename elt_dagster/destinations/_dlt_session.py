"""A warehouse that dlt can reach, opened for a moment: its catalogue, its rows, and our state in it.

``_elt_state`` is a log here: a row per commit, the one with the highest ``position`` of a binding is its state, the last 20 are its history. One INSERT is all or
nothing in every warehouse, which an UPDATE of one table and an INSERT into another are not.
"""

import base64
import contextlib
import json
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from elt_dagster.destinations._dlt_errors import explaining
from elt_dagster.destinations._dlt_rows import CELLS
from elt_dagster.destinations._dlt_runtime import library
from elt_dagster.destinations._dlt_types import canonical_type, dlt_column, schema_name
from elt_dagster.destinations.base import DELETED_AT, HISTORY_LENGTH, STATE_TABLE, State, TableRef
from elt_dagster.destinations.dropping import is_ours, states_of, theirs
from elt_dagster.destinations.state import COLUMNS, from_row

_COLUMNS = f"{COLUMNS}, position"
_NAMES = _COLUMNS.split(", ")
_NUMBERS = {"fence", "position"}


@dataclass(frozen=True, slots=True)
class Session:
    """An open connection to one schema ("dataset") of a warehouse."""

    client: Any
    """dlt's `SqlJobClientBase`."""
    destination: str

    @property
    def sql(self) -> Any:
        """dlt's `SqlClientBase`."""
        return self.client.sql_client

    def exists(self) -> bool:
        """Whether there is such a schema."""
        return bool(self.client.is_storage_initialized())

    def rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """All rows of a small result; parameters stand for ``%s``."""
        return [tuple(row) for row in self.sql.execute_sql(statement, *parameters) or ()]

    def table(self, name: str) -> str:
        """The full, quoted name of a table of this schema."""
        return str(self.sql.make_qualified_table_name(name))

    def column(self, name: str) -> str:
        """The quoted name of a column."""
        return str(self.sql.escape_column_name(name))

    def columns(self, table: TableRef) -> pa.Schema | None:
        """The columns of ``table`` with canonical types, without the mark that dlt's hard deletes need; None when there is no such table."""
        found = self._found(table.name)
        if not found:
            return None
        stored = self._stored(table)
        fields = {name: pa.field(name, canonical_type(column, stored.get(name))) for name, column in found.items()}
        described = {
            name: {"description": str(stored[name]["description"])}
            for name in fields
            if stored.get(name, {}).get("description")
        }
        return pa.schema([f.with_metadata(described.get(n)) for n, f in fields.items() if n != DELETED_AT])

    def count(self, table: TableRef) -> int:
        """The number of rows in ``table``."""
        return int(self.rows(f"SELECT COUNT(*) FROM {self.table(table.name)}")[0][0])

    def read(self, table: TableRef, columns: pa.Schema, where: Mapping[str, tuple[Any, Any]]) -> Iterator[pa.Table]:
        """``columns`` of the rows in half-open ranges ``where`` (a bound of None is open), lazily, in whatever types the driver gives."""
        terms, bounds = [], []
        for name, ends in where.items():
            for bound, compare in zip(ends, (">=", "<"), strict=True):
                if bound is not None:
                    terms.append(f"{self.column(name)} {compare} %s")
                    bounds.append(bound)
        names = ", ".join(self.column(name) for name in columns.names)
        query = f"SELECT {names} FROM {self.table(table.name)}" + (f" WHERE {' AND '.join(terms)}" if terms else "")
        with self.sql.execute_query(query, *bounds) as cursor:
            cursor.columns_schema = {field.name: dlt_column(field) for field in columns}
            for found in cursor.iter_arrow(chunk_size=max(1_024, CELLS // max(1, len(columns)))):
                yield pa.table(found.columns, names=columns.names)

    def tables(self) -> dict[str, bool]:
        """The names in this schema, and whether each is a view."""
        if dialect := getattr(
            self.sql, "dialect", None
        ):  # dlt's sqlalchemy, which goes to warehouses without that catalogue too
            views = set(dialect.get_view_names(self.sql.native_connection, self.schema))
            return dict.fromkeys(
                dialect.get_table_names(self.sql.native_connection, self.schema), False
            ) | dict.fromkeys(views, True)
        catalogue, schema, _ = self.sql._get_information_schema_components()  # as dlt's own clients ask for columns
        query = f"SELECT table_name, table_type FROM {self.sql._qualify_info_schema_table_name('TABLES')} WHERE table_schema = %s"
        found = self.rows(
            query + (" AND table_catalog = %s" if catalogue else ""), schema, *([catalogue] if catalogue else [])
        )
        return {str(name): "VIEW" in str(kind).upper() for name, kind in found}

    # --- state

    def states(self, *, last: int = 1) -> list[State]:
        """The ``last`` states of every binding, newest first, bindings ordered by table."""
        if not self.exists() or not self._found(STATE_TABLE):
            return []
        names = ", ".join(self.column(name) for name in _NAMES)
        rows = self.rows(f"SELECT {names} FROM {self.table(STATE_TABLE)}")
        newest = sorted(rows, key=lambda row: (row[1], row[0], -int(row[-1])))
        seen: dict[str, int] = {}
        kept: list[State] = []
        for row in newest:
            seen[row[0]] = seen.get(row[0], 0) + 1
            if seen[row[0]] <= last:
                kept.append(from_row(self.schema, [*row[:5], int(row[5]), row[6]]))
        return kept

    @property
    def schema(self) -> str:
        """The name of the schema."""
        return str(self.sql.dataset_name)

    def save(self, states: Sequence[State]) -> None:
        """Make each of ``states`` the newest of its binding: one statement, so all of them or none. What is older than the history goes afterwards."""
        self._make_state_table()
        table, binding, position = self.table(STATE_TABLE), self.column("binding_id"), self.column("position")
        tops = {
            str(row[0]): int(row[1])
            for row in self.rows(f"SELECT {binding}, MAX({position}) FROM {table} GROUP BY {binding}")
        }
        rows = [[*_values(state), tops.get(state.binding_id, 0) + 1] for state in states]
        places = ", ".join(["(" + ", ".join(["%s"] * len(_NAMES)) + ")"] * len(rows))
        names = ", ".join(self.column(name) for name in _NAMES)
        self.rows(f"INSERT INTO {table} ({names}) VALUES {places}", *(value for row in rows for value in row))
        for row in rows:
            if row[-1] > HISTORY_LENGTH:
                self.rows(
                    f"DELETE FROM {table} WHERE {binding} = %s AND {position} <= %s", row[0], row[-1] - HISTORY_LENGTH
                )

    def drop(self, binding_ids: Collection[str]) -> tuple[TableRef, ...]:
        """Remove the tables and states of bindings, and what dlt knows of these tables; the tables that were there. The states go last."""
        gone = states_of(self.states(), binding_ids)
        known = self.tables() if gone else {}
        dropped: list[TableRef] = []
        for table, marks in theirs(gone).items():
            found = self.columns(table) if known.get(table.name) is False else None
            if found is None or not is_ours(found.names, marks):
                continue
            self.rows(f"DROP TABLE {self.table(table.name)}")
            dropped.append(table)
        for table in {state.table for state in gone}:
            # dlt would take the table for being there still
            self.forget_old_schemas(table, "")
        binding = self.column("binding_id")
        for one in sorted({state.binding_id for state in gone}):
            self.rows(f"DELETE FROM {self.table(STATE_TABLE)} WHERE {binding} = %s", one)
        return tuple(dropped)

    def _make_state_table(self) -> None:
        """By dlt, which knows each warehouse's words for text and numbers."""
        if not self.exists():
            self.client.initialize_storage()
        if self._found(STATE_TABLE):
            return
        dlt = library()
        schema = dlt.Schema(STATE_TABLE.strip("_"))
        columns = {
            n: {"name": n, "data_type": "bigint" if n in _NUMBERS else "text", "nullable": False} for n in _NAMES
        }
        schema.update_table(
            {"name": STATE_TABLE, "columns": columns, "write_disposition": "append", "resource": STATE_TABLE}
        )
        schema = dlt.Schema.from_dict(schema.to_dict())  # with the version that belongs to its content
        before, self.client.schema = self.client.schema, schema
        try:
            self.client.update_stored_schema(force=True)
        finally:
            self.client.schema = before

    # --- what dlt knows

    def _found(self, table: str) -> dict[str, Any]:
        if not self.exists():
            return {}
        return dict(self.client.get_storage_table(table)[1])

    def _stored(self, table: TableRef) -> dict[str, Any]:
        """The columns as dlt's newest schema of ``table`` has them; empty when dlt did not make it."""
        if not self._found(self.client.schema.version_table_name):
            return {}
        info = self.client.get_stored_schema(schema_name(table))
        if info is None:
            return {}
        text = info.schema if info.schema.startswith("{") else zlib.decompress(base64.b64decode(info.schema))
        tables = json.loads(text)["tables"]
        return dict(tables.get(table.name, {}).get("columns", {}))

    def forget_old_schemas(self, table: TableRef, keep: str) -> None:
        """Remove what dlt's schema of ``table`` was before the version ``keep``: dlt adds a row with all of it at every load."""
        name, version = (self.column(n) for n in ("schema_name", "version_hash"))
        versions = self.table(self.client.schema.version_table_name)
        self.rows(f"DELETE FROM {versions} WHERE {name} = %s AND {version} <> %s", schema_name(table), keep)


def _values(state: State) -> list[Any]:
    checkpoint = json.dumps(state.checkpoint.to_json(), sort_keys=True)
    return [
        state.binding_id,
        state.table.name,
        checkpoint,
        state.load_id,
        state.run_id,
        state.fence,
        state.committed_at.isoformat(),
    ]


@contextlib.contextmanager
def open_session(make_factory: Callable[[], Any], schema: str, *, destination: str, doing: str) -> Iterator[Session]:
    """Connect with dlt's own client. Raises ConfigError, AuthError, TransientError or DestinationError, and none of dlt's."""
    with explaining(doing, destination):
        factory = make_factory()
        config = factory.spec()._bind_dataset_name(schema)  # as dlt's own pipeline does
        client = factory.client(library().Schema("elt"), config)
        with client:
            yield Session(client, destination)
