"""Answers that would not end: a source, or its token endpoint, fills no memory and keeps no worker."""

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import pytest
from pydantic import SecretStr

from elt_dagster.api.services import PATIENCE
from elt_dagster.errors import EltError, SourceError, TransientError
from elt_dagster.sdk.auth_oauth import OAuth2, OAuthClient
from elt_dagster.sdk.bounded import TOKEN_BYTES
from elt_dagster.sdk.connector import Runtime
from elt_dagster.sdk.http import Http
from elt_dagster.sdk.pages import Call

Answer = Callable[[httpx.Request], httpx.Response]


@dataclass
class Endless(httpx.SyncByteStream):
    """The same part again and again, for ten thousand times at most."""

    part: bytes
    sent: int = 0
    closed: bool = False

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(10_000):
            self.sent += len(self.part)
            yield self.part

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock is a second later."""
    seconds = iter(range(1_000_000))
    monkeypatch.setattr("elt_dagster.sdk.bounded.time.monotonic", lambda: float(next(seconds)))


def http(answer: Answer, auth: httpx.Auth | None = None, **bounds: float) -> Http:
    runtime = Runtime(transport=httpx.MockTransport(answer), sleep=lambda _: None, environ={}, **bounds)  # type: ignore[arg-type]  # numbers
    return Http("https://api.example/", title="The shop", runtime=runtime, auth=auth, retries=0)


def test_an_answer_without_end_is_left(clock: None) -> None:
    stream = Endless(b"x" * 1000)
    with (
        http(lambda _: httpx.Response(200, stream=stream), max_answer_bytes=50_000) as shop,
        pytest.raises(SourceError, match="more than 50,000 bytes"),
    ):
        shop.fetch(Call(url="rows"))
    assert stream.closed
    assert stream.sent < 60_000


def test_what_is_small_on_the_wire_and_large_in_memory_is_left_too() -> None:
    stream = Endless(gzip.compress(b"0" * 10_000_000))
    answer = httpx.Response(200, headers={"content-encoding": "gzip"}, stream=stream)
    with http(lambda _: answer, max_answer_bytes=1_000_000) as shop, pytest.raises(SourceError, match="more than"):
        shop.fetch(Call(url="rows"))
    assert stream.sent < 100_000


def test_an_answer_that_only_drips_is_not_waited_for(clock: None) -> None:
    stream = Endless(b"x")
    with (
        http(lambda _: httpx.Response(200, stream=stream), max_answer_seconds=20) as shop,
        pytest.raises(TransientError, match="more than 20 s"),
    ):
        shop.fetch(Call(url="rows"))
    assert stream.sent < 30


def test_what_is_whole_comes_decoded_and_with_its_headers() -> None:
    rows = b'[{"name": "sm\xc3\xb8rrebr\xc3\xb8d"}]'
    headers = {"content-encoding": "gzip", "x-next": "2", "content-type": "application/json"}
    with http(lambda _: httpx.Response(200, headers=headers, content=gzip.compress(rows))) as shop:
        answer = shop.fetch(Call(url="rows"))
    assert (answer.content, answer.headers["x-next"]) == (rows, "2")


@pytest.mark.parametrize("at_once", [True, False], ids=["sign-in", "with-a-request"])
@pytest.mark.parametrize(
    ("part", "error"), [(b"x" * 100_000, SourceError), (b" ", TransientError)], ids=["large", "dripping"]
)
def test_a_token_endpoint_is_not_waited_for_and_fills_nothing(
    part: bytes, error: type[EltError], at_once: bool, clock: None
) -> None:
    stream = Endless(part)
    client = OAuthClient(token_url="https://login.example/token", client_id="c", client_secret=SecretStr("s"))
    auth = OAuth2(client, "client_credentials")
    with http(lambda _: httpx.Response(200, stream=stream), auth) as shop, pytest.raises(error):
        shop.sign_in(auth) if at_once else shop.fetch(Call(url="rows"))
    assert stream.closed
    assert stream.sent <= TOKEN_BYTES + len(part)


def test_a_refusal_before_a_new_token_is_read_to_its_end_only_if_it_has_one(clock: None) -> None:
    stream = Endless(b"x" * 100_000)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/token":
            return httpx.Response(200, json={"access_token": "t"})
        return httpx.Response(401, stream=stream)

    client = OAuthClient(token_url="https://api.example/token", client_id="c", client_secret=SecretStr("s"))
    with http(answer, OAuth2(client, "client_credentials")) as shop, pytest.raises(SourceError):
        shop.fetch(Call(url="rows"))
    assert stream.sent <= TOKEN_BYTES + 100_000


def test_a_server_waits_less_than_a_run() -> None:
    usual = Runtime()
    for name, bound in PATIENCE.items():
        assert bound < getattr(usual, name), name
