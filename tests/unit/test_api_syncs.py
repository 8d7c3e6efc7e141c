"""The Syncs dialect, row by row of its contract, with runs in memory."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from elt_dagster.control import backends
from elt_dagster.control.running import Failures
from elt_dagster.control.runs import BackendRun, RunStatus, StreamRun
from elt_dagster.errors import TransientError
from elt_dagster.model import ConnectionSpec, RunMode
from elt_dagster.store.schema import syncs as sync_rows
from tests.unit import api_server
from tests.unit.api_server import ENGINES, NOBODY, MemoryRuns, Place, Server
from tests.unit.cli_shelf import Shelf

SYNCS = "/api/v1/syncs"
FIELDS = {
    "connectionId", "createdAt", "createdBy", "destinationConfig", "entities", "executionBackend", "executionConfig",
    "executionMode", "freshnessSlaSeconds", "id", "lastError", "lastSuccessAt", "name", "providerKey", "schedule", "slug",
    "sourceConfig", "status", "tableBindings", "taskSlug", "triggerMode", "updatedAt", "updatedBy",
}  # fmt: skip
BINDING_FIELDS = {
    "createdAt", "cursorField", "entityKey", "id", "loadMode", "logicalTableName", "physicalTableName",
    "primaryKeyColumns", "sourceInstanceKey", "tableName", "tableNamingVersion", "updatedAt",
}  # fmt: skip
RUN_FIELDS = {
    "attemptNumber", "attemptRootRunId", "backendHeartbeatAt", "backendRunRef", "backendRunUrl", "backendStatus",
    "cancelReason", "cancelRequestedAt", "cancelRequestedBy", "completedAt", "createdAt", "error", "executionBackend",
    "executionMode", "executorId", "id", "lastHeartbeatAt", "maxAutoResumeAttempts", "nextAttemptRunId",
    "previousAttemptRunId", "resultClass", "resultReasonCode", "runMode", "startedAt", "status", "summary", "syncId",
    "triggerRef", "triggeredBy", "updatedAt",
}  # fmt: skip
MOMENT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


@pytest.fixture(scope="module", params=ENGINES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with api_server.opened(request.param, tmp_path_factory.mktemp("syncs")) as store:
        yield api_server.serve(store)


@pytest.fixture
def place(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    api_server.shelves(monkeypatch)
    return api_server.settle(server, tmp_path)


def make(place: Place, answer: int = 201, **fields: Any) -> dict[str, Any]:
    """A new sync."""
    made: dict[str, Any] = place.ask(
        "POST", SYNCS, answer, json={"connectionId": place.source, "name": "Shop", **fields}
    )
    return made


def change(place: Place, sync: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The sync after a PATCH."""
    changed: dict[str, Any] = place.ask("PATCH", f"{SYNCS}/{sync['id']}", json=fields)
    return changed


def bindings(sync: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Its bindings by stream."""
    return {b["entityKey"]: b for b in sync["tableBindings"]}


def spec(place: Place, sync: dict[str, Any]) -> Any:
    """What is kept of it in our words."""
    return place.store.sync_by_id(sync["id"], workspace=place.name).spec


# --- making ------------------------------------------------------------------------------------------------------------------


def test_two_fields_make_a_draft_that_has_every_field(place: Place) -> None:
    made = make(place)
    assert set(made) == FIELDS
    assert (made["name"], made["slug"], made["taskSlug"]) == ("Shop", "shop", "sync_shop")
    assert (made["status"], made["triggerMode"], made["providerKey"]) == ("draft", "manual", "shelf")
    assert made["destinationConfig"] == {"connectionId": place.warehouse, "schema": "shop"}
    assert made["connectionId"] == place.source
    assert made["createdBy"] == made["updatedBy"] == place.store.api_keys.list(place.name)[0].id
    assert made["createdAt"].endswith("Z")
    assert made["schedule"] is None
    assert made["lastError"] is None
    assert place.ask("GET", f"{SYNCS}/{made['id']}") == made


def test_a_draft_without_streams_does_not_ask_the_source(place: Place) -> None:
    make(place)
    assert Shelf.asked == []
    make(place, name="Other", entities=["orders"])
    assert Shelf.asked == ["here"]


def test_a_second_sync_of_that_name_gets_another_slug(place: Place) -> None:
    assert [make(place)["slug"] for _ in range(3)] == ["shop", "shop-2", "shop-3"]
    assert make(place, name="Лавка ☕")["slug"]
    assert make(place, name="pg_catalog")["destinationConfig"]["schema"] == "raw_pg_catalog"


def test_streams_come_with_what_the_source_says_of_them(place: Place) -> None:
    made = make(place, entities=["orders", "customers"])
    found = bindings(made)
    assert list(found) == made["entities"] == ["orders", "customers"]
    orders = found["orders"]
    assert set(orders) == BINDING_FIELDS
    assert (orders["loadMode"], orders["primaryKeyColumns"], orders["cursorField"]) == (
        "upsert_entity",
        ["id"],
        "changed_at",
    )
    assert (orders["tableName"], orders["physicalTableName"], orders["logicalTableName"]) == ("orders",) * 3
    assert (orders["tableNamingVersion"], orders["sourceInstanceKey"]) == ("v1", place.source)
    assert (found["customers"]["loadMode"], found["customers"]["cursorField"]) == ("replace_snapshot", None)


def test_bindings_refine_streams_and_select_them(place: Place) -> None:
    refined = {
        "entityKey": "orders", "loadMode": "append_event", "tableName": "sales", "cursorField": "id",
        "logicalTableName": "Sales", "tableNamingVersion": "legacy", "sourceInstanceKey": "north",
    }  # fmt: skip
    orders = bindings(make(place, tableBindings=[refined]))["orders"]
    assert {k: orders[k] for k in refined} == refined
    assert orders["physicalTableName"] == "sales"


@pytest.mark.parametrize(
    ("written", "shown"),
    [("append", "append_event"), ("merge", "upsert_entity"), ("replace", "replace_snapshot"),
     ("append_event", "append_event"), ("upsert_entity", "upsert_entity"), ("replace_snapshot", "replace_snapshot")],
)  # fmt: skip
def test_both_spellings_of_a_load_mode_are_read(place: Place, written: str, shown: str) -> None:
    made = make(place, tableBindings=[{"entityKey": "orders", "loadMode": written}])
    assert bindings(made)["orders"]["loadMode"] == shown


def test_an_answer_can_be_sent_back(place: Place) -> None:
    made = make(
        place,
        entities=["orders", "logs"],
        executionConfig={"maxConcurrent": 2, "mine": [1]},
        schedule={"cron": "@daily"},
    )
    sendable = {
        k: v for k, v in made.items()
        if k not in ("id", "taskSlug", "providerKey", "connectionId", "lastError", "lastSuccessAt", "createdAt", "createdBy",
                     "updatedAt", "updatedBy")
    }  # fmt: skip
    again = change(place, made, **sendable)
    for answer in (again, made, *again["tableBindings"], *made["tableBindings"]):
        answer["updatedAt"] = ""
    assert again == made


def test_the_configs_become_our_words_and_the_rest_is_kept(place: Place) -> None:
    sent = {
        "maxConcurrent": 8,
        "maxRetries": 3,
        "retryDelaySeconds": 2.5,
        "overlap": "skip",
        "batchSize": 500,
        "deep": {"a": [1]},
    }
    made = make(
        place, executionConfig=sent, executionMode="fan_out_entity", freshnessSlaSeconds=3600, sourceConfig={"region": "south"},
        destinationConfig={"schema": "raw", "connectionId": place.warehouse, "schemaDrift": "freeze", "team": "blue"},
        schedule={"cron": "0 6 * * *", "timezone": "Europe/Copenhagen"}, triggerMode="scheduled", status="active",
    )  # fmt: skip
    kept = spec(place, made)
    assert (kept.execution.max_concurrent, kept.execution.max_retries, kept.execution.overlap) == (8, 3, "skip")
    assert (kept.dataset, kept.schema_drift, kept.freshness_sla_seconds) == ("raw", "freeze", 3600)
    assert (kept.schedule.cron, kept.schedule.timezone, kept.settings) == (
        "0 6 * * *",
        "Europe/Copenhagen",
        {"region": "south"},
    )
    assert made["executionConfig"] == sent
    assert made["destinationConfig"] == {
        "connectionId": place.warehouse,
        "schema": "raw",
        "schemaDrift": "freeze",
        "team": "blue",
    }
    assert made["schedule"] == {"cron": "0 6 * * *", "timezone": "Europe/Copenhagen"}
    assert (made["status"], made["triggerMode"], made["sourceConfig"]) == ("active", "scheduled", {"region": "south"})


def test_windows_are_words_of_the_execution_config(place: Place) -> None:
    config = {"window": "1d", "from": "2026-01-01", "to": "2026-02-01", "includeCurrent": True, "timezone": "UTC"}
    made = make(place, entities=["orders"], executionMode="fan_out_window", executionConfig=config)
    slicing = spec(place, made).slicing
    assert (slicing.window, str(slicing.start), str(slicing.end), slicing.include_current) == (
        "1d",
        "2026-01-01",
        "2026-02-01",
        True,
    )
    assert made["executionConfig"] == config
    # another mode has no windows; its words wait for the day they are needed
    plain = change(place, made, executionMode="sequential")
    assert spec(place, plain).slicing is None
    assert plain["executionConfig"] == config
    assert spec(place, change(place, plain, executionMode="fan_out_window")).slicing == slicing


def test_a_sync_of_another_backend_is_told_what_it_lacks(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    body = {"connectionId": place.source, "name": "x", "executionBackend": "prefect"}
    assert "PREFECT_API_URL" in str(place.invalid("POST", SYNCS, json=body))
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    found = place.invalid("POST", SYNCS, json={**body, "executionBackend": "temporal"})
    assert "temporalio" in found["body", "executionBackend"]
    config = {"apiUrl": "http://127.0.0.1:4200/api", "deployment": "elt/load", "parameters": {"s": "{sync}"}, "mine": 1}
    made = make(place, executionBackend="prefect", executionConfig=config)
    assert spec(place, made).backend.deployment == "elt/load"
    assert made["executionConfig"] == config


def test_the_key_of_a_backend_is_a_reference_that_the_server_has_to_allow(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"apiUrl": "http://127.0.0.1:4200/api", "deployment": "elt/load", "apiKey": {"env": "HOME"}}
    body = {"connectionId": place.source, "name": "x", "executionBackend": "prefect", "executionConfig": config}
    assert "may not be sent" in place.invalid("POST", SYNCS, json=body)["body", "executionConfig", "apiKey"]
    monkeypatch.setenv("ELT_DAGSTER_API_REFERENCES", "1")
    made: dict[str, Any] = place.ask("POST", SYNCS, 201, json=body)
    assert made["executionConfig"] == config
    monkeypatch.delenv("ELT_DAGSTER_API_REFERENCES")
    assert change(place, made, executionConfig={"pollSeconds": 3})["executionConfig"] == {**config, "pollSeconds": 3}
    changed = {"executionConfig": {"apiKey": {"file": "/etc/passwd"}}}
    assert ("body", "executionConfig", "apiKey") in place.invalid("PATCH", f"{SYNCS}/{made['id']}", json=changed)
    elsewhere: dict[str, Any] = {"executionConfig": {"apiUrl": "http://other.example/api"}}
    refused = place.invalid("PATCH", f"{SYNCS}/{made['id']}", json=elsewhere)
    assert "The key is kept" in refused["body", "executionConfig", "apiUrl"]
    elsewhere["executionConfig"]["apiKey"] = None
    assert "apiKey" not in change(place, made, **elsewhere)["executionConfig"]


def test_an_external_sync_may_not_have_a_trigger(place: Place) -> None:
    assert make(place, executionBackend="external")["executionBackend"] == "external"
    body = {"connectionId": place.source, "name": "x", "executionBackend": "external", "schedule": {"cron": "@daily"}}
    assert ("body", "schedule") in place.invalid("POST", SYNCS, json=body)


# --- what is wrong -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "where", "said"),
    [
        ({"connectionId": NOBODY}, ("connectionId",), "no connection"),
        ({"connectionId": "nope"}, ("connectionId",), "UUID"),
        ({"name": ""}, ("name",), "1 character"),
        ({"name": "n" * 256}, ("name",), "255"),
        ({"status": "odd"}, ("status",), "draft"),
        ({"executionMode": "odd"}, ("executionMode",), "fan_out_window"),
        ({"executionBackend": "odd"}, ("executionBackend",), "temporal"),
        ({"triggerMode": "odd"}, ("triggerMode",), "on_create"),
        ({"triggerMode": "scheduled"}, ("schedule",), "schedule"),
        ({"schedule": {"cron": "0 0 31 2 *"}}, ("schedule", "cron"), "never comes"),
        ({"schedule": {"cron": "@daily", "timezone": "Europe/Kopenhagen"}}, ("schedule", "timezone"), "Europe/Copenhagen"),
        ({"schedule": {"timezone": "UTC"}}, ("schedule", "cron"), "missing"),
        ({"freshnessSlaSeconds": 5}, ("freshnessSlaSeconds",), "60"),
        ({"freshnessSlaSeconds": 10**30}, ("freshnessSlaSeconds",), "at most"),
        ({"slug": "Not A Slug"}, ("slug",), "lower-case"),
        ({"unknown": 1}, ("unknown",), "not permitted"),
        ({"sourceConfig": {"regoin": "x"}}, ("sourceConfig", "regoin"), "region"),
        ({"sourceConfig": {"region": "west"}, "entities": ["orders"]}, ("sourceConfig", "region"), "south"),
        ({"destinationConfig": {"schema": "no good"}}, ("destinationConfig", "schema"), "no_good"),
        ({"destinationConfig": {"schema": 5}}, ("destinationConfig", "schema"), "text"),
        ({"destinationConfig": {"schemaDrift": "bend"}}, ("destinationConfig", "schemaDrift"), "freeze"),
        ({"destinationConfig": {"connectionId": NOBODY}}, ("destinationConfig", "connectionId"), "no connection"),
        ({"destinationConfig": {"deep": [{"password": "x"}]}}, ("destinationConfig", "deep", 0, "password"), "secret"),
        ({"executionConfig": {"accessToken": "x"}}, ("executionConfig", "accessToken"), "secret"),
        ({"executionConfig": {"maxConcurrent": 0}}, ("executionConfig", "maxConcurrent"), "at least 1"),
        ({"executionMode": "fan_out_window"}, ("executionConfig", "from"), "missing"),
        ({"executionMode": "fan_out_window", "executionConfig": {"from": "2026-02-01", "to": "2026-01-01"}},
         ("executionConfig", "to"), "not after"),
        ({"executionMode": "fan_out_window", "executionConfig": {"from": "2026-02-01", "window": "7m"}},
         ("executionConfig", "window"), "1mo"),
        ({"entities": ["orders", "ordres"]}, ("entities", 1), "orders"),
        ({"entities": ["orders", "orders"]}, ("entities", 1), "twice"),
        ({"entities": ["orders"], "tableBindings": [{"entityKey": "logs"}]}, ("tableBindings", 0, "entityKey"), "among"),
        ({"tableBindings": [{"entityKey": "orders"}, {"entityKey": "orders"}]}, ("tableBindings", 1, "entityKey"), "twice"),
        ({"tableBindings": [{"entityKey": "logs"}, {"entityKey": "orders", "cursorField": "nix"}]},
         ("tableBindings", 1, "cursorField"), "changed_at"),
        ({"tableBindings": [{"entityKey": "orders", "primaryKeyColumns": ["nix"]}]},
         ("tableBindings", 0, "primaryKeyColumns", 0), "nix"),
        ({"tableBindings": [{"entityKey": "orders", "loadMode": "odd"}]}, ("tableBindings", 0, "loadMode"), "append_event"),
        ({"tableBindings": [{"entityKey": "orders", "tableName": "Not Plain"}]}, ("tableBindings", 0, "tableName"), "not_plain"),
        ({"tableBindings": [{"entityKey": "orders", "tableName": "a", "physicalTableName": "b"}]},
         ("tableBindings", 0, "physicalTableName"), "not the same"),
        ({"tableBindings": [{"entityKey": "orders", "nix": 1}]}, ("tableBindings", 0, "nix"), "not permitted"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else None,
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(
    place: Place, fields: dict[str, Any], where: tuple[Any, ...], said: str
) -> None:
    found = place.invalid("POST", SYNCS, json={"connectionId": place.source, "name": "Shop", **fields})
    assert said in found.get(("body", *where), ""), found
    assert place.ask("GET", SYNCS)["total"] == 0


def test_a_warehouse_is_no_source_and_a_source_no_warehouse(place: Place) -> None:
    assert ("body", "connectionId") in place.invalid("POST", SYNCS, json={"connectionId": place.warehouse, "name": "x"})
    body = {"connectionId": place.source, "name": "x", "destinationConfig": {"connectionId": place.source}}
    assert ("body", "destinationConfig", "connectionId") in place.invalid("POST", SYNCS, json=body)


def test_without_a_warehouse_there_is_none_to_choose(place: Place) -> None:
    with place.store.transaction(place.name) as tx:
        tx.delete_connection("warehouse")
    found = place.invalid("POST", SYNCS, json={"connectionId": place.source, "name": "x"})
    assert "no warehouse" in found["body", "destinationConfig", "connectionId"]


def test_a_taken_slug_or_table_is_a_conflict_with_the_others_id(place: Place) -> None:
    first = make(place, slug="shop", entities=["orders"])
    for slug in ("shop", "sh-op"):
        make(place, 409 if slug == "shop" else 201, slug=slug)
    told = make(place, 409, slug="sh_op")
    assert "sh-op" in told["detail"]
    told = make(place, 409, slug="other", entities=["orders"], destinationConfig={"schema": "shop"})
    assert told["conflictId"] == first["id"]
    assert "shop.orders" in told["detail"]


def test_a_source_that_cannot_be_reached_is_a_failed_dependency(place: Place) -> None:
    with place.store.transaction(place.name) as tx:
        tx.put_connection(ConnectionSpec(name="books", connector="shelf", config={"host": "nowhere"}))
    assert "cannot be reached" in make(place, 424, entities=["orders"])["detail"]
    assert place.ask("GET", SYNCS)["total"] == 0


# --- looking -----------------------------------------------------------------------------------------------------------------


def test_syncs_come_in_pages_that_new_ones_do_not_move(place: Place) -> None:
    made = [make(place, name=f"s{i}")["id"] for i in range(5)]
    first = place.ask("GET", f"{SYNCS}?limit=2")
    assert [s["id"] for s in first["syncs"]] == made[:2]
    assert {k: first[k] for k in ("hasNext", "limit", "offset", "total")} == {
        "hasNext": True,
        "limit": 2,
        "offset": 0,
        "total": 5,
    }
    make(place, name="later")
    second = place.ask("GET", f"{SYNCS}?limit=2&offset=2")
    assert [s["id"] for s in second["syncs"]] == made[2:4]
    assert place.ask("GET", f"{SYNCS}?limit=2&offset=4")["hasNext"] is False
    assert place.ask("GET", f"{SYNCS}?offset=99")["syncs"] == []
    assert place.ask("GET", SYNCS)["limit"] == 50


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "offset=-1", "status=odd"])
def test_a_page_that_cannot_be_is_refused(place: Place, query: str) -> None:
    name = query.partition("=")[0]
    assert any(loc[:2] == ("query", name) for loc in place.invalid("GET", f"{SYNCS}?{query}"))


def test_syncs_are_found_by_text_status_and_provider(place: Place) -> None:
    make(place, name="Shop NORTH", status="active")
    make(place, name="Shop south", slug="hundred-percent")
    make(place, name="Stock", status="paused")

    def names(query: str) -> list[str]:
        return [s["name"] for s in place.ask("GET", f"{SYNCS}?{query}")["syncs"]]

    assert names("q=shop") == ["Shop NORTH", "Shop south"]
    assert names("q=HUNDRED") == ["Shop south"]
    assert names("q=%25") == []
    assert names("status=active&status=paused") == ["Shop NORTH", "Stock"]
    assert names("provider=postgresql&provider=shelf&q=stock") == ["Stock"]
    assert names("provider=postgres") == names("provider=nothing") == []


def test_a_page_costs_as_many_questions_whatever_its_size(place: Place) -> None:
    for i in range(6):
        make(place, name=f"s{i}", entities=["orders"])
    engine = place.store._database.engine
    asked: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        asked.append(statement)

    counts = []
    for path in (SYNCS, f"/api/v1/workspaces/{place.id}/loaders"):
        for size in (1, 6):
            place.runs.latest_asked = 0
            asked.clear()
            event.listen(engine, "before_cursor_execute", note)
            try:
                place.ask("GET", f"{path}?{'limit' if path == SYNCS else 'page_size'}={size}")
            finally:
                event.remove(engine, "before_cursor_execute", note)
            counts.append(len([q for q in asked if q.startswith("SELECT")]))
            assert place.runs.latest_asked == 1
    assert counts[0] == counts[1]
    assert counts[2] == counts[3]
    assert max(counts) <= 8


def test_an_archived_sync_is_still_there(place: Place) -> None:
    made = make(place, status="archived")
    assert place.ask("GET", f"{SYNCS}?status=archived")["syncs"] == [made]


def test_a_sync_that_cannot_be_read_is_shown_with_its_error_and_can_be_deleted(place: Place) -> None:
    made = make(place)
    with place.store._database.write() as conn:
        conn.execute(sa.update(sync_rows).where(sync_rows.c.id == made["id"]).values(spec='{"no": 1}'))
    listed = place.ask("GET", SYNCS)["syncs"][0]
    assert set(listed) == FIELDS
    assert (listed["status"], listed["name"], listed["connectionId"]) == ("error", "Shop", place.source)
    assert "cannot be read" in listed["lastError"]
    assert place.ask("GET", f"{SYNCS}/{made['id']}") == listed
    place.ask("PATCH", f"{SYNCS}/{made['id']}", 422, json={"name": "x"})
    place.ask("DELETE", f"{SYNCS}/{made['id']}", 204)
    assert place.ask("GET", SYNCS)["total"] == 0


def test_a_damaged_envelope_is_a_sync_that_cannot_be_read(place: Place) -> None:
    made = make(place)
    with place.store._database.write() as conn:
        conn.execute(sa.update(sync_rows).where(sync_rows.c.id == made["id"]).values(envelope="{"))
    assert place.ask("GET", SYNCS)["syncs"][0]["status"] == "error"


def test_the_list_tells_of_the_newest_run(place: Place) -> None:
    made = make(place, entities=["orders"], status="active")
    good = place.ask("POST", f"{SYNCS}/{made['id']}/trigger")["id"]
    place.runs.put(good, RunStatus.COMPLETED, ended_at=MOMENT)
    assert place.ask("GET", f"{SYNCS}/{made['id']}")["lastSuccessAt"] == "2026-03-01T12:30:00.000Z"
    bad = place.ask("POST", f"{SYNCS}/{made['id']}/trigger")["id"]
    failed = StreamRun(
        stream="orders", status=RunStatus.FAILED, error="The shelf fell. Lift it.", reason="source_error"
    )
    place.runs.put(bad, RunStatus.FAILED, {"orders": failed})
    found = place.ask("GET", SYNCS)["syncs"][0]
    assert (found["lastError"], found["lastSuccessAt"]) == ("The shelf fell. Lift it.", "2026-03-01T12:30:00.000Z")


def test_a_list_asks_for_a_few_errors_at_most_and_for_each_once(place: Place) -> None:
    class Counting(api_server.MemoryRuns):
        asked = 0

        def get(self, run_id: str) -> Any:
            Counting.asked += 1
            return super().get(run_id)

    runs, failures = Counting(lambda sync_id: ["orders"]), Failures()
    failed = {}
    for i in range(8):
        run_id = runs.launch("s", sync_id=str(i))
        runs.put(
            run_id,
            RunStatus.FAILED,
            error=None,
            streams=(StreamRun(stream="orders", status=RunStatus.FAILED, error=f"e{i}"),),
        )
        failed[str(i)] = replace(runs.views[-1], streams=())
    first = failures.texts(runs, failed)  # type: ignore[arg-type]  # as much of Runs as is asked
    assert [first[str(i)] for i in range(5)] == [f"e{i}" for i in range(5)]
    assert "Look at that run" in first["7"]
    assert failures.texts(runs, failed)["7"] == "e7"  # type: ignore[arg-type]
    failures.texts(runs, failed)  # type: ignore[arg-type]
    assert Counting.asked == 8


def test_syncs_can_be_listed_and_changed_while_dagster_is_away(place: Place) -> None:
    place.runs.away = True
    made = make(place)
    assert (made["lastError"], made["lastSuccessAt"]) == (None, None)
    assert place.ask("GET", SYNCS)["total"] == 1
    assert change(place, made, name="y")["name"] == "y"
    place.ask("GET", f"{SYNCS}/{made['id']}/runs", 424)


# --- changing ----------------------------------------------------------------------------------------------------------------


def test_a_change_changes_what_it_names_and_nothing_else(place: Place) -> None:
    made = make(
        place, entities=["orders", "logs"], schedule={"cron": "@daily", "timezone": "Asia/Tokyo"}, freshnessSlaSeconds=600,
        executionConfig={"maxConcurrent": 2, "mine": 1}, destinationConfig={"schema": "raw", "team": "blue"}, sourceConfig={"region": "south"},
    )  # fmt: skip
    assert change(place, made) == made
    named = {
        "name": "Other", "status": "paused", "freshnessSlaSeconds": 700, "executionMode": "fan_out_entity", "triggerMode": "scheduled",
        "slug": "other",
    }  # fmt: skip
    for field, value in named.items():
        changed = change(place, made, **{field: value})
        assert changed[field] == value
        same = FIELDS - {field, "updatedAt", *(["taskSlug"] if field == "slug" else [])}
        assert {k: changed[k] for k in same} == {k: made[k] for k in same}
        made = changed
    assert change(place, made, schedule={"cron": "@weekly"})["schedule"] == {
        "cron": "@weekly",
        "timezone": "Asia/Tokyo",
    }
    assert change(place, made, executionConfig={"maxRetries": 1})["executionConfig"] == {
        "maxConcurrent": 2,
        "maxRetries": 1,
        "mine": 1,
    }
    moved = change(place, made, destinationConfig={"team": None, "dept": 7})["destinationConfig"]
    assert moved == {"connectionId": place.warehouse, "schema": "raw", "dept": 7}


def test_null_clears_what_may_be_missing_and_leaves_the_rest_alone(place: Place) -> None:
    made = make(place, schedule={"cron": "@daily"}, freshnessSlaSeconds=600, executionConfig={"maxConcurrent": 2, "mine": 1},
                sourceConfig={"region": "south"}, entities=["orders"])  # fmt: skip
    cleared = {"schedule": None, "freshnessSlaSeconds": None, "executionConfig": None, "sourceConfig": None}
    changed = change(place, made, **cleared)
    assert (changed["schedule"], changed["freshnessSlaSeconds"]) == (None, None)
    assert (changed["executionConfig"], changed["sourceConfig"]) == ({}, {})
    assert spec(place, changed).execution.max_concurrent == 4
    nothing = dict.fromkeys(("name", "slug", "status", "triggerMode", "executionMode", "executionBackend", "destinationConfig",
                             "entities", "tableBindings"))  # fmt: skip
    assert change(place, changed, **nothing) == changed


def test_entities_choose_and_bindings_refine(place: Place) -> None:
    made = make(
        place,
        tableBindings=[
            {"entityKey": "orders", "tableName": "sales", "logicalTableName": "Sales"},
            {"entityKey": "logs"},
        ],
    )
    more = change(place, made, tableBindings=[{"entityKey": "customers"}])
    assert more["entities"] == ["orders", "logs", "customers"]
    assert bindings(more)["orders"] == bindings(made)["orders"]
    fewer = change(place, more, entities=["customers", "orders"])
    assert fewer["entities"] == ["customers", "orders"]
    assert bindings(fewer)["orders"]["id"] == bindings(made)["orders"]["id"]
    assert (bindings(fewer)["orders"]["tableName"], bindings(fewer)["orders"]["logicalTableName"]) == ("sales", "Sales")
    back = change(place, fewer, tableBindings=[{"entityKey": "orders", "tableName": None, "logicalTableName": None}])
    assert (bindings(back)["orders"]["tableName"], bindings(back)["orders"]["logicalTableName"]) == ("orders", "orders")
    assert change(place, back, entities=[])["tableBindings"] == []


def test_what_another_dialect_said_of_a_stream_stays(place: Place) -> None:
    made = make(place, entities=["orders"])
    stream = {"name": "orders", "hashed_columns": ["total"], "protected_from_full_sync": True}
    place.ask("POST", f"/elt_syncs/{made['id']}/source_streams", 201, json={"source_streams": [stream]})
    change(place, made, tableBindings=[{"entityKey": "orders", "tableName": "sales"}], name="Other")
    binding = spec(place, made).streams[0]
    assert (binding.hashed_columns, binding.protected_from_full_sync, binding.table) == (("total",), True, "sales")


def test_what_is_wrong_with_a_change_is_told_with_its_place(place: Place) -> None:
    made = make(place, entities=["orders", "logs"])
    path = f"{SYNCS}/{made['id']}"
    found = place.invalid(
        "PATCH", path, json={"tableBindings": [{"entityKey": "logs", "primaryKeyColumns": ["a", "a"]}]}
    )
    assert ("body", "tableBindings", 0, "primaryKeyColumns", 1) in found
    assert ("body", "entities", 1) in place.invalid("PATCH", path, json={"entities": ["logs", "nix"]})
    assert ("body", "schedule", "cron") in place.invalid("PATCH", path, json={"schedule": {"cron": "x"}})
    assert place.invalid("PATCH", path, json={"connectionId": NOBODY}).keys() == {("body", "connectionId")}
    assert place.ask("GET", path) == made


def test_an_old_etag_changes_and_deletes_nothing(place: Place) -> None:
    made = make(place)
    path = f"{SYNCS}/{made['id']}"
    tag = place.client.get(path).headers["etag"]
    answer = place.client.patch(path, json={"name": "a"}, headers={"If-Match": tag})
    assert answer.status_code == 200
    assert answer.headers["etag"] != tag
    for method in ("PATCH", "DELETE"):
        place.ask(
            method, path, 412, headers={"If-Match": tag}, **({"json": {"name": "b"}} if method == "PATCH" else {})
        )
    place.ask("PATCH", path, 412, json={"name": "b"}, headers={"If-Match": "nonsense"})
    assert place.ask("GET", path)["name"] == "a"
    place.ask("DELETE", path, 204, headers={"If-Match": answer.headers["etag"]})
    place.ask("GET", path, 404)


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_an_unknown_id_is_not_found_and_what_is_no_id_is_wrong(place: Place, method: str) -> None:
    body: dict[str, Any] = {"json": {}} if method == "PATCH" else {}
    assert "no sync" in place.ask(method, f"{SYNCS}/{NOBODY}", 404, **body)["detail"]
    assert ("path", "sync_id") in place.invalid(method, f"{SYNCS}/nope", **body)


# --- providers ---------------------------------------------------------------------------------------------------------------


def test_a_catalog_is_told_without_asking_the_source(place: Place) -> None:
    found = place.ask("GET", f"{SYNCS}/providers/shelf/catalog")
    assert set(found) == {
        "availableResources", "configSchema", "defaultResources", "defaults", "displayName", "dynamicResources", "name", "provider",
        "resources",
    }  # fmt: skip
    assert (found["provider"], found["displayName"], found["dynamicResources"]) == ("shelf", "Shelf", True)
    assert found["configSchema"]["properties"].keys() == {"region"}
    assert found["defaults"]["sourceConfig"] == {"region": "north"}
    assert Shelf.asked == []
    assert place.ask("GET", f"{SYNCS}/providers/rest_api/catalog")["provider"] == "http_api"


def test_an_unknown_provider_is_wrong_and_the_known_ones_are_listed(place: Place) -> None:
    for name in ("nothing", "duckdb"):
        found = place.invalid("GET", f"{SYNCS}/providers/{name}/catalog")
        assert "salesforce" in found["path", "provider"]
        assert "shelf" in found["path", "provider"]


# --- runs --------------------------------------------------------------------------------------------------------------------


def running(place: Place, **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A sync that is active, and a run of it."""
    made = make(place, **{"entities": ["orders", "logs"], "status": "active", **fields})
    return made, place.ask("POST", f"{SYNCS}/{made['id']}/trigger")


def test_a_triggered_run_has_every_field(place: Place) -> None:
    made, run = running(place, executionMode="fan_out_entity")
    assert set(run) == RUN_FIELDS
    assert (run["syncId"], run["status"], run["runMode"], run["triggeredBy"]) == (
        made["id"],
        "pending",
        "incremental",
        "api",
    )
    assert run["triggerRef"] == place.store.api_keys.list(place.name)[0].id
    assert (run["attemptNumber"], run["attemptRootRunId"], run["backendRunRef"]) == (1, run["id"], run["id"])
    assert (run["executionMode"], run["executionBackend"], run["resultClass"]) == ("fan_out_entity", "native", None)
    assert run["backendStatus"] == {"backend": "native", "status": "pending"}
    assert run["summary"]["streamsTotal"] == 2
    assert place.ask("GET", f"{SYNCS}/runs/{run['id']}") == run


def test_a_run_mode_may_be_asked_for(place: Place) -> None:
    made = make(place, entities=["orders"], status="active")
    path = f"{SYNCS}/{made['id']}/trigger"
    assert ("body", "runMode") in place.invalid("POST", path, json={"runMode": "odd"})
    run = place.ask("POST", path, json={"runMode": "full_refresh"})
    assert (run["runMode"], place.runs.views[-1].run_mode) == ("full_refresh", RunMode.FULL_REFRESH)


def test_a_second_run_is_a_conflict_with_the_first_ones_id(place: Place) -> None:
    made, run = running(place)
    told = place.ask("POST", f"{SYNCS}/{made['id']}/trigger", 409, json={})
    assert told["conflictId"] == run["id"]


def test_a_draft_does_not_run_and_a_sync_without_streams_neither(place: Place) -> None:
    assert "draft" in place.ask("POST", f"{SYNCS}/{make(place)['id']}/trigger", 409)["detail"]
    place.ask("POST", f"{SYNCS}/{make(place, name='b', status='active')['id']}/trigger", 422)
    place.ask("POST", f"{SYNCS}/{NOBODY}/trigger", 404)


def test_an_ended_run_tells_what_it_loaded_and_why_it_failed(place: Place) -> None:
    _, run = running(place)
    metrics = {"cursor_before": "1", "cursor_after": "9", "schema_changes": ["+ x"]}
    good = StreamRun(stream="orders", status=RunStatus.COMPLETED, rows=10, bytes=2000, seconds=1.5, metrics=metrics)
    bad = StreamRun(stream="logs", status=RunStatus.FAILED, error="No. Wait.", reason="rate_limited")
    place.runs.put(
        run["id"], RunStatus.FAILED, {"orders": good, "logs": bad}, started_at=MOMENT, ended_at=MOMENT, heartbeat_at=MOMENT,
        executor_id="pod-1", max_retries=3, url="http://dagster/runs/1",
    )  # fmt: skip
    found = place.ask("GET", f"{SYNCS}/runs/{run['id']}")
    assert (found["status"], found["resultClass"], found["resultReasonCode"], found["error"]) == (
        "failed", "partial", "rate_limited", "No. Wait.",
    )  # fmt: skip
    assert {k: found["summary"][k] for k in ("rowsLoaded", "bytesLoaded", "streamsSucceeded", "streamsFailed")} == {
        "rowsLoaded": 10, "bytesLoaded": 2000, "streamsSucceeded": 1, "streamsFailed": 1,
    }  # fmt: skip
    assert found["summary"]["streams"]["orders"] == {
        "rows": 10, "bytes": 2000, "seconds": 1.5, "cursorBefore": "1", "cursorAfter": "9", "schemaChanges": ["+ x"],
    }  # fmt: skip
    assert (found["startedAt"], found["completedAt"], found["lastHeartbeatAt"]) == ("2026-03-01T12:30:00.000Z",) * 3
    assert (found["executorId"], found["maxAutoResumeAttempts"], found["backendRunUrl"]) == (
        "pod-1",
        3,
        "http://dagster/runs/1",
    )


def test_work_elsewhere_is_shown_as_the_backends(place: Place) -> None:
    _, run = running(place)
    work = BackendRun(backend="prefect", run="flow-7", status="Late", url="http://prefect/7", heartbeat_at=MOMENT)
    part = StreamRun(stream="orders", status=RunStatus.RUNNING, backend=work)
    place.runs.put(run["id"], RunStatus.RUNNING, {"orders": part})
    found = place.ask("GET", f"{SYNCS}/runs/{run['id']}")
    assert (found["backendRunRef"], found["backendRunUrl"]) == ("flow-7", "http://prefect/7")
    assert found["backendStatus"] == {"backend": "prefect", "status": "Late"}
    assert found["backendHeartbeatAt"] == "2026-03-01T12:30:00.000Z"


def test_runs_come_in_pages_newest_first(place: Place) -> None:
    made, first = running(place)
    ids = [first["id"]]
    for _ in range(2):
        place.runs.put(ids[0], RunStatus.COMPLETED)
        ids.insert(0, place.ask("POST", f"{SYNCS}/{made['id']}/trigger")["id"])
    page = place.ask("GET", f"{SYNCS}/{made['id']}/runs?limit=2")
    assert [r["id"] for r in page["runs"]] == ids[:2]
    assert (page["hasNext"], page["limit"], page["offset"], page["total"]) == (True, 2, 0, 3)
    rest = place.ask("GET", f"{SYNCS}/{made['id']}/runs?offset=2")
    assert ([r["id"] for r in rest["runs"]], rest["limit"], rest["hasNext"]) == (ids[2:], 25, False)
    place.ask("GET", f"{SYNCS}/{NOBODY}/runs", 404)


def test_to_cancel_twice_is_to_cancel_and_an_ended_run_is_a_conflict(place: Place) -> None:
    made, run = running(place)
    path = f"{SYNCS}/runs/{run['id']}/cancel"
    found = place.ask("POST", path, json={"reason": "wrong day"})
    assert (found["cancelReason"], found["cancelRequestedBy"]) == (
        "wrong day",
        place.store.api_keys.list(place.name)[0].id,
    )
    assert found["cancelRequestedAt"]
    assert place.ask("POST", path, json={})["id"] == run["id"]
    place.runs.put(run["id"], RunStatus.CANCELLED, ended_at=MOMENT)
    assert place.ask("POST", path)["resultClass"] == "cancelled"
    other = place.ask("POST", f"{SYNCS}/{made['id']}/trigger")
    place.runs.put(other["id"], RunStatus.COMPLETED)
    assert "ended" in place.ask("POST", f"{SYNCS}/runs/{other['id']}/cancel", 409)["detail"]
    place.ask("POST", f"{SYNCS}/runs/{NOBODY}/cancel", 404)


def test_a_retry_is_another_attempt_of_what_failed(place: Place) -> None:
    _, run = running(place)
    path = f"{SYNCS}/runs/{run['id']}/retry"
    assert "not ended" in place.ask("POST", path, 409)["detail"]
    landed = StreamRun(stream="orders", status=RunStatus.COMPLETED)
    place.runs.put(run["id"], RunStatus.FAILED, {"orders": landed})
    again = place.ask("POST", path, json={})
    assert (again["attemptNumber"], again["attemptRootRunId"], again["previousAttemptRunId"]) == (
        2,
        run["id"],
        run["id"],
    )
    assert (again["triggeredBy"], list(again["summary"]["streams"])) == ("retry", ["logs"])
    assert place.ask("GET", f"{SYNCS}/runs/{run['id']}")["nextAttemptRunId"] == again["id"]
    place.runs.put(again["id"], RunStatus.COMPLETED)
    place.ask("POST", f"{SYNCS}/runs/{again['id']}/retry", 422)
    whole = place.ask("POST", path, json={"runMode": "full_refresh"})
    assert (whole["runMode"], set(whole["summary"]["streams"])) == ("full_refresh", {"orders", "logs"})


def test_a_run_of_another_workspace_is_not_found(place: Place, server: Server, tmp_path: Path) -> None:
    _, run = running(place)
    views = list(place.runs.views)
    other = api_server.settle(server, tmp_path)
    other.runs.views = views
    other.ask("GET", f"{SYNCS}/runs/{run['id']}", 404)
    for action in ("cancel", "retry"):
        other.ask("POST", f"{SYNCS}/runs/{run['id']}/{action}", 404, json={})
    assert place.ask("GET", f"{SYNCS}/runs/{run['id']}")["id"] == run["id"]


def test_what_is_being_stopped_is_not_stopped_twice_and_keeps_its_first_reason(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run = running(place)
    path = f"{SYNCS}/runs/{run['id']}/cancel"

    def as_dagster(run_id: str, reason: str = "", *, requested_by: str = "") -> None:
        if not place.runs.get(run_id).cancel_requested_at:
            MemoryRuns.cancel(place.runs, run_id, reason, requested_by=requested_by)
            return
        assert not reason, "the record of the run would lose why it was asked"
        raise TransientError("Run could not be stopped: it is in a state that cannot be terminated.")

    monkeypatch.setattr(place.runs, "cancel", as_dagster)
    place.ask("POST", path, json={"reason": "wrong day"})
    again = place.ask("POST", path, json={"reason": "still wrong"})
    assert (again["status"], again["cancelReason"]) == (run["status"], "wrong day")


def test_a_run_that_dagster_cannot_stop_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    _, run = running(place)

    def refused(run_id: str, reason: str = "", *, requested_by: str = "") -> None:
        raise TransientError("Run could not be stopped.", fix="Try again.")

    monkeypatch.setattr(place.runs, "cancel", refused)
    assert "could not be stopped" in place.ask("POST", f"{SYNCS}/runs/{run['id']}/cancel", 424)["detail"]
