"""The Connect dialect: integrations, connections, ELT syncs, their streams and the streams' runs."""

from elt_dagster.api import connect_connections, connect_streams, connect_syncs

ROUTERS = (connect_connections.router, connect_syncs.router, connect_streams.router)
