"""The REST control plane: three dialects over one set of use cases. Routers hold no logic; `create_app` puts them together."""

from importlib.metadata import version

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline

from elt_dagster.api import bridges, connect, errors, loaders, syncs
from elt_dagster.api.browsers import WebHeaders
from elt_dagster.api.limits import RateLimiter
from elt_dagster.api.requests import BodyLimit
from elt_dagster.api.services import Services
from elt_dagster.errors import EltError

DESCRIPTION = """Configure and steer ELT syncs that run in Dagster. Three dialects describe the same syncs: **Connect** (`/elt_syncs`, `/connections` ...),
**Syncs** (`/api/v1/syncs`) and **Loaders** (`/api/v1/workspaces/{id}/loaders`).

A key goes into `x-api-key`, `Authorization: Bearer` or the cookie `vai_token`, whatever the dialect. `Idempotency-Key` on a POST makes it safe to send again;
`If-Match` with the last `ETag` on an update refuses to overwrite what somebody else has changed."""


def create_app(services: Services) -> FastAPI:
    """The application over ``services``; nothing is connected before the first request."""
    # the page of /docs comes from this server: a browser in a closed network, or behind a strict policy, would show nothing of a CDN's
    app = FastAPIOffline(
        title="elt_dagster", version=version("elt-dagster"), description=DESCRIPTION, docs_url="/docs", redoc_url=None,
        openapi_url="/openapi.json", separate_input_output_schemas=False,
        # the address of a redirect would be that of the Host header, which anybody may choose
        redirect_slashes=False,
    )  # fmt: skip
    app.state.services = services
    app.state.limiter = RateLimiter()
    app.add_middleware(BodyLimit)
    app.add_middleware(WebHeaders)
    errors.install(app)
    for router in (*connect.ROUTERS, *bridges.ROUTERS, syncs.router, loaders.router):
        # not included, which would have each router try the address for itself, and then its routes once more
        app.router.routes.extend(router.routes)
    _add_health(app, services)
    return app


def _add_health(app: FastAPI, services: Services) -> None:
    @app.get("/healthz", tags=["Server"], summary="Is the server alive?")
    def healthz() -> dict[str, str]:
        """Answers as long as the process does; asks nobody."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["Server"], summary="Can it work?", responses={503: {"description": "Not now"}})
    def readyz() -> JSONResponse:
        """Whether the store and Dagster can be reached; for load balancers."""
        found: dict[str, str] = {}
        for name, ask in (("store", services.store.workspaces), ("dagster", lambda: services.runs.list(limit=1))):
            try:
                ask()
                found[name] = "ok"
            except EltError as error:
                found[name] = error.reason
        ready = set(found.values()) == {"ok"}
        return JSONResponse({"status": "ok" if ready else "unavailable", **found}, 200 if ready else 503)
