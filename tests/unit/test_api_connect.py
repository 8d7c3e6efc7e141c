"""The Connect dialect, row by row of its contract, with runs in memory: `tests/integration/test_api_connect.py` has real ones."""

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from elt_dagster import registry
from elt_dagster.control.runs import RunStatus, StreamRun
from elt_dagster.destinations.base import LoadPlan, TableRef
from elt_dagster.destinations.duckdb import DuckDB, DuckDBConfig
from elt_dagster.model import ConnectionSpec, LoadMode, RunMode, SyncStatus, TriggerMode
from elt_dagster.store import Store, open_store
from tests import servers
from tests.unit import connect_stage
from tests.unit.connect_stage import CANARY, Adverts, Clock, MemoryRuns, Stage

NOBODY = "00000000-0000-4000-8000-000000000000"
_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.again("another engine"))])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    if request.param == "sqlite":
        opened = open_store(f"sqlite:///{tmp_path_factory.mktemp('connect')}/store.sqlite")
        opened.init()
        yield opened
        return
    with servers.database() as url:
        opened = open_store(url)
        opened.init()
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def served(store: Store) -> tuple[TestClient, MemoryRuns, Clock]:
    return connect_stage.server(store)


@pytest.fixture
def stage(
    store: Store, served: tuple[TestClient, MemoryRuns, Clock], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Stage:
    """A workspace of its own for each test."""
    known = registry._connector_modules
    monkeypatch.setattr(registry, "_connector_modules", lambda: {**known(), "adverts": connect_stage.__name__})
    monkeypatch.setattr(Adverts, "asked", [])
    client, runs, clock = served
    runs.views, runs.away, clock.ahead = [], False, timedelta()
    name = f"w{next(_numbers)}"
    store.create_workspace(name)
    with store.transaction(name) as tx:
        ads = ConnectionSpec(name="ads", connector="adverts", config={"password": CANARY})
        tx.put_connection(ads, label="My ads")
    with store.transaction(name) as tx:
        file = tmp_path / "warehouse.duckdb"
        tx.put_connection(ConnectionSpec(name="warehouse", connector="duckdb", config={"path": str(file)}))
    _, key = store.api_keys.create(workspace=name, name="test")
    mine = TestClient(client.app, headers={"x-api-key": key}, raise_server_exceptions=True)
    return Stage(store, runs, clock, mine, name, file)


def mood(stage: Stage, **config: Any) -> None:
    """Change the source's settings."""
    with stage.store.transaction(stage.name) as tx:
        tx.put_connection(ConnectionSpec(name="ads", connector="adverts", config={"password": CANARY, **config}))


def stored(stage: Stage, sync_id: str) -> Any:
    """The sync as it is kept."""
    return stage.store.sync_by_id(sync_id, workspace=stage.name)


# --- integrations and connections --------------------------------------------------------------------------------------------


def test_integrations_are_sources_and_warehouses_in_pages(stage: Stage) -> None:
    page = stage.ask("GET", "/integrations?limit=100")
    found = {i["id"]: i for i in page["data"]}
    assert found["salesforce"]["abilities"] == ["EltSource"]
    assert found["databricks"]["abilities"] == ["EltDestination"]
    assert found["postgres"]["abilities"] == ["EltSource", "EltDestination"]
    assert (found["adverts"]["name"], found["adverts"]["supports_start_date"]) == ("Adverts", True)
    assert found["postgres"]["supports_start_date"] is False
    assert page["has_more"] is False
    assert page["next_cursor"] is None
    ids = [i["id"] for i in walk(stage, "/integrations?limit=2")]
    assert ids == list(found)


def walk(stage: Stage, path: str) -> list[Any]:
    """All items of a list, page by page; every page but the last is full."""
    found: list[Any] = []
    cursor: str | None = None
    limit = int(path.partition("limit=")[2].partition("&")[0])
    while True:
        page = stage.ask("GET", f"{path}&starting_after={cursor}" if cursor else path)
        found += page["data"]
        assert page["has_more"] is (page["next_cursor"] is not None)
        if not page["has_more"]:
            return found
        assert len(page["data"]) == limit
        cursor = page["next_cursor"]


def test_integrations_can_be_asked_for_by_ability(stage: Stage) -> None:
    both = [
        {i["id"] for i in stage.ask("GET", f"/integrations?limit=100&ability={a}")["data"]}
        for a in ("EltSource", "EltDestination")
    ]
    assert "adverts" in both[0] - both[1]
    assert "duckdb" in both[1] - both[0]
    assert "EltSource" in stage.refused("GET", "/integrations?ability=Magic", 400)


def test_connections_are_listed_newest_first_and_without_their_secrets(stage: Stage) -> None:
    page = stage.ask("GET", "/connections")
    assert [(c["label"], c["integration_id"], c["status"]) for c in page["data"]] == [
        ("warehouse", "duckdb", "ACTIVE"),
        ("My ads", "adverts", "ACTIVE"),
    ]
    assert set(page["data"][0]) == {
        "id", "label", "integration_id", "abilities", "status", "created_at", "updated_at"}  # fmt: skip
    assert page["data"][0]["created_at"].endswith("Z")
    assert [c["label"] for c in walk(stage, "/connections?limit=1")] == ["warehouse", "My ads"]


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "1.5"])
def test_a_page_has_1_to_100_items(stage: Stage, limit: str) -> None:
    for path in ("/connections", "/integrations", "/elt_syncs", "/elt_streams"):
        assert "query.limit" in stage.refused("GET", f"{path}?limit={limit}", 400)


def test_a_cursor_that_leads_nowhere_is_a_wrong_request(stage: Stage) -> None:
    for path in ("/connections", "/integrations", "/elt_syncs", "/elt_streams"):
        assert "Begin at the first page" in stage.refused("GET", f"{path}?starting_after={NOBODY}", 400)


def test_a_connection_goes_unless_a_sync_uses_it(stage: Stage) -> None:
    sync = stage.sync()
    answer = stage.ask("DELETE", f"/connections/{stage.connection}", 409)
    assert answer["conflict_id"] == sync["id"]
    stage.ask("DELETE", f"/elt_syncs/{sync['id']}", 204)
    gone = stage.connection
    stage.ask("DELETE", f"/connections/{gone}", 204)
    stage.ask("DELETE", f"/connections/{gone}", 404)


def test_settings_are_a_json_schema_with_options_from_the_source(stage: Stage) -> None:
    schema = stage.ask("GET", f"/connections/{stage.connection}/settings")
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert (schema["title"], schema["type"], schema["required"]) == ("Adverts settings", "object", [])
    accounts = schema["properties"]["ad_accounts"]["anyOf"]
    assert accounts[0] == {"const": "123456", "title": "Name of account"}
    assert schema["dependencies"] == {"campaign": ["ad_accounts"]}
    assert "anyOf" not in schema["properties"]["campaign"]


CHOSEN = {"ad_accounts": ["987654"]}


@pytest.mark.parametrize(
    "request_",
    [
        {"json": {"partial_settings": CHOSEN}},
        {"params": {"partial_settings": json.dumps(CHOSEN)}},
        {"params": {"partial_settings[ad_accounts]": "987654"}},
    ],
    ids=["body", "query", "brackets"],
)
def test_options_depend_on_what_was_chosen_so_far(
    stage: Stage, request_: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    plain = Adverts.settings_schema

    def settings_schema(self: Adverts, partial: Any = None) -> dict[str, Any]:
        seen.append(partial)
        return plain(self, partial)

    monkeypatch.setattr(Adverts, "settings_schema", settings_schema)
    schema = stage.ask("GET", f"/connections/{stage.connection}/settings", **request_)
    if "partial_settings[ad_accounts]" in request_.get("params", {}):
        assert seen == [{"ad_accounts": "987654"}]
    else:
        assert seen == [CHOSEN]
        assert schema["properties"]["campaign"]["anyOf"] == [{"const": "autumn", "title": "autumn"}]


def test_settings_of_what_cannot_answer(stage: Stage) -> None:
    path = f"/connections/{stage.connection}/settings"
    stage.refused("GET", f"/connections/{NOBODY}/settings", 404)
    stage.refused("GET", "/connections/no%20uuid/settings", 404)
    for wrong in ("[1]", "{", "7"):
        assert "/partial_settings" in stage.refused("GET", path, 400, params={"partial_settings": wrong})
    stage.refused("GET", path, 400, content=b"{")
    warehouse = stage.ask("GET", "/connections")["data"][0]["id"]
    stage.refused("GET", f"/connections/{warehouse}/settings", 400)
    mood(stage, mood="away")
    assert stage.ask("GET", path, 424)["error_code"] == "source_unavailable"
    mood(stage, mood="refusing")
    assert stage.ask("GET", path, 424)["error_code"] == "auth_failed"


# --- syncs -------------------------------------------------------------------------------------------------------------------


def test_a_sync_begins_as_a_draft_without_streams(stage: Stage) -> None:
    sync = stage.sync(start_date="2024-03-01", elt_settings={"ad_accounts": ["123456"]})
    assert sync == {
        "account_id": stage.account_id,
        "id": sync["id"],
        "status": "NOT_STARTED",
        "enabled": False,
        "config": {"ad_accounts": ["123456"], "start_date": "2024-03-01"},
        "created_at": sync["created_at"],
        "updated_at": sync["updated_at"],
        "source_connection_id": stage.connection,
        "source_integration_id": "adverts",
        "destination_connection_id": sync["destination_connection_id"],
        "destination_integration_id": "duckdb",
        "destination_schema_name": "raw_ads",
        "sync_interval": "0 */6 * * *",
        "start_date": "2024-03-01",
        "source_streams": [],
    }
    assert sync["created_at"].endswith("Z")
    assert stage.ask("GET", f"/elt_syncs/{sync['id']}") == sync
    kept = stored(stage, sync["id"])
    assert (kept.spec.slug, kept.spec.status) == ("my-ads-raw-ads", SyncStatus.DRAFT)
    assert kept.created_by


def test_a_second_sync_of_the_same_name_gets_another_slug(stage: Stage) -> None:
    slugs = [stored(stage, stage.sync()["id"]).slug for _ in range(2)]
    assert slugs == ["my-ads-raw-ads", "my-ads-raw-ads-2"]


def test_syncs_that_are_made_at_once_get_slugs_of_their_own(stage: Stage) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: stage.sync()["id"], range(4)))
    assert {stored(stage, one).slug for one in made} == {"my-ads-raw-ads", *(f"my-ads-raw-ads-{n}" for n in (2, 3, 4))}


BODY = {"destination_schema_name": "raw_ads", "sync_interval": "*/10 * * * *"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"connection_id": NOBODY}, "/connection_id: There is no connection"),
        ({"connection_id": None}, "/connection_id: "),
        ({"destination_connection_id": NOBODY}, "/destination_connection_id: There is no connection"),
        (
            {"destination_schema_name": "no schema!"},
            "/destination_schema_name: 'no schema!' is not a plain schema name",
        ),
        ({"destination_schema_name": "pg_catalog"}, "/destination_schema_name: 'pg_catalog' belongs to the warehouse"),
        ({"sync_interval": "every day"}, "/sync_interval: 'every day' is not a cron expression"),
        ({"sync_interval": "30 2 31 2 *"}, "/sync_interval: '30 2 31 2 *' names a day that never comes"),
        ({"sync_interval": "* * * * * *"}, "/sync_interval: "),
        ({"start_date": "yesterday"}, "/start_date: "),
        ({"start_date": 1700000000}, "/start_date: "),
        ({"elt_settings": {"ad_accounts": ["77"]}}, "/elt_settings/ad_accounts/0: "),
        ({"elt_settings": {"colour": "red"}}, "/elt_settings/colour: unknown key"),
        ({"elt_settings": []}, "/elt_settings: "),
        ({"elt_setings": {}}, "/elt_setings: "),
    ],
)
def test_a_sync_that_makes_no_sense_is_refused_with_its_field(stage: Stage, changes: dict[str, Any], told: str) -> None:
    body = {"connection_id": stage.connection, **BODY, **changes}
    assert told in stage.refused("POST", "/elt_syncs", 400, json=body)
    assert stage.ask("GET", "/elt_syncs")["data"] == []


def test_a_missing_field_is_named(stage: Stage) -> None:
    told = stage.refused("POST", "/elt_syncs", 400, json={})
    assert all(f"/{name}: " in told for name in ("connection_id", "destination_schema_name", "sync_interval"))
    stage.refused("POST", "/elt_syncs", 400, content=b"{", headers={"content-type": "application/json"})


@pytest.mark.parametrize(
    "draft", ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#"]
)
def test_the_example_of_the_guide_is_told_which_field_its_schema_asks_for(stage: Stage, draft: str) -> None:
    mood(stage, needs_accounts=True, draft=draft)
    told = stage.refused("POST", "/elt_syncs", 400, json={"connection_id": stage.connection, **BODY})
    assert "/elt_settings/ad_accounts: " in told
    assert "is missing. allowed: 123456, 987654." in told
    wrong = {"connection_id": stage.connection, **BODY, "elt_settings": {"account": ["123456"]}}
    told = stage.refused("POST", "/elt_syncs", 400, json=wrong)
    assert "/elt_settings/account: unknown key." in told
    assert "ad_accounts" in told
    sync = stage.sync(elt_settings={"ad_accounts": ["123456"]})
    told = stage.refused("POST", f"/elt_syncs/{sync['id']}", 400, json={"elt_settings": {"ad_accounts": ["12345"]}})
    assert "/elt_settings/ad_accounts/0: " in told
    assert "Did you mean '123456'?" in told


def test_a_schema_of_an_unknown_draft_is_the_connectors_fault(stage: Stage) -> None:
    mood(stage, draft="https://example.com/my-own-draft")
    answer = stage.ask("POST", "/elt_syncs", 424, json={"connection_id": stage.connection, **BODY})
    assert "draft that is not known" in answer["message"]


def test_a_start_date_where_the_connector_has_none_is_refused(stage: Stage) -> None:
    with stage.store.transaction(stage.name) as tx:
        made = tx.put_connection(ConnectionSpec(name="files", connector="files", config={"url": "/nowhere"}))
    told = stage.refused("POST", "/elt_syncs", 400, json={"connection_id": made.id, **BODY, "start_date": "2024-01-01"})
    assert "/start_date: The connector 'files' has no start date" in told


def test_a_sync_needs_a_warehouse_that_can_be_told(stage: Stage) -> None:
    with stage.store.transaction(stage.name) as tx:
        second = tx.put_connection(ConnectionSpec(name="second", connector="duckdb", config={"path": "x.duckdb"}))
    body = {"connection_id": stage.connection, **BODY}
    told = stage.refused("POST", "/elt_syncs", 400, json=body)
    assert "/destination_connection_id: This workspace has several warehouses" in told
    assert second.id in told
    sync = stage.ask("POST", "/elt_syncs", 201, json={**body, "destination_connection_id": second.id})
    assert sync["destination_connection_id"] == second.id


def test_a_warehouse_is_no_source_nor_a_source_a_warehouse(stage: Stage) -> None:
    warehouse = stage.ask("GET", "/connections")["data"][0]["id"]
    told = stage.refused("POST", "/elt_syncs", 400, json={**BODY, "connection_id": warehouse})
    assert "/connection_id: " in told
    both = {"connection_id": stage.connection, "destination_connection_id": stage.connection}
    assert "/destination_connection_id: " in stage.refused("POST", "/elt_syncs", 400, json={**BODY, **both})


def test_syncs_come_newest_first_in_pages_that_new_ones_do_not_move(stage: Stage) -> None:
    made = [stage.sync()["id"] for _ in range(5)]
    page = stage.ask("GET", "/elt_syncs?limit=2")
    assert [s["id"] for s in page["data"]] == made[:2:-1]
    stage.sync()
    following = stage.ask("GET", f"/elt_syncs?limit=100&starting_after={page['next_cursor']}")
    assert [s["id"] for s in following["data"]] == made[2::-1]
    assert (following["has_more"], following["next_cursor"]) == (False, None)


def test_a_page_has_ten_items_by_default(stage: Stage) -> None:
    for _ in range(11):
        stage.sync()
    page = stage.ask("GET", "/elt_syncs")
    assert (len(page["data"]), page["has_more"], page["next_cursor"]) == (10, True, page["data"][-1]["id"])


def test_syncs_of_one_connection(stage: Stage) -> None:
    mine = stage.sync()["id"]
    with stage.store.transaction(stage.name) as tx:
        other = tx.put_connection(ConnectionSpec(name="other", connector="adverts", config={}))
    theirs = stage.sync(connection_id=other.id)["id"]
    for connection, sync in ((stage.connection, mine), (other.id, theirs)):
        assert [s["id"] for s in stage.ask("GET", f"/elt_syncs?connection_id={connection}")["data"]] == [sync]
    stage.refused("GET", f"/elt_syncs?connection_id={NOBODY}", 404)


def test_settings_and_schedule_of_a_sync_change_and_the_rest_stays(stage: Stage) -> None:
    sync = stage.sync([{"name": "label"}])
    path = f"/elt_syncs/{sync['id']}"
    changed = stage.ask("POST", path, json={"elt_settings": {"ad_accounts": ["987654"]}, "sync_interval": "@daily"})
    assert changed == {
        **sync,
        "config": {"ad_accounts": ["987654"]},
        "sync_interval": "@daily",
        "updated_at": changed["updated_at"],
    }
    assert "/sync_interval: " in stage.refused("POST", path, 400, json={"sync_interval": "soon"})
    assert "/elt_settings/ad_accounts/0: " in stage.refused(
        "POST", path, 400, json={"elt_settings": {"ad_accounts": ["1"]}}
    )
    assert stage.ask("GET", path) == changed
    stage.refused("POST", f"/elt_syncs/{NOBODY}", 404, json={})


def test_an_update_of_what_somebody_else_changed_is_refused(stage: Stage) -> None:
    sync = stage.sync()
    path = f"/elt_syncs/{sync['id']}"
    tag = stage.client.get(path).headers["etag"]
    stage.ask("POST", path, json={"sync_interval": "@daily"}, headers={"if-match": tag})
    stage.refused("POST", path, 412, json={"sync_interval": "@hourly"}, headers={"if-match": tag})
    assert stage.ask("GET", path)["sync_interval"] == "@daily"


def test_a_request_that_is_sent_again_makes_one_sync(stage: Stage) -> None:
    body = {"connection_id": stage.connection, **BODY}
    first, second = (
        stage.ask("POST", "/elt_syncs", 201, json=body, headers={"idempotency-key": "a"}) for _ in range(2)
    )
    assert first == second
    assert len(stage.ask("GET", "/elt_syncs")["data"]) == 1


def test_enable_and_disable_switch_the_schedule(stage: Stage) -> None:
    sync = stage.sync([{"name": "label"}])
    path = f"/elt_syncs/{sync['id']}"
    for word, status, enabled in (
        ("enable", "RUNNING", True),
        ("disable", "PAUSED", False),
        ("enable", "RUNNING", True),
    ):
        assert stage.ask("POST", f"{path}/{word}", 204) is None
        now = stage.ask("GET", path)
        assert (now["status"], now["enabled"]) == (status, enabled)
    assert stage.runs.views == []


def test_a_sync_without_streams_is_not_started_and_says_why(stage: Stage) -> None:
    path = f"/elt_syncs/{stage.sync()['id']}"
    for word in ("start", "enable"):
        assert "has no streams. Add source_streams first." in stage.refused("POST", f"{path}/{word}", 400)
    stage.ask("POST", f"{path}/disable", 204)
    assert stage.ask("GET", path)["status"] == "NOT_STARTED"


def test_start_enables_and_runs_at_once(stage: Stage) -> None:
    sync = stage.sync([{"name": "label"}, {"name": "adverts"}])
    path = f"/elt_syncs/{sync['id']}"
    assert stage.ask("POST", f"{path}/start", 204) is None
    assert stage.ask("GET", path)["status"] == "RUNNING"
    (run,) = stage.runs.views
    assert (run.sync_id, run.triggered_by, run.run_mode) == (sync["id"], "api", RunMode.INCREMENTAL)
    assert stage.ask("POST", f"{path}/start", 409)["conflict_id"] == run.id
    stage.runs.put(run.id, RunStatus.COMPLETED, ended_at=datetime.now(UTC))
    stage.ask("POST", f"{path}/start", 204)
    assert len(stage.runs.views) == 2


def test_without_dagster_nothing_is_started_and_the_answer_says_so(stage: Stage) -> None:
    path = f"/elt_syncs/{stage.sync([{'name': 'label'}])['id']}"
    stage.runs.away = True
    stage.refused("POST", f"{path}/start", 424)
    stage.refused("GET", f"{path}/status", 424)
    assert stage.ask("GET", path)["status"] == "NOT_STARTED"


def test_deleting_a_sync_deletes_its_streams_and_leaves_its_tables(stage: Stage) -> None:
    sync = stage.sync([{"name": "label"}])
    stage.ask("DELETE", f"/elt_syncs/{sync['id']}", 204)
    assert stage.ask("GET", "/elt_streams")["data"] == []
    stage.refused("GET", f"/elt_syncs/{sync['id']}", 404)
    stage.refused("DELETE", f"/elt_syncs/{sync['id']}", 404)


def loaded(stage: Stage, sync: dict[str, Any]) -> DuckDB:
    """The warehouse, with a table of one row for every stream of ``sync``."""
    warehouse = DuckDB(DuckDBConfig.model_validate({"path": str(stage.file)}))
    for stream in sync["source_streams"]:
        plan = LoadPlan(
            table=TableRef("raw_ads", stream["name"]), columns=pa.schema([("id", pa.int64())]), mode=LoadMode.APPEND,
            binding_id=stream["id"], load_id=stream["id"], run_id="r",
        )  # fmt: skip
        with warehouse.begin(plan) as load:
            load.stage(pa.record_batch({"id": [1]}))
            load.commit(None)
    return warehouse


def test_tables_stay_when_their_sync_goes_and_go_when_it_is_asked(stage: Stage) -> None:
    kept, gone = stage.sync([{"name": "label"}]), stage.sync([{"name": "adverts"}])
    warehouse = loaded(stage, kept)
    loaded(stage, gone)
    stage.ask("DELETE", f"/elt_syncs/{gone['id']}?removeDataReferences=true", 204)
    stage.ask("DELETE", f"/elt_syncs/{kept['id']}?removeDataReferences=false", 204)
    assert warehouse.columns(TableRef("raw_ads", "adverts")) is None
    assert warehouse.count(TableRef("raw_ads", "label")) == 1
    assert [s.binding_id for s in warehouse.states("raw_ads")] == [kept["source_streams"][0]["id"]]
    assert stage.ask("GET", "/elt_syncs")["data"] == []


def test_tables_that_are_being_loaded_are_not_removed(stage: Stage) -> None:
    sync = stage.sync([{"name": "label"}])
    warehouse = loaded(stage, sync)
    run = stage.runs.launch(sync["id"], sync_id=sync["id"])
    path = f"/elt_syncs/{sync['id']}?removeDataReferences=true"
    assert stage.ask("DELETE", path, 409)["conflict_id"] == run
    assert warehouse.count(TableRef("raw_ads", "label")) == 1
    stage.runs.put(run, RunStatus.CANCELLED, ended_at=datetime.now(UTC))
    stage.ask("DELETE", path, 204)


def test_a_sync_stays_where_its_tables_cannot_be_removed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = stage.sync([{"name": "label"}])
    path = f"/elt_syncs/{sync['id']}?removeDataReferences=true"
    with monkeypatch.context() as patch:
        patch.delattr(DuckDB, "drop")
        told = stage.refused("DELETE", path, 400)
    assert "DuckDB cannot remove tables from here. Leave removeDataReferences out" in told
    stage.ask("GET", f"/elt_syncs/{sync['id']}")
    stage.refused("DELETE", f"/elt_syncs/{sync['id']}?removeDataReferences=perhaps", 400)


@pytest.mark.parametrize("path", ["", "/status", "/available_source_streams", "/source_streams"])
def test_an_unknown_sync_is_not_found(stage: Stage, path: str) -> None:
    for unknown in (NOBODY, "qviPHo5AukUjFf", "%E2%82%AC"):
        stage.refused("GET", f"/elt_syncs/{unknown}{path}", 404)


@pytest.mark.parametrize("word", ["enable", "disable", "start", "source_streams"])
def test_nothing_can_be_done_to_an_unknown_sync(stage: Stage, word: str) -> None:
    body = {"source_streams": [{"name": "label"}]}
    stage.refused("POST", f"/elt_syncs/{NOBODY}/{word}", 404, json=body)


def test_an_archived_sync_is_hidden(stage: Stage) -> None:
    sync = stage.sync([{"name": "label"}])
    stream = sync["source_streams"][0]["id"]
    with stage.store.transaction(stage.name) as tx:
        kept = tx.sync_by_id(sync["id"])
        tx.put_sync(kept.spec.model_copy(update={"status": SyncStatus.ARCHIVED}), kept.streams)
    assert stage.ask("GET", "/elt_syncs")["data"] == []
    assert stage.ask("GET", "/elt_streams")["data"] == []
    for path in (f"/elt_syncs/{sync['id']}", f"/elt_streams/{stream}", f"/elt_stream_runs?elt_stream_id={stream}",
                 f"/elt_syncs/{sync['id']}/source_streams"):  # fmt: skip
        stage.refused("GET", path, 404)


def test_what_another_workspace_has_is_not_there(stage: Stage) -> None:
    sync = stage.sync([{"name": "label"}])
    stream, connection = sync["source_streams"][0]["id"], stage.connection
    stage.store.create_workspace(f"{stage.name}-other")
    _, key = stage.store.api_keys.create(workspace=f"{stage.name}-other", name="other")
    other = replace(stage, client=TestClient(stage.client.app, headers={"x-api-key": key}))
    for path in ("/connections", "/elt_syncs", "/elt_streams"):
        assert other.ask("GET", path)["data"] == []
    for path in (f"/elt_syncs/{sync['id']}", f"/elt_streams/{stream}", f"/elt_syncs/{sync['id']}/status",
                 f"/connections/{connection}/settings", f"/elt_syncs/{connection}/source_streams"):  # fmt: skip
        other.refused("GET", path, 404)
    other.refused("DELETE", f"/elt_syncs/{sync['id']}", 404)
    other.refused("POST", f"/elt_streams/{stream}/request_run", 404)
    other.refused("POST", "/elt_syncs", 400, json={"connection_id": connection, **BODY})
    assert stage.ask("GET", f"/elt_syncs/{sync['id']}") == sync


def test_a_sync_whose_row_is_broken_is_shown_as_failed_and_can_be_deleted(stage: Stage) -> None:
    import sqlalchemy as sa

    sync = stage.sync([{"name": "label"}])
    with stage.store._database.write() as conn:
        conn.execute(sa.text("UPDATE elt_syncs SET spec = '{}' WHERE id = :id"), {"id": sync["id"]})
    (found,) = stage.ask("GET", "/elt_syncs")["data"]
    assert (found["id"], found["status"], found["source_streams"]) == (sync["id"], "FAILED", [])
    assert stage.ask("GET", f"/elt_syncs/{sync['id']}") == found
    assert stage.ask("GET", "/elt_streams")["data"] == []
    assert "cannot be read" in stage.refused("POST", f"/elt_syncs/{sync['id']}/start", 400)
    stage.ask("DELETE", f"/elt_syncs/{sync['id']}", 204)


# --- streams -----------------------------------------------------------------------------------------------------------------


def test_available_streams_of_a_sync_and_of_a_connection(stage: Stage) -> None:
    sync = stage.sync(elt_settings={"ad_accounts": ["123456"]})
    page = stage.ask("GET", f"/elt_syncs/{sync['id']}/available_source_streams")
    assert [s["name"] for s in page["data"]] == ["adverts", "adverts.images", "label"]
    assert page["data"][0] == {
        "name": "adverts", "is_selectable": True, "preselect": True, "sub_streams": ["adverts.images"],
        "retired": False, "retirement_details": None}  # fmt: skip
    assert page["data"][1]["preselect"] is False
    assert Adverts.asked[-1] == {"ad_accounts": ["123456"]}
    assert stage.ask("GET", f"/elt_syncs/{sync['id']}/source_streams") == page
    assert stage.ask("GET", f"/elt_syncs/{stage.connection}/source_streams") == page
    assert [s["name"] for s in walk(stage, f"/elt_syncs/{sync['id']}/source_streams?limit=2")] == [
        "adverts", "adverts.images", "label"]  # fmt: skip
    mood(stage, mood="away")
    stage.refused("GET", f"/elt_syncs/{sync['id']}/source_streams", 424)


def put(stage: Stage, sync: dict[str, Any], *streams: dict[str, Any], status: int = 201) -> Any:
    return stage.ask("POST", f"/elt_syncs/{sync['id']}/source_streams", status, json={"source_streams": list(streams)})


def test_a_stream_may_be_named_as_people_write_it(stage: Stage) -> None:
    sync = stage.sync()
    (first,) = put(stage, sync, {"name": "Advert"})["source_streams"]
    (second,) = put(stage, sync, {"name": "ADVERTS", "hashed_columns": ["email"]})["source_streams"]
    assert (first["name"], second["name"], second["id"]) == ("adverts", "adverts", first["id"])
    assert second["hashed_columns"] == ["email"]
    put(stage, sync, {"name": "adverb"}, status=400)


def test_the_flags_become_what_the_stream_is_loaded_by(stage: Stage) -> None:
    sync = stage.sync()
    flags = {
        "incremental_pointer_id": "id",
        "excluded_columns": [],
        "hashed_columns": ["email"],
        "full_sync_at_midnight": True,
        "full_sync_always": False,
        "protected_from_full_sync": False,
        "excluded_substreams": ["adverts.images"],
        "enabled_history_table": True,
    }
    (shown,) = put(stage, sync, {"name": "adverts", **flags})["source_streams"]
    own = (
        "id",
        "created_at",
        "updated_at",
        "elt_sync_id",
        "name",
        "incremental_primary_key_name",
        "full_refresh_requested",
    )
    assert {k: v for k, v in shown.items() if k not in own} == flags
    assert (shown["elt_sync_id"], shown["incremental_primary_key_name"]) == (sync["id"], ["id"])
    kept = stored(stage, sync["id"])
    binding = kept.spec.streams[0]
    assert (binding.cursor_field, binding.hashed_columns) == ("id", ("email",))
    assert (binding.full_sync_at_midnight, binding.enabled_history_table) == (True, True)
    assert kept.envelope == {"excluded_substreams": {"adverts": ["adverts.images"]}}
    assert stage.ask("GET", f"/elt_streams/{shown['id']}") == shown


def test_streams_are_added_and_changed_but_never_removed(stage: Stage) -> None:
    sync = stage.sync([{"name": "adverts", "hashed_columns": ["email"], "excluded_substreams": ["adverts.images"]}])
    first = sync["source_streams"][0]
    answer = put(stage, sync, {"name": "label"}, {"name": "adverts", "full_sync_always": True})
    assert [s["name"] for s in answer["source_streams"]] == ["label", "adverts"]
    now = stage.ask("GET", f"/elt_syncs/{sync['id']}")["source_streams"]
    assert [s["name"] for s in now] == ["adverts", "label"]
    assert now[0] == {**first, "full_sync_always": True, "updated_at": now[0]["updated_at"]}
    cleared = put(stage, sync, {"name": "adverts", "hashed_columns": None, "excluded_substreams": None})
    assert (cleared["source_streams"][0]["hashed_columns"], cleared["source_streams"][0]["excluded_substreams"]) == (
        [],
        [],
    )
    assert stored(stage, sync["id"]).envelope == {}


@pytest.mark.parametrize(
    ("stream", "told"),
    [
        ({"name": "lable"}, "/source_streams/1/name: "),
        ({"name": "lable"}, "Did you mean 'label'?"),
        ({"name": ""}, "/source_streams/1/name: "),
        ({"name": "adverts", "incremental_pointer_id": "updated"}, "/source_streams/1/incremental_pointer_id: "),
        ({"name": "adverts", "excluded_columns": ["mail"]}, "/source_streams/1/excluded_columns/0: "),
        ({"name": "adverts", "hashed_columns": ["mail"]}, "/source_streams/1/hashed_columns/0: "),
        ({"name": "adverts", "excluded_columns": ["email"], "hashed_columns": ["email"]}, "both excluded and hashed"),
        ({"name": "adverts", "incremental_pointer_id": "updated_at", "excluded_columns": ["updated_at"]}, "/source_streams/1"),
        ({"name": "adverts", "full_sync_always": True, "protected_from_full_sync": True}, "contradicts"),
        ({"name": "adverts", "full_sync_always": "maybe"}, "/source_streams/1/full_sync_always: "),
        ({"name": "adverts", "excluded_substreams": ["label"]}, "/source_streams/1/excluded_substreams: stream 'adverts' has no substream"),
        ({"name": "adverts", "colour": "red"}, "/source_streams/1/colour: "),
        ({"name": "label"}, "/source_streams: "),
    ],
)  # fmt: skip
def test_a_stream_that_makes_no_sense_is_refused_with_its_field(
    stage: Stage, stream: dict[str, Any], told: str
) -> None:
    sync = stage.sync()
    assert told in put(stage, sync, {"name": "label"}, stream, status=400)["message"]
    assert stage.ask("GET", f"/elt_syncs/{sync['id']}")["source_streams"] == []


def test_a_problem_of_a_stream_that_was_there_before_points_at_the_right_one(stage: Stage) -> None:
    sync = stage.sync([{"name": "adverts"}])
    told = put(stage, sync, {"name": "label"}, {"name": "adverts", "hashed_columns": ["mail"]}, status=400)["message"]
    assert "/source_streams/1/hashed_columns/0: " in told


def test_a_substream_is_excluded_or_loaded_but_not_both(stage: Stage) -> None:
    sync = stage.sync([{"name": "adverts", "excluded_substreams": ["adverts.images"]}])
    told = put(stage, sync, {"name": "adverts.images"}, status=400)["message"]
    assert "'adverts.images' is excluded from stream 'adverts', and loaded." in told
    put(stage, sync, {"name": "adverts", "excluded_substreams": []}, {"name": "adverts.images"})


def test_no_streams_or_too_many_are_refused(stage: Stage) -> None:
    sync = stage.sync()
    assert "/source_streams: " in put(stage, sync, status=400)["message"]
    many = [{"name": str(i)} for i in range(5001)]
    assert "/source_streams: " in put(stage, sync, *many, status=400)["message"]


def test_a_table_that_another_sync_loads_is_a_conflict_that_names_it(stage: Stage) -> None:
    first, second = stage.sync([{"name": "label"}]), stage.sync()
    refusal = put(stage, second, {"name": "label"}, status=409)
    assert (refusal["error_code"], refusal["conflict_id"]) == ("conflict", first["id"])
    assert "would load the table raw_ads.label" in refusal["message"]


def test_streams_are_listed_newest_first_of_all_syncs_or_of_one(stage: Stage) -> None:
    first = stage.sync([{"name": "label"}])
    second = stage.sync([{"name": "label"}], destination_schema_name="other")
    put(stage, first, {"name": "adverts"})
    every = walk(stage, "/elt_streams?limit=1")
    assert [(s["elt_sync_id"], s["name"]) for s in every] == [
        (first["id"], "adverts"), (second["id"], "label"), (first["id"], "label")]  # fmt: skip
    mine = stage.ask("GET", f"/elt_streams?elt_sync_id={second['id']}")["data"]
    assert mine == second["source_streams"]
    stage.refused("GET", f"/elt_streams?elt_sync_id={NOBODY}", 404)


def test_a_stream_leaves_its_sync_and_the_last_one_leaves_a_draft(stage: Stage) -> None:
    sync = stage.sync([{"name": "label"}, {"name": "adverts"}])
    path = f"/elt_syncs/{sync['id']}"
    stage.ask("POST", f"{path}/enable", 204)
    label, adverts = sync["source_streams"]
    stage.ask("DELETE", f"/elt_streams/{label['id']}", 204)
    now = stage.ask("GET", path)
    assert ([s["name"] for s in now["source_streams"]], now["status"]) == (["adverts"], "RUNNING")
    stage.refused("GET", f"/elt_streams/{label['id']}", 404)
    stage.refused("DELETE", f"/elt_streams/{label['id']}", 404)
    stage.ask("DELETE", f"/elt_streams/{adverts['id']}", 204)
    assert stage.ask("GET", path)["status"] == "NOT_STARTED"


def test_a_full_refresh_is_marked_and_taken_back_and_starts_nothing(stage: Stage) -> None:
    sync = stage.sync([{"name": "label"}])
    stream = f"/elt_streams/{sync['source_streams'][0]['id']}"
    marks = stage.store.full_refreshes
    binding = sync["source_streams"][0]["id"]
    stage.ask("POST", f"{stream}/request_full_refresh", 204)
    mark = marks.get(binding)
    assert mark is not None
    assert mark.reset_history is False
    assert stage.ask("GET", stream)["full_refresh_requested"] is True
    stage.ask("POST", f"{stream}/request_full_refresh", 204, json={"reset_history_table": True})
    mark = marks.get(binding)
    assert mark is not None
    assert mark.reset_history is True
    for _ in range(2):
        stage.ask("POST", f"{stream}/cancel_full_refresh", 204)
    assert marks.get(binding) is None
    assert stage.runs.views == []
    stage.refused("POST", f"{stream}/request_full_refresh", 400, json={"reset": True})


def test_a_protected_stream_refuses_full_refresh(stage: Stage) -> None:
    sync = stage.sync([{"name": "adverts", "protected_from_full_sync": True}])
    stream = f"/elt_streams/{sync['source_streams'][0]['id']}"
    assert "is protected from full refresh" in stage.refused("POST", f"{stream}/request_full_refresh", 400)
    stage.ask("POST", f"{stream}/cancel_full_refresh", 204)


@pytest.mark.parametrize("word", ["request_run", "request_full_refresh", "cancel_full_refresh"])
def test_nothing_can_be_done_to_an_unknown_stream(stage: Stage, word: str) -> None:
    stage.refused("POST", f"/elt_streams/{NOBODY}/{word}", 404)
    stage.refused("POST", f"/elt_streams/nothing/{word}", 404)
    stage.refused("GET", f"/elt_streams/{NOBODY}", 404)


# --- runs --------------------------------------------------------------------------------------------------------------------


def started(stage: Stage, *names: str) -> tuple[dict[str, Any], dict[str, str]]:
    """An active sync that is not running, and the ids of its streams by name."""
    sync = stage.sync([{"name": name} for name in names or ("label", "adverts")])
    stage.ask("POST", f"/elt_syncs/{sync['id']}/enable", 204)
    return sync, {s["name"]: s["id"] for s in sync["source_streams"]}


def test_a_stream_is_run_and_found_at_its_status_url(stage: Stage) -> None:
    _, ids = started(stage)
    for attempt in range(2):
        url = stage.ask("POST", f"/elt_streams/{ids['label']}/request_run")["status_url"]
        assert url.startswith(f"/elt_stream_runs?elt_stream_id={ids['label']}&starting_after=")
        assert url.endswith("&limit=1&sort_direction=asc")
        (run,) = stage.ask("GET", url)["data"]
        view = stage.runs.views[-1]
        assert run["id"].startswith(view.id)
        assert [p.stream for p in view.streams] == ["label"]
        assert (run["status"], run["finished_at"], run["rows_synced"]) == ("RUNNING", None, None)
        assert stage.ask("GET", f"/elt_stream_runs/{run['id']}") == run
        loaded = StreamRun(stream="label", status=RunStatus.COMPLETED, rows=5 + attempt, bytes=10)
        ended = datetime.now(UTC)
        stage.runs.put(view.id, RunStatus.COMPLETED, {"label": loaded}, started_at=ended, ended_at=ended)
        (run,) = stage.ask("GET", url)["data"]
        assert (run["status"], run["rows_synced"]) == ("COMPLETED", 5 + attempt)
        assert run["finished_at"].endswith("Z")


def test_a_stream_that_is_being_loaded_is_not_run_twice(stage: Stage) -> None:
    sync, ids = started(stage)
    stage.ask("POST", f"/elt_streams/{ids['label']}/request_run")
    refusal = stage.ask("POST", f"/elt_streams/{ids['label']}/request_run", 409)
    assert stage.ask("GET", f"/elt_stream_runs/{refusal['active_run_id']}")["status"] == "RUNNING"
    assert set(refusal) == {"error_code", "message", "active_run_id"}
    stage.ask("POST", f"/elt_streams/{ids['adverts']}/request_run")
    assert stage.ask("POST", f"/elt_syncs/{sync['id']}/start", 409)["conflict_id"] == stage.runs.views[0].id


def test_a_stream_of_a_sync_that_was_never_started_is_not_run(stage: Stage) -> None:
    sync = stage.sync([{"name": "label"}])
    answer = stage.ask("POST", f"/elt_streams/{sync['source_streams'][0]['id']}/request_run", 400)
    assert "is draft and cannot run. Activate it first." in answer["message"]
    assert stage.runs.views == []


def test_runs_of_a_stream_come_in_pages_in_either_direction(stage: Stage) -> None:
    sync, ids = started(stage)
    for n in range(5):
        names = None if n % 2 else ["label"]
        run = stage.runs.launch(sync["id"], streams=names, sync_id=sync["id"])
        stage.runs.put(run, RunStatus.CANCELLED if n == 4 else RunStatus.COMPLETED, ended_at=datetime.now(UTC))
    views = [v.id for v in stage.runs.views]
    path = f"/elt_stream_runs?elt_stream_id={ids['label']}"
    newest = walk(stage, f"{path}&limit=2")
    assert [r["id"].partition(".")[0] for r in newest] == views[::-1]
    assert walk(stage, f"{path}&sort_direction=asc&limit=2") == newest[::-1]
    assert [r["status"] for r in newest] == ["FAILED", *["COMPLETED"] * 4]
    others = stage.ask("GET", f"/elt_stream_runs?elt_stream_id={ids['adverts']}")["data"]
    assert [r["id"].partition(".")[0] for r in others] == [views[3], views[1]]
    assert {(r["elt_sync_id"], r["elt_stream_id"]) for r in others} == {(sync["id"], ids["adverts"])}
    wrong = (f"{views[0]}.{NOBODY}", f"{NOBODY}.{ids['label']}", "nonsense")
    for cursor in wrong:
        stage.refused("GET", f"{path}&starting_after={cursor}", 400)
    stage.refused("GET", f"{path}&sort_direction=up", 400)
    stage.refused("GET", "/elt_stream_runs", 400)
    stage.refused("GET", f"/elt_stream_runs?elt_stream_id={NOBODY}", 404)
    for unknown in (*wrong, views[0], f"{views[0]}.{ids['adverts']}", ".x", "x."):
        stage.refused("GET", f"/elt_stream_runs/{unknown}", 404)


def states(stage: Stage, sync: dict[str, Any]) -> dict[str, Any]:
    answer = stage.ask("GET", f"/elt_syncs/{sync['id']}/status")
    assert answer["elt_sync_id"] == sync["id"]
    return {s["name"]: s for s in answer["source_streams"]}


def test_a_snapshot_follows_each_stream_through_its_run(stage: Stage) -> None:
    sync, _ = started(stage)
    assert states(stage, sync)["label"] == {"name": "label", "active_sync": None, "latest_sync": None}
    run = stage.runs.launch(sync["id"], sync_id=sync["id"])
    assert [s["active_sync"]["status"] for s in states(stage, sync).values()] == ["SCHEDULED"] * 2
    now = datetime.now(UTC)
    metrics = {
        "load_mode": "merge",
        "run_mode": "incremental",
        "cursor_after": "2026-01-01",
        "counts/estimated_rows": 9,
    }
    landed = StreamRun(stream="adverts", status=RunStatus.COMPLETED, rows=7, bytes=70, metrics=metrics)
    stage.runs.put(run, RunStatus.RUNNING, {"adverts": landed}, started_at=now)
    found = states(stage, sync)
    assert found["label"]["active_sync"]["status"] == "RUNNING"
    assert found["label"]["active_sync"]["started_at"].endswith("Z")
    assert found["adverts"]["active_sync"] is None
    latest = found["adverts"]["latest_sync"]
    assert (latest["status"], latest["operation_mode"]) == ("COMPLETED", "INCREMENTAL")
    assert (latest["full_sync_trigger"], latest["records_synced"], latest["bytes_synced"]) == ("INITIAL_SYNC", 7, 70)
    assert (latest["estimated_total_count"], found["label"]["active_sync"]["estimated_total_count"]) == (9, None)
    broken = StreamRun(stream="label", status=RunStatus.FAILED, error="It broke. Mend it.", reason="source_error")
    stage.runs.put(run, RunStatus.FAILED, {"adverts": landed, "label": broken}, ended_at=now)
    latest = states(stage, sync)["label"]["latest_sync"]
    assert (latest["status"], latest["error_message"], latest["details"]) == (
        "FAILED",
        "It broke. Mend it.",
        "source_error",
    )
    assert (latest["operation_mode"], latest["full_sync_trigger"]) == ("FULL", "ALWAYS_FULL")
    assert latest["finished_at"].endswith("Z")


def test_a_run_that_was_cancelled_shows_as_failed_with_details(stage: Stage) -> None:
    sync, _ = started(stage, "label")
    run = stage.runs.launch(sync["id"], sync_id=sync["id"])
    stage.runs.put(run, RunStatus.CANCELLED, ended_at=datetime.now(UTC), cancel_reason="too slow")
    latest = states(stage, sync)["label"]["latest_sync"]
    assert (latest["status"], latest["details"]) == ("FAILED", "cancelled: too slow")


@pytest.mark.parametrize(
    ("run", "metrics", "trigger"),
    [
        ({"run_mode": RunMode.FULL_REFRESH, "triggered_by": "midnight"}, {"run_mode": "full_refresh"}, "MIDNIGHT"),
        ({"run_mode": RunMode.FULL_REFRESH, "triggered_by": "manual"}, {"run_mode": "full_refresh"}, "USER"),
        ({"triggered_by": "schedule"}, {"run_mode": "full_refresh", "load_mode": "replace"}, "USER"),
        ({}, {"cursor_before": "1", "cursor_after": "2"}, "NONE"),
        ({}, {"cursor_after": "2"}, "INITIAL_SYNC"),
    ],
    ids=["midnight", "full refresh", "marked", "incremental", "first"],
)  # fmt: skip
def test_a_snapshot_tells_why_everything_was_read(
    stage: Stage, run: dict[str, Any], metrics: dict[str, Any], trigger: str
) -> None:
    sync, _ = started(stage, "adverts")
    made = stage.runs.launch(sync["id"], sync_id=sync["id"])
    part = StreamRun(stream="adverts", status=RunStatus.COMPLETED, rows=1, metrics=metrics)
    stage.runs.put(made, RunStatus.COMPLETED, {"adverts": part}, ended_at=datetime.now(UTC), **run)
    assert states(stage, sync)["adverts"]["latest_sync"]["full_sync_trigger"] == trigger


def test_a_retry_counts_its_attempts(stage: Stage) -> None:
    sync, _ = started(stage, "label")
    first = stage.runs.launch(sync["id"], sync_id=sync["id"])
    stage.runs.put(first, RunStatus.FAILED, ended_at=datetime.now(UTC))
    second = stage.runs.launch(sync["id"], sync_id=sync["id"])
    stage.runs.put(second, RunStatus.RUNNING, parent_id=first, attempt=2, started_at=datetime.now(UTC))
    active = states(stage, sync)["label"]["active_sync"]
    assert (active["status"], active["retry_attempt"]) == ("RETRYING", 1)


def test_a_stream_that_should_have_been_loaded_is_delayed(stage: Stage) -> None:
    sync, _ = started(stage, "label")
    stage.clock.ahead = timedelta(hours=7)
    active = states(stage, sync)["label"]["active_sync"]
    assert active["status"] == "DELAYED"
    assert "was not started" in active["details"]
    run = stage.runs.launch(sync["id"], sync_id=sync["id"])
    stage.runs.put(run, RunStatus.COMPLETED, created_at=stage.clock.now(), ended_at=stage.clock.now())
    assert states(stage, sync)["label"]["active_sync"] is None
    stage.clock.ahead = timedelta(hours=14)
    stage.ask("POST", f"/elt_syncs/{sync['id']}/disable", 204)
    assert states(stage, sync)["label"]["active_sync"] is None


def test_a_sync_that_is_started_by_hand_is_never_overdue(stage: Stage) -> None:
    sync, _ = started(stage, "label")
    with stage.store.transaction(stage.name) as tx:
        kept = tx.sync_by_id(sync["id"])
        tx.put_sync(kept.spec.model_copy(update={"trigger_mode": TriggerMode.MANUAL}), kept.streams)
    stage.clock.ahead = timedelta(hours=7)
    assert states(stage, sync)["label"]["active_sync"] is None


def test_tables_that_are_older_than_was_promised_are_delayed(stage: Stage) -> None:
    sync, _ = started(stage, "label")
    with stage.store.transaction(stage.name) as tx:
        kept = tx.sync_by_id(sync["id"])
        tx.put_sync(kept.spec.model_copy(update={"freshness_sla_seconds": 3600}), kept.streams)
    assert states(stage, sync)["label"]["active_sync"] is None
    stage.clock.ahead = timedelta(hours=2)
    run = stage.runs.launch(sync["id"], sync_id=sync["id"])
    active = states(stage, sync)["label"]["active_sync"]
    assert active["status"] == "DELAYED"
    assert "older than 3600 s" in active["details"]
    stage.runs.put(run, RunStatus.RUNNING, started_at=stage.clock.now())
    assert states(stage, sync)["label"]["active_sync"]["status"] == "RUNNING"


def test_what_was_loaded_last_is_found_behind_many_runs_of_others(stage: Stage) -> None:
    sync, _ = started(stage)
    first = stage.runs.launch(sync["id"], sync_id=sync["id"])
    stage.runs.put(first, RunStatus.COMPLETED, ended_at=datetime.now(UTC))
    for _ in range(12):
        run = stage.runs.launch(sync["id"], streams=["label"], sync_id=sync["id"])
        stage.runs.put(run, RunStatus.COMPLETED, ended_at=datetime.now(UTC))
    assert states(stage, sync)["adverts"]["latest_sync"]["status"] == "COMPLETED"


# --- the document ------------------------------------------------------------------------------------------------------------


def test_every_route_of_the_dialect_documents_what_it_answers(stage: Stage) -> None:
    document = stage.ask("GET", "/openapi.json")
    mine = ("/integrations", "/connections", "/elt_")
    routes = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        if path.startswith(mine)
        for method, operation in methods.items()
    }
    assert len(routes) == 24, sorted(routes)
    for name, operation in routes.items():
        assert {"400", "401", "429"} <= set(operation["responses"]), name
        assert "422" not in operation["responses"], name
        assert "{id}" not in name or "404" in operation["responses"], name
        assert all(operation[word] for word in ("summary", "description", "tags")), name
    assert CANARY not in str(document)


def test_no_step_overwrites_what_somebody_else_has_changed(stage: Stage) -> None:
    path = f"/elt_syncs/{stage.sync([{'name': 'label'}])['id']}"
    before = stage.client.get(path).headers["etag"]
    seen = stage.client.post(f"{path}/source_streams", json={"source_streams": [{"name": "adverts"}]}).headers["etag"]
    assert seen == stage.client.get(path).headers["etag"] != before
    body = {"source_streams": [{"name": "label", "full_sync_always": True}]}
    stale = {"headers": {"if-match": before}}
    stage.refused("POST", f"{path}/source_streams", 412, json=body, **stale)
    for method, end in (
        ("POST", "/enable"),
        ("POST", "/start"),
        ("DELETE", ""),
        ("DELETE", "?removeDataReferences=true"),
    ):
        stage.refused(method, f"{path}{end}", 412, **stale)
    assert (stage.client.get(path).headers["etag"], stage.runs.views) == (seen, [])
    for step in ("enable", "disable", "start"):
        seen = stage.client.post(f"{path}/{step}", headers={"if-match": seen}).headers["etag"]
    stage.ask("DELETE", path, 204, headers={"if-match": seen})
