"""Where a person's browser comes back to, for `connections authorize`: one page of this process, for one visit."""

import hmac
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import click

from elt_dagster.errors import TransientError

_PAGE = b"<!doctype html><title>elt-dagster</title><p>You may close this page and go back to the terminal.</p>"


class Landing:
    """A server on a free port of this machine. Use as a context manager."""

    def __init__(self) -> None:
        self.state = secrets.token_urlsafe(16)
        self._came: dict[str, str] = {}
        self._arrived = threading.Event()
        landing = self

        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                landing.visited(self.path)
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(_PAGE)))
                self.end_headers()
                self.wfile.write(_PAGE)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: the address has an id and a state."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
        self.address = f"http://127.0.0.1:{self._server.server_port}/done"

    def __enter__(self) -> "Landing":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def visited(self, path: str) -> None:
        """Take what came, if it is the answer to what we asked: other pages may try to visit as well."""
        found = dict(parse_qsl(urlsplit(path).query))
        if hmac.compare_digest(found.get("state", "").encode(), self.state.encode()) and not self._arrived.is_set():
            self._came = found
            self._arrived.set()

    def wait(self, address: str, *, browser: bool, patience: float) -> dict[str, str]:
        """What the person brings back: ``connection_id``, or ``error``. Raises TransientError when nobody comes."""
        if browser:
            click.launch(address)
        # in short waits, so that Ctrl-C is heard
        for _ in range(int(patience / 0.25)):
            if self._arrived.wait(0.25):
                return self._came
        raise TransientError("Nobody came back from the page.", fix="Run it again.")
