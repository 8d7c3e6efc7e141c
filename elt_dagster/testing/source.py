"""A pretend HTTP source: a handler for `httpx.MockTransport` that can be told to misbehave."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import pytest

LIMIT = 300
"""More requests than this in one test mean a connector that retries for ever or pages in circles."""


class FakeSource(ABC):
    """Answers requests from rows in memory. Filter, sort and page as the real source does; the tests rely on it.

    What it can be told: ``refuse`` answers 401, ``stumble`` gives these answers first, ``stuck`` gives this answer to every request
    for rows, ``elsewhere`` sends next-page links to another host (if it has links).
    """

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.refuse = False
        self.stumble: list[httpx.Response] = []
        self.stuck: httpx.Response | None = None
        self.elsewhere = False
        self._lock = threading.Lock()

    @property
    @abstractmethod
    def rows(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """The truth: every row of every stream, keyed by stream name."""

    @abstractmethod
    def answer(self, request: httpx.Request) -> httpx.Response:
        """What a healthy source answers."""

    @abstractmethod
    def endless(self) -> httpx.Response:
        """A page with rows that says, every time, that there is one more."""

    def elsewhere_page(self) -> httpx.Response | None:
        """A page whose next link points to another host; None when the source has no links."""
        return None

    def is_data(self, request: httpx.Request) -> bool:
        """Whether a request asks for rows, as opposed to tokens or descriptions."""
        return True

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer one request; what an `httpx.MockTransport` calls."""
        with self._lock:
            self.requests.append(request)
            if len(self.requests) > LIMIT:  # not an Exception: a connector that swallows those must not swallow this
                pytest.fail("the connector keeps asking; does it retry for ever, or page in circles?")
            if self.refuse:
                return httpx.Response(401, json={"error": "invalid credentials"})
            if self.is_data(request):
                if self.stumble:
                    return self.stumble.pop(0)
                if self.stuck is not None:
                    return httpx.Response(
                        self.stuck.status_code, headers=self.stuck.headers, content=self.stuck.content
                    )
            return self.answer(request)

    def data_requests(self) -> int:
        """How many requests asked for rows so far."""
        return len([r for r in self.requests if self.is_data(r)])
