"""The stand-in's REST faces: OAuth, Statement Execution, Files, SQL warehouses, external links, and ``/standin`` for the tests.

A fault is a dict: ``match`` (regular expression on ``METHOD /path``, or on a statement), ``times``, and what happens: ``status`` (with ``headers`` and ``code``) answers so;
``message`` fails a matching statement; ``after`` does so after it was carried out; ``polls`` keeps it PENDING that often; ``state`` ends it so; ``drop`` hangs up.
"""

import json
import re
import socket
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa

from tests.databricks_standin import CLIENT_ID, CLIENT_SECRET, GUEST, REFRESH, TOKEN, WAREHOUSE
from tests.databricks_standin.engine import Engine, RefusalError

CHUNK_ROWS = 20_000


@dataclass
class Result:
    """A finished statement."""

    table: pa.Table | None
    error: str = ""
    state: str = "SUCCEEDED"
    polls: int = 0


@dataclass
class Desk:
    """What all requests share."""

    engine: Engine
    faults: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    results: dict[str, Result] = field(default_factory=dict[str, Result])
    links: dict[str, tuple[str, int]] = field(default_factory=dict[str, tuple[str, int]])
    seen: dict[str, list[str]] = field(
        default_factory=lambda: {"statements": [], "requests": [], "cancelled": [], "refusals": []}
    )
    tokens: dict[str, str] = field(default_factory=lambda: {TOKEN: "owner", GUEST: "guest"})

    def fault(self, what: str, kind: str) -> dict[str, Any]:
        """The fault for ``what``, used up by one; empty for none."""
        for fault in self.faults:
            is_http = "status" in fault or (fault.get("drop") and not fault.get("after"))
            if fault["times"] > 0 and (kind == "http") == bool(is_http) and re.search(fault["match"], what, re.S):
                fault["times"] -= 1
                return fault
        return {}


def serve(engine: Engine) -> ThreadingHTTPServer:
    """A server on a free port; the caller runs it."""
    desk = Desk(engine)

    class Bound(Handler):
        pass

    Bound.desk = desk
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    server.daemon_threads = True
    return server


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    desk: Desk
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: two would wait for each other's acknowledgement
    disable_nagle_algorithm = True

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._route("GET")

    def do_POST(self) -> None:
        self._route("POST")

    def do_PUT(self) -> None:
        self._route("PUT")

    def do_DELETE(self) -> None:
        self._route("DELETE")

    def do_HEAD(self) -> None:
        self._route("HEAD")

    def _route(self, method: str) -> None:  # noqa: PLR0911 - a table of routes
        path = unquote(urlsplit(self.path).path)
        body = self._body()
        if path.startswith("/standin/"):
            return self._standin(method, path.removeprefix("/standin/"), body)
        self.desk.seen["requests"].append(f"{method} {path}")
        if fault := self.desk.fault(f"{method} {path}", "http"):
            if fault.get("drop"):
                return self._hang_up()
            return self._json(
                {"error_code": fault.get("code", "ERROR"), "message": "a fault"}, fault["status"], fault.get("headers")
            )
        if path.startswith("/external/"):
            return self._external(path)
        if path.startswith(("/.well-known", "/oidc")):
            return self._oauth(path, body)
        user = self.desk.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if user is None:
            return self._json({"error_code": "UNAUTHENTICATED", "message": "Invalid access token."}, 401)
        if path.startswith("/api/2.0/sql/statements"):
            return self._statements(method, path.removeprefix("/api/2.0/sql/statements").strip("/"), body, user)
        if path.startswith("/api/2.0/sql/warehouses/"):
            return self._json({"id": WAREHOUSE, "state": "STARTING"})
        if path.startswith("/api/2.0/fs/"):
            kind, _, where = path.removeprefix("/api/2.0/fs/").partition("/")
            return self._files(method, kind, f"/{where}", body)
        return self._json({"error_code": "NOT_FOUND", "message": path}, 404)

    # --- statements

    def _statements(self, method: str, rest: str, body: bytes, user: str) -> None:
        if not rest:
            return self._execute(json.loads(body), user)
        identifier, _, more = rest.partition("/")
        result = self.desk.results.get(identifier)
        if result is None:
            return self._json({"error_code": "NOT_FOUND", "message": "no such statement"}, 404)
        if more == "cancel":
            self.desk.seen["cancelled"].append(identifier)
            result.state, result.polls = "CANCELED", 0
            return self._json({})
        if more.startswith("result/chunks/"):
            return self._json(self._chunk(identifier, result, int(more.rpartition("/")[2])))
        return self._answer(identifier, result, external=True)

    def _execute(self, request: dict[str, Any], user: str) -> None:
        if request["warehouse_id"] != WAREHOUSE:
            return self._json({"error_code": "NOT_FOUND", "message": "The warehouse was not found."}, 404)
        sql = _bound(request["statement"], request.get("parameters") or [])
        self.desk.seen["statements"].append(request["statement"])
        fault = self.desk.fault(sql, "statement")
        identifier = uuid.uuid4().hex
        result = Result(None, polls=fault.get("polls", 0), state=fault.get("state", "SUCCEEDED"))
        try:
            if "message" in fault and not fault.get("after"):
                raise RefusalError(fault["message"])
            if result.state == "SUCCEEDED":
                result.table = self.desk.engine.execute(sql, guest=user == "guest")
            if "message" in fault:
                raise RefusalError(fault["message"])
        except RefusalError as refusal:
            result.error, result.state = str(refusal), "FAILED"
            self.desk.seen["refusals"].append(f"{refusal}\n{sql}")
        if fault.get("drop"):
            return self._hang_up()
        self.desk.results[identifier] = result
        for old in list(self.desk.results)[:-400]:
            del self.desk.results[old]
        return self._answer(identifier, result, external=request.get("disposition") == "EXTERNAL_LINKS")

    def _answer(self, identifier: str, result: Result, *, external: bool) -> None:
        answer: dict[str, Any] = {"statement_id": identifier, "status": {"state": result.state}}
        if result.polls:
            result.polls -= 1
            answer["status"]["state"] = "PENDING"
        elif result.state == "FAILED":
            answer["status"]["error"] = {"error_code": "BAD_REQUEST", "message": result.error}
        elif result.state == "SUCCEEDED" and external:
            answer["result"] = self._chunk(identifier, result, 0)
        elif result.state == "SUCCEEDED" and result.table is not None:
            answer["result"] = {
                "chunk_index": 0,
                "data_array": [[_text(v) for v in row.values()] for row in result.table.to_pylist()],
            }
        return self._json(answer)

    def _chunk(self, identifier: str, result: Result, number: int) -> dict[str, Any]:
        assert result.table is not None
        if not result.table.num_rows:
            number = 0
        secret = uuid.uuid4().hex
        self.desk.links[secret] = (identifier, number)
        link = {"chunk_index": number, "external_link": f"{self._host()}/external/{secret}?X-Signature=SECRET",
                "expiration": "2099-01-01T00:00:00Z"}  # fmt: skip
        if (number + 1) * CHUNK_ROWS < result.table.num_rows:
            link["next_chunk_index"] = number + 1
        return {"external_links": [link]}

    def _external(self, path: str) -> None:
        found = self.desk.links.get(path.removeprefix("/external/"))
        if found is None or self.headers.get("Authorization"):
            return self._json({"message": "no access"}, 403)
        table = self.desk.results[found[0]].table
        assert table is not None
        part = table.slice(found[1] * CHUNK_ROWS, CHUNK_ROWS)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, part.schema) as writer:
            writer.write_table(part)
        return self._bytes(sink.getvalue().to_pybytes())

    # --- files

    def _files(self, method: str, kind: str, where: str, body: bytes) -> None:
        path = self.desk.engine.path(where)
        volume = self.desk.engine.path("/".join(where.split("/")[:5]))
        if not volume.is_dir():
            return self._json({"error_code": "NOT_FOUND", "message": "The volume does not exist."}, 404)
        if method == "PUT" and kind == "directories":
            path.mkdir(parents=True, exist_ok=True)
            return self._bytes(b"", 204)
        if method == "PUT":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
            return self._bytes(b"", 204)
        if not path.exists():
            return self._json({"error_code": "NOT_FOUND", "message": "not there"}, 404)
        if method == "DELETE":
            path.rmdir() if kind == "directories" else path.unlink()
            return self._bytes(b"", 204)
        entries = [
            {"path": f"{where}/{p.name}", "name": p.name, "is_directory": p.is_dir()} for p in sorted(path.iterdir())
        ]
        return self._json({"contents": entries})

    # --- OAuth

    def _oauth(self, path: str, body: bytes) -> None:
        host = self._host()
        if path != "/oidc/v1/token":
            return self._json({
                "oidc_endpoint": f"{host}/oidc", "host_type": "workspace", "issuer": f"{host}/oidc",
                "authorization_endpoint": f"{host}/oidc/v1/authorize", "token_endpoint": f"{host}/oidc/v1/token",
            })  # fmt: skip
        form = {k: v[0] for k, v in parse_qs(body.decode()).items()}
        import base64

        basic = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        is_known = form.get("refresh_token") == REFRESH or self.headers.get("Authorization") == f"Basic {basic}"
        if not is_known:
            return self._json({"error": "invalid_client", "error_description": "Client authentication failed"}, 401)
        token = f"eph-{uuid.uuid4().hex}"
        self.desk.tokens[token] = "owner"
        return self._json({"access_token": token, "token_type": "Bearer", "expires_in": 3600, "refresh_token": REFRESH})

    # --- for the tests

    def _standin(self, method: str, what: str, body: bytes) -> None:
        desk = self.desk
        if what == "faults":
            desk.faults[:] = [*desk.faults, {"times": 1, **json.loads(body)}] if method == "POST" else []
            return self._json({})
        if what == "sql":
            try:
                found = desk.engine.execute(json.loads(body)["statement"])
            except RefusalError as refusal:
                return self._json({"error": str(refusal)})
            return self._json([{k: _text(v) for k, v in row.items()} for row in found.to_pylist()])
        if what == "files":
            return self._json([str(p) for p in desk.engine.volumes.rglob("*")])
        return self._json(desk.seen[what])

    # --- http

    def _host(self) -> str:
        address: Any = self.server.server_address
        return f"http://{address[0]}:{address[1]}"

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            data = b""
            while size := int(self.rfile.readline().strip(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _json(self, data: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._bytes(json.dumps(data).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _bytes(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {"Content-Type": "application/octet-stream"}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _bound(sql: str, parameters: list[dict[str, Any]]) -> str:
    """``sql`` with its parameters as literals."""
    for p in parameters:
        escaped = p["value"].replace("\\", "\\\\").replace("'", "\\'")
        sql = re.sub(rf":{p['name']}\b", lambda _, t=p["type"], v=escaped: f"CAST('{v}' AS {t})", sql)  # type: ignore[misc]
    return sql


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)
