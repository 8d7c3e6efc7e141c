"""What the store keeps for the REST API, on both of its engines."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from pydantic import SecretStr

from elt_dagster.control.vault import StoreVault
from elt_dagster.errors import ConfigError, ConflictError, NotFoundError
from elt_dagster.model import ConnectionSpec
from elt_dagster.store import OAuthClient, Place, Reply, Store, SyncFilter, open_store
from elt_dagster.store.replies import ABANDONED
from elt_dagster.store.schema import HEAD
from elt_dagster.store.seal import KEY_VARIABLE
from tests.unit.test_store import STREAMS, put, run_sql, store, sync, url

__all__ = ["store", "url"]


# --- keys --------------------------------------------------------------------------------------------------------------------


def test_a_key_is_found_by_its_text_and_kept_as_a_hash(store: Store) -> None:
    made, text = store.api_keys.create(name="ci")
    assert len(text) > 40
    found = store.api_keys.find(text)
    assert found is not None
    assert (found.id, found.name, found.workspace) == (made.id, "ci", "default")
    with store._database.read() as conn:
        assert text not in str(conn.execute(sa.text("SELECT * FROM elt_api_keys")).all())


def test_wrong_revoked_and_expired_keys_open_nothing(store: Store) -> None:
    _, text = store.api_keys.create(name="ci")
    _, old = store.api_keys.create(name="old", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert store.api_keys.revoke("ci").revoked_at is not None
    assert [store.api_keys.find(t) for t in (text, old, text[:-1], "", "é" * 20, "\ud800")] == [None] * 6
    with pytest.raises(NotFoundError, match="Did you mean 'ci'"):
        store.api_keys.revoke("cii")


def test_a_key_of_ones_own_is_taken_once_and_not_if_it_can_be_guessed(store: Store) -> None:
    own = "0123456789abcdef"
    _, text = store.api_keys.create(key=own)
    assert text == own
    with pytest.raises(ConflictError, match="there already"):
        store.api_keys.create(key=own)
    for wrong in ("short", "has a space in it, long", "ünïcödé-ünïcödé-ünïcödé"):
        with pytest.raises(ConfigError, match="at least 16"):
            store.api_keys.create(key=wrong)


def test_of_servers_that_start_at_once_one_makes_the_first_key(store: Store) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: store.api_keys.create_first(), range(4)))
    assert sum(m is not None for m in made) == 1
    assert [k.name for k in store.api_keys.list()] == ["first"]


def test_the_use_of_a_key_is_noted_once_a_minute(store: Store) -> None:
    made, _ = store.api_keys.create()
    store.api_keys.note_use(made)
    (first,) = store.api_keys.list()
    store.api_keys.note_use(made)
    (second,) = store.api_keys.list()
    assert first.last_used_at is not None
    assert first.last_used_at == second.last_used_at


# --- replies -----------------------------------------------------------------------------------------------------------------


def test_a_request_is_carried_out_once_and_then_answered_as_before(store: Store) -> None:
    assert store.replies.begin("w", "k", "digest") is None
    with pytest.raises(ConflictError, match="still being carried out"):
        store.replies.begin("w", "k", "digest")
    store.replies.keep("w", "k", Reply(201, {"etag": '"1"'}, '{"id": 1}'))
    assert store.replies.begin("w", "k", "digest") == Reply(201, {"etag": '"1"'}, '{"id": 1}')
    with store._database.read() as conn:
        assert '"id"' not in str(conn.execute(sa.text("SELECT body FROM elt_replies")).all())
    with pytest.raises(ConfigError, match="another request"):
        store.replies.begin("w", "k", "other")
    assert store.replies.begin("another workspace", "k", "other") is None


def test_what_was_refused_or_lost_with_its_server_may_be_sent_again(store: Store) -> None:
    assert store.replies.begin("w", "refused", "d") is None
    store.replies.drop("w", "refused")
    assert store.replies.begin("w", "refused", "d") is None
    long_ago = (datetime.now(UTC) - 2 * ABANDONED).strftime("%Y-%m-%d %H:%M:%S")
    run_sql(store, "UPDATE elt_replies SET started_at = :at", at=long_ago)
    assert store.replies.begin("w", "refused", "d") is None


# --- marks -------------------------------------------------------------------------------------------------------------------


def test_a_run_takes_away_only_the_mark_it_has_honoured(store: Store) -> None:
    marks = store.full_refreshes
    first = marks.mark("b", requested_by="key")
    second = marks.mark("b", reset_history=True)
    assert marks.get("b") == second
    assert marks.end("b", first.mark_id) is False
    assert marks.of(["a", "b"]) == {"b": second}
    assert marks.end("b", second.mark_id) is True
    assert (marks.get("b"), marks.end("b")) == (None, False)


# --- syncs and connections ---------------------------------------------------------------------------------------------------


def test_pages_follow_each_other_whatever_is_made_meanwhile(store: Store) -> None:
    made = [put(store, sync(f"s{n}")).id for n in range(5)]
    with store.reading() as reader:
        page, total = reader.sync_page(SyncFilter(), Place(limit=2, newest_first=True))
    assert ([s.id for s in page], total) == (made[:2:-1], 5)
    put(store, sync("later"))
    with store.reading() as reader:
        rest, _ = reader.sync_page(SyncFilter(), Place(limit=9, after=page[-1].id, newest_first=True))
        oldest, _ = reader.sync_page(SyncFilter(), Place(limit=2, offset=1))
    assert [s.id for s in rest] == made[2::-1]
    assert [s.id for s in oldest] == made[1:3]
    with store.reading() as reader, pytest.raises(NotFoundError, match="to go on from"):
        reader.sync_page(SyncFilter(), Place(limit=1, after="gone"))


def test_a_list_is_narrowed_by_text_status_connector_and_connection(store: Store) -> None:
    put(store, sync("shop", name="Straße 100%"))
    put(store, sync("other", status="paused"))
    source = store.connection("shop-db").id

    def slugs(**wanted: object) -> list[str]:
        with store.reading() as reader:
            return [s.slug for s in reader.sync_page(SyncFilter(**wanted), Place(limit=9))[0]]  # type: ignore[arg-type]

    assert slugs(text="SHO") == slugs(text="straß") == slugs(text="0%") == ["shop"]
    assert slugs(text="_") == slugs(statuses=("draft",)) == slugs(connectors=("mysql",)) == []
    assert slugs(statuses=("paused", "draft")) == slugs(without_statuses=("active",)) == ["other"]
    assert slugs(connectors=("postgres",)) == slugs(connection_id=source) == ["shop", "other"]


def test_who_changed_a_sync_and_what_the_dialects_keep_is_there(store: Store) -> None:
    with store.transaction() as tx:
        tx.put_sync(sync(), STREAMS, by="key-1")
        tx.put_envelope("shop", {"task": "x"}, by="key-1")
    first = store.sync("shop")
    with store.transaction() as tx:
        tx.put_envelope("shop", {"task": "x"}, by="key-2")
    assert store.sync("shop") == first
    with store.transaction() as tx:
        tx.put_sync(sync(name="New"), STREAMS, by="key-2")
    second = store.sync("shop")
    assert (first.created_by, first.updated_by, dict(first.envelope)) == ("key-1", "key-1", {"task": "x"})
    assert (second.created_by, second.updated_by, dict(second.envelope)) == ("key-1", "key-2", {"task": "x"})
    assert second.binding_times == first.binding_times
    assert second.revision == first.revision + 1


def test_a_renamed_sync_keeps_its_ids(store: Store) -> None:
    before = put(store, sync())
    with store.transaction() as tx:
        tx.rename_sync("shop", "store")
    after = store.sync("store")
    assert (after.id, after.binding_ids, after.spec) == (
        before.id,
        before.binding_ids,
        before.spec.model_copy(update={"slug": "store"}),
    )


def test_a_rotated_secret_is_no_change_that_anybody_has_to_load(store: Store) -> None:
    with store.transaction() as tx:
        spec = ConnectionSpec(
            name="api", connector="http_api", config={"auth": {"refresh_token": "first", "type": "oauth2"}}
        )
        tx.put_connection(spec, frozenset({"auth.refresh_token"}), label="The API")
    revision = store.revision()
    with StoreVault(store, "default", "api").exclusive() as drawer:
        assert drawer.current("auth.refresh_token") == SecretStr("first")
        drawer.keep("auth.refresh_token", SecretStr("second"))
        assert drawer.current("auth.refresh_token") == SecretStr("second")
        assert drawer.current("auth.absent") is None
    stored = store.connection("api")
    assert (store.revision(), stored.label) == (revision, "The API")
    assert store.open_config(stored)["auth"] == {"refresh_token": "second", "type": "oauth2"}
    with store._database.read() as conn:
        assert "second" not in str(conn.execute(sa.text("SELECT config FROM elt_connections")).all())


def test_threads_open_the_drawer_one_after_the_other(store: Store) -> None:
    with store.transaction() as tx:
        tx.put_connection(ConnectionSpec(name="api", connector="x", config={"n": "0"}), frozenset({"n"}))
    vault = StoreVault(store, "default", "api")

    def count(_: int) -> None:
        with vault.exclusive() as drawer:
            current = drawer.current("n")
            assert current is not None
            drawer.keep("n", SecretStr(str(int(current.get_secret_value()) + 1)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(12)))
    assert store.open_config(store.connection("api"))["n"] == "12"


# --- bridges -----------------------------------------------------------------------------------------------------------------


def test_a_bridge_is_crossed_once_and_its_state_is_used_once(store: Store) -> None:
    (workspace,) = store.workspaces()
    known = {"settings": {"region": "eu"}}
    made = store.bridges.create(
        workspace.id, connector="x", label="X", redirect_uri="https://a.b/c", token="t" * 20, sealed=known
    )
    assert store.bridges.by_token("t" * 20) == made
    store.bridges.start_round(made.id, "state", {"verifier": "canary", **known})
    assert store.bridges.by_state("state").sealed == {"verifier": "canary", **known}
    with store._database.read() as conn:
        kept = str(conn.execute(sa.text("SELECT * FROM elt_bridges")).all())
    assert not any(secret in kept for secret in ("t" * 20, "'state'", "canary"))
    store.bridges.end_round(made.id, "state", known)
    for late in (lambda: store.bridges.by_state("state"), lambda: store.bridges.end_round(made.id, "state", {})):
        with pytest.raises(ConfigError):
            late()
    assert store.bridges.by_token("t" * 20).sealed == known
    with store.transaction() as tx:
        tx.cross_bridge(made.id, "connection")
    with store.transaction() as tx, pytest.raises(ConflictError, match="used already"):
        tx.cross_bridge(made.id, "connection")
    crossed = store.bridges.by_token("t" * 20)
    assert (crossed.is_open, crossed.connection_id, crossed.sealed) == (False, "connection", {})
    assert store.bridges.open_page(workspace.id, limit=9) == ([], False)
    with pytest.raises(NotFoundError):
        store.bridges.by_token("other")


def test_a_bridge_and_its_connection_are_one_write(store: Store) -> None:
    (workspace,) = store.workspaces()
    made = store.bridges.create(workspace.id, connector="x", label="X", redirect_uri="https://a.b/c", token="t" * 20)

    def crossed(name: str) -> None:
        with store.transaction() as tx:
            stored = tx.put_connection(ConnectionSpec(name=name, connector="x", config={}))
            tx.cross_bridge(made.id, stored.id)

    crossed("first")
    with pytest.raises(ConflictError):
        crossed("second")
    assert "second" not in [c.spec.name for c in store.connections()]


def test_open_bridges_come_in_pages_of_their_workspace(store: Store) -> None:
    (workspace,) = store.workspaces()
    other = store.create_workspace("other")

    def made(owner: str, token: str) -> str:
        bridge = store.bridges.create(owner, connector="x", label="X", redirect_uri="https://a.b/c", token=token)
        return bridge.id

    ids = [made(workspace.id, f"mine{n}") for n in range(3)]
    theirs = made(other.id, "theirs")
    first, more = store.bridges.open_page(workspace.id, limit=2)
    assert ([b.id for b in first], more) == (ids[:0:-1], True)
    rest, more = store.bridges.open_page(workspace.id, limit=2, after=ids[1])
    assert ([b.id for b in rest], more) == (ids[:1], False)
    with pytest.raises(NotFoundError):
        store.bridges.open_page(workspace.id, limit=2, after=theirs)
    run_sql(store, "UPDATE elt_bridges SET expires_at = :at", at=datetime(2020, 1, 1, tzinfo=UTC).strftime("%Y-%m-%d"))
    assert store.bridges.open_page(workspace.id, limit=2) == ([], False)
    made(workspace.id, "new")
    with pytest.raises(NotFoundError):
        store.bridges.by_token("mine1")  # ended long ago
    assert store.bridges.by_token("theirs").id == theirs


def test_bridges_and_oauth_clients_follow_a_new_key(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (workspace,) = store.workspaces()
    store.bridges.create(
        workspace.id, connector="x", label="X", redirect_uri="https://a.b/c", token="t" * 20, sealed={"a": 1}
    )
    store.bridges.put_oauth_client(workspace.id, OAuthClient("x", "id", "secret", {}))
    new = Fernet.generate_key().decode()
    monkeypatch.setenv(KEY_VARIABLE, f"{new},{os.environ[KEY_VARIABLE]}")
    assert store.reseal() >= 2
    monkeypatch.setenv(KEY_VARIABLE, new)
    assert store.bridges.by_token("t" * 20).sealed == {"a": 1}
    found = store.bridges.oauth_client(workspace.id, "x")
    assert found is not None
    assert found.client_secret == "secret"
    assert store.reseal() == 0


def test_a_workspace_keeps_its_own_oauth_client_with_the_secret_sealed(store: Store) -> None:
    (workspace,) = store.workspaces()
    client = OAuthClient("salesforce", "id", "canary", {"domain": "acme"})
    store.bridges.put_oauth_client(workspace.id, client)
    store.bridges.put_oauth_client(workspace.id, replace(client, client_id="new"))
    assert store.bridges.oauth_client(workspace.id, "salesforce") == replace(client, client_id="new")
    with store._database.read() as conn:
        assert "canary" not in str(conn.execute(sa.text("SELECT * FROM elt_oauth_clients")).all())
    assert store.bridges.oauth_clients(workspace.id) == [replace(client, client_id="new", client_secret=None)]
    assert store.bridges.delete_oauth_client(workspace.id, "salesforce") is True
    assert store.bridges.oauth_client(workspace.id, "salesforce") is None


def test_an_older_store_is_brought_up_with_its_names(store: Store) -> None:
    put(store, sync(name="Die Straße"))
    for column in ("title", "created_by", "updated_by", "envelope"):
        run_sql(store, f"ALTER TABLE elt_syncs DROP COLUMN {column}")
    run_sql(store, "DROP INDEX ix_elt_syncs_workspace_id_created_at_id")
    run_sql(store, "DROP INDEX ix_elt_connections_workspace_id_created_at_id")
    run_sql(store, "DROP INDEX ix_elt_bindings_created_at_id")
    for table, column in (
        ("workspaces", "default_destination_id"),
        ("connections", "label"),
        ("bindings", "created_at"),
        ("bindings", "updated_at"),
    ):
        run_sql(store, f"ALTER TABLE elt_{table} DROP COLUMN {column}")
    for table in ("full_refreshes", "api_keys", "replies", "bridges", "oauth_clients"):
        run_sql(store, f"DROP TABLE elt_{table}")
    run_sql(store, "UPDATE elt_version SET version_num = '0003'")
    assert HEAD >= "0004"
    assert store.init() is True
    found = open_store(store._database._url.render_as_string(hide_password=False)).sync("shop")
    assert found.binding_times["public.orders"] == (found.created_at, found.updated_at)
    with store.reading() as reader:
        assert [s.slug for s in reader.sync_page(SyncFilter(text="straße"), Place(limit=9))[0]] == ["shop"]
