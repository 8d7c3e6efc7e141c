"""PostgreSQL signs the destination contract, and keeps some promises of its own."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest

from elt_dagster.destinations.postgres import Postgres
from elt_dagster.testing.destination import Capabilities, DestinationContract

_WIDER = "PostgreSQL has no such type; the column is the next wider one, and the values are the same"
_MICROSECONDS = "PostgreSQL counts microseconds"


def config_of(url: str, **more: Any) -> dict[str, Any]:
    """A database's URL as settings."""
    parts = urlsplit(url)
    return {
        "host": parts.hostname, "port": parts.port, "database": parts.path[1:], "user": parts.username,
        "password": parts.password, "sslmode": "disable", **more,
    }  # fmt: skip


def execute(config: Mapping[str, Any], statement: str, *, fetch: bool = False) -> Any:
    """Run a statement as a stranger would."""
    connection = psycopg2.connect(
        host=config["host"],
        port=config["port"],
        dbname=config["database"],
        user=config["user"],
        password=config["password"],
    )
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if fetch else None
    finally:
        connection.close()


class TestPostgres(DestinationContract):
    warehouse = Postgres
    can = Capabilities(
        missing_types={
            **dict.fromkeys(("int8", "uint8", "uint16", "uint32", "uint64"), _WIDER),
            **dict.fromkeys(("timestamp_ns", "timestamp_ns_utc"), _MICROSECONDS),
        }
    )

    @pytest.fixture
    def config(self, postgres_database: str) -> dict[str, Any]:
        return config_of(postgres_database)

    def run_sql(self, config: Mapping[str, Any], statement: str) -> None:
        execute(config, statement)
