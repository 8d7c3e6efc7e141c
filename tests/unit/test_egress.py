"""Connectors do not reach what is private where the server says so, however its address is written, and whenever a name changes its mind."""

import http.server
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpcore
import httpx
import pytest

from elt_dagster.control.oauth import _post
from elt_dagster.errors import ConfigError, TransientError
from elt_dagster.registry import load_connector
from elt_dagster.sdk import egress
from elt_dagster.sdk.connector import Runtime
from elt_dagster.sdk.http import Http
from elt_dagster.sdk.pages import Call

NO = {egress.VARIABLE: "0"}
PUBLIC = "93.184.216.34"
PRIVATE = (
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "168.63.129.16", "0.0.0.0", "224.0.0.1",  # noqa: S104
    "255.255.255.255", "198.18.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1",
    "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:0001::", "2001:0:4136:e378:8000:63bf:80ff:fffe",
)  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_private_in_every_disguise(address: str) -> None:
    assert not egress.is_public(address)


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_public(address: str) -> None:
    assert egress.is_public(address)


@pytest.fixture(scope="module", name="port")
def open_port() -> Iterator[int]:
    """A web server of this machine that redirects /away to itself under another name."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302 if self.path == "/away" else 200)
            if self.path == "/away":
                self.send_header("Location", f"http://localhost:{self.server.server_port}/")  # type: ignore[attr-defined]
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_POST = do_GET  # noqa: N815 - as the base class calls it

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.1", "[::ffff:127.0.0.1]"]
)
def test_no_spelling_of_this_machine_is_reached_over_http(host: str, port: int) -> None:
    with (
        Http(f"http://{host}:{port}", title="Acme", runtime=Runtime(environ=NO), retries=0) as client,
        pytest.raises(ConfigError, match="private address"),
    ):
        client.fetch(Call(url="/"))


def test_private_hosts_are_reached_where_nobody_forbids_it(port: int) -> None:
    with Http(f"http://127.0.0.1:{port}", title="Acme", runtime=Runtime(environ={})) as client:
        assert client.fetch(Call(url="/")).content == b"{}"


def test_the_address_that_was_checked_is_the_one_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([PUBLIC, "127.0.0.1"])  # the name changes its mind between two questions
    used: list[str] = []

    class Recording(httpcore.NetworkBackend):
        def connect_tcp(self, host: str, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
            used.append(host)
            raise httpcore.ConnectError("nobody there")

    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: [(2, 1, 6, "", (next(answers), 443))])
    backend = egress.PublicBackend(Recording())
    with pytest.raises(httpcore.ConnectError):
        backend.connect_tcp("rebinding.example", 443)
    with pytest.raises(ConfigError):
        backend.connect_tcp("rebinding.example", 443)
    assert used == [PUBLIC]


def test_one_private_address_among_public_ones_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(2, 1, 6, "", (PUBLIC, 443)), (2, 1, 6, "", ("10.0.0.1", 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: found)
    with pytest.raises(ConfigError):
        egress.PublicBackend().connect_tcp("both.example", 443)


def test_a_redirect_to_this_machine_is_not_followed_there(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = egress.http_transport(NO)
    first = iter([True])  # the first look finds a public host, the redirect's target is what it is
    monkeypatch.setattr(egress, "is_public", lambda address: address != "127.0.0.1" or next(first, False))
    with (
        httpx.Client(transport=transport, follow_redirects=True) as client,
        pytest.raises(ConfigError, match="localhost"),
    ):
        client.get(f"http://127.0.0.1:{port}/away")


def test_a_name_that_does_not_exist_is_an_ordinary_trouble() -> None:
    with (
        Http("http://nowhere.invalid", title="Acme", runtime=Runtime(environ=NO), retries=0) as client,
        pytest.raises(TransientError),
    ):
        client.fetch(Call(url="/"))


def test_codes_are_exchanged_with_public_hosts_only(port: int) -> None:
    with pytest.raises(ConfigError, match="private address"):
        _post(f"http://127.0.0.1:{port}/token", {}, {}, Runtime(environ=NO))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "::1", "/var/run/postgresql"])
def test_postgres_on_a_private_host_is_not_connected_to(host: str) -> None:
    config = {"host": host, "port": 9, "database": "d", "user": "u", "password": "p", "connect_timeout_seconds": 2}
    connector = load_connector("postgres").configured(config, Runtime(environ=NO))
    with pytest.raises(ConfigError, match="public"):
        connector.discover()


@pytest.mark.parametrize(
    "url",
    [
        "/etc",
        "file:///etc",
        "http://169.254.169.254/",
        "sftp://10.0.0.1/",
        "simplecache::http://10.0.0.1/",
        "local:///etc",
    ],
)
def test_files_of_this_machine_and_of_private_hosts_are_not_read(url: str) -> None:
    connector = load_connector("files").configured({"url": url}, Runtime(environ=NO))
    with pytest.raises(ConfigError, match="public"):
        connector.discover()


def test_a_bucket_is_read_at_its_vendor_only() -> None:
    egress.check_storage("s3://bucket/x", {"key": "k", "secret": "s"}, NO)
    for options in ({"endpoint_url": "http://10.0.0.1"}, {"client_kwargs": {"endpoint_url": "http://10.0.0.1"}}):
        with pytest.raises(ConfigError):
            egress.check_storage("s3://bucket/x", options, NO)
    with pytest.raises(ConfigError):
        egress.check_storage("az://c/x", {"account_name": "x.evil.com/"}, NO)


def test_an_address_that_is_no_url_is_told_as_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match="no URL"):
        Http("http://0177.0.0.1:99/", title="Acme", runtime=Runtime())
