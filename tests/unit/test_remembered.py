"""What servers remember of syncs and runs, and when they have to look again."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from elt_dagster.api.one_thread import awaitable, finish
from elt_dagster.control.kept import Kept
from elt_dagster.errors import NotFoundError
from elt_dagster.model.secret import MASK
from elt_dagster.orchestration import _quick_storages
from elt_dagster.orchestration._ended_runs import EndedRuns
from elt_dagster.orchestration._quick_storages import quicken
from elt_dagster.store import Reader, Store
from elt_dagster.store.database import Database
from elt_dagster.store.records import Workspace
from elt_dagster.store.remembered import Memory
from tests.servers import database
from tests.unit.test_store import connection, put, store, sync, url

__all__ = ["store", "url"]
NOW = datetime(2026, 11, 21, tzinfo=UTC)


class Asked:
    """A question that counts how often it reaches the store."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, reader: Reader) -> list[str]:
        self.times += 1
        return reader.slugs()


@pytest.fixture
def server(store: Store) -> Store:
    """The same store, as a server keeps it; others write to it as well."""
    put(store, sync())
    found = Store(store._database._url)
    found.stay_open()
    return found


def test_what_was_read_is_not_read_again_until_somebody_changes_something(store: Store, server: Store) -> None:
    slugs = Asked()
    assert [server.recall("default", "slugs", slugs) for _ in range(3)] == [["shop"]] * 3
    assert slugs.times == 1
    put(store, sync("second"))
    assert sorted(server.recall("default", "slugs", slugs)) == ["second", "shop"]
    with server.transaction() as tx:
        tx.delete_sync("second")
    assert server.recall("default", "slugs", slugs) == ["shop"]
    assert slugs.times == 3


def test_workspaces_and_questions_are_kept_apart(server: Store) -> None:
    server.create_workspace("other")
    slugs = Asked()
    assert server.recall("default", "slugs", slugs) == ["shop"]
    assert server.recall("other", "slugs", slugs) == []
    assert server.recall("default", "number", lambda reader: len(reader.slugs())) == 1
    with pytest.raises(NotFoundError, match="'othr'"):
        server.recall("othr", "slugs", slugs)


def test_a_sync_is_the_same_object_until_it_changes(store: Store, server: Store) -> None:
    first = server.sync_by_id(put(store, sync()).id)
    assert server.any_sync_by_id(first.id) is first
    put(store, sync(name="Other"))
    assert server.sync_by_id(first.id).spec.name == "Other"


def test_connections_are_remembered_without_their_secrets(store: Store, server: Store) -> None:
    def put_shop(label: str) -> str:
        with store.transaction() as tx:
            spec = connection("shop-db", password="hunter2", host="h")
            return tx.put_connection(spec, frozenset({"password"}), label=label).id

    shop = put_shop("Shop")
    shown = server.shown_connections([shop, "gone"])
    assert list(shown) == [shop]
    assert shown[shop].spec.config == {"password": MASK, "host": "h"}
    assert server.shown_connections([shop])[shop] is not shown[shop]  # another question
    assert server.shown_connections(["gone", shop])[shop] is shown[shop]
    put_shop("Shop of Ada")
    assert server.shown_connections([shop])[shop].label == "Shop of Ada"
    assert server.open_config(server.connection_by_id(shop))["password"] == "hunter2"


def test_a_store_that_nobody_serves_reads_each_time(store: Store) -> None:
    put(store, sync())
    slugs = Asked()
    assert [store.recall("default", "slugs", slugs) for _ in range(2)] == [["shop"]] * 2
    assert slugs.times == 2


def test_what_is_no_longer_asked_for_makes_room() -> None:
    memory = Memory(syncs_kept=10)
    workspace = Workspace("w", "default", 1, NOW)
    for number in range(4):
        memory.keep(workspace, number, f"answer {number}", 3)
        memory.recall("w", 1, 0)
    assert [memory.recall("w", 1, n) for n in range(4)] == [("answer 0",), (), ("answer 2",), ("answer 3",)]


def test_an_answer_of_yesterday_does_not_come_back() -> None:
    memory = Memory()
    today = Workspace("w", "default", 2, NOW)
    memory.keep(today, "q", "new", 1)
    memory.keep(replace(today, revision=1), "q", "old", 1)
    assert memory.recall("w", 2, "q") == ("new",)
    assert memory.recall("w", 1, "q") == ()


def test_a_glance_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    database = Database(sa.make_url(f"sqlite:///{tmp_path}/empty.sqlite"))
    with pytest.raises(Exception, match="not initialised"):
        database.glance("SELECT 1 FROM elt_workspaces WHERE name = {}", "default")


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_a_glance_survives_a_server_that_was_restarted(server: Store) -> None:
    slugs = Asked()
    server.recall("default", "slugs", slugs)
    with server._database._glances.connect() as idle:  # the only one there is
        pid = idle.scalar(sa.text("SELECT pg_backend_pid()"))
    with server._database.read() as conn:
        conn.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    assert server.recall("default", "slugs", slugs) == ["shop"]
    assert slugs.times == 1


def test_marks_are_found_although_there_are_none_most_of_the_time(server: Store) -> None:
    (binding, *_) = server.sync("shop").binding_ids.values()
    assert server.full_refreshes.of([binding]) == {}
    made = server.full_refreshes.mark(binding)
    assert server.full_refreshes.of([binding]) == {binding: made}


# --- runs --------------------------------------------------------------------------------------------------------------------


def run(run_id: str, status: str = "SUCCESS", ended: float | None = 1.0) -> dict[str, Any]:
    return {"runId": run_id, "status": status, "endTime": ended, "updateTime": ended}


def test_a_run_that_ended_a_while_ago_is_read_once() -> None:
    there = {r["runId"]: r for r in (run("a"), run("b", "STARTED", None), run("c", ended=95.0))}
    asked: list[list[str]] = []

    def read(ids: Sequence[str]) -> list[dict[str, Any]]:
        asked.append(list(ids))
        return [there[i] for i in reversed(ids) if i in there]

    ended = EndedRuns(["STARTED"], clock=lambda: 100.0)
    for _ in range(2):
        assert [r["runId"] for r in ended.fill(["c", "a", "gone", "b"], read)] == ["c", "a", "b"]
    assert asked == [["c", "a", "gone", "b"], ["c", "gone", "b"]]


def test_runs_that_nobody_asks_for_make_room() -> None:
    ended = EndedRuns([], clock=lambda: 1000.0, kept=2)
    for name in "abac":
        ended.fill([name], lambda ids: [run(i) for i in ids])
    unknown: list[str] = []

    def read(ids: Sequence[str]) -> list[dict[str, Any]]:
        unknown.extend(ids)
        return []

    ended.fill(["a", "b", "c"], read)
    assert unknown == ["b"]


def test_dagsters_sqlite_answers_the_same_and_alembic_is_not_asked_of_each_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dg.job
    def nothing() -> None: ...

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        ids = [nothing.execute_in_process(instance=instance).run_id for _ in range(3)]
        plain = [instance.get_run_records(limit=10), [instance.get_run_stats(i) for i in ids]]
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        quicken(instance)
        monkeypatch.setattr("alembic.script.ScriptDirectory.from_config", lambda _: pytest.fail("Alembic was asked"))
        assert [instance.get_run_records(limit=10), [instance.get_run_stats(i) for i in ids]] == plain
        monkeypatch.undo()
        # a run whose log is gone gets none by being asked for
        (log,) = (tmp_path / "history" / "runs").glob(f"{ids[0]}.db")
        log.unlink()
        assert instance.get_run_step_stats(ids[0]) == []
        assert not log.exists()
        # a log that is new is made as before
        again = nothing.execute_in_process(instance=instance)
        assert again.success
        assert instance.get_run_stats(again.run_id).steps_failed == 0


def test_dagsters_postgresql_keeps_its_connections_and_is_asked_for_its_columns_once(tmp_path: Path) -> None:
    with database("dagster") as url:
        (tmp_path / "dagster.yaml").write_text(f"storage: {{postgres: {{postgres_url: '{url}'}}}}")
        with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
            instance.optimize_for_webserver(statement_timeout=10_000, pool_recycle=3600, max_overflow=20)
            quicken(instance)
            engine = instance.run_storage._engine  # type: ignore[attr-defined]
            connected: list[object] = []
            asked: list[str] = []
            event.listen(engine, "connect", lambda *_: connected.append(_))
            event.listen(engine, "before_cursor_execute", lambda *said: asked.append(said[2]))
            for _ in range(2):
                with ExitStack() as stack:
                    for _ in range(8):
                        stack.enter_context(engine.connect())
            assert len(connected) == 8
            instance.get_run_records(limit=1)
            asked.clear()
            assert instance.get_run_records(limit=1) == []
            assert [text.split()[0] for text in asked] == ["SELECT"]
            assert "FROM runs" in asked[0]


def test_a_dagster_that_is_another_one_is_noticed() -> None:
    with pytest.raises(AttributeError, match="not the one that was looked at"):
        _quick_storages._replace(object(), "connect", lambda: None)


# --- answers -----------------------------------------------------------------------------------------------------------------


def test_what_is_shown_of_an_object_is_made_once_for_it() -> None:
    made: list[object] = []
    kept: Kept[object, int] = Kept(most=2)

    def make(source: object) -> int:
        made.append(source)
        return len(made)

    first, second = object(), object()
    assert [kept.of("a", first, make) for _ in range(2)] == [1, 1]
    assert kept.of("a", second, make) == 2
    assert [kept.of(k, first, make) for k in ("b", "c", "c")] == [3, 4, 4]


def test_a_coroutine_that_waits_for_nothing_is_finished_where_it_is() -> None:
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    called = awaitable(add)
    assert (called.__name__, called.__doc__) == ("add", "Add.")

    async def all_of_it() -> int:
        return await called(a=1, b=2)

    assert finish(all_of_it()) == 3


def test_a_coroutine_that_waits_is_an_error_and_not_a_thread_that_hangs() -> None:
    import asyncio

    async def waits() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="waits for something"):
        finish(waits())
