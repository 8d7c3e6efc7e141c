"""Connection bridges as an application sees them: made and listed with an API key. Their pages are in `bridge_crossing`."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from elt_dagster.api import bridge_crossing
from elt_dagster.api.auth import Authenticated
from elt_dagster.api.errors import in_body, in_request
from elt_dagster.api.model_base import Sent
from elt_dagster.api.routes import KeyedRoute
from elt_dagster.api.words import moment
from elt_dagster.control.bridges import Bridges, check_known, connector_name
from elt_dagster.control.redirects import check_redirect_uri
from elt_dagster.store import Bridge


class BridgeRequest(Sent):
    """What a bridge is for, and where the person goes afterwards."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "integration_id": "salesforce",
                    "label": "salesforce-production",
                    "redirect_uri": "https://yourapp.com/callback",
                }
            ]
        },
    )

    integration_id: str = Field(min_length=1, max_length=255, description="Which kind of account is connected.")
    label: str = Field(min_length=1, max_length=255, pattern=r"\S", description="What to call the connection.")
    redirect_uri: str = Field(
        min_length=1, max_length=2000,
        description="Where the person is sent afterwards: https, or http on localhost; without a query or a fragment.",
    )  # fmt: skip
    state: str | None = Field(default=None, max_length=2000, description="Handed back unread to `redirect_uri`.")
    connection_id: str | None = Field(
        default=None, max_length=255, description="A connection of the same integration that is authorised anew."
    )
    settings: dict[str, Any] | None = Field(
        default=None, description="Settings of the connection that are known already, such as a sandbox; no secrets."
    )


class CreatedBridge(BaseModel):
    """A bridge that was just made."""

    id: str = Field(description="Id of the bridge.")
    authorize_url: str = Field(
        description="Send the person there. It needs no key, is shown this once, and leads to one connection."
    )
    expires_at: str = Field(description="Until when it can be used: a day.")


class OpenBridge(BaseModel):
    """A bridge that can still be crossed."""

    id: str = Field(description="Id of the bridge.")
    integration_id: str = Field(description="Which kind of account is connected.")
    label: str = Field(description="What the connection will be called.")
    redirect_uri: str = Field(description="Where the person is sent afterwards.")
    state: str | None = Field(description="Handed back unread.")
    connection_id: str | None = Field(description="The connection that is authorised anew.")
    created_at: str = Field(description="When it was made.")
    expires_at: str = Field(description="Until when it can be used.")


class BridgePage(BaseModel):
    """Some bridges, newest first."""

    has_more: bool = Field(description="Whether there are more.")
    next_cursor: str | None = Field(description="What to send as `starting_after` to get them.")
    data: list[OpenBridge] = Field(description="The bridges.")


class BridgeError(BaseModel):
    """Why it did not work."""

    error_code: str = Field(description="A stable code.")
    message: str = Field(description="What happened, and what to do.")


def _responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    said = {400: "The request is wrong", 401: "No valid API key", 404: "Not found", 409: "It is being carried out", 413: "Too large",
            429: "Too many requests"}  # fmt: skip
    every: dict[int | str, dict[str, Any]] = {
        status: {"model": BridgeError, "description": said[status]} for status in statuses
    }
    return {**every, "4XX": {"model": BridgeError, "description": "Anything else that is wrong with the request"}}


_keyed = APIRouter(route_class=KeyedRoute, tags=["Connection bridges"])


@_keyed.get("/connection_bridges", summary="List open bridges", responses=_responses(400, 401, 429))
def list_bridges(
    caller: Authenticated,
    starting_after: Annotated[str | None, Query(description="The last id of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="How many.")] = 10,
) -> BridgePage:
    """Those that can still be crossed, newest first."""
    with in_request("query", "starting_after"):
        found, has_more = _of(caller).open_page(limit=limit, after=starting_after or None)
    return BridgePage(
        has_more=has_more,
        next_cursor=found[-1].id if has_more else None,
        data=[_open_bridge(bridge) for bridge in found],
    )


@_keyed.post(
    "/connection_bridges", status_code=201, summary="Create a bridge", responses=_responses(400, 401, 409, 413, 429)
)
def create_bridge(caller: Authenticated, body: BridgeRequest) -> CreatedBridge:
    """An address where a person lets us read an account, good for a day and for one connection.

    OAuth connectors lead on to the vendor's consent page, others ask for the settings in a form. Afterwards the person is sent to
    `redirect_uri?connection_id=...&state=...`, or `redirect_uri?error=...&error_description=...&state=...`.
    """
    desk = _of(caller)
    with in_body("integration_id"):
        integration = connector_name(body.integration_id)
    with in_body("redirect_uri"):
        check_redirect_uri(body.redirect_uri)
    with in_body("settings"):
        check_known(integration, body.settings or {})
    with in_body("connection_id"):
        desk.check_connection(body.connection_id, integration)
    bridge, address = desk.create(
        integration, label=body.label, redirect_uri=body.redirect_uri, state=body.state,
        connection_id=body.connection_id, settings=body.settings, by=caller.by,
    )  # fmt: skip
    return CreatedBridge(id=bridge.id, authorize_url=address, expires_at=_moment(bridge.expires_at))


def _of(caller: Authenticated) -> Bridges:
    return Bridges(caller.workspace, caller.services.base_url)


def _open_bridge(bridge: Bridge) -> OpenBridge:
    return OpenBridge(
        id=bridge.id, integration_id=bridge.connector, label=bridge.label, redirect_uri=bridge.redirect_uri,
        state=bridge.caller_state, connection_id=bridge.connection_id, created_at=_moment(bridge.created_at),
        expires_at=_moment(bridge.expires_at),
    )  # fmt: skip


def _moment(at: datetime) -> str:
    return moment(at) or ""


ROUTERS = (_keyed, bridge_crossing.router)
