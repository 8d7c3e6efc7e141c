"""The commands on connections, syncs and streams: the same answers from the store at hand and through a server."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
import uvicorn

from elt_dagster.cli.app import cli, execute
from elt_dagster.cli.landing import Landing
from elt_dagster.cli.session import Session
from elt_dagster.control.runs import RunStatus
from elt_dagster.errors import TransientError
from tests.unit import api_server
from tests.unit.api_server import Place
from tests.unit.test_cli import Result

NOT_THERE = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[api_server.Server, str]]:
    """The application over a store on SQLite, listening."""
    folder = tmp_path_factory.mktemp("remote")
    with pytest.MonkeyPatch.context() as patch, api_server.opened("sqlite", folder) as store:
        api_server.shelves(patch)
        made = api_server.serve(store)
        listening = uvicorn.Server(uvicorn.Config(made.app, port=0, log_level="error"))
        thread = threading.Thread(target=listening.run, daemon=True)
        thread.start()
        while not listening.started:
            time.sleep(0.01)
        yield made, f"http://127.0.0.1:{listening.servers[0].sockets[0].getsockname()[1]}"
        listening.should_exit = True
        thread.join()


@pytest.fixture
def place(server: tuple[api_server.Server, str], tmp_path: Path) -> Place:
    """A workspace of its own."""
    return api_server.settle(server[0], tmp_path)


class Elt:
    """Runs command lines on one of the two backends."""

    def __init__(self, place: Place, url: str, capsys: pytest.CaptureFixture[str], remote: bool) -> None:
        self.place, self.remote, self._capsys = place, remote, capsys
        self._words = ["--url", url, "--api-key", place.key] if remote else ["--workspace", place.name]

    def __call__(self, *words: str) -> Result:
        self._capsys.readouterr()
        code = execute([*words, *self._words])
        told = self._capsys.readouterr()
        assert self.place.key not in told.out + told.err
        assert self.place.token not in told.out + told.err
        return Result(code, told.out, told.err)

    def ok(self, *words: str) -> Any:
        """The JSON of a command that works."""
        done = self(*words, "--json")
        assert done.code == 0, done
        return done.json


@pytest.fixture(params=["local", "remote"])
def elt(
    request: pytest.FixtureRequest, place: Place, server: tuple[api_server.Server, str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Elt:  # fmt: skip
    for name in ("ELT_DAGSTER_URL", "ELT_DAGSTER_API_KEY", "ELT_DAGSTER_WEBSERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ELT_DAGSTER_STORE", f"sqlite:///{place.store.url_shown.partition('///')[2]}")
    remote = request.param == "remote"
    if not remote:

        @contextmanager
        def runs(session: Session, workspace_file: str | None = None) -> Iterator[Any]:
            yield place.runs

        monkeypatch.setattr(Session, "runs", runs)
        monkeypatch.setattr(Session, "past_runs", runs)
    return Elt(place, server[1], capsys, remote)


def made(elt: Elt, *more: str) -> Any:
    """A sync of the shelf."""
    return elt.ok("syncs", "create", "Shop", "--connection", elt.place.source, *more)


def end_runs(place: Place) -> None:
    """Let everything that runs be done."""
    place.runs.views = [
        replace(v, status=RunStatus.COMPLETED, streams=tuple(replace(s, status=RunStatus.COMPLETED, rows=3) for s in v.streams))
        for v in place.runs.views
    ]  # fmt: skip


def test_connections_are_listed_and_shown_without_their_secrets(elt: Elt) -> None:
    rows = elt.ok("connections", "list")
    assert {r["connector"] for r in rows} == {"shelf", "duckdb"}
    assert set(rows[0]) == {"id", "name", "label", "connector", "status", "created_at", "updated_at"}
    shown = elt.ok("connections", "show", "My books")
    assert shown["id"] == elt.place.source
    assert elt("connections", "list").code == 0


def test_the_settings_of_a_connection_are_those_that_its_source_has(elt: Elt) -> None:
    schema = elt.ok("connections", "settings", elt.place.source, "--set", "region=north")
    assert schema["properties"]["region"]["enum"] == ["north", "south"]
    assert "north, south" in elt("connections", "settings", elt.place.source).out


def test_a_connection_is_deleted_unless_a_sync_uses_it(elt: Elt) -> None:
    made(elt)
    refused = elt("connections", "delete", elt.place.source, "--json")
    assert (refused.code, refused.json["error"]["reason"]) == (2, "schema_conflict")
    elt.ok("syncs", "delete", "shop")
    source = elt.place.source
    assert elt.ok("connections", "delete", source) == {"id": source, "deleted": True}
    assert [r["connector"] for r in elt.ok("connections", "list")] == ["duckdb"]


def test_a_connection_is_made_where_the_store_is_and_by_a_person_elsewhere(elt: Elt, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("{host: here, token: a-secret}\n")
    words = (
        "connections",
        "create",
        "shelf",
        "--label",
        "Second",
        "--config",
        str(tmp_path / "c.yaml"),
        "--set",
        "port=3",
    )
    if elt.remote:
        done = elt(*words)
        assert done.code == 2
        assert "connections authorize shelf" in done.err
        return
    row = elt.ok(*words)
    assert row["label"] == "Second"
    shown = elt.ok("connections", "show", "Second")
    assert shown["config"] == {"host": "here", "token": "********", "port": 3}
    (tmp_path / "bad.yaml").write_text("{host: [a-secret")
    broken = elt("connections", "create", "shelf", "--config", str(tmp_path / "bad.yaml"))
    assert broken.code == 2
    assert "a-secret" not in broken.err


def test_a_bridge_is_made_and_its_address_printed(elt: Elt, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(click, "launch", opened.append)
    words = ("connections", "authorize", "shelf", "--label", "By hand", "--redirect-uri", "https://app.example/done")
    told = elt.ok(*words)
    assert set(told) == {"id", "authorize_url", "expires_at"}
    assert opened == []
    assert elt(*words).code == 0
    assert opened[0].startswith("http")


def test_a_person_comes_back_to_the_command_with_a_connection(elt: Elt, monkeypatch: pytest.MonkeyPatch) -> None:
    def crosses(address: str) -> None:
        (bridge,) = [b for b in elt.place.ask("GET", "/connection_bridges")["data"] if b["label"] == "By hand"]
        wrong = f"{bridge['redirect_uri']}?connection_id=forged&state=guessed"
        assert "close this page" in httpx.get(wrong).text
        state = Landing.newest.state  # type: ignore[attr-defined]  # set below
        httpx.get(f"{bridge['redirect_uri']}?connection_id=c-9&state={state}")

    start = Landing.__init__

    def noted(self: Landing) -> None:
        start(self)
        Landing.newest = self  # type: ignore[attr-defined]  # for the person

    monkeypatch.setattr(Landing, "__init__", noted)
    monkeypatch.setattr(click, "launch", crosses)
    assert elt.ok("connections", "authorize", "shelf", "--label", "By hand")["connection_id"] == "c-9"


def test_nobody_is_waited_for_without_end() -> None:
    with Landing() as landing, pytest.raises(TransientError, match="Nobody"):
        landing.wait("http://x", browser=False, patience=0.3)


def test_a_sync_is_made_changed_and_removed(elt: Elt) -> None:
    row = made(
        elt,
        "--stream",
        "orders",
        "--cron",
        "0 6 * * *",
        "--timezone",
        "Europe/Copenhagen",
        "--set",
        "region=south",
        "--schema",
        "raw",
    )
    assert {k: row[k] for k in ("slug", "status", "schema", "cron", "timezone", "settings", "streams", "trigger_mode", "connector")} == {
        "slug": "shop", "status": "draft", "schema": "raw", "cron": "0 6 * * *", "timezone": "Europe/Copenhagen", "settings": {"region": "south"},
        "streams": ["orders"], "trigger_mode": "scheduled", "connector": "shelf",
    }  # fmt: skip
    changed = elt.ok("syncs", "set", "shop", "--name", "Other", "--cron", "0 7 * * *", "--freshness", "7200")
    assert (changed["name"], changed["cron"], changed["timezone"]) == ("Other", "0 7 * * *", "Europe/Copenhagen")
    assert (changed["freshness_sla_seconds"], changed["settings"]) == (7200, {"region": "south"})
    by_hand = elt.ok("syncs", "set", "shop", "--cron", "")
    assert (by_hand["cron"], by_hand["trigger_mode"]) == (None, "manual")
    assert elt.ok("syncs", "show", row["id"]) == elt.ok("syncs", "list")[0]
    assert elt.ok("syncs", "delete", "shop")["deleted"] is True
    assert elt.ok("syncs", "list") == []


def test_a_sync_is_enabled_disabled_and_started(elt: Elt) -> None:
    made(elt)
    assert elt("syncs", "enable", "shop").code == 2  # it has nothing to load
    elt.ok("streams", "add", "shop", "orders")
    assert elt.ok("syncs", "enable", "shop")["enabled"] is True
    assert elt.ok("syncs", "show", "shop")["status"] == "active"
    elt.ok("syncs", "disable", "shop")
    assert elt.ok("syncs", "show", "shop")["status"] == "paused"
    run_id = elt.ok("syncs", "start", "shop")["run_id"]
    assert [v.id for v in elt.place.runs.views] == [run_id]
    again = elt("syncs", "start", "shop", "--json")
    assert (again.code, run_id in again.json["error"]["message"]) == (2, True)


def test_streams_are_offered_added_changed_and_removed(elt: Elt) -> None:
    made(elt)
    assert [o["name"] for o in elt.ok("streams", "available", "shop")] == ["orders", "customers", "logs"]
    added = elt.ok("streams", "add", "shop", "orders", "customers", "--no-full-sync-always")
    assert [r["name"] for r in added] == ["orders", "customers"]
    (changed,) = elt.ok(
        "streams", "add", "shop", "orders", "--hash", "data", "--exclude", "active", "--protected-from-full-sync"
    )
    assert (changed["hashed_columns"], changed["excluded_columns"], changed["protected_from_full_sync"]) == (
        ["data"],
        ["active"],
        True,
    )
    assert (changed["primary_key"], changed["cursor_field"]) == (["id"], "changed_at")
    refused = elt("streams", "add", "shop", "orders", "--exclude-substream", "lines")
    assert (refused.code, "lines" in refused.err) == (2, True)
    assert [o["added"] for o in elt.ok("streams", "available", "shop")] == [True, True, False]
    elt.ok("streams", "remove", "shop", "orders")
    assert [r["name"] for r in elt.ok("streams", "list", "shop")] == ["customers"]


def test_a_full_refresh_is_asked_for_taken_back_and_refused(elt: Elt) -> None:
    made(elt, "--stream", "orders")
    elt.ok("streams", "refresh", "shop", "orders")
    assert elt.ok("streams", "list", "shop")[0]["full_refresh_requested"] is True
    elt.ok("streams", "cancel-refresh", "shop", "orders")
    assert elt.ok("streams", "list", "shop")[0]["full_refresh_requested"] is False
    elt.ok("streams", "add", "shop", "orders", "--protected-from-full-sync")
    refused = elt("streams", "refresh", "shop", "orders")
    assert refused.code == 2
    assert "protected" in refused.err


def test_one_stream_is_run_alone(elt: Elt) -> None:
    made(elt, "--stream", "orders", "--stream", "customers", "--active")
    run_id = elt.ok("streams", "request-run", "shop", "orders")["run_id"]
    assert [(v.id, [s.stream for s in v.streams]) for v in elt.place.runs.views] == [(run_id, ["orders"])]


def test_runs_are_listed_shown_cancelled_and_tried_again(elt: Elt) -> None:
    made(elt, "--stream", "orders", "--stream", "customers", "--active")
    run_id = elt.ok("syncs", "start", "shop")["run_id"]
    elt.ok("cancel", run_id, "--reason", "enough")
    assert elt.place.runs.views[0].cancel_reason == "enough"
    end_runs(elt.place)
    if elt.remote:  # those at hand are tested where they are played
        assert elt.ok("runs", "--run", run_id)["status"] == "completed"
        assert [r["id"] for r in elt.ok("runs", "shop")] == [run_id]
        assert [r["id"] for r in elt.ok("runs")] == [run_id]
        (row,) = elt.ok("status")
        assert (row["sync"], row["last_status"]) == ("shop", "completed")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("syncs", "show", "shopp"), "Did you mean 'shop'?"),
        (("streams", "list", "shopp"), "Did you mean 'shop'?"),
        (("streams", "remove", "shop", "order"), "Did you mean 'orders'?"),
        (("connections", "show", "warehose"), "Did you mean 'warehouse'?"),
        (("run", "shopp"), "Did you mean 'shop'?"),
        (("syncs", "creat"), "Did you mean 'create'?"),
    ],
)  # fmt: skip
def test_a_wrong_name_is_answered_with_the_nearest_one(elt: Elt, words: tuple[str, ...], text: str) -> None:
    made(elt, "--stream", "orders")
    done = elt(*words)
    assert done.code == NOT_THERE
    assert text in done.err


def test_nothing_to_change_is_a_wrong_use(elt: Elt) -> None:
    made(elt)
    assert "Name something" in elt("syncs", "set", "shop").err
    assert "NAME=VALUE" in elt("syncs", "set", "shop", "--set", "novalue").err


def test_a_server_without_a_key_is_told_before_anything_is_asked(elt: Elt, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["syncs", "list", "--url", "http://127.0.0.1:1"]) == 2
    assert "ELT_DAGSTER_API_KEY" in capsys.readouterr().err


def test_a_key_that_opens_nothing_exits_as_wrong_credentials_do(
    elt: Elt, server: tuple[api_server.Server, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["syncs", "list", "--json", "--url", server[1], "--api-key", "wrong-key-0123456789"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["reason"] == "auth_failed"


def test_workspaces_are_listed_made_and_given_a_default_warehouse(elt: Elt, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"new-{elt.place.name}-{elt.remote}"
    assert execute(["workspaces", "create", name]) == 0
    assert execute(["workspaces", "default", "warehouse", "--workspace", elt.place.name, "--json"]) == 0
    capsys.readouterr()
    assert execute(["workspaces", "list", "--json"]) == 0
    assert name in [w["name"] for w in json.loads(capsys.readouterr().out)]
    assert execute(["workspaces", "default", "My books", "--workspace", elt.place.name]) == 2
    assert "no warehouse" in capsys.readouterr().err
    assert execute(["workspaces", "default", "--clear", "--workspace", elt.place.name]) == 0
    assert execute(["workspaces", "default", "--workspace", elt.place.name, "--json"]) == 0
    assert elt.place.warehouse in capsys.readouterr().out


# --- what else the API can ---------------------------------------------------------------------------------------------------

COMMANDS = {
    "/integrations": "connectors", "/api/v1/syncs/providers/{provider}/catalog": "connectors NAME",
    "/connections": "connections list", "DELETE /connections/{id}": "connections delete",
    "/connections/{id}/settings": "connections settings", "/connection_bridges": "connections bridges",
    "POST /connection_bridges": "connections authorize",
    "/elt_syncs": "syncs list", "POST /elt_syncs": "syncs create", "/elt_syncs/{id}": "syncs show",
    "POST /elt_syncs/{id}": "syncs set", "DELETE /elt_syncs/{id}": "syncs delete", "POST /elt_syncs/{id}/enable": "syncs enable",
    "POST /elt_syncs/{id}/disable": "syncs disable", "POST /elt_syncs/{id}/start": "syncs start",
    "/elt_syncs/{id}/status": "streams status", "/elt_syncs/{id}/available_source_streams": "streams available",
    "/elt_syncs/{id}/source_streams": "streams available", "POST /elt_syncs/{id}/source_streams": "streams add",
    "/elt_streams": "streams list", "/elt_streams/{id}": "streams list", "DELETE /elt_streams/{id}": "streams remove",
    "POST /elt_streams/{id}/request_run": "streams request-run", "POST /elt_streams/{id}/request_full_refresh": "streams refresh",
    "POST /elt_streams/{id}/cancel_full_refresh": "streams cancel-refresh",
    "/elt_stream_runs": "streams runs", "/elt_stream_runs/{id}": "streams runs",
    "/api/v1/syncs": "syncs list", "POST /api/v1/syncs": "syncs create", "/api/v1/syncs/{sync_id}": "syncs show",
    "PATCH /api/v1/syncs/{sync_id}": "syncs set", "DELETE /api/v1/syncs/{sync_id}": "syncs delete",
    "POST /api/v1/syncs/{sync_id}/trigger": "run", "/api/v1/syncs/{sync_id}/runs": "runs", "/api/v1/syncs/runs/{run_id}": "runs",
    "POST /api/v1/syncs/runs/{run_id}/cancel": "cancel", "POST /api/v1/syncs/runs/{run_id}/retry": "retry",
    "/api/v1/workspaces/{id}/loader-types": "loaders types", "/api/v1/workspaces/{id}/loaders": "loaders list",
    "POST /api/v1/workspaces/{id}/loaders": "loaders create", "/api/v1/workspaces/{id}/loaders/{loaderId}": "loaders show",
    "PUT /api/v1/workspaces/{id}/loaders/{loaderId}": "loaders replace",
    "DELETE /api/v1/workspaces/{id}/loaders/{loaderId}": "loaders delete",
    "POST /api/v1/workspaces/{id}/loaders/{loaderId}/trigger": "loaders trigger",
    "/api/v1/workspaces/{id}/loaders/{loaderId}/runs": "loaders runs",
    "/api/v1/workspaces/{id}/loaders/{loaderId}/runs/{runId}": "loaders runs",
}  # fmt: skip
"""What does on the command line what an operation does; GET where no method is said."""


def test_every_operation_has_its_command_which_talks_to_servers_too(server: tuple[api_server.Server, str]) -> None:
    document = server[0].app.openapi()["paths"]
    keyed = {(m, path) for path, methods in document.items() for m, op in methods.items() if "security" in op}
    assert {path if m == "get" else f"{m.upper()} {path}" for m, path in keyed} == set(COMMANDS)
    for words in set(COMMANDS.values()):
        found: click.Command | None = cli
        for word in (w for w in words.split() if w.islower()):
            assert isinstance(found, click.Group)
            found = found.get_command(click.Context(found), word)
        assert found is not None, words
        assert {"url", "api_key"} <= {p.name for p in found.params}, words


def test_a_loader_is_made_replaced_run_and_removed(elt: Elt, tmp_path: Path) -> None:
    file = tmp_path / "loader.yaml"
    file.write_text(f"""
name: CRM
loader_type: shelf
source_id: warehouse
config: {{token: {elt.place.token}}}
target_schema: raw_crm
sync_mode: incremental
selected_streams: [{{name: orders}}]
""")
    there = ["--workspace", elt.place.name] if elt.remote else []
    made = elt.ok("loaders", "create", "-f", str(file), "--set", "schedule=@daily", *there)
    assert (made["loader_type"], made["schedule"], made["config"]["token"]) == ("shelf", "@daily", "********")
    assert [r["id"] for r in elt.ok("loaders", "list", *there)] == [made["id"]]
    assert elt.ok("loaders", "show", "CRM", *there) == made
    assert "shelf" in {t["type"] for t in elt.ok("loaders", "types", *there)}
    changed = elt.ok("loaders", "replace", "CRM", "--set", "name=Shop", "--set", "schedule=null", *there)
    assert (changed["id"], changed["name"], changed["schedule"]) == (made["id"], "Shop", None)
    run = elt.ok("loaders", "trigger", "Shop", *there)
    assert [r["id"] for r in elt.ok("loaders", "runs", "Shop", *there)] == [run["id"]]
    assert elt("loaders", "trigger", "Shop", *there).code == NOT_THERE
    end_runs(elt.place)
    elt.ok("loaders", "delete", made["id"], *there)
    assert elt.ok("loaders", "list", *there) == []
    assert {r["connector"] for r in elt.ok("connections", "list")} == {"shelf", "duckdb"}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("loaders", "show", "CRN"), "no loader 'CRN'"),
        (("loaders", "create", "--set", "name=X"), "loader_type"),
        (("loaders", "create", "--set", "source_id=warehose"), "Did you mean 'warehouse'?"),
        (("loaders", "replace", "CRM"), "Name something"),
    ],
    ids=["unknown", "incomplete", "warehouse", "nothing"],
)
def test_a_loader_that_makes_no_sense_is_refused(elt: Elt, words: tuple[str, ...], text: str) -> None:
    done = elt(*words, *(["--workspace", elt.place.name] if elt.remote else []))
    assert done.code == NOT_THERE
    assert text in done.err


def test_a_stream_tells_where_it_is_and_what_loaded_it(elt: Elt) -> None:
    made(elt, "--stream", "orders", "--active")
    run_id = elt.ok("streams", "request-run", "shop", "orders")["run_id"]
    (now,) = elt.ok("streams", "status", "shop")
    assert (now["name"], now["active_status"], now["full_sync_trigger"]) == ("orders", "scheduled", "none")
    assert [(r["run_id"], r["status"]) for r in elt.ok("streams", "runs", "shop", "orders")] == [(run_id, "running")]
    end_runs(elt.place)
    (then,) = elt.ok("streams", "status", "shop")
    assert (then["active_status"], then["latest_status"], then["rows"]) == (None, "completed", 3)
    assert [(r["status"], r["rows"]) for r in elt.ok("streams", "runs", "shop", "orders")] == [("completed", 3)]


def test_a_connection_tells_what_it_offers_before_there_is_a_sync(elt: Elt) -> None:
    offers = elt.ok("streams", "available", "--connection", elt.place.source)
    assert [(o["name"], o["added"]) for o in offers] == [("orders", False), ("customers", False), ("logs", False)]
    assert "--connection" in elt("streams", "available").err


def test_links_that_nobody_has_used_are_listed_without_their_addresses(elt: Elt) -> None:
    link = ("connections", "authorize", "shelf", "--label", "Theirs", "--redirect-uri", "https://app.example/back")
    address = elt.ok(*link, "--no-browser")["authorize_url"]
    told = elt("connections", "bridges", "--json")
    (row,) = told.json
    assert (row["connector"], row["label"], row["redirect_uri"]) == ("shelf", "Theirs", "https://app.example/back")
    assert address.partition("token=")[2] not in told.out


def test_connectors_are_told_by_the_server_that_has_them(elt: Elt) -> None:
    rows = {r["name"]: r for r in elt.ok("connectors")}
    assert rows["shelf"]["roles"] == ["source"]
    assert "warehouse" in rows["duckdb"]["roles"]
    assert elt("connectors", "shel").code == NOT_THERE
    if elt.remote:
        assert elt.ok("connectors", "shelf")["provider"] == "shelf"


@pytest.mark.parametrize("words", [("loaders", "list"), ("connections", "list"), ("syncs", "list"), ("runs",)])
def test_a_server_that_is_away_exits_as_what_may_work_later(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("elt_dagster.client.sending.MAX_WAIT_SECONDS", 0.0)
    assert execute([*words, "--url", "http://127.0.0.1:1", "--api-key", "key-0123456789abcdef"]) == 4
    told = capsys.readouterr().err
    assert "could not be reached" in told
    assert "key-0123456789abcdef" not in told
