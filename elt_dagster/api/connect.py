"""The Connect dialect: integrations, connections, ELT syncs, their streams and the streams' runs."""

from fastapi import APIRouter

from elt_dagster.api import connect_connections, connect_streams, connect_syncs
from elt_dagster.api.routes import KeyedRoute

router = APIRouter(route_class=KeyedRoute)
for part in (connect_connections.router, connect_syncs.router, connect_streams.router):
    router.include_router(part)
