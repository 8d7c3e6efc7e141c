"""The client: patient where that is safe, the server's words as our errors, lists a page at a time."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from elt_dagster.client import Client
from elt_dagster.errors import (
    AuthError,
    ConfigError,
    ConflictError,
    DestinationError,
    EltError,
    LimitError,
    NotFoundError,
    SourceError,
    TransientError,
)

URL = "http://elt.example"
RUN = {"id": "r1", "syncId": "s1", "status": "running", "runMode": "incremental", "triggeredBy": "api"}
SYNC = {
    "id": "s1", "slug": "shop", "name": "Shop", "status": "active", "providerKey": "shelf", "connectionId": "c1", "triggerMode": "manual",
    "executionMode": "sequential", "executionBackend": "native",
}  # fmt: skip
Answer = Callable[[httpx.Request], httpx.Response]


class Server:
    """Plays prepared answers; the last one stays. Remembers what was asked, and how long was slept."""

    def __init__(self, *answers: httpx.Response | Exception | Answer) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []
        self.slept: list[float] = []

    def client(self, **options: Any) -> Client:
        return Client(URL, "key-1", transport=httpx.MockTransport(self._answer), sleep=self.slept.append, **options)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer


def said(status: int, body: Any = None, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return (
        httpx.Response(status, json=body, headers=named) if body is not None else httpx.Response(status, headers=named)
    )


def test_a_request_that_is_refused_for_now_is_sent_again_when_the_server_says() -> None:
    server = Server(said(429, {"detail": "slow"}, retry_after="7"), said(503, {}), said(200, SYNC))
    with server.client() as client:
        assert client.syncs.get("s1").slug == "shop"
    assert server.slept[0] == 7
    assert 1 <= server.slept[1] <= 2
    assert {r.headers["x-api-key"] for r in server.asked} == {"key-1"}


def test_a_server_that_stays_busy_is_given_up_with_what_it_said() -> None:
    server = Server(said(429, {"error": "This key may send 60 requests a minute."}, retry_after="9999"))
    with server.client(retries=2) as client, pytest.raises(LimitError, match="60 requests") as caught:
        client.syncs.get("s1")
    assert caught.value.retry_after == 9999
    assert server.slept == [60, 60]


def test_a_post_whose_answer_was_lost_is_sent_again_under_the_same_idempotency_key() -> None:
    server = Server(httpx.ReadTimeout("lost"), httpx.ConnectError("lost"), said(200, RUN))
    with server.client() as client:
        client.runs.trigger("s1")
        client.runs.trigger("s1")
    keys = [r.headers["idempotency-key"] for r in server.asked]
    assert len(set(keys[:3])) == 1
    assert keys[3] != keys[0]


def test_a_sync_that_dagster_is_about_to_load_is_waited_for_and_a_source_that_is_away_for_long_is_not() -> None:
    server = Server(said(424, {"detail": "not loaded yet"}, retry_after="5"), said(200, RUN))
    with server.client() as client:
        client.runs.trigger("s1")
    assert server.slept == [5]
    with Server(said(424, {"detail": "away"}, retry_after="600")).client() as client, pytest.raises(TransientError):
        client.runs.trigger("s1")


def test_reads_carry_no_idempotency_key() -> None:
    server = Server(said(200, SYNC))
    with server.client() as client:
        client.syncs.get("s1")
    assert "idempotency-key" not in server.asked[0].headers


def test_a_delete_whose_answer_was_lost_is_done_when_nothing_is_left() -> None:
    with Server(httpx.ReadError("lost"), said(404, {"detail": "gone"})).client() as client:
        client.syncs.delete("s1")
    with Server(said(404, {"detail": "never was"})).client() as client, pytest.raises(NotFoundError):
        client.syncs.delete("s1")


def test_a_server_that_is_not_there_is_a_transient_error_that_names_the_host_only() -> None:
    server = Server(httpx.ConnectError("nobody"))
    with server.client(retries=1) as client, pytest.raises(TransientError, match=r"elt\.example") as caught:
        client.connections.settings("c1", {"token": "canary-1"})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (401, {"error_code": "unauthorized", "message": "The key is unknown."}, AuthError, "The key is unknown."),
        (404, {"detail": "There is no sync."}, NotFoundError, "There is no sync."),
        (400, {"error_code": "invalid_request", "message": "/name: too long"}, ConfigError, "/name: too long"),
        (413, {"error": "The body is too large."}, ConfigError, "too large"),
        (422, {"detail": [{"loc": ["body", "name"], "msg": "is empty", "type": "x"}]}, ConfigError, "name: is empty"),
        (412, {"detail": "It was changed meanwhile."}, ConflictError, "changed meanwhile"),
        (424, {"error_code": "auth_failed", "message": "Refused."}, AuthError, "Refused."),
        (424, {"error_code": "source_error", "message": "Odd."}, SourceError, "Odd."),
        (424, {"error_code": "destination_error", "message": "No."}, DestinationError, "No."),
        (424, {"error_code": "rate_limited", "message": "Slow."}, LimitError, "Slow."),
        (424, {"detail": "Dagster is away."}, TransientError, "Dagster is away."),
        (500, {"error": "Ours."}, TransientError, "Ours."),
        (418, None, ConfigError, "answered 418"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_of_our_errors_with_the_servers_words(
    status: int, body: Any, kind: type[EltError], text: str
) -> None:
    with Server(said(status, body)).client() as client, pytest.raises(EltError, match=text) as caught:
        client.syncs.get("s1")
    assert type(caught.value) is kind


def test_a_validation_error_says_where() -> None:
    body = {"detail": [{"loc": ["body", "tableBindings", 1, "cursorField"], "msg": "no such column", "type": "x"}]}
    with Server(said(422, body)).client() as client, pytest.raises(ConfigError) as caught:
        client.syncs.create(connection_id="c1", name="n")
    assert caught.value.details == [(("body", "tableBindings", 1, "cursorField"), "no such column")]


@pytest.mark.parametrize("field", ["conflict_id", "conflictId"])
def test_a_conflict_names_what_is_in_the_way(field: str) -> None:
    with (
        Server(said(409, {"message": "Taken.", field: "s9"})).client() as client,
        pytest.raises(ConflictError) as caught,
    ):
        client.syncs.create(connection_id="c1", name="n")
    assert caught.value.with_id == "s9"


def test_a_stream_that_is_being_loaded_names_the_run_and_not_its_part() -> None:
    body = {"error_code": "conflict", "message": "Busy.", "active_run_id": "r7.b3"}
    with Server(said(409, body)).client() as client, pytest.raises(ConflictError) as caught:
        client.streams.request_run("b3")
    assert caught.value.with_id == "r7"


def test_a_list_is_fetched_a_page_at_a_time_and_only_as_far_as_it_is_read() -> None:
    def page(request: httpx.Request) -> httpx.Response:
        offset = int(request.url.params["offset"])
        rows = [{**SYNC, "id": f"s{offset + i}"} for i in range(2)]
        return said(200, {"syncs": rows, "hasNext": offset < 4, "limit": 2, "offset": offset, "total": 6})

    server = Server(page)
    with server.client() as client:
        found = client.syncs.list(status=["active", "draft"], q="x")
        assert server.asked == []
        assert next(found).id == "s0"
        assert len(server.asked) == 1
        assert [s.id for s in found] == ["s1", "s2", "s3", "s4", "s5"]
    assert len(server.asked) == 3
    assert server.asked[0].url.params.get_list("status") == ["active", "draft"]


def test_a_list_with_cursors_ends_where_the_server_says_so() -> None:
    pages = {
        None: {"data": [{"id": "1", "label": "a", "integration_id": "x"}], "has_more": True, "next_cursor": "1"},
        "1": {"data": [{"id": "2", "label": "b", "integration_id": "x"}], "has_more": False, "next_cursor": None},
    }
    server = Server(lambda request: said(200, pages[request.url.params.get("starting_after")]))
    with server.client() as client:
        assert [c.label for c in client.connections.list()] == ["a", "b"]


def test_waiting_for_a_run_ends_with_the_run_or_with_patience() -> None:
    server = Server(said(200, RUN), said(200, RUN), said(200, {**RUN, "status": "failed", "resultClass": "partial"}))
    with server.client() as client:
        assert client.runs.wait("r1").result_class == "partial"
    assert server.slept == [1.0, 1.0]
    with Server(said(200, RUN)).client() as client, pytest.raises(TransientError, match="running"):
        client.runs.wait("r1", timeout=0)


def test_fields_are_written_as_the_dialect_writes_them_and_settings_are_left_alone() -> None:
    server = Server(said(201, SYNC))
    with server.client() as client:
        client.syncs.create(
            connection_id="c1", name="n", source_config={"my_setting": 1}, table_bindings=[{"entity_key": "orders", "load_mode": "merge"}]
        )  # fmt: skip
    assert json.loads(server.asked[0].content) == {
        "connectionId": "c1", "name": "n", "sourceConfig": {"my_setting": 1}, "tableBindings": [{"entityKey": "orders", "loadMode": "merge"}],
    }  # fmt: skip


def test_an_id_stays_one_part_of_the_address() -> None:
    server = Server(said(404, {"detail": "no"}))
    with server.client() as client, pytest.raises(NotFoundError):
        client.syncs.get("../../healthz?x=1")
    assert server.asked[0].url.raw_path == b"/api/v1/syncs/..%2F..%2Fhealthz%3Fx%3D1"


def test_the_key_goes_nowhere_else() -> None:
    server = Server(said(302, {}, location="http://elsewhere.example/"))
    with server.client() as client, pytest.raises(ConfigError, match="redirects"):
        client.syncs.get("s1")
    assert len(server.asked) == 1


@pytest.mark.parametrize("url", ["", "elt.example:8000", "ftp://elt.example", "http://", "http://999.1.1.1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="address"):
        Client(url, "key-1")


@pytest.mark.parametrize("key", ["", "with\nbreak", "kéy"])
def test_a_key_that_no_header_can_hold_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Client(URL, key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize(
    "answer", [httpx.Response(200, text="<html>hello</html>"), said(200, {"id": "canary-2"}), said(200, [])]
)
def test_what_is_no_answer_of_ours_is_told_without_repeating_it(answer: httpx.Response) -> None:
    with Server(answer).client() as client, pytest.raises(SourceError) as caught:
        client.syncs.get("s1")
    assert "canary" not in str(caught.value)
    assert "hello" not in str(caught.value)
