"""The client over the whole application: each operation of the document can be reached with it, and what comes back is typed."""

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from fastapi.testclient import TestClient
from starlette.routing import compile_path

from elt_dagster import client as client_package
from elt_dagster.cli.app import cli
from elt_dagster.client import Client
from elt_dagster.control.runs import RunStatus
from elt_dagster.errors import ConflictError, NotFoundError
from tests.unit import api_server
from tests.unit.api_server import Place, Server
from tests.unit.cli_shelf import TOKEN

DOCS = Path(__file__).parents[2] / "docs" / "api"
FOR_PEOPLE = {"/connection_bridges/authorize", "/connection_bridges/callback", "/healthz"}


class Recorded(httpx.BaseTransport):
    """Hands requests to the application, and remembers them."""

    def __init__(self, server: Server) -> None:
        self.asked: set[tuple[str, str]] = set()
        self._inner = TestClient(server.app)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.add((request.method, request.url.path))
        headers = dict(request.headers)
        found = self._inner.request(request.method, str(request.url), content=request.read(), headers=headers)
        return httpx.Response(found.status_code, headers=found.headers, content=found.content)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with api_server.opened("sqlite", tmp_path_factory.mktemp("client")) as store:
        yield api_server.serve(store)


@pytest.fixture
def place(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    api_server.shelves(monkeypatch)
    return api_server.settle(server, tmp_path)


@pytest.fixture
def wire(place: Place) -> Recorded:
    return Recorded(place.server)


@pytest.fixture
def client(place: Place, wire: Recorded) -> Iterator[Client]:
    with Client("http://127.0.0.1:8000", place.key, transport=wire, sleep=lambda _: None) as client:
        yield client


def loader(place: Place, **more: Any) -> dict[str, Any]:
    """What a loader is made of."""
    return {
        "name": "CRM", "loader_type": "shelf", "source_id": place.warehouse, "config": {"token": TOKEN}, "target_schema": "raw_crm",
        "selected_streams": [{"name": "orders"}], **more,
    }  # fmt: skip


def test_every_operation_of_the_document_can_be_reached(place: Place, client: Client, wire: Recorded) -> None:
    _walk_connect(place, client)
    _walk_syncs(place, client)
    _walk_loaders(place, client)
    assert client.is_ready()
    document = place.server.app.openapi()["paths"]
    patterns = {path: compile_path(path)[0] for path in sorted(document, key=lambda p: p.count("{"))}
    reached = {(m, next(path for path, p in patterns.items() if p.match(asked))) for m, asked in wire.asked}
    every = {(m.upper(), path) for path, methods in document.items() for m in methods if path not in FOR_PEOPLE}
    assert every - reached == set()


def _walk_connect(place: Place, client: Client) -> None:
    assert "shelf" in {i.id for i in client.integrations("EltSource")}
    assert {c.integration_id for c in client.connections.list()} == {"shelf", "duckdb"}
    assert client.connections.settings(place.source)["type"] == "object"
    assert "orders" in {s.name for s in client.connections.available(place.source)}
    client.connections.authorize("shelf", label="x", redirect_uri="https://app.example/back", settings={"host": "here"})
    assert [b.integration_id for b in client.connections.bridges()] == ["shelf"]
    draft = client.syncs.draft(connection_id=place.source, destination_schema_name="raw", sync_interval="0 6 * * *")
    assert draft == client.syncs.get_draft(draft.id)
    assert client.syncs.update_draft(draft.id, sync_interval="@daily", etag=draft.etag).sync_interval == "@daily"
    assert [d.id for d in client.syncs.drafts(place.source)] == [draft.id]
    assert "orders" in {s.name for s in client.streams.available(draft.id)}
    (stream,) = client.streams.put(draft.id, [{"name": "orders"}])
    assert [client.streams.get(s.id) for s in client.streams.list(draft.id)] == [stream]
    client.streams.request_full_refresh(stream.id)
    client.streams.cancel_full_refresh(stream.id)
    client.syncs.enable(draft.id)
    client.syncs.disable(draft.id)
    client.syncs.start(draft.id)
    assert [s.name for s in client.syncs.status(draft.id)] == ["orders"]
    place.runs.put(place.runs.views[-1].id, RunStatus.COMPLETED)
    run_id = client.streams.request_run(stream.id)
    newest = next(iter(client.streams.runs(stream.id)))
    assert (newest.run_id, client.streams.run(newest.id)) == (run_id, newest)
    place.runs.put(run_id, RunStatus.COMPLETED)
    client.streams.delete(stream.id)
    client.syncs.delete(draft.id, remove_tables=True)


def _walk_syncs(place: Place, client: Client) -> None:
    assert client.syncs.catalog("shelf")["provider"] == "shelf"
    sync = client.syncs.create(connection_id=place.source, name="Shop", entities=["orders"], status="active")
    assert sync == client.syncs.get(sync.id)
    assert client.syncs.update(sync.id, name="Shopping", etag=sync.etag).name == "Shopping"
    assert [s.id for s in client.syncs.list(q="Shopping")] == [sync.id]
    run = client.runs.trigger(sync.id)
    client.runs.cancel(run.id, "enough")
    place.runs.put(run.id, RunStatus.CANCELLED)
    again = client.runs.retry(run.id, run_mode="incremental")
    assert [r.id for r in client.runs.list(sync.id)] == [again.id, run.id]
    place.runs.put(again.id, RunStatus.COMPLETED)
    assert client.runs.get(again.id).is_final
    client.syncs.delete(sync.id)


def _walk_loaders(place: Place, client: Client) -> None:
    loaders = client.loaders(place.name)
    assert "shelf" in {t.type for t in loaders.types()}
    made = loaders.create(**loader(place))
    assert (loaders.get(made.id), [found.id for found in loaders.list()]) == (made, [made.id])
    changed = loaders.replace(made, etag=made.etag, schedule="@daily")
    assert (changed.schedule, changed.config["token"]) == ("@daily", "********")
    run = loaders.trigger(made.id)
    assert [r.id for r in loaders.runs(made.id)] == [loaders.run(made.id, run.id).id]
    place.runs.put(run.id, RunStatus.COMPLETED)
    loaders.delete(made.id, etag=changed.etag)
    client.connections.delete(place.source)


def test_what_somebody_else_has_changed_is_a_conflict(place: Place, client: Client) -> None:
    sync = client.syncs.create(connection_id=place.source, name="Shop")
    client.syncs.update(sync.id, name="Theirs")
    for change in (
        lambda: client.syncs.update(sync.id, name="Mine", etag=sync.etag),
        lambda: client.syncs.update_draft(sync.id, sync_interval="@daily", etag=sync.etag),
        lambda: client.syncs.delete(sync.id, etag=sync.etag),
    ):
        with pytest.raises(ConflictError, match="changed meanwhile"):
            change()
    made = client.loaders(place.name).create(**loader(place))
    client.loaders(place.name).replace(made, name="Theirs")
    with pytest.raises(ConflictError, match="changed meanwhile"):
        client.loaders(place.name).replace(made, name="Mine", etag=made.etag)


def test_lists_come_whole_whatever_a_page_holds(place: Place, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elt_dagster.client.sending.PAGE", 2)
    for number in range(5):
        client.connections.authorize("shelf", label=f"b{number}", redirect_uri="https://app.example/back")
        client.syncs.create(connection_id=place.source, name=f"S{number}")
    assert [b.label for b in client.connections.bridges()] == ["b4", "b3", "b2", "b1", "b0"]
    assert [found.name for found in client.loaders(place.id).list()] == ["S0", "S1", "S2", "S3", "S4"]
    assert [d.id for d in client.syncs.drafts()] == [s.id for s in client.syncs.list()][::-1]


def test_the_loaders_of_another_workspace_are_not_there(client: Client) -> None:
    with pytest.raises(NotFoundError, match="Use the one that the API key belongs to"):
        client.loaders("another").types()


# --- what the pages show -----------------------------------------------------------------------------------------------------


@pytest.fixture
def at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end as soon as they are asked for."""
    launch = place.runs.launch

    def launched(*words: Any, **more: Any) -> str:
        run_id = launch(*words, **more)
        place.runs.put(run_id, RunStatus.COMPLETED)
        return run_id

    monkeypatch.setattr(place.runs, "launch", launched)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("where", ["page", "docstring"])
def test_the_python_of_the_pages_runs_as_it_is_written(
    place: Place,
    wire: Recorded,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if where == "page":
        (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "index.md").read_text(), re.DOTALL)
    else:
        code = textwrap.dedent("\n".join(re.findall(r"^    .*$|^$", client_package.__doc__ or "", re.MULTILINE)))
    place.ask(
        "POST",
        "/api/v1/syncs",
        201,
        json={"connectionId": place.source, "name": "S", "entities": ["logs"], "status": "active"},
    )
    made = httpx.Client

    def wired(**options: Any) -> httpx.Client:
        return made(**{**options, "transport": wire})

    monkeypatch.setattr("elt_dagster.client.sending.httpx.Client", wired)
    exec(code.replace('"default"', repr(place.name)), {"api_key": place.key, "connection": place.source})  # noqa: S102 - our own page
    assert "success" in capsys.readouterr().out


def _commands() -> list[str]:
    blocks = [
        b
        for page in sorted(DOCS.glob("*.md"))
        for b in re.findall(r"```(?:sh|shell)\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    return sorted(
        {line.strip() for block in blocks for line in block.splitlines() if line.strip().startswith("elt-dagster ")}
    )


@pytest.mark.parametrize("line", _commands())
def test_the_commands_of_the_pages_are_those_there_are(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    found: click.Command = cli
    while isinstance(found, click.Group):
        below = found.get_command(click.Context(found), words[0])
        assert below is not None, line
        found, words = below, words[1:]
    words = [word if word != "loader.yaml" else "-" for word in words]
    # options and arguments are understood, and nothing is done
    found.make_context(found.name, words)
