"""The Connect dialect over a real Dagster: the guide's six steps, and the rows that come of them."""

import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from elt_dagster.api.app import create_app
from elt_dagster.api.services import Services
from elt_dagster.orchestration.runs import open_runs
from tests.integration.dagster_project import CANARY, REPOSITORY, WARM_DEFINITIONS, ShopProject

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShopProject]:
    """A store with two connections and no sync."""
    project = ShopProject.make(tmp_path_factory.mktemp("connect"))
    shutil.copy(REPOSITORY / "workspace.yaml", project.folder)
    shutil.copy(WARM_DEFINITIONS, project.folder / "definitions.py")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in project.environ().items():
            patch.setenv(name, value)
        patch.delenv("ELT_DAGSTER_WEBSERVER_URL", raising=False)
        patch.chdir(project.folder)
        yield project


@pytest.fixture(scope="module")
def client(project: ShopProject) -> Iterator[TestClient]:
    _, key = project.store.api_keys.create(name="guide")
    with open_runs() as runs:
        app = create_app(Services(store=project.store, runs=runs))
        yield TestClient(app, headers={"x-api-key": key})


def ask(client: TestClient, method: str, path: str, status: int = 200, **request: Any) -> Any:
    answer = client.request(method, path, **request)
    assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
    assert CANARY not in answer.text
    return answer.json() if answer.content else None


def wait(client: TestClient, path: str, until: Callable[[Any], bool]) -> Any:
    """What ``path`` answers as soon as it is as it should be."""
    end = time.monotonic() + 90
    while not until(found := ask(client, "GET", path)):
        assert time.monotonic() < end, found
        time.sleep(0.3)
    return found


def test_the_guides_six_steps_end_in_a_table_and_its_runs_can_be_followed(
    project: ShopProject, client: TestClient
) -> None:
    connection = next(c for c in ask(client, "GET", "/connections")["data"] if c["integration_id"] == "scripted")
    assert ask(client, "GET", f"/connections/{connection['id']}/settings")["type"] == "object"
    body = {"connection_id": connection["id"], "destination_schema_name": "raw_guide", "sync_interval": "0 3 1 1 *"}
    sync = ask(client, "POST", "/elt_syncs", 201, json=body)
    offered = ask(client, "GET", f"/elt_syncs/{connection['id']}/source_streams")["data"]
    assert [s["name"] for s in offered] == ["public.orders", "public.customers", "public.items"]
    chosen = [{"name": "public.orders"}, {"name": "public.customers", "hashed_columns": ["email"]}]
    path = f"/elt_syncs/{sync['id']}"
    added = ask(client, "POST", f"{path}/source_streams", 201, json={"source_streams": chosen})["source_streams"]
    orders, customers = (s["id"] for s in added)
    ask(client, "POST", f"{path}/start", 204)
    assert ask(client, "GET", path)["status"] == "RUNNING"

    runs = f"/elt_stream_runs?elt_stream_id={orders}"
    (run,) = wait(client, runs, lambda page: page["data"] and page["data"][0]["finished_at"])["data"]
    assert (run["status"], run["rows_synced"], run["elt_sync_id"]) == ("COMPLETED", 3, sync["id"])
    wait(
        client, f"{path}/status", lambda s: all(x["latest_sync"] and not x["active_sync"] for x in s["source_streams"])
    )
    assert project.rows("SELECT count(*) FROM raw_guide.orders") == [(3,)]
    assert project.rows("SELECT DISTINCT length(email) FROM raw_guide.customers") == [(64,)]
    first, second = ask(client, "GET", f"{path}/status")["source_streams"]
    assert (first["name"], first["latest_sync"]["status"]) == ("public.orders", "COMPLETED")
    assert (first["latest_sync"]["full_sync_trigger"], first["latest_sync"]["records_synced"]) == ("INITIAL_SYNC", 3)
    assert (second["latest_sync"]["operation_mode"], second["latest_sync"]["full_sync_trigger"]) == (
        "FULL",
        "ALWAYS_FULL",
    )

    # a mark starts nothing; the next run reads everything again, once
    ask(client, "POST", f"/elt_streams/{orders}/request_full_refresh", 204)
    url = ask(client, "POST", f"/elt_streams/{orders}/request_run")["status_url"]
    (again,) = wait(client, url, lambda page: page["data"] and page["data"][0]["finished_at"])["data"]
    assert again["id"] != run["id"]
    assert ask(client, "GET", f"/elt_stream_runs/{again['id']}") == again
    latest = ask(client, "GET", f"{path}/status")["source_streams"][0]["latest_sync"]
    assert latest["full_sync_trigger"] == "USER"
    assert ask(client, "GET", f"/elt_streams/{orders}")["full_refresh_requested"] is False
    assert [r["id"] for r in ask(client, "GET", runs)["data"]] == [again["id"], run["id"]]
    assert len(ask(client, "GET", f"/elt_stream_runs?elt_stream_id={customers}")["data"]) == 1

    ask(client, "DELETE", f"{path}?removeDataReferences=true", 204)
    assert project.rows("SELECT table_name FROM duckdb_tables() WHERE table_name IN ('orders', 'customers')") == []
    ask(client, "GET", f"/elt_stream_runs/{run['id']}", 404)
