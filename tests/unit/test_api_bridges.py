"""Connection bridges over HTTP, without a browser's help: forms that have to work without JavaScript, and who may not cross."""

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from elt_dagster import registry
from elt_dagster.control.local_places import chosen_places
from elt_dagster.control.validate import find_kinds
from elt_dagster.store import Store, open_store
from tests.unit.bridge_stage import BACK, CANARY, BridgeStage, Formed, Page, as_json, told


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeStage]:
    store = open_store(f"sqlite:///{tmp_path_factory.mktemp('bridges')}/store.sqlite")
    store.init()
    known = registry._connector_modules
    mine = {"formed": "tests.unit.bridge_stage", "consented": "tests.dagster_connectors.consented"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_connector_modules", lambda: {**known(), **mine})
        yield BridgeStage(store)


def form(stage: BridgeStage, address: str) -> tuple[Any, Page]:
    browser = stage.browser()
    return browser, browser.page(address)


# --- making one --------------------------------------------------------------------------------------------------------------


def test_a_bridge_lives_for_a_day_and_its_address_is_kept_nowhere(stage: BridgeStage) -> None:
    answer = stage.api.post(
        "/connection_bridges",
        json={"integration_id": "postgres", "label": "shop", "redirect_uri": BACK, "state": "s 1"},
    )
    made = answer.json()
    assert answer.status_code == 201
    assert set(made) == {"id", "authorize_url", "expires_at"}
    assert (
        timedelta(seconds=86_390) < datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC) < timedelta(days=1)
    )
    token = made["authorize_url"].rpartition("=")[2]
    assert len(token) >= 43
    with stage.store._database.read() as conn:
        assert token not in str(conn.execute(sa.text("SELECT * FROM elt_bridges")).all())
    listed = stage.api.get("/connection_bridges").json()
    assert listed["data"][0] == {
        "id": made["id"], "integration_id": "postgres", "label": "shop", "redirect_uri": BACK, "state": "s 1",
        "connection_id": None, "created_at": listed["data"][0]["created_at"], "expires_at": made["expires_at"],
    }  # fmt: skip


def test_open_bridges_are_listed_in_pages_newest_first(stage: BridgeStage) -> None:
    made = [stage.api.post("/connection_bridges", json=_body()).json()["id"] for _ in range(3)]
    first = stage.api.get("/connection_bridges?limit=2").json()
    assert [b["id"] for b in first["data"]] == made[:0:-1]
    assert (first["has_more"], first["next_cursor"]) == (True, made[1])
    then = stage.api.get(f"/connection_bridges?limit=1&starting_after={made[1]}").json()
    assert [b["id"] for b in then["data"]] == made[:1]
    assert stage.api.get("/connection_bridges?starting_after=gone").status_code == 400


def _body(**more: Any) -> dict[str, Any]:
    return {"integration_id": "formed", "label": "x", "redirect_uri": BACK, **more}


def test_nobody_makes_or_lists_bridges_without_a_key(stage: BridgeStage) -> None:
    nobody = TestClient(stage.app)
    assert nobody.post("/connection_bridges", json=_body()).status_code == 401
    assert nobody.get("/connection_bridges").status_code == 401


@pytest.mark.parametrize("uri", [
    "http://app.example/back", "https://app.example/back?x=1", "https://app.example/back?", "https://app.example/#x", "https://app.example/#",
    "https://user@app.example/", "https://user:pw@app.example/", "https://app.example@evil.example/", "https://app.example\\@evil.example/",
    "https://app.example/\r\nX-Evil: 1", "https://app.example/\tx", "https://app.example/ x", "https:app.example", "https:///app.example", "//app.example",
    "javascript:alert(1)", "data:text/html,x", "https://", "https://ä.example/", "https://app.example:99999/", "https://app.example:0/",
    "http://localhost.evil.example/", "http://127.0.0.2/", "http://127.1/", "http://[::2]/", "http://localhost@evil.example/", "https://[::1", "https://-x/",
    "https://app.example%2f@evil.example/", "app://back", "https://" + "a" * 2000, "http://2130706433/", "https://app.example:80:90/",
])  # fmt: skip
def test_a_browser_is_sent_to_no_address_with_a_trick(stage: BridgeStage, uri: str) -> None:
    answer = stage.api.post("/connection_bridges", json=_body(redirect_uri=uri))
    assert answer.status_code == 400
    assert "redirect_uri" in answer.json()["message"]


@pytest.mark.parametrize("uri", [
    "https://app.example", "https://app.example/a/b", "https://app.example:8443/", "https://[2001:db8::1]/x", "https://10.0.0.1/",
    "http://localhost:3000/back", "http://127.0.0.1/", "http://[::1]:5000/back", "HTTPS://App.Example/Back",
])  # fmt: skip
def test_ordinary_addresses_are_fine(stage: BridgeStage, uri: str) -> None:
    assert stage.api.post("/connection_bridges", json=_body(redirect_uri=uri)).status_code == 201


def test_what_does_not_exist_or_fit_makes_no_bridge(stage: BridgeStage) -> None:
    assert "/integration_id: There is no connector 'formd'" in stage.refused(integration_id="formd")
    assert "/connection_id" in stage.refused(connection_id="gone")
    assert "'postgrs'" in stage.refused(settings={"postgrs": 1})
    assert "for the person" in stage.refused(settings={"password": CANARY})
    assert "for the person" in stage.refused(settings={"host": {"env": "HOME"}})
    assert "/label" in stage.refused(label="")


# --- the form ----------------------------------------------------------------------------------------------------------------


def test_a_person_fills_in_the_form_and_goes_back_with_a_connection(stage: BridgeStage) -> None:
    address = stage.create(state="their own & state")
    browser, page = form(stage, address)
    assert page.inputs["password"]["type"] == "password"
    assert page.inputs["password"]["autocomplete"] == "off"
    assert page.inputs["password"]["aria-required"] == "true"
    assert "My &lt;account&gt;" in page.text
    assert "<h1>Connect to Formed &lt;b&gt;</h1>" in page.text
    back = browser.send(
        address, page, password="right", port="8080", mode="slow", safe=None, loud="no", names="a\r\n b \r\n", headers="X-A: 1\r\nX-B: 2",
        anything='{"deep": [1, {"er": null}]}', pem_private_key="-----\r\nAB\r\n-----", **{"auth#kind": "auth:person", "auth:person.user": "me"},
    )  # fmt: skip
    assert isinstance(back, str)
    assert told(back)["state"] == "their own & state"
    assert stage.config(back) == {
        "password": "right", "port": 8080, "mode": "slow", "safe": False, "loud": False, "names": ["a", "b"],
        "headers": {"X-A": "1", "X-B": "2"}, "anything": {"deep": [1, {"er": None}]}, "pem_private_key": "-----\nAB\n-----",
        "auth": {"kind": "person", "user": "me"},
    }  # fmt: skip
    connection = stage.store.connection_by_id(told(back)["connection_id"])
    assert (connection.spec.connector, connection.label) == ("formed", "My <account>")
    assert "right" not in str(connection)


def test_every_field_has_a_label_and_says_where_its_error_is(stage: BridgeStage) -> None:
    _, page = form(stage, stage.create())
    shown = {name: its for name, its in page.inputs.items() if its.get("type") != "hidden"}
    assert len(shown) >= 17
    for name, its in shown.items():
        assert its["id"] in page.labels, name
        for described in (its["aria-describedby"] or "").split():
            assert f'id="{described}"' in page.text
        assert f"{its['id']}-error" in (its["aria-describedby"] or ""), name


def test_what_is_required_is_marked_for_eyes_and_for_ears(stage: BridgeStage) -> None:
    _, page = form(stage, stage.create())
    star = '<span class="needed" aria-hidden="true">*</span>'
    shown = page.text.partition("<template>")[0]
    marked = set(re.findall(rf'<label for="f-([^"]+)">[^<]*{re.escape(star)}</label>', shown))
    assert marked == {"password", "auth:key.key", "auth:person.user"}
    for name, its in page.inputs.items():
        assert (its.get("aria-required") == "true") is ("required" in its) is (name in marked), name
    assert shown.index(f'{star}<span class="hidden">The star</span> marks what is required.') < shown.index("f-host")
    # a group has no aria-required, so its name says it
    _, page = form(stage, stage.create("http_api"))
    assert f'<legend>Streams{star}<span class="hidden">, required</span></legend>' in page.text


def test_errors_are_beside_their_fields_and_what_was_typed_is_still_there(stage: BridgeStage) -> None:
    address = stage.create()
    browser, page = form(stage, address)
    again = browser.send(
        address, page, password="", port="99999", host="UPPER", share="much", anything="{", headers="no colon", names="kept\r\nlines",
        **{"auth#kind": "auth:person", "auth:person.level": "12"},
    )  # fmt: skip
    assert isinstance(again, Page)
    assert again.status == 422
    wrong = {"password", "port", "host", "share", "anything", "headers", "auth:person.user", "auth:person.level"}
    assert set(again.wrong) == wrong
    assert again.wrong["password"] == "This is needed."
    assert again.inputs["password"]["aria-invalid"] == "true"
    assert [name for name, its in again.inputs.items() if "autofocus" in its] == ["host"]
    assert all(f'href="#f-{name}"' in again.text for name in wrong)
    assert (again.data["names"], again.data["port"], again.data["share"]) == ("kept\nlines", "99999", "much")
    again = browser.send(address, again, **dict.fromkeys(wrong, ""), **{"auth#kind": ""})
    assert isinstance(again, Page)
    assert set(again.wrong) == {"password"}
    assert Formed.checked == [] or Formed.checked[-1].host != "UPPER"


def test_what_the_source_says_is_shown_and_secrets_are_not_sent_back(stage: BridgeStage) -> None:
    address = stage.create()
    browser, page = form(stage, address)
    typed = {"password": CANARY, "pem_private_key": CANARY, "auth#kind": "auth:key", "auth:key.key": CANARY}
    again = browser.send(address, page, **typed)
    assert isinstance(again, Page)
    assert again.status == 422
    assert "Formed refused the password." in again.text
    assert "UNKNOWN" not in again.text
    assert {again.data[name] for name in ("password", "pem_private_key", "auth:key.key")} == {""}
    assert again.data["auth#kind"] == "auth:key"


def test_a_connector_that_breaks_shows_nothing_of_its_error(
    stage: BridgeStage, caplog: pytest.LogCaptureFixture
) -> None:
    address = stage.create()
    browser, page = form(stage, address)
    answer = browser.send(address, page, password="right", host="broken")
    assert isinstance(answer, Page)
    assert answer.status == 500
    assert CANARY not in caplog.text
    assert address.rpartition("=")[2] not in caplog.text
    assert "KeyError" in caplog.text


def test_items_are_added_and_removed_without_javascript(stage: BridgeStage) -> None:
    address = stage.create()
    browser, page = form(stage, address)
    for _ in range(3):
        page = browser.send(address, page, **{"add#": "shelves"})
    page.data |= {f"shelves[{n}].name": f"s{n}" for n in range(3)}
    page = browser.send(address, page, **{"remove#": "shelves[1]"})
    assert page.status == 200
    assert page.data["shelves[2].name"] == "s2"
    back = browser.send(
        address, page, password="right", **{"shelves[2].tags": "x", "shelves[0].secret": CANARY, "shelves[2].name": ""}
    )
    assert isinstance(back, Page)
    assert "shelves[2].name" in back.wrong
    back = browser.send(address, back, password="right", **{"shelves[2].name": "s2", "shelves[0].secret": CANARY})
    assert as_json(stage.config(back))["shelves"] == [{"name": "s0", "secret": CANARY}, {"name": "s2", "tags": ["x"]}]


@pytest.mark.parametrize("field", ["anything", "headers"])
def test_a_form_cannot_reach_into_the_servers_environment(stage: BridgeStage, field: str) -> None:
    address = stage.create()
    browser, page = form(stage, address)
    value = {"anything": '{"a": [{"env": "HOME"}], "b": {"file": "/etc/passwd"}}', "headers": "env: HOME"}[field]
    again = browser.send(address, page, password="right", **{field: value})
    assert isinstance(again, Page)
    assert field in again.wrong


def test_settings_that_are_known_already_are_filled_in(stage: BridgeStage) -> None:
    _, page = form(stage, stage.create(settings={"host": "there", "names": ["a", "b"], "limits": {"rows": 5}}))
    assert (page.data["host"], page.data["names"], page.data["limits.rows"]) == ("there", "a\nb", "5")


def test_every_connector_and_warehouse_has_a_form(stage: BridgeStage) -> None:
    for name in sorted({*registry.connector_names(), *registry.destination_names()} - {"consented"}):
        _, page = form(stage, stage.create(name))
        assert len(page.inputs) > 2, name


# --- who may not cross -------------------------------------------------------------------------------------------------------


def test_a_bridge_is_crossed_once(stage: BridgeStage) -> None:
    address = stage.create()
    browser, page = form(stage, address)
    before = len(stage.store.connections())
    answers: list[Any] = []
    together = [
        threading.Thread(target=lambda: answers.append(browser.send(address, page, password="right"))) for _ in range(3)
    ]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    assert len([a for a in answers if isinstance(a, str)]) == 1
    assert {a.status for a in answers if isinstance(a, Page)} == {410}
    assert len(stage.store.connections()) == before + 1
    assert "used already" in browser.page(address, 410).text
    assert address.rpartition("=")[2] not in str(stage.api.get("/connection_bridges").json())


def test_unknown_and_expired_bridges_lead_to_a_page_that_says_so(stage: BridgeStage) -> None:
    browser, address = stage.browser(), stage.create()
    for wrong in (f"{address}x", "/connection_bridges/authorize?token=%00", "/connection_bridges/authorize?token=%ff"):
        browser.page(wrong, 404)
    for wrong in ("/connection_bridges/authorize", f"/connection_bridges/authorize?token={'x' * 300}"):
        browser.page(wrong, 400)
    page = browser.page(address)
    _expire(stage.store, address)
    assert "expired" in browser.page(address, 410).text
    answer = browser.send(address, page, password="right")
    assert isinstance(answer, Page)
    assert answer.status == 410


def _expire(store: Store, address: str) -> None:
    bridge = store.bridges.by_token(address.rpartition("=")[2])
    with store._database.write() as conn:
        conn.execute(
            sa.text("UPDATE elt_bridges SET expires_at = :at WHERE id = :id"),
            {"at": (datetime.now(UTC) - timedelta(seconds=1)).strftime("%Y-%m-%d %H:%M:%S.%f"), "id": bridge.id},
        )


def test_a_form_of_another_browser_or_bridge_is_not_taken(stage: BridgeStage) -> None:
    address, other = stage.create(), stage.create()
    browser, page = form(stage, address)
    for sender, to, csrf in (
        (stage.browser(), address, page.data["csrf#"]),
        (browser, other, page.data["csrf#"]),
        (browser, address, ""),
    ):
        answer = sender.send(to, page, **{"csrf#": csrf, "password": "right"})
        assert isinstance(answer, Page)
        assert answer.status == 400
    assert isinstance(browser.send(address, page, password="right"), str)


def test_bodies_that_are_no_form_are_refused(stage: BridgeStage) -> None:
    path = stage.create().removeprefix(stage.base_url)
    client = TestClient(stage.app)
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert client.post(path, json={}).status_code == 415
    for body in (b"\xff", b"a=%ff", "&".join(f"f{n}=1" for n in range(6000)).encode(), b"a", b"csrf#=\xc3\xa4"):
        assert client.post(path, content=body, headers=kind).status_code == 400, body[:10]
    assert client.post(path, content=b"a=" + b"x" * 2_000_000, headers=kind).status_code == 413


def test_settings_are_tried_only_so_often(stage: BridgeStage) -> None:
    address = stage.create()
    browser, page = form(stage, address)
    last = page
    for _ in range(200):  # some come back while we try
        last = browser.send(address, page, password="wrong")
        assert isinstance(last, Page)
        if last.status == 429:
            break
    assert last.status == 429
    assert int(last.headers["retry-after"]) > 0


def test_on_https_the_cookie_is_bound_to_the_host(stage: BridgeStage) -> None:
    secure = BridgeStage(stage.store, base_url="https://elt.example")
    browser = secure.browser()
    address = secure.create()
    assert address.startswith("https://elt.example/connection_bridges/authorize?token=")
    answer = browser.client.get(address)
    assert re.fullmatch(
        r"__Host-elt_bridge=[\w-]{43}; HttpOnly; Max-Age=86400; Path=/; SameSite=lax; Secure",
        answer.headers["set-cookie"],
    )
    page = browser.page(address)
    assert isinstance(browser.send(address, page, password="right"), str)


def test_pages_load_nothing_from_elsewhere_and_lead_only_back(stage: BridgeStage) -> None:
    _, page = form(stage, stage.create())
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "form-action 'self' https://app.example;" in policy
    assert "style=" not in page.text
    for name, kind in (("bridge.css", "text/css"), ("bridge.js", "text/javascript")):
        answer = TestClient(stage.app).get(f"/connection_bridges/assets/{name}")
        assert answer.headers["content-type"].startswith(kind)
        assert not re.search(r"https?://|url\(|@import|eval\(", answer.text)
    assert TestClient(stage.app).get("/connection_bridges/assets/..%2fapp.py").status_code == 404


# --- what is on the server ----------------------------------------------------------------------------------------------------


def test_who_crosses_a_bridge_learns_nothing_of_the_servers_files(
    stage: BridgeStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = stage.create("duckdb")
    browser, page = form(stage, address)
    said = [browser.send(address, page, path=str(path)) for path in (tmp_path / "w.duckdb", "/nowhere/w.duckdb")]
    wrong = [it.wrong for it in said if isinstance(it, Page)]
    assert [set(it) for it in wrong] == [{"path"}, {"path"}]
    assert wrong[0] == wrong[1], "there is no difference between what exists and what does not"
    assert "ELT_DAGSTER_BRIDGE_LOCAL_PATHS=1" in wrong[0]["path"]
    monkeypatch.setenv("ELT_DAGSTER_BRIDGE_LOCAL_PATHS", "1")
    assert isinstance(browser.send(address, page, path=str(tmp_path / "w.duckdb")), str)


@pytest.mark.parametrize(
    ("url", "options", "wrong"),
    [
        ("/etc", "", {"url"}),
        ("local://etc", "", {"url"}),
        ("zip::file:///x.zip", "", {"url"}),
        ("s3://bucket/x", "", {"url"}),
        ("s3://bucket/x", '{"profile": "default", "key": "k", "secret": "s"}', {"url", "storage_options"}),
    ],
    ids=["path", "scheme", "chain", "credentials", "profile"],
)
def test_a_bridge_of_files_leads_to_storage_that_is_the_persons_own(
    stage: BridgeStage, url: str, options: str, wrong: set[str]
) -> None:
    address = stage.create("files")
    browser, page = form(stage, address)
    again = browser.send(address, page, url=url, storage_options=options)
    assert isinstance(again, Page)
    assert again.status == 422
    assert set(again.wrong) == wrong
    assert "the server's own" in again.text.replace("&#x27;", "'")


def test_the_application_may_name_a_folder_of_the_server_and_the_person_another_one_may_not(
    stage: BridgeStage, tmp_path: Path
) -> None:
    (tmp_path / "orders.csv").write_text("id\n1\n")
    address = stage.create("files", settings={"url": str(tmp_path)})
    browser, page = form(stage, address)
    assert page.data["url"] == str(tmp_path)
    again = browser.send(address, page, url=str(tmp_path.parent))
    assert isinstance(again, Page)
    assert set(again.wrong) == {"url"}
    made = told(browser.send(address, page))["connection_id"]
    # authorised anew, it may stay where it is
    address = stage.create("files", connection_id=made)
    assert told(browser.send(address, browser.page(address)))["connection_id"] == made


def test_a_profile_of_the_servers_user_is_for_the_host_that_it_was_named_with() -> None:
    kinds = find_kinds("databricks")
    known = {"host": "https://dbc.example", "profile": "DEFAULT"}
    assert not chosen_places(kinds, {**known, "catalog": "main"}, known, {})
    assert [p.path for p in chosen_places(kinds, {**known, "host": "https://evil.example"}, known, {})] == [
        ("profile",)
    ]
    assert [p.path for p in chosen_places(kinds, {**known, "profile": "OTHER"}, known, {})] == [("profile",)]


# --- authorising anew --------------------------------------------------------------------------------------------------------


def test_a_connection_gets_new_credentials_and_keeps_its_id(stage: BridgeStage) -> None:
    first = stage.create()
    browser, page = form(stage, first)
    back = browser.send(first, page, password="right", names="a", **{"auth#kind": "auth:key", "auth:key.key": CANARY})
    made = told(back)["connection_id"]
    address = stage.create(connection_id=made, label="renamed")
    page = browser.page(address)
    assert (page.data["names"], page.data["auth#kind"], page.data["password"]) == ("a", "auth:key", "")
    assert "aria-required" not in page.inputs["password"]
    assert told(browser.send(address, page))["connection_id"] == made
    assert stage.config(back) == {"password": "right", "names": ["a"], "auth": {"kind": "key", "key": CANARY}}
    assert stage.store.connection_by_id(made).label == "renamed"
    wrong = stage.api.post("/connection_bridges", json=_body(connection_id=made, integration_id="postgres"))
    assert wrong.status_code == 400


def test_a_stored_secret_is_not_sent_to_a_host_that_the_person_chooses(stage: BridgeStage) -> None:
    first = stage.create()
    browser, page = form(stage, first)
    made = told(browser.send(first, page, password="right"))["connection_id"]
    address = stage.create(connection_id=made)
    page = browser.page(address)
    Formed.checked.clear()
    again = browser.send(address, page, host="evil.example")
    assert isinstance(again, Page)
    assert "Type it again" in again.wrong["password"]
    assert Formed.checked == []
    assert isinstance(browser.send(address, page, host="evil.example", password="right"), str)


def test_a_stored_secret_is_not_sent_to_a_host_that_the_bridge_was_made_with(stage: BridgeStage) -> None:
    first = stage.create()
    browser, page = form(stage, first)
    made = told(browser.send(first, page, password="right"))["connection_id"]
    address = stage.create(connection_id=made, settings={"host": "evil.example"})
    page = browser.page(address)
    assert page.data["host"] == "evil.example"
    Formed.checked.clear()
    again = browser.send(address, page)
    assert isinstance(again, Page)
    assert "/password is kept as it is, and host changed." in again.wrong["password"]
    assert Formed.checked == []
    assert told(browser.send(address, page, password="right"))["connection_id"] == made


def test_what_is_chosen_anew_or_removed_needs_no_old_secret(stage: BridgeStage) -> None:
    first = stage.create()
    browser, page = form(stage, first)
    for _ in range(2):
        page = browser.send(first, page, **{"add#": "shelves"})
    filled = {f"shelves[{n}].{key}": f"{key}{n}" for n in range(2) for key in ("name", "secret")}
    back = browser.send(first, page, password="right", **{"auth#kind": "auth:key", "auth:key.key": CANARY}, **filled)
    address = stage.create(connection_id=told(back)["connection_id"])
    page = browser.page(address)
    assert [page.data[f"shelves[{n}].secret"] for n in range(2)] == ["", ""]
    page = browser.send(address, page, **{"remove#": "shelves[0]"})
    page = browser.send(address, page, **{"auth#kind": "auth:person", "auth:person.user": "me"})
    # the first shelf and the key are not there any more; what is left has to be typed again
    assert set(page.wrong) == {"password", "shelves[1].secret"}
    browser.send(address, page, password="right", **{"shelves[1].secret": "new"})
    assert stage.config(back) == {
        "password": "right", "auth": {"kind": "person", "user": "me"}, "shelves": [{"name": "name1", "secret": "new"}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("back", "source"),
    [("http://[::1]:8123/back", "http:"), ("http://localhost:8123/back", "http://localhost:8123")],
    ids=["ipv6", "name"],
)
def test_a_form_may_lead_back_to_a_program_on_this_machine(stage: BridgeStage, back: str, source: str) -> None:
    address = stage.create(redirect_uri=back)
    policy = form(stage, address)[1].headers["content-security-policy"]
    # a browser leaves out what is no source for it, and would then not follow the way back
    assert f"form-action 'self' {source};" in policy


@pytest.mark.parametrize(
    ("integration", "settings"),
    [
        ("salesforce", {"objects": [{"env": "HOME"}]}),
        ("http_api", {"headers": {"X": {"file": "/etc/hostname"}}}),
        ("postgres", {"host": {"env": "HOME"}}),
    ],
    ids=["in-a-list", "in-a-map", "itself"],
)
def test_an_application_has_nothing_of_the_servers_opened(
    stage: BridgeStage, integration: str, settings: dict[str, Any]
) -> None:
    # the source, or what is said about a wrong setting, would tell what is there
    assert "is for the person" in stage.refused(integration_id=integration, settings=settings)
