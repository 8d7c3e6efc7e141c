"""What every route of the API does beside its work: keys, rates, repeated requests, ETags, bodies that are no bodies, and the audit line."""

import json
import logging
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from elt_dagster.api.limits import RateLimiter
from elt_dagster.api.requests import MAX_BODY_BYTES, MAX_DEPTH
from elt_dagster.control import access
from elt_dagster.control.syncs import Syncs
from elt_dagster.errors import TransientError
from elt_dagster.model import SyncSpec
from elt_dagster.store.schema import replies
from tests.unit import api_server
from tests.unit.api_server import ENGINES, NOBODY, Place, Server
from tests.unit.cli_shelf import TOKEN, Shelf

SYNCS = "/api/v1/syncs"


@pytest.fixture(scope="module", params=ENGINES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with api_server.opened(request.param, tmp_path_factory.mktemp("frame")) as store:
        yield api_server.serve(store)


@pytest.fixture
def place(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    api_server.shelves(monkeypatch)
    return api_server.settle(server, tmp_path)


def stranger(server: Server) -> TestClient:
    """Somebody without a key."""
    return TestClient(server.app)


def paths(place: Place) -> tuple[str, str, str]:
    """A list of each dialect."""
    return "/elt_syncs", SYNCS, f"/api/v1/workspaces/{place.id}/loaders"


# --- keys --------------------------------------------------------------------------------------------------------------------


def test_every_dialect_takes_a_key_in_every_form(place: Place) -> None:
    forms: list[dict[str, Any]] = [
        {"headers": {"X-API-Key": place.key}},
        {"headers": {"Authorization": f"Bearer {place.key}"}},
        {"headers": {"authorization": f"bearer   {place.key} "}},
        {"cookies": {"vai_token": place.key}},
    ]
    for path in paths(place):
        for form in forms:
            someone = TestClient(place.server.app, cookies=form.get("cookies"))
            assert someone.get(path, headers=form.get("headers", {})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"x-api-key": ""}, {"x-api-key": "elt_unknown"}, {"authorization": "Basic abc"}, {"authorization": "Bearer "},
     {"authorization": "Bearer elt_unknown"}, {"cookie": "vai_token="}],
    ids=["none", "empty", "unknown", "basic", "empty-bearer", "unknown-bearer", "empty-cookie"],
)  # fmt: skip
def test_without_a_key_there_is_nothing(place: Place, headers: dict[str, str]) -> None:
    for path, field in zip(paths(place), ("message", "detail", "error"), strict=True):
        answer = stranger(place.server).get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "API key" in answer.json()[field]


def test_a_revoked_or_expired_key_opens_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "CACHE_SECONDS", 0.0)
    keys = place.store.api_keys
    made, text = keys.create(workspace=place.name, name="short")
    client = stranger(place.server)
    assert client.get(SYNCS, headers={"x-api-key": text}).status_code == 200
    keys.revoke(made.id, place.name)
    assert client.get(SYNCS, headers={"x-api-key": text}).status_code == 401
    _, old = keys.create(workspace=place.name, name="old", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert client.get(SYNCS, headers={"x-api-key": old}).status_code == 401


def test_the_first_key_is_made_once(tmp_path: Path) -> None:
    with api_server.opened("sqlite", tmp_path) as store:
        made = store.api_keys.create_first()
        assert made is not None
        answer = TestClient(api_server.serve(store).app).get(SYNCS, headers={"x-api-key": made[1]})
        assert answer.status_code == 200
        assert store.api_keys.create_first() is None


def test_a_key_never_reaches_the_rows_of_another_workspace(place: Place, server: Server, tmp_path: Path) -> None:
    sync = place.ask("POST", SYNCS, 201, json={"connectionId": place.source, "name": "x", "entities": ["orders"]})
    stream = sync["tableBindings"][0]["id"]
    other = api_server.settle(server, tmp_path)
    mine = f"/api/v1/workspaces/{other.id}/loaders"
    for method, path in (
        ("GET", f"{SYNCS}/{sync['id']}"), ("PATCH", f"{SYNCS}/{sync['id']}"), ("DELETE", f"{SYNCS}/{sync['id']}"),
        ("POST", f"{SYNCS}/{sync['id']}/trigger"), ("GET", f"{SYNCS}/{sync['id']}/runs"), ("GET", f"/elt_syncs/{sync['id']}"),
        ("POST", f"/elt_syncs/{sync['id']}"), ("DELETE", f"/elt_syncs/{sync['id']}"), ("GET", f"/elt_streams/{stream}"),
        ("DELETE", f"/elt_streams/{stream}"), ("DELETE", f"/connections/{place.source}"), ("GET", f"/connections/{place.source}/settings"),
        ("GET", f"{mine}/{sync['id']}"), ("DELETE", f"{mine}/{sync['id']}"), ("POST", f"{mine}/{sync['id']}/trigger"),
    ):  # fmt: skip
        other.ask(method, path, 404, **({"json": {}} if method in ("PATCH", "POST") else {}))
    for path in paths(other)[:2]:
        assert sync["id"] not in other.client.get(path).text
    for path, field in ((SYNCS, "connectionId"), (mine, "source_id")):
        body: dict[str, Any] = {"connectionId": place.source, "name": "y"}
        if path == mine:
            body = {"name": "y", "loader_type": "shelf", "source_id": place.warehouse, "config": {}, "target_schema": "s",
                    "selected_streams": [], "sync_mode": "incremental"}  # fmt: skip
        assert other.invalid("POST", path, json=body).keys() == {("body", field)}
    assert place.ask("GET", f"{SYNCS}/{sync['id']}") == sync


# --- rates -------------------------------------------------------------------------------------------------------------------


def test_a_key_that_used_its_minute_up_is_told_when_to_come_back(place: Place) -> None:
    _, text = place.store.api_keys.create(workspace=place.name, name="slow", requests_per_minute=2)
    client = TestClient(place.server.app, headers={"x-api-key": text})
    first = client.get(SYNCS)
    assert (first.headers["x-ratelimit-limit"], first.headers["x-ratelimit-remaining"]) == ("2", "1")
    client.get(SYNCS)
    for path, field in zip(paths(place), ("message", "detail", "error"), strict=True):
        answer = client.get(path)
        assert answer.status_code == 429
        assert "2 requests a minute" in answer.json()[field]
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.headers["x-ratelimit-remaining"] == "0"
    assert place.client.get(SYNCS).status_code == 200


def test_the_bucket_fills_steadily() -> None:
    now = [0.0]
    limiter = RateLimiter(lambda: now[0])
    assert [limiter.take("k", 60).wait for _ in range(61)] == [0] * 60 + [1]
    now[0] += 2.5
    assert [limiter.take("k", 60).wait for _ in range(3)] == [0, 0, 1]
    assert limiter.take("other", 60).remaining == 59
    now[0] += 1000
    assert limiter.take("k", 60).remaining == 59


def test_a_refusal_has_the_rate_headers_too(place: Place) -> None:
    for path in (f"{SYNCS}/{NOBODY}", f"/elt_syncs/{NOBODY}", f"{SYNCS}?limit=0"):
        assert "x-ratelimit-limit" in place.client.get(path).headers


# --- requests that are sent again --------------------------------------------------------------------------------------------


def test_a_repeated_request_is_answered_as_before_and_not_carried_out_again(place: Place) -> None:
    body = {"connectionId": place.source, "name": "Shop"}
    sent = [place.client.post(SYNCS, json=body, headers={"Idempotency-Key": "k1"}) for _ in range(3)]
    assert [a.status_code for a in sent] == [201, 201, 201]
    assert len({a.text for a in sent}) == 1
    assert ["idempotent-replayed" in a.headers for a in sent] == [False, True, True]
    assert {a.headers["etag"] for a in sent} == {sent[0].headers["etag"]}
    assert place.ask("GET", SYNCS)["total"] == 1
    place.ask("POST", SYNCS, 422, json={**body, "name": "Other"}, headers={"Idempotency-Key": "k1"})
    assert place.client.post(SYNCS, json=body, headers={"Idempotency-Key": "k2"}).json()["slug"] == "shop-2"


def test_a_repeated_trigger_starts_one_run(place: Place) -> None:
    sync = place.ask(
        "POST", SYNCS, 201, json={"connectionId": place.source, "name": "x", "entities": ["orders"], "status": "active"}
    )
    path = f"{SYNCS}/{sync['id']}/trigger"
    ids = {place.ask("POST", path, json={}, headers={"Idempotency-Key": "run"})["id"] for _ in range(2)}
    assert len(ids) == len(place.runs.views) == 1


def test_of_concurrent_duplicates_one_is_carried_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert go_on.wait(10)

    monkeypatch.setattr(Shelf, "while_asked", [wait])
    body = {"connectionId": place.source, "name": "Shop", "entities": ["orders"]}

    def send() -> Any:
        return place.client.post(SYNCS, json=body, headers={"Idempotency-Key": "both"})

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(send)
        assert inside.wait(10)
        second = pool.submit(send)
        assert second.result().status_code == 409
        go_on.set()
        assert first.result().status_code == 201
    assert send().json() == first.result().json()
    assert place.ask("GET", SYNCS)["total"] == 1


def test_a_refusal_is_no_answer_to_keep(place: Place) -> None:
    body = {"connectionId": place.source, "name": "x", "slug": "Not A Slug"}
    for _ in range(2):
        answer = place.client.post(SYNCS, json=body, headers={"Idempotency-Key": "again"})
        assert answer.status_code == 422
        assert "idempotent-replayed" not in answer.headers
    fixed = place.client.post(SYNCS, json={**body, "slug": "slug"}, headers={"Idempotency-Key": "again"})
    assert fixed.status_code == 201


def test_a_key_of_another_workspace_is_another_key(place: Place, server: Server, tmp_path: Path) -> None:
    other = api_server.settle(server, tmp_path)
    for someone in (place, other):
        body = {"connectionId": someone.source, "name": "Shop"}
        answer = someone.client.post(SYNCS, json=body, headers={"Idempotency-Key": "same"})
        assert "idempotent-replayed" not in answer.headers


@pytest.mark.parametrize("key", ["", "k" * 256, "tab\there"], ids=["empty", "long", "control"])
def test_an_idempotency_key_that_cannot_be_kept_is_refused(place: Place, key: str) -> None:
    place.ask("POST", SYNCS, 422, json={"connectionId": place.source, "name": "x"}, headers={"Idempotency-Key": key})
    assert place.ask("GET", SYNCS)["total"] == 0


def test_an_answer_that_is_kept_holds_no_secret(place: Place) -> None:
    body = {"name": "L", "loader_type": "shelf", "source_id": place.warehouse, "config": {"token": TOKEN}, "target_schema": "s",
            "selected_streams": [], "sync_mode": "incremental"}  # fmt: skip
    place.ask("POST", paths(place)[2], 201, json=body, headers={"Idempotency-Key": "secret"})
    with place.store._database.read() as conn:
        assert TOKEN not in str(conn.execute(replies.select()).all())


# --- bodies ------------------------------------------------------------------------------------------------------------------


def raw(place: Place, method: str, path: str, content: Any, kind: str = "application/json") -> Any:
    """The answer to a body as it is."""
    return place.client.request(method, path, content=content, headers={"content-type": kind})


BODIES = {
    "broken": b'{"name": ',
    "a list": b"[1, 2]",
    "a text": b'"x"',
    "nothing": b"",
    "NaN": b'{"name": "x", "sourceConfig": {"a": NaN}}',
    "infinity": b'{"name": "x", "sourceConfig": {"a": -Infinity}}',
    "a number beyond all": b'{"name": "x", "sourceConfig": {"a": 1e999}}',
    "NUL": rb'{"name": "x\u0000y", "connectionId": "x"}',
    "NUL in a key": rb'{"name": "x", "sourceConfig": {"\u0000": 1}}',
    "half a pair": rb'{"name": "\ud800"}',
    "not UTF-8": b'{"name": "\xff\xfe"}',
    "too deep": b'{"sourceConfig": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    "too deep a list": b"[" * 200_000,
    "a number without end": b'{"name": "x", "freshnessSlaSeconds": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("name", list(BODIES))
def test_what_is_no_body_is_refused_in_the_words_of_the_dialect(place: Place, name: str) -> None:
    for path in (*paths(place), f"{SYNCS}/{NOBODY}/trigger"):
        answer = raw(place, "POST", path, BODIES[name])
        if path.endswith("trigger") and name == "nothing":
            assert answer.status_code == 404
            continue
        expected = 400 if path == "/elt_syncs" else 422
        assert answer.status_code == expected, (path, answer.text)
        assert answer.json().keys() == ({"error_code", "message"} if expected == 400 else {"detail"})
    assert place.ask("GET", SYNCS)["total"] == 0


def test_a_body_may_be_as_deep_as_is_said(place: Place) -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH - 1):
        deep = {"a": deep}
    body = {"connectionId": place.source, "name": "x", "executionConfig": deep}
    assert place.ask("POST", SYNCS, 201, json=body)["executionConfig"] == deep
    place.ask("POST", SYNCS, 422, json={**body, "executionConfig": {"a": deep}})


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml"]
)
def test_a_body_of_another_kind_is_no_json(place: Place, kind: str) -> None:
    content = json.dumps({"connectionId": place.source, "name": "x"}).encode()
    assert raw(place, "POST", SYNCS, content, kind).status_code == 422
    assert raw(place, "POST", SYNCS, content, "application/json; charset=utf-8").status_code == 201


def test_a_body_that_is_too_large_is_not_read_to_its_end(place: Place) -> None:
    seen = 0

    def endless() -> Iterator[bytes]:
        nonlocal seen
        yield b'{"name": "'
        while seen < 100 * MAX_BODY_BYTES:
            seen += 100_000
            yield b"x" * 100_000

    for path, field in zip(paths(place), ("message", "detail", "error"), strict=True):
        answer = raw(place, "POST", path, b'{"name": "' + b"x" * MAX_BODY_BYTES + b'"}')
        assert answer.status_code == 413
        assert "1,000,000 bytes" in answer.json()[field]
    assert raw(place, "POST", SYNCS, endless()).status_code == 413


@pytest.mark.parametrize("path", ["%00", "a%00b", "%ED%A0%80"])
def test_an_address_that_no_database_keeps_leads_nowhere(place: Place, path: str) -> None:
    assert place.client.get(f"/elt_syncs/{path}").status_code in (400, 404)
    assert place.client.get(f"{SYNCS}/{path}").status_code in (404, 422)
    assert place.client.get(f"{SYNCS}?q={path}").status_code == 422


def test_a_method_that_is_not_there_is_told_in_the_words_of_the_dialect(place: Place) -> None:
    for path, fields in zip(paths(place), ({"error_code", "message"}, {"detail"}, {"error"}), strict=True):
        answer = place.client.put(path, json={})
        assert answer.status_code == 405
        assert answer.json().keys() == fields
    assert place.client.get("/api/v1/nothing").status_code == 404


# --- errors of ours ----------------------------------------------------------------------------------------------------------


def test_a_bug_tells_nothing_but_its_place_and_that_to_the_log_only(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Syncs, *_: Any, **__: Any) -> None:
        raise RuntimeError(TOKEN)

    monkeypatch.setattr(Syncs, "page", broken)
    client = TestClient(place.server.app, headers={"x-api-key": place.key}, raise_server_exceptions=False)
    with caplog.at_level(logging.INFO, "elt_dagster.api"):
        answer = client.get(SYNCS)
    assert answer.status_code == 500
    assert TOKEN not in answer.text + caplog.text
    assert "RuntimeError at" in caplog.text


def test_what_is_busy_says_when_to_come_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(self: Syncs, *_: Any, **__: Any) -> None:
        raise TransientError("The store is busy.", retry_after=2.4)

    monkeypatch.setattr(Syncs, "page", busy)
    answer = place.client.get(SYNCS)
    assert (answer.status_code, answer.headers["retry-after"]) == (424, "2")


# --- the audit line ----------------------------------------------------------------------------------------------------------


def test_every_write_has_one_line_and_no_secret_in_it(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    key = place.store.api_keys.list(place.name)[0]
    with caplog.at_level(logging.INFO, "elt_dagster.audit"):
        place.ask("GET", SYNCS)
        made = place.ask(
            "POST", f"{SYNCS}?api_key={place.key}", 201, json={"connectionId": place.source, "name": TOKEN[:6]}
        )
        place.ask("PATCH", f"{SYNCS}/{made['id']}", 422, json={"slug": "No"})
        place.ask("DELETE", f"{SYNCS}/{NOBODY}", 404)
        place.ask("POST", "/elt_syncs", 400, json={})
        place.ask("DELETE", f"{SYNCS}/{made['id']}", 204)
    lines = [r.getMessage() for r in caplog.records if r.name == "elt_dagster.audit"]
    who = f"key={key.id} name=test workspace={place.name}"
    assert lines == [
        f"{who} action=POST path={SYNCS} status=201",
        f"{who} action=PATCH path={SYNCS}/{made['id']} status=422",
        f"{who} action=DELETE path={SYNCS}/{NOBODY} status=404",
        f"{who} action=POST path=/elt_syncs status=400",
        f"{who} action=DELETE path={SYNCS}/{made['id']} status=204",
    ]
    assert place.key not in caplog.text


def test_an_address_cannot_write_a_line_of_its_own(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "elt_dagster.audit"):
        place.client.delete("/elt_syncs/x%0Akey=root%20status=204")
    (record,) = [r for r in caplog.records if r.name == "elt_dagster.audit"]
    assert "\n" not in record.getMessage()
    assert record.getMessage().count(" status=") <= 2
    assert "path='" in record.getMessage()


# --- the document ------------------------------------------------------------------------------------------------------------


def test_the_page_of_the_documentation_needs_no_other_server(server: Server) -> None:
    browser = stranger(server)
    page = browser.get("/docs").text
    parts = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert [p.rpartition("/")[2] for p in parts if p.endswith((".js", ".css"))] == [
        "swagger-ui.css",
        "swagger-ui-bundle.js",
    ]
    assert [browser.get(part).status_code for part in parts] == [200] * len(parts)
    assert "//" not in "".join(parts)


def test_the_openapi_document_tells_every_answer(server: Server) -> None:
    document = stranger(server).get("/openapi.json").json()
    assert document["components"]["securitySchemes"].keys() == {"apiKey", "bearer", "cookie"}
    # two models of one name would be told apart by the paths of their modules
    assert [name for name in document["components"]["schemas"] if "__" in name] == []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if not path.startswith(("/api/v1", "/elt_", "/connections", "/integrations")):
                continue
            assert {"401", "429"} <= operation["responses"].keys(), (method, path)
            assert operation["summary"], (method, path)
            assert operation["description"], (method, path)
            done = [code for code in operation["responses"] if code.startswith("2")]
            assert len(done) == 1, (method, path)


def test_health_asks_for_no_key_and_readiness_asks_the_store_and_dagster(place: Place) -> None:
    assert stranger(place.server).get("/healthz").json() == {"status": "ok"}
    assert stranger(place.server).get("/readyz").status_code == 200
    place.runs.away = True
    answer = stranger(place.server).get("/readyz")
    assert (answer.status_code, answer.json()["dagster"]) == (503, "source_unavailable")


def test_a_sync_written_by_hand_is_what_the_api_shows(place: Place) -> None:
    spec = SyncSpec.model_validate(
        {"slug": "by-hand", "connection": "books", "destination": "warehouse", "schema": "s"}
    )
    with place.store.transaction(place.name) as tx:
        tx.put_sync(spec, {})
    found = place.ask("GET", SYNCS)["syncs"][0]
    assert (found["slug"], found["createdBy"], found["status"]) == ("by-hand", None, "active")
