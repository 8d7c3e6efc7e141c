"""A small pretend shop API, and a connector for it: what the contract is tried on.

Orders come without order and through next links; events come sorted and by page number; customers have no cursor.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import httpx
from pydantic import SecretStr

from elt_dagster.sdk import ApiKey, Config, Cursor, Endpoint, NextUrl, Offset, PageNumber, PageSize, RestConnector, Stop
from elt_dagster.testing import FakeSource

KEY = "sk_test_VERYSECRET"
START = datetime(2024, 1, 1, tzinfo=UTC)


def stamp(hours: int) -> str:
    """ISO time ``hours`` after the start."""
    return (START + timedelta(hours=hours)).isoformat().replace("+00:00", "Z")


ORDERS = [
    {
        "id": f"o{i:03d}", "updated_at": stamp((i * 7) % 30 // 2), "total": i * 1.25, "paid": i % 2 == 0,
        "note": None if i % 3 else f"größe {i}", "customer": {"id": i % 4, "tags": ["a", "b"]}, "big": 9007199254740993 + i,
        "day": (START + timedelta(days=i)).date().isoformat(),
    }
    for i in range(30)
]  # fmt: skip
EVENTS = [{"seq": i, "at": 1_704_067_200 + i // 3, "kind": "click" if i % 2 else "view"} for i in range(40)]
CUSTOMERS = [{"id": i, "name": f"Customer {i}", "joined": stamp(i)} for i in range(12)]


class ShopSource(FakeSource):
    """The shop, in memory."""

    @property
    def rows(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        return {"orders": ORDERS, "events": EVENTS, "customers": CUSTOMERS}

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.headers.get("x-api-key") != KEY:
            return httpx.Response(401, json={"error": "unauthorized"})
        params = dict(request.url.params)
        match request.url.path:
            case "/v1/orders":
                return self._orders(request, params)
            case "/v1/events":
                found = [e for e in EVENTS if e["at"] >= int(params.get("after", 0))]  # type: ignore[operator]
                page = int(params["page"])
                return httpx.Response(200, json={"events": found[(page - 1) * 15 : page * 15]})
            case "/v1/customers":
                offset = int(params["offset"])
                return httpx.Response(200, json=CUSTOMERS[offset : offset + 5])
        return httpx.Response(404, json={"error": "not found"})

    def _orders(self, request: httpx.Request, params: dict[str, str]) -> httpx.Response:
        found = [o for o in ORDERS if str(o["updated_at"]) >= params.get("since", "")]
        offset = int(params.get("after", 0))
        body: dict[str, Any] = {"data": found[offset : offset + 8]}
        if offset + 8 < len(found):
            body["next"] = str(request.url.copy_set_param("after", offset + 8))
        return httpx.Response(200, content=json.dumps(body).encode(), headers={"Content-Type": "application/json"})

    def endless(self) -> httpx.Response:
        return httpx.Response(200, json={"data": ORDERS[:3], "next": "/v1/orders?after=3"})

    def elsewhere_page(self) -> httpx.Response:
        return httpx.Response(200, json={"data": ORDERS[:3], "next": "https://elsewhere.example/v1/orders?after=3"})


class ShopConfig(Config):
    """How to reach the shop."""

    api_key: SecretStr
    """The key from the shop's settings page."""


class Shop(RestConnector[ShopConfig]):
    """Orders, events and customers of a shop."""

    name = "shop"
    title = "Shop"
    docs_url = "https://shop.example/docs"
    base_url = "https://shop.example/v1"
    endpoints: ClassVar[Sequence[Endpoint]] = (
        Endpoint(
            name="orders", path="orders", records_at="data", primary_key=("id",), pagination=NextUrl(at="next"),
            cursor=Cursor(field="updated_at", start_param="since"),
        ),
        Endpoint(
            name="events", path="events", records_at="events", primary_key=("seq",),
            pagination=PageNumber(size=PageSize(size=15), stop=Stop(short_page=True)),
            cursor=Cursor(field="at", start_param="after", order="asc"),
        ),
        Endpoint(name="customers", path="customers", primary_key=("id",), pagination=Offset(size=PageSize(size=5))),
    )  # fmt: skip

    def auth(self) -> httpx.Auth:
        return ApiKey("X-Api-Key", self.config.api_key)
