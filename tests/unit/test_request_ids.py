"""A request whose process died between its write and its answer makes nothing twice when it comes again."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from elt_dagster.store import replies
from elt_dagster.store.request_ids import new_id, within_request
from tests.unit import api_server
from tests.unit.api_server import ENGINES, Place

KEY = {"Idempotency-Key": "storm-1"}


class Died(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(params=ENGINES)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    api_server.shelves(monkeypatch)
    with api_server.opened(request.param, tmp_path) as store:
        yield api_server.settle(api_server.serve(store), tmp_path)


def dying(place: Place, path: str, body: Any) -> None:
    """Send a request to a server that dies when all is done but the answer."""

    def die(*args: Any) -> None:
        raise Died

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replies.Replies, "keep", die)
        with pytest.raises(BaseException):  # noqa: B017, PT011 - the test client wraps it
            place.client.post(path, json=body, headers=KEY)


@pytest.mark.parametrize("dialect", ["connect", "syncs"])
def test_a_sync_whose_answer_was_lost_is_not_made_again(
    place: Place, monkeypatch: pytest.MonkeyPatch, dialect: str
) -> None:
    bodies: dict[str, tuple[str, dict[str, Any]]] = {
        "connect": (
            "/elt_syncs",
            {"connection_id": place.source, "destination_schema_name": "raw", "sync_interval": "0 6 * * *"},
        ),
        "syncs": ("/api/v1/syncs", {"connectionId": place.source, "name": "Shop"}),
    }
    path, body = bodies[dialect]
    dying(place, path, body)
    (made,) = place.store.syncs(workspace=place.name)
    told = place.ask("POST", path, 409, json=body, headers=KEY)
    assert "still being carried out" in str(told)
    monkeypatch.setattr(replies, "ABANDONED", timedelta(seconds=-1))
    told = place.ask("POST", path, 409, json=body, headers=KEY)
    assert made.id in (told.get("conflict_id"), told.get("conflictId"))
    assert [s.id for s in place.store.syncs(workspace=place.name)] == [made.id]


def test_a_request_that_was_refused_may_come_again(place: Place) -> None:
    body = {"connectionId": place.source, "name": "Shop", "slug": "Not A Slug"}
    place.ask("POST", "/api/v1/syncs", 422, json=body, headers=KEY)
    made = place.ask("POST", "/api/v1/syncs", 201, json={**body, "slug": "shop"}, headers=KEY)
    assert place.ask("POST", "/api/v1/syncs", 201, json={**body, "slug": "shop"}, headers=KEY) == made


def test_ids_are_unguessable_where_no_request_is_known() -> None:
    assert new_id("t")[0] != new_id("t")[0]
    with within_request("w/k"):
        assert new_id("t") == new_id("t")
        assert new_id("t")[0] != new_id("u")[0]
    with within_request("w/other"):
        assert new_id("t")[1]
    assert not new_id("t")[1]
