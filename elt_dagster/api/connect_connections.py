"""Integrations and connections of the Connect dialect."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request

from elt_dagster.api import connect_models as shown
from elt_dagster.api.auth import Authenticated
from elt_dagster.api.connect_common import CONFLICT, MISSING, REFUSALS, UPSTREAM, After, Limit
from elt_dagster.api.connect_words import after, chosen_so_far, paged, shown_connection, shown_integration
from elt_dagster.api.errors import in_request
from elt_dagster.api.routes import KeyedRoute
from elt_dagster.control.integrations import integrations
from elt_dagster.errors import ConfigError
from elt_dagster.store import Place

router = APIRouter(route_class=KeyedRoute, responses=REFUSALS)
ConnectionId = Annotated[str, Path(description="The id of a connection.")]


@router.get("/integrations", tags=["Integrations"], summary="List integrations")
def list_integrations(
    caller: Authenticated,
    ability: Annotated[shown.Ability | None, Query(description="Only those that can do this.")] = None,
    starting_after: After = None,
    limit: Limit = 10,
) -> shown.Paged[shown.Integration]:
    """What can be connected, by name: sources to read from and warehouses to load into."""
    every = [shown_integration(i) for i in integrations()]
    able = [(i.id, i) for i in every if ability is None or ability in i.abilities]
    with in_request("query", "starting_after"):
        return paged(after(able, starting_after or None, limit), limit)


@router.get("/connections", tags=["Connections"], summary="List connections")
def list_connections(
    caller: Authenticated, starting_after: After = None, limit: Limit = 10
) -> shown.Paged[shown.Connection]:
    """Accounts at sources and warehouses, newest first; never a credential."""
    with in_request("query", "starting_after"):
        page = caller.accounts.page(Place(limit=limit + 1, after=starting_after or None, newest_first=True))
    return paged([(c.id, shown_connection(c)) for c in page.items], limit)


@router.delete(
    "/connections/{id}",
    tags=["Connections"],
    summary="Delete a connection",
    status_code=204,
    responses={**MISSING, **CONFLICT},
)
def delete_connection(id: ConnectionId, caller: Authenticated) -> None:
    """Forget an account and its credentials. Refused while a sync uses it."""
    caller.accounts.delete(id)


async def _chosen(request: Request) -> dict[str, Any]:
    try:
        body = await request.json() if await request.body() else None
    except ValueError:
        raise ConfigError("The body is no JSON.", fix='Send {"partial_settings": {}}, or nothing.') from None
    return chosen_so_far(request.query_params.multi_items(), body)


@router.get(
    "/connections/{id}/settings",
    tags=["Connections"],
    summary="What a sync of this connection has to be told",
    responses={**MISSING, **UPSTREAM},
    response_model=shown.SettingsSchema,
    response_model_exclude_unset=True,
)
def get_settings(
    id: ConnectionId,
    caller: Authenticated,
    chosen: Annotated[dict[str, Any], Depends(_chosen)],
    partial_settings: Annotated[
        str | None,
        Query(
            description="What was chosen so far, as a JSON object, where `dependencies` names settings whose options depend on others. "
            "It may also be the field `partial_settings` of a JSON body."
        ),
    ] = None,
) -> dict[str, Any]:
    """A JSON Schema of `elt_settings`, with options that the source itself is asked for."""
    return caller.accounts.settings_schema(id, chosen)
