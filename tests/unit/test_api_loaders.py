"""The Loaders dialect, row by row of its contract, with runs in memory."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from elt_dagster.control.runs import RunStatus, StreamRun
from elt_dagster.model import Catalog
from elt_dagster.model.secret import MASK
from tests.unit import api_server
from tests.unit.api_server import ENGINES, NOBODY, Place, Server
from tests.unit.cli_shelf import TOKEN, Shelf

FIELDS = {
    "config", "created_at", "created_by", "id", "last_run_at", "last_run_id", "loader_type", "name", "schedule",
    "selected_streams", "source_id", "status", "status_error", "sync_mode", "target_schema", "updated_at", "workspace_id",
}  # fmt: skip
RUN_FIELDS = {
    "completed_at", "created_at", "error_message", "id", "job_id", "loader_id", "rows_loaded", "started_at", "status",
    "streams_failed", "streams_total", "triggered_by", "workspace_id",
}  # fmt: skip
MOMENT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


@pytest.fixture(scope="module", params=ENGINES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with api_server.opened(request.param, tmp_path_factory.mktemp("loaders")) as store:
        yield api_server.serve(store)


@pytest.fixture
def place(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    api_server.shelves(monkeypatch)
    return api_server.settle(server, tmp_path)


def base(place: Place) -> str:
    """Where the loaders of a workspace are."""
    return f"/api/v1/workspaces/{place.id}/loaders"


def body(place: Place, **fields: Any) -> dict[str, Any]:
    """A loader as it is sent."""
    return {
        "name": "CRM loader", "loader_type": "shelf", "source_id": place.warehouse, "config": {"token": TOKEN, "region": "south"},
        "target_schema": "RAW_CRM",
        "selected_streams": [{"name": "orders", "sync_mode": "incremental"}, {"name": "logs", "sync_mode": "full_refresh"}],
        "sync_mode": "incremental", "schedule": "0 */6 * * *", **fields,
    }  # fmt: skip


def make(place: Place, answer: int = 201, **fields: Any) -> dict[str, Any]:
    """A new loader."""
    made: dict[str, Any] = place.ask("POST", base(place), answer, json=body(place, **fields))
    return made


def connections(place: Place) -> list[str]:
    """The names of all connections."""
    return [c.spec.name for c in place.store.connections(workspace=place.name)]


# --- making ------------------------------------------------------------------------------------------------------------------


def test_a_new_loader_has_every_field_and_runs_by_itself(place: Place) -> None:
    made = make(place)
    assert set(made) == FIELDS
    assert (made["workspace_id"], made["source_id"], made["status"], made["status_error"]) == (
        place.id,
        place.warehouse,
        "active",
        "",
    )
    sent = body(place)
    assert {k: made[k] for k in sent if k != "config"} == {k: v for k, v in sent.items() if k != "config"}
    assert made["created_by"] == place.store.api_keys.list(place.name)[0].id
    assert (made["last_run_at"], made["last_run_id"]) == (None, None)
    assert place.ask("GET", f"{base(place)}/{made['id']}") == made
    spec = place.store.sync_by_id(made["id"], workspace=place.name).spec
    assert (spec.trigger, [b.load_mode for b in spec.streams], spec.settings) == (
        "scheduled",
        ["merge", "replace"],
        {"region": "south"},
    )


def test_the_config_becomes_a_connection_whose_secrets_are_sealed(place: Place) -> None:
    made = make(place)
    assert made["config"] == {"token": MASK, "region": "south"}
    connection = place.store.connection("crm-loader", workspace=place.name)
    assert (connection.label, place.store.open_config(connection)) == ("CRM loader", {"token": TOKEN})
    assert TOKEN not in str(connection.spec.config)
    # it is a row like any other
    labels = [c["label"] for c in place.ask("GET", "/connections")["data"]]
    assert "CRM loader" in labels


def test_a_loader_without_a_schedule_waits_to_be_triggered(place: Place) -> None:
    for schedule in (None, ""):
        made = make(place, schedule=schedule, target_schema=f"a{len(connections(place))}")
        assert made["schedule"] is None
        assert place.store.sync_by_id(made["id"], workspace=place.name).spec.trigger == "manual"


def test_streams_that_say_nothing_are_loaded_as_the_loader_says(place: Place) -> None:
    streams = [{"name": "orders"}, {"name": "logs", "sync_mode": "append"}]
    made = make(place, sync_mode="full_refresh", selected_streams=streams)
    assert made["selected_streams"] == [
        {"name": "orders", "sync_mode": "full_refresh"},
        {"name": "logs", "sync_mode": "append"},
    ]
    assert made["sync_mode"] == "full_refresh"


def test_the_type_is_echoed_as_it_was_sent(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from elt_dagster import registry

    known = registry._aliases()
    monkeypatch.setattr(registry, "_aliases", lambda: {**known, "bookcase": "shelf"})
    assert make(place, loader_type="bookcase")["loader_type"] == "bookcase"


def test_a_sync_of_another_dialect_is_a_loader_too(place: Place) -> None:
    sync = {"connectionId": place.source, "name": "Shop", "entities": ["orders"], "schedule": {"cron": "@daily"}}
    made = place.ask("POST", "/api/v1/syncs", 201, json=sync)
    found = place.ask("GET", f"{base(place)}/{made['id']}")
    assert (found["loader_type"], found["sync_mode"], found["status"], found["schedule"]) == (
        "shelf",
        "incremental",
        "draft",
        "@daily",
    )
    assert found["config"] == {"token": MASK}


def test_a_secret_that_the_source_replaces_while_it_is_asked_is_the_one_that_is_kept(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    discover = Shelf.discover

    def rotating(self: Shelf, settings: Mapping[str, Any] | None = None) -> Catalog:
        if self.runtime.vault is not None:
            with self.runtime.vault.exclusive() as drawer:
                drawer.keep("token", SecretStr("next"))
        return discover(self, settings)

    monkeypatch.setattr(Shelf, "discover", rotating)
    make(place)
    connection = place.store.connection("crm-loader", workspace=place.name)
    assert place.store.open_config(connection)["token"] == "next"
    assert Shelf.asked == ["here"]


# --- what is wrong -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "where", "said"),
    [
        ({"loader_type": "nothing"}, ("loader_type",), "salesforce"),
        ({"loader_type": "duckdb"}, ("loader_type",), "salesforce"),
        ({"source_id": NOBODY}, ("source_id",), "no connection"),
        ({"source_id": "nope"}, ("source_id",), "UUID"),
        ({"config": {"host": 5}}, ("config", "host"), "text"),
        ({"config": {"hots": "x"}}, ("config", "hots"), "host"),
        ({"config": {"region": 5}}, ("config", "region"), "text"),
        ({"config": {"region": "west"}}, ("config", "region"), "south"),
        ({"config": {"token": MASK}}, ("config",), "no secret is stored"),
        ({"config": {"token": {"env": "HOME"}}}, ("config", "token"), "may not be sent"),
        ({"target_schema": "no good"}, ("target_schema",), "no_good"),
        ({"target_schema": "pg_catalog"}, ("target_schema",), "warehouse itself"),
        ({"schedule": "often"}, ("schedule",), "cron"),
        ({"sync_mode": "append"}, ("sync_mode",), "incremental"),
        ({"selected_streams": [{"name": "orders"}, {"name": "nix"}]}, ("selected_streams", 1, "name"), "logs"),
        ({"selected_streams": [{"name": "orders"}, {"name": "orders"}]}, ("selected_streams", 1, "name"), "twice"),
        ({"selected_streams": [{"name": "customers"}]}, ("selected_streams", 0, "sync_mode"), "primary key"),
        ({"selected_streams": [{"name": "logs", "sync_mode": "odd"}]}, ("selected_streams", 0, "sync_mode"), "append"),
        ({"name": ""}, ("name",), "1 character"),
        ({"surprise": 1}, ("surprise",), "not permitted"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else None,
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place_and_leaves_nothing_behind(
    place: Place, fields: dict[str, Any], where: tuple[Any, ...], said: str
) -> None:
    found = place.invalid("POST", base(place), json=body(place, **fields))
    assert said in found.get(("body", *where), ""), found
    assert connections(place) == ["books", "warehouse"]
    assert place.ask("GET", base(place)) == []


def test_the_example_of_the_seed_is_told_what_it_lacks(place: Place) -> None:
    sent = body(place, loader_type="salesforce", config={"instance_url": "https://mycompany.salesforce.com"})
    assert place.invalid(
        "POST", base(place), json={**sent, "source_id": "770e8400-e29b-41d4-a716-446655440000"}
    ).keys() == {("body", "source_id")}
    found = place.invalid("POST", base(place), json=sent)
    assert "missing" in found["body", "config", "client_id"]
    assert "unknown" in found["body", "config", "instance_url"]


@pytest.mark.parametrize(
    ("config", "said"), [({"host": "nowhere"}, "cannot be reached"), ({"token": "wrong"}, "refused")]
)
def test_a_source_that_says_no_leaves_nothing_behind(place: Place, config: dict[str, Any], said: str) -> None:
    told = make(place, 424, config=config)
    assert told.keys() == {"error"}
    assert said in told["error"]
    assert connections(place) == ["books", "warehouse"]


def test_a_connector_with_a_bug_repeats_no_secret(place: Place) -> None:
    assert "KeyError" in make(place, 424, config={"host": "buggy"})["error"]


def test_a_table_that_is_taken_is_a_conflict_and_leaves_nothing_behind(place: Place) -> None:
    first = make(place)
    told = make(place, 409, name="Other")
    assert told["conflict_id"] == first["id"]
    assert "RAW_CRM.orders" in told["error"]
    assert connections(place) == ["books", "crm-loader", "warehouse"]


def test_the_workspace_of_the_path_has_to_be_that_of_the_key(place: Place, server: Server, tmp_path: Path) -> None:
    other = api_server.settle(server, tmp_path)
    made = make(place)
    for path in (
        base(place),
        f"{base(place)}/{made['id']}",
        f"/api/v1/workspaces/{NOBODY}/loaders",
        f"{base(other)}/{made['id']}",
    ):
        assert other.ask("GET", path, 404).keys() == {"error"}
    assert place.ask("GET", f"/api/v1/workspaces/{place.name}/loaders") == [made]
    for header, status in ((place.id, 200), (place.name, 200), (other.id, 400), ("", 400)):
        place.ask("GET", base(place), status, headers={"X-Workspace-ID": header})


@pytest.mark.parametrize("path", ["", "/runs", f"/runs/{NOBODY}"])
def test_an_unknown_loader_is_not_found(place: Place, path: str) -> None:
    for some_id in (NOBODY, "nope"):
        assert place.ask("GET", f"{base(place)}/{some_id}{path}", 404).keys() == {"error"}


# --- looking -----------------------------------------------------------------------------------------------------------------


def test_a_list_is_bare_and_has_pages_when_they_are_asked_for(place: Place) -> None:
    ids = [make(place, name=f"l{i}", target_schema=f"s{i}")["id"] for i in range(3)]
    assert [x["id"] for x in place.ask("GET", base(place))] == ids
    assert [x["id"] for x in place.ask("GET", f"{base(place)}?page=2&page_size=2")] == ids[2:]
    assert [x["id"] for x in place.ask("GET", f"{base(place)}?page_size=1")] == ids[:1]
    assert place.ask("GET", f"{base(place)}?page=2") == []
    assert place.client.get(f"{base(place)}?page_size=1").headers["x-total-count"] == "3"
    for query in ("page=0", "page_size=0", "page_size=101", "page=x"):
        assert ("query", query.partition("=")[0]) in place.invalid("GET", f"{base(place)}?{query}")


def test_an_archived_sync_is_no_loader(place: Place) -> None:
    made = make(place)
    place.ask("PATCH", f"/api/v1/syncs/{made['id']}", json={"status": "archived"})
    assert place.ask("GET", base(place)) == []
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/trigger"), ("GET", "/runs")):
        place.ask(method, f"{base(place)}/{made['id']}{path}", 404)
    place.ask("PUT", f"{base(place)}/{made['id']}", 404, json=body(place))


def test_every_connector_is_a_type_under_each_of_its_names(place: Place) -> None:
    found = {t["type"]: t for t in place.ask("GET", f"/api/v1/workspaces/{place.id}/loader-types")}
    assert {"salesforce", "postgres", "postgresql", "http_api", "rest_api", "shelf"} <= found.keys()
    assert "duckdb" not in found
    shelf = found["shelf"]
    assert (shelf["name"], shelf["streams"]) == ("Shelf", [])
    assert {"host", "token", "region"} <= shelf["config_schema"]["properties"].keys()
    assert found["salesforce"]["config_schema"]["required"] == ["client_id"]
    assert Shelf.asked == []


# --- changing ----------------------------------------------------------------------------------------------------------------


def test_a_put_replaces_what_a_loader_can_say(place: Place) -> None:
    made = make(place)
    path = f"{base(place)}/{made['id']}"
    wanted = body(
        place, name="Other", config={"token": "new", "port": 7}, target_schema="raw_two", schedule=None, sync_mode="full_refresh",
        selected_streams=[{"name": "customers"}, {"name": "orders", "sync_mode": "append"}], status="paused",
    )  # fmt: skip
    found = place.ask("PUT", path, json=wanted)
    assert (found["id"], found["name"], found["status"], found["schedule"]) == (made["id"], "Other", "paused", None)
    assert found["config"] == {"token": MASK, "port": 7}
    assert [s["sync_mode"] for s in found["selected_streams"]] == ["full_refresh", "append"]
    connection = place.store.connection("crm-loader", workspace=place.name)
    assert place.store.open_config(connection) == {"token": "new", "port": 7}
    assert connection.label == "Other"
    assert place.ask("PUT", path, json={k: v for k, v in wanted.items() if k != "status"})["status"] == "paused"


def test_an_answer_can_be_put_back_and_its_mask_keeps_the_secret(place: Place) -> None:
    made = make(place, selected_streams=[{"name": "orders"}])
    Shelf.asked.clear()
    again = place.ask("PUT", f"{base(place)}/{made['id']}", json={**made, "name": "Renamed"})
    assert again | {"updated_at": ""} == made | {"updated_at": "", "name": "Renamed"}
    connection = place.store.connection("crm-loader", workspace=place.name)
    assert place.store.open_config(connection)["token"] == TOKEN
    assert Shelf.asked == [], "nothing is new, so the source need not be asked"


def test_references_are_for_servers_that_allow_them(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELF_TOKEN", TOKEN)
    monkeypatch.setenv("ELT_DAGSTER_API_REFERENCES", "1")
    config = {"token": {"env": "SHELF_TOKEN"}}
    made = make(place, config=config)
    assert made["config"] == config
    monkeypatch.delenv("ELT_DAGSTER_API_REFERENCES")
    path = f"{base(place)}/{made['id']}"
    assert place.ask("PUT", path, json={**made, "name": "Renamed"})["config"] == config
    found = place.invalid("PUT", path, json={**made, "config": {"token": {"file": "/etc/passwd"}}})
    assert "may not be sent" in found["body", "config", "token"]


@pytest.mark.parametrize("change", [{"host": "evil.example"}, {"port": 9}], ids=["host", "port"])
def test_a_stored_secret_is_not_sent_to_a_host_that_the_put_chooses(place: Place, change: dict[str, Any]) -> None:
    made = make(place)
    path = f"{base(place)}/{made['id']}"
    Shelf.asked.clear()
    moved = {**made, "config": {**made["config"], **change}}
    found = place.invalid("PUT", path, json=moved)
    assert found["body", "config", "token"].startswith(f"/token is kept as it is, and {next(iter(change))} changed.")
    assert Shelf.asked == []
    connection = place.store.connection("crm-loader", workspace=place.name)
    assert place.store.open_config(connection) == {"token": TOKEN}
    assert (
        place.ask("PUT", path, json={**moved, "config": {**moved["config"], "token": TOKEN}})["config"]["token"] == MASK
    )


def test_a_stored_reference_is_not_opened_for_a_host_that_the_put_chooses(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELF_TOKEN", TOKEN)
    monkeypatch.setenv("ELT_DAGSTER_API_REFERENCES", "1")
    made = make(place, config={"token": {"env": "SHELF_TOKEN"}})
    path = f"{base(place)}/{made['id']}"
    moved = {**made, "config": {**made["config"], "host": "evil.example"}}
    monkeypatch.delenv("ELT_DAGSTER_API_REFERENCES")
    Shelf.asked.clear()
    assert "again" in place.invalid("PUT", path, json=moved)["body", "config", "token"]
    assert Shelf.asked == []
    # who may write any reference may as well keep this one
    monkeypatch.setenv("ELT_DAGSTER_API_REFERENCES", "1")
    assert place.ask("PUT", path, json=moved)["config"]["host"] == "evil.example"


def test_what_another_dialect_said_of_a_stream_stays(place: Place) -> None:
    made = make(place)
    stream = {"name": "orders", "hashed_columns": ["total"]}
    place.ask("POST", f"/elt_syncs/{made['id']}/source_streams", 201, json={"source_streams": [stream]})
    place.ask("PUT", f"{base(place)}/{made['id']}", json={**made, "sync_mode": "full_refresh"})
    assert place.store.sync_by_id(made["id"], workspace=place.name).spec.streams[0].hashed_columns == ("total",)


def test_a_put_that_is_wrong_changes_nothing(place: Place) -> None:
    made = make(place)
    path = f"{base(place)}/{made['id']}"
    wrong: dict[tuple[str | int, ...], dict[str, Any]] = {
        ("loader_type",): {
            "loader_type": "postgres",
            "config": {"host": "h", "database": "d", "user": "u", "password": "p"},
        },
        ("config", "port"): {"config": {"token": "new", "port": "x"}},
        ("selected_streams", 0, "name"): {"config": {"token": "new"}, "selected_streams": [{"name": "nix"}]},
        ("source_id",): {"source_id": NOBODY},
    }
    for where, fields in wrong.items():
        assert ("body", *where) in place.invalid("PUT", path, json={**made, **fields})
    place.ask("PUT", path, 424, json={**made, "config": {"token": "wrong"}})
    place.ask("PUT", f"{base(place)}/{NOBODY}", 404, json=made)
    assert place.ask("GET", path) == made
    connection = place.store.connection("crm-loader", workspace=place.name)
    assert place.store.open_config(connection) == {"token": TOKEN}


def test_a_connection_that_others_use_is_not_changed_from_here(place: Place) -> None:
    made = make(place)
    sync = {"connectionId": place.connection("crm-loader"), "name": "Second"}
    other = place.ask("POST", "/api/v1/syncs", 201, json=sync)
    path = f"{base(place)}/{made['id']}"
    assert place.ask("PUT", path, 409, json={**made, "config": {"token": "new"}})["conflict_id"] == other["id"]
    assert place.ask("PUT", path, json={**made, "name": "Renamed"})["name"] == "Renamed"


def test_to_delete_a_loader_is_to_delete_its_connection_unless_others_use_it(place: Place) -> None:
    first, second = make(place), make(place, name="Second", target_schema="other")
    assert connections(place) == ["books", "crm-loader", "second", "warehouse"]
    sync = {"connectionId": place.connection("second"), "name": "third"}
    place.ask("POST", "/api/v1/syncs", 201, json=sync)
    for made in (first, second):
        assert place.ask("DELETE", f"{base(place)}/{made['id']}") == {"status": "deleted"}
        place.ask("DELETE", f"{base(place)}/{made['id']}", 404)
    assert connections(place) == ["books", "second", "warehouse"]


def test_a_connection_that_was_there_before_outlives_its_syncs(place: Place) -> None:
    sync = place.ask("POST", "/api/v1/syncs", 201, json={"connectionId": place.source, "name": "Shop"})
    place.ask("DELETE", f"{base(place)}/{sync['id']}")
    assert connections(place) == ["books", "warehouse"]


# --- runs --------------------------------------------------------------------------------------------------------------------


def test_a_triggered_run_has_every_field(place: Place) -> None:
    made = make(place)
    path = f"{base(place)}/{made['id']}"
    run = place.ask("POST", f"{path}/trigger", 201)
    assert set(run) == RUN_FIELDS
    assert (run["loader_id"], run["workspace_id"], run["status"], run["streams_total"]) == (
        made["id"],
        place.id,
        "pending",
        2,
    )
    assert run["triggered_by"] == place.store.api_keys.list(place.name)[0].id
    assert place.ask("POST", f"{path}/trigger", 409)["conflict_id"] == run["id"]
    failed = StreamRun(stream="logs", status=RunStatus.FAILED, error="No. Wait.")
    good = StreamRun(stream="orders", status=RunStatus.COMPLETED, rows=7)
    place.runs.put(run["id"], RunStatus.FAILED, {"logs": failed, "orders": good}, started_at=MOMENT, ended_at=MOMENT)
    found = place.ask("GET", f"{path}/runs/{run['id']}")
    assert (found["status"], found["rows_loaded"], found["streams_failed"], found["error_message"]) == (
        "failed",
        7,
        1,
        "No. Wait.",
    )
    shown = place.ask("GET", path)
    assert (shown["last_run_id"], shown["last_run_at"]) == (run["id"], "2026-03-01T12:30:00.000Z")


def test_runs_are_a_bare_list_newest_first(place: Place) -> None:
    made = make(place)
    path = f"{base(place)}/{made['id']}"
    ids: list[str] = []
    for _ in range(3):
        ids.insert(0, place.ask("POST", f"{path}/trigger", 201)["id"])
        place.runs.put(ids[0], RunStatus.COMPLETED)
    assert [r["id"] for r in place.ask("GET", f"{path}/runs")] == ids
    assert [r["id"] for r in place.ask("GET", f"{path}/runs?page=2&page_size=2")] == ids[2:]
    other = make(place, name="other", target_schema="other")
    assert place.ask("GET", f"{base(place)}/{other['id']}/runs") == []
    place.ask("GET", f"{base(place)}/{other['id']}/runs/{ids[0]}", 404)


def test_a_run_of_a_schedule_was_triggered_by_nobody(place: Place) -> None:
    made = make(place)
    run = place.ask("POST", f"{base(place)}/{made['id']}/trigger", 201)
    place.runs.put(run["id"], RunStatus.RUNNING, triggered_by="schedule", trigger_ref="sync_crm_loader_schedule")
    assert place.ask("GET", f"{base(place)}/{made['id']}/runs")[0]["triggered_by"] is None


def test_a_paused_loader_runs_when_it_is_asked_and_a_draft_does_not(place: Place) -> None:
    made = make(place)
    path = f"{base(place)}/{made['id']}"
    place.ask("PUT", path, json={**made, "status": "draft"})
    assert "draft" in place.ask("POST", f"{path}/trigger", 409)["error"]
    place.ask("PUT", path, json={**made, "status": "paused"})
    place.ask("POST", f"{path}/trigger", 201)


# --- what others have changed, and what a loader cannot say --------------------------------------------------------------------


def test_a_loader_that_somebody_else_has_changed_is_not_overwritten(place: Place) -> None:
    made = place.client.post(base(place), json=body(place))
    path, wanted = f"{base(place)}/{made.json()['id']}", {**body(place), "config": {"token": MASK, "region": "south"}}
    tag = made.headers["etag"]
    assert place.client.get(path).headers["etag"] == tag
    changed = place.client.put(path, json={**wanted, "name": "Mine"}, headers={"if-match": tag})
    assert (changed.status_code, changed.headers["etag"] != tag) == (200, True)
    for stale in (tag, '"none-of-ours"'):
        assert (
            "ETag"
            in place.ask("PUT", path, 412, json={**wanted, "name": "Theirs"}, headers={"if-match": stale})["error"]
        )
        place.ask("DELETE", path, 412, headers={"if-match": stale})
    assert place.ask("GET", path)["name"] == "Mine"
    assert place.ask("DELETE", path, headers={"if-match": changed.headers["etag"]}) == {"status": "deleted"}


def test_other_credentials_alone_are_a_change_of_the_loader(place: Place) -> None:
    made = place.client.post(base(place), json=body(place))
    path = f"{base(place)}/{made.json()['id']}"
    assert place.client.put(path, json=body(place, config={"token": "other", "region": "south"})).status_code == 200
    answer = place.client.put(path, json=body(place), headers={"if-match": made.headers["etag"]})
    assert answer.status_code == 412, "the credentials of somebody else would be lost"


@pytest.mark.parametrize(
    "trigger",
    [
        {"triggerMode": "on_create"},
        {"triggerMode": "manual", "schedule": {"cron": "0 6 * * *", "timezone": "Asia/Tokyo"}},
    ],
    ids=["on-create", "schedule-kept-back"],
)
def test_what_starts_a_sync_stays_when_a_loader_is_put_back(place: Place, trigger: dict[str, Any]) -> None:
    sync = place.ask("POST", "/api/v1/syncs", 201, json={
        "connectionId": place.source, "name": "Made elsewhere", "entities": ["orders"], **trigger,
    })  # fmt: skip
    path = f"{base(place)}/{sync['id']}"
    loader = place.ask("GET", path)
    place.ask("PUT", path, json={**loader, "name": "Renamed"})
    now = place.ask("GET", f"/api/v1/syncs/{sync['id']}")
    assert (now["triggerMode"], now["schedule"]) == (sync["triggerMode"], sync["schedule"])
    place.ask("PUT", path, json={**loader, "schedule": "0 7 * * *"})
    assert place.ask("GET", f"/api/v1/syncs/{sync['id']}")["triggerMode"] == "scheduled"
