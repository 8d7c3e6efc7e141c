"""The use cases on single syncs (`control.syncs`), without HTTP: what changes, what is refused, and what happens when two change at once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from elt_dagster.control.loaders import Loaders, Wanted
from elt_dagster.control.syncs import ChangedMeanwhileError, Syncs, schema_of
from elt_dagster.control.workspace import Workspace
from elt_dagster.errors import ConfigError, ConflictError, NotFoundError, TransientError
from elt_dagster.model import SyncStatus
from elt_dagster.store import Place as At
from elt_dagster.store import StoredSync, SyncFilter
from tests.unit import api_server
from tests.unit.api_server import ENGINES, NOBODY, Place, Server
from tests.unit.cli_shelf import Shelf


@pytest.fixture(scope="module", params=ENGINES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with api_server.opened(request.param, tmp_path_factory.mktemp("service")) as store:
        yield api_server.serve(store)


@pytest.fixture
def place(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    api_server.shelves(monkeypatch)
    return api_server.settle(server, tmp_path)


@pytest.fixture
def syncs(place: Place) -> Syncs:
    return Syncs(Workspace(store=place.store, name=place.name))


def make(syncs: Syncs, *streams: str, **data: Any) -> StoredSync:
    """A new sync."""
    chosen = [{"name": name} for name in streams]
    return syncs.create(
        {"name": "Shop", "connection": "books", "destination": "warehouse", "streams": chosen, **data}, by="me"
    )


def rename(data: dict[str, Any], envelope: dict[str, Any]) -> None:
    """A change."""
    data["name"] = f"{data['name']}!"
    envelope["seen"] = True


def test_a_sync_keeps_who_made_it_and_what_is_no_word_of_ours(syncs: Syncs) -> None:
    made = syncs.create({"name": "Shop", "connection": "books", "destination": "warehouse"}, envelope={"a": 1}, by="me")
    assert (made.slug, made.spec.dataset, made.created_by, made.envelope) == ("shop", "shop", "me", {"a": 1})
    changed = syncs.update(made.id, rename, by="you")
    assert (changed.spec.name, changed.envelope) == ("Shop!", {"a": 1, "seen": True})
    assert (changed.created_by, changed.updated_by) == ("me", "you")
    assert changed.revision > made.revision


@pytest.mark.parametrize(
    ("slug", "schema"),
    [("shop", "shop"), ("shop-north", "shop_north"), ("2026-q1", "_2026_q1"), ("pg_toast", "raw_pg_toast"),
     ("information-schema", "raw_information_schema"), ("pg-" + "x" * 60, "raw_pg_" + "x" * 56)],
)  # fmt: skip
def test_a_schema_is_made_of_the_slug(slug: str, schema: str) -> None:
    assert schema_of(slug) == schema
    assert len(schema) <= 63


def test_a_slug_that_is_taken_between_look_and_write_is_not_an_error(syncs: Syncs) -> None:
    def meanwhile() -> None:
        Shelf.while_asked.clear()
        make(syncs)

    Shelf.while_asked.append(meanwhile)
    assert make(syncs, "orders", schema="other").slug == "shop-2"


def test_a_slug_that_was_chosen_and_is_taken_is_a_conflict(syncs: Syncs) -> None:
    first = make(syncs)
    with pytest.raises(ConflictError) as caught:
        make(syncs, slug="shop")
    assert caught.value.with_id == first.id
    other = make(syncs)
    with pytest.raises(ConflictError):
        syncs.update(other.id, lambda data, envelope: data.update(slug="shop"))
    assert syncs.get(other.id).slug == "shop-2"


def test_a_sync_that_is_renamed_keeps_its_id_and_its_bindings(syncs: Syncs) -> None:
    made = make(syncs, "orders")
    changed = syncs.update(made.id, lambda data, envelope: data.update(slug="store"))
    assert (changed.id, changed.slug, changed.binding_ids) == (made.id, "store", made.binding_ids)


def test_two_who_change_at_once_both_have_their_way(syncs: Syncs) -> None:
    made = make(syncs, "orders")

    def other(data: dict[str, Any], envelope: dict[str, Any]) -> None:
        if not envelope.get("other"):
            syncs.update(made.id, lambda d, e: e.update(other=True))
        rename(data, envelope)

    changed = syncs.update(made.id, other)
    assert changed.envelope == {"other": True, "seen": True}
    assert changed.spec.name == "Shop!"


def test_a_change_that_others_always_overtake_gives_up(syncs: Syncs) -> None:
    made = make(syncs)

    def slow(data: dict[str, Any], envelope: dict[str, Any]) -> None:
        syncs.update(made.id, lambda d, e: e.update(n=e.get("n", 0) + 1))
        rename(data, envelope)

    with pytest.raises(TransientError):
        syncs.update(made.id, slow)
    assert syncs.get(made.id).spec.name == "Shop"


def test_an_expected_revision_is_held_to(syncs: Syncs) -> None:
    made = make(syncs)
    changed = syncs.update(made.id, rename, revision=made.revision)
    with pytest.raises(ChangedMeanwhileError):
        syncs.update(made.id, rename, revision=made.revision)
    with pytest.raises(ChangedMeanwhileError) as caught:
        syncs.delete(made.id, revision=made.revision)
    assert caught.value.with_id == made.id
    syncs.delete(made.id, revision=changed.revision)


def test_a_status_is_set_without_asking_the_source(syncs: Syncs) -> None:
    made = make(syncs, "orders")
    Shelf.asked.clear()
    assert syncs.set_status(made.id, SyncStatus.PAUSED).spec.status is SyncStatus.PAUSED
    assert Shelf.asked == []


def test_the_source_is_asked_only_for_what_is_new(syncs: Syncs) -> None:
    made = make(syncs, "orders")
    Shelf.asked.clear()
    syncs.update(made.id, lambda data, envelope: data["streams"][0].update(table="sales"))
    assert Shelf.asked == []
    syncs.put_streams(made.id, [{"name": "customers"}])
    assert Shelf.asked == ["here"]


def test_streams_are_added_and_changed_and_what_is_wrong_is_told_by_their_place_in_the_request(syncs: Syncs) -> None:
    made = make(syncs, "orders", "logs")
    streams = [{"name": "customers"}, {"name": "orders", "table": "sales"}]
    changed = syncs.put_streams(made.id, streams, also=lambda data, envelope: envelope.update(x=1))
    assert [b.name for b in changed.spec.streams] == ["orders", "logs", "customers"]
    assert (changed.spec.streams[0].table, changed.envelope) == ("sales", {"x": 1})
    back = syncs.put_streams(made.id, [{"name": "orders", "table": None}])
    assert (back.spec.streams[0].table, back.envelope) == (None, {"x": 1})
    with pytest.raises(ConfigError) as caught:
        syncs.put_streams(made.id, [{"name": "logs"}, {"name": "orders", "cursor_field": "nix"}])
    assert [path for path, _ in caught.value.details] == [("streams", 1, "cursor_field")]


def test_with_its_last_stream_a_sync_is_a_draft_again(syncs: Syncs) -> None:
    made = make(syncs, "orders", "logs")
    fewer = syncs.remove_stream(made.binding_ids["orders"])
    assert (list(fewer.binding_ids), fewer.spec.status) == (["logs"], SyncStatus.ACTIVE)
    assert syncs.remove_stream(made.binding_ids["logs"]).spec.status is SyncStatus.DRAFT
    with pytest.raises(NotFoundError):
        syncs.remove_stream(made.binding_ids["logs"])


def test_a_full_refresh_is_marked_and_the_mark_taken_back(syncs: Syncs) -> None:
    made = make(
        syncs, streams=[{"name": "orders"}, {"name": "logs", "load_mode": "append", "protected_from_full_sync": True}]
    )
    orders, logs = made.binding_ids["orders"], made.binding_ids["logs"]
    syncs.request_full_refresh(orders, reset_history=True, by="me")
    assert syncs.marks(made)[orders].reset_history
    with pytest.raises(ConflictError):
        syncs.request_full_refresh(logs)
    assert syncs.marks(made).keys() == {orders}
    assert syncs.cancel_full_refresh(orders)
    assert not syncs.cancel_full_refresh(orders)


def test_a_page_knows_everything_but_the_columns(syncs: Syncs) -> None:
    made = make(syncs, "orders")
    (found,) = syncs.page(SyncFilter(), At(limit=5)).items
    assert isinstance(found, StoredSync)
    assert (found.spec, found.binding_ids, found.envelope) == (made.spec, made.binding_ids, made.envelope)
    assert (found.streams["orders"].primary_key, found.streams["orders"].cursor_field) == (("id",), "changed_at")
    assert found.streams["orders"].schema is None
    assert made.streams["orders"].schema is not None


def test_ids_of_another_workspace_are_not_found(syncs: Syncs, server: Server, tmp_path: Path) -> None:
    made = make(syncs, "orders")
    other = Syncs(Workspace(store=server.store, name=api_server.settle(server, tmp_path).name))
    for act in (
        lambda: other.get(made.id), lambda: other.find(made.id), lambda: other.update(made.id, rename), lambda: other.delete(made.id),
        lambda: other.of_stream(made.binding_ids["orders"]), lambda: other.request_full_refresh(made.binding_ids["orders"]),
        lambda: other.connection_name(made.connection_id),
    ):  # fmt: skip
        with pytest.raises(NotFoundError):
            act()
    assert syncs.get(made.id) == made


# --- loaders -----------------------------------------------------------------------------------------------------------------


def wanted(place: Place, name: str = "Loader", **changes: Any) -> Wanted:
    """A loader in our words."""
    destination = place.store.connection("warehouse", workspace=place.name)
    usual: dict[str, Any] = {
        "connector": "shelf",
        "config": {"port": 1},
        "dataset": "raw",
        "streams": [{"name": "orders"}],
        "cron": None,
    }
    return Wanted(name=name, destination=destination, envelope={}, **{**usual, **changes})


def test_a_loader_that_is_changed_between_look_and_write_is_looked_at_again(syncs: Syncs, place: Place) -> None:
    loaders = Loaders(syncs.workspace)
    made = loaders.create(wanted(place))

    def meanwhile() -> None:
        Shelf.while_asked.clear()
        syncs.put_streams(made.sync.id, [{"name": "orders", "hashed_columns": ["total"]}])

    Shelf.while_asked.append(meanwhile)
    changed = loaders.replace(made.sync.id, wanted(place, config={"port": 2}))
    assert isinstance(changed.sync, StoredSync)
    assert changed.sync.spec.streams[0].hashed_columns == ("total",)
    assert place.store.connection("loader", workspace=place.name).spec.config == {"port": 2}


def test_a_connection_of_that_name_made_meanwhile_is_not_overwritten(syncs: Syncs, place: Place) -> None:
    loaders = Loaders(syncs.workspace)

    def meanwhile() -> None:
        Shelf.while_asked.clear()
        loaders.create(wanted(place, config={"port": 5}, dataset="other"))

    Shelf.while_asked.append(meanwhile)
    with pytest.raises(ConflictError):
        loaders.create(wanted(place))
    assert place.store.connection("loader", workspace=place.name).spec.config == {"port": 5}
    with pytest.raises(NotFoundError):
        loaders.get(NOBODY)
