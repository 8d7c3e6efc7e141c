"""The postgres connector signs the contract of connectors, on a real server."""

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from elt_dagster.registry import load_connector
from elt_dagster.sdk import Connector
from elt_dagster.testing.contract import ConnectorContract, Truth
from tests import servers
from tests.integration.postgres_source import PostgresSource

TABLES = """
CREATE TABLE orders (id int PRIMARY KEY, updated_at timestamptz, note text, amount numeric(12,2), raw bytea, tags text[]);
INSERT INTO orders SELECT n, CASE WHEN n % 50 <> 0 THEN timestamptz '2024-01-01 00:00+00' + n / 3 * interval '1 minute' END,
    CASE WHEN n % 7 = 0 THEN NULL WHEN n % 5 = 0 THEN '' ELSE E'né "x"\n' || n END, n / 8.0, decode(md5(n::text), 'hex'),
    ARRAY[n::text, NULL] FROM generate_series(1, 700) n;
CREATE TABLE lines (order_id int, line int, price float8, PRIMARY KEY (line, order_id));
INSERT INTO lines SELECT n / 3, n % 3, n / 7.0 FROM generate_series(0, 299) n;
CREATE TABLE steps (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what char(3));
INSERT INTO steps (what) SELECT 'ab' FROM generate_series(1, 100);
CREATE VIEW loose AS SELECT n / 2 AS n, 'x' AS x FROM generate_series(1, 10) n;
"""
# without the array, which travels as JSON
TRUTH = {
    "public.orders": "SELECT id, updated_at, note, amount, raw FROM orders",
    "public.lines": "SELECT order_id, line, price FROM lines",
    "public.steps": "SELECT id, what FROM steps",
    "public.loose": "SELECT n, x FROM loose",
}


class TestPostgres(ConnectorContract):
    connector = load_connector("postgres")
    settings: ClassVar[dict[str, Any]] = {}
    database: ClassVar[PostgresSource]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _database(cls, postgres_server: str) -> Iterator[None]:
        with servers.database() as url:
            cls.database = PostgresSource(url)
            cls.database.run(TABLES)
            cls.settings = cls.database.config()
            yield
            cls.database.close()

    def fresh(self) -> Connector[Any]:
        connector = self.database.connector()
        self.opened, really_open = 0, connector.open  # type: ignore[attr-defined]

        def counted(settings: Any) -> Any:
            self.opened += 1
            return really_open(settings)

        connector.open = counted  # type: ignore[attr-defined]
        return connector

    def unreachable(self) -> Connector[Any]:
        return self.database.connector(user="nobody_here")

    def truth(self, stream: str) -> Truth:
        names = TRUTH[stream].removeprefix("SELECT ").partition(" FROM")[0].split(", ")
        return [dict(zip(names, map(_plain, row), strict=True)) for row in self.database.fetch(TRUTH[stream])]

    def known_streams(self) -> set[str]:
        return set(TRUTH)

    def touched(self) -> int:
        return self.opened


class TestPostgresInOrder(TestPostgres):
    """The same with `ordered`, where every batch carries a checkpoint."""

    def request(self, *arguments: Any, **more: Any) -> Any:  # type: ignore[override]
        return ConnectorContract.request(*arguments, **{"settings": {"ordered": True}, **more})

    def test_every_batch_carries_a_checkpoint(self) -> None:
        """Once a row with a cursor is out."""
        stream = self.fresh().discover({"ordered": True})["public.orders"]
        assert stream.ordered
        batches = self.read(stream, batch_bytes=2048)
        positions = [b.checkpoint is not None for b in batches]
        assert len(batches) > 5
        assert positions == sorted(positions)
        assert positions[2:] == [True] * (len(batches) - 2)


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value
