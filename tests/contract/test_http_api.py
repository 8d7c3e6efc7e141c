"""http_api keeps the contract, for a declaration that uses most of what can be declared; and what is particular to it."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from elt_dagster.errors import AuthError, ConfigError, SourceError, TransientError
from elt_dagster.model import Batch, Checkpoint, ReadRequest, Stream, Window
from elt_dagster.registry import load_connector
from elt_dagster.sdk import Connector, Document, Runtime
from elt_dagster.testing import HttpConnectorContract
from tests.contract.shop import CUSTOMERS, EVENTS, KEY, ORDERS, ShopSource

HttpApi = load_connector("http_api")
LINES = [{"line": f"{o['id']}-{k}", "quantity": k + 1, "order_id": o["id"]} for o in ORDERS for k in range(2)]
ORDER_STREAM: dict[str, Any] = {
    "name": "orders", "path": "orders", "records_at": "data", "primary_key": ["id"],
    "cursor": {"field": "updated_at", "param": "since"},
}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "base_url": "https://shop.example/v1",
    "auth": {"type": "api_key", "api_key": KEY, "name": "X-Api-Key"},
    "streams": [
        ORDER_STREAM,
        {
            "name": "events", "path": "events", "records_at": "events", "primary_key": ["seq"],
            "pagination": {"type": "page", "page_size": 15, "short_page": True},
            "cursor": {"field": "at", "param": "after", "format": "epoch", "order": "asc"},
            "schema": {"seq": "int64", "at": "int64", "kind": "string"},
        },
        {
            "name": "customers", "path": "customers", "primary_key": ["id"], "pagination": {"type": "offset", "page_size": 5},
            "cursor": {"field": "joined"},
        },
        {
            "name": "lines", "path": "orders/{parent.id}/lines", "primary_key": ["line"], "pagination": {"type": "none"},
            "parent": {"stream": "orders", "include": {"order_id": "id"}},
        },
    ],
}  # fmt: skip


class ApiSource(ShopSource):
    """The shop with a child stream below its orders."""

    @property
    def rows(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        return {"orders": ORDERS, "events": EVENTS, "customers": CUSTOMERS, "lines": LINES}

    def answer(self, request: httpx.Request) -> httpx.Response:
        parts = request.url.path.split("/")
        if parts[-1] == "lines":
            own = [
                {k: v for k, v in line.items() if k != "order_id"} for line in LINES if line["order_id"] == parts[-2]
            ]
            return httpx.Response(200, json=own)
        return super().answer(request)


class TestHttpApi(HttpConnectorContract):
    """The free tests."""

    connector = HttpApi
    settings = SETTINGS
    source = ApiSource


# -- what is particular to it --------------------------------------------------------------------------------------------------


class Api:
    """An API of one or two lines: a function from request to answer; notes the requests and the sleeps."""

    def __init__(self, answer: Callable[[httpx.Request], Any]) -> None:
        self.answer = answer
        self.requests: list[httpx.Request] = []
        self.sleeps: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        assert len(self.requests) < 100, "too many requests"
        found = self.answer(request)
        return found if isinstance(found, httpx.Response) else httpx.Response(200, json=found)

    def connector(self, *streams: dict[str, Any], **settings: Any) -> Connector[Any]:
        runtime = Runtime(
            transport=httpx.MockTransport(self), sleep=self.sleeps.append, jitter=lambda: 0.5,
            now=lambda: datetime(2025, 1, 1, tzinfo=UTC),
        )  # fmt: skip
        return HttpApi.configured({"base_url": "https://api.test", "streams": list(streams), **settings}, runtime)

    def read(
        self, stream: dict[str, Any], *others: dict[str, Any], request: dict[str, Any] | None = None, **settings: Any
    ) -> list[Batch]:
        asked = ReadRequest(**{"stream": Stream(name=stream["name"]), **(request or {})})
        return list(self.connector(stream, *others, **settings).read(asked))


def rows(batches: list[Batch]) -> list[dict[str, Any]]:
    return [row for b in batches for row in b.data.to_pylist()]


def params(request: httpx.Request) -> dict[str, str]:
    return dict(request.url.params)


def test_the_alias_finds_it() -> None:
    assert load_connector("rest_api") is HttpApi


def test_children_are_read_for_every_page_of_the_parents() -> None:
    def answer(request: httpx.Request) -> Any:
        if request.url.path == "/teams":
            page = int(params(request)["page"])
            return [{"id": page * 10 + k, "name": f"t{page}"} for k in range(3)] if page <= 3 else []
        team = request.url.path.split("/")[2]
        return [{"user": f"{team}-{k}"} for k in range(2)]

    teams = {"name": "teams", "path": "teams", "pagination": {"type": "page"}}
    users = {
        "name": "users", "path": "teams/{parent.id}/users", "pagination": {"type": "none"},
        "parent": {"stream": "teams", "include": {"team_id": "id", "team": "name"}},
    }  # fmt: skip
    found = rows(Api(answer).read(users, teams))
    assert len(found) == 18
    assert {(r["team_id"], r["team"]) for r in found} == {(p * 10 + k, f"t{p}") for p in (1, 2, 3) for k in range(3)}
    assert all(r["user"].startswith(f"{r['team_id']}-") for r in found)


def test_a_parent_that_is_gone_fails_unless_told_otherwise() -> None:
    def answer(request: httpx.Request) -> Any:
        if request.url.path == "/teams":
            return [{"id": 1}, {"id": 2}]
        return httpx.Response(404) if "/1/" in request.url.path else [{"user": "x"}]

    teams = {"name": "teams", "path": "teams"}
    users = {"name": "users", "path": "teams/{parent.id}/users", "parent": {"stream": "teams"}}
    with pytest.raises(SourceError, match="404"):
        Api(answer).read(users, teams)
    patient = {**users, "parent": {"stream": "teams", "on_missing": "ignore"}}
    batches = Api(answer).read(patient, teams)
    assert [r["user"] for r in rows(batches)] == ["x"]
    assert sum(b.counts.get("ignored_answers", 0) for b in batches) == 1


def test_the_value_of_a_parent_cannot_leave_its_place_in_the_path() -> None:
    def answer(request: httpx.Request) -> Any:
        return [{"id": "../../admin?x=1#"}] if request.url.path == "/teams" else [{"user": "x"}]

    api = Api(answer)
    api.read(
        {"name": "u", "path": "t/{parent.id}/u", "parent": {"stream": "teams"}}, {"name": "teams", "path": "teams"}
    )
    assert api.requests[-1].url.raw_path == b"/t/..%2F..%2Fadmin%3Fx%3D1%23/u"


def test_a_source_that_cannot_filter_is_filtered_here_and_left_early() -> None:
    def answer(request: httpx.Request) -> Any:
        page = int(params(request)["page"])
        return (
            [{"id": n, "at": f"2024-01-{n:02d}T00:00:00Z"} for n in range(28 - page * 4, 24 - page * 4, -1)]
            if page < 6
            else []
        )

    stream = {
        "name": "news", "path": "news", "pagination": {"type": "page"}, "cursor": {"field": "at", "order": "desc", "client_filter": True},
    }  # fmt: skip
    api = Api(answer)
    since = Checkpoint(datetime(2024, 1, 20, tzinfo=UTC))
    batches = api.read(stream, request={"cursor_field": "at", "since": since})
    assert [r["id"] for r in rows(batches)] == [24, 23, 22, 21, 20]
    assert batches[-1].checkpoint == Checkpoint(datetime(2024, 1, 24, tzinfo=UTC))
    assert len(api.requests) == 2


def test_a_window_is_asked_for_and_cut_exactly() -> None:
    def answer(request: httpx.Request) -> Any:
        return [{"id": n, "at": f"2024-01-{n:02d}T00:00:00Z"} for n in range(9, 16)]

    stream = {"name": "x", "path": "x", "cursor": {"field": "at", "param": "from", "end_param": "to", "format": "date"}}
    api = Api(answer)
    window = Window(datetime(2024, 1, 10, tzinfo=UTC), datetime(2024, 1, 12, 6, tzinfo=UTC))
    batches = api.read(stream, request={"window": window})
    assert params(api.requests[0]) == {"from": "2024-01-10", "to": "2024-01-13"}
    assert [r["id"] for r in rows(batches)] == [10, 11, 12]
    assert not any(b.checkpoint for b in batches)


@pytest.mark.parametrize(
    ("cursor", "sent"),
    [
        ({"format": "epoch"}, "1704067200"),
        ({"format": "epoch_ms"}, "1704067200000"),
        ({"format": "date"}, "2024-01-01"),
        ({"format": "%d.%m.%Y"}, "01.01.2024"),
        ({"lookback_seconds": 3600}, "2023-12-31T23:00:00Z"),
        ({"exclusive": True}, "2023-12-31T23:59:59Z"),
    ],
)
def test_the_start_is_sent_in_the_words_of_the_source(cursor: dict[str, Any], sent: str) -> None:
    api = Api(lambda _: [])
    stream = {"name": "x", "path": "x", "cursor": {"field": "at", "param": "since", **cursor}}
    api.read(stream, request={"cursor_field": "at", "since": Checkpoint(datetime(2024, 1, 1, tzinfo=UTC))})
    assert params(api.requests[0])["since"] == sent


def test_start_and_page_can_be_sent_in_the_body() -> None:
    def answer(request: httpx.Request) -> Any:
        after = json.loads(request.content)["variables"].get("after")
        return {"data": {"list": {"edges": [{"node": {"id": 2 if after else 1}}], "end": None if after else "c1"}}}

    api = Api(answer)
    stream = {
        "name": "x", "path": "graphql", "method": "POST", "body": {"query": "q", "variables": {"first": 1}},
        "records_at": "data.list.edges[*].node",
        "pagination": {"type": "cursor", "at": "data.list.end", "param": "variables.after", "into": "body"},
        "cursor": {"field": "id", "param": "variables.since", "inject_into": "body"},
    }  # fmt: skip
    found = rows(api.read(stream, request={"cursor_field": "id", "since": Checkpoint(1)}))
    assert [r["id"] for r in found] == [1, 2]
    assert json.loads(api.requests[1].content) == {"query": "q", "variables": {"first": 1, "since": 1, "after": "c1"}}


def test_columns_nobody_declared_are_added_and_values_that_do_not_fit_widen() -> None:
    pages = [[{"id": 1, "n": 1}], [{"id": 2, "n": 2.5, "new": {"a": [1]}}], [{"id": 3, "n": "many", "new": None}], []]
    stream = {"name": "x", "path": "x", "pagination": {"type": "page"}, "schema": {"id": "int64", "n": "int64"}}
    found = rows(Api(lambda r: pages[int(params(r)["page"]) - 1]).read(stream))
    assert [r["id"] for r in found] == [1, 2, 3]
    assert [str(r["n"]) for r in found] == ["1", "2.5", "many"]
    assert json.loads(found[1]["new"]) == {"a": [1]}


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'{"data": null}', b'{"data": []}', b"{}"])
def test_an_empty_answer_is_no_rows(body: bytes) -> None:
    assert (
        rows(Api(lambda _: httpx.Response(200, content=body)).read({"name": "x", "path": "x", "records_at": "data"}))
        == []
    )


def test_an_error_inside_a_good_answer_is_an_error() -> None:
    with pytest.raises(SourceError, match="error"):
        Api(lambda _: {"error": {"text": "no such report"}}).read({"name": "x", "path": "x", "records_at": "data"})


def test_rules_decide_about_unusual_answers() -> None:
    busy = [httpx.Response(200, json={"status": "try later"}), httpx.Response(200, json={"items": [{"id": 1}]})]
    api = Api(lambda _: busy.pop(0))
    stream = {
        "name": "x",
        "path": "x",
        "records_at": "items",
        "errors": [{"body_contains": "try later", "action": "retry"}],
    }
    assert rows(api.read(stream)) == [{"id": 1}]
    assert len(api.sleeps) == 1

    ignore = {"name": "x", "path": "x", "errors": [{"status": [404], "action": "ignore"}]}
    assert Api(lambda _: httpx.Response(404)).read(ignore) == []
    auth = {
        "name": "x",
        "path": "x",
        "errors": [{"status": [400], "body_matches": "key.*expired", "action": "auth", "message": "Renew it."}],
    }
    with pytest.raises(AuthError, match="Renew it"):
        Api(lambda _: httpx.Response(400, text="your key has expired")).read(auth)


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "3"}, 3.0),
        ({"Retry-After": "Wed, 01 Jan 2025 00:00:09 GMT"}, 9.0),
        ({"X-RateLimit-Reset": "1735689620"}, 20.0),
        ({"X-RateLimit-Reset": "5"}, 5.0),
        ({}, 0.75),
    ],
)
def test_a_busy_source_says_when_to_come_back(headers: dict[str, str], wait: float) -> None:
    answers = [httpx.Response(429, headers=headers), httpx.Response(200, json=[{"id": 1}])]
    api = Api(lambda _: answers.pop(0))
    assert rows(api.read({"name": "x", "path": "x"})) == [{"id": 1}]
    assert api.sleeps == [wait]


def test_403_with_a_used_up_budget_is_busy_and_a_long_wait_is_handed_on() -> None:
    api = Api(lambda _: httpx.Response(403, headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1735693200"}))
    with pytest.raises(TransientError) as caught:
        api.read({"name": "x", "path": "x"})
    assert caught.value.retry_after == 3600
    assert api.sleeps == []


@pytest.mark.parametrize(("status", "remedy"), [(429, "wants fewer requests"), (503, "busy or in trouble")])
def test_a_source_that_stays_busy_says_what_to_do(status: int, remedy: str) -> None:
    api = Api(lambda _: httpx.Response(status, text="canary"))
    with pytest.raises(TransientError, match=rf"answered {status} to GET /x\. .*{remedy}") as caught:
        api.read({"name": "x", "path": "x"})
    assert "canary" not in str(caught.value)


def test_a_request_budget_is_kept() -> None:
    api = Api(lambda r: [{"id": params(r)["page"]}] if int(params(r)["page"]) < 4 else [])
    api.read({"name": "x", "path": "x", "pagination": {"type": "page"}}, requests_per_second=2)
    assert api.sleeps == [0.5, 1.0, 1.5]  # the clock of the test stands still


def test_auto_refuses_to_stop_at_the_first_of_many_pages() -> None:
    with pytest.raises(SourceError, match="has_more"):
        Api(lambda _: {"data": [{"id": 1}], "has_more": True}).read({"name": "x", "path": "x", "records_at": "data"})


def test_a_dictionary_of_records_keeps_its_keys() -> None:
    stream = {"name": "x", "path": "x", "records_at": "rates.*", "key_as": "currency"}
    assert rows(Api(lambda _: {"rates": {"EUR": {"rate": 1.5}, "DKK": {"rate": 7}}}).read(stream)) == [
        {"currency": "EUR", "rate": 1.5}, {"currency": "DKK", "rate": 7.0},
    ]  # fmt: skip


def test_lists_in_parameters_repeat_the_name() -> None:
    api = Api(lambda _: [])
    api.read({"name": "x", "path": "x?fixed=1", "params": {"id": [1, 2], "filter[a]": "x y", "on": True}})
    assert api.requests[0].url.params.multi_items() == [
        ("fixed", "1"),
        ("id", "1"),
        ("id", "2"),
        ("filter[a]", "x y"),
        ("on", "true"),
    ]


def test_json_lines_and_forgotten_compression_and_other_charsets() -> None:
    import gzip

    lines = b'{"id": 1}\n\n{"id": 2}\n'
    assert rows(
        Api(lambda _: httpx.Response(200, content=lines)).read({"name": "x", "path": "x", "format": "json_lines"})
    ) == [{"id": 1}, {"id": 2}]
    packed = gzip.compress(b'[{"id": 1}]')
    assert rows(Api(lambda _: httpx.Response(200, content=packed)).read({"name": "x", "path": "x"})) == [{"id": 1}]
    latin = httpx.Response(
        200, content='[{"id": "ø"}]'.encode("latin-1"), headers={"Content-Type": "application/json; charset=latin-1"}
    )
    assert rows(Api(lambda _: latin).read({"name": "x", "path": "x"})) == [{"id": "ø"}]


def test_a_checkpoint_of_a_list_without_order_does_not_pass_the_first_answer() -> None:
    api = Api(
        lambda _: httpx.Response(
            200, json=[{"at": "2024-06-02T00:00:00Z"}], headers={"Date": "Sat, 01 Jun 2024 00:00:00 GMT"}
        )
    )
    stream = {"name": "x", "path": "x", "cursor": {"field": "at", "param": "since"}}
    assert api.read(stream, request={"cursor_field": "at"})[-1].checkpoint == Checkpoint(
        datetime(2024, 6, 1, tzinfo=UTC)
    )


def test_rows_without_a_cursor_are_counted() -> None:
    stream = {"name": "x", "path": "x", "cursor": {"field": "at", "param": "since"}}
    batches = Api(lambda _: [{"id": 1, "at": 5}, {"id": 2, "at": None}]).read(stream, request={"cursor_field": "at"})
    assert len(rows(batches)) == 2
    assert batches[0].counts == {"null_cursor_rows": 1}
    assert batches[-1].checkpoint == Checkpoint(5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_url": "ftp://x"}, "base_url"),
        ({"auth": {"type": "magic"}}, "auth"),
        ({"auth": {"type": "oauth2", "token_url": "https://x", "grant": "refresh_token"}}, "refresh_token"),
        ({"streams": []}, "streams"),
        ({"streams": [{"name": "a", "path": "a"}, {"name": "a", "path": "b"}]}, "two streams"),
        ({"streams": [{"name": "a", "path": "a", "parent": {"stream": "bb"}}]}, "does not exist"),
        ({"streams": [{"name": "a", "path": "a", "parent": {"stream": "a"}}]}, "circles"),
        ({"streams": [{"name": "a", "path": "a", "schema": {"id": "int"}}]}, "no column type"),
        ({"streams": [{"name": "a", "path": "a", "records_at": "a[x]"}]}, "not a path"),
        ({"streams": [{"name": "a", "path": "a", "pagination": {"type": "cursor"}}]}, "exactly one"),
        ({"streams": [{"name": "a", "path": "a", "errors": [{"action": "fail"}]}]}, "status"),
    ],
)
def test_a_wrong_declaration_is_explained(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HttpApi.configured({**SETTINGS, **change})


def test_discover_refuses_a_cursor_that_is_missing_or_cannot_be_ordered() -> None:
    for field, message in (("att", "Did you mean 'at'"), ("flag", "cannot be ordered")):
        api = Api(lambda _: [{"at": 1, "flag": True}])
        with pytest.raises(ConfigError, match=message):
            api.connector({"name": "x", "path": "x", "cursor": {"field": field}}).discover()


def test_discover_asks_for_no_more_than_a_page_of_each_stream() -> None:
    api = Api(lambda r: {"data": [{"id": 1}], "next": "/x?page=2"})
    found = api.connector(
        {"name": "x", "path": "x", "records_at": "data"}, {"name": "y", "path": "y", "records_at": "data"}
    ).discover()
    assert [s.name for s in found] == ["x", "y"]
    assert len(api.requests) == 2


def test_a_stream_that_cannot_be_sampled_does_not_hide_the_others() -> None:
    api = Api(lambda r: httpx.Response(404) if r.url.path == "/y" else [{"id": 1}])
    found = {s.name: s.schema for s in api.connector({"name": "x", "path": "x"}, {"name": "y", "path": "y"}).discover()}
    assert found["y"] is None
    assert found["x"] is not None


def test_a_new_type_of_cursor_is_an_error_with_a_way_out() -> None:
    stream = {"name": "x", "path": "x", "cursor": {"field": "at", "param": "since"}}
    with pytest.raises(SourceError, match="in full"):
        Api(lambda _: [{"at": "soon"}]).read(stream, request={"cursor_field": "at", "since": Checkpoint(5)})


def test_a_redirect_on_the_same_host_is_followed_with_its_body() -> None:
    def answer(request: httpx.Request) -> Any:
        if request.url.path == "/x":
            return httpx.Response(308, headers={"Location": "/z"})
        return [json.loads(request.content)]

    found = rows(Api(answer).read({"name": "x", "path": "x", "method": "POST", "body": {"a": 1}}))
    assert found == [{"a": 1}]


def test_records_never_become_python_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    import elt_dagster.sdk.json as module

    unpacked: list[Any] = []
    plain = module._plain

    def noted(value: Any) -> Any:
        unpacked.append(plain(value))
        return unpacked[-1]

    monkeypatch.setattr(module, "_plain", noted)
    stream = {
        "name": "x",
        "path": "x",
        "records_at": "data",
        "pagination": {"type": "cursor", "at": "next", "param": "c"},
    }
    pages = [{"data": [{"id": 1}], "next": "c2"}, {"data": [{"id": 2}], "next": None}]
    found = rows(Api(lambda _: pages.pop(0)).read(stream))
    assert [r["id"] for r in found] == [1, 2]
    assert not [v for v in unpacked if isinstance(v, list | dict)]


def test_pages_that_wait_to_be_parsed_together_are_bytes_and_not_trees() -> None:
    import gc

    alive: list[int] = []

    def answer(request: httpx.Request) -> Any:
        alive.append(sum(isinstance(o, Document) for o in gc.get_objects()))
        page = int(params(request).get("c", "0"))
        return {"data": [{"id": page}], "next": page + 1 if page < 20 else None}

    cursor = {"type": "cursor", "at": "next", "param": "c"}
    batches = Api(answer).read({"name": "x", "path": "x", "records_at": "data", "pagination": cursor})
    assert [b.data.num_rows for b in batches] == [1, 20]
    assert max(alive) - alive[0] <= 1
