"""A bulk download that is cut short is gone on with by the next run, page by page, if the job is still about the same rows."""

import json
from typing import Any

import httpx
import pytest

from elt_dagster.errors import TransientError
from elt_dagster.model import Batch, Checkpoint, ReadRequest, Stream, SyncMode
from elt_dagster.registry import load_connector
from elt_dagster.sdk import Connector, Runtime
from tests.contract.salesforce_org import DATA, SETTINGS, Org, SObject, fields, hours, key

Salesforce = load_connector("salesforce")


class World:
    """An org with 40 accounts in five pages, unsorted, the newest in the first page."""

    def __init__(self) -> None:
        found = SObject(fields(Id="id", IsDeleted="boolean", Name="string", SystemModstamp="datetime"))
        found.rows = [
            {"Id": key("001", n), "IsDeleted": False, "Name": f"n{n}", "SystemModstamp": hours(40 - n)}
            for n in range(40)
        ]
        self.org = Org({"Account": found})
        self.stream = self.connector().discover()["Account"]

    def connector(self) -> Connector[Any]:
        runtime = Runtime(transport=httpx.MockTransport(self.org), sleep=lambda _: None, environ={})
        return Salesforce.configured({**SETTINGS, "api_type": "bulk"}, runtime)

    def request(self, since: Checkpoint | None = None, mode: SyncMode = SyncMode.INCREMENTAL) -> ReadRequest:
        return ReadRequest(stream=self.stream, mode=mode, cursor_field=self.stream.cursor_field, since=since)

    def cut_short(self, mode: SyncMode = SyncMode.INCREMENTAL) -> list[Batch]:
        """The batches of a read that loses its connection for good after three pages."""

        seen: list[Batch] = []
        self.org.breaks_at = 3
        with pytest.raises(TransientError):
            seen.extend(self.connector().read(self.request(mode=mode)))
        self.org.breaks_at = None
        self.org.requests.clear()
        return seen

    def asked(self) -> list[str]:
        return [
            f"{r.method} {r.url.path.removeprefix(DATA).partition('/JOB')[0]} {r.url.params.get('locator', '')}".strip()
            for r in self.org.requests
            if "/jobs" in r.url.path
        ]


def ids(batches: list[Batch]) -> list[str]:
    return [i for b in batches for i in b.data.column("Id").to_pylist()]


def stored(batches: list[Batch]) -> Checkpoint:
    """The last checkpoint, as the warehouse keeps it."""
    found = [b.checkpoint for b in batches if b.checkpoint is not None][-1]
    return Checkpoint.from_json(json.loads(json.dumps(found.to_json())))


def test_the_next_run_goes_on_where_the_download_was_cut_short() -> None:
    world = World()
    first = world.cut_short()
    assert len(ids(first)) == 8, "the first page comes alone, the next ones together"
    since = stored(first)
    assert since.cursor is None, "nothing is complete up to any time yet"
    rest = list(world.connector().read(world.request(since)))
    assert sorted(ids(first) + ids(rest)) == [key("001", n) for n in range(40)], "each row once"
    assert not any(a.startswith("POST") for a in world.asked())
    assert world.asked()[-1].startswith("DELETE")
    assert stored(rest) == Checkpoint(hours(40)), "the newest row was in a page of the run before"
    assert not world.org.jobs


def test_a_job_that_is_gone_is_made_again() -> None:
    world = World()
    since = stored(world.cut_short())
    world.org.jobs.clear()
    rest = list(world.connector().read(world.request(since)))
    assert len(ids(rest)) == 40
    assert stored(rest) == Checkpoint(hours(40))


def test_a_job_about_other_columns_is_not_gone_on_with() -> None:
    world = World()
    since = stored(world.cut_short())
    world.org.objects["Account"].fields = fields(
        Id="id", IsDeleted="boolean", Name="string", New__c="string", SystemModstamp="datetime"
    )
    assert len(ids(list(world.connector().read(world.request(since))))) == 40


def test_a_full_refresh_leaves_no_job_behind() -> None:
    world = World()
    world.cut_short(mode=SyncMode.FULL_REFRESH)
    assert not world.org.jobs


def test_a_table_can_be_read_by_rest_after_a_download_was_cut_short() -> None:
    world = World()
    since = stored(world.cut_short())
    runtime = Runtime(transport=httpx.MockTransport(world.org), sleep=lambda _: None, environ={})
    connector = Salesforce.configured({**SETTINGS, "api_type": "rest"}, runtime)
    assert len(ids(list(connector.read(world.request(since))))) == 40


def test_another_stream_is_another_world() -> None:
    world = World()
    since = stored(world.cut_short())
    world.org.objects["Contact"] = world.org.objects["Account"]
    stream = Stream(name="Contact", schema=world.stream.schema, primary_key=("Id",), cursor_field="SystemModstamp")
    request = ReadRequest(stream=stream, mode=SyncMode.INCREMENTAL, cursor_field="SystemModstamp", since=since)
    assert len(ids(list(world.connector().read(request)))) == 40


def test_a_job_of_another_version_of_the_api_is_not_gone_on_with() -> None:
    world = World()
    since = stored(world.cut_short())
    older = set(world.org.jobs)

    def newer(request: httpx.Request) -> httpx.Response:
        if any(job in request.url.path for job in older):
            return httpx.Response(409, json=[{"errorCode": "API_ERROR", "message": "The job is of another version."}])
        path = request.url.path.replace("/v63.0", "/v62.0")
        return world.org(
            httpx.Request(
                request.method, request.url.copy_with(path=path), headers=request.headers, content=request.content
            )
        )

    runtime = Runtime(transport=httpx.MockTransport(newer), sleep=lambda _: None, environ={})
    connector = Salesforce.configured({**SETTINGS, "api_type": "bulk", "api_version": "63.0"}, runtime)
    rest = list(connector.read(world.request(since)))
    assert len(ids(rest)) == 40
    assert stored(rest) == Checkpoint(hours(40))
