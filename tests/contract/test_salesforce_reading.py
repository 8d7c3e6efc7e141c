"""What is particular to Salesforce: both ways to read, what one of them cannot do, what changes under our hands, and what it is patient with."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pyarrow as pa
import pytest

from elt_dagster.errors import AuthError, ConfigError, LimitError, NotFoundError, SourceError, TransientError
from elt_dagster.model import Batch, Checkpoint, ReadRequest, Stream, Window
from elt_dagster.registry import load_connector
from elt_dagster.sdk import Connector, Runtime
from tests.contract.salesforce_org import (
    DATA,
    SETTINGS,
    Org,
    Row,
    SObject,
    fields,
    hours,
    key,
    wide_object,
)

Salesforce = load_connector("salesforce")
NOW = datetime(2024, 6, 1, tzinfo=UTC)


class World:
    """An org, a connector to it, and the sleeps it wanted."""

    def __init__(self, org: Org | None = None, **settings: Any) -> None:
        self.org = org or Org()
        self.sleeps: list[float] = []
        self.clock = NOW
        self.connector = self.another(**settings)

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.clock += timedelta(seconds=seconds)

    def another(self, **settings: Any) -> Connector[Any]:
        runtime = Runtime(
            transport=httpx.MockTransport(self.org),
            sleep=self.sleep,
            jitter=lambda: 0.5,
            environ={},
            now=lambda: self.clock,
        )
        return Salesforce.configured({**SETTINGS, **settings}, runtime)

    def stream(self, name: str) -> Stream:
        return Salesforce.configured(
            {**SETTINGS, "objects": [name]}, Runtime(transport=httpx.MockTransport(self.org), environ={})
        ).discover()[name]

    def read(self, stream: Stream | str, **request: Any) -> list[Batch]:
        found = self.stream(stream) if isinstance(stream, str) else stream
        self.org.requests.clear()
        return list(
            self.connector.read(ReadRequest(**{"stream": found, "cursor_field": found.cursor_field, **request}))
        )

    def paths(self) -> list[str]:
        """What was asked after tokens and descriptions."""
        asked = [(r.method, r.url.path.removeprefix(DATA)) for r in self.org.requests]
        return [f"{m} {re.sub('750[0-9A-Z]+', 'JOB', p)}" for m, p in asked if "token" not in p and "describe" not in p]

    def queries(self) -> list[str]:
        """The SOQL that was sent."""
        return [str(r.url.params["q"]) for r in self.org.requests if "q" in r.url.params]


def rows(batches: list[Batch]) -> list[Row]:
    return [row for b in batches for row in b.data.to_pylist()]


def table(batches: list[Batch]) -> pa.Table:
    return pa.Table.from_batches([b.data for b in batches if b.data.num_rows]).sort_by("Id")


def many(count: int) -> dict[str, SObject]:
    found = SObject(fields(Id="id", IsDeleted="boolean", Name="string", SystemModstamp="datetime"))
    found.rows = [
        {"Id": key("001", n), "IsDeleted": False, "Name": f"n{n}", "SystemModstamp": hours(n // 3)}
        for n in range(count)
    ]
    return {"Account": found}


# -- what is offered ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_queried_whole_is_not_offered_and_the_rest_comes_by_name() -> None:
    names = [s.name for s in World().connector.discover()]
    assert names == [
        "Account",
        "AccountHistory",
        "ActivityFieldHistory",
        "Attachment",
        "ContentDocument",
        "ContentDocumentLink",
        "OrderStatus",
    ]


def test_objects_are_chosen_by_name_and_pattern() -> None:
    world = World(objects=["Account*", "Order*"])
    assert [s.name for s in world.connector.discover()] == ["Account", "AccountHistory", "OrderStatus"]
    asked = [r.url.path for r in world.org.requests if "describe" in r.url.path]
    assert len(asked) == 3, "only what is wanted is described"
    with pytest.raises(ConfigError, match="Nothing__c"):
        World(objects=["Nothing__c"]).connector.discover()


def test_types_keys_and_cursors_come_from_describe() -> None:
    catalog = World().connector.discover()
    account = catalog["Account"]
    assert account.schema is not None
    kinds = {f.name: str(f.type) for f in account.schema}
    assert kinds["AnnualRevenue"] == "double"
    assert kinds["NumberOfEmployees"] == "int64"
    assert kinds["BillingAddress"] == "extension<arrow.json>"
    assert (kinds["Opened__c"], kinds["Shift__c"], kinds["SystemModstamp"]) == (
        "date32[day]",
        "string",
        "timestamp[us, tz=UTC]",
    )
    assert (account.primary_key, account.deleted_field, account.selected) == (("Id",), "IsDeleted", True)
    assert account.cursor_fields == ("SystemModstamp", "LastModifiedDate", "CreatedDate")


def test_a_cursor_must_be_filterable_and_a_history_is_read_on_from_when_it_was_made() -> None:
    catalog = World().connector.discover()
    assert catalog["ActivityFieldHistory"].cursor_fields == ("CreatedDate",), "its SystemModstamp cannot be filtered on"
    assert catalog["AccountHistory"].cursor_field == "CreatedDate"
    assert catalog["OrderStatus"].cursor_field is None
    assert catalog["ContentDocumentLink"].depends_on == ("ContentDocument",)


def test_objects_are_described_side_by_side() -> None:
    world, together = World(), threading.Barrier(4)

    def answer(request: httpx.Request) -> httpx.Response:
        if "describe" in request.url.path and not together.broken:
            with suppress(threading.BrokenBarrierError):
                together.wait(timeout=5)
        return world.org(request)

    connector = Salesforce.configured(
        {**SETTINGS, "objects": ["A*", "C*"]}, Runtime(transport=httpx.MockTransport(answer), environ={})
    )
    world.org.objects |= {f"Custom{n}__c": many(0)["Account"] for n in range(2)}
    assert len(connector.discover()) == 8
    assert not together.broken


def test_an_object_that_is_refused_is_left_out() -> None:
    world = World()

    def answer(request: httpx.Request) -> httpx.Response:
        if "Attachment/describe" in request.url.path:
            return httpx.Response(403, json=[{"errorCode": "INSUFFICIENT_ACCESS", "message": "no"}])
        return world.org(request)

    connector = Salesforce.configured(SETTINGS, Runtime(transport=httpx.MockTransport(answer), environ={}))
    assert "Attachment" not in connector.discover()
    assert "Account" in connector.discover()


# -- what is asked -----------------------------------------------------------------------------------------------------------


def test_an_incremental_read_begins_before_the_checkpoint_and_is_sorted() -> None:
    world = World()
    world.read("Account", since=Checkpoint(hours(5)))
    assert len(world.queries()) == 1
    assert world.queries()[0].endswith(
        "FROM Account WHERE SystemModstamp >= 2024-01-01T04:50:00.000Z ORDER BY SystemModstamp ASC, Id ASC"
    )


def test_a_window_is_half_open() -> None:
    world = World()
    found = rows(world.read("Account", window=Window(hours(3), hours(6)), columns=("Id", "SystemModstamp")))
    assert world.queries()[0].endswith(
        "WHERE SystemModstamp >= 2024-01-01T03:00:00.000Z AND SystemModstamp < 2024-01-01T06:00:00.000Z ORDER BY SystemModstamp ASC, Id ASC"
    )
    assert {r["SystemModstamp"] for r in found} == {hours(3), hours(4), hours(5)}


def test_the_windows_of_a_history_lose_nothing_by_either_way() -> None:
    for way in ("rest", "bulk"):
        world = World(api_type=way)
        stream = world.stream("Account")
        found: list[str] = []
        for start in range(0, 16, 4):
            found += [r["Id"] for r in rows(world.read(stream, window=Window(hours(start), hours(start + 4))))]
        assert sorted(found) == sorted(r["Id"] for r in world.org.objects["Account"].rows)


def test_the_first_read_begins_at_the_start_date() -> None:
    world = World(start_date="2024-01-01")
    world.read("Account")
    assert "SystemModstamp >= 2024-01-01T00:00:00.000Z" in world.queries()[0]
    world.read("Account", settings={"start_date": "2024-03-01"})
    assert "SystemModstamp >= 2024-03-01T00:00:00.000Z" in world.queries()[0], "a sync may have its own"
    world = World()
    world.read("Account")
    assert "WHERE" not in world.queries()[0], "without one, everything is read"


def test_deleted_rows_come_with_their_mark_and_never_without_it() -> None:
    world = World()
    stream = world.stream("Account")
    marked = rows(world.read(stream))
    assert len(marked) == 30
    assert sum(r["IsDeleted"] for r in marked) == 4
    assert world.paths()[0] == "GET /queryAll"
    living = rows(world.read(stream, columns=("Id", "Name", "SystemModstamp")))
    assert len(living) == 26, "without the column that says so, a deleted row would look like a living one"
    assert world.paths()[0] == "GET /query"


def test_links_are_asked_for_by_groups_of_documents() -> None:
    world = World()
    world.org.objects["ContentDocument"] = SObject(
        fields(Id="id", SystemModstamp="datetime"),
        [{"Id": key("069", n), "SystemModstamp": hours(1)} for n in range(450)],
    )
    world.org.page_size = 200
    assert len(rows(world.read("ContentDocumentLink"))) == 40
    asked = [q for q in world.queries() if "ContentDocumentLink" in q]
    assert len(asked) == 3
    assert all(q.count("AAA") <= 200 for q in asked)
    world.read("ContentDocumentLink", since=Checkpoint(hours(30)))
    assert "AND SystemModstamp >= 2024-01-02T05:50:00.000Z" in world.queries()[-1]


def test_an_object_with_very_many_fields_is_put_together_from_shares() -> None:
    world = World(Org({"Wide__c": wide_object(20, 330)}))
    found = rows(world.read("Wide__c"))
    assert sorted(found, key=lambda r: r["Id"]) == world.org.objects["Wide__c"].rows
    assert list(found[0]) == world.org.objects["Wide__c"].names
    assert max(len(str(r.url)) for r in world.org.requests) < 14_000
    assert any("WHERE Id IN (" in q for q in world.queries())


# -- REST or bulk ------------------------------------------------------------------------------------------------------------

LIFE = ["GET /queryAll", "POST /jobs/query", "GET /jobs/query/JOB", "GET /jobs/query/JOB/results"]


def test_few_rows_are_read_by_rest_without_another_question() -> None:
    world = World(Org(many(6)))
    assert len(rows(world.read("Account"))) == 6
    assert world.paths() == ["GET /queryAll"]


def test_many_rows_are_read_by_a_job_that_is_taken_away_afterwards() -> None:
    world = World(Org(many(20)), bulk_from_rows=20)
    assert len(rows(world.read("Account"))) == 20
    assert world.paths() == [*LIFE, LIFE[-1], LIFE[-1], "DELETE /jobs/query/JOB"]
    assert not world.org.jobs


@pytest.mark.parametrize("most", [20, 2_000], ids=["bulk", "rest"])
def test_how_many_there_are_is_told_once_when_all_are_read(most: int) -> None:
    world = World(Org(many(20)), bulk_from_rows=most)
    whole = world.read("Account")
    assert whole[0].counts["estimated_rows"] == 20
    assert not any("estimated_rows" in batch.counts for batch in whole[1:])
    rest = world.read("Account", since=Checkpoint(hours(4)))
    assert rest
    assert not any("estimated_rows" in batch.counts for batch in rest)


def test_a_preview_waits_for_no_job() -> None:
    world = World(Org(many(20)), api_type="bulk")
    assert len(rows(world.read("Account", at_most=5))) == 20
    assert not any("jobs" in p for p in world.paths())


def test_how_much_there_is_in_the_window_decides_not_how_much_there_is() -> None:
    world = World(Org(many(60)), bulk_from_rows=20)
    world.read("Account", since=Checkpoint(hours(18)))
    assert world.paths() == ["GET /queryAll"]


@pytest.mark.parametrize(
    "refusal",
    [
        {"errorCode": "INVALIDENTITY", "message": "Entity 'X' is not supported by the Bulk API."},
        {"errorCode": "FEATURENOTENABLED", "message": "Bulk API is not enabled"},
    ],
)
def test_what_bulk_refuses_is_read_by_rest(refusal: dict[str, Any]) -> None:
    world = World(api_type="bulk")
    world.org.refuses_bulk = refusal
    assert len(rows(world.read("Account"))) == 30
    assert "POST /jobs/query" in world.paths()


def test_a_failed_job_is_replaced_by_rest_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    world = World(api_type="bulk")
    world.org.fails_jobs = "Failed"
    assert len(rows(world.read("Account"))) == 30
    assert not world.org.jobs
    assert "Account cannot be read by a bulk job (QUERY_TIMEOUT)" in caplog.text
    assert "SELECT" not in caplog.text


def test_a_job_that_somebody_aborted_is_not_done_in_another_way() -> None:
    world = World(api_type="bulk")
    world.org.fails_jobs = "Aborted"
    with pytest.raises(SourceError, match="aborted"):
        world.read("Account")


@pytest.mark.parametrize("name", ["Attachment", "ContentDocumentLink"])
def test_files_and_what_bulk_does_not_know_are_read_by_rest_at_once(name: str) -> None:
    world = World(api_type="bulk")
    assert rows(world.read(name))
    assert not any("jobs" in p for p in world.paths())


def test_both_ways_bring_the_same_table() -> None:
    by_rest, by_bulk = World(api_type="rest"), World(api_type="bulk")
    first, second = table(by_rest.read("Account")), table(by_bulk.read("Account"))
    assert first.schema == second.schema
    one, two = first.to_pylist(), second.to_pylist()
    for row in (*one, *two):
        row["BillingAddress"] = None if row["BillingAddress"] is None else json.loads(row["BillingAddress"])
    assert one == two
    assert one[0]["BillingAddress"]["city"] == "Oslo"
    assert one[4]["BillingAddress"] is None


def test_the_parts_of_an_address_do_not_come_uninvited() -> None:
    world = World(api_type="bulk")
    batches = world.read("Account", columns=("Id", "BillingAddress", "SystemModstamp"))
    assert batches[0].data.schema.names == ["Id", "BillingAddress", "SystemModstamp"]
    assert "Oslo" in rows(batches)[0]["BillingAddress"]


def test_a_job_is_waited_for_ever_less_often() -> None:
    world = World(api_type="bulk")
    world.org.polls = 6
    assert len(rows(world.read("Account"))) == 30
    assert sum(world.sleeps) == pytest.approx(2 + 3 + 4.5 + 6.75 + 10 + 10)
    assert max(world.sleeps) <= 1.0, "nobody sleeps through a cancel"


def test_a_job_that_nobody_waits_for_any_more_is_cancelled() -> None:
    world = World(api_type="bulk")
    world.org.polls = 1000
    stream = world.stream("Account")
    batches = world.connector.read(ReadRequest(stream=stream, cursor_field=stream.cursor_field))
    assert next(iter(batches)).data.num_rows == 0
    batches.close()  # type: ignore[attr-defined]
    assert world.paths()[-2:] == ["PATCH /jobs/query/JOB", "DELETE /jobs/query/JOB"]
    assert not world.org.jobs


def test_a_download_that_breaks_off_is_asked_for_again_by_its_locator() -> None:
    class Broken(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield b'"Id","IsDel'
            raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")

    world = World(api_type="bulk")
    world.org.drops = [lambda _: httpx.Response(200, stream=Broken())]
    found = rows(world.read("Account"))
    assert len({r["Id"] for r in found}) == len(found) == 30
    asked = [r.url.params.get("locator") for r in world.org.requests if r.url.path.endswith("results")]
    assert len(asked) == 5
    assert len(set(asked)) == 4


def test_a_download_that_lost_rows_is_no_success() -> None:
    world = World(api_type="bulk")
    world.org.drops = [
        lambda _: httpx.Response(200, text='"Id","SystemModstamp"\n', headers={"Sforce-Locator": "null"})
    ]
    stream = world.stream("Account")
    seen: list[Batch] = []
    with pytest.raises(TransientError, match="Of 30 rows"):
        seen += world.connector.read(ReadRequest(stream=stream, cursor_field=stream.cursor_field))
    assert all(b.checkpoint.cursor is None for b in seen if b.checkpoint)


# -- what changes under our hands ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["rest", "bulk"])
def test_fields_that_are_new_come_last_and_fields_that_are_gone_are_left_out(way: str) -> None:
    world = World(Org(many(9)), api_type=way)
    stream = world.stream("Account")
    found = world.org.objects["Account"]
    found.fields = fields(Id="id", Since__c="datetime", IsDeleted="boolean", SystemModstamp="datetime")
    found.rows = [{**r, "Since__c": hours(1)} for r in found.rows]
    names = tuple(stream.schema.names) if stream.schema is not None else ()
    batches = world.read(stream, columns=names)
    assert batches[0].data.schema.names == ["Id", "IsDeleted", "SystemModstamp", "Since__c"]
    assert str(batches[0].data.schema.field("Since__c").type) == "timestamp[us, tz=UTC]"
    assert rows(batches)[0]["Since__c"] == hours(1)


@pytest.mark.parametrize("way", ["rest", "bulk"])
def test_a_field_that_becomes_text_takes_its_column_along_and_loses_nothing(way: str) -> None:
    objects = many(9)
    objects["Account"].fields = fields(Id="id", IsDeleted="boolean", Name="double", SystemModstamp="datetime")
    for n, row in enumerate(objects["Account"].rows):
        row["Name"] = float(n)
    world = World(Org(objects), api_type=way)
    stream = world.stream("Account")
    assert rows(world.read(stream))[3]["Name"] == 3.0
    objects["Account"].fields = fields(Id="id", IsDeleted="boolean", Name="string", SystemModstamp="datetime")
    for n, row in enumerate(objects["Account"].rows):
        row["Name"] = f"number {n}"
    assert [r["Name"] for r in rows(world.read(stream))] == [f"number {n}" for n in range(9)]


def test_a_cursor_that_is_gone_is_named() -> None:
    world = World(Org(many(3)))
    stream = world.stream("Account")
    world.org.objects["Account"].fields = fields(Id="id", Name="string")
    with pytest.raises(ConfigError, match="SystemModstamp"):
        world.read(stream)


def test_an_object_that_is_gone_or_was_never_there_is_named() -> None:
    with pytest.raises(NotFoundError, match="Account"):
        World(Org({})).read(Stream(name="Account"))
    world = World()
    with pytest.raises(NotFoundError, match="drop"):
        world.read(Stream(name="x/../../drop table"))
    assert not [p for p in world.paths() if "drop" in p]


# -- limits and errors ---------------------------------------------------------------------------------------------------------


def test_a_used_up_quota_stops_the_read_without_another_try() -> None:
    world = World(Org(many(30)))
    stream = world.stream("Account")
    world.org.most = world.org.used + 3
    world.connector = world.another(max_quota_percent=100)
    batches: list[Batch] = []
    with pytest.raises(LimitError) as caught:
        batches += world.connector.read(ReadRequest(stream=stream, cursor_field="SystemModstamp"))
    assert caught.value.reason == "rate_limited"
    assert caught.value.retry_after is not None
    assert caught.value.retry_after > 600
    assert len([p for p in world.paths() if "query" in p]) <= 3


def test_what_was_read_before_the_quota_was_used_up_can_be_kept() -> None:
    world = World(Org(many(30)), api_type="rest")
    stream = world.stream("Account")
    world.org.requests.clear()
    seen: list[Batch] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        if "01g" in request.url.path and request.url.path.endswith("-16"):
            return httpx.Response(
                403, json=[{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "TotalRequests Limit exceeded."}]
            )
        return world.org(request)

    connector = Salesforce.configured(
        SETTINGS, Runtime(transport=httpx.MockTransport(refuse), sleep=world.sleeps.append, environ={})
    )
    with pytest.raises(LimitError):
        seen.extend(connector.read(ReadRequest(stream=stream, cursor_field="SystemModstamp")))
    assert seen[-1].checkpoint is not None
    rest = rows(
        list(
            World(world.org).connector.read(
                ReadRequest(stream=stream, cursor_field="SystemModstamp", since=seen[-1].checkpoint)
            )
        )
    )
    assert {r["Id"] for r in (*rows(seen), *rest)} == {r["Id"] for r in world.org.objects["Account"].rows}
    assert not world.sleeps


def test_from_four_fifths_on_it_slows_down() -> None:
    world = World(Org(many(60)), api_type="rest")
    stream = world.stream("Account")
    world.org.most, world.org.used = 100_000, 79_000
    world.read(stream)
    assert not world.sleeps
    world.org.used = 80_000
    world.read(stream)
    # 10,000 are left for us, for a day: one every 8.64 seconds
    assert world.sleeps
    assert all(8 < s < 10 for s in world.sleeps)


def test_at_all_of_our_share_it_stops_until_later() -> None:
    world = World(Org(many(60)), api_type="rest", max_quota_percent=50)
    stream = world.stream("Account")
    world.org.most, world.org.used = 100_000, 50_001
    with pytest.raises(LimitError):
        world.read(stream)


@pytest.mark.parametrize(
    ("header", "percent", "left"),
    [
        ("api-usage=10018/100000", 90, 89_982),
        ("api-usage=79999/100000; api-bursts=1/750", 90, 20_001),
        ("per-app-api-usage=17/250(appName=x); api-usage=80000/100000", 90, 10_000),
        ("api-usage=39999/100000", 50, 60_001),
        ("api-usage=40000/100000", 50, 10_000),
        ("per-app-api-usage=249/250(appName=x)", 90, None),
        ("", 90, None),
    ],
)
def test_the_quota_of_the_org_is_read_and_no_other(header: str, percent: float, left: float | None) -> None:
    found = World(max_quota_percent=percent).connector.quota(httpx.Headers({"Sforce-Limit-Info": header}))  # type: ignore[attr-defined]
    assert (found.remaining if found is not None else None) == left


def refused(status: int, code: str, message: str = "what we must not show") -> httpx.Response:
    return httpx.Response(status, json=[{"errorCode": code, "message": message, "fields": []}])


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refused(400, "INVALID_FIELD"), ConfigError),
        (refused(400, "INVALID_TYPE"), ConfigError),
        (refused(403, "INSUFFICIENT_ACCESS"), ConfigError),
        (refused(403, "API_DISABLED_FOR_ORG"), ConfigError),
        (refused(403, "TXN_SECURITY_METERING_ERROR"), ConfigError),
        (refused(401, "INVALID_SESSION_ID"), AuthError),
        (refused(403, "SOMETHING_ELSE"), AuthError),
        (refused(400, "LIMIT_EXCEEDED"), LimitError),
        (refused(403, "REQUEST_LIMIT_EXCEEDED", "ConcurrentPerOrgLongTxn Limit exceeded."), TransientError),
        (refused(400, "INVALID_QUERY_LOCATOR"), TransientError),
        (refused(503, "SERVER_UNAVAILABLE"), TransientError),
        (httpx.Response(406), TransientError),
        (httpx.Response(420, text="setting things up"), TransientError),
        (httpx.Response(200, text="half a {"), TransientError),
    ],
    ids=lambda v: f"{v.status_code} {v.text[:60]}" if isinstance(v, httpx.Response) else v.__name__,
)
def test_every_refusal_is_the_error_of_whoever_has_to_act(answer: httpx.Response, error: type[Exception]) -> None:
    world = World(api_type="rest")
    stream = world.stream("Account")
    world.org.stuck = answer
    with pytest.raises(error) as caught:
        world.read(stream)
    assert "must not show" not in str(caught.value)
    assert "SELECT" not in str(caught.value)


def test_a_used_up_bulk_quota_stops_too() -> None:
    world = World(api_type="bulk")
    world.org.refuses_bulk = {"errorCode": "LIMIT_EXCEEDED", "message": "x"}
    with pytest.raises(LimitError):
        world.read("Account")


def test_words_in_the_rows_are_not_errors() -> None:
    world = World(Org(many(3)))
    world.org.objects["Account"].rows[0]["Name"] = "REQUEST_LIMIT_EXCEEDED INVALID_FIELD INVALIDENTITY"
    assert len(rows(world.read("Account"))) == 3
    assert len(rows(World(world.org, api_type="bulk").read("Account"))) == 3


def test_check_tells_how_much_of_the_quota_is_used() -> None:
    found = World().connector.check()
    assert found.ok
    assert found.message == "acme.my.salesforce.com answered. 1 of 1000000 requests of the last 24 hours are used."


def test_nothing_is_lost_at_the_edges_of_milliseconds() -> None:
    odd = hours(1) + timedelta(microseconds=1500)
    world = World()
    world.read("Account", window=Window(odd, odd + timedelta(hours=1)))
    assert ">= 2024-01-01T01:00:00.001Z AND" in world.queries()[0]
    assert "< 2024-01-01T02:00:00.002Z ORDER" in world.queries()[0]
