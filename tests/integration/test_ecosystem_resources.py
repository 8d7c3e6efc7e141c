"""A user's own assets with our resources alone: read a stream, write a table, no sync and no store."""

from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import ValidationError

from elt_dagster import SourceResource, WarehouseResource
from elt_dagster.errors import ConfigError
from tests.integration.dagster_project import CANARY, CONNECTORS, ShopProject


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The two resources, with a secret by reference."""
    monkeypatch.setenv("ELT_DAGSTER_CONNECTORS", str(CONNECTORS))
    monkeypatch.setenv("SHOP_PASSWORD", CANARY)
    source = {"folder": str(tmp_path), "password": {"env": "SHOP_PASSWORD"}}
    return {
        "shop": SourceResource(connector="scripted", config=source),
        "warehouse": WarehouseResource(connector="duckdb", config={"path": str(tmp_path / "w.duckdb")}),
    }


@dg.asset(key=["raw", "orders"])
def orders(shop: SourceResource, warehouse: WarehouseResource) -> "dg.MaterializeResult[Any]":
    """What a person writes who wants a stream and no sync."""
    return dg.MaterializeResult(metadata=warehouse.write("raw.orders", shop.batches("public.orders")))


def why(result: Any) -> str:
    (event,) = [e for e in result.all_events if e.is_step_failure]
    return str(event.step_failure_data.user_failure_data.description)


def test_a_stream_becomes_a_table_without_a_sync(given: dict[str, Any]) -> None:
    with dg.instance_for_test() as instance:
        result = dg.materialize([orders], resources=given, instance=instance)
        logged = "".join(str(entry) for entry in instance.all_logs(result.run_id))
    (event,) = result.get_asset_materialization_events()
    told = {name: value.value for name, value in event.materialization.metadata.items()}
    assert (told["dagster/row_count"], told["dagster/table_name"]) == (3, "raw.orders")
    assert str(told["dagster/uri"]).endswith("w.duckdb/raw/orders")
    assert given["warehouse"].read("raw.orders", pd.DataFrame, columns=["id"])["id"].tolist() == [1, 2, 3]
    assert CANARY not in logged


def test_streams_are_listed_and_read_by_column(given: dict[str, Any]) -> None:
    shop: SourceResource = given["shop"]
    assert "public.orders" in [stream.name for stream in shop.streams()]
    assert shop.table("public.orders", columns=["id"]).column_names[0] == "id"
    with pytest.raises(dg.Failure, match=r"Did you mean 'public.orders'\?"):
        shop.table("public.order")
    with pytest.raises(dg.Failure, match="no column 'idd'"):
        shop.table("public.orders", columns=["idd"])


def test_an_append_with_a_name_is_done_once(given: dict[str, Any]) -> None:
    warehouse: WarehouseResource = given["warehouse"]
    table = pa.table({"line": ["a"]})
    for name in ("run 1", "run 1", "run 2"):
        warehouse.write("raw.log", table, mode="append", once=name)
    assert warehouse.read("raw.log").num_rows == 2
    warehouse.write("raw.log", pd.DataFrame({"line": ["b"]}), mode="append")
    assert warehouse.read("raw.log").num_rows == 3


def test_a_merge_keeps_one_row_per_key(given: dict[str, Any]) -> None:
    warehouse: WarehouseResource = given["warehouse"]
    for name in ("a", "b"):
        warehouse.write("raw.people", pa.table({"id": [1], "name": [name]}), mode="merge", primary_key=["id"])
    assert warehouse.read("raw.people", columns=["name"]).to_pylist() == [{"name": "b"}]


def test_a_source_that_breaks_half_way_leaves_the_table(given: dict[str, Any]) -> None:
    warehouse: WarehouseResource = given["warehouse"]
    warehouse.write("raw.orders", pa.table({"id": [7]}))

    def broken() -> Any:
        yield pa.record_batch({"id": [1]})
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        warehouse.write("raw.orders", broken())
    with pytest.raises(dg.Failure, match="Rows came as dict"):
        warehouse.write("raw.orders", [{"id": 1}])
    assert warehouse.read("raw.orders", columns=["id"]).to_pylist() == [{"id": 7}]


def test_what_an_asset_returns_goes_into_the_warehouse_of_a_resource(given: dict[str, Any]) -> None:
    @dg.asset(key=["marts", "numbers"])
    def numbers() -> pd.DataFrame:
        return pd.DataFrame({"n": [1, 2]})

    manager = given["warehouse"].io_manager()
    assert dg.materialize([numbers], resources={"io_manager": manager}).success
    assert given["warehouse"].read("marts.numbers").num_rows == 2


def test_a_connection_of_the_store_is_named(project: ShopProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELT_DAGSTER_STORE", project.url)
    resources = {
        "shop": SourceResource(connection="shop-db"),
        "warehouse": WarehouseResource(connection="warehouse"),
    }
    assert dg.materialize([orders], resources=resources).success
    assert project.rows("SELECT count(*) FROM raw.orders") == [(3,)]
    broken = {**resources, "shop": SourceResource(connection="shop-bd")}
    result = dg.materialize([orders], resources=broken, raise_on_error=False)
    assert "Did you mean 'shop-db'?" in why(result)


def test_a_secret_in_the_settings_is_refused_before_anybody_sees_it(given: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, ValidationError), match=r"\{env: SCRIPTED_PASSWORD\}") as error:
        SourceResource(connector="scripted", config={"folder": ".", "password": "canary-2"})
    assert "canary-2" not in str(error.value)
    with pytest.raises((ConfigError, ValidationError), match="Set one of connection and connector"):
        WarehouseResource()


def test_a_table_that_is_no_table_or_a_mode_that_is_none_is_refused(given: dict[str, Any]) -> None:
    warehouse: WarehouseResource = given["warehouse"]
    with pytest.raises(dg.Failure, match=r"'orders' is no table. Write schema.table."):
        warehouse.read("orders")
    with pytest.raises(dg.Failure, match="Did you mean 'append'"):
        warehouse.write("raw.orders", pa.table({"id": [1]}), mode="appendd")
