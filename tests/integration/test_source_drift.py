"""A table that changes between two loads: what came arrives, what went is kept, and the policy decides."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from elt_dagster.control.configured import ConfiguredSync
from elt_dagster.errors import EltError
from elt_dagster.model import Catalog, StreamResult, SyncSpec
from elt_dagster.registry import load_connector
from tests import servers
from tests.integration.hand_made import HandMadeConnections
from tests.integration.postgres_source import PostgresSource

TABLE = "CREATE TABLE orders (id int PRIMARY KEY, amount int, note text, at timestamptz NOT NULL DEFAULT now())"
STREAM = "public.orders"


@pytest.fixture
def source() -> Iterator[PostgresSource]:
    with servers.database("drift") as url:
        found = PostgresSource(url)
        found.run(TABLE)
        found.run("INSERT INTO orders VALUES (1, 10, 'a'), (2, 20, 'b')")
        yield found
        found.close()


class Shelf:
    """A sync whose streams were discovered once, before everything else."""

    def __init__(
        self, source: PostgresSource, folder: Path, warehouse: str, binding: dict[str, Any], **sync: Any
    ) -> None:
        self.source, self.file = source, folder / "warehouse.duckdb"
        configs = {"duckdb": {"path": str(self.file)}, "postgres": source.config()}
        spec = {"slug": "shelf", "connection": "source", "destination": "warehouse", "schema": "raw", **sync}
        self.sync = ConfiguredSync(
            id="shelf",
            spec=SyncSpec.model_validate({**spec, "streams": [{"name": STREAM, **binding}]}),
            streams={STREAM: source.connector().discover()[STREAM]},
            binding_ids={STREAM: "orders"},
            connections=HandMadeConnections(
                {"source": "postgres", "warehouse": warehouse},
                {"source": source.config(), "warehouse": configs[warehouse]},
            ),
        )
        self.warehouse = warehouse

    def load(self) -> StreamResult:
        return self.sync.read(STREAM, run_id="run").load()

    def rows(self, columns: str) -> list[tuple[Any, ...]]:
        query = f"SELECT {columns} FROM raw.orders ORDER BY id"
        if self.warehouse == "postgres":
            return self.source.fetch(query)
        with duckdb.connect(str(self.file), read_only=True) as connection:
            return connection.execute(query).fetchall()


BINDINGS: dict[str, dict[str, Any]] = {
    "replace": {"load_mode": "replace"},
    "merge": {"load_mode": "merge", "primary_key": ["id"], "cursor_field": "at"},
    "append": {"load_mode": "append", "cursor_field": "at"},
}


@pytest.mark.parametrize("warehouse", ["duckdb", "postgres"])
@pytest.mark.parametrize("mode", BINDINGS)
def test_a_new_column_arrives(source: PostgresSource, tmp_path: Path, mode: str, warehouse: str) -> None:
    shelf = Shelf(source, tmp_path, warehouse, BINDINGS[mode])
    shelf.load()
    source.run("ALTER TABLE orders ADD COLUMN discount numeric(6,2)")
    source.run("INSERT INTO orders (id, amount, note, discount) VALUES (3, 30, 'c', 0.5)")
    result = shelf.load()
    assert [(i, None if d is None else float(d)) for i, d in shelf.rows("id, discount")] == [
        (1, None),
        (2, None),
        (3, 0.5),
    ]
    assert "discount" in json.dumps([str(change) for change in result.schema_changes])


@pytest.mark.parametrize("warehouse", ["duckdb", "postgres"])
def test_a_column_that_went_is_kept_and_goes_on_when_it_comes_back(
    source: PostgresSource, tmp_path: Path, warehouse: str
) -> None:
    source.run("UPDATE orders SET at = at - interval '1 hour' WHERE id = 1")  # so that it is not read again
    shelf = Shelf(source, tmp_path, warehouse, BINDINGS["merge"])
    shelf.load()
    source.run("ALTER TABLE orders DROP COLUMN note")
    source.run("INSERT INTO orders (id, amount) VALUES (3, 30)")
    shelf.load()
    assert shelf.rows("id, note")[::2] == [(1, "a"), (3, None)]
    source.run("ALTER TABLE orders ADD COLUMN note text")
    source.run("INSERT INTO orders (id, amount, note) VALUES (4, 40, 'd')")
    shelf.load()
    assert shelf.rows("id, note")[::3] == [(1, "a"), (4, "d")]


def test_an_excluded_column_stays_out(source: PostgresSource, tmp_path: Path) -> None:
    shelf = Shelf(source, tmp_path, "duckdb", {**BINDINGS["merge"], "excluded_columns": ["note"]})
    source.run("ALTER TABLE orders ADD COLUMN discount int")
    shelf.load()
    assert len(shelf.rows("id, amount, discount")) == 2
    with pytest.raises(duckdb.BinderException, match="note"):
        shelf.rows("note")


def test_a_frozen_table_refuses_a_new_column(source: PostgresSource, tmp_path: Path) -> None:
    shelf = Shelf(source, tmp_path, "duckdb", BINDINGS["merge"], schema_drift="freeze")
    shelf.load()
    source.run("ALTER TABLE orders ADD COLUMN discount int")
    source.run("INSERT INTO orders VALUES (3, 30, 'c')")
    with pytest.raises(EltError, match="discount"):
        shelf.load()
    assert shelf.rows("id") == [(1,), (2,)]


def test_a_key_that_went_is_told(source: PostgresSource, tmp_path: Path) -> None:
    shelf = Shelf(source, tmp_path, "duckdb", BINDINGS["merge"])
    shelf.load()
    source.run("ALTER TABLE orders DROP COLUMN id")
    with pytest.raises(EltError, match="id"):
        shelf.load()


def test_a_file_of_a_later_day_brings_its_column(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for suffix in ("csv", "jsonl"):
        (folder / f"one.{suffix}").write_text('{"id": 1, "note": "a"}\n' if suffix == "jsonl" else "id,note\n1,a\n")
    streams = [{"name": s, "glob": f"*.{s}", "primary_key": ["id"]} for s in ("csv", "jsonl")]
    config = {"url": str(folder), "streams": streams}
    found: Catalog = load_connector("files").configured(config).discover()
    for suffix in ("csv", "jsonl"):
        (folder / f"two.{suffix}").write_text(
            '{"id": 2, "note": "b", "more": 7}\n' if suffix == "jsonl" else "id,note,more\n2,b,7\n"
        )
        spec = {"slug": "files", "connection": "source", "destination": "warehouse", "schema": "raw"}
        sync = ConfiguredSync(
            id="files",
            spec=SyncSpec.model_validate({**spec, "streams": [{"name": suffix, "excluded_columns": ["note"]}]}),
            streams={suffix: found[suffix]},
            binding_ids={suffix: suffix},
            connections=HandMadeConnections(
                {"source": "files", "warehouse": "duckdb"},
                {"source": config, "warehouse": {"path": str(tmp_path / "warehouse.duckdb")}},
            ),
        )
        sync.read(suffix, run_id="run").load()
        with duckdb.connect(str(tmp_path / "warehouse.duckdb"), read_only=True) as connection:
            assert connection.sql(f"SELECT id, more FROM raw.{suffix} ORDER BY id").fetchall() == [(1, None), (2, 7)]
            assert "note" not in connection.sql(f"FROM raw.{suffix}").columns
