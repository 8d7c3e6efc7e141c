"""Bad input from the command line to Dagster's event log: told early and clearly, nothing half done, the other streams unharmed."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from elt_dagster.cli.app import execute
from elt_dagster.control.connections import StoreConnections
from elt_dagster.errors import ConflictError
from elt_dagster.orchestration.definitions import build_definitions
from elt_dagster.sdk.budget import Budget, LocalLedger
from elt_dagster.store import open_store

CANARY = "canary-5d21"
SHOP = """\
connections:
  - {name: shop, connector: files, config: {url: exports, storage_options: {auto_mkdir: {env: SHOP_OPTION}}}}
  - {name: warehouse, connector: duckdb, config: {path: w.duckdb, lock_timeout_seconds: 0}}
syncs:
  - slug: shop
    connection: shop
    destination: warehouse
    schema: raw
    execution: {max_retries: 1, retry_delay_seconds: 0}
    streams: [{name: orders}, {name: customers}]
"""


class Shop:
    """A folder with two kinds of files, a store that syncs them, and a Dagster instance."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.folder, self.instance = folder, instance
        self.told = ""

    def put(self, name: str, content: str) -> None:
        path = self.folder / "exports" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)

    def apply(self, text: str = SHOP) -> int:
        (self.folder / "shop.yaml").write_text(text)
        return execute(["apply", "-f", "shop.yaml"])

    def run(self) -> tuple[set[str], dict[str, dict[str, Any]]]:
        """The tables that were loaded, and what Dagster shows of each failure, by step."""
        job = build_definitions().resolve_job_def("sync_shop")
        result = job.execute_in_process(instance=self.instance, raise_on_error=False)
        self.told = "".join(str(entry) for entry in self.instance.all_logs(result.run_id))
        loaded = {e.asset_key.path[-1] for e in result.get_asset_materialization_events() if e.asset_key}
        failures: dict[str, dict[str, Any]] = {}
        for event in result.all_events:
            if event.is_step_failure:
                told = event.step_failure_data.user_failure_data
                assert told is not None, "the failure is a traceback, not a message"
                words = {name: value.value for name, value in told.metadata.items()}
                failures[str(event.step_key)] = {"text": str(told.description), **words}
        return loaded, failures

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.folder / "w.duckdb")) as connection:
            return connection.execute(statement).fetchall()


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELT_DAGSTER_STORE", f"sqlite:///{tmp_path / 'store.sqlite'}")
    monkeypatch.setenv("SHOP_OPTION", CANARY)
    open_store().init()
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Shop(tmp_path, instance)
        shop.put("orders_1.csv", "id,city\n1,Aarhus\n")
        shop.put("customers_1.csv", "id,name\n1,Ann\n")
        assert shop.apply() == 0
        yield shop


def test_a_file_that_is_not_what_its_name_says_fails_its_stream_alone_and_moves_no_state(shop: Shop) -> None:
    shop.run()
    shop.put("orders_2.csv", f"PAR1{CANARY}PAR1")
    shop.put("customers_2.csv", "id,name\n2,Bo\n")
    before = shop.sql("SELECT * FROM raw._elt_state WHERE table_name = 'orders'")
    loaded, failures = shop.run()
    assert loaded == {"customers"}
    (failure,) = failures.values()
    assert "orders_2.csv is not csv text: it looks like a Parquet file." in failure["text"]
    assert failure["elt/error_class"] == "SourceError"
    assert shop.sql("SELECT * FROM raw._elt_state WHERE table_name = 'orders'") == before
    assert shop.sql("SELECT count(*) FROM raw.customers") == [(2,)]
    assert CANARY not in shop.told


def test_somebody_elses_table_and_a_view_are_left_alone(shop: Shop) -> None:
    shop.sql("CREATE SCHEMA raw")
    shop.sql("CREATE TABLE raw.orders AS SELECT 'theirs' AS whose")
    shop.sql("CREATE VIEW raw.customers AS SELECT 1 AS one")
    loaded, failures = shop.run()
    assert loaded == set()
    assert "was not made by this sync, and has other columns" in failures["raw__orders"]["text"]
    assert "raw.customers is a view" in failures["raw__customers"]["text"]
    assert shop.sql("FROM raw.orders") == [("theirs",)]


def test_a_secret_that_goes_away_after_apply_is_named_and_not_retried(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SHOP_OPTION")
    loaded, failures = shop.run()
    assert loaded == set()
    for failure in failures.values():
        assert "refers to the environment variable SHOP_OPTION, which is not set. Set SHOP_OPTION" in failure["text"]
        assert failure["elt/error_class"] == "ConfigError"
    assert "STEP_UP_FOR_RETRY" not in shop.told
    capsys.readouterr()
    assert shop.apply() == 2
    assert "shop.yaml:2:" in (told := capsys.readouterr().err)
    assert "connections[0].config.storage_options.auto_mkdir: connection shop.storage_options" in told


def test_a_warehouse_held_by_a_notebook_is_tried_again_and_then_named(shop: Shop) -> None:
    shop.run()
    with duckdb.connect(str(shop.folder / "w.duckdb")):
        loaded, failures = shop.run()
    assert loaded == set()
    assert "STEP_UP_FOR_RETRY" in shop.told
    assert {f["elt/error_class"] for f in failures.values()} == {"WarehouseBusyError"}
    assert all("Close it there (a run that loads, a notebook" in f["text"] for f in failures.values())


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        (SHOP.replace("path: w.duckdb", "path: gone/w.duckdb"), "shop.yaml:3:50: connections[1].config: "),
        (SHOP.replace("{name: customers}", "{name: orders}"), "shop.yaml:10:38: syncs[0].streams[1].name: "),
        (SHOP.replace("{name: orders}", "{name: ordres}"), "shop.yaml:10:22: syncs[0].streams[0].name: "),
        (SHOP.replace("{name: orders}", "{name: orders, hashed_columns: [id, citi]}"),
         "shop.yaml:10:51: syncs[0].streams[0].hashed_columns[1]: "),
    ],
)  # fmt: skip
def test_a_wrong_file_is_answered_with_its_place_and_changes_nothing(
    shop: Shop, capsys: pytest.CaptureFixture[str], wrong: str, place: str
) -> None:
    before = open_store().revision()
    capsys.readouterr()
    assert shop.apply(wrong) in (2, 6)
    assert place in (told := capsys.readouterr().err)
    assert "Traceback" not in told
    assert CANARY not in told
    assert open_store().revision() == before


# --- clocks that are set -----------------------------------------------------------------------------------


def test_a_lease_survives_a_clock_that_is_set_and_the_fence_decides(shop: Shop) -> None:
    store = open_store()
    first = store.acquire_lease("b1", "alpha", "run-1")
    set_clock(shop, 3600)
    assert store.active_run("b1") is None
    second = store.acquire_lease("b1", "beta", "run-2")
    assert second.fence > first.fence, "the warehouse refuses what the first one commits now"
    with pytest.raises(ConflictError, match="run run-2 took it"):
        store.renew_lease(first)
    set_clock(shop, -3600)
    assert store.active_run("b1") is None, "a lease that seems to last for an hour blocks nobody for an hour"
    assert store.renew_lease(second).fence == second.fence, "and its holder goes on, if nobody came"
    assert store.active_run("b1") == "run-2"


def set_clock(shop: Shop, seconds: int) -> None:
    """As if the database's clock had been set forth: what was written lies so much further back."""
    with sqlite3.connect(shop.folder / "store.sqlite") as connection:
        connection.execute("UPDATE elt_leases SET expires_at = expires_at - ? WHERE expires_at > 0", (seconds,))
        for column in ("next_at", "hold_until", "left_over_until"):
            connection.execute(f"UPDATE elt_rate_budgets SET {column} = {column} - ?", (seconds,))


@pytest.mark.parametrize("kind", ["store", "process"])
@pytest.mark.parametrize("seconds", [3600, -3600])
def test_a_rate_budget_neither_stalls_nor_runs_free_when_a_clock_is_set(shop: Shop, seconds: int, kind: str) -> None:
    ledger = StoreConnections(open_store()).ledger("shop") if kind == "store" else LocalLedger()
    budget, now = Budget(10.0, ledger), 1_000_000.0
    for _ in range(25):
        now += budget.wait(now, 60.0)
    ledger.slow(5.0, 30.0)
    set_clock(shop, seconds)
    now += seconds
    waits = [budget.wait(now, 60.0) for _ in range(30)]
    assert max(waits) < 10, "nobody waits until the clock has caught up"
    assert sum(wait > 0 for wait in waits) >= 15, "and the pace is kept"
