"""A PostgreSQL database as a source, for tests: run SQL in it, read it through the connector."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pyarrow as pa

from elt_dagster.model import Batch, ReadRequest
from elt_dagster.registry import load_connector
from elt_dagster.sdk.connector import Connector


class PostgresSource:
    """One database behind ``url``; `connector` reads it, `run` and `fetch` go to it directly."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection = psycopg2.connect(url)
        self._connection.autocommit = True

    def config(self, **changes: Any) -> dict[str, Any]:
        """Settings for the connector."""
        parts = urlsplit(self.url)
        config = {
            "host": parts.hostname, "port": parts.port, "database": parts.path[1:], "user": parts.username,
            "password": parts.password,
        }  # fmt: skip
        return {**config, **changes}

    def connector(self, **changes: Any) -> Connector[Any]:
        """The connector for this database."""
        return load_connector("postgres").configured(self.config(**changes))

    def run(self, sql: str, *arguments: Any) -> None:
        """Run ``sql`` and commit."""
        with self._connection.cursor() as cursor:
            cursor.execute(sql, arguments or None)

    def fetch(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """All rows of ``sql``, by psycopg2."""
        with self._connection.cursor() as cursor:
            cursor.execute(sql, arguments or None)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows

    def request(self, stream: str, **changes: Any) -> ReadRequest:
        """A request for ``stream`` as discovered with the same settings."""
        catalog = self.connector().discover(changes.get("settings"))
        return ReadRequest(stream=catalog[stream], **changes)

    def batches(self, stream: str, **changes: Any) -> list[Batch]:
        """Everything a read gives."""
        return list(self.connector().read(self.request(stream, **changes)))

    def table(self, stream: str, **changes: Any) -> pa.Table:
        """Everything a read gives, as one table."""
        return pa.Table.from_batches([b.data for b in self.batches(stream, **changes)])

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """A cursor in a transaction of its own, committed at the end."""
        connection = psycopg2.connect(self.url)
        try:
            with connection, connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()


def counted(batches: list[Batch], name: str) -> int:
    """The sum of a counter over ``batches``."""
    return sum(b.counts.get(name, 0) for b in batches)
