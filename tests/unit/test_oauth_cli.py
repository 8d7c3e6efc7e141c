"""``elt-dagster oauth-clients``: what is kept, what is shown, and that a secret is in neither place."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from elt_dagster import registry
from elt_dagster.cli.app import execute
from elt_dagster.control.oauth import client_variables, find_client
from elt_dagster.store import Store, open_store

CANARY = "canary-9d22e"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    known = registry._connector_modules
    mine = {"consented": "tests.dagster_connectors.consented"}
    monkeypatch.setattr(registry, "_connector_modules", lambda: {**known(), **mine})
    monkeypatch.setenv("ELT_DAGSTER_STORE", f"sqlite:///{tmp_path}/store.sqlite")
    made = open_store()
    made.init()
    return made


def run(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any, str]:
    """Exit code, JSON answer, messages."""
    code = execute(["oauth-clients", *words, "--json"])
    told = capfd.readouterr()
    assert CANARY not in told.out + told.err
    return code, json.loads(told.out) if told.out else None, told.err


def put(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *more: str) -> tuple[int, Any, str]:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{CANARY}\n"))
    return run(capfd, "set", "consented", "--client-id", "our-id", "--client-secret-stdin", *more)


def test_a_client_is_kept_listed_and_forgotten(
    store: Store, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {"connector": "consented", "client_id": "our-id", "settings": {"region": "us"}}
    assert put(capfd, monkeypatch, "--setting", "region=us")[:2] == (0, shown)
    assert run(capfd, "list")[:2] == (0, [shown])
    found = find_client(store, store.workspaces()[0].id, "consented")
    assert found is not None
    assert (found.client_secret, found.settings) == (CANARY, {"region": "us"})
    assert run(capfd, "delete", "consented")[:2] == (0, {"connector": "consented"})
    assert run(capfd, "list")[1] == []
    assert run(capfd, "delete", "consented")[0] == 2


@pytest.mark.parametrize("words", [
    ("set", "postgres", "--client-id", "x", "--client-secret-stdin"), ("set", "nothing", "--client-id", "x", "--client-secret-stdin"),
    ("set", "consented", "--client-id", "x", "--client-secret-stdin", "--setting", "regoin=us"),
    ("set", "consented", "--client-id", "x", "--client-secret-stdin", "--setting", "region"),
    ("set", "consented", "--client-id", "x", "--client-secret-stdin", "--setting", 'region={"env": "HOME"}'),
    ("set", "consented", "--client-id", "x"), ("list", "--workspace", "nowhere"),
], ids=lambda words: words[-1])  # fmt: skip
def test_what_makes_no_sense_is_refused(
    store: Store, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{CANARY}\n"))
    code, _, told = run(capfd, *words)
    assert code == 2
    assert "Error: " in told


def test_the_workspaces_own_client_comes_before_that_of_the_environment(
    store: Store, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = store.workspaces()[0].id
    assert find_client(store, workspace, "consented", {}) is None
    id_variable, secret_variable = client_variables("consented")
    assert (id_variable, secret_variable) == (
        "ELT_DAGSTER_OAUTH_CONSENTED_CLIENT_ID", "ELT_DAGSTER_OAUTH_CONSENTED_CLIENT_SECRET",
    )  # fmt: skip
    environ = {id_variable: "everybody", secret_variable: "secret"}
    found = find_client(store, workspace, "consented", environ)
    assert found is not None
    assert (found.client_id, found.client_secret) == ("everybody", "secret")
    put(capfd, monkeypatch)
    own = find_client(store, workspace, "consented", environ)
    assert own is not None
    assert own.client_id == "our-id"
