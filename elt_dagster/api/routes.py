"""What every route does beside its work: check the address, answer a repeated request as before, write the audit line, tell the rate."""

import hashlib
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from elt_dagster.api.auth import authenticate
from elt_dagster.api.errors import SYNCS, status_of
from elt_dagster.api.requests import CheckedRequest, check_address
from elt_dagster.api.services import Caller
from elt_dagster.errors import ConfigError, EltError
from elt_dagster.store import Reply
from elt_dagster.store.request_ids import within_request

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
IDEMPOTENCY_HEADER = "idempotency-key"
MAX_KEY = 255
_KEPT_HEADERS = ("content-type", "etag", "location")


class KeyedRoute(APIRoute):
    """A route that needs an API key."""

    def get_route_handler(self) -> Handler:
        """The handler with everything around it."""
        inner = super().get_route_handler()

        async def handle(plain: Request) -> Response:
            request = CheckedRequest(plain.scope, plain.receive)
            check_address(request)
            caller = await run_in_threadpool(authenticate, request)
            if request.method in ("GET", "HEAD"):
                response = await inner(request)
            else:
                response = await _written(request, caller, inner)
            response.headers.update(request.state.allowance.headers())
            return response

        return handle


async def _written(request: Request, caller: Caller, inner: Handler) -> Response:
    """A request that may change something, and its line in the audit log, whatever comes of it."""
    status = 500
    try:
        response = await _once(request, caller, inner)
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


async def _once(request: Request, caller: Caller, inner: Handler) -> Response:
    """With an ``Idempotency-Key`` on a POST: only what was never carried out is carried out; a refusal is no answer to keep."""
    key = request.headers.get(IDEMPOTENCY_HEADER) if request.method == "POST" else None
    if key is None:
        return await inner(request)
    if not key or len(key) > MAX_KEY or not key.isprintable():
        raise ConfigError(f"The Idempotency-Key needs 1 to {MAX_KEY} printable characters.")
    replies, workspace = caller.services.store.replies, caller.principal.workspace_id
    known = await run_in_threadpool(replies.begin, workspace, key, await _digest(request))
    if known is not None:
        return Response(known.body, known.status, {**known.headers, "Idempotent-Replayed": "true"})
    try:
        with within_request(f"{workspace}/{key}"):
            response = await inner(request)
    except BaseException:
        await run_in_threadpool(replies.drop, workspace, key)
        raise
    headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
    reply = Reply(response.status_code, headers, bytes(response.body).decode())
    await run_in_threadpool(replies.keep, workspace, key, reply)
    return response


async def _digest(request: Request) -> str:
    whole = f"{request.method} {request.url.path}?{request.url.query}\n".encode() + await request.body()
    return hashlib.sha256(whole).hexdigest()
