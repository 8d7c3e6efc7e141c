"""OAuth over a connection bridge against a vendor that believes nothing, and against answers of every wrong kind."""

import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
import pytest

from elt_dagster import registry
from elt_dagster.control import oauth
from elt_dagster.store import OAuthClient, open_store
from tests.unit.bridge_stage import BACK, CANARY, BridgeStage, Browser, Page, told
from tests.unit.test_api_bridges import _expire

SETTINGS = {"region": "eu"}
CALLBACK = "/connection_bridges/callback"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeStage]:
    store = open_store(f"sqlite:///{tmp_path_factory.mktemp('oauth')}/store.sqlite")
    store.init()
    known = registry._connector_modules
    with pytest.MonkeyPatch.context() as patch:
        mine = {"consented": "tests.dagster_connectors.consented"}
        patch.setattr(registry, "_connector_modules", lambda: {**known(), **mine})
        yield BridgeStage(store)


@pytest.fixture
def stage(whole: BridgeStage) -> BridgeStage:
    """With a client of the workspace's own, and a vendor in a good mood."""
    workspace = whole.store.workspaces()[0].id
    whole.store.bridges.put_oauth_client(workspace, OAuthClient("consented", "our-id", CANARY, {}))
    whole.vendor.instead, whole.vendor.refuses = None, False
    whole.vendor.asked.clear()
    return whole


def consented(stage: BridgeStage, browser: Browser, address: str, **more: str) -> str:
    """The callback of a person who agreed."""
    return f"{CALLBACK}?{stage.vendor.consent(browser.led(address), **more)}"


def bridge(stage: BridgeStage, **more: Any) -> str:
    return stage.create("consented", **{"settings": SETTINGS, **more})


# --- the way there and back --------------------------------------------------------------------------------------------------


def test_a_person_consents_and_comes_back_with_a_connection_that_works(stage: BridgeStage) -> None:
    browser, address = stage.browser(), bridge(stage, state="theirs")
    out = browser.led(address)
    asked = parse_qs(urlsplit(out).query)
    assert out.startswith("https://vendor.example/auth?")
    assert asked["client_id"] == ["our-id"]
    assert asked["redirect_uri"] == [f"{stage.base_url}{CALLBACK}"]
    assert asked["scope"] == ["openid offline_access"]
    assert CANARY not in out
    back = browser.led(f"{CALLBACK}?{stage.vendor.consent(out)}")
    assert set(told(back)) == {"connection_id", "state"}
    config = stage.config(back)
    # the check has used the first refresh token up
    assert config.pop("refresh_token") in stage.vendor.refresh_tokens
    assert config == {"region": "eu", "client_id": "our-id", "client_secret": CANARY}
    assert stage.store.connection_by_id(told(back)["connection_id"]).label == "My <account>"
    browser.page(address, 410)


def test_what_the_vendors_page_has_to_know_is_asked_first(stage: BridgeStage) -> None:
    browser, address = stage.browser(), stage.create("consented")
    page = browser.page(address)
    assert set(page.inputs) == {"csrf#", "region"}
    assert "form-action 'self' https: https://app.example;" in page.headers["content-security-policy"]
    out = browser.send(address, page, region="us")
    assert isinstance(out, str)
    back = browser.led(f"{CALLBACK}?{stage.vendor.consent(out)}")
    assert stage.config(back)["region"] == "us"


def test_a_client_of_the_environment_serves_all_workspaces(stage: BridgeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = stage.store.workspaces()[0].id
    assert stage.store.bridges.delete_oauth_client(workspace, "consented")
    page = stage.browser().page(bridge(stage))
    assert {"client_id", "refresh_token"} <= set(page.inputs)  # nobody's client: the form
    monkeypatch.setenv("ELT_DAGSTER_OAUTH_CONSENTED_CLIENT_ID", "our-id")
    monkeypatch.setenv("ELT_DAGSTER_OAUTH_CONSENTED_CLIENT_SECRET", CANARY)
    browser = stage.browser()
    assert "connection_id" in told(browser.led(consented(stage, browser, bridge(stage))))


def test_an_account_is_authorised_anew_under_its_old_id(stage: BridgeStage) -> None:
    browser = stage.browser()
    first = browser.led(consented(stage, browser, bridge(stage, settings={"region": "us"})))
    made = told(first)["connection_id"]
    address = stage.create("consented", connection_id=made)
    old = stage.config(first)["refresh_token"]
    again = browser.led(consented(stage, browser, address))
    assert told(again)["connection_id"] == made
    config = stage.config(again)
    assert (config["region"], config["refresh_token"] != old) == ("us", True)


def test_a_person_who_says_no_is_sent_back_and_may_think_again(stage: BridgeStage) -> None:
    browser, address = stage.browser(), bridge(stage, state="s")
    state = dict(parse_qsl(urlsplit(browser.led(address)).query))["state"]
    back = browser.led(f"{CALLBACK}?error=access_denied&error_description=No%20way%0A&state={state}")
    assert told(back) == {"error": "access_denied", "error_description": "No way", "state": "s"}
    assert stage.vendor.asked == []
    assert "connection_id" in told(browser.led(consented(stage, browser, address)))


def test_an_account_that_does_not_work_makes_no_connection(stage: BridgeStage) -> None:
    browser, before = stage.browser(), len(stage.store.connections())
    stage.vendor.refuses = True
    back = told(browser.led(consented(stage, browser, bridge(stage))))
    assert back["error"] == "auth_failed"
    assert "403" in back["error_description"]
    assert len(stage.store.connections()) == before


# --- attacks -----------------------------------------------------------------------------------------------------------------


def test_a_state_and_its_code_are_good_for_one_answer(stage: BridgeStage) -> None:
    browser, address = stage.browser(), bridge(stage)
    answer = consented(stage, browser, address)
    found: list[Any] = []
    together = [threading.Thread(target=lambda: found.append(browser.open(answer))) for _ in range(3)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    assert len([f for f in found if isinstance(f, str)]) == 1
    exchanged = [r for r in stage.vendor.asked if b"authorization_code" in r.content]
    assert len(exchanged) == 1
    assert {f.status for f in found if isinstance(f, Page)} <= {400, 410}
    assert browser.page(answer, 400)


def test_an_answer_for_another_browser_does_nothing(stage: BridgeStage) -> None:
    victim, attacker, address = stage.browser(), stage.browser(), bridge(stage)
    answer = consented(stage, attacker, address)
    assert "another browser" in victim.page(answer, 400).text
    assert stage.vendor.asked == []
    assert "connection_id" in told(attacker.led(answer))


def test_a_later_round_ends_an_earlier_one(stage: BridgeStage) -> None:
    browser, address = stage.browser(), bridge(stage)
    first = consented(stage, browser, address)
    second = consented(stage, browser, address)
    browser.page(first, 400)
    assert "connection_id" in told(browser.led(second))


def test_a_code_of_one_round_is_of_no_use_in_another(stage: BridgeStage) -> None:
    browser = stage.browser()
    stolen = parse_qs(urlsplit(consented(stage, browser, bridge(stage))).query)["code"][0]
    state = parse_qs(urlsplit(browser.led(bridge(stage))).query)["state"][0]
    back = told(browser.led(f"{CALLBACK}?code={stolen}&state={state}"))
    assert back["error"] == "invalid_grant"


def test_a_bridge_that_expires_meanwhile_or_a_state_of_nobody_leads_nowhere(stage: BridgeStage) -> None:
    browser, address = stage.browser(), bridge(stage)
    answer = consented(stage, browser, address)
    _expire(stage.store, address)
    browser.page(answer, 410)
    for wrong in (
        "",
        "?state=",
        "?state=x&code=y",
        "?code=y",
        f"?state={'x' * 600}",
        "?state=a&state=b&code=c",
        "?state=%00",
    ):
        browser.page(f"{CALLBACK}{wrong}", 400)
    assert stage.vendor.asked == []


def test_an_answer_of_another_server_is_refused_before_its_code_is_sent_anywhere(stage: BridgeStage) -> None:
    browser = stage.browser()
    browser.page(consented(stage, browser, bridge(stage), iss="https://evil.example"), 400)
    assert stage.vendor.asked == []
    assert "connection_id" in told(browser.led(consented(stage, browser, bridge(stage), iss="https://vendor.example")))


def test_our_clients_secret_is_sent_to_no_host_that_a_person_chooses(stage: BridgeStage) -> None:
    for issuer in (
        "https://evil.example",
        "http://eu.vendor.example",
        "https://eu.vendor.example:444",
        "https://vendor.example.evil.example",
    ):
        browser = stage.browser()
        browser.page(bridge(stage, settings={"issuer": issuer, **SETTINGS}), 400)
    out = stage.browser().led(bridge(stage, settings={"issuer": "https://eu.vendor.example", **SETTINGS}))
    assert out.startswith("https://eu.vendor.example/auth?")
    assert stage.vendor.asked == []


def test_the_settings_of_the_client_lead_where_whoever_runs_the_server_wants(stage: BridgeStage) -> None:
    workspace = stage.store.workspaces()[0].id
    own = OAuthClient("consented", "our-id", CANARY, {"issuer": "http://127.0.0.1:1234"})
    stage.store.bridges.put_oauth_client(workspace, own)
    browser = stage.browser()
    answer = consented(stage, browser, stage.create("consented"))
    assert stage.config(browser.led(answer))["issuer"] == "http://127.0.0.1:1234"


def test_salesforce_asks_for_sandbox_and_domain_and_goes_to_hosts_of_salesforce_only(stage: BridgeStage) -> None:
    workspace = stage.store.workspaces()[0].id
    stage.store.bridges.put_oauth_client(workspace, OAuthClient("salesforce", "our-id", CANARY, {}))
    sandbox = stage.browser().led(stage.create("salesforce", settings={"is_sandbox": True}))
    assert sandbox.startswith(
        "https://test.salesforce.com/services/oauth2/authorize?response_type=code&client_id=our-id&"
    )
    address, browser = stage.create("salesforce"), stage.browser()
    page = browser.page(address)
    assert set(page.inputs) == {"csrf#", "is_sandbox", "is_sandbox#shown", "domain"}
    for host in ("evil.example", "evil.example.my.salesforce.com.evil.example", "my.salesforce.com.evil"):
        refused = browser.send(address, page, domain=host)
        assert isinstance(refused, Page)
        assert (refused.status, f"{host} is no address of Salesforce" in refused.text) == (422, True)
    out = browser.send(address, page, domain="acme.my.salesforce.com")
    assert str(out).startswith("https://acme.my.salesforce.com/services/oauth2/authorize?")


ANSWERS: dict[str, tuple[httpx.Response | Exception, str]] = {
    "no JSON": (httpx.Response(200, text=f"<html>{CANARY}"), "source_error"),
    "a list": (httpx.Response(200, json=[CANARY]), "source_error"),
    "deep JSON": (httpx.Response(200, text="[" * 100_000), "source_error"),
    "nothing": (httpx.Response(204), "source_error"),
    "no refresh token": (httpx.Response(200, json={"access_token": CANARY}), "source_error"),
    "a number for a token": (httpx.Response(200, json={"refresh_token": 5}), "source_error"),
    "an endless token": (httpx.Response(200, json={"refresh_token": "x" * 40_000}), "source_error"),
    "a token with a line end": (httpx.Response(200, json={"refresh_token": "a\r\nb"}), "source_error"),
    "an enormous answer": (httpx.Response(200, content=b" " * 1_500_000), "source_error"),
    "a redirect": (httpx.Response(302, headers={"Location": f"https://evil.example/?{CANARY}"}), "source_error"),
    "a refusal": (httpx.Response(400, json={"error": "invalid_grant", "error_description": CANARY}), "invalid_grant"),
    "a refusal with status 200": (
        httpx.Response(200, json={"error": "bad_verification_code"}),
        "bad_verification_code",
    ),
    "an odd refusal": (httpx.Response(400, json={"error": f"\r\n{CANARY}"}), "access_denied"),
    "trouble": (httpx.Response(503, text=CANARY), "source_unavailable"),
    "too many requests": (httpx.Response(429), "rate_limited"),
    "no connection": (httpx.ConnectError(CANARY), "source_unavailable"),
    "silence": (httpx.ReadTimeout(CANARY), "source_unavailable"),
    "half an answer": (httpx.RemoteProtocolError(CANARY), "source_unavailable"),
    "broken compression": (httpx.DecodingError(CANARY), "source_unavailable"),
}


@pytest.mark.parametrize("kind", list(ANSWERS))
def test_whatever_the_token_endpoint_answers_the_application_hears_why(stage: BridgeStage, kind: str) -> None:
    browser, before = stage.browser(), len(stage.store.connections())
    stage.vendor.instead, error = ANSWERS[kind]
    back = browser.led(consented(stage, browser, bridge(stage)))
    assert told(back)["error"] == error
    assert len(stage.store.connections()) == before
    assert [r.url.host for r in stage.vendor.asked] == ["vendor.example"]


def test_an_answer_that_only_drips_is_not_waited_for(stage: BridgeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    class Drip(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            for _ in range(100):
                yield b" "

    monkeypatch.setattr(oauth, "PATIENCE_SECONDS", -1.0)
    browser = stage.browser()
    stage.vendor.instead = httpx.Response(200, stream=Drip())
    assert told(browser.led(consented(stage, browser, bridge(stage))))["error"] == "source_unavailable"


def test_nothing_of_a_round_is_kept_in_the_clear(stage: BridgeStage) -> None:
    browser, address = stage.browser(), bridge(stage)
    answer = consented(stage, browser, address)
    query = parse_qs(urlsplit(answer).query)
    with stage.store._database.read() as conn:
        kept = str(conn.exec_driver_sql("SELECT * FROM elt_bridges").all()) + str(
            conn.exec_driver_sql("SELECT * FROM elt_oauth_clients").all()
        )
    cookie = browser.client.cookies["elt_bridge"]
    assert not any(secret in kept for secret in (CANARY, query["state"][0], cookie, address.rpartition("=")[2]))
    assert BACK in kept
