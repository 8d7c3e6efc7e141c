"""How we sign in to Salesforce: three grants, one instance, tokens that end and tokens that are replaced."""

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import SecretStr

from elt_dagster.control.configured import open_connector
from elt_dagster.control.connections import StoreConnections
from elt_dagster.control.oauth import consent_of
from elt_dagster.errors import AuthError, ConfigError
from elt_dagster.model import ConnectionSpec, ReadRequest
from elt_dagster.registry import load_connector
from elt_dagster.sdk import Connector, Runtime
from elt_dagster.store import OAuthClient, open_store
from tests.contract.salesforce_org import HOST, REFRESH, SECRET, SETTINGS, Org

Salesforce = load_connector("salesforce")


class Kept:
    """A vault in memory."""

    def __init__(self, token: str) -> None:
        self.secrets = {"refresh_token": token}

    @contextmanager
    def exclusive(self) -> Iterator["Kept"]:
        yield self

    def current(self, setting: str) -> SecretStr | None:
        return SecretStr(self.secrets[setting])

    def keep(self, setting: str, secret: SecretStr) -> None:
        self.secrets[setting] = secret.get_secret_value()


def made(org: Org, vault: Kept | None = None, **settings: Any) -> Connector[Any]:
    runtime = Runtime(transport=httpx.MockTransport(org), sleep=lambda _: None, environ={}, vault=vault)
    return Salesforce.configured(settings or SETTINGS, runtime)


def form(org: Org) -> dict[str, str]:
    """The first token request."""
    request = next(r for r in org.requests if r.url.path == "/services/oauth2/token")
    return {k: v[0] for k, v in parse_qs(request.content.decode()).items()}


def hosts(org: Org) -> list[str]:
    return [r.url.host for r in org.requests]


@pytest.mark.parametrize(
    ("settings", "host"),
    [
        ({}, "login.salesforce.com"),
        ({"is_sandbox": True}, "test.salesforce.com"),
        ({"domain": "acme.my.salesforce.com"}, "acme.my.salesforce.com"),
        ({"login_url": "https://proxy.acme.example:8443"}, "proxy.acme.example"),
    ],
    ids=["production", "sandbox", "My Domain", "a proxy"],
)
def test_tokens_come_from_the_login_host_and_rows_from_the_instance(settings: dict[str, Any], host: str) -> None:
    org = Org()
    org.instance = "https://eu42.salesforce.com/"
    assert made(org, client_id="app", client_secret=SECRET, refresh_token=REFRESH, **settings).check().ok
    assert hosts(org) == [host, "eu42.salesforce.com"]
    assert form(org) == {
        "grant_type": "refresh_token",
        "refresh_token": REFRESH,
        "client_id": "app",
        "client_secret": SECRET,
    }


@pytest.mark.parametrize(
    "instance", ["http://acme.my.salesforce.com", "ftp://x", "https://a@b", "", "https://acme.example/path?x"]
)
def test_an_instance_that_is_no_safe_address_is_refused(instance: str) -> None:
    org = Org()
    org.instance = instance
    found = made(org).check()
    assert not found.ok
    assert "domain or login_url" in found.message
    assert len(org.requests) == 1


def test_client_credentials_need_the_orgs_own_domain() -> None:
    settings: dict[str, Any] = {"auth_type": "client_credentials", "client_id": "app", "client_secret": SECRET}
    with pytest.raises(ConfigError, match="domain"):
        made(Org(), **settings)
    org = Org()
    assert made(org, **settings, domain="acme.my.salesforce.com").check().ok
    assert form(org) == {"grant_type": "client_credentials", "client_id": "app", "client_secret": SECRET}


def test_a_wrong_client_is_named_as_such() -> None:
    found = made(
        Org(),
        auth_type="client_credentials",
        client_id="app",
        client_secret="WRONG-SECRET",
        domain="acme.my.salesforce.com",
    ).check()
    assert not found.ok
    assert "invalid_client" in found.message
    assert "WRONG-SECRET" not in found.message


@pytest.mark.parametrize(
    ("sandbox", "audience"), [(False, "https://login.salesforce.com"), (True, "https://test.salesforce.com")]
)
def test_a_private_key_signs_for_a_user(sandbox: bool, audience: str) -> None:
    pem = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()  # fmt: skip
    org = Org()
    assert (
        made(org, auth_type="jwt", client_id="app", private_key=pem, username="etl@acme.example", is_sandbox=sandbox)
        .check()
        .ok
    )
    sent = form(org)
    assert sent["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    said = json.loads(base64.urlsafe_b64decode(sent["assertion"].split(".")[1] + "=="))
    assert (said["iss"], said["sub"], said["aud"]) == ("app", "etl@acme.example", audience)
    assert said["exp"] - said["iat"] <= 180


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({}, "refresh_token"),
        ({"auth_type": "client_credentials"}, "client_secret"),
        ({"auth_type": "jwt", "private_key": "x"}, "username"),
        ({"auth_type": "password"}, "auth_type"),
    ],
)
def test_what_a_grant_needs_is_asked_for(settings: dict[str, Any], missing: str) -> None:
    with pytest.raises(ConfigError, match=missing):
        made(Org(), client_id="app", **settings)


def test_a_session_that_ends_while_rows_are_read_is_renewed() -> None:
    org = Org()
    connector = made(org)
    stream = connector.discover()["Account"]
    batches = iter(connector.read(ReadRequest(stream=stream, cursor_field=stream.cursor_field)))
    found = next(batches).data.num_rows
    org.access.clear()
    found += sum(b.data.num_rows for b in batches)
    assert found == 30
    assert org.tokens == 2


def test_a_refresh_token_that_is_replaced_is_kept_and_every_stream_goes_on() -> None:
    org, vault = Org(), Kept(REFRESH)
    org.rotates = True
    streams = made(org, vault).discover()
    for name in ("Account", "AccountHistory"):
        org.access.clear()
        stream = streams[name]
        # a new connector with the settings of old, as a step opens it
        assert list(made(org, vault).read(ReadRequest(stream=stream, cursor_field=stream.cursor_field)))
    assert len(org.spent) == len(set(org.spent)) == 3
    assert vault.secrets["refresh_token"] == org.refresh_token
    assert not org.revoked


def test_a_stored_connection_is_read_from_all_sides_and_keeps_the_refresh_token_that_is_good(tmp_path: Path) -> None:
    org = Org()
    org.rotates = True
    settings = {**SETTINGS, "refresh_token": "refresh-SECRET-stored"}
    org.refresh_token = settings["refresh_token"]
    runtime = Runtime(transport=httpx.MockTransport(org), sleep=lambda _: None, environ={})
    store = open_store(f"sqlite:///{tmp_path}/store.sqlite")
    store.init()
    with store.transaction() as transaction:
        secrets = frozenset({"refresh_token", "client_secret"})
        transaction.put_connection(ConnectionSpec(name="crm", connector="salesforce", config=settings), secrets)
    connections = StoreConnections(store)

    def read(name: str) -> int:
        stream = streams[name]
        request = ReadRequest(stream=stream, cursor_field=stream.cursor_field)
        return sum(b.data.num_rows for b in open_connector(connections, "crm", runtime).read(request))

    streams = open_connector(connections, "crm", runtime).discover()
    org.access.clear()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(read, ["Account", "AccountHistory", "Attachment", "ContentDocument"]))
    assert found == [30, 12, 5, 21]
    assert len(org.spent) == len(set(org.spent)) == 2, "one for discovery, one for all who read"
    assert store.open_config(store.connection("crm"))["refresh_token"] == org.refresh_token
    assert not org.revoked
    store.close()


def test_a_withdrawn_permission_asks_for_a_new_one() -> None:
    org = Org()
    org.revoked = True
    connector = made(org)
    with pytest.raises(AuthError, match="authorise the connection again"):
        connector.discover()


@pytest.mark.parametrize(
    ("settings", "host"),
    [
        ({}, "https://login.salesforce.com"),
        ({"is_sandbox": True}, "https://test.salesforce.com"),
        ({"domain": "acme.my.salesforce.com"}, HOST),
        ({"login_url": "http://127.0.0.1:9/"}, "http://127.0.0.1:9"),
    ],
)
def test_consent_is_asked_for_where_tokens_come_from(settings: dict[str, Any], host: str) -> None:
    found = Salesforce.consent(settings)
    assert found is not None
    assert found.authorize_url == f"{host}/services/oauth2/authorize"
    assert found.token_url == f"{host}/services/oauth2/token"
    assert found.scopes == ("api", "refresh_token", "offline_access")
    assert found.keep == {"refresh_token": "refresh_token"}
    assert found.settings == {"auth_type": "refresh_token"}


def test_the_clients_secret_goes_to_salesforce_and_to_nobody_else() -> None:
    client = OAuthClient("salesforce", "app", SECRET, {})
    for domain in ("acme.my.salesforce.com", "acme--uat.sandbox.my.salesforce.com"):
        assert domain in consent_of(Salesforce, client, {"domain": domain}).token_url
    for settings in (
        {"domain": "evil.example"},
        {"login_url": "https://evil.example"},
        {"domain": "x.my.salesforce.com@evil.example"},
    ):
        with pytest.raises(ConfigError):
            consent_of(Salesforce, client, settings)
