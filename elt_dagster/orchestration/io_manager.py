"""Between assets and a warehouse: loads what an asset returns, hands tables to assets that ask for them.

There is one object per destination connection in a process, whichever sync asks for it, because `Definitions.merge` refuses two
resources under one key. The key is the connection's name with hyphens as underscores, and ``_io``: ``warehouse_io``.
"""

import threading
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pyarrow as pa

from elt_dagster.control.configured import Connections, derived_id, open_warehouse
from elt_dagster.destinations.base import Destination, LoadPlan, TableRef
from elt_dagster.engine import Progress, StreamRead, resolve_binding
from elt_dagster.engine.transform import canonical_batch
from elt_dagster.errors import ConfigError
from elt_dagster.model import LoadMode
from elt_dagster.orchestration.errors import dagster_errors
from elt_dagster.orchestration.frames import from_reader, to_reader
from elt_dagster.orchestration.metadata import (
    BYTES_READ,
    COLUMN_SCHEMA,
    ROW_COUNT,
    ROWS_INSERTED,
    ROWS_READ,
    SECONDS,
    SOURCE_TABLE,
    TABLE_NAME,
    URI,
    result_metadata,
    table_schema,
)
from elt_dagster.orchestration.progress import Throttled
from elt_dagster.sdk.cancellation import cancelled

COLUMNS = "columns"
"""Input metadata: ``AssetIn(metadata={"columns": ["id", "amount"]})`` reads only these."""


class WarehouseIOManager(dg.IOManager):
    """Assets in one warehouse. Making it does nothing; secrets are opened in the step that connects."""

    def __init__(self, connections: Connections, name: str) -> None:
        self._connections, self._name = connections, name

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Drain a `StreamRead` into its table, or replace the asset's table with a frame of the user's own."""
        if isinstance(obj, StreamRead):
            with dagster_errors(obj.sync.execution, attempt=_attempt(context), stream=obj.binding.name):
                self._load(context, obj)
        else:
            with dagster_errors():
                self._replace(context, obj)

    def load_input(self, context: dg.InputContext) -> Any:
        """The upstream asset's table as the parameter's annotation wants it; see `frames`. Without annotation a ``pa.Table``."""
        with dagster_errors():
            upstream = context.upstream_output
            table = _table_of(context.asset_key, upstream.definition_metadata if upstream is not None else {})
            destination = self._destination()
            wanted = (context.definition_metadata or {}).get(COLUMNS)
            columns = [str(c) for c in wanted] if wanted is not None else None
            kind = context.dagster_type.typing_type
            return from_reader(kind, lambda columns: destination.read(table, columns), columns)

    def _destination(self) -> Destination[Any]:
        return open_warehouse(self._connections, self._name)

    def _load(self, context: dg.OutputContext, read: StreamRead) -> None:
        progress = Throttled(context.log.info)
        result = read.load(progress, cancelled, context.log.warning)
        progress.finish()
        resolved = resolve_binding(read.binding, read.stream)
        table = TableRef(read.sync.dataset, read.binding.table_name)
        context.add_output_metadata(
            {
                **result_metadata(
                    result,
                    resolved,
                    now=datetime.now(UTC),
                    source=_source_of(context.definition_metadata),
                    is_partition=context.has_asset_partitions and len(context.asset_partition_keys) == 1,
                ),
                URI: self._destination().uri(table),
            }
        )

    def _replace(self, context: dg.OutputContext, value: object) -> None:
        table = _table_of(context.asset_key, context.definition_metadata)
        reader = to_reader(value)
        destination = self._destination()
        binding_id = derived_id("asset", *context.asset_key.path)
        state = destination.state(table.schema, binding_id)
        empty = canonical_batch(pa.RecordBatch.from_pylist([], reader.schema))
        plan = LoadPlan(
            table=table,
            columns=empty.schema,
            mode=LoadMode.REPLACE,
            binding_id=binding_id,
            load_id=uuid.uuid4().hex,
            run_id=context.run_id,
            after_load=state.load_id if state is not None else None,
        )
        started, rows, size = datetime.now(UTC), 0, 0
        progress = Throttled(context.log.info)
        with destination.begin(plan) as load:
            for batch in reader:
                load.stage(canonical_batch(batch))
                rows, size = rows + batch.num_rows, size + batch.nbytes
                progress(Progress(table.name, rows, size, (datetime.now(UTC) - started).total_seconds()))
            done = load.commit(None)
        progress.finish()
        context.add_output_metadata(
            {
                ROW_COUNT: done.table_rows,
                COLUMN_SCHEMA: table_schema(done.columns if done.columns is not None else empty.schema),
                TABLE_NAME: str(table),
                URI: destination.uri(table),
                ROWS_READ: rows,
                ROWS_INSERTED: done.inserted,
                BYTES_READ: size,
                SECONDS: round((datetime.now(UTC) - started).total_seconds(), 3),
            }
        )


_managers: dict[tuple[str, str], WarehouseIOManager] = {}
_lock = threading.Lock()


def warehouse_io_manager(connections: Connections, name: str) -> WarehouseIOManager:
    """The one IO manager of destination connection ``name``. Raises NotFoundError when there is no such connection."""
    with _lock:
        return _managers.setdefault((name, connections.identity(name)), WarehouseIOManager(connections, name))


def io_manager_key(name: str) -> str:
    """The resource key of destination connection ``name``."""
    return f"{name.replace('-', '_')}_io"


def _attempt(context: dg.OutputContext) -> int:
    """How often this step was tried before. `OutputContext` does not say, but its step does."""
    return context.step_context.previous_attempt_count


def _source_of(metadata: Mapping[str, Any]) -> dg.AssetKey | None:
    """The key that column lineage leads to; a translator may have put another one there, or none."""
    named = metadata.get(SOURCE_TABLE)
    return named.asset_key if isinstance(named, dg.DagsterAssetMetadataValue) else None


def _table_of(key: dg.AssetKey, metadata: Mapping[str, Any]) -> TableRef:
    """The table of an asset: what ``dagster/table_name`` says, else the last two parts of its key. Raises ConfigError."""
    named = metadata.get(TABLE_NAME)
    text = getattr(named, "value", named)
    parts = str(text).split(".")[-2:] if text is not None else list(key.path)[-2:]
    if len(parts) != 2 or not all(parts):
        raise ConfigError(
            f"The asset {key.to_user_string()!r} does not say which table it is.",
            fix=f"Give it a key [schema, table], or metadata {{'{TABLE_NAME}': 'schema.table'}}.",
        )
    return TableRef(parts[0], parts[1])
