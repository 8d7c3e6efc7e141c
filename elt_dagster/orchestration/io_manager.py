"""Between assets and a warehouse: loads what an asset returns, hands tables to assets that ask for them.

There is one object per destination connection in a process, whichever sync asks for it, because `Definitions.merge` refuses two
resources under one key. The key is the connection's name with hyphens as underscores, and ``_io``: ``warehouse_io``.
"""

import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from elt_dagster.control.configured import Connections, open_warehouse
from elt_dagster.control.tables import read_table, write_table
from elt_dagster.destinations.base import Destination, TableRef
from elt_dagster.engine import Observer, Progress, StreamRead, resolve_binding
from elt_dagster.orchestration.errors import dagster_errors
from elt_dagster.orchestration.frame_plans import rows_read, table_of, table_write
from elt_dagster.orchestration.frames import from_reader, to_reader
from elt_dagster.orchestration.heartbeat import ended, moving
from elt_dagster.orchestration.metadata import (
    EXPECTED,
    PARTITION_ROW_COUNT,
    SOURCE_TABLE,
    TABLE_NAME,
    URI,
    result_metadata,
    written_metadata,
)
from elt_dagster.orchestration.progress import Throttled
from elt_dagster.sdk.cancellation import cancelled

COLUMNS = "columns"
"""Input metadata: ``AssetIn(metadata={"columns": ["id", "amount"]})`` reads only these."""
EXPECTING_SECONDS = 1.0
"""A load that is over sooner tells how many rows it expected only with what came of it."""


class WarehouseIOManager(dg.IOManager):
    """Assets in one warehouse. Making it does nothing; secrets are opened in the step that connects."""

    def __init__(self, connections: Connections, name: str) -> None:
        self._connections, self._name = connections, name

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Drain a `StreamRead` into its table, or write a frame of the user's own as `frame_plans` says."""
        if isinstance(obj, StreamRead):
            try:
                with dagster_errors(obj.sync.execution, attempt=_attempt(context), stream=obj.binding.name):
                    self._load(context, obj)
            except BaseException:
                ended(context.run_id, context.step_key)
                raise
        else:
            with dagster_errors():
                self._write(context, obj)

    def load_input(self, context: dg.InputContext) -> Any:
        """The upstream asset's table as the parameter's annotation wants it; see `frames`. Without annotation a ``pa.Table``."""
        with dagster_errors():
            upstream = context.upstream_output
            metadata = upstream.definition_metadata if upstream is not None else {}
            table, rows = table_of(context.asset_key, metadata), rows_read(context, metadata)
            destination = self._destination()
            wanted = (context.definition_metadata or {}).get(COLUMNS)
            columns = [str(c) for c in wanted] if wanted is not None else None
            kind = context.dagster_type.typing_type
            return from_reader(kind, lambda columns: read_table(destination, table, columns, rows), columns)

    def _destination(self) -> Destination[Any]:
        return open_warehouse(self._connections, self._name)

    def _load(self, context: dg.OutputContext, read: StreamRead) -> None:
        progress = Throttled(context.log.info)
        alive = moving(context.run_id, context.step_key, cancelled)
        result = read.load(_Expecting(context, progress), alive, context.log.warning)
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

    def _write(self, context: dg.OutputContext, value: object) -> None:
        write = table_write(context)
        destination = self._destination()
        started = datetime.now(UTC)
        progress = Throttled(context.log.info)

        def tell(rows: int, size: int) -> None:
            progress(Progress(write.table.name, rows, size, (datetime.now(UTC) - started).total_seconds()))

        done = write_table(destination, write, to_reader(value), tell)
        progress.finish()
        if done.repeated:
            context.log.info(f"{write.table}: this run appended its rows before; nothing was written again.")
        context.add_output_metadata(
            {
                **written_metadata(done),
                **({PARTITION_ROW_COUNT: done.rows} if write.rows is not None else {}),
                TABLE_NAME: str(write.table),
                URI: destination.uri(write.table),
            }
        )


class _Expecting:
    """An engine observer that notes once how many rows a load expects, for those who look at it while it runs; and passes all on to ``then``."""

    def __init__(self, context: dg.OutputContext, then: Observer) -> None:
        self._context, self._then, self._told = context, then, False

    def __call__(self, progress: Progress) -> None:
        if not self._told and progress.expected is not None and progress.seconds >= EXPECTING_SECONDS:
            self._told = True
            seen = dg.AssetObservation(self._context.asset_key, metadata={EXPECTED: progress.expected})
            self._context.log_event(seen)
        self._then(progress)


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
