"""The contract of a connector whose source is reached over HTTP. Subclass, name the class and a fake source; done.

class TestStripe(HttpConnectorContract):
    connector = load_connector("stripe")
    settings = {"api_key": "rk_test_SECRET"}
    source = StripeSource
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import httpx
import pytest

from elt_dagster.errors import EltError, SourceError, TransientError
from elt_dagster.model import Stream
from elt_dagster.sdk import Connector, Runtime
from elt_dagster.testing.contract import ConnectorContract, Truth
from elt_dagster.testing.source import FakeSource


class HttpConnectorContract(ConnectorContract):
    """What a connector promises when its source is reached over HTTP, for a `FakeSource` that plays the source."""

    source: ClassVar[type[FakeSource]]
    fake: FakeSource

    def fresh(self) -> Connector[Any]:
        """A connector to a new fake source, which is kept as ``self.fake``."""
        self.fake = self.source()
        return self.make(self.fake)

    def make(self, fake: FakeSource, sleeps: list[float] | None = None) -> Connector[Any]:
        """A connector to ``fake`` that notes its sleeps instead of sleeping."""
        slept = sleeps if sleeps is not None else []
        runtime = Runtime(transport=httpx.MockTransport(fake), sleep=slept.append, jitter=lambda: 0.5, environ={})
        return self.connector.configured(self.settings, runtime)

    def unreachable(self) -> Connector[Any]:
        """A source that answers 401 to everything."""
        connector = self.fresh()
        self.fake.refuse = True
        return connector

    def truth(self, stream: str) -> Truth:
        """The rows of the fake source."""
        return self.source().rows[stream]

    def known_streams(self) -> set[str]:
        """The streams of the fake source."""
        return set(self.source().rows)

    def touched(self) -> int:
        """Requests so far, tokens included."""
        return len(self.fake.requests)

    def first_stream(self) -> Stream:
        """A stream that is read without another; with a healthy source."""
        return next(s for s in self.streams() if not s.depends_on)

    def test_one_page_is_enough_for_the_first_batch(self) -> None:
        """Reading does not collect the whole list first."""
        stream = self.first_stream()
        connector = self.fresh()
        batches = connector.read(self.request(stream))
        next(iter(batches))
        assert self.fake.data_requests() <= 2

    def test_a_busy_source_is_waited_for(self) -> None:
        """As long as it asks for."""
        fake, sleeps = self.source(), list[float]()
        stream = self.first_stream()
        fake.stumble = [httpx.Response(503), httpx.Response(429, headers={"Retry-After": "7"})]
        batches = self.read(stream, connector=self.make(fake, sleeps))
        assert set(self.keys(stream, batches)) == set(self.wanted_keys(stream))
        assert 7.0 in sleeps
        assert len(sleeps) == 2

    def test_a_lost_connection_is_tried_again(self) -> None:
        """Networks stumble."""
        fake, stream = self.source(), self.first_stream()
        lost = [True]

        def handler(request: httpx.Request) -> httpx.Response:
            if lost.pop() if lost else False:
                raise httpx.ConnectError(f"cannot connect to {request.url}", request=request)
            return fake(request)

        runtime = Runtime(transport=httpx.MockTransport(handler), sleep=lambda _: None, environ={})
        batches = list(self.connector.configured(self.settings, runtime).read(self.request(stream)))
        assert set(self.keys(stream, batches)) == set(self.wanted_keys(stream))

    def test_a_dead_source_is_given_up(self) -> None:
        """After some patience, as something that may work later."""
        stream = self.first_stream()
        connector = self.fresh()
        self.fake.stumble = [httpx.Response(503)] * 500
        with pytest.raises(TransientError) as caught:
            self.read(stream, connector=connector)
        self.assert_silent(str(caught.value))

    def test_a_long_wait_is_handed_to_the_scheduler(self) -> None:
        """A worker does not sleep for an hour."""
        fake, sleeps = self.source(), list[float]()
        stream = self.first_stream()
        fake.stumble = [httpx.Response(429, headers={"Retry-After": "3600"})] * 500
        with pytest.raises(TransientError) as caught:
            self.read(stream, connector=self.make(fake, sleeps))
        assert caught.value.retry_after == 3600
        assert sum(sleeps) < 600

    def test_refusal_while_reading_is_an_error_without_secrets(self) -> None:
        """For the user to act on."""
        stream = self.first_stream()
        connector = self.unreachable()
        with pytest.raises(EltError) as caught:
            self.read(stream, connector=connector)
        assert not isinstance(caught.value, TransientError), "trying again will not help"
        self.assert_silent(str(caught.value))

    def test_a_login_page_is_not_data(self) -> None:
        """200 with HTML is a refusal, not an empty table."""
        stream = self.first_stream()
        connector = self.fresh()
        self.fake.stuck = httpx.Response(200, html="<!doctype html><html><body>Please sign in</body></html>")
        with pytest.raises(EltError):
            self.read(stream, connector=connector)

    def test_something_that_is_not_json_is_an_error(self) -> None:
        """Never an empty table."""
        stream = self.first_stream()
        connector = self.fresh()
        self.fake.stuck = httpx.Response(200, content=b'{"cut off": [', headers={"Content-Type": "application/json"})
        with pytest.raises(EltError) as caught:
            self.read(stream, connector=connector)
        assert "cut off" not in str(caught.value), "a message must not quote what the source sent"

    def test_pagination_never_goes_round_in_circles(self) -> None:
        """The same page over and over is an error."""
        stream = self.first_stream()
        connector = self.fresh()
        self.fake.stuck = self.fake.endless()
        with pytest.raises(EltError):
            self.read(stream, connector=connector)

    def test_a_link_to_another_host_is_not_followed(self) -> None:
        """The credentials would go with it."""
        stream = self.first_stream()
        connector = self.fresh()
        page = self.fake.elsewhere_page()
        if page is None:
            pytest.skip("the source has no links")
        self.fake.stuck = page
        with pytest.raises(SourceError):
            self.read(stream, connector=connector)
        assert len({r.url.host for r in self.fake.requests}) == 1

    def test_a_redirect_to_another_host_is_not_followed(self) -> None:
        """Neither."""
        stream = self.first_stream()
        connector = self.fresh()
        self.fake.stuck = httpx.Response(302, headers={"Location": "https://elsewhere.example/x"})
        with pytest.raises(EltError):
            self.read(stream, connector=connector)
        assert "elsewhere.example" not in {r.url.host for r in self.fake.requests}

    def test_no_secret_reaches_a_log(self) -> None:
        """Not even at the most talkative level."""
        with _everything_logged() as lines:
            for stream in self.streams():
                self.read(stream)
            connector = self.unreachable()
            with pytest.raises(EltError):
                self.read(self.first_stream_of(connector), connector=connector)
        self.assert_silent("\n".join(lines))

    def first_stream_of(self, connector: Connector[Any]) -> Stream:
        """The first stream again, asked of a healthy source."""
        fake, self.fake = self.fake, self.source()
        try:
            return self.first_stream()
        finally:
            self.fake = fake


@contextmanager
def _everything_logged() -> Iterator[list[str]]:
    """The text of every log record, whatever its level."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage() + str(record.exc_info or ""))

    root, handler = logging.getLogger(), Keep(level=0)
    level = root.level
    root.addHandler(handler)
    root.setLevel(1)
    try:
        yield lines
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
