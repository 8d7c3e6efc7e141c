"""`run`, `status`, `runs`, `cancel`: what they make of the runs of Dagster, which are played here; one test plays for real."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from elt_dagster.cli import run as run_module
from elt_dagster.cli.desk import SyncRow
from elt_dagster.cli.progress import SHOWN_STREAMS, Board, LiveView, PlainView, progress_view
from elt_dagster.cli.run import exit_code
from elt_dagster.cli.session import Session
from elt_dagster.cli.status import next_tick
from elt_dagster.control.runs import RunEvents, RunStatus, RunView, StreamRun
from elt_dagster.engine import Progress
from elt_dagster.errors import NotFoundError, TransientError
from elt_dagster.model import RunMode, TriggeredBy, Window
from tests.unit.cli_shelf import shelf_fixture
from tests.unit.test_cli import ROOT, Elt, elt, shop

__all__ = ["elt", "shelf_fixture", "shop"]

NOW = datetime.now(UTC)


def stream(name: str, status: str, **values: Any) -> StreamRun:
    return StreamRun(stream=name, status=RunStatus(status), **values)


def view(status: str, *streams: StreamRun, **values: Any) -> RunView:
    shown = {"started_at": NOW - timedelta(minutes=3), "ended_at": NOW - timedelta(minutes=2), **values}
    return RunView(
        id="run-1", sync="shop", status=RunStatus(status), run_mode=RunMode.INCREMENTAL, triggered_by="manual", streams=streams, **shown
    )  # fmt: skip


DONE = view(
    "completed",
    stream("orders", "completed", rows=25, bytes=1000, seconds=1.5,
           metrics={"rows_inserted": 20, "rows_updated": 5, "rows_per_second": 16.7, "cursor_before": "a", "cursor_after": "b", "table_rows": 99}),
    stream("customers", "completed", rows=0, bytes=0, seconds=0.1, metrics={"rows_inserted": 0}),
)  # fmt: skip


class PlayedRuns:
    """Answers `get` with one prepared view after the other; the last one stays."""

    def __init__(self, *views: RunView | BaseException) -> None:
        self.views = list(views)
        self.launched: list[dict[str, Any]] = []
        self.cancelled: list[tuple[str, str]] = []

    def launch(
        self,
        sync: str,
        *,
        streams: Sequence[str] | None = None,
        run_mode: RunMode = RunMode.INCREMENTAL,
        reset_history_table: bool = False,
        window: Window | None = None,
        triggered_by: TriggeredBy = TriggeredBy.MANUAL,
        trigger_ref: str = "",
    ) -> str:
        asked = {"sync": sync, "streams": streams, "run_mode": run_mode}
        more = {"reset_history_table": reset_history_table, "window": window}
        self.launched.append({**asked, **{name: value for name, value in more.items() if value}})
        return "run-1"

    def get(self, run_id: str) -> RunView:
        if run_id != "run-1":
            raise NotFoundError(f"There is no run {run_id!r}.")
        played = self.views.pop(0) if len(self.views) > 1 else self.views[0]
        if isinstance(played, BaseException):
            raise played
        return played

    def list(self, sync: str | None = None, *, limit: int = 20) -> list[RunView]:
        return [v for v in self.views if isinstance(v, RunView)][:limit]

    def events(self, run_id: str, *, after: str | None = None) -> RunEvents:
        if after == "end":
            return RunEvents(cursor="end")
        return RunEvents(cursor="end", progress=(Progress("orders", 10, 400, 0.5),), messages=("orders: tried again",))

    def retry(self, run_id: str, *, run_mode: RunMode | None = None, trigger_ref: str = "") -> str:
        self.launched.append({"retry": run_id, "run_mode": run_mode})
        return "run-1"

    def attempts(self, run_id: str) -> Sequence[RunView]:
        return [DONE, DONE]

    def cancel(self, run_id: str, reason: str = "") -> None:
        self.get(run_id)
        self.cancelled.append((run_id, reason))


def play(monkeypatch: pytest.MonkeyPatch, *views: RunView | BaseException) -> PlayedRuns:
    played = PlayedRuns(*views)

    @contextmanager
    def runs(self: Session, workspace_file: str | None = None) -> Iterator[PlayedRuns]:
        yield played

    monkeypatch.setattr(Session, "runs", runs)
    monkeypatch.setattr(run_module, "POLL_SECONDS", 0.0)
    return played


@pytest.mark.parametrize(
    ("option", "mode"),
    [((), None), (("--full-refresh",), RunMode.FULL_REFRESH), (("--incremental",), RunMode.INCREMENTAL)],
)
def test_a_retry_is_followed_like_a_run(
    shop: Elt, monkeypatch: pytest.MonkeyPatch, option: tuple[str, ...], mode: RunMode | None
) -> None:
    played = play(monkeypatch, DONE)
    result = shop("retry", "run-0", *option, "--json")
    assert (result.code, result.json["attempt"], result.json["status"]) == (0, 2, "completed")
    assert played.launched == [{"retry": "run-0", "run_mode": mode}]


def test_a_window_is_taken_in_the_zone_of_the_sync(shop: Elt, monkeypatch: pytest.MonkeyPatch) -> None:
    played = play(monkeypatch, DONE)
    assert shop("run", "shop", "--from", "2026-07-01", "--to", "2026-07-02T06:00").code == 0
    (launched,) = played.launched
    assert [at.isoformat() for at in (launched["window"].start, launched["window"].end)] == [
        "2026-07-01T00:00:00+02:00", "2026-07-02T06:00:00+02:00",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "2026-07-01"), "--to without --from"),
        (("--from", "2026-07-02", "--to", "2026-07-01"), "ends before it begins"),
        (("--from", "yesterday"), "'yesterday' is no date"),
        (("--reset-history-table",), "goes with --full-refresh"),
    ],
)
def test_half_a_wish_is_refused(
    shop: Elt, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    played = play(monkeypatch, DONE)
    result = shop("run", "shop", *options)
    assert result.code == 2
    assert message in result.err
    assert not played.launched


def test_a_run_is_followed_to_its_end(shop: Elt, monkeypatch: pytest.MonkeyPatch) -> None:
    played = play(monkeypatch, view("running", stream("orders", "running"), stream("customers", "pending")), DONE)
    result = shop("run", "shop")
    assert result.code == 0
    assert played.launched == [{"sync": "shop", "streams": None, "run_mode": RunMode.INCREMENTAL}]
    assert "orders: running  10 rows · 20 rows/s · 400 B · 0.5 s" in result.err
    assert "orders: tried again" in result.err
    assert "orders: completed  25 rows" in result.err
    row = next(line for line in result.out.splitlines() if line.strip().startswith("orders"))
    assert row.split() == ["orders", "completed", "25", "20", "5", "17", "1.0", "kB", "1.5", "s", "99", "a", "→", "b"]
    assert "Run run-1 completed in 1 min 0 s." in result.out


def test_what_was_asked_for_is_what_runs(shop: Elt, monkeypatch: pytest.MonkeyPatch) -> None:
    played = play(monkeypatch, DONE)
    result = shop("run", "shop", "--stream", "orders", "--full-refresh", "--json")
    assert played.launched == [{"sync": "shop", "streams": ["orders"], "run_mode": RunMode.FULL_REFRESH}]
    assert result.json["streams"][0]["metrics"]["cursor_after"] == "b"
    assert (result.json["id"], result.json["status"]) == ("run-1", "completed")


def test_nothing_is_launched_for_a_name_that_does_not_exist(shop: Elt, monkeypatch: pytest.MonkeyPatch) -> None:
    played = play(monkeypatch, DONE)
    assert "Did you mean 'shop'?" in shop("run", "shp").err
    assert "Did you mean 'orders'?" in shop("run", "shop", "--stream", "ordrs").err
    assert played.launched == []


@pytest.mark.parametrize(
    ("reasons", "code"),
    [
        (("config_invalid",), 2), (("schema_conflict",), 2), (("auth_failed",), 3), (("source_unavailable",), 4), (("source_error",), 5),
        (("destination_error",), 6), (("contract_broken",), 7), (("something",), 1), ((None,), 1), ((), 1),
        (("auth_failed", "auth_failed"), 3), (("auth_failed", "source_error"), 1),
    ],
)  # fmt: skip
def test_the_exit_code_tells_the_class_of_the_failure(reasons: tuple[str | None, ...], code: int) -> None:
    streams = [stream(f"s{i}", "failed", reason=reason) for i, reason in enumerate(reasons)]
    assert exit_code(view("failed", *streams)) == code


def test_a_failed_stream_says_why_and_the_others_keep_their_numbers(shop: Elt, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = stream("customers", "failed", error="The shelf refused the token. Check it.", reason="auth_failed")
    play(monkeypatch, view("failed", DONE.streams[0], failed, error="One step failed."))
    result = shop("run", "shop")
    assert result.code == 3
    assert "customers: The shelf refused the token. Check it." in result.err
    assert "One step failed." in result.err
    assert " 25 " in result.out


def test_ctrl_c_cancels_the_run_and_waits_for_it(shop: Elt, monkeypatch: pytest.MonkeyPatch) -> None:
    running = view("running", stream("orders", "running"))
    stopped = view("cancelled", stream("orders", "cancelled"))
    played = play(monkeypatch, running, KeyboardInterrupt(), running, running, stopped)
    result = shop("run", "shop", "--json")
    assert [c[0] for c in played.cancelled] == ["run-1"]
    assert result.code == 130
    assert result.json["status"] == "cancelled"
    assert "Press Ctrl-C again" in result.err


def test_a_second_ctrl_c_stops_watching(shop: Elt, monkeypatch: pytest.MonkeyPatch) -> None:
    running = view("running", stream("orders", "running"))
    played = play(monkeypatch, KeyboardInterrupt(), running, KeyboardInterrupt(), running)
    result = shop("run", "shop", "--json")
    assert result.code == 130
    assert len(played.cancelled) == 1
    assert result.json["error"]["reason"] == "cancelled"


def test_status_shows_last_run_next_tick_and_freshness(shop: Elt, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, DONE)
    row = shop("status", "--json").json[0]
    assert (row["sync"], row["last_status"], row["freshness"], row["streams"]) == ("shop", "completed", "fresh", 2)
    assert timedelta(0) < datetime.fromisoformat(row["next_at"]) - datetime.now(UTC) <= timedelta(minutes=10)
    play(
        monkeypatch,
        view("failed", ended_at=NOW - timedelta(hours=3)),
        replace(DONE, ended_at=NOW - timedelta(hours=5)),
    )
    row = shop("status", "--json").json[0]
    assert (row["last_status"], row["freshness"]) == ("failed", "stale")
    assert "3 h ago" in shop("status").out


def test_status_is_worth_having_without_dagster(shop: Elt, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def away(self: Session) -> Iterator[None]:
        raise TransientError("Dagster cannot be asked.")
        yield

    monkeypatch.setattr(Session, "past_runs", away)
    result = shop("status", "--json")
    assert (result.code, result.json[0]["freshness"]) == (0, "never loaded")
    assert "No runs are shown: Dagster cannot be asked." in result.err


def test_a_broken_sync_shows_beside_the_good_ones(shop: Elt, monkeypatch: pytest.MonkeyPatch) -> None:
    from elt_dagster.store import open_store

    play(monkeypatch, DONE)
    with open_store()._database.write() as conn:
        conn.exec_driver_sql("UPDATE elt_syncs SET spec = '{'")
    result = shop("status", "--json")
    assert result.json[0]["status"] == "broken"
    assert "cannot be read" in result.err


def test_runs_are_listed_and_cancelled(shop: Elt, monkeypatch: pytest.MonkeyPatch) -> None:
    played = play(monkeypatch, DONE)
    assert shop("runs", "--json").json[0]["id"] == "run-1"
    assert "run-1" in shop("runs", "shop").out
    assert "Did you mean 'shop'?" in shop("runs", "shap").err
    assert shop("cancel", "run-1", "--reason", "enough").code == 0
    assert played.cancelled == [("run-1", "enough")]
    assert shop("cancel", "run-2").code == 2


def test_one_run_is_shown_with_its_reason_streams_and_attempts(shop: Elt, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = stream("orders", "failed", error="Its process was lost.", reason="heartbeat_timeout")
    play(monkeypatch, view("failed", lost, end_reason="heartbeat_timeout", error="It gave no sign of life.", attempt=1))
    shown = shop("runs", "--run", "run-1")
    assert "Reason: heartbeat_timeout. It gave no sign of life." in shown.err
    assert "orders: Its process was lost." in shown.err
    assert "Attempts: run-1 completed, run-1 completed" in shown.err
    told = shop("runs", "--run", "run-1", "--json").json
    assert (told["result_class"], told["reason"], told["attempt"]) == ("failure", "heartbeat_timeout", 1)
    assert told["attempts"] == ["run-1", "run-1"]
    assert told["streams"][0]["backend"] is None


def test_the_next_tick_follows_the_clock_of_its_zone() -> None:
    daily = SyncRow(
        id="1", slug="a", name="a", status="active", trigger_mode="scheduled", cron="0 6 * * *", timezone="Europe/Copenhagen"
    )  # fmt: skip
    winter, summer = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC)
    assert next_tick(daily, winter) == datetime(2026, 1, 1, 5, tzinfo=UTC)
    assert next_tick(daily, summer) == datetime(2026, 7, 1, 4, tzinfo=UTC)
    for quiet in (replace(daily, status="paused"), replace(daily, trigger_mode="manual"), replace(daily, cron=None)):
        assert next_tick(quiet, winter) is None


# --- progress ------------------------------------------------------------------------------------------------------------------


def test_on_a_terminal_every_stream_has_its_line() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=120, markup=False)
    board = Board(["orders", "[bold]odd"])
    live = progress_view(console, board)
    assert isinstance(live, LiveView)
    with live:
        board.see_progress(Progress("orders", 1_200_000, 310_200_000, 2.0))
    console.print(live)
    shown = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert "1,200,000 rows · 600,000 rows/s · 310.2 MB · 2.0 s" in shown
    assert "[bold]odd" in shown, "names are not markup"


def test_more_streams_than_lines_are_counted() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=120)
    console.print(LiveView(console, Board([f"s{i}" for i in range(SHOWN_STREAMS + 5)])))
    assert "and 5 more; 0 of 45 completed" in console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO


def test_in_a_log_progress_comes_in_plain_lines_and_not_too_often() -> None:
    out = StringIO()
    plain = progress_view(Console(file=out), Board([]))
    assert isinstance(plain, PlainView)
    board = Board(["orders"])
    with plain:
        for rows in range(100):
            plain.progressed(board.see_progress(Progress("orders", rows, rows, 1.0)))
    assert len(out.getvalue().splitlines()) == 1
    assert "\x1b" not in out.getvalue()


@pytest.mark.slow
def test_one_real_run_through_dagster(elt: Elt, tmp_path: Path) -> None:
    for folder in ("people", "home"):
        (tmp_path / folder).mkdir()
    files = {
        "people/people.csv": "id,name\n1,ann\n2,bob\n",
        "home/dagster.yaml": "telemetry:\n  enabled: false\n",
        "definitions.py": "from elt_dagster import build_definitions\ndefs = build_definitions()\n",
        "workspace.yaml": "load_from:\n  - python_file: definitions.py\n",
        "people.yaml": (
            "connections:\n- {name: files, connector: files, config: {url: people}}\n"
            "- {name: warehouse, connector: duckdb, config: {path: w.duckdb}}\n"
            "syncs:\n- {slug: people, connection: files, destination: warehouse, schema: raw, streams: [{name: people}]}\n"
        ),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert elt("apply", "-f", "people.yaml").code == 0
    ran = _alone(tmp_path, "run", "people")
    assert [(s["stream"], s["status"], s["rows"]) for s in ran["streams"]] == [("people", "completed", 2)]
    assert _alone(tmp_path, "runs")[0]["id"] == ran["id"]
    assert elt("state", "show", "people", "--json").json[0]["run_id"] == ran["id"]


def _alone(folder: Path, *args: str) -> Any:
    """The answer of a process of its own, as a user would start it; the store is named on the command line only."""
    environ = {**os.environ, "DAGSTER_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
    store = environ.pop("ELT_DAGSTER_STORE")
    command = [sys.executable, "-m", "elt_dagster.cli", *args, "--store", store, "--json"]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
