"""The command line: answers on stdout, messages on stderr, exit codes by the class of the error, never a traceback or a secret."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from elt_dagster.cli.app import COMMANDS, execute
from elt_dagster.cli.reference import reference
from elt_dagster.store import open_store
from tests.unit.cli_shelf import TOKEN, Shelf, shelf_fixture

__all__ = ["shelf_fixture"]

ROOT = Path(__file__).parents[2]
SHOP = """\
connections:
  - {name: shelf, connector: shelf, config: {token: {env: SHELF_TOKEN}}}
  - {name: warehouse, connector: duckdb, config: {path: w.duckdb}}
syncs:
  - slug: shop
    connection: shelf
    destination: warehouse
    schema: raw
    schedule: {cron: "*/10 * * * *", timezone: Europe/Copenhagen}
    freshness_sla_seconds: 3600
    streams:
      - {name: orders, hashed_columns: [data], excluded_columns: [active]}
      - {name: customers}
"""


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Elt = Callable[..., Result]


@pytest.fixture
def elt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shelf: type[Shelf]) -> Elt:
    """Runs one command line in an empty folder with an initialised store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELT_DAGSTER_STORE", f"sqlite:///{tmp_path / 'store.sqlite'}")
    monkeypatch.setenv("SHELF_TOKEN", TOKEN)
    for name in ("DAGSTER_HOME", "ELT_DAGSTER_DEBUG", "ELT_DAGSTER_WEBSERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    open_store().init()

    def call(*args: str) -> Result:
        capsys.readouterr()
        code = execute(args)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert TOKEN not in captured.out + captured.err, "a secret was printed"
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def shop(elt: Elt) -> Elt:
    """With one sync of two streams applied."""
    Path("shop.yaml").write_text(SHOP)
    assert elt("apply", "-f", "shop.yaml").code == 0
    return elt


def revision() -> int:
    return open_store().revision()


# --- init, apply, export -------------------------------------------------------------------------------------------------------


def test_init_says_where_the_store_is_and_may_be_repeated(elt: Elt, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'other.sqlite'}"
    first, second = elt("init", "--store", url), elt("init", "--store", url, "--json")
    assert "other.sqlite" in first.out
    assert second.json == {"store": url, "changed": False, "workspace": "default"}


def test_without_init_the_command_to_run_is_named(elt: Elt, tmp_path: Path) -> None:
    result = elt("export", "--store", f"sqlite:///{tmp_path / 'new.sqlite'}")
    assert result.code == 2
    assert "elt-dagster init" in result.err


def test_a_dry_run_shows_the_difference_and_writes_nothing(shop: Elt) -> None:
    before = revision()
    Path("shop.yaml").write_text(SHOP.replace("*/10", "*/5"))
    result = shop("apply", "-f", "shop.yaml", "--dry-run")
    assert result.code == 0
    assert "~ sync shop" in result.out
    assert "~ schedule.cron: */10 * * * * → */5 * * * *" in result.out
    assert "nothing was written: 0 created, 1 updated" in result.err
    assert revision() == before


def test_applying_twice_moves_nothing(shop: Elt) -> None:
    before = revision()
    result = shop("apply", "-f", "shop.yaml", "--json")
    assert result.json["unchanged"] == 3
    assert result.json["revision"] == before == revision()
    assert "Nothing to do" in result.err


def test_prune_shows_and_does_deletions(shop: Elt) -> None:
    Path("less.yaml").write_text(SHOP.partition("syncs:")[0])
    planned = shop("apply", "-f", "less.yaml", "--prune", "--dry-run")
    assert "- sync shop" in planned.out
    assert shop("export", "--json").json["syncs"]
    assert shop("apply", "-f", "less.yaml", "--prune", "--json").json["delete"] == 1
    assert not shop("export", "--json").json["syncs"]


def test_what_is_exported_can_be_applied_and_changes_nothing(shop: Elt, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("literal.yaml").write_text(SHOP.replace("{env: SHELF_TOKEN}", TOKEN))
    assert shop("apply", "-f", "literal.yaml").code == 0
    before = revision()
    exported = shop("export")
    assert "********" in exported.out
    Path("exported.yaml").write_text(exported.out)
    monkeypatch.delenv("SHELF_TOKEN")
    result = shop("apply", "-f", "exported.yaml")
    assert (result.code, "Nothing to do" in result.err) == (0, True)
    assert revision() == before


def test_a_workspace_of_its_own(shop: Elt) -> None:
    result = shop("export", "--workspace", "defalt")
    assert result.code == 2
    assert "There is no workspace 'defalt'. Did you mean 'default'?" in result.err


@pytest.mark.parametrize(
    ("old", "new", "code", "expected"),
    [
        ("connector: shelf", "connector: shlf", 2,
         "bad.yaml:2:30: connections[0].connector: There is no connector 'shlf'. Did you mean 'shelf'?"),
        ("name: orders", "name: ordrs", 2,
         "bad.yaml:12:16: syncs[0].streams[0].name: sync 'shop': the source has no stream 'ordrs'. Did you mean 'orders'?"),
        ("hashed_columns: [data]", "cursor_field: data", 2, "bad.yaml:12:38: syncs[0].streams[0].cursor_field: sync 'shop': "
         "stream 'orders': cursor_field 'data' is of type json, which has no order to follow."),
        ("hashed_columns: [data]", "hashed_columns: [dta]", 2, "Did you mean 'data'?"),
        ("{name: customers}", "{name: customers, table: orders}", 2, "would both load the table 'orders'"),
        ("*/10 * * * *", "30 2 31 2 *", 2, "bad.yaml:9:22: syncs[0].schedule.cron: '30 2 31 2 *' names a day that never comes"),
        ("Europe/Copenhagen", "Europe/Copenhagn", 2, "bad.yaml:9:48: syncs[0].schedule.timezone: there is no time zone"),
        ("SHELF_TOKEN", "NO_SUCH_TOKEN", 2, "the environment variable NO_SUCH_TOKEN, which is not set."),
        ("{token: {env: SHELF_TOKEN}}", "{host: nowhere}", 4, "sync 'shop', connection 'shelf': The shelf cannot be reached."),
        ("{env: SHELF_TOKEN}", "wrong", 3, "The shelf refused the token."),
        ("{env: SHELF_TOKEN}", f"[{TOKEN}]", 2, "bad.yaml:2:53: connections[0].config.token: expected text."),
        ("{env: SHELF_TOKEN}", "{env: [x]}", 2, "connections[0].config.token: expected text."),
        ("destination: warehouse", "destination: shelf", 2, "which is no warehouse"),
    ],
)  # fmt: skip
def test_what_is_wrong_has_its_line_and_its_exit_code(elt: Elt, old: str, new: str, code: int, expected: str) -> None:
    assert old in SHOP
    Path("bad.yaml").write_text(SHOP.replace(old, new))
    before = revision()
    for options in ([], ["--dry-run"]):
        result = elt("apply", "-f", "bad.yaml", *options)
        assert expected in result.err
        assert (result.code, result.out) == (code, "")
    told = elt("apply", "-f", "bad.yaml", "--json")
    assert told.json["error"]["exit_code"] == told.code == code
    assert revision() == before


def test_a_wrong_password_is_told_when_the_sync_is_applied(elt: Elt, postgres_database: str) -> None:
    url = urlsplit(postgres_database)
    config = f"{{host: 127.0.0.1, port: {url.port}, database: {url.path[1:]}, user: postgres, password: canary-wrong}}"
    text = SHOP.replace("connector: shelf", "connector: postgres").replace("{token: {env: SHELF_TOKEN}}", config)
    Path("bad.yaml").write_text(text)
    result = elt("apply", "-f", "bad.yaml")
    assert result.code == 3
    assert "sync 'shop', connection 'shelf':" in result.err
    assert "canary-wrong" not in result.err
    Path("bad.yaml").write_text(text.replace(f"port: {url.port}", "port: 1"))
    assert elt("apply", "-f", "bad.yaml").code == 4


# --- connectors, check, discover, preview --------------------------------------------------------------------------------------


def test_connectors_are_listed_with_their_roles(elt: Elt) -> None:
    roles = {row["name"]: row["roles"] for row in elt("connectors", "--json").json}
    assert roles["shelf"] == ["source"]
    assert roles["duckdb"] == ["warehouse"]
    assert "Three streams in memory." in elt("connectors").out


def test_one_connector_shows_settings_and_an_example_that_can_be_read(elt: Elt) -> None:
    described = elt("connectors", "shelf", "--json").json
    settings = {row["name"]: row for row in described["settings"]}
    assert settings["token"]["secret"] is True
    assert settings["port"]["type"] == "whole number"
    assert [row["name"] for row in described["sync_settings"]] == ["region"]
    assert "{env: " not in described["example"]
    assert "env: SHELF_TOKEN" in described["example"]
    shown = elt("connectors", "shelf").out
    assert "What opens it." in shown
    assert "Which half. Default: north." in shown


@pytest.mark.parametrize("name", ["shef", "duckbd"])
def test_an_unknown_connector_is_answered_with_the_nearest(elt: Elt, name: str) -> None:
    result = elt("connectors", name)
    assert result.code == 2
    assert "Did you mean '" in result.err


def test_check_answers_in_words_and_in_its_exit_code(shop: Elt) -> None:
    assert shop("check", "shelf").out == "ok: The shelf is here.\n"
    assert shop("check", "warehouse").code == 0
    Path("away.yaml").write_text("connections: [{name: away, connector: shelf, config: {host: away}}]")
    assert shop("apply", "-f", "away.yaml").code == 0
    refused = shop("check", "away", "--json")
    assert refused.code == 1
    assert refused.json == {"connection": "away", "ok": False, "message": "The shelf is away."}
    assert "Did you mean 'shelf'?" in shop("check", "shlf").err


def test_discover_shows_streams_and_columns(shop: Elt) -> None:
    assert [s["name"] for s in shop("discover", "shelf", "--json").json] == ["orders", "customers", "logs"]
    shown = shop("discover", "shelf", "--stream", "orders").out
    assert "decimal(12,2)" in shown
    assert "default cursor" in shown
    assert "When it changed." in shown
    assert "read" in shop("discover", "shelf", "--stream", "logs").out
    assert "Did you mean 'orders'?" in shop("discover", "shelf", "--stream", "order").err
    assert shop("discover", "shelf", "--settings", "{").code == 2
    assert "'duckdb', which is a warehouse and no source" in shop("discover", "warehouse").err
    assert shop("discover", "shelf", "--sync", "shop").code == 0


def test_preview_shows_rows_as_they_would_be_loaded(shop: Elt) -> None:
    found = shop("preview", "shop", "orders", "--rows", "3", "--json").json
    assert len(found["rows"]) == 3
    assert "active" not in found["rows"][0]
    assert len(found["rows"][0]["data"]) == 64, "hashed"
    assert shop("preview", "shop", "orders").out.count("2026-01-01") == 10
    assert "Did you mean 'orders'?" in shop("preview", "shop", "order").err
    assert "Did you mean 'shop'?" in shop("preview", "shp", "orders").err
    assert not Path("w.duckdb").exists()


# --- state ---------------------------------------------------------------------------------------------------------------------


def test_state_comes_from_the_warehouse(shop: Elt) -> None:
    from elt_dagster.control.workspace import Workspace

    assert [row["committed_at"] for row in shop("state", "show", "shop", "--json").json] == [None, None]
    Workspace(store=open_store()).configured("shop").read("orders", run_id="run-1").load()
    orders, customers = shop("state", "show", "shop", "--json").json
    assert (orders["stream"], orders["table"], orders["run_id"]) == ("orders", "raw.orders", "run-1")
    assert customers["run_id"] is None
    assert "never loaded" in shop("state", "show", "shop").out
    assert [row["run_id"] for row in shop("state", "history", "shop", "orders", "--json").json] == ["run-1"]
    assert "Did you mean 'orders'?" in shop("state", "history", "shop", "ordrs").err


# --- the whole -----------------------------------------------------------------------------------------------------------------


def test_unknown_commands_and_options_are_answered_with_the_nearest(elt: Elt) -> None:
    assert "Did you mean 'apply'?" in elt("aply").err
    assert "Did you mean 'history'?" in elt("state", "histry").err
    assert elt("aply", "--json").json["error"] == {
        "reason": "usage",
        "message": elt("aply", "--json").json["error"]["message"],
        "exit_code": 2,
    }
    assert "--prune" in elt("apply", "--prun").err


def test_an_error_nobody_meant_tells_its_place_and_not_its_text(elt: Elt, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError(f"row: {TOKEN}")

    monkeypatch.setattr("elt_dagster.store.store.Store.connections", lambda self, **k: fail(**k))
    result = elt("export", "--json")
    assert result.code == 1
    assert "Unexpected RuntimeError" in result.err
    assert "test_cli.py" in result.json["error"]["message"]


def test_debugging_shows_the_traceback(elt: Elt, monkeypatch: pytest.MonkeyPatch) -> None:
    from elt_dagster.errors import NotFoundError

    monkeypatch.setenv("ELT_DAGSTER_DEBUG", "1")
    with pytest.raises(NotFoundError):
        execute(["check", "nothing"])


def test_a_closed_pipe_ends_quietly(shop: Elt) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "elt_dagster.cli", "export"],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
        cwd=ROOT,
    )
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 1


def test_help_imports_nothing_heavy() -> None:
    heavy = ("dagster", "duckdb", "pyarrow", "pydantic", "sqlalchemy", "rich")
    code = (
        "import sys; sys.argv = ['elt-dagster', '--help']\n"
        "from elt_dagster.cli import main\n"
        "try: main()\n"
        f"except SystemExit: print([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr.strip() == "[]"
    assert all(name in done.stdout for name in COMMANDS)


def test_the_page_of_the_command_line_is_fresh() -> None:
    written = (ROOT / "docs" / "cli.md").read_text()
    assert written == reference(), "run: python -m elt_dagster.cli.reference"
    assert all(f"## elt-dagster {name}" in written for name in COMMANDS)
