"""A source that does as its configuration says: rows that grow, streams that fail, stumble or take their time."""

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field, SecretStr

from elt_dagster.errors import AuthError, TransientError
from elt_dagster.model import Batch, Catalog, Checkpoint, CheckResult, ReadRequest, Stream
from elt_dagster.model.types import TIMESTAMP_UTC, column
from elt_dagster.sdk.arrow import highest
from elt_dagster.sdk.connector import Config, Connector

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
ORDERS = pa.schema(
    [
        column("id", pa.int64(), nullable=False, description="The order's number."),
        column("updated_at", TIMESTAMP_UTC),
        column("amount", pa.decimal128(12, 2)),
    ]
)
CUSTOMERS = pa.schema([column("id", pa.int64(), nullable=False), column("email", pa.string())])
STREAMS = (
    Stream(
        name="public.orders",
        schema=ORDERS,
        primary_key=("id",),
        cursor_field="updated_at",
        cursor_fields=("updated_at",),
        ordered=True,
        description="What was bought.",
    ),
    Stream(name="public.customers", schema=CUSTOMERS, primary_key=("id",)),
    Stream(name="public.items", schema=CUSTOMERS, primary_key=("id",), depends_on=("public.orders",)),
)


class ScriptedConfig(Config):
    """What happens when it is read."""

    password: SecretStr = SecretStr("none")
    rows: int = 3
    batch_rows: int = 1000
    folder: str = ""
    """Holds what tests change between runs: ``<stream>.fail``, ``<stream>.busy`` (how many more times), ``<stream>.slow``, ``rows``."""
    delay: float = Field(default=0.0, ge=0)


class Scripted(Connector[ScriptedConfig]):
    """A source for tests."""

    name: ClassVar[str] = "scripted"
    title: ClassVar[str] = "Scripted"
    docs_url: ClassVar[str] = "https://example.com"

    def check(self) -> CheckResult:
        """It is always there."""
        return CheckResult(ok=True, message="here")

    def discover(self, settings: Mapping[str, Any] | None = None) -> Catalog:
        """Three streams."""
        return Catalog(STREAMS)

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        """Rows 1 to ``rows``, one second apart, after whatever the folder says."""
        short = request.stream.name.rpartition(".")[2]
        self._misbehave(short)
        since = request.since.cursor if request.since is not None else None
        first = int((since - FIRST).total_seconds()) if isinstance(since, datetime) else 1
        rows = int(self._said("rows") or self.config.rows)
        if request.window is not None:
            first = max(1, int((request.window.start - FIRST).total_seconds()))
            rows = min(rows, int((request.window.end - FIRST).total_seconds()) - 1)
        for start in range(first, rows + 1, self.config.batch_rows):
            self._pause(short, start)
            ids = range(start, min(start + self.config.batch_rows, rows + 1))
            batch = _orders(ids) if short == "orders" else _customers(ids)
            wanted = batch.select(list(request.columns)) if request.columns else batch
            cursor = highest(batch, request.cursor_field) if request.cursor_field else None
            yield Batch(wanted, Checkpoint(cursor) if cursor is not None else None)

    def _said(self, name: str) -> str:
        file = Path(self.config.folder, name)
        return file.read_text() if self.config.folder and file.exists() else ""

    def _misbehave(self, stream: str) -> None:
        if self._said(f"{stream}.fail"):
            raise AuthError(f"Scripted refused {stream!r}.", fix="Check the credentials.")
        busy = int(self._said(f"{stream}.busy") or 0)
        if busy:
            Path(self.config.folder, f"{stream}.busy").write_text(str(busy - 1))
            raise TransientError("Scripted is busy.", fix="Wait.")

    def _pause(self, stream: str, row: int) -> None:
        seconds = float(self._said(f"{stream}.slow") or self.config.delay)
        if seconds and row >= int(self._said(f"{stream}.slow_from") or 1):
            time.sleep(seconds)


def _orders(ids: range) -> pa.RecordBatch:
    times = [FIRST + timedelta(seconds=i) for i in ids]
    amounts = pa.array([float(i) for i in ids]).cast(pa.decimal128(12, 2))
    return pa.record_batch([pa.array(ids, pa.int64()), pa.array(times, TIMESTAMP_UTC), amounts], schema=ORDERS)


def _customers(ids: range) -> pa.RecordBatch:
    return pa.record_batch([pa.array(ids, pa.int64()), pa.array([f"{i}@example.com" for i in ids])], schema=CUSTOMERS)


connector = Scripted
