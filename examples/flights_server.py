"""A small REST API over the flights, and a folder of files beside it: ``python -m examples.flights_server --port 8765 --folder .run/files``.

    GET /flights?updated_since=2013-11-30T00:00:00Z&page_size=1000&cursor=...    ascending by updated_at, from that time on, inclusive
    GET /airlines
    GET /airlines/{carrier}/routes

Each start shows a little more than the one before (`examples.flights_data`): 2,000 flights, a hundred corrected ones, and a new weather file.
What was shown last is in ``.release.json`` in the folder; delete the folder to begin again.
"""

import argparse
import gzip
import json
import os
import re
import signal
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from examples.flights_data import Flights

MAX_PAGE = 5_000
STATE = ".release.json"
_MONTHS = [(date(2013, m, 1), date(2013, m + 1, 1)) for m in range(1, 12)]
_DECEMBER = date(2013, 12, 1)


class BadRequestError(Exception):
    """A parameter is wrong; the message says which and what is allowed."""


@dataclass(frozen=True)
class Records:
    """JSON documents in one block of bytes, so that a page is one copy of a part of it."""

    block: memoryview
    ends: memoryview
    """Where each document and the comma behind it end; one more than there are documents, for the first begins at 0."""

    @classmethod
    def of(cls, documents: pa.ChunkedArray) -> "Records":
        """From a column of JSON texts that each end in a comma; their memory is used as it is."""
        _, ends, block = documents.combine_chunks().buffers()
        return cls(memoryview(block), memoryview(ends).cast("B").cast("i")[: len(documents) + 1])

    def __len__(self) -> int:
        return len(self.ends) - 1

    def page(self, start: int, size: int) -> bytes:
        """A response with ``size`` documents from ``start`` on and the cursor of the next page."""
        stop = min(start + size, len(self))
        body = self.block[self.ends[start] : max(self.ends[stop] - 1, self.ends[start])]
        following = f'"{_token(stop)}"' if stop < len(self) else "null"
        return b"".join((b'{"data":[', body, b'],"next_cursor":', following.encode(), b"}"))


@dataclass
class Api:
    """Answers by path and parameters; knows nothing of sockets."""

    flights: Records
    updated_at: list[str]
    airlines: bytes
    routes: dict[str, bytes] = field(default_factory=dict[str, bytes])

    @classmethod
    def of(cls, data: Flights) -> "Api":
        """Render everything once."""
        shown, routes = data.flights(), data.routes()
        carriers = routes.column("carrier").to_pylist()
        by_carrier = {c: routes.filter(pa.array([x == c for x in carriers])) for c in dict.fromkeys(carriers)}
        return cls(
            Records.of(shown.column("json")), shown.column("updated_at").to_pylist(), _whole(data.airlines()),
            {c: _whole(table) for c, table in by_carrier.items()},
        )  # fmt: skip

    def answer(self, path: str, parameters: dict[str, str]) -> bytes | None:
        """The body for ``path``, or None when there is nothing there. Raises BadRequestError for a wrong parameter."""
        if path == "/flights":
            return self._flights(parameters)
        if path == "/airlines":
            return self.airlines
        if match := re.fullmatch(r"/airlines/(\w+)/routes", path):
            return self.routes.get(match[1])
        return None

    def _flights(self, parameters: dict[str, str]) -> bytes:
        if unknown := sorted(parameters.keys() - {"updated_since", "page_size", "cursor"}):
            raise BadRequestError(f"unknown parameter {unknown[0]}; allowed: updated_since, page_size, cursor")
        size = _number(parameters.get("page_size", "1000"))
        if "cursor" in parameters:
            return self.flights.page(_position(parameters["cursor"], len(self.flights)), size)
        since = parameters.get("updated_since")
        return self.flights.page(bisect_left(self.updated_at, _instant(since)) if since else 0, size)


class Handler(BaseHTTPRequestHandler):
    """One request; connections stay open between requests."""

    protocol_version = "HTTP/1.1"
    api: Api

    def do_GET(self) -> None:
        """Answer with JSON."""
        parts = urlsplit(self.path)
        try:
            body = self.api.answer(parts.path, {k: v[-1] for k, v in parse_qs(parts.query).items()})
            status = 200 if body is not None else 404
        except BadRequestError as error:
            body, status = json.dumps({"error": str(error)}).encode(), 400
        body = body if body is not None else b'{"error":"there is nothing at this path"}'
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a line per page would drown the run's own output."""


def main() -> None:
    """Write the folder's files, then serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--folder", type=Path, default=Path(".run/files"))
    options = parser.parse_args()
    data = Flights()
    number = next_release(options.folder)
    count = data.release(number)
    write_files(data, options.folder, number)
    server = serve(Api.of(data), options.port)
    data.close()
    pa.default_memory_pool().release_unused()
    _remember(options.folder, number)
    print(
        f"Release {number}: {count:,} flights on http://127.0.0.1:{server.server_port}, files in {options.folder}",
        flush=True,
    )
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


def serve(api: Api, port: int) -> ThreadingHTTPServer:
    """A server bound to ``port`` on this machine only (0 picks a free one); call its ``serve_forever``."""
    server = ThreadingHTTPServer(("127.0.0.1", port), type("FlightsHandler", (Handler,), {"api": api}))
    server.daemon_threads = True
    return server


def next_release(folder: Path) -> int:
    """The release after the one that was shown last; 0 in a new folder."""
    state = folder / STATE
    return int(json.loads(state.read_text())["release"]) + 1 if state.exists() else 0


def write_files(data: Flights, folder: Path, release: int) -> None:
    """The files of ``release`` that are missing: planes.csv.gz, airports.jsonl, weather/*.parquet, one more of the last per release."""
    (folder / "weather").mkdir(parents=True, exist_ok=True)
    _write(folder / "planes.csv.gz", lambda to: _write_planes(data.planes(), to))
    _write(folder / "airports.jsonl", lambda to: to.write_text(_lines(data.airports())))
    for start, end in _weather_spans(release):
        name = f"{start:%Y-%m}" if (end - start).days > 2 else f"{start:%Y-%m-%d}"
        _write(folder / "weather" / f"{name}.parquet", partial(pq.write_table, data.weather(f"{start}", f"{end}")))


def _weather_spans(release: int) -> list[tuple[date, date]]:
    """Whole months first, then two days of December with each release."""
    days = [_DECEMBER + timedelta(days=2 * i) for i in range(min(release, 15))]
    return [*_MONTHS, *((day, day + timedelta(days=2)) for day in days)]


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Write under a hidden name and rename, so that nobody reads half a file."""
    if path.exists():
        return
    unfinished = path.with_name(f".{path.name}.part")
    write(unfinished)
    os.replace(unfinished, path)


def _write_planes(planes: pa.Table, path: Path) -> None:
    with gzip.open(path, "wb") as packed:
        pacsv.write_csv(planes, packed)


def _remember(folder: Path, release: int) -> None:
    unfinished = folder / f"{STATE}.part"
    unfinished.write_text(json.dumps({"release": release}))
    os.replace(unfinished, folder / STATE)


def _whole(table: pa.Table) -> bytes:
    return b'{"data":[' + ",".join(table.column("json").to_pylist()).encode() + b'],"next_cursor":null}'


def _lines(table: pa.Table) -> str:
    return "".join(f"{line}\n" for line in table.column("json").to_pylist())


def _number(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_PAGE:
        raise BadRequestError(f"page_size is a number from 1 to {MAX_PAGE}")
    return int(text)


def _instant(text: str) -> str:
    """As the records write it, so that text compares like time. A ``+`` that was not escaped arrives as a blank."""
    try:
        at = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        raise BadRequestError("updated_since is an ISO 8601 time, such as 2013-11-30T00:00:00Z") from None
    return (at.astimezone(UTC) if at.tzinfo else at).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _token(position: int) -> str:
    return urlsafe_b64encode(str(position).encode()).decode().rstrip("=")


def _position(token: str, most: int) -> int:
    try:
        position = int(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except ValueError:
        position = -1
    if not 0 <= position <= most:
        raise BadRequestError("cursor is a next_cursor of an earlier page")
    return position


if __name__ == "__main__":
    main()
