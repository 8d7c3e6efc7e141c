"""The store, on both of its engines: every test here runs on SQLite and on a real PostgreSQL."""

import itertools
import multiprocessing
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from cryptography.fernet import Fernet
from sqlalchemy import event

import elt_dagster.store
from elt_dagster.errors import ConfigError, ConflictError, ContractError, NotFoundError, TransientError
from elt_dagster.model import ConnectionSpec, Stream, SyncSpec
from elt_dagster.store import BrokenSync, Store, StoredSync, open_store
from elt_dagster.store.location import store_url
from elt_dagster.store.schema import HEAD, VERSION_TABLE, database_now, metadata
from elt_dagster.testing._processes import CONTEXT, preload, process

ORDERS = Stream(name="public.orders", schema=pa.schema([("id", pa.int64())]), primary_key=("id",))
CUSTOMERS = Stream(name="public.customers", description="Who buys")
STREAMS = {s.name: s for s in (ORDERS, CUSTOMERS)}


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty place for a store: a file, or a schema of its own in a real server."""
    monkeypatch.setenv("ELT_DAGSTER_SECRET_KEY", Fernet.generate_key().decode())
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/store.sqlite"
        return
    server = sa.make_url(request.getfixturevalue("postgres_server")).set(drivername="postgresql+psycopg2")
    schema = f"store_{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(server)
    with engine.begin() as conn:
        conn.exec_driver_sql(f"CREATE SCHEMA {schema}")
    mine = server.update_query_dict({"options": f"-csearch_path={schema}"})
    yield mine.render_as_string(hide_password=False)
    open_store(mine.render_as_string(hide_password=False)).close()
    with engine.begin() as conn:
        conn.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
    engine.dispose()


@pytest.fixture
def store(url: str) -> Store:
    """An initialised store with two connections."""
    made = open_store(url)
    made.init()
    with made.transaction() as tx:
        tx.put_connection(connection("shop-db"))
        tx.put_connection(connection("warehouse", connector="duckdb"))
    return made


def connection(name: str, connector: str = "postgres", **config: Any) -> ConnectionSpec:
    return ConnectionSpec(name=name, connector=connector, config=config)


def sync(slug: str = "shop", **changes: Any) -> SyncSpec:
    plain = {
        "slug": slug,
        "connection": "shop-db",
        "destination": "warehouse",
        "schema": f"raw_{slug}",
        "schedule": {"cron": "*/10 * * * *", "timezone": "Europe/Copenhagen"},
        "streams": [{"name": "public.orders", "primary_key": ["id"]}, {"name": "public.customers"}],
    }
    return SyncSpec.model_validate({**plain, **changes})


def put(store: Store, spec: SyncSpec, workspace: str = "default") -> StoredSync:
    with store.transaction(workspace) as tx:
        return tx.put_sync(spec, STREAMS)


def run_sql(store: Store, statement: str, **values: Any) -> None:
    with store._database.write() as conn:
        conn.execute(sa.text(statement), values)


# --- tables ------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("real_migrations")
def test_init_changes_an_empty_place_once(url: str) -> None:
    store = open_store(url)
    assert store.init() is True
    assert store.init() is False
    assert store.revision() == 0
    assert store.syncs() == ()


@pytest.mark.usefixtures("real_migrations")
def test_migrations_build_what_the_schema_says(store: Store) -> None:
    with store._database.read() as conn:
        context = MigrationContext.configure(conn, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_what_the_tests_make_quickly_is_the_same(url: str, tmp_path: Path) -> None:
    first = open_store(url)  # if it is the first of this process, it is migrated for real, and the next is not
    first.init()
    with first._database.write() as conn:
        metadata.drop_all(conn)
        conn.exec_driver_sql(f"DROP TABLE {VERSION_TABLE}")
    assert first.init() is True
    first.ensure_current()
    with first._database.read() as conn:
        context = MigrationContext.configure(conn, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, metadata) == []
    other = open_store(f"sqlite:///{tmp_path}/other.sqlite")
    other.init()
    ids = [workspace_ids(store) for store in (first, other)]
    assert len(ids[0]) == len(ids[1]) == 1
    assert ids[0] != ids[1]


def workspace_ids(store: Store) -> list[str]:
    with store._database.read() as conn:
        return list(conn.scalars(sa.text("SELECT id FROM elt_workspaces")))


@pytest.mark.usefixtures("real_migrations")
def test_the_comparison_notices_a_missing_column(store: Store) -> None:
    run_sql(store, "ALTER TABLE elt_workspaces DROP COLUMN salt")
    with store._database.read() as conn:
        context = MigrationContext.configure(conn, opts={"version_table": VERSION_TABLE})
        assert [change[0] for change in compare_metadata(context, metadata)] == ["add_column"]


def test_head_is_the_newest_script() -> None:
    folder = Path(elt_dagster.store.__file__).parent / "migrations"
    assert ScriptDirectory(str(folder)).get_current_head() == HEAD


def _init_in_process(url: str, barrier: Any, answers: Any) -> None:
    store = open_store(url)
    barrier.wait()
    try:
        answers.put(store.init())
    except Exception as error:
        answers.put(repr(error))


def test_two_inits_at_once_are_one_init(url: str) -> None:
    answers = _in_processes(2, _init_in_process, url)
    assert sorted(answers) == [False, True]
    assert len(open_store(url).workspaces()) == 1


def test_an_empty_place_asks_for_init(url: str) -> None:
    with pytest.raises(ConfigError, match=r"not initialised.*elt-dagster init"):
        open_store(url).syncs()


def test_a_store_without_its_tables_asks_for_init(store: Store) -> None:
    tables = ("bindings", "syncs", "connections", "leases", "api_keys", "bridges", "oauth_clients", "workspaces")
    for table in tables:
        run_sql(store, f"DROP TABLE elt_{table}")
    with pytest.raises(ConfigError, match="elt-dagster init"):
        store.syncs()


@pytest.mark.parametrize(("version", "advice"), [("9999", "Upgrade elt-dagster"), ("0000", "Run: elt-dagster init")])
def test_another_version_says_what_to_do(store: Store, version: str, advice: str) -> None:
    run_sql(store, f"UPDATE {VERSION_TABLE} SET version_num = :v", v=version)
    fresh = Store(store._database._url)
    with pytest.raises(ConfigError, match=advice):
        fresh.connections()


def test_init_refuses_a_newer_store(store: Store) -> None:
    run_sql(store, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(ConfigError, match="Upgrade elt-dagster"):
        store.init()


# --- reading back --------------------------------------------------------------------------------------------------------------


def test_a_sync_comes_back_as_it_went_in(store: Store) -> None:
    spec = sync(settings={"since": "2024-01-01", "deep": [{"a": 1, "ü": None}]}, owners=["team:data"], tags={"a": "b"})
    stored = put(store, spec)
    assert stored.spec == spec
    assert stored.streams == STREAMS
    assert list(stored.binding_ids) == ["public.orders", "public.customers"]
    assert store.sync("shop") == store.sync_by_id(stored.id) == stored
    assert store.syncs() == (stored,)


def test_a_connection_comes_back_as_it_went_in(store: Store) -> None:
    spec = connection("api", host="h", password={"env": "X"}, big=2**70, nested={"list": [1, {"b": True}]})
    with store.transaction() as tx:
        stored = tx.put_connection(spec, frozenset({"password"}))
    assert stored.spec == spec
    assert store.connection("api") == store.connection_by_id(stored.id) == stored
    assert [c.spec.name for c in store.connections()] == ["api", "shop-db", "warehouse"]


def test_changing_a_sync_keeps_the_ids_of_streams_that_stay(store: Store) -> None:
    before = put(store, sync())
    put(store, sync(streams=[{"name": "public.customers", "table": "people"}]))
    after = put(store, sync(streams=[{"name": "public.orders"}, {"name": "public.customers", "table": "people"}]))
    assert after.id == before.id
    assert after.created_at == before.created_at < after.updated_at
    assert after.binding_ids["public.customers"] == before.binding_ids["public.customers"]
    assert after.binding_ids["public.orders"] != before.binding_ids["public.orders"], "it was gone in between"
    assert [b.name for b in after.spec.streams] == ["public.orders", "public.customers"]
    assert after.spec.streams[1].table == "people"


def test_a_changed_source_schema_is_a_change(store: Store) -> None:
    before = put(store, sync())
    wider = ORDERS.with_schema(pa.schema([("id", pa.int64()), ("total", pa.decimal128(12, 2))]))
    with store.transaction() as tx:
        after = tx.put_sync(sync(), {**STREAMS, ORDERS.name: wider})
    assert after.streams[ORDERS.name] == wider
    assert after.revision == before.revision + 1 == store.revision()


def test_names_that_do_not_exist_get_the_nearest(store: Store) -> None:
    put(store, sync())
    with pytest.raises(NotFoundError, match="Did you mean 'shop'"):
        store.sync("shopp")
    with pytest.raises(NotFoundError, match="Did you mean 'shop-db'"):
        store.connection("shopdb")
    with pytest.raises(NotFoundError, match="Did you mean 'warehouse'"):
        put(store, sync("other", destination="warehous"))
    with pytest.raises(NotFoundError, match="no workspace 'x'"):
        store.syncs(workspace="x")


# --- revision and transactions ---------------------------------------------------------------------------------------------------


def test_the_revision_moves_once_per_transaction_that_changes_something(store: Store) -> None:
    start = store.revision()
    with store.transaction() as tx:
        tx.put_sync(sync("a"), STREAMS)
        tx.put_sync(sync("b"), STREAMS)
    assert store.revision() == start + 1
    with store.transaction() as tx:
        tx.put_sync(sync("a"), STREAMS)
        tx.put_connection(connection("shop-db"))
    assert store.revision() == start + 1, "nothing changed"
    with store.transaction() as tx:
        tx.delete_sync("a")
    assert store.revision() == start + 2


def test_true_is_not_one(store: Store) -> None:
    put(store, sync(settings={"flag": 1}))
    assert put(store, sync(settings={"flag": True})).spec.settings["flag"] is True


def test_an_exception_undoes_the_whole_transaction(store: Store) -> None:
    start = store.revision()
    with pytest.raises(NotFoundError), store.transaction() as tx:  # noqa: PT012 - what came before the error is the point
        tx.put_sync(sync(), STREAMS)
        tx.put_connection(connection("extra"))
        tx.delete_sync("nothing")
    assert store.revision() == start
    assert store.syncs() == ()
    assert [c.spec.name for c in store.connections()] == ["shop-db", "warehouse"]


def test_a_transaction_reads_its_own_writes(store: Store) -> None:
    with store.transaction() as tx:
        tx.put_connection(connection("new"))
        tx.put_sync(sync(connection="new"), STREAMS)
        assert [s.slug for s in tx.syncs()] == ["shop"]
        assert tx.connection("new").spec.connector == "postgres"


def test_a_reader_sees_one_state_while_others_write(store: Store) -> None:
    with store.reading() as reader:
        assert reader.syncs() == ()
        put(store, sync())
        assert reader.syncs() == ()
    assert len(store.syncs()) == 1


WRITES = 10


def _hammer(url: str, barrier: Any, answers: Any) -> None:
    store = open_store(url)
    me = multiprocessing.current_process().name
    barrier.wait()
    try:
        for number in range(WRITES):
            with store.transaction() as tx:
                tx.put_connection(connection(f"{me}-{number}", host=me))
                shared = tx.connection("shop-db").spec.config.get("count", 0)
                tx.put_connection(connection("shop-db", count=shared + 1))
                tx.put_sync(sync(f"{me.lower()}_{number}"), STREAMS)
        answers.put("done")
    except Exception as error:
        answers.put(repr(error))


def test_two_processes_writing_at_once_lose_nothing(store: Store, url: str) -> None:
    start = store.revision()
    assert _in_processes(2, _hammer, url) == ["done", "done"]
    assert store.connection("shop-db").spec.config == {"count": 2 * WRITES}, "read, add, write: no update is lost"
    assert len(store.connections()) == 2 + 2 * WRITES
    assert len(store.syncs()) == 2 * WRITES
    assert store.revision() == start + 2 * WRITES


def test_threads_share_a_store(store: Store) -> None:
    start = store.revision()

    def work(number: int) -> int:
        with store.transaction() as tx:
            count = tx.connection("shop-db").spec.config.get("count", 0)
            tx.put_connection(connection("shop-db", count=count + 1))
        return store.acquire_lease(f"b{number}", str(number), "run").fence

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(24))) == [1] * 24
    assert store.connection("shop-db").spec.config == {"count": 24}
    assert store.revision() == start + 24


def test_waiting_for_another_writer_ends(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elt_dagster.store.database.BUSY_SECONDS", 0.05)
    impatient = Store(store_url(url))
    impatient.init()
    with impatient.transaction(), pytest.raises(TransientError, match="busy with another writer"):
        impatient.workspace_salt()
    assert impatient.revision() == 0
    impatient.close()


# --- conflicts -----------------------------------------------------------------------------------------------------------------


def test_a_used_connection_is_not_deleted(store: Store) -> None:
    used_by = put(store, sync())
    for name in ("shop-db", "warehouse"):
        with pytest.raises(ConflictError, match="used by: shop") as caught, store.transaction() as tx:
            tx.delete_connection(name)
        assert caught.value.with_id == used_by.id
    with store.transaction() as tx:
        tx.delete_sync("shop")
        tx.delete_connection("shop-db")
    assert [c.spec.name for c in store.connections()] == ["warehouse"]


def test_a_table_belongs_to_one_sync(store: Store) -> None:
    first = put(store, sync("a", schema="raw"))
    with pytest.raises(ConflictError, match=r"'b' would load the table raw\.customers, which sync 'a' loads") as caught:
        put(store, sync("b", schema="raw"))
    assert caught.value.with_id == first.id
    put(store, sync("a", schema="raw", status="archived"))
    put(store, sync("b", schema="raw"))
    with pytest.raises(ConflictError, match="which sync 'b' loads"):
        put(store, sync("a", schema="raw"))


def test_syncs_may_swap_tables_and_take_over_those_of_a_deleted_one(store: Store) -> None:
    put(store, sync("a", schema="first"))
    put(store, sync("b", schema="second"))
    with store.transaction() as tx:
        tx.put_sync(sync("a", schema="second"), STREAMS)
        tx.put_sync(sync("b", schema="first"), STREAMS)
    with store.transaction() as tx:
        tx.put_sync(sync("renamed", schema="first"), STREAMS)
        tx.delete_sync("b")
    assert [(s.spec.slug, s.spec.dataset) for s in store.syncs() if isinstance(s, StoredSync)] == [
        ("a", "second"),
        ("renamed", "first"),
    ]


def test_a_conflict_undoes_the_transaction(store: Store) -> None:
    start = store.revision()
    with (
        pytest.raises(ConflictError, match=r"'.' would load the table raw\.\w+, which sync '.' loads"),
        store.transaction() as tx,
    ):
        _ = [tx.put_sync(sync(slug, schema="raw"), STREAMS) for slug in ("a", "b")]
    assert (store.syncs(), store.revision()) == ((), start)


def test_a_binding_without_its_stream_is_a_bug_of_the_caller(store: Store) -> None:
    with pytest.raises(ContractError, match=r"public\.customers"), store.transaction() as tx:
        tx.put_sync(sync(), {ORDERS.name: ORDERS})


def test_deleting_what_is_not_there_says_so(store: Store) -> None:
    for delete in ("delete_sync", "delete_connection"):
        with pytest.raises(NotFoundError), store.transaction() as tx:
            getattr(tx, delete)("nothing")


# --- workspaces ------------------------------------------------------------------------------------------------------------------


def test_workspaces_do_not_see_each_other(store: Store) -> None:
    other = store.create_workspace("other")
    assert store.create_workspace("other") == other
    mine = put(store, sync())
    with store.transaction("other") as tx:
        tx.put_connection(connection("shop-db", host="theirs"))
    assert store.syncs(workspace="other") == ()
    assert store.connection("shop-db", workspace="other").spec.config == {"host": "theirs"}
    assert store.connection("shop-db").spec.config == {}
    with pytest.raises(NotFoundError):
        store.sync_by_id(mine.id, workspace="other")
    with pytest.raises(NotFoundError):
        store.connection_by_id(store.connection("shop-db").id, workspace="other")
    with pytest.raises(NotFoundError, match="'warehouse', which does not exist"):
        put(store, sync(), "other")
    assert store.revision("other") == 1
    assert store.workspace_salt("other") != store.workspace_salt()


def test_the_salt_is_made_once(store: Store) -> None:
    before = store.revision()
    salt = store.workspace_salt()
    assert len(salt) == 32
    assert store.workspace_salt() == salt == Store(store._database._url).workspace_salt()
    assert store.revision() == before


# --- broken rows -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE elt_syncs SET spec = '{' WHERE slug = 'b'",
        "UPDATE elt_syncs SET spec = '[]' WHERE slug = 'b'",
        """UPDATE elt_syncs SET spec = '{"slug": "b", "gone_setting": 1}' WHERE slug = 'b'""",
        "UPDATE elt_bindings SET spec = '{}' WHERE sync_id = (SELECT id FROM elt_syncs WHERE slug = 'b')",
        "UPDATE elt_bindings SET discovered = 'null' WHERE sync_id = (SELECT id FROM elt_syncs WHERE slug = 'b')",
        """UPDATE elt_bindings SET discovered = '{"name": "x", "schema": [{"name": "c", "type": "gone"}]}'
           WHERE sync_id = (SELECT id FROM elt_syncs WHERE slug = 'b')""",
        """UPDATE elt_bindings SET discovered = '{"name": "x", "gone": 1}'
           WHERE sync_id = (SELECT id FROM elt_syncs WHERE slug = 'b')""",
    ],
)
def test_a_broken_sync_breaks_itself_only(store: Store, damage: str) -> None:
    for slug in ("a", "b", "c"):
        put(store, sync(slug))
    run_sql(store, damage)
    a, b, c = store.syncs()
    assert isinstance(a, StoredSync)
    assert isinstance(c, StoredSync)
    assert isinstance(b, BrokenSync)
    assert (b.slug, a.error) == ("b", None)
    assert b.error.startswith("The stored sync 'b' cannot be read: ")
    with pytest.raises(ConfigError, match="Write it again"):
        store.sync("b")
    mended = put(store, sync("b"))
    assert mended.id == b.id
    assert [type(s) for s in store.syncs()] == [StoredSync] * 3


def test_a_broken_sync_can_be_deleted(store: Store) -> None:
    put(store, sync())
    run_sql(store, "UPDATE elt_syncs SET spec = 'x'")
    with store.transaction() as tx:
        tx.delete_sync("shop")
    assert store.syncs() == ()


def test_a_broken_connection_stays_in_the_list(store: Store) -> None:
    run_sql(store, "UPDATE elt_connections SET config = '{{' WHERE name = 'shop-db'")
    broken, good = store.connections()
    assert good.error is None
    assert broken.error is not None
    assert "'shop-db' cannot be read" in broken.error
    with pytest.raises(ConfigError, match="cannot be read"):
        store.open_config(broken)


def test_listing_takes_two_queries_whatever_the_number(store: Store) -> None:
    counts = []
    for slugs in (["a"], ["b", "c", "d", "e"]):
        with store.transaction() as tx:
            for slug in slugs:
                tx.put_sync(sync(slug), STREAMS)
        seen: list[str] = []
        with store.reading() as reader:
            event.listen(reader._conn, "before_cursor_execute", lambda *a, seen=seen: seen.append(a[2]))
            reader.syncs()
        counts.append(len(seen))
    assert counts == [2, 2]


# --- leases ----------------------------------------------------------------------------------------------------------------------


def expire(store: Store) -> None:
    run_sql(store, "UPDATE elt_leases SET expires_at = 1")


def test_one_holder_at_a_time(store: Store) -> None:
    first = store.acquire_lease("b1", "alpha", "run-1")
    with pytest.raises(ConflictError, match="run-1") as caught:
        store.acquire_lease("b1", "beta", "run-2")
    assert caught.value.with_id == "run-1"
    assert store.acquire_lease("b2", "beta", "run-2").fence == 1, "another binding is free"
    store.release_lease(first)
    assert store.acquire_lease("b1", "beta", "run-2").fence == first.fence + 1


def test_an_expired_lease_is_free_and_its_holder_finds_out(store: Store) -> None:
    zombie = store.acquire_lease("b1", "alpha", "run-1")
    expire(store)
    taken = store.acquire_lease("b1", "beta", "run-2")
    assert taken.fence == zombie.fence + 1
    with pytest.raises(ConflictError, match="run-2 took it") as caught:
        store.renew_lease(zombie)
    assert caught.value.with_id == "run-2"
    store.release_lease(zombie)
    assert store.renew_lease(taken).fence == taken.fence, "the zombie's release did not touch it"


def test_a_lease_that_expired_and_nobody_took_can_be_renewed(store: Store) -> None:
    lease = store.acquire_lease("b1", "alpha", "run-1")
    expire(store)
    renewed = store.renew_lease(lease)
    assert renewed.fence == lease.fence
    assert renewed.expires_at >= lease.expires_at
    with pytest.raises(ConflictError):
        store.acquire_lease("b1", "beta", "run-2")


def test_a_released_lease_is_not_renewed(store: Store) -> None:
    lease = store.acquire_lease("b1", "alpha", "run-1")
    store.release_lease(lease)
    with pytest.raises(ConflictError, match="released"):
        store.renew_lease(lease)


def test_taking_it_again_ends_the_holders_own_earlier_lease(store: Store) -> None:
    earlier = store.acquire_lease("b1", "alpha", "run-1")
    later = store.acquire_lease("b1", "alpha", "run-1")
    with pytest.raises(ConflictError, match="lost"):
        store.renew_lease(earlier)
    store.release_lease(earlier)
    assert store.renew_lease(later).fence == earlier.fence + 1


def test_fences_only_grow(store: Store) -> None:
    fences = []
    for number in range(4):
        lease = store.acquire_lease("b1", f"holder-{number % 2}", f"run-{number}")
        fences.append(lease.fence)
        if number % 2:
            store.release_lease(lease)
        else:
            expire(store)
    fences += [store.acquire_lease("b1", "same", "run").fence, store.acquire_lease("b1", "same", "run").fence]
    assert all(later == earlier + 1 for earlier, later in itertools.pairwise(fences))


def test_the_lease_lasts_as_long_as_was_asked(store: Store) -> None:
    with store._database.read() as conn:
        now = conn.scalar(sa.select(database_now()))
    assert now is not None
    assert 0 <= store.acquire_lease("b1", "a", "r", seconds=500).expires_at.timestamp() - now - 500 < 60


def _race(url: str, barrier: Any, answers: Any) -> None:
    store = open_store(url)
    store.ensure_current()
    me = multiprocessing.current_process().name
    barrier.wait()
    try:
        answers.put(store.acquire_lease("b1", me, me).fence)
    except ConflictError:
        answers.put("refused")
    except Exception as error:
        answers.put(repr(error))


def test_of_two_processes_one_gets_a_new_lease(store: Store, url: str) -> None:
    assert sorted(_in_processes(2, _race, url), key=str) == [1, "refused"]


def test_deleting_a_sync_ends_its_leases(store: Store) -> None:
    stored = put(store, sync())
    lease = store.acquire_lease(stored.binding_ids[ORDERS.name], "alpha", "run-1")
    with store.transaction() as tx:
        tx.delete_sync("shop")
    with pytest.raises(ConflictError, match="deleted"):
        store.renew_lease(lease)


# --- where it is -------------------------------------------------------------------------------------------------------------------


def test_there_is_one_store_per_url(url: str) -> None:
    assert open_store(url) is open_store(url)


preload(__name__)


def _in_processes(count: int, work: Any, url: str) -> list[Any]:
    """Run ``work`` in processes that begin together; their answers."""
    barrier, answers = CONTEXT.Barrier(count), CONTEXT.Queue()
    started = [process(work, url, barrier, answers, name=f"P{n}") for n in range(count)]
    for one in started:
        one.start()
    found = [answers.get(timeout=60) for _ in started]
    for one in started:
        one.join(timeout=60)
    return found


def test_the_place_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ELT_DAGSTER_STORE", raising=False)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    assert open_store().url_shown == f"sqlite:///{tmp_path}/.elt_dagster/store.sqlite"
    monkeypatch.setenv("DAGSTER_HOME", "/home/dagster")
    assert open_store().url_shown == "sqlite:////home/dagster/elt_dagster/store.sqlite"
    monkeypatch.setenv("ELT_DAGSTER_STORE", "postgresql://me:hush@db.internal/elt?sslpassword=hush")
    assert open_store().url_shown == "postgresql+psycopg2://me:***@db.internal/elt"
    assert "hush" not in repr(open_store())
    assert list(tmp_path.iterdir()) == [], "nothing is made before it is used"


@pytest.mark.parametrize(
    "wrong", ["/data/hush.sqlite", "mysql://u:hush@h/d", "sqlite://", "sqlite:///:memory:", "x://hush:hush:h"]
)
def test_other_places_are_refused_without_repeating_them(wrong: str) -> None:
    with pytest.raises(ConfigError, match="postgresql://user:password@host") as caught:
        open_store(wrong)
    assert "hush" not in str(caught.value)


def test_asking_a_file_that_is_not_there_does_not_make_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="elt-dagster init"):
        open_store(f"sqlite:///{tmp_path}/none/store.sqlite").syncs()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("this is not a database, it is a text of some length " * 40)
    with pytest.raises(ConfigError, match=r"notes\.txt is not a SQLite database"):
        open_store(f"sqlite:///{tmp_path}/notes.txt").syncs()
