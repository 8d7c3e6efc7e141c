"""A person crosses connection bridges in a real browser: consent at a real OpenID provider, a form filled in by keyboard; then a sync runs.

``ELT_DAGSTER_SCREENSHOTS`` names a folder for pictures of the pages; those of the documentation (``docs/images``) are made so. A Dagster UI is started
for them alone, and ends with the test.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dagster as dg
import duckdb
import httpx
import pytest

from elt_dagster.store import OAuthClient, Store
from tests import servers
from tests.browser import DESKTOP, PHONE, Tab, chromium
from tests.integration.dagster_project import CONNECTORS, REPOSITORY, ShopProject
from tests.oidc_server import CLIENT_ID, CLIENT_SECRET, free_port, oidc_server

PICTURES = os.environ.get("ELT_DAGSTER_SCREENSHOTS")
CANARY = "canary-typed-2b7e"
SMALL = (760, 460)
WIDE = (1120, 640)
TALL = (1280, 1000)


class _Application(BaseHTTPRequestHandler):
    """Where people come back to."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        told = parse_qs(urlsplit(self.path).query)
        lines = "".join(f"<p><code>{escape(name)}={escape(values[0])}</code></p>" for name, values in told.items())
        page = f"<title>app</title><body style='font: 1rem system-ui; margin: 3rem'><h1>Your application</h1><p>Welcome back.</p>{lines}"
        self.wfile.write(page.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@dataclass
class Site:
    """A server, an application that asks it for connections, and a browser."""

    project: ShopProject
    api: httpx.Client
    tab: Tab
    back: str
    log: Path

    @property
    def store(self) -> Store:
        """The server's."""
        return self.project.store

    def bridge(self, integration: str, **more: Any) -> str:
        """The address of a new bridge."""
        body = {
            "integration_id": integration,
            "label": "Shop account",
            "redirect_uri": self.back,
            "state": "theirs",
            **more,
        }
        answer = self.api.post("/connection_bridges", json=body)
        assert answer.status_code == 201, answer.text
        address: str = answer.json()["authorize_url"]
        return address

    def returned(self) -> dict[str, str]:
        """What the application is told, once the person is there."""
        address = self.tab.arrive(self.back)
        return {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of a success."""
        answer = self.api.request(method, path, json=body)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def picture(self, name: str) -> None:
        """Keep what the browser shows, if anybody wants it."""
        if PICTURES:
            self.tab.screenshot(Path(PICTURES) / f"{name}.png")

    def story(self, run: str, asset: str) -> None:
        """Pictures of what Dagster's own pages show of a run and an asset, if anybody wants them."""
        if not PICTURES:
            return
        with webserver(self.project) as address:
            self.tab.open(address)
            skip = "[...document.querySelectorAll('button')].find((b) => b.innerText === 'Skip')"
            self.tab.wait(f"!!{skip}")
            self.tab.evaluate(f"{skip}.click()")
            for name, size, path, text in (
                ("flow-assets", WIDE, "asset-groups", asset),
                ("flow-asset", WIDE, f"assets/raw_consented/{asset}?view=overview", "Latest materialization"),
                ("flow-run", TALL, f"runs/{run}", "RUN_SUCCESS"),
            ):
                self.tab.resize(size)
                self.tab.open(f"{address}/{path}")
                self.tab.wait_for_text(text)
                time.sleep(2)  # for what is drawn after it is read
                self.picture(name)
        self.tab.resize(DESKTOP)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, base_url = tmp_path_factory.mktemp("site"), f"http://127.0.0.1:{free_port()}"
    application = ThreadingHTTPServer(("127.0.0.1", 0), _Application)
    threading.Thread(target=application.serve_forever, daemon=True).start()
    with (
        chromium(folder) as tab,
        oidc_server(f"{base_url}/connection_bridges/callback") as issuer,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("ELT_DAGSTER_CONNECTORS", str(CONNECTORS))
        project = ShopProject.make(folder)
        own = OAuthClient("consented", CLIENT_ID, CLIENT_SECRET, {"issuer": issuer})
        project.store.bridges.put_oauth_client(project.store.workspaces()[0].id, own)
        _, key = project.store.api_keys.create()
        with (
            serving(project, base_url) as log,
            httpx.Client(base_url=base_url, headers={"x-api-key": key}, trust_env=False, timeout=60) as api,
        ):
            yield Site(project, api, tab, f"http://127.0.0.1:{application.server_port}/back", log)
    application.shutdown()


class serving:  # noqa: N801 - reads as the statement it is
    """``elt-dagster serve`` as a process, over the Dagster of the project's folder."""

    def __init__(self, project: ShopProject, base_url: str) -> None:
        self.project, self.base_url = project, base_url
        self.log = project.folder / "serve.log"

    def __enter__(self) -> Path:
        folder = self.project.folder
        (folder / "definitions.py").write_text("import elt_dagster\ndefs = elt_dagster.build_definitions()\n")
        (folder / "workspace.yaml").write_text("load_from: [{python_file: definitions.py}]\n")
        port = str(urlsplit(self.base_url).port)
        command = [sys.executable, "-m", "elt_dagster.cli", "serve", "--port", port, "-w", "workspace.yaml"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environ_of(self.project), stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + 90
        while not _answers(f"{self.base_url}/healthz"):
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < end, self.log.read_text()[-3000:]
            time.sleep(0.2)
        return self.log

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
            self.process.wait()


def environ_of(project: ShopProject) -> dict[str, str]:
    """Of a process that works on the project."""
    return {
        **{k: v for k, v in os.environ.items() if k != "ELT_DAGSTER_WEBSERVER_URL"},
        "ELT_DAGSTER_STORE": project.url, "ELT_DAGSTER_CONNECTORS": str(CONNECTORS),
        "DAGSTER_HOME": str(project.folder / "home"), "DAGSTER_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(REPOSITORY),
    }  # fmt: skip


@contextmanager
def webserver(project: ShopProject) -> Iterator[str]:
    """The address of a Dagster UI over the project."""
    port = free_port()
    with (project.folder / "webserver.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dagster_webserver", "-w", "workspace.yaml", "-p", str(port)],
            cwd=project.folder, env=environ_of(project), stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        end = time.monotonic() + 90
        while not _answers(f"http://127.0.0.1:{port}/server_info"):
            assert time.monotonic() < end, (project.folder / "webserver.log").read_text()[-3000:]
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, trust_env=False).is_success
    except httpx.TransportError:
        return False


# --- consent -----------------------------------------------------------------------------------------------------------------


def log_in_and_consent(site: Site, story: str = "") -> None:
    """At the provider's own pages; who is logged in already only consents. ``story`` begins the names of pictures."""
    tab = site.tab
    if tab.wait("/Sign-in|Authorize/.exec(document.body.innerText)?.[0]") == "Sign-in":
        tab.tab_to("login")
        tab.write("somebody")
        tab.press("Tab")
        tab.write("any password")
        if story:
            site.picture(f"{story}-login")
        tab.press("Enter")
    tab.wait_for_text("Authorize")
    if story:
        site.picture(f"{story}-consent")
    tab.evaluate("document.querySelector('button[type=submit]').focus()")
    tab.press("Enter")


def test_from_a_bridge_by_consent_to_a_run_that_dagster_shows(site: Site) -> None:
    site.tab.resize(SMALL)
    site.tab.open(site.bridge("consented", settings={"region": "eu"}))
    log_in_and_consent(site, "flow")
    told = site.returned()
    site.tab.wait_for_text("Welcome back")
    site.picture("flow-return")
    site.tab.resize(DESKTOP)
    assert set(told) == {"connection_id", "state"}, told
    connection = told["connection_id"]
    schema = site.ask("GET", f"/connections/{connection}/settings")
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    body = {"connection_id": connection, "destination_schema_name": "raw_consented", "sync_interval": "0 6 * * *"}
    sync = site.ask("POST", "/elt_syncs", body)["id"]
    offered = site.ask("GET", f"/elt_syncs/{sync}/available_source_streams")["data"]
    assert {"public.orders", "public.customers"} <= {s["name"] for s in offered}
    chosen = {"source_streams": [{"name": "public.orders"}, {"name": "public.customers"}]}
    streams = site.ask("POST", f"/elt_syncs/{sync}/source_streams", chosen)["source_streams"]
    before = token_of(site, connection)
    site.ask("POST", f"/elt_syncs/{sync}/start")
    runs = [finished_run(site, stream["id"]) for stream in streams]
    assert [(run["status"], run["rows_synced"]) for run in runs] == [("COMPLETED", 3)] * 2, runs
    with duckdb.connect(str(site.project.file), read_only=True) as warehouse:
        counts = "SELECT count(*) FROM raw_consented.orders UNION ALL SELECT count(*) FROM raw_consented.customers"
        assert warehouse.sql(counts).fetchall() == [(3,), (3,)]
    with dg.DagsterInstance.from_config(str(site.project.folder / "home")) as instance:
        (shown,) = instance.get_runs(filters=dg.RunsFilter(tags={"elt/sync_id": sync}))
        assert shown.is_success
    site.story(shown.run_id, "orders")
    # the run has used the refresh token up, and kept the next one
    assert token_of(site, connection) != before


def token_of(site: Site, connection: str) -> str:
    """The refresh token that is kept now."""
    return str(site.store.open_config(site.store.connection_by_id(connection))["refresh_token"])


def finished_run(site: Site, stream: str) -> Any:
    """The run of the stream, once it has ended."""
    end = time.monotonic() + 120
    while True:
        runs = site.ask("GET", f"/elt_stream_runs?elt_stream_id={stream}")["data"]
        if runs and runs[0]["status"] in ("COMPLETED", "FAILED"):
            return runs[0]
        assert time.monotonic() < end, (runs, site.log.read_text()[-3000:])
        time.sleep(0.3)


def test_a_callback_that_is_opened_again_shows_a_page_and_nothing_else(site: Site) -> None:
    tab = site.tab
    tab.open(site.bridge("consented", settings={"region": "eu"}))
    log_in_and_consent(site)
    site.returned()
    history = tab.call("Page.getNavigationHistory")["entries"]
    assert not any("/connection_bridges/callback" in entry["url"] for entry in history)
    tab.open(f"{site.api.base_url}/connection_bridges/callback?state=old&code=old")
    tab.wait_for_text("This cannot go on")
    site.picture("bridge-error")


# --- a form ------------------------------------------------------------------------------------------------------------------


def test_the_form_of_postgres_is_filled_in_by_keyboard(site: Site, postgres_server: str) -> None:
    tab, parts = site.tab, urlsplit(postgres_server)
    tab.complaints.clear()
    tab.open(site.bridge("postgres"))
    tab.wait_for_text("Connect to PostgreSQL")
    site.picture("bridge-form")
    spoken = tab.spoken
    assert {name for name, required in spoken.items() if required} == {"Database", "User"}
    assert {"Host", "Port", "Password"} <= set(spoken), "the star is for eyes only"
    tab.press("Tab")
    assert tab.focus == "f-host"
    tab.write("127.0.0.1")
    tab.press("Tab")
    tab.write("99999")
    tab.press("Tab")
    tab.wait_for_text("At most 65535 is allowed.")
    assert tab.evaluate("document.getElementById('f-port').getAttribute('aria-invalid')") == "true"
    tab.press("Tab", shift=True)
    tab.write(str(parts.port))
    tab.press("Tab")
    assert tab.evaluate("document.getElementById('f-port-error').textContent") == ""
    tab.press("Enter")
    assert tab.focus == "f-database"  # the first field that is wrong
    tab.wait_for_text("This is needed.")
    site.picture("bridge-form-errors")
    tab.write(parts.path.removeprefix("/"))
    tab.tab_to("f-user")
    tab.write(str(parts.username))
    tab.tab_to("f-password")
    tab.write(CANARY)
    tab.press("Enter")
    tab.wait_for_text("That did not work")
    tab.wait_for_text("refused the role or its password")
    assert tab.focus == "alert"
    assert CANARY not in tab.evaluate("document.documentElement.outerHTML")
    assert tab.evaluate("document.getElementById('f-password').value") == ""
    site.picture("bridge-form-refused")
    tab.tab_to("f-password")
    tab.write(str(parts.password))
    tab.press("Enter")
    told = site.returned()
    assert set(told) == {"connection_id", "state"}
    assert site.store.connection_by_id(told["connection_id"]).label == "Shop account"
    assert tab.complaints == []


@pytest.mark.parametrize(("integration", "size", "dark"), [
    ("postgres", DESKTOP, False), ("postgres", PHONE, True), ("http_api", PHONE, False), ("files", DESKTOP, True),
], ids=["desktop", "phone-dark", "phone", "dark"])  # fmt: skip
def test_the_form_fits_phones_and_dark_rooms(site: Site, integration: str, size: tuple[int, int], dark: bool) -> None:
    tab = site.tab
    tab.resize(size)
    tab.dark(dark)
    try:
        tab.open(
            site.bridge(integration, label=f"{integration}-production", redirect_uri="https://yourapp.com/callback")
        )
        tab.wait_for_text("More settings")
        if integration == "http_api":
            tab.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        controls = "[...document.querySelectorAll('input:not([type=checkbox]), select, button:not(.hidden), textarea')]"
        assert tab.evaluate(f"{controls}.filter((e) => e.offsetParent && e.offsetHeight < 36).map((e) => e.id)") == []
        shade = tab.evaluate("getComputedStyle(document.querySelector('main')).backgroundColor")
        assert ("255, 255, 255" in shade) is not dark
        site.picture(f"bridge-{integration}-{'phone' if size == PHONE else 'desktop'}{'-dark' if dark else ''}")
    finally:
        tab.resize(DESKTOP)
        tab.dark(False)


def test_parts_of_a_union_and_items_appear_when_they_are_chosen(site: Site) -> None:
    tab = site.tab
    tab.complaints.clear()
    tab.open(site.bridge("http_api"))
    tab.wait_for_text("More settings")
    visible = "!!document.getElementById('f-auth:bearer.token')?.offsetParent"
    assert not tab.evaluate(visible)
    tab.tab_to("f-auth#kind")
    tab.press("ArrowDown")
    tab.wait(visible)
    tab.tab_to("f-auth:bearer.token")
    button = "[...document.querySelectorAll('[data-add]')].find((b) => b.value === 'streams')"
    tab.evaluate(f"{button}.closest('details')?.setAttribute('open', ''); {button}.focus()")
    tab.press("Enter")
    assert tab.focus == "f-streams[0].name"
    tab.write("things")
    tab.tab_to("f-streams[0].path")
    tab.evaluate(f"{button}.focus()")
    tab.press(" ")
    assert tab.focus == "f-streams[1].name"
    site.picture("bridge-form-items")
    remove = "document.querySelector('[data-item] [data-remove]')"
    tab.evaluate("[...document.querySelectorAll('[data-remove]')].find((b) => b.value === 'streams[0]').focus()")
    tab.press("Enter")
    assert tab.evaluate(f"{remove} !== null && document.getElementById('f-streams[0].name') === null")
    assert tab.evaluate("document.getElementById('f-streams[1].name') !== null")
    assert tab.complaints == []


def test_the_form_works_without_scripts(site: Site, postgres_server: str) -> None:
    tab, parts = site.tab, urlsplit(postgres_server)
    tab.scripts(False)
    try:
        tab.open(site.bridge("postgres"))
        tab.arrive(str(site.api.base_url))
        time.sleep(0.3)
        for text in (
            "127.0.0.1",
            str(parts.port),
            parts.path.removeprefix("/"),
            str(parts.username),
            str(parts.password),
        ):
            tab.press("Tab")
            tab.write(text)
        tab.press("Enter")
        assert "connection_id" in site.returned()
    finally:
        tab.scripts(True)


def test_nothing_that_was_typed_or_exchanged_is_in_the_servers_log(site: Site) -> None:
    written = site.log.read_text()
    for secret in (CANARY, CLIENT_SECRET, servers.PASSWORD, "token=", "code=", "state="):
        assert secret not in written
    assert "bridge" in written  # the audit line of a connection that was made
