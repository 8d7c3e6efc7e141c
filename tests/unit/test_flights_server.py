"""The example's API and files, with four flights instead of 336,776; and its YAML against the connectors it names."""

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from elt_dagster.model import Project
from elt_dagster.registry import connector_names, load_connector
from examples import flights_server
from examples.flights_data import Flights
from examples.flights_server import Api, BadRequestError

STAMPS = [f"2013-01-0{day}T00:00:00.000000Z" for day in (1, 2, 2, 3)]


class FewFlights:
    """Answers like `Flights`."""

    def flights(self) -> pa.Table:
        return pa.table({"json": [json.dumps({"n": i}) + "," for i in range(4)], "updated_at": STAMPS})

    def airlines(self) -> pa.Table:
        return pa.table({"json": ['{"carrier":"UA"}']})

    def routes(self) -> pa.Table:
        return pa.table({"carrier": ["AA", "UA", "UA"], "json": ['{"dest":"x"}', '{"dest":"y"}', '{"dest":"z"}']})

    def planes(self) -> pa.Table:
        return pa.table({"tailnum": ["N1"]})

    def airports(self) -> pa.Table:
        return pa.table({"json": ['{"faa":"JFK"}']})

    def weather(self, start: str, end: str) -> pa.Table:
        return pa.table({"start": [start], "end": [end]})


@pytest.fixture(scope="module")
def api() -> Api:
    return Api.of(cast("Flights", FewFlights()))


def numbers(api: Api, **parameters: str) -> tuple[list[int], str | None]:
    page = json.loads(api.answer("/flights", parameters) or b"")
    return [record["n"] for record in page["data"]], page["next_cursor"]


def test_pages_lead_through_every_record_once(api: Api) -> None:
    seen, cursor = numbers(api, page_size="3")
    assert seen == [0, 1, 2]
    assert cursor is not None
    assert numbers(api, page_size="3", cursor=cursor) == ([3], None)


@pytest.mark.parametrize(
    ("since", "first"),
    [("2013-01-02T00:00:00Z", 1), ("2013-01-02T01:00:00 01:00", 1), ("2013-01-02T00:00:00.000001Z", 3), ("2014-01-01", 4), ("2012-01-01", 0)],
)  # fmt: skip
def test_the_filter_is_inclusive(api: Api, since: str, first: int) -> None:
    assert numbers(api, updated_since=since) == (list(range(first, 4)), None)


@pytest.mark.parametrize(
    "parameters", [{"page_size": "0"}, {"page_size": "x"}, {"cursor": "?"}, {"updated_since": "May"}, {"since": "2013"}]
)
def test_a_wrong_parameter_is_refused(api: Api, parameters: dict[str, str]) -> None:
    with pytest.raises(BadRequestError):
        api.answer("/flights", parameters)


def test_routes_hang_on_their_airline(api: Api) -> None:
    assert json.loads(api.answer("/airlines/UA/routes", {}) or b"")["data"] == [{"dest": "y"}, {"dest": "z"}]
    assert api.answer("/airlines/XX/routes", {}) is None


@pytest.fixture
def client(api: Api) -> Iterator[http.client.HTTPConnection]:
    server = flights_server.serve(api, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    server.shutdown()
    server.server_close()
    thread.join()


def test_one_connection_serves_several_requests(client: http.client.HTTPConnection) -> None:
    for path, status in [
        ("/airlines", 200),
        ("/nothing", 404),
        ("/flights?page_size=0", 400),
        ("/flights?page_size=1", 200),
    ]:
        client.request("GET", path)
        answer = client.getresponse()
        assert (answer.status, bool(json.loads(answer.read()))) == (status, True)
    client.close()


def test_each_release_adds_one_weather_file_and_touches_no_other(tmp_path: Path) -> None:
    data = cast("Flights", FewFlights())
    flights_server.write_files(data, tmp_path, 0)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    flights_server.write_files(data, tmp_path, 1)
    after = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert len(before) == 2 + 11
    assert {p.name for p in after.keys() - before.keys()} == {"2013-12-01.parquet"}
    assert before.items() <= after.items()
    added = pq.read_table(tmp_path / "weather" / "2013-12-01.parquet").to_pylist()
    assert added == [{"start": "2013-12-01", "end": "2013-12-03"}]


def test_the_yaml_is_what_the_connectors_take() -> None:
    text: Any = yaml.safe_load((Path(flights_server.__file__).parent / "flights.yaml").read_text())
    project = Project.model_validate(text)
    sources = [c for c in project.connections if c.connector in connector_names()]
    assert [c.connector for c in sources] == ["http_api", "files"]
    offered = {c.name: {s["name"] for s in c.config["streams"]} for c in sources}
    for spec in sources:
        load_connector(spec.connector).configured(spec.config)
    for sync in project.syncs:
        assert {b.name for b in sync.streams} == offered[sync.connection]
