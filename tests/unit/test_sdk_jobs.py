"""Submit, poll, download; CSV pages; columns put together; and what else REST connectors can say of their source."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pyarrow as pa
import pytest

from elt_dagster.errors import ConfigError, LimitError, SourceError, TransientError
from elt_dagster.model import Checkpoint, ReadRequest, Stream
from elt_dagster.model.types import TIMESTAMP_UTC
from elt_dagster.sdk import (
    Action,
    Budget,
    Call,
    Config,
    CsvParser,
    Cursor,
    Endpoint,
    Http,
    Job,
    JobApi,
    NextCursor,
    Parent,
    Quota,
    RestConnector,
    Rule,
    Runtime,
    StreamReader,
    nested,
    submitted,
    with_columns_of,
)

API = JobApi(
    look=Call(url="jobs/{job}"), done=frozenset({"done"}), failed=frozenset({"failed"}), id_at="report.id", state_at="status",
    cancel=Call(url="jobs/{job}/cancel", method="POST"), remove=Call(url="jobs/{job}", method="DELETE"),
    refused=(Rule(action=Action.IGNORE, status=frozenset({409})),), patience_seconds=30,
)  # fmt: skip


class Source:
    """A source of jobs: says ``states`` one after the other, and notes what it was asked."""

    def __init__(self, *states: str, submit: httpx.Response | None = None) -> None:
        self.states = list(states)
        self.submit = submit or httpx.Response(200, json={"report": {"id": 7}})
        self.asked: list[str] = []
        self.sleeps: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.path}")
        if request.url.path == "/jobs":
            return self.submit
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return httpx.Response(200, json={"status": state})

    def run(self, each: Callable[[Job], None] = lambda _: None) -> Job | None:
        runtime = Runtime(transport=httpx.MockTransport(self), sleep=self.sleeps.append)
        with (
            Http("https://api.test", title="Shop", runtime=runtime) as http,
            submitted(http, runtime, API, Call(url="jobs", method="POST", body={})) as job,
        ):
            for _ in job.wait() if job is not None else ():
                each(job)  # type: ignore[arg-type]
        return job


def test_a_job_is_waited_for_and_taken_away() -> None:
    source = Source("new", "running", "done")
    job = source.run()
    assert job is not None
    assert job.is_done
    assert source.asked == ["POST /jobs", "GET /jobs/7", "GET /jobs/7", "GET /jobs/7", "DELETE /jobs/7"]
    assert sum(source.sleeps) == pytest.approx(2 + 3)


def test_a_job_that_fails_says_so_and_is_not_cancelled() -> None:
    source = Source("running", "failed")
    job = source.run()
    assert job is not None
    assert job.is_failed
    assert "POST /jobs/7/cancel" not in source.asked


def test_what_cannot_be_done_by_a_job_is_none() -> None:
    source = Source("done", submit=httpx.Response(409))
    assert source.run() is None
    assert source.asked == ["POST /jobs"]


def test_a_job_that_takes_too_long_is_cancelled() -> None:
    source = Source("running")
    with pytest.raises(TransientError, match="was not done after"):
        source.run()
    assert source.asked[-2:] == ["POST /jobs/7/cancel", "DELETE /jobs/7"]
    assert sum(source.sleeps) < 60


def test_whoever_stops_waiting_hears_of_that_and_not_of_the_cleaning_up() -> None:
    source = Source("running")

    def stop(_: Job) -> None:
        source.states = ["?"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        source.run(stop)
    assert "POST /jobs/7/cancel" in source.asked


@pytest.mark.parametrize("answer", [{"report": {}}, {"report": {"id": ""}}, {"report": {"id": [1]}}])
def test_a_job_without_an_id_is_an_error(answer: dict[str, Any]) -> None:
    with pytest.raises(SourceError):
        Source("done", submit=httpx.Response(200, json=answer)).run()


# -- CSV pages ---------------------------------------------------------------------------------------------------------------

SCHEMA = pa.schema([
    ("id", pa.string()), ("n", pa.int64()), ("x", pa.float64()), ("b", pa.bool_()), ("at", TIMESTAMP_UTC), ("secret", pa.string()),
])  # fmt: skip
HEAD = '"id","n","x","b","at"\n'


def parsed(*pages: str, columns: tuple[str, ...] = ("id", "n", "x", "b", "at")) -> pa.RecordBatch:
    return CsvParser(SCHEMA, columns=columns).parse([p.encode() for p in pages])


def test_text_becomes_what_was_declared() -> None:
    batch = parsed(HEAD + '"NA","1","1.5","true","2026-02-03T04:05:06.000Z"\n', HEAD + '"nu\nll","","","",""\n')
    assert batch.to_pylist() == [
        {"id": "NA", "n": 1, "x": 1.5, "b": True, "at": datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)},
        {"id": "nu\nll", "n": None, "x": None, "b": None, "at": None},
    ]
    assert batch.schema == pa.schema([f for f in SCHEMA if f.name != "secret"])


def test_a_value_that_does_not_fit_makes_its_column_text_and_it_stays_so() -> None:
    parser = CsvParser(SCHEMA, columns=("id", "n"))
    assert parser.parse([b"id,n\na,1\n"]).schema.field("n").type == pa.int64()
    assert parser.parse([b"id,n\nb,many\n"]).column("n").to_pylist() == ["many"]
    assert parser.parse([b"id,n\nc,3\n"]).column("n").to_pylist() == ["3"]


def test_columns_that_nobody_declared_come_last_and_those_left_out_do_not() -> None:
    batch = parsed("id,secret,new\na,s3cret,4\n", columns=("id",))
    assert batch.schema.names == ["id", "new"]
    assert batch.column("new").to_pylist() == [4]


def test_rows_know_the_page_they_came_from() -> None:
    pages = [b"id\na\nb\n", b"", b"id\n", b"id\nc\n"]
    batch, origin = CsvParser(SCHEMA, columns=("id",)).parse_with_origin(pages)
    assert batch.num_rows == 3
    assert origin.to_pylist() == [0, 0, 3]


@pytest.mark.parametrize("page", [b'{"cut off": [', b"<html>\nsecret</html>\n", b"id,n\na,1,2,3\n", b"id\n\xff\xfe\n"])
def test_what_is_not_csv_is_an_error_that_quotes_nothing(page: bytes) -> None:
    with pytest.raises(SourceError) as caught:
        CsvParser(SCHEMA, columns=("id", "n")).parse([page])
    assert "cut" not in str(caught.value)
    assert "secret" not in str(caught.value)


# -- columns put together ----------------------------------------------------------------------------------------------------


def test_rows_of_two_answers_meet_by_their_key() -> None:
    one = pa.record_batch({"id": ["a", "b", "c"], "x": [1, 2, 3]})
    two = pa.record_batch({"id": ["c", "a"], "y": [30, 10]})
    assert with_columns_of(one, two, "id", ["y"]).column("y").to_pylist() == [10, None, 30]


def test_columns_become_objects_and_nothing_stays_nothing() -> None:
    found = nested({"city": pa.array(["Oslo", None]), "o'clock": pa.array([1.5, None])})
    assert [json.loads(t) if t else None for t in found.to_pylist()] == [{"city": "Oslo", "o'clock": 1.5}, None]


# -- what a REST connector can say ---------------------------------------------------------------------------------------------


class ShopConfig(Config):
    """Nothing."""


def shop(
    answer: Callable[[httpx.Request], httpx.Response], *endpoints: Endpoint, **more: Any
) -> RestConnector[ShopConfig]:
    class Shop(RestConnector[ShopConfig]):
        """A shop."""

        name = "shop"
        title = "Shop"
        base_url = "https://api.test/"

    Shop.endpoints = endpoints
    return Shop(ShopConfig(), Runtime(transport=httpx.MockTransport(answer), **{"sleep": lambda _: None, **more}))


def test_children_of_several_parents_are_asked_for_together() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/parents":
            return httpx.Response(200, json=[{"id": n} for n in range(7)] + [{"id": None}])
        asked.append(request.url.params["of"])
        return httpx.Response(200, json=[{"parent": int(n)} for n in asked[-1].split(",")])

    def of(call: Call, ids: Any) -> Call:
        return Call(url=call.url, params=(("of", ",".join(ids)),))

    parents = Endpoint(name="parents", path="parents")
    children = Endpoint(name="children", path="children", parent=Parent(stream="parents", together=3, asked_by=of))
    batches = shop(answer, parents, children).read(ReadRequest(stream=Stream(name="children")))
    assert [r["parent"] for b in batches for r in b.data.to_pylist()] == list(range(7))
    assert asked == ["0,1,2", "3,4,5", "6"]


def test_a_question_in_a_language_is_written_from_the_limits() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.params["q"])
        return httpx.Response(200, json=[{"at": 5}, {"at": 6}])

    def ask(limits: Any) -> Call:
        return Call(url="search", params=(("q", f"from {limits[0]} to {limits[1]}"),))

    things = Endpoint(name="things", path="search", ask=ask, cursor=Cursor(field="at", order="asc"))
    connector = shop(answer, things)
    request = ReadRequest(stream=Stream(name="things"), cursor_field="at", since=Checkpoint(5))
    with connector.http() as http:
        reader = StreamReader(connector, http, things)
        page = reader.peek(request)
        assert page is not None
        assert page.size("") == 2
        assert [b.data.num_rows for b in reader.read(request)] == [2]
    assert asked == ["from 5 to None"], "the page that was looked at is not asked for again"


def test_a_batch_is_completed_before_it_goes_out() -> None:
    def more(batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.append_column("double", pa.array([v * 2 for v in batch.column("n").to_pylist()]))

    connector = shop(lambda _: httpx.Response(200, json=[{"n": 4}]), Endpoint(name="t", path="t", complete=more))
    found = [r for b in connector.read(ReadRequest(stream=Stream(name="t"))) for r in b.data.to_pylist()]
    assert found == [{"n": 4, "double": 8}]


def test_csv_pages_are_followed_by_a_header_that_ends_with_a_word() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        at = int(request.url.params.get("locator", "0"))
        return httpx.Response(200, text=f"id\n{at}\n", headers={"Next": "null" if at == 2 else str(at + 1)})

    things = Endpoint(
        name="t", path="t", csv=True, schema=pa.schema([("id", pa.int64())]),
        pagination=NextCursor(param="locator", header="Next", end="null"),
    )  # fmt: skip
    batches = shop(answer, things).read(ReadRequest(stream=Stream(name="t", schema=things.schema)))
    assert [r["id"] for b in batches for r in b.data.to_pylist()] == [0, 1, 2]


def fetched(answer: httpx.Response, rule: Rule, sleeps: list[float], **more: Any) -> None:
    runtime = Runtime(transport=httpx.MockTransport(lambda _: answer), sleep=sleeps.append, jitter=lambda: 0.5, **more)
    with Http("https://api.test", title="Shop", runtime=runtime, rules=(rule,)) as http:
        http.fetch(Call(url="x"))


def test_a_rule_may_say_how_long_to_wait_and_that_a_quota_is_used_up() -> None:
    sleeps: list[float] = []
    rule = Rule(action=Action.RETRY, status=frozenset({403}), quota=True, wait_seconds=3600, message="It is used up.")
    with pytest.raises(LimitError, match="It is used up") as caught:
        fetched(httpx.Response(403), rule, sleeps)
    assert (caught.value.retry_after, sleeps) == (3600, [])
    with pytest.raises(TransientError):
        fetched(httpx.Response(400), Rule(action=Action.RETRY, status=frozenset({400}), wait_seconds=5), sleeps)
    assert sleeps == [5.0] * 6


def test_a_rule_may_blame_the_settings() -> None:
    rule = Rule(action=Action.CONFIG, status=frozenset({400}), message="Choose another field.")
    with pytest.raises(ConfigError, match="Choose another field"):
        fetched(httpx.Response(400), rule, [])


@pytest.mark.parametrize(
    ("body", "is_json"), [("[1]", True), (' {"a": 1}\n', True), ("<p>", False), ('{"a": [', False), ("", False)]
)
def test_a_rule_may_be_about_what_is_not_json(body: str, is_json: bool) -> None:
    assert Rule(action=Action.RETRY, not_json=True).matches(httpx.Response(200, text=body)) is not is_json


def test_a_vendors_own_words_for_its_quota_slow_down_and_go_on_doing_so() -> None:
    budget = Budget(quota=lambda headers: Quota(1000, float(headers["left"]), 86_400.0))
    budget.heard({"left": "900"}, 0.0)
    assert [budget.wait(0.0, 60) for _ in range(3)] == [0.0, 0.0, 0.0]
    for now in (10.0, 4000.0, 8000.0):  # what the ledger notes ends after an hour
        budget.heard({"left": "100"}, now)
        budget.wait(now, 1e9)
        assert budget.wait(now, 1e9) > 60
    budget.heard({"left": "0"}, 8000.0)
    assert budget.wait(8000.0, 60) == pytest.approx(3600, rel=0.1)


def test_every_page_of_a_wrong_kind_ends_a_csv_stream() -> None:
    things = Endpoint(name="t", path="t", csv=True, schema=pa.schema([("id", pa.int64())]))
    connector = shop(lambda _: httpx.Response(200, text="not what\nwas asked for\n"), things)

    def read() -> Iterator[Any]:
        yield from connector.read(ReadRequest(stream=Stream(name="t", schema=things.schema)))

    with pytest.raises(SourceError):
        list(read())
