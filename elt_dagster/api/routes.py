"""What every route does beside its work: check the address, answer a repeated request as before, write the audit line, tell the rate."""

import hashlib
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from elt_dagster.api.auth import authenticate, is_known
from elt_dagster.api.documented import MAX_KEY, of_keyed_route
from elt_dagster.api.errors import SYNCS, in_request, status_of
from elt_dagster.api.one_thread import awaitable, finish, in_thread
from elt_dagster.api.requests import CheckedRequest, check_address
from elt_dagster.api.services import Caller
from elt_dagster.errors import ConfigError, EltError
from elt_dagster.store import Reply
from elt_dagster.store.request_ids import within_request

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
IDEMPOTENCY_HEADER, _NAMED = "idempotency-key", "Idempotency-Key"
_KEPT_HEADERS = ("content-type", "etag", "location")


class KeyedRoute(APIRoute):
    """A route that needs an API key. One thread does all of it, once the body is there."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **more: Any) -> None:
        more["openapi_extra"] = of_keyed_route(set(more.get("methods") or ()), more.get("status_code") or 200)
        super().__init__(path, endpoint if inspect.iscoroutinefunction(endpoint) else awaitable(endpoint), **more)

    def get_route_handler(self) -> Handler:
        """The handler with everything around it."""
        inner = super().get_route_handler()

        async def handle(plain: Request) -> Response:
            request = CheckedRequest(plain.scope, plain.receive)
            check_address(request)
            if is_known(request):
                authenticate(request)
            else:
                await in_thread(authenticate, request)
            await request.body()
            return await in_thread(_answer, request, inner)

        return handle


def _answer(request: Request, inner: Handler) -> Response:
    caller: Caller = request.state.caller
    response = finish(inner(request)) if request.method in ("GET", "HEAD") else _written(request, caller, inner)
    response.headers.update(request.state.allowance.headers())
    return response


def _written(request: Request, caller: Caller, inner: Handler) -> Response:
    """A request that may change something, and its line in the audit log, whatever comes of it."""
    status = 500
    try:
        response = _once(request, caller, inner)
        status = response.status_code
    except Exception as error:
        status = _status(request, error)
        raise
    finally:
        caller.services.access.audit(caller.principal, request.method, request.url.path, status)
    return response


def _status(request: Request, error: Exception) -> int:
    """What `errors` is about to answer."""
    found = status_of(error) if isinstance(error, EltError) else int(getattr(error, "status_code", 0)) or 422
    return 400 if found == 422 and not request.url.path.startswith(SYNCS) else found


def _once(request: Request, caller: Caller, inner: Handler) -> Response:
    """With an ``Idempotency-Key`` on a POST: only what was never carried out is carried out; a refusal is no answer to keep."""
    key = request.headers.get(IDEMPOTENCY_HEADER) if request.method == "POST" else None
    if key is None:
        return finish(inner(request))
    if not key or len(key) > MAX_KEY or not key.isprintable():
        with in_request("header", _NAMED):
            raise ConfigError(f"The Idempotency-Key needs 1 to {MAX_KEY} printable characters.")
    replies, workspace = caller.services.store.replies, caller.principal.workspace_id
    with in_request("header", _NAMED):
        known = replies.begin(workspace, key, finish(_digest(request)))
    if known is not None:
        return Response(known.body, known.status, {**known.headers, "Idempotent-Replayed": "true"})
    try:
        with within_request(f"{workspace}/{key}"):
            response = finish(inner(request))
    except BaseException:
        replies.drop(workspace, key)
        raise
    headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
    replies.keep(workspace, key, Reply(response.status_code, headers, bytes(response.body).decode()))
    return response


async def _digest(request: Request) -> str:
    whole = f"{request.method} {request.url.path}?{request.url.query}\n".encode() + await request.body()
    return hashlib.sha256(whole).hexdigest()
