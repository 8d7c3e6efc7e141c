"""What keeps the API apart from the rest of the web, and what the web may expect of it: headers, methods, addresses, cookies."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.unit import api_server
from tests.unit.api_server import NOBODY, Place, Server

SYNCS = "/api/v1/syncs"
HERE = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with api_server.opened("sqlite", tmp_path_factory.mktemp("web")) as store:
        yield api_server.serve(store)


@pytest.fixture
def place(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    api_server.shelves(monkeypatch)
    return api_server.settle(server, tmp_path)


# --- a cookie that foreign pages send along ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": HERE},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8000.evil.example"},
        {"Origin": "https://[evil"},
    ],
    ids=["cross", "sibling", "cross-from-here", "origin", "sandbox", "prefix", "broken"],
)
def test_a_page_of_another_site_changes_nothing_with_the_cookie(place: Place, said: dict[str, str]) -> None:
    made = place.ask("POST", SYNCS, 201, json={"connectionId": place.source, "name": "Wanted"})
    browser = TestClient(place.server.app, base_url=HERE, cookies={"vai_token": place.key})
    for method, path in (
        ("POST", f"/elt_syncs/{made['id']}/start"),
        ("POST", f"{SYNCS}/{made['id']}/trigger"),
        ("PATCH", f"{SYNCS}/{made['id']}"),
        ("DELETE", f"/api/v1/workspaces/{place.id}/loaders/{made['id']}"),
    ):
        answer = browser.request(method, path, headers=said)
        assert answer.status_code == 401, (method, path, answer.text)
        assert "another site" in answer.text
    assert place.ask("GET", f"{SYNCS}/{made['id']}") == made
    assert place.runs.views == []


@pytest.mark.parametrize(
    "said",
    [{}, {"Sec-Fetch-Site": "same-origin", "Origin": HERE}, {"Sec-Fetch-Site": "none"}, {"Origin": HERE}],
    ids=["program", "page", "person", "older-browser"],
)
def test_our_own_pages_and_programs_may_use_the_cookie(place: Place, said: dict[str, str]) -> None:
    browser = TestClient(place.server.app, base_url=HERE, cookies={"vai_token": place.key})
    made = browser.post(SYNCS, headers=said, json={"connectionId": place.source, "name": "Wanted"})
    assert made.status_code == 201, made.text


def test_behind_a_proxy_our_own_page_is_the_one_at_the_address_that_browsers_use(tmp_path: Path) -> None:
    with api_server.opened("sqlite", tmp_path) as store:
        behind = api_server.serve(store, base_url="https://elt.example.com")
        _, key = store.api_keys.create(workspace="default", name="page")
        browser = TestClient(behind.app, base_url="http://inside:8000", cookies={"vai_token": key})
        bridge = {"integration_id": "postgres", "label": "x", "redirect_uri": "https://app.example/back"}
        for origin, status in (("https://elt.example.com", 201), ("https://other.example.com", 401)):
            answer = browser.post("/connection_bridges", headers={"Origin": origin}, json=bridge)
            assert answer.status_code == status, answer.text


def test_reading_and_keys_in_headers_need_no_such_care(place: Place) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    browser = TestClient(place.server.app, cookies={"vai_token": place.key})
    # it may be asked, but without CORS no other site's page is shown the answer
    answer = browser.get(SYNCS, headers=foreign)
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    named = place.client.post(SYNCS, headers=foreign, json={"connectionId": place.source, "name": "By key"})
    assert named.status_code == 201


# --- headers -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/connections", SYNCS, "/elt_syncs/nothing", "/docs", "/openapi.json", "/healthz", "/nowhere"]
)
def test_no_answer_is_kept_framed_or_taken_for_another_type(place: Place, path: str) -> None:
    headers = place.client.get(path).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["content-security-policy"] == "frame-ancestors 'none'"
    assert headers["referrer-policy"] == "no-referrer"


def test_the_parts_of_the_documentation_may_be_kept(place: Place) -> None:
    assert "cache-control" not in place.client.get("/static-offline-docs/swagger-ui.css").headers


# --- methods and addresses ---------------------------------------------------------------------------------------------------


def test_head_tells_what_get_would_and_sends_nothing(place: Place) -> None:
    for path in (
        "/connections",
        SYNCS,
        f"/api/v1/workspaces/{place.id}/loaders",
        "/healthz",
        "/readyz",
        "/elt_syncs/no",
    ):
        asked, told = place.client.get(path), place.client.head(path)
        assert (told.status_code, told.content) == (asked.status_code, b"")
        assert told.headers["content-length"] == str(len(asked.content))
        assert told.headers["content-type"] == asked.headers["content-type"]
    assert TestClient(place.server.app).head("/connections").status_code == 401


def test_whoever_only_looks_at_a_link_begins_nothing(place: Place) -> None:
    assert place.client.head("/connection_bridges/authorize?token=x").status_code == 405


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/elt_syncs", "GET, POST"),
        (SYNCS, "GET, POST"),
        (f"{SYNCS}/{NOBODY}", "DELETE, GET, PATCH"),
        (f"/elt_syncs/{NOBODY}/start", "POST"),
        ("/api/v1/workspaces/default/loaders/x", "DELETE, GET, PUT"),
        ("/connection_bridges", "GET, POST"),
    ],
)
def test_a_method_that_is_not_there_is_answered_with_those_that_are(place: Place, path: str, allowed: str) -> None:
    answer = place.client.options(path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_a_slash_too_many_leads_nowhere_and_never_to_another_host(place: Place) -> None:
    for path, field in (
        ("/connections/", "message"),
        (f"{SYNCS}/", "detail"),
        ("/api/v1/workspaces/x/loaders/", "error"),
    ):
        answer = place.client.get(path, headers={"Host": "evil.example"}, follow_redirects=False)
        assert (answer.status_code, answer.headers.get("location")) == (404, None)
        assert "slash" in answer.json()[field]


# --- what the document tells of headers --------------------------------------------------------------------------------------


def test_the_openapi_document_tells_of_every_header_that_is_read_or_answered(place: Place) -> None:
    paths = place.client.get("/openapi.json").json()["paths"]
    for path, methods in paths.items():
        for method, operation in methods.items():
            if "security" not in operation:
                continue
            read = {p["name"].lower() for p in operation.get("parameters", ()) if p["in"] == "header"}
            assert ("idempotency-key" in read) is (method == "post"), (method, path)
            assert ("if-match" in read) is ("412" in operation["responses"]), (method, path)
            done = next(answer for code, answer in operation["responses"].items() if code.startswith("2"))
            assert {"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"} <= done["headers"].keys()
            assert "Retry-After" in operation["responses"]["429"]["headers"]
            if "if-match" in read and method != "delete":
                assert "ETag" in done["headers"], (method, path)
    changing = {(m, p) for p, ms in paths.items() for m, op in ms.items() if "412" in op["responses"]}
    assert changing == {
        ("post", "/elt_syncs/{id}"), ("delete", "/elt_syncs/{id}"), ("post", "/elt_syncs/{id}/source_streams"),
        ("post", "/elt_syncs/{id}/enable"), ("post", "/elt_syncs/{id}/disable"), ("post", "/elt_syncs/{id}/start"),
        ("patch", "/api/v1/syncs/{sync_id}"), ("delete", "/api/v1/syncs/{sync_id}"),
        ("put", "/api/v1/workspaces/{id}/loaders/{loaderId}"), ("delete", "/api/v1/workspaces/{id}/loaders/{loaderId}"),
    }  # fmt: skip


def test_a_wrong_header_or_cursor_is_told_by_its_name(place: Place) -> None:
    made = {"connectionId": place.source, "name": "Once"}
    place.ask("POST", SYNCS, 201, json=made, headers={"Idempotency-Key": "one"})
    found = place.invalid("POST", SYNCS, json={**made, "name": "Twice"}, headers={"Idempotency-Key": "one"})
    assert "came with another request" in found["header", "Idempotency-Key"]
    for path in ("/connections", "/elt_syncs", "/elt_streams", "/integrations", "/connection_bridges"):
        told = place.ask("GET", f"{path}?starting_after=nothing", 400)["message"]
        assert told.startswith("query.starting_after: "), (path, told)


def test_a_field_that_a_bridge_does_not_have_is_told(place: Place) -> None:
    bridge = {"integration_id": "postgres", "label": "x", "redirect_uri": "https://app.example/back"}
    # what was meant to be authorised anew would be made a second time
    assert (
        "/conection_id: "
        in place.ask("POST", "/connection_bridges", 400, json={**bridge, "conection_id": "x"})["message"]
    )
    assert "/label: " in place.ask("POST", "/connection_bridges", 400, json={**bridge, "label": "  "})["message"]


@pytest.mark.parametrize(
    "sent",
    [
        {"content": '{"name": "x"}'},
        {"content": '{"name": "x"}', "headers": {"Content-Type": "text/plain"}},
        {"json": [1]},
        {},
    ],
    ids=["no-type", "text", "list", "nothing"],
)
def test_a_body_that_is_no_object_is_told_what_to_be(place: Place, sent: dict[str, Any]) -> None:
    wanted = "Send a JSON object, with Content-Type: application/json."
    assert place.ask("POST", "/elt_syncs", 400, **sent)["message"] == wanted
    assert place.invalid("POST", SYNCS, **sent) == {("body",): wanted}


def test_a_schedule_that_is_missing_is_told_at_its_place(place: Place) -> None:
    body = {"connectionId": place.source, "name": "X", "triggerMode": "scheduled"}
    assert place.invalid("POST", SYNCS, json=body).keys() == {("body", "schedule")}
