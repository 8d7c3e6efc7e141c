"""A stage for tests of connection bridges: a source with every kind of setting, a strict vendor, browsers with cookies of their own."""

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
from fastapi.testclient import TestClient
from pydantic import BaseModel, Field, SecretStr

from elt_dagster.api.app import create_app
from elt_dagster.api.services import Services
from elt_dagster.errors import ConfigError
from elt_dagster.model import Catalog, CheckResult
from elt_dagster.sdk.connector import Config, Connector, Runtime
from elt_dagster.store import Store
from tests.unit.connect_stage import MemoryRuns

CANARY = "canary-8c1f2"
BACK = "https://app.example/back"


class Key(Config):
    """A fixed key."""

    kind: Literal["key"]
    """A key."""
    key: SecretStr
    """The key."""


class Person(Config):
    """A person's name."""

    kind: Literal["person"]
    """A person."""
    user: str
    """Who."""
    level: int = Field(default=1, ge=1, le=9)
    """How far in."""


class Shelf(Config):
    """One of several."""

    name: str = Field(min_length=1)
    """What it is called."""
    tags: tuple[str, ...] = ()
    """What is on it."""
    secret: SecretStr | None = None
    """What opens it."""


class Limits(BaseModel):
    """How much."""

    rows: int | None = Field(default=None, ge=1)
    """How many rows."""


class FormedConfig(Config):
    """Every kind of setting."""

    host: str = Field(default="here", pattern=r"^[a-z.]+$")
    """Where it is."""
    port: int = Field(default=80, ge=1, le=65535)
    """Its port."""
    password: SecretStr
    """What opens it; `right` does."""
    share: float = 0.5
    """A part of it."""
    mode: Literal["fast", "slow"] = "fast"
    """How it works."""
    safe: bool = True
    """Whether it is safe."""
    loud: bool | None = None
    """Whether it is loud."""
    names: tuple[str, ...] = ()
    """Some names."""
    headers: dict[str, str] = {}
    """Some headers."""
    anything: dict[str, Any] = {}
    """Whatever else."""
    pem_private_key: SecretStr | None = None
    """A key of several lines."""
    prefix: str = "Bearer "
    """Text in front."""
    auth: Annotated[Key | Person, Field(discriminator="kind")] | None = None
    """Who we are."""
    limits: Limits = Limits()
    """How much of it."""
    shelves: tuple[Shelf, ...] = ()
    """Several of them."""


class Formed(Connector[FormedConfig]):
    """A source for tests."""

    name: ClassVar[str] = "formed"
    title: ClassVar[str] = "Formed <b>"
    docs_url: ClassVar[str] = "https://example.com/formed"
    checked: ClassVar[list[FormedConfig]] = []

    def check(self) -> CheckResult:
        Formed.checked.append(self.config)
        if self.config.host == "broken":
            raise KeyError(CANARY)
        if self.config.host == "odd":
            raise ConfigError("The host is odd.", fix="Take another.")
        right = self.config.password.get_secret_value() == "right"
        return CheckResult(right, "Welcome." if right else "Formed refused the password.")

    def discover(self, settings: Mapping[str, Any] | None = None) -> Catalog:
        return Catalog(())

    def read(self, request: Any) -> Any:
        raise NotImplementedError


connector = Formed


@dataclass
class Vendor:
    """An authorization server that believes nothing: codes and refresh tokens are good for one use, PKCE has to fit."""

    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    refresh_tokens: set[str] = field(default_factory=set)
    asked: list[httpx.Request] = field(default_factory=list)
    instead: httpx.Response | Exception | None = None
    """What the token endpoint does instead."""
    refuses: bool = False
    """Whether the account says no to everybody."""

    def consent(self, address: str, **more: str) -> str:
        """What the consent page does with a person who agrees: the query that goes back."""
        asked = dict(parse_qsl(urlsplit(address).query, strict_parsing=True))
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(8)
        self.codes[code] = asked
        return str(httpx.QueryParams({"code": code, "state": asked["state"], **more}))

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if request.url.path == "/me":
            return httpx.Response(403 if self.refuses else 200, json={"name": "somebody"})
        assert request.url.path == "/token", request.url
        if isinstance(self.instead, Exception):
            raise self.instead
        return self.instead or self._token(dict(parse_qsl(request.content.decode())), request.headers["Authorization"])

    def _token(self, form: dict[str, str], authorization: str) -> httpx.Response:
        if base64.b64decode(authorization.removeprefix("Basic ")).decode() != f"our-id:{CANARY}":
            return httpx.Response(401, json={"error": "invalid_client"})
        if form["grant_type"] == "authorization_code":
            asked = self.codes.pop(form["code"], None)
            digest = hashlib.sha256(form["code_verifier"].encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
            fits = asked and asked["code_challenge"] == challenge and asked["redirect_uri"] == form["redirect_uri"]
        else:
            fits = form["refresh_token"] in self.refresh_tokens
            self.refresh_tokens.discard(form["refresh_token"])
        if not fits:
            return httpx.Response(400, json={"error": "invalid_grant", "error_description": CANARY})
        new = f"refresh-{secrets.token_urlsafe(8)}"
        self.refresh_tokens.add(new)
        return httpx.Response(200, json={"access_token": "access", "expires_in": 60, "refresh_token": new})


class Page(HTMLParser):
    """What a browser makes of a page: its form as it would be sent, its texts, what is wrong with which field."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.status, self.text, self.headers = answer.status_code, answer.text, answer.headers
        self.data: dict[str, str] = {}
        self.inputs: dict[str, dict[str, str | None]] = {}
        self.labels: set[str] = set()
        self.wrong: dict[str, str] = {}
        self._template = self._writing = 0
        self._select = self._area = self._error = ""
        self.feed(answer.text)
        self.close()

    def handle_starttag(self, tag: str, attrs: "list[tuple[str, str | None]]") -> None:
        its = dict(attrs)
        self._template += tag == "template"
        if self._template:
            return
        name = its.get("name") or ""
        if tag in ("input", "select", "textarea"):
            self.inputs[name] = its
        if tag == "label":
            self.labels.add(its["for"] or "")
        if tag == "input" and (its.get("type") != "checkbox" or "checked" in its):
            self.data[name] = its.get("value") or ""
        if tag == "select":
            self._select = name
        if tag == "option" and ("selected" in its or self._select not in self.data):
            self.data[self._select] = its.get("value") or ""
        if tag == "textarea":
            self._area, self.data[name] = name, ""
        if tag == "p" and its.get("class") == "error":
            self._error = (its["id"] or "").removeprefix("f-").removesuffix("-error")

    def handle_endtag(self, tag: str) -> None:
        self._template -= tag == "template"
        if tag in ("textarea", "p"):
            self._area = self._error = ""

    def handle_data(self, data: str) -> None:
        if self._area:
            self.data[self._area] += data.removeprefix("\n")
        elif self._error and data:
            self.wrong[self._error] = data


@dataclass
class Browser:
    """One browser; cookies are its own."""

    client: TestClient

    def open(self, address: str) -> Page | str:
        """A page, or where it leads."""
        return self._seen(self.client.get(_path(address), follow_redirects=False))

    def page(self, address: str, status: int = 200) -> Page:
        """A page with that status."""
        found = self.open(address)
        assert isinstance(found, Page), found
        assert found.status == status, found.text
        return found

    def led(self, address: str) -> str:
        """Where an address leads."""
        found = self.open(address)
        assert isinstance(found, str), found.text
        return found

    def send(self, address: str, page: Page, **changes: str | None) -> Page | str:
        """The form of a page with some fields filled in otherwise; None leaves one out."""
        data = {k: v for k, v in {**page.data, **changes}.items() if v is not None}
        return self._seen(self.client.post(_path(address), data=data, follow_redirects=False))

    def _seen(self, answer: httpx.Response) -> Page | str:
        assert CANARY not in answer.text + str(answer.headers)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        return answer.headers["location"] if answer.status_code == 302 else Page(answer)


def _path(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.path}?{parts.query}"


@dataclass
class BridgeStage:
    """A server with one key, and the vendor that its connectors meet."""

    store: Store
    base_url: str = "http://127.0.0.1:8000"
    vendor: Vendor = field(default_factory=Vendor)

    def __post_init__(self) -> None:
        runtime = Runtime(transport=httpx.MockTransport(self.vendor))
        runs: Any = MemoryRuns()
        self.app = create_app(Services(store=self.store, runs=runs, base_url=self.base_url, runtime=runtime))
        _, self.key = self.store.api_keys.create()
        self.api = TestClient(self.app, headers={"x-api-key": self.key})

    def browser(self) -> Browser:
        """A new one."""
        return Browser(TestClient(self.app, base_url=self.base_url))

    def create(self, integration: str = "formed", **more: Any) -> str:
        """The address of a new bridge."""
        body = {"integration_id": integration, "label": "My <account>", "redirect_uri": BACK, **more}
        answer = self.api.post("/connection_bridges", json=body)
        assert answer.status_code == 201, answer.text
        address: str = answer.json()["authorize_url"]
        return address

    def refused(self, status: int = 400, **body: Any) -> str:
        """What is said about a request that makes no bridge."""
        answer = self.api.post(
            "/connection_bridges", json={"integration_id": "formed", "label": "x", "redirect_uri": BACK, **body}
        )
        assert answer.status_code == status, answer.text
        text: str = answer.json()["message"]
        return text

    def config(self, address: str) -> dict[str, Any]:
        """The opened settings of the connection that a browser was sent back with."""
        return self.store.open_config(self.store.connection_by_id(told(address)["connection_id"]))


def told(address: str) -> dict[str, str]:
    """What the application is told."""
    assert address.startswith(f"{BACK}?"), address
    return {name: values[0] for name, values in parse_qs(urlsplit(address).query, strict_parsing=True).items()}


def as_json(value: Any) -> Any:
    """Tuples as lists."""
    return json.loads(json.dumps(value))
