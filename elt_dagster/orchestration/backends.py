"""Streams that something else loads: external assets, and steps that hand their stream to Prefect or Temporal and follow it.

Dagster's part stays: the asset, its freshness and history, retries, cancel, the lease (so that no two runs load one table), and whatever
the work tells about itself. What a binding asks for (columns left out or hashed, deletes, history) is the work's to do.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from elt_dagster.control.backends import require_backend
from elt_dagster.control.configured import ConfiguredSync
from elt_dagster.destinations.base import TableRef
from elt_dagster.engine import ResolvedBinding, StreamRead
from elt_dagster.errors import ConfigError, EltError
from elt_dagster.model import ExecutionBackend, RunMode
from elt_dagster.model.backend import filled
from elt_dagster.orchestration._backend_follow import Backend, Clock, Follower, Sight, patient
from elt_dagster.orchestration.metadata import (
    BYTES_READ,
    COLUMN_SCHEMA,
    ROW_COUNT,
    ROWS_DELETED,
    ROWS_INSERTED,
    ROWS_READ,
    ROWS_REJECTED,
    ROWS_UPDATED,
    RUN_MODE,
    SECONDS,
    STREAM,
    table_schema,
)
from elt_dagster.sdk.cancellation import cancelled

BACKEND = "elt/backend"
BACKEND_RUN = "elt/backend_run"
BACKEND_STATUS = "elt/backend_status"
BACKEND_URL = "elt/backend_url"
BACKEND_HEARTBEAT = "elt/backend_heartbeat_at"
NUMBERS = {
    "rows": ROWS_READ,
    "rows_inserted": ROWS_INSERTED,
    "rows_updated": ROWS_UPDATED,
    "rows_deleted": ROWS_DELETED,
    "rows_rejected": ROWS_REJECTED,
    "bytes": BYTES_READ,
    "table_rows": ROW_COUNT,
}
"""What completed work may tell about itself, and the metadata that it becomes."""


def is_native(sync: ConfiguredSync) -> bool:
    """Whether Dagster itself loads the tables of ``sync``."""
    return sync.spec.execution_backend is ExecutionBackend.NATIVE


def external_asset(spec: dg.AssetSpec) -> dg.AssetsDefinition:
    """An asset that others report: ``spec`` with nothing in it that could be run."""
    return dg.AssetsDefinition(specs=[spec.replace_attributes(automation_condition=None)])


@dataclass(frozen=True, kw_only=True)
class Handover:
    """One stream of one run, handed to the sync's backend."""

    sync: ConfiguredSync
    resolved: ResolvedBinding
    read: StreamRead
    context: dg.AssetExecutionContext
    key: dg.AssetKey

    def run(self) -> dict[str, Any]:
        """Have it loaded; what the materialization says about it. Raises EltError, and cancels the work when the step is cancelled."""
        self._refuse_protected()
        spec, say = self.sync.spec, self.context.log.warning
        started = time.monotonic()
        with self.read.leased(cancelled, say), opened(self.sync) as backend:
            follower = Follower(
                backend=backend,
                stream=self.read.binding.name,
                poll_seconds=spec.backend.poll_seconds,
                timeout_seconds=spec.backend.timeout_seconds,
                clock=Clock(now=time.monotonic, sleep=patient(cancelled)),
                notice=self._notice,
                alive=self._alive,
            )
            key = f"elt-{self.read.run_id}-{self.read.state_id}"
            parameters: Mapping[str, Any] = filled(spec.backend.parameters, self._values())
            sight = follower.run(key, spec.slug, parameters, self.context.retry_number)
            told = reported(backend.result(sight.reference), say)
        return {
            STREAM: self.read.binding.name,
            RUN_MODE: self.read.run_mode.value,
            SECONDS: round(time.monotonic() - started, 3),
            **sight_metadata(spec.execution_backend, sight),
            **self._columns(),
            **told,
        }

    def _columns(self) -> dict[str, Any]:
        """The table's columns as the warehouse knows them now; nothing where it does not say, for the load is done."""
        try:
            found = self.sync.open_destination().columns(TableRef(self.sync.spec.dataset, self.read.binding.table_name))
        except EltError as error:
            self.context.log.warning(f"The columns of the table are not known: {error}")
            return {}
        return {COLUMN_SCHEMA: table_schema(found)} if found is not None else {}

    def _refuse_protected(self) -> None:
        binding, full = self.read.binding, self.read.run_mode is RunMode.FULL_REFRESH
        if (
            full
            and binding.protected_from_full_sync
            and self.context.instance.get_latest_materialization_event(self.key)
        ):
            raise ConfigError(
                f"Stream {binding.name!r} is protected from full refresh.",
                fix="Run it incrementally, or take protected_from_full_sync away first.",
            )

    def _values(self) -> dict[str, Any]:
        spec, window = self.sync.spec, self.read.window
        full = self.read.binding.full_sync_always
        return {
            "sync": spec.slug,
            "stream": self.read.binding.name,
            "connection": spec.connection,
            "destination": spec.destination,
            "schema": spec.dataset,
            "table": self.read.binding.table_name,
            "load_mode": self.resolved.load_mode.value,
            "run_mode": RunMode.FULL_REFRESH.value if full else self.read.run_mode.value,
            "run_id": self.read.run_id,
            "window_start": window.start.isoformat() if window is not None else None,
            "window_end": window.end.isoformat() if window is not None else None,
        }

    def _notice(self, sight: Sight) -> None:
        """An observation per change of status, so that the asset's page leads to the work while it runs."""
        self.context.log.info(f"{self.read.binding.name}: {_line(sight)}")
        metadata = sight_metadata(self.sync.spec.execution_backend, sight)
        self.context.log_event(dg.AssetObservation(asset_key=self.key, metadata=metadata))

    def _alive(self, sight: Sight) -> None:
        self.context.log.info(f"{self.read.binding.name}: still {_line(sight)}")


@contextmanager
def opened(sync: ConfiguredSync) -> Iterator[Backend]:
    """The backend of ``sync``, connected for one step."""
    backend = open_backend(sync, patient(cancelled))
    try:
        yield backend
    finally:
        backend.close()


def open_backend(sync: ConfiguredSync, sleep: Callable[[float], None]) -> Backend:
    """The client of the sync's backend. Raises ConfigError for what it lacks, TransientError when it is out of reach."""
    require_backend(sync.spec, sync.runtime.environ)
    if sync.spec.execution_backend is ExecutionBackend.PREFECT:
        from elt_dagster.orchestration._backend_prefect import PrefectBackend

        return PrefectBackend(sync.spec, sync.runtime, sleep)
    from elt_dagster.orchestration._backend_temporal import TemporalBackend

    return TemporalBackend(sync.spec, sync.runtime)


def sight_metadata(backend: ExecutionBackend, sight: Sight) -> dict[str, Any]:
    """Where the work is and how it does."""
    heartbeat = sight.heartbeat or datetime.now(UTC)
    metadata: dict[str, Any] = {
        BACKEND: backend.value,
        BACKEND_RUN: sight.reference,
        BACKEND_STATUS: sight.status,
        BACKEND_HEARTBEAT: heartbeat.astimezone(UTC).isoformat(),
    }
    return {**metadata, BACKEND_URL: dg.MetadataValue.url(sight.url)} if sight.url else metadata


def reported(result: object, say: Callable[[str], None]) -> dict[str, Any]:
    """The numbers of ``result`` as metadata. ``say`` hears of what is no number, by its name; nothing of it fails the load."""
    if result is None:
        return {}
    if not isinstance(result, Mapping):
        say(
            "The result is no mapping with numbers such as `rows`, so that nothing is known about the load; see docs/backends.md."
        )
        return {}
    numbers = {name: result[name] for name in NUMBERS if result.get(name) is not None}
    good = {n: v for n, v in numbers.items() if isinstance(v, int) and not isinstance(v, bool) and v >= 0}
    for name in numbers.keys() - good.keys():
        say(f"The result's {name} is no whole number, and left out.")
    return {NUMBERS[name]: value for name, value in good.items()}


def _line(sight: Sight) -> str:
    return f"{sight.status}, {sight.url or sight.reference}"
