"""Applying a project: everything is checked, all of it is written or nothing, and applying twice changes nothing."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from elt_dagster.control.changes import Action
from elt_dagster.control.secrets import secret_fields
from elt_dagster.control.workspace import Workspace
from elt_dagster.control.yaml_file import parse_project, to_yaml
from elt_dagster.errors import (
    AuthError,
    ConfigError,
    ConflictError,
    ContractError,
    DestinationError,
    EltError,
    NotFoundError,
    TransientError,
)
from elt_dagster.model import LoadMode, Project
from elt_dagster.model.secret import MASK
from elt_dagster.model.types import column
from elt_dagster.store import Store, StoredSync, open_store
from tests.unit.cli_shelf import TOKEN, Shelf, ShelfConfig, shelf_fixture

__all__ = ["shelf_fixture"]

BASE: dict[str, Any] = {
    "connections": [
        {"name": "shelf", "connector": "shelf", "config": {"token": {"env": "SHELF_TOKEN"}}},
        {"name": "warehouse", "connector": "duckdb", "config": {"path": "w.duckdb"}},
    ],
    "syncs": [
        {
            "slug": "shop", "connection": "shelf", "destination": "warehouse", "schema": "raw",
            "streams": [{"name": "orders"}, {"name": "customers"}],
        }
    ],
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = open_store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    made.init()
    return made


@pytest.fixture
def workspace(store: Store, shelf: type[Shelf]) -> Workspace:
    return Workspace(store=store, environ={"SHELF_TOKEN": TOKEN})


def project(change: Callable[[dict[str, Any]], object] = lambda data: None) -> Project:
    data = json.loads(json.dumps(BASE))
    change(data)
    return Project.model_validate(data)


def sync_with(**values: Any) -> Project:
    return project(lambda data: data["syncs"][0].update(values))


def stream_with(**values: Any) -> Project:
    return project(lambda data: data["syncs"][0]["streams"][0].update(values))


def connection_with(config: dict[str, Any]) -> Project:
    return project(lambda data: data["connections"][0].update(config=config))


def test_the_first_apply_creates_everything_with_what_the_source_says(workspace: Workspace, shelf: type[Shelf]) -> None:
    changes = workspace.apply(project())
    assert changes.count(Action.CREATE) == 3
    sync = workspace.configured("shop")
    assert sync.stream("orders").cursor_field == "changed_at"
    assert sync.resolved(sync.spec.streams[0]).load_mode is LoadMode.MERGE
    assert set(sync.binding_ids) == {"orders", "customers"}
    assert shelf.asked == ["here"], "one question serves all streams"


def test_applying_again_changes_nothing_and_asks_nobody(workspace: Workspace, shelf: type[Shelf]) -> None:
    workspace.apply(project())
    before = workspace.store.revision()
    shelf.asked.clear()
    changes = workspace.apply(project())
    assert not changes
    assert changes.count(Action.UNCHANGED) == 3
    assert workspace.store.revision() == before
    assert shelf.asked == []


def test_a_dry_run_says_the_same_and_writes_nothing(workspace: Workspace) -> None:
    workspace.apply(project())
    before = workspace.store.revision()
    changed = stream_with(load_mode="append", cursor_field="changed_at")
    planned = workspace.apply(changed, dry_run=True)
    assert workspace.store.revision() == before
    assert planned == workspace.apply(changed)
    assert [(f.field, f.before, f.after) for f in next(c for c in planned if c.fields).fields] == [
        ("streams[orders].load_mode", None, "append"),
        ("streams[orders].cursor_field", None, "changed_at"),
    ]


def test_a_changed_order_of_streams_is_a_change(workspace: Workspace) -> None:
    workspace.apply(project())
    turned = project(lambda data: data["syncs"][0]["streams"].reverse())
    assert [c.fields[0].after for c in workspace.apply(turned) if c.fields] == [["customers", "orders"]]
    assert not workspace.apply(turned)


def test_prune_deletes_what_the_file_does_not_name(workspace: Workspace) -> None:
    def more(data: dict[str, Any]) -> None:
        data["connections"].append({"name": "other", "connector": "shelf"})
        data["syncs"].append({**data["syncs"][0], "slug": "second", "schema": "raw2", "connection": "other"})

    workspace.apply(project(more))
    assert not workspace.apply(project()), "without prune the others stay"
    planned = workspace.apply(project(), prune=True, dry_run=True)
    assert [(c.kind, c.name) for c in planned if c.action is Action.DELETE] == [
        ("sync", "second"),
        ("connection", "other"),
    ]
    assert len(workspace.configured_syncs()) == 2
    workspace.apply(project(), prune=True)
    assert [s.slug for s in workspace.export().syncs] == ["shop"]
    assert [c.name for c in workspace.export().connections] == ["shelf", "warehouse"]


def test_prune_keeps_stored_connections_that_a_sync_of_the_file_uses(workspace: Workspace) -> None:
    workspace.apply(project())
    only_sync = project(lambda data: data.update(connections=[]))
    assert not workspace.apply(only_sync, prune=True)


def test_a_table_may_move_to_another_sync_in_one_apply(workspace: Workspace) -> None:
    workspace.apply(project())
    renamed = sync_with(slug="shop2")
    with pytest.raises(ConflictError, match=r"sync 'shop2' would load the table raw\.orders, which sync 'shop' loads"):
        workspace.apply(renamed)
    workspace.apply(renamed, prune=True)
    assert [s.slug for s in workspace.export().syncs] == ["shop2"]


def test_export_then_apply_is_a_no_op(workspace: Workspace) -> None:
    workspace.apply(connection_with({"token": TOKEN, "auth": {"kind": "bearer", "token": "deep-canary"}, "port": 5}))
    before = workspace.store.revision()
    written = to_yaml(workspace.export())
    assert TOKEN not in written
    assert "deep-canary" not in written
    assert written.count(MASK) == 2
    assert not workspace.apply(parse_project(written, "x").project)
    assert workspace.store.revision() == before
    assert workspace.store.open_config(workspace.store.connection("shelf"))["token"] == TOKEN


def test_a_changed_literal_secret_is_a_change_that_does_not_show(workspace: Workspace) -> None:
    workspace.apply(connection_with({"token": TOKEN}))
    changes = workspace.apply(connection_with({"token": "canary-new"}))
    shown = json.dumps(changes.to_json()) + repr(changes)
    assert [(f.field, f.before, f.after) for c in changes for f in c.fields] == [("config.token", MASK, MASK)]
    assert "canary" not in shown
    assert workspace.store.open_config(workspace.store.connection("shelf"))["token"] == "canary-new"


def test_secret_fields_are_found_at_any_depth() -> None:
    assert secret_fields(ShelfConfig) == {"token", "auth.token"}


def test_refresh_asks_again_and_shows_what_changed_at_the_source(workspace: Workspace, shelf: type[Shelf]) -> None:
    workspace.apply(project())
    shelf.further_columns.append(column("colour", pa.string()))
    assert not workspace.apply(project())
    changes = workspace.apply(project(), refresh=True)
    assert [(f.field, f.after) for c in changes for f in c.fields] == [("source[orders].columns.colour", "string")]
    assert "colour" in (workspace.configured("shop").stream("orders").schema or pa.schema([])).names


def test_offline_needs_no_secret_and_no_source(store: Store, shelf: type[Shelf]) -> None:
    bare = Workspace(store=store, environ={})
    bare.apply(project(), verify=False)
    assert shelf.asked == []
    assert bare.configured("shop").stream("orders").schema is None
    told = Workspace(store=store, environ={"SHELF_TOKEN": TOKEN})
    assert told.apply(project()).count(Action.UPDATE) == 1, "the next apply fills in what is unknown"
    assert told.configured("shop").stream("orders").schema is not None
    assert not bare.apply(project(), verify=False), "and going offline again forgets nothing"


def test_a_broken_row_is_written_anew(workspace: Workspace) -> None:
    workspace.apply(project())
    with workspace.store._database.write() as conn:
        conn.exec_driver_sql("UPDATE elt_syncs SET spec = '{'")
    assert not any(isinstance(s, StoredSync) for s in workspace.store.syncs())
    workspace.apply(project())
    assert workspace.configured("shop").spec.slug == "shop"


def test_a_mask_does_not_take_a_secret_to_another_host_but_a_reference_may(
    workspace: Workspace, shelf: type[Shelf]
) -> None:
    workspace.apply(connection_with({"token": TOKEN, "auth": {"kind": "bearer", "token": TOKEN}}))
    shelf.asked.clear()
    masked = {"token": MASK, "auth": {"kind": "bearer", "token": MASK}}
    with pytest.raises(ConfigError) as caught:
        workspace.apply(connection_with({**masked, "host": "evil.example"}))
    assert [path for path, _ in caught.value.details] == [
        ("connections", 0, "config", "token"),
        ("connections", 0, "config", "auth", "token"),
    ]
    assert "/auth/token is kept as it is, and host changed." in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert shelf.asked == []
    workspace.apply(connection_with({**masked, "token": {"env": "SHELF_TOKEN"}, "auth": None, "host": "there"}))
    # the file is the operator's, and so are the references in it
    workspace.apply(connection_with({"token": {"env": "SHELF_TOKEN"}, "host": "elsewhere", "port": 2}))
    assert workspace.store.connection("shelf").spec.config["host"] == "elsewhere"


@pytest.mark.parametrize(
    ("wrong", "error", "expected"),
    [
        (stream_with(excluded_columns=["dta", "id2"], hashed_columns=["ttal"]), NotFoundError,
         "excluded_columns[0]: sync 'shop': stream 'orders': excluded_columns names the column 'dta', which the source does not have. Did you mean 'data'?\n"
         "syncs[0].streams[0].excluded_columns[1]: "),
        (connection_with({"token": {"evn": "TOKEN"}}), ConfigError, "config.token: expected text. A secret is written {env: NAME} or {file: PATH}."),
        (project(lambda d: d["connections"][1]["config"].update(path="/no/such/w.duckdb")), DestinationError,
         "connections[1].config: connection 'warehouse': The folder /no/such of the DuckDB file does not exist."),
        (project(lambda d: d["connections"][0].update(connector="shelv")), NotFoundError,
         "connections[0].connector: There is no connector 'shelv'. Did you mean 'shelf'?"),
        (sync_with(connection="shlf"), NotFoundError, "syncs[0].connection: sync 'shop': there is no connection 'shlf'. Did you mean 'shelf'?"),
        (sync_with(destination="shelf"), ConfigError, "which is no warehouse. Allowed: databricks, dlt, duckdb"),
        (sync_with(connection="warehouse"), ConfigError, "which is no source that can be read. Allowed:"),
        (stream_with(name="order"), NotFoundError, "syncs[0].streams[0].name: sync 'shop': the source has no stream 'order'. Did you mean 'orders'?"),
        (stream_with(cursor_field="changedat"), NotFoundError,
         "syncs[0].streams[0].cursor_field: sync 'shop': stream 'orders': cursor_field names the column 'changedat', which the source does not have. "
         "Did you mean 'changed_at'?"),
        (stream_with(cursor_field="data"), ConfigError, "cursor_field 'data' is of type json, which has no order to follow."),
        (stream_with(cursor_field="active"), ConfigError, "Choose one of: id, changed_at, total."),
        (stream_with(primary_key=["key"]), NotFoundError, "syncs[0].streams[0].primary_key[0]:"),
        (stream_with(hashed_columns=["nme"]), NotFoundError, "syncs[0].streams[0].hashed_columns[0]:"),
        (stream_with(excluded_columns=["nme"]), NotFoundError, "syncs[0].streams[0].excluded_columns[0]:"),
        (project(lambda d: d["syncs"][0]["streams"][1].update(load_mode="merge")), ConfigError, "load_mode merge needs a primary key"),
        (sync_with(settings={"region": "nrth"}), ConfigError, "syncs[0].settings.region: sync 'shop': found 'nrth'; allowed: north, south. Did you mean 'north'?"),
        (sync_with(settings={"regoin": "north"}), ConfigError, "syncs[0].settings.regoin: unknown key. Did you mean 'region'?"),
        (connection_with({"prt": 1}), ConfigError, "connections[0].config.prt: unknown key. Did you mean 'port'? (used by sync 'shop')"),
        (connection_with({"port": "canary"}), ConfigError, "connections[0].config.port: expected a whole number."),
        (connection_with({"token": {"env": "NO_SUCH"}}), ConfigError,
         "connections[0].config.token: connection shelf.token refers to the environment variable NO_SUCH, which is not set."),
        (connection_with({"token": MASK}), ConfigError, "token is the mask ********, but no secret is stored."),
        (connection_with({"token": "wrong"}), AuthError, "sync 'shop', connection 'shelf': The shelf refused the token."),
        (connection_with({"host": "nowhere"}), TransientError, "sync 'shop', connection 'shelf': The shelf cannot be reached."),
        (connection_with({"host": "buggy"}), ContractError, "the connector 'shelf' failed with KeyError"),
        (project(lambda d: d["syncs"].append({**d["syncs"][0], "slug": "shop2"})), ConflictError,
         "syncs[1].streams[0]: sync 'shop2' would load the table raw.orders, which sync 'shop' loads."),
        (project(lambda d: d["syncs"].append({**d["syncs"][0], "slug": "shop2", "schema": "RAW"})), ConflictError,
         "syncs[1].streams[0]: sync 'shop2' would load the table RAW.orders, which sync 'shop' loads."),
        (project(lambda d: d["syncs"].extend({**d["syncs"][0], "slug": s, "streams": []} for s in ("a-b", "a_b"))), ConflictError,
         "'a_b' and 'a-b' would both be the job 'sync_a_b'."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_before_anything_is_written(
    workspace: Workspace, wrong: Project, error: type[EltError], expected: str
) -> None:
    before = workspace.store.revision()
    with pytest.raises(error) as raised:
        workspace.apply(wrong)
    assert type(raised.value) is error
    assert expected in str(raised.value)
    assert "canary" not in str(raised.value)
    assert workspace.store.revision() == before
    assert workspace.configured_syncs() == []


def test_a_sync_that_was_there_stays_as_it_was_when_another_is_wrong(workspace: Workspace) -> None:
    workspace.apply(project())

    def two(data: dict[str, Any]) -> None:
        data["syncs"][0]["name"] = "New name"
        data["syncs"].append({**data["syncs"][0], "slug": "second", "schema": "b", "streams": [{"name": "nothing"}]})

    with pytest.raises(NotFoundError):
        workspace.apply(project(two))
    assert workspace.configured("shop").spec.name == ""


def test_two_names_for_one_warehouse_do_not_hide_a_table_with_two_owners(workspace: Workspace) -> None:
    def twins(data: dict[str, Any]) -> None:
        data["connections"].append({**data["connections"][1], "name": "same"})
        data["syncs"].append({**data["syncs"][0], "slug": "second", "destination": "same"})

    with pytest.raises(ConflictError, match="which sync 'shop' loads"):
        workspace.apply(project(twins))


def test_problems_of_several_kinds_are_told_together(workspace: Workspace) -> None:
    wrong = project(lambda data: data["syncs"][0].update(connection="shlf", destination="shelf"))
    with pytest.raises(ConfigError) as raised:
        workspace.apply(wrong, locate=lambda path: f"shop.yaml:{len(path)}")
    lines = str(raised.value).splitlines()
    assert len(lines) == 2
    assert all(line.startswith("shop.yaml:3: syncs[0].") for line in lines)


def test_a_change_that_comes_in_between_is_seen(workspace: Workspace, shelf: type[Shelf]) -> None:
    def meanwhile() -> None:
        shelf.while_asked = []
        workspace.apply(sync_with(slug="quick"))

    shelf.while_asked = [meanwhile]
    with pytest.raises(ConflictError, match=r"sync 'shop' would load the table raw\.orders, which sync 'quick' loads"):
        workspace.apply(project())
    assert [s.slug for s in workspace.export().syncs] == ["quick"]


def test_applies_at_the_same_time_lose_nothing(workspace: Workspace) -> None:
    names = [f"s{i}" for i in range(6)]
    start = threading.Barrier(len(names))
    failures: list[BaseException] = []

    def one(slug: str) -> None:
        start.wait()
        try:
            workspace.apply(sync_with(slug=slug, schema=slug))
        except EltError as error:
            failures.append(error)

    threads = [threading.Thread(target=one, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [s.slug for s in workspace.export().syncs] == names
    assert workspace.store.revision() == len(names)
