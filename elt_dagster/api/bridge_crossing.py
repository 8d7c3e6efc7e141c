"""The pages of connection bridges: what a person without an API key sees on the way to a connection.

An address carries its token in the query, never in the path, because paths are logged.
"""

import hmac
from importlib.resources import files
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from elt_dagster.api.auth import TooManyRequestsError, services_of
from elt_dagster.api.bridge_page import ADD_NAME, CSRF_NAME, REMOVE_NAME, form_page, form_target
from elt_dagster.api.pages import PageRoute, allow_targets, browser_of, csrf_of, remember
from elt_dagster.control.access import Principal
from elt_dagster.control.bridges import AUTHORIZE_PATH, CALLBACK_PATH, Ask, Crossing, GoTo, Step
from elt_dagster.control.forms import with_another_item, without_item
from elt_dagster.store import Bridge

TRIES_PER_MINUTE = 30
"""How often the settings of one bridge may be tried: each try asks a source."""
OPENED_PER_MINUTE = 120
MAX_FIELDS = 5000
FORM_TYPE = "application/x-www-form-urlencoded"
_ASSETS = {"bridge.css": "text/css; charset=utf-8", "bridge.js": "text/javascript; charset=utf-8"}

router = APIRouter(route_class=PageRoute, tags=["Connection bridges"], default_response_class=HTMLResponse)
_PAGE: dict[str, Any] = {"content": {"text/html": {"schema": {"type": "string"}}}}
_PAGES: dict[int | str, dict[str, Any]] = {
    302: {"description": "On to the vendor's consent page, or back to the application"},
    400: {"description": "A page that says what is wrong", **_PAGE},
    404: {"description": "A page: there is no such bridge", **_PAGE},
    410: {"description": "A page: the bridge was crossed or has expired", **_PAGE},
    429: {"description": "A page: too many tries", **_PAGE},
}
_FORM = {
    "requestBody": {
        "required": True,
        "content": {FORM_TYPE: {"schema": {"type": "object", "additionalProperties": {"type": "string"}}}},
    }
}
Token = Annotated[str, Query(min_length=1, max_length=200, description="What makes the address unguessable.")]


@router.get(AUTHORIZE_PATH, summary="The page of a bridge", responses=_PAGES)
def show(request: Request, token: Token) -> Response:
    """The vendor's consent page, or a form with the settings of the connector. No key is needed."""
    crossing, browser = _crossing(request), browser_of(request)
    bridge = crossing.bridge(token)
    _count(request, f"page of {bridge.id}", OPENED_PER_MINUTE)
    return _answer(request, crossing.open(bridge, browser), token, browser)


@router.post(
    AUTHORIZE_PATH, summary="Send the form of a bridge", openapi_extra=_FORM,
    responses={**_PAGES, 413: {"description": "Too large"}, 415: {"description": "No form", **_PAGE},
               422: {"description": "The form again, with what is wrong", **_PAGE}},
)  # fmt: skip
async def send(request: Request, token: Token) -> Response:
    """Tries the settings against the source; the connection is made when the source accepts them."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM_TYPE:
        raise HTTPException(415, "This is no form.")
    data = _form_data(await request.body())
    return await run_in_threadpool(_sent, request, token, data)


def _sent(request: Request, token: str, data: dict[str, list[str]]) -> Response:
    crossing, browser = _crossing(request), browser_of(request)
    bridge = crossing.bridge(token)
    given = "".join(data.pop(CSRF_NAME, [])[-1:])
    if not hmac.compare_digest(given.encode(), csrf_of(browser, token).encode()):
        raise HTTPException(
            400, "This form is not from here, or cookies are off. Open the link that you were given again."
        )
    added, removed = data.pop(ADD_NAME, []), data.pop(REMOVE_NAME, [])
    if added or removed:
        data = with_another_item(data, added[-1]) if added else without_item(data, removed[-1])
        return _answer(request, crossing.again(bridge, data), token, browser, status=200)
    _count(request, f"bridge {bridge.id}", TRIES_PER_MINUTE)
    step = crossing.submit(bridge, browser, data)
    if isinstance(step, GoTo) and step.connection is not None:
        _audit(request, bridge, step.connection.id)
    return _answer(request, step, token, browser, status=422)


class VendorAnswer(BaseModel):
    """What a vendor's consent page sends back."""

    state: str = Field(default="", max_length=500, description="What we sent along.")
    code: str = Field(default="", max_length=8000, description="What the vendor gives for the consent.")
    error: str = Field(default="", max_length=500, description="Why there is no code.")
    error_description: str = Field(default="", max_length=4000, description="The same in words.")
    iss: str = Field(default="", max_length=2000, description="Whose answer it is.")


@router.get(
    CALLBACK_PATH,
    summary="Where a vendor's consent page leads back",
    responses={k: v for k, v in _PAGES.items() if k != 429},
)
def callback(request: Request, answer: Annotated[VendorAnswer, Query()]) -> Response:
    """Exchanges the code, tries what it brings against the source, and sends the person back to the application."""
    said = {name: value for name, value in answer.model_dump().items() if value}
    if any(len(request.query_params.getlist(name)) > 1 for name in said):
        raise HTTPException(400, "This answer says a thing twice.")
    crossing = _crossing(request)
    bridge = crossing.expected(browser_of(request), answer.state)
    step = crossing.returned(bridge, said)
    if step.connection is not None:
        _audit(request, bridge, step.connection.id)
    return RedirectResponse(step.address, 302)


@router.get("/connection_bridges/assets/{name}", include_in_schema=False)
def asset(name: str) -> Response:
    """Style and script of the pages."""
    if name not in _ASSETS:
        raise HTTPException(404, "There is nothing of that name.")
    content = files("elt_dagster.api").joinpath("static", name).read_bytes()
    return Response(content, media_type=_ASSETS[name], headers={"Cache-Control": "public, max-age=300"})


def _crossing(request: Request) -> Crossing:
    services = services_of(request)
    return Crossing(store=services.store, base_url=services.base_url, runtime=services.runtime)


def _answer(request: Request, step: Step, token: str, browser: str, *, status: int = 200) -> Response:
    if isinstance(step, Ask):
        wrong = bool(step.problems)
        response: Response = HTMLResponse(form_page(step, csrf_of(browser, token)), status if wrong else 200)
        allow_targets(response, form_target(step))
    else:
        response = RedirectResponse(step.address, 302)
    remember(request, response, browser)
    return response


def _form_data(body: bytes) -> dict[str, list[str]]:
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=MAX_FIELDS,
        )
    except ValueError:
        raise HTTPException(400, "This form cannot be read.") from None
    data: dict[str, list[str]] = {}
    for name, value in pairs:
        data.setdefault(name, []).append(value)
    return data


def _count(request: Request, what: str, per_minute: int) -> None:
    allowance = request.app.state.limiter.take(what, per_minute)
    if allowance.wait:
        raise TooManyRequestsError("That were many tries.", fix=f"Wait {allowance.wait} s.", retry_after=allowance.wait)


def _audit(request: Request, bridge: Bridge, connection_id: str) -> None:
    whoever = Principal(bridge.created_by, f"bridge {bridge.id}", bridge.workspace, bridge.workspace_id)
    services_of(request).access.audit(whoever, request.method, request.url.path, 302, connection=connection_id)
