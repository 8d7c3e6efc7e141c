"""A source with the streams that the published examples name, by a connector that needs no account."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pyarrow as pa

from elt_dagster.model import Batch, Catalog, CheckResult, ReadRequest, Stream
from elt_dagster.sdk.connector import Config, Connector

ROWS = pa.record_batch({"id": pa.array([1, 2, 3], pa.int64()), "name": pa.array(["a", "b", "c"])})


class Crm(Connector[Config]):
    """Three streams of three rows."""

    name: ClassVar[str] = "crm"
    title: ClassVar[str] = "CRM"
    docs_url: ClassVar[str] = "https://example.com"

    def check(self) -> CheckResult:
        """It is always there."""
        return CheckResult(ok=True, message="here")

    def discover(self, settings: Mapping[str, Any] | None = None) -> Catalog:
        """Three streams."""
        names = ("accounts", "contacts", "opportunities")
        return Catalog(tuple(Stream(name=n, schema=ROWS.schema, primary_key=("id",)) for n in names))

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        """The same rows of each."""
        yield Batch(ROWS.select(list(request.columns)) if request.columns else ROWS)


connector = Crm
