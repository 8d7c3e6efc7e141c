"""Sources and warehouses as Dagster resources, for assets of a user's own that need no sync.

```python
@dg.asset
def customers(shop: SourceResource, warehouse: WarehouseResource) -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata=warehouse.write("raw_shop.customers", shop.batches("public.customers")))


defs = dg.Definitions(
    assets=[customers],
    resources={
        "shop": SourceResource(connector="postgres", config={"host": "db", "password": {"env": "SHOP_DB_PASSWORD"}, ...}),
        "warehouse": WarehouseResource(connection="warehouse"),  # one of the store
    },
)
```
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import dagster as dg
import pyarrow as pa
from pydantic import Field, model_validator

from elt_dagster.control.configured import Connections, open_connector, open_warehouse
from elt_dagster.control.connections import InlineConnections, StoreConnections
from elt_dagster.control.tables import TableWrite, owner_of, read_table, table_ref, write_table
from elt_dagster.errors import ConfigError, nearest
from elt_dagster.model import Catalog, ConnectionSpec, LoadMode, ReadRequest
from elt_dagster.orchestration.errors import dagster_errors
from elt_dagster.orchestration.frames import from_reader, to_reader
from elt_dagster.orchestration.io_manager import WarehouseIOManager, warehouse_io_manager
from elt_dagster.orchestration.literals import refuse_literal_secrets
from elt_dagster.orchestration.metadata import TABLE_NAME, URI, written_metadata
from elt_dagster.store import DEFAULT_WORKSPACE, open_store

T = TypeVar("T")


class _Connected(dg.ConfigurableResource):  # type: ignore[type-arg]  # what it provides is itself
    """A connection: of the store by name, or a connector with its settings."""

    connection: str = Field(default="", description="A connection of the store; else connector and config.")
    connector: str = Field(default="", description="Such as postgres or duckdb; elt-dagster connectors lists them.")
    config: dict[str, Any] = Field(
        default={}, description="The connector's settings. A secret is {env: NAME} or {file: PATH}, never a literal."
    )
    workspace: str = Field(default=DEFAULT_WORKSPACE, description="Of the store, for a connection.")

    @model_validator(mode="after")
    def _one_way(self) -> "_Connected":
        """Dagster shows a resource's settings to everybody, hence no literal secret."""
        if bool(self.connection) == bool(self.connector):
            raise ConfigError(
                f"A {type(self).__name__} names a connection of the store, or a connector and its config.",
                fix="Set one of connection and connector.",
            )
        if self.connector:
            refuse_literal_secrets(self._spec)
        return self

    @property
    def _spec(self) -> ConnectionSpec:
        return ConnectionSpec(name=self.connector, connector=self.connector, config=self.config)

    @property
    def _named(self) -> tuple[Connections, str]:
        if self.connection:
            return StoreConnections(open_store(None), self.workspace), self.connection
        return InlineConnections([self._spec]), self.connector


class SourceResource(_Connected):
    """A source whose streams an asset reads by itself. Every read is a whole read; a sync is what goes on from a checkpoint."""

    def streams(self, settings: Mapping[str, Any] | None = None) -> Catalog:
        """What can be read. Fails the step where the source refuses."""
        with dagster_errors():
            return open_connector(*self._named).discover(settings)

    def batches(
        self, stream: str, *, columns: Sequence[str] | None = None, settings: Mapping[str, Any] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """All rows of ``stream``, a batch at a time, with canonical types and the source's names; later batches may have further columns.

        Fails the step for an unknown stream or column (with the nearest name), or where the source refuses.
        """
        with dagster_errors():
            source = open_connector(*self._named)
            found = source.discover(settings)[stream]
            known = found.schema.names if found.schema is not None else []
            for name in columns or ():
                if known and name not in known:
                    raise ConfigError(f"The stream {stream!r} has no column {name!r}.", fix=nearest(name, known))
            wanted = tuple(columns) if columns is not None else tuple(known) or None
            for batch in source.read(ReadRequest(stream=found, columns=wanted, settings=settings or {})):
                yield batch.data

    def table(self, stream: str, *, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of ``stream`` in memory; where columns came later, earlier rows are NULL in them."""
        tables = [pa.Table.from_batches([batch]) for batch in self.batches(stream, columns=columns)]
        return pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})


class WarehouseResource(_Connected):
    """A warehouse whose tables an asset reads and writes by itself."""

    def read(self, table: str, kind: type[T] = pa.Table, *, columns: Sequence[str] | None = None) -> T:
        """``schema.table`` as a ``kind``: a pandas or polars frame, ``pa.Table``, ``pa.RecordBatchReader`` or a DuckDB relation."""
        with dagster_errors():
            destination, ref = open_warehouse(*self._named), table_ref(table)
            made: T = from_reader(
                kind,
                lambda chosen: read_table(destination, ref, chosen),
                list(columns) if columns is not None else None,
            )
            return made

    def write(
        self,
        table: str,
        data: object,
        *,
        mode: str = LoadMode.REPLACE.value,
        primary_key: Sequence[str] = (),
        once: str = "",
    ) -> dict[str, Any]:
        """Write ``data`` (a frame, or an iterable of record batches) to ``schema.table`` in one transaction; the metadata of what was done.

        ``mode`` is replace, append or merge (by ``primary_key``). ``once`` names an append, such as a run id: when the table's last write
        had the same name, nothing is written, so that a step that is tried again doubles nothing.
        """
        with dagster_errors():
            destination, ref = open_warehouse(*self._named), table_ref(table)
            write = TableWrite(
                table=ref,
                owner=owner_of(ref.schema, ref.name),
                mode=_mode(mode),
                primary_key=tuple(primary_key),
                once=once,
            )
            done = write_table(destination, write, _batches(data))
            return {**written_metadata(done), TABLE_NAME: str(ref), URI: destination.uri(ref)}

    def io_manager(self) -> WarehouseIOManager:
        """For ``resources={"warehouse_io": warehouse.io_manager()}``: writes what assets return, hands tables to those that ask."""
        return warehouse_io_manager(*self._named)


def _mode(text: str) -> LoadMode:
    known = [m.value for m in LoadMode]
    if text not in known:
        raise ConfigError(f"{text!r} is no load mode.", fix=nearest(text, known))
    return LoadMode(text)


def _batches(data: Any) -> Iterable[pa.RecordBatch]:
    if not isinstance(data, Iterator | list | tuple) or hasattr(data, "__arrow_c_stream__"):
        reader: Iterable[pa.RecordBatch] = to_reader(data)
        return reader
    return (batch if isinstance(batch, pa.RecordBatch) else _refused(batch) for batch in data)


def _refused(item: object) -> pa.RecordBatch:
    raise ConfigError(f"Rows came as {type(item).__name__}.", fix="Hand over a frame, or Arrow record batches.")
