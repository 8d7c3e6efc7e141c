"""What nobody should send: too much, too deep, what no database keeps, what tries to be SQL or a header; and a server that dies while it writes.

Secrets are canaries, searched for in every byte that the server, Dagster and its logs emit.
"""

import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from elt_dagster.client import Client
from tests.integration.api_process import KEY, Served, served
from tests.integration.dagster_project import CANARY

pytestmark = pytest.mark.slow
WORDS = "canary-word-51c2"
"""A secret that is sent where no secret belongs; it may stand in what it was sent as, and in no error or log."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("attacks")) as server:
        yield server
        log = server.log.read_text()
        assert "Traceback" not in log, log[-3000:]
        assert CANARY not in log
        assert WORDS not in log
        assert KEY not in log


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def http(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers={"x-api-key": KEY}, timeout=60) as http:
        yield http


@pytest.fixture(scope="module")
def source(server: Served) -> str:
    return server.project.store.connection("shop-db").id


# --- bodies ------------------------------------------------------------------------------------------------------------------------

PLACES = ["/elt_syncs", "/api/v1/syncs", "/api/v1/workspaces/default/loaders", "/connection_bridges"]


def _refused(answer: httpx.Response, *statuses: int) -> None:
    assert answer.status_code in statuses, (answer.request.url, answer.status_code, answer.text[:500])
    assert answer.headers["content-type"] == "application/json"
    for secret in (CANARY, WORDS, KEY, "Traceback"):
        assert secret not in answer.text


@pytest.mark.parametrize("path", PLACES)
def test_a_body_of_100_mb_is_refused_before_it_is_read(server: Served, http: httpx.Client, path: str) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1_000_000
            yield b"[" * 1_000_000

    before = _memory(server)
    with suppress(httpx.TransportError):  # it may hang up on us, which is an answer too
        _refused(http.post(path, content=endless(), headers={"content-type": "application/json"}), 413)
    assert sent < 100_000_000
    assert _memory(server) - before < 60_000_000
    assert http.get("/healthz").status_code == 200


def test_a_length_that_is_said_is_believed_only_until_it_is_exceeded(http: httpx.Client) -> None:
    _refused(http.post("/api/v1/syncs", content=b"x" * 1_000_001, headers={"content-type": "application/json"}), 413)


BROKEN = {
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "deep where anything may be": b'{"name": "n", "sourceConfig": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "nul": b'{"name": "a\\u0000b", "connectionId": "84b500d7-71c8-4b1f-adf4-f1eb0000973d"}',
    "half a pair": b'{"name": "\\ud800", "connectionId": "84b500d7-71c8-4b1f-adf4-f1eb0000973d"}',
    "half a pair as a key": b'{"\\udfff": 1}',
    "not utf-8": b'{"name": "\xff\xfe"}',
    "nan": b'{"name": "n", "freshnessSlaSeconds": NaN}',
    "infinity": b'{"name": "n", "freshnessSlaSeconds": 1e999}',
    "huge number": b'{"name": "n", "freshnessSlaSeconds": ' + b"9" * 5000 + b"}",
    "a number no database holds": b'{"name": "n", "freshnessSlaSeconds": 99999999999999999999999}',
    "list": b"[]",
    "text": b'"x"',
    "null": b"null",
    "nothing": b"",
    "cut": b'{"name": "' + WORDS.encode(),
    "twice": b'{"name": "a", "name": {"b": "' + WORDS.encode() + b'"}}',
    "secret in a number": b'{"freshnessSlaSeconds": "'
    + WORDS.encode()
    + b'", "sync_interval": "'
    + WORDS.encode()
    + b'"}',
}


@pytest.mark.parametrize("path", PLACES)
@pytest.mark.parametrize("kind", list(BROKEN))
def test_a_body_that_cannot_be_meant_is_refused_in_the_dialect(http: httpx.Client, path: str, kind: str) -> None:
    _refused(http.post(path, content=BROKEN[kind], headers={"content-type": "application/json"}), 400, 404, 422)


@pytest.mark.parametrize("path", PLACES)
@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/xml", "multipart/form-data", "application/x-www-form-urlencoded", "x/y;;;=", ""],
)
def test_a_body_of_another_type_is_refused(http: httpx.Client, path: str, content_type: str) -> None:
    _refused(http.post(path, content=b"<a>&xxe;</a>", headers={"content-type": content_type}), 400, 404, 415, 422)


# --- injection ---------------------------------------------------------------------------------------------------------------------

SQL = [
    "' OR '1'='1",
    "'; DROP TABLE elt_syncs; --",
    "%' ESCAPE '",
    "\\",
    "_%",
    '" OR 1=1 --',
    "1) UNION SELECT hash FROM elt_api_keys --",
]


@pytest.mark.parametrize("text", SQL)
def test_sql_in_an_address_finds_nothing(http: httpx.Client, text: str) -> None:
    for path in (
        "/elt_syncs/{}",
        "/api/v1/syncs/{}",
        "/connections/{}/settings",
        "/elt_streams/{}",
        "/elt_stream_runs/{}",
    ):
        _refused(http.get(path.format(_quoted(text))), 404, 422)
    for path, name in (
        ("/elt_syncs", "connection_id"),
        ("/elt_syncs", "starting_after"),
        ("/elt_streams", "elt_sync_id"),
    ):
        _refused(http.get(path, params={name: text}), 400, 404)
    found = http.get("/api/v1/syncs", params={"q": text})
    assert (found.status_code, found.json()["total"]) == (200, 0)


@pytest.mark.parametrize("text", SQL)
def test_sql_in_a_schema_is_refused_when_it_is_written(http: httpx.Client, source: str, text: str) -> None:
    body = {"connection_id": source, "destination_schema_name": text, "sync_interval": "0 6 * * *"}
    _refused(http.post("/elt_syncs", json=body), 400)
    _refused(
        http.post("/api/v1/syncs", json={"connectionId": source, "name": "n", "destinationConfig": {"schema": text}}),
        422,
    )


def test_what_looks_like_sql_is_a_name_like_any_other(client: Client, source: str) -> None:
    made = client.syncs.create(connection_id=source, name=SQL[1])
    assert client.syncs.get(made.id).name == SQL[1]
    assert [s.id for s in client.syncs.list(q="DROP TABLE")] == [made.id]
    client.syncs.delete(made.id)


@pytest.mark.parametrize(
    "path",
    [
        "/elt_syncs/%00",
        "/elt_syncs/%ff",
        "/elt_syncs/..%2f..%2fhealthz",
        "/elt_syncs/%0d%0aX-Evil:1",
        "/elt_syncs/%ed%a0%80",
    ],
)
def test_an_address_with_what_no_address_has_finds_nothing(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code in (400, 404)
    assert "x-evil" not in answer.headers


@pytest.mark.parametrize(
    "query", ["limit=1%00", "limit=%ff", "starting_after=%ed%a0%80", "limit=" + "9" * 400, "limit=-1", "limit=1e3"]
)
def test_a_query_that_cannot_be_meant_is_refused(http: httpx.Client, query: str) -> None:
    _refused(http.get(f"/elt_syncs?{query}"), 400)
    _refused(http.get(f"/api/v1/syncs?{query.replace('starting_after', 'q')}"), 422)


@pytest.mark.parametrize(
    "header", ["Idempotency-Key", "If-Match", "X-Workspace-ID", "Authorization", "Cookie", "x-api-key"]
)
@pytest.mark.parametrize(
    "value", [b"a\x7fb", b"\xff\xfe", b"'; DROP TABLE x", b"x" * 20_000], ids=["control", "latin", "sql", "long"]
)
def test_a_header_that_cannot_be_meant_is_no_trouble_of_ours(server: Served, header: str, value: bytes) -> None:
    key = {} if header in ("Authorization", "Cookie", "x-api-key") else {b"x-api-key": KEY.encode()}
    headers = [*key.items(), (header.encode(), value), (b"content-type", b"application/json")]
    try:
        answer = httpx.post(f"{server.url}/elt_syncs", headers=headers, content=b"{}", timeout=30)
    except httpx.TransportError:
        return  # the web server itself hung up
    assert 400 <= answer.status_code < 500, answer.text


def test_a_line_break_in_a_header_does_not_become_another_header(server: Served) -> None:
    raw = f"POST /elt_syncs HTTP/1.1\r\nHost: x\r\nx-api-key: {KEY}\r\nIdempotency-Key: a\r\n b\r\nContent-Length: 2\r\n\r\n{{}}"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as plain:
        plain.sendall(raw.encode())
        assert plain.recv(100).startswith(b"HTTP/1.1 4")


def test_the_audit_line_cannot_be_forged(server: Served, http: httpx.Client) -> None:
    http.post("/elt_syncs/%0aelt_dagster.audit%20key=forged/enable")
    http.post("/elt_syncs/x'%20status=200%20key='forged/enable")
    lines = [line for line in server.log.read_text().splitlines() if "forged" in line]
    assert lines
    assert all(line.count(" key=") >= 1 and "elt_dagster.audit key=key" not in line for line in lines)
    assert not any(line.startswith("elt_dagster.audit") for line in lines)


# --- secrets -----------------------------------------------------------------------------------------------------------------------


def test_no_secret_is_in_any_byte_that_is_answered_or_logged(
    server: Served, client: Client, http: httpx.Client, source: str
) -> None:
    sync = client.syncs.create(
        connection_id=source, name="Secretive", entities=["public.orders", "public.customers"], status="active"
    )
    server.project.say("customers.fail", "yes")
    run = client.runs.wait(client.runs.trigger(sync.id).id, timeout=90, every=0.3)
    assert run.result_class == "partial"
    stream = next(iter(client.streams.list(sync.id))).id
    paths = [
        "/integrations", "/connections", f"/connections/{source}/settings", "/connection_bridges", "/elt_syncs", f"/elt_syncs/{sync.id}",
        f"/elt_syncs/{sync.id}/status", f"/elt_syncs/{sync.id}/available_source_streams", f"/elt_streams?elt_sync_id={sync.id}",
        f"/elt_stream_runs?elt_stream_id={stream}", "/api/v1/syncs", f"/api/v1/syncs/{sync.id}", f"/api/v1/syncs/{sync.id}/runs",
        f"/api/v1/syncs/runs/{run.id}", "/api/v1/syncs/providers/scripted/catalog", "/api/v1/workspaces/default/loaders",
        "/api/v1/workspaces/default/loader-types", "/openapi.json", "/docs", "/healthz", "/readyz",
    ]  # fmt: skip
    for path in paths:
        answer = http.get(path)
        assert answer.status_code == 200, (path, answer.text)
        for secret in (CANARY, KEY):
            assert secret not in answer.text, path
            assert secret not in str(answer.headers), path
    kept = _files_with(server.project.folder, CANARY)
    assert kept == set(), "the canary stands in clear text in a file"
    assert _files_with(server.project.folder, KEY) == set()


def _files_with(folder: Path, text: str) -> set[str]:
    """Files of the store, of Dagster's home (run and event logs, compute logs) and of the server's log that hold ``text``."""
    return {
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.is_file() and text.encode() in file.read_bytes()
    }


# --- a server that dies ------------------------------------------------------------------------------------------------------------


def test_a_server_that_is_killed_while_it_writes_leaves_everything_whole(tmp_path: Path) -> None:
    _storm(tmp_path, [1], runs=False)


@pytest.mark.again("killed sooner, and later")
def test_a_server_that_is_killed_at_any_moment_leaves_everything_whole(tmp_path: Path) -> None:
    _storm(tmp_path, [0, 1, 2, 3], runs=True)


def _storm(folder: Path, moments: list[int], *, runs: bool) -> None:
    with served(folder) as server:
        source = server.project.store.connection("shop-db").id
        with server.client() as client:
            base = client.syncs.create(
                connection_id=source, name="Base", entities=["public.orders"], status="active"
            ).id
        for moment in moments:
            _kill_while(server, source, base, moment, runs=runs)
            _whole(server)
        with server.client() as client:
            names = [s.name for s in client.syncs.list()]
            assert len(names) == len(set(names)), "a repeated request made a second sync"


def _kill_while(server: Served, source: str, base: str, number: int, *, runs: bool) -> None:
    """Kill the server in the middle of a storm of writes, start it again, and send every request that got no answer once more."""
    writes: list[tuple[str, str, Any]] = [
        ("POST", "/api/v1/syncs", {"connectionId": source, "name": f"Storm {number}-{i}", "entities": ["public.items"], "destinationConfig": {"schema": f"s{number}_{i}"}})
        for i in range(12)
    ]  # fmt: skip
    writes += [
        ("POST", f"/elt_syncs/{base}/source_streams", {"source_streams": [{"name": n}]})
        for n in ("public.customers", "public.items")
    ]
    if runs:  # for which Dagster has to load everything first
        writes.append(("POST", f"/api/v1/syncs/{base}/trigger", {}))
    unanswered: list[tuple[int, str, str, Any]] = []

    def send(wire: httpx.Client, at: int, method: str, path: str, body: Any) -> httpx.Response:
        headers = {"x-api-key": KEY, "Idempotency-Key": f"storm-{number}-{at}"}
        return wire.request(method, server.url + path, json=body, headers=headers)

    def try_to(at: int, method: str, path: str, body: Any) -> None:
        try:
            send(wire, at, method, path, body)
        except httpx.TransportError:
            unanswered.append((at, method, path, body))

    with httpx.Client(timeout=60) as wire:
        threads = [threading.Thread(target=try_to, args=(at, *write)) for at, write in enumerate(writes)]
        for thread in threads:
            thread.start()
        time.sleep(0.1 + 0.15 * number)
        server.kill()
        for thread in threads:
            thread.join()
    server.start()
    with httpx.Client(timeout=60) as wire:
        for again in unanswered:
            answer = send(wire, *again)
            # what was being carried out when the server died is not known to be done or not: it is told so, and nothing is done twice
            assert answer.status_code < 500, answer.text
            said = ("still being carried out", "already", "being loaded")
            assert answer.status_code != 409 or any(text in answer.text for text in said), answer.text


def _whole(server: Served) -> None:
    """Everything can be listed, and the store's rows hang together."""
    with server.client() as client:
        for sync in client.syncs.list():
            assert sync.status != "error", sync
            assert len(sync.table_bindings) == len(sync.entities)
            assert list(client.runs.list(sync.id)) is not None
        list(client.connections.list())
        list(client.streams.list())
    path = server.project.url.removeprefix("sqlite:///")
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []


def _quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")


def _memory(server: Served) -> int:
    """Bytes that the server has in memory."""
    assert server.pid is not None
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024
