"""The store in PostgreSQL: what a server can do to it that a file cannot. What both must do is in ``tests/unit/test_store.py``."""

import multiprocessing
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet

from elt_dagster.errors import AuthError, ConfigError, ConflictError, TransientError
from elt_dagster.model import ConnectionSpec
from elt_dagster.store import Store, open_store
from elt_dagster.store.lease import acquire
from elt_dagster.store.location import store_url
from elt_dagster.store.seal import KEY_VARIABLE

SHOP = ConnectionSpec(name="shop-db", connector="postgres", config={"password": "hush"})
SECRET = frozenset({"password"})


@pytest.fixture
def store(postgres_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An initialised store in a database of its own."""
    monkeypatch.setenv(KEY_VARIABLE, Fernet.generate_key().decode())
    made = Store(store_url(postgres_database))
    made.init()
    yield made
    made.close()


def elsewhere(url: str, **changes: Any) -> Store:
    """A store at ``url`` with some parts of it changed."""
    return Store(store_url(url).set(**changes))


def run_sql(url: str, statement: str) -> list[Any]:
    engine = sa.create_engine(store_url(url), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as conn:
        result = conn.exec_driver_sql(statement)
        return list(result.scalars()) if result.returns_rows else []


@pytest.mark.usefixtures("real_migrations")
def test_it_lives_beside_the_tables_of_dagster(postgres_database: str) -> None:
    run_sql(postgres_database, "CREATE TABLE alembic_version (version_num text); CREATE TABLE runs (id int)")
    run_sql(postgres_database, "INSERT INTO alembic_version VALUES ('7e2f3204cf8e')")
    store = Store(store_url(postgres_database))
    assert store.init() is True
    assert store.syncs() == ()
    assert run_sql(postgres_database, "SELECT version_num FROM alembic_version") == ["7e2f3204cf8e"]
    foreign = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE 'elt!_%%' ESCAPE '!'"
    assert sorted(run_sql(postgres_database, foreign)) == ["alembic_version", "runs"]
    store.close()


def test_without_a_key_no_secret_is_taken(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.raises(ConfigError, match=f"needs {KEY_VARIABLE}.*generate_key"), store.transaction() as tx:
        tx.put_connection(SHOP, SECRET)
    with store.transaction() as tx:
        tx.put_connection(SHOP.model_copy(update={"config": {"password": {"env": "PW"}}}), SECRET)
    assert [c.spec.config for c in store.connections()] == [{"password": {"env": "PW"}}]


def test_the_secret_is_in_no_row(store: Store, postgres_database: str) -> None:
    with store.transaction() as tx:
        tx.put_connection(SHOP, SECRET)
    (kept,) = run_sql(postgres_database, "SELECT config FROM elt_connections")
    assert "hush" not in kept
    assert store.open_config(store.connection("shop-db")) == {"password": "hush"}


def test_a_server_that_does_not_answer_is_a_passing_trouble(postgres_database: str) -> None:
    # port 1 is reserved and nobody listens on it
    with pytest.raises(TransientError, match=r"me:\*\*\*@127\.0\.0\.1:1/.* cannot be reached") as caught:
        elsewhere(postgres_database, host="127.0.0.1", port=1, username="me", password="hush").syncs()
    assert "hush" not in repr(caught.value)
    assert caught.value.__suppress_context__, "no traceback of SQLAlchemy is shown"


def test_a_missing_database_is_named(postgres_database: str) -> None:
    with pytest.raises(ConfigError, match="/nothing_here names a database that is not there"):
        elsewhere(postgres_database, database="nothing_here").init()


def test_an_unknown_user_is_an_auth_error(postgres_database: str) -> None:
    with pytest.raises(AuthError, match=r"does not know the user|refused the credentials"):
        elsewhere(postgres_database, username="nobody_here").init()


def test_a_user_without_rights_is_told(store: Store, postgres_database: str) -> None:
    role = f"reader_{uuid.uuid4().hex[:8]}"
    run_sql(postgres_database, f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    reader = elsewhere(postgres_database, username=role, password="x")
    try:
        with pytest.raises(ConfigError, match="denies this user the rights"):
            reader.revision()
    finally:
        reader.close()
        run_sql(postgres_database, f"DROP ROLE {role}")


def _end_connections(url: str) -> None:
    others = "application_name = 'elt_dagster' AND datname = current_database()"
    run_sql(url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")


def test_idle_connections_that_the_server_closed_are_replaced(store: Store, postgres_database: str) -> None:
    assert store.revision() == 0
    _end_connections(postgres_database)
    assert store.revision() == 0


def test_a_connection_lost_in_a_transaction_keeps_nothing(store: Store, postgres_database: str) -> None:
    with pytest.raises(TransientError, match="cannot be reached"), store.transaction() as tx:  # noqa: PT012 - the order is the point
        tx.put_connection(SHOP, SECRET)
        _end_connections(postgres_database)
        tx.connections()
    assert store.connections() == ()
    assert store.revision() == 0


def test_writers_of_different_workspaces_do_not_wait(store: Store) -> None:
    store.create_workspace("other")
    with store.transaction() as mine, store.transaction("other") as theirs:
        mine.put_connection(SHOP, SECRET)
        theirs.put_connection(SHOP, SECRET)
    assert (store.revision(), store.revision("other")) == (1, 1)


def test_a_lease_does_not_wait_for_a_writer(store: Store) -> None:
    with store.transaction() as tx:
        tx.put_connection(SHOP, SECRET)
        assert store.acquire_lease("b1", "a", "r").fence == 1


def test_two_that_find_a_lease_free_do_not_both_get_it(store: Store, postgres_database: str) -> None:
    store.release_lease(store.acquire_lease("b1", "before", "run-0"))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with ThreadPoolExecutor(1) as pool:
        with store._database.write() as conn:
            conn.exec_driver_sql("SELECT 1 FROM elt_leases WHERE binding_id = 'b1' FOR UPDATE")
            second = pool.submit(store.acquire_lease, "b1", "beta", "run-2")
            deadline = time.monotonic() + 20
            while run_sql(postgres_database, waiting) != [1]:
                assert time.monotonic() < deadline, "the second never waited for the first"
            acquire(conn, "b1", "alpha", "run-1", 90)
        with pytest.raises(ConflictError) as caught:
            second.result(timeout=20)
    assert caught.value.with_id == "run-1"


def _backend(store: Store) -> int:
    with store._database.read() as conn:
        return int(conn.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())


def _child(url: str, answers: Any) -> None:
    answers.put(_backend(open_store(url)))


def test_a_forked_child_does_not_use_its_parents_connections(postgres_database: str) -> None:
    shared = open_store(postgres_database)
    mine = _backend(shared)
    assert _backend(shared) == mine, "the connection is kept and used again"
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_child, args=(postgres_database, answers))
    child.start()
    assert answers.get(timeout=30) != mine
    child.join(timeout=30)
    assert _backend(shared) == mine
    shared.close()
