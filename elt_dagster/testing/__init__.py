"""Contracts and fakes for authors of connectors and warehouses. Needs pytest."""

from elt_dagster.testing.contract import ConnectorContract
from elt_dagster.testing.http_contract import HttpConnectorContract
from elt_dagster.testing.source import FakeSource

__all__ = ["ConnectorContract", "FakeSource", "HttpConnectorContract"]
