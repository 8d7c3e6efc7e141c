"""A source for tests of the command line: it offers three streams, can be told to refuse, and counts how often it is asked."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pytest
from pydantic import BaseModel, SecretStr

from elt_dagster import registry
from elt_dagster.errors import AuthError, TransientError
from elt_dagster.model import Batch, Catalog, CheckResult, ReadRequest, Stream
from elt_dagster.model.types import JSON, TIMESTAMP_UTC, column
from elt_dagster.sdk.connector import Config, Connector

TOKEN = "canary-7f3a9"
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


class Bearer(BaseModel):
    """A secret that lies deeper."""

    kind: Literal["bearer"]
    token: SecretStr


class ShelfConfig(Config):
    """Where the shelf is."""

    host: str = "here"
    """`here`, or `nowhere`, which cannot be reached."""
    port: int = 1
    """Its number."""
    token: SecretStr | None = None
    """What opens it."""
    auth: Bearer | None = None
    """Another way in."""


class ShelfSettings(Config):
    """What one sync wants of the shelf."""

    region: str = "north"
    """Which half."""


class Shelf(Connector[ShelfConfig]):
    """Three streams in memory."""

    name = "shelf"
    title = "Shelf"
    docs_url = "https://example.com/shelf"
    settings_type = ShelfSettings
    asked: ClassVar[list[str]] = []
    while_asked: ClassVar[list[Callable[[], None]]] = []
    further_columns: ClassVar[list[pa.Field]] = []

    def settings_schema(self, partial: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return {"type": "object", "properties": {"region": {"enum": ["north", "south"]}}}

    def check(self) -> CheckResult:
        return CheckResult(self.config.host == "here", f"The shelf is {self.config.host}.")

    def discover(self, settings: Mapping[str, Any] | None = None) -> Catalog:
        Shelf.asked.append(self.config.host)
        for happen in Shelf.while_asked:
            happen()
        if self.config.host == "nowhere":
            raise TransientError("The shelf cannot be reached.", fix="Check host and port.")
        if self.config.token is not None and self.config.token.get_secret_value() == "wrong":
            raise AuthError("The shelf refused the token.", fix="Check it.")
        if self.config.host == "buggy":
            raise KeyError(TOKEN)
        return Catalog(
            (_orders(), Stream(name="customers", schema=pa.schema([("id", pa.int64())])), Stream(name="logs"))
        )

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        rows = [{"id": i, "total": Decimal(i), "data": "{}", "active": True, "changed_at": MOMENT} for i in range(25)]
        schema = (
            pa.schema([request.stream.schema.field(c) for c in request.columns or ()])
            if request.stream.schema
            else None
        )
        yield Batch(pa.RecordBatch.from_pylist(rows, schema=schema))


def _orders() -> Stream:
    schema = pa.schema(
        [
            column("id", pa.int64(), nullable=False),
            column("changed_at", TIMESTAMP_UTC, description="When it changed."),
            column("total", pa.decimal128(12, 2)),
            column("data", JSON),
            column("active", pa.bool_()),
            *Shelf.further_columns,
        ]
    )
    return Stream(
        name="orders", schema=schema, primary_key=("id",), cursor_field="changed_at", description="Every order."
    )


connector = Shelf


@pytest.fixture(name="shelf")
def shelf_fixture(monkeypatch: pytest.MonkeyPatch) -> type[Shelf]:
    """The connector ``shelf``, found by the registry for one test, asked nothing yet."""
    known = registry._connector_modules
    monkeypatch.setattr(registry, "_connector_modules", lambda: {**known(), "shelf": __name__})
    monkeypatch.setattr(Shelf, "asked", [])
    monkeypatch.setattr(Shelf, "while_asked", [])
    monkeypatch.setattr(Shelf, "further_columns", [])
    return Shelf
