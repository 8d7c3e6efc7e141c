"""Refresh tokens that are good for one use, in a store that several processes share, on both of its engines."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from elt_dagster.control.vault import HeldVault, StoreVault
from elt_dagster.errors import TransientError
from elt_dagster.model import ConnectionSpec
from elt_dagster.store import Store
from elt_dagster.store.seal import KEY_VARIABLE
from tests.unit.refreshing_child import refresh
from tests.unit.test_store import store, url

__all__ = ["store", "url"]
TIMES = 12


@dataclass
class TokenEndpoint:
    """Gives a new refresh token for each; one that comes twice ends them all, as RFC 9700 wants it."""

    good: str = "first"
    given: int = 0
    revoked: bool = False
    arrived: threading.Event = field(default_factory=threading.Event)
    parked: threading.Event | None = None
    """While it is there, requests wait for it and are then forgotten."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def answer(self, token: str) -> tuple[int, dict[str, Any]]:
        """Status and body."""
        with self.lock:
            if self.revoked or token != self.good:
                self.revoked = True
                return 400, {"error": "invalid_grant"}
            self.given += 1
            self.good = f"token-{self.given}"
        time.sleep(0.01)
        return 200, {"access_token": "a", "expires_in": 60, "refresh_token": self.good}


@pytest.fixture
def endpoint() -> Iterator[TokenEndpoint]:
    its = TokenEndpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            its.arrived.set()
            if its.parked is not None:
                its.parked.wait(30)
                return
            status, body = its.answer(form["refresh_token"][0])
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    its.url = f"http://127.0.0.1:{server.server_port}/token"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield its
    server.shutdown()
    server.server_close()


def put_token(store: Store, token: str) -> None:
    spec = ConnectionSpec(name="api", connector="x", config={"refresh_token": token, "host": "h"})
    with store.transaction() as tx:
        tx.put_connection(spec, frozenset({"refresh_token"}))


def kept(store: Store) -> str:
    return str(store.open_config(store.connection("api"))["refresh_token"])


def child(store: Store, endpoint: TokenEndpoint, times: int, held: float = 60.0) -> "subprocess.Popen[str]":
    address = store._database._url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "tests.unit.refreshing_child", address, endpoint.url, str(times), str(held)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process: "subprocess.Popen[str]") -> None:
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 0, told[-2000:]


def test_two_processes_that_refresh_at_once_spend_no_token_twice(store: Store, endpoint: TokenEndpoint) -> None:
    put_token(store, "first")
    other = child(store, endpoint, TIMES)
    assert endpoint.arrived.wait(30)
    refresh(store, endpoint.url, TIMES)
    finished(other)
    assert (endpoint.given, endpoint.revoked) == (2 * TIMES, False)
    assert kept(store) == endpoint.good


def test_a_process_that_is_killed_while_it_has_the_drawer_holds_nobody_up(
    store: Store, endpoint: TokenEndpoint
) -> None:
    put_token(store, "first")
    endpoint.parked = threading.Event()
    victim = child(store, endpoint, 1, held=1.0)
    assert endpoint.arrived.wait(30)
    victim.kill()
    victim.communicate()
    endpoint.parked.set()
    endpoint.parked = None
    refresh(store, endpoint.url, 2)
    assert (endpoint.given, endpoint.revoked) == (2, False)
    assert kept(store) == endpoint.good


def test_a_token_that_a_person_brought_meanwhile_is_not_overwritten(store: Store) -> None:
    put_token(store, "first")
    vault = StoreVault(store, "default", "api")
    with vault.exclusive() as drawer:
        assert drawer.current("refresh_token") == SecretStr("first")
        put_token(store, "by consent")
        with pytest.raises(TransientError, match="was replaced while"):
            drawer.keep("refresh_token", SecretStr("second"))
        assert kept(store) == "by consent"
        # whoever looks again may go on
        assert drawer.current("refresh_token") == SecretStr("by consent")
        drawer.keep("refresh_token", SecretStr("third"))
        drawer.keep("refresh_token", SecretStr("fourth"))
    assert kept(store) == "fourth"


def test_other_settings_and_keys_may_change_while_a_token_is_fetched(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_token(store, "first")
    with StoreVault(store, "default", "api").exclusive() as drawer:
        drawer.current("refresh_token")
        with store.transaction() as tx:
            new = ConnectionSpec(name="api", connector="x", config={"refresh_token": "********", "host": "other"})
            tx.put_connection(new, frozenset({"refresh_token"}))
        monkeypatch.setenv(KEY_VARIABLE, f"{Fernet.generate_key().decode()},{os.environ[KEY_VARIABLE]}")
        assert store.reseal() >= 1
        drawer.keep("refresh_token", SecretStr("second"))
    assert store.open_config(store.connection("api")) == {"refresh_token": "second", "host": "other"}


def test_settings_that_are_only_tried_hand_out_what_came_last() -> None:
    vault = HeldVault({"auth": {"refresh_token": "first"}, "port": 1})
    with vault.exclusive() as drawer:
        assert drawer.current("auth.refresh_token") == SecretStr("first")
        drawer.keep("auth.refresh_token", SecretStr("second"))
        assert drawer.current("auth.refresh_token") == SecretStr("second")
        assert (drawer.current("port"), drawer.current("auth.absent"), drawer.current("port.deep")) == (
            None,
            None,
            None,
        )
    assert vault.replaced == {"auth.refresh_token": SecretStr("second")}
