"""Answers that end: whoever chooses the host must not be able to fill our memory, or to keep a worker for ever."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx

from elt_dagster.errors import SourceError, TransientError

TOKEN_BYTES = 262_144
"""Of an answer with a token, as it comes over the wire."""
TOKEN_SECONDS = 30.0


@dataclass
class Bounds:
    """How much an answer may have, and how long it may take; counts as it comes."""

    title: str
    most_bytes: int
    seconds: float
    seen: int = 0
    since: float = field(default_factory=lambda: time.monotonic())  # noqa: PLW0108 - looked up when it is asked

    def count(self, part: bytes) -> bytes:
        """``part``, if it is still within them. Raises SourceError for what is too large, TransientError for what takes too long."""
        self.seen += len(part)
        if self.seen > self.most_bytes:
            raise SourceError(
                f"{self.title} sent an answer of more than {self.most_bytes:,} bytes.", fix="Ask it for smaller pages."
            )
        if time.monotonic() - self.since > self.seconds:
            raise TransientError(
                f"{self.title} took more than {self.seconds:.0f} s for one answer.", fix="Try again later."
            )
        return part


def whole(response: httpx.Response, bounds: Bounds) -> httpx.Response:
    """``response``, which is not read yet, with all of its content, decoded; counted as decoded."""
    try:
        content = b"".join(bounds.count(part) for part in response.iter_bytes())
    finally:
        response.close()
    headers = [(name, value) for name, value in response.headers.raw if name.lower() != b"content-encoding"]
    return httpx.Response(
        response.status_code, headers=headers, content=content, request=response.request, extensions=response.extensions
    )


class _Counted(httpx.SyncByteStream):
    def __init__(self, inner: httpx.SyncByteStream, bounds: Bounds) -> None:
        self._inner, self._bounds = inner, bounds

    def __iter__(self) -> Iterator[bytes]:
        return (self._bounds.count(part) for part in self._inner)

    def close(self) -> None:
        self._inner.close()


def read_token(response: httpx.Response, title: str) -> httpx.Response:
    """``response`` of a token endpoint, read where it is, because httpx looks at it again; counted as it comes over the wire."""
    if isinstance(response.stream, httpx.SyncByteStream):
        response.stream = _Counted(response.stream, Bounds(title, TOKEN_BYTES, TOKEN_SECONDS))
    try:
        response.read()
    finally:
        response.close()
    return response
