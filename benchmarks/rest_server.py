"""A paged JSON API over the loopback: 1,000 records of 20 fields a page, nested, pages made once. For the benchmark only."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

RECORDS = 1_000


def page(number: int, pages: int) -> bytes:
    """Page ``number`` of ``pages``: the same bytes every time."""
    data = [_record(number * RECORDS + i) for i in range(RECORDS)]
    return json.dumps({"data": data, "next_cursor": f"c{number + 1}" if number + 1 < pages else None}).encode()


def _record(i: int) -> dict[str, object]:
    return {
        "id": f"in_{i:09}", "object": "invoice", "number": i, "status": ("open", "paid", "void")[i % 3], "currency": "eur",
        "amount_due": i * 7 % 100_000, "total": i * 13 % 100_000 / 100, "tax_rate": 0.25, "score": i / 3,
        "created_at": f"2026-01-{1 + i % 28:02}T10:00:00Z", "updated_at": f"2026-02-{1 + i % 28:02}T10:00:00.123456Z",
        "due_date": f"2026-03-{1 + i % 28:02}", "paid": i % 2 == 0, "description": f"Invoice number {i} of many",
        "external_id": f"00000000-0000-4000-8000-{i:012}", "customer": {"id": f"cus_{i % 999}", "name": "Ann", "vat": None},
        "metadata": {"k": str(i)}, "tags": ["a", "b"], "lines": [{"sku": "x", "n": i % 5}], "big": i << 32,
    }  # fmt: skip


def serve(port: int, pages: int) -> None:
    """Serve until killed."""
    made = [page(n, pages) for n in range(pages)]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            cursor = parse_qs(urlsplit(self.path).query).get("cursor", ["c0"])[0]
            body = made[int(cursor[1:])]
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Silent: a benchmark has no readers."""

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
