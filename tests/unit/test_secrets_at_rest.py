"""Secrets in the store: what goes in sealed stays sealed, everywhere but in `Store.open_config`."""

import logging
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from elt_dagster.errors import ConfigError
from elt_dagster.model import ConnectionSpec
from elt_dagster.model.secret import MASK
from elt_dagster.store import Store, StoredConnection, open_store
from elt_dagster.store.seal import KEY_VARIABLE, Keys

CANARY = "canary-5f2c"
SECRET = frozenset({"password", "auth.token", "headers", "accounts.key"})


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A SQLite store that keeps its own key."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    made = open_store(f"sqlite:///{tmp_path}/store.sqlite")
    made.init()
    return made


def put(store: Store, **config: Any) -> StoredConnection:
    with store.transaction() as tx:
        return tx.put_connection(ConnectionSpec(name="shop-db", connector="postgres", config=config), SECRET)


def keys(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    monkeypatch.setenv(KEY_VARIABLE, ",".join(values))


def new_key() -> str:
    return Fernet.generate_key().decode()


def test_the_canary_is_in_no_file_repr_log_or_error(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    stored = put(store, host="h", password=CANARY, auth={"token": [CANARY]}, headers={"X-Key": CANARY})
    assert store.open_config(stored)["password"] == CANARY, "it is there, after all"
    token = str(stored.spec.config["password"]["sealed"])
    keys(monkeypatch, new_key())
    with pytest.raises(ConfigError) as caught:
        store.open_config(stored)
    said = [
        repr(stored),
        str(stored.spec),
        repr(store.connections()),
        repr(caught.value),
        str(caught.value),
        caplog.text,
    ]
    for text in said:
        assert CANARY not in text
        assert token not in text
    for file in tmp_path.iterdir():
        assert CANARY.encode() not in file.read_bytes(), file.name
    assert token.encode() in b"".join(f.read_bytes() for f in tmp_path.iterdir()), "the files were really looked into"


def test_what_is_sealed_opens_with_its_type(store: Store) -> None:
    config = {
        "host": "h",
        "password": "p ü",
        "auth": {"token": 7, "user": "u"},
        "headers": {"A": "1", "B": None, "C": True},
    }
    stored = put(store, **config)
    assert store.open_config(stored) == config
    assert store.open_config(store.connection("shop-db")) == config
    assert stored.spec.config["auth"]["user"] == "u"
    assert set(stored.spec.config["headers"]["A"]) == {"sealed"}


def test_references_stay_readable(store: Store) -> None:
    config = {"password": {"env": "PW"}, "auth": {"token": {"file": "/run/secret"}}, "headers": {"A": {"env": "A"}}}
    stored = put(store, **config)
    assert stored.spec.config == config == store.open_config(stored) == store.masked_config(stored)
    assert not (store._keys._file or Path()).exists(), "no key is made while nothing is sealed"


def test_a_mask_sent_back_keeps_the_secret(store: Store) -> None:
    config = {"host": "h", "password": "p", "auth": {"token": "t"}, "accounts": [{"key": "a"}, {"key": "b"}]}
    stored = put(store, **config)
    masked = store.masked_config(stored)
    assert masked == {
        "host": "h", "password": MASK, "auth": {"token": MASK}, "accounts": [{"key": MASK}, {"key": MASK}],
    }  # fmt: skip
    revision = store.revision()
    assert put(store, **masked) == stored
    assert store.revision() == revision
    changed = put(store, **{**masked, "host": "elsewhere", "auth": {"token": "new"}})
    assert store.open_config(changed) == {**config, "host": "elsewhere", "auth": {"token": "new"}}


def test_a_mask_keeps_a_stored_reference(store: Store) -> None:
    put(store, password={"env": "PW"})
    assert put(store, password=MASK).spec.config == {"password": {"env": "PW"}}


def test_a_mask_for_nothing_is_refused(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"'shop-db': auth\.token is the mask"):
        put(store, auth={"token": MASK})
    assert store.connections() == ()


def test_masks_in_a_list_that_changed_its_length_are_refused(store: Store) -> None:
    put(store, accounts=[{"key": "a"}, {"key": "b"}])
    with pytest.raises(ConfigError, match="is the mask"):
        put(store, accounts=[{"key": MASK}])


def test_an_equal_secret_is_no_change(store: Store) -> None:
    stored = put(store, password="p")
    assert put(store, password="p") == stored
    assert put(store, password="q") != stored


def test_the_sealed_form_may_come_back_but_not_from_elsewhere(store: Store) -> None:
    stored = put(store, password="p", host="h")
    with store.transaction() as tx:
        assert tx.put_connection(stored.spec, SECRET) == stored
        with pytest.raises(ConfigError, match="sealed value that is not the stored one"):
            tx.put_connection(stored.spec.model_copy(update={"name": "thief"}), SECRET)
    with pytest.raises(ConfigError, match="host is a sealed value"):
        put(store, host=stored.spec.config["password"])


def test_a_secret_whose_key_is_lost_can_be_replaced(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, password="p")
    keys(monkeypatch, new_key())
    assert store.open_config(put(store, password="p")) == {"password": "p"}


def test_a_store_of_its_own_makes_a_key_that_only_its_owner_reads(store: Store, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        put(store, password="p")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "secret.key").stat().st_mode) == 0o600
    assert sorted(f.name for f in tmp_path.iterdir() if "secret" in f.name) == ["secret.key"]


def test_keys_made_at_once_are_one_key(tmp_path: Path) -> None:
    both = [Keys(tmp_path / "secret.key", {}) for _ in range(8)]
    tokens: list[str] = []
    gate = threading.Barrier(len(both))

    def seal(one: Keys) -> None:
        gate.wait()
        tokens.append(one.seal("x")["sealed"])

    threads = [threading.Thread(target=seal, args=(one,)) for one in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [both[0].open(token, what="it") for token in tokens] == ["x"] * len(both)


def test_a_missing_key_file_is_named_and_not_made_anew(store: Store, tmp_path: Path) -> None:
    stored = put(store, password="p")
    (tmp_path / "secret.key").unlink()
    with pytest.raises(ConfigError, match=r"secret\.key"):
        store.open_config(stored)
    assert not (tmp_path / "secret.key").exists()


def test_a_wrong_key_names_the_connection(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = put(store, auth={"token": CANARY})
    keys(monkeypatch, new_key())
    with pytest.raises(ConfigError, match=r"'auth\.token' of connection 'shop-db'.*secret\.key"):
        store.open_config(stored)


def test_what_is_no_key_shows_how_to_make_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    keys(monkeypatch, CANARY)
    with pytest.raises(ConfigError, match=f"{KEY_VARIABLE} does not hold a valid key.*generate_key") as caught:
        put(store, password="p")
    assert CANARY not in str(caught.value)


def test_keys_rotate(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = new_key(), new_key()
    keys(monkeypatch, old)
    put(store, password="p", headers={"A": "a"})
    salt = store.workspace_salt()
    revision = store.revision()
    keys(monkeypatch, new, old)
    assert store.open_config(store.connection("shop-db"))["password"] == "p", "an old key still opens"
    assert store.reseal() == 3
    assert store.revision() == revision + 1
    assert store.reseal() == 0
    assert store.revision() == revision + 1
    keys(monkeypatch, new)
    assert store.open_config(store.connection("shop-db")) == {"password": "p", "headers": {"A": "a"}}
    assert store.workspace_salt() == salt


def test_resealing_with_a_key_missing_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = new_key(), new_key()
    keys(monkeypatch, first)
    put(store, password="p")
    with store.transaction() as tx:
        keys(monkeypatch, second)
        tx.put_connection(ConnectionSpec(name="other", connector="x", config={"password": "q"}), SECRET)
    before = store.connections()
    keys(monkeypatch, new_key(), second)
    with pytest.raises(ConfigError, match="'password' of connection 'shop-db'"):
        store.reseal()
    assert store.connections() == before


def test_the_salt_is_sealed_at_rest(store: Store, tmp_path: Path) -> None:
    import base64

    salt = store.workspace_salt()
    for file in tmp_path.iterdir():
        assert salt not in file.read_bytes()
        assert base64.b64encode(salt) not in file.read_bytes()
