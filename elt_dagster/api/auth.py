"""Who asks: a key in ``x-api-key``, in ``Authorization: Bearer``, or in the cookie ``vai_token``; every dialect takes every form."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyCookie, APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from elt_dagster.api.browsers import is_forged
from elt_dagster.api.services import Caller, Services
from elt_dagster.errors import AuthError, TransientError

_header = APIKeyHeader(name="x-api-key", auto_error=False, scheme_name="apiKey")
_bearer = HTTPBearer(auto_error=False, scheme_name="bearer")
_cookie = APIKeyCookie(name="vai_token", auto_error=False, scheme_name="cookie")


class KeyRefusedError(AuthError):
    """There is no key in the request, or one that opens nothing: 401."""

    reason = "unauthorized"


class TooManyRequestsError(TransientError):
    """The key has used its minute up: 429."""

    reason = "rate_limited"


def services_of(request: Request) -> Services:
    """The services of the server that answers ``request``."""
    found: Services = request.app.state.services
    return found


def authenticate(request: Request) -> Caller:
    """Who sent ``request``; asked once per request. Raises KeyRefusedError, TooManyRequestsError."""
    known: Caller | None = getattr(request.state, "caller", None)
    if known is not None:
        return known
    services = services_of(request)
    if _is_by_cookie(request) and is_forged(request, services.base_url):
        raise KeyRefusedError(
            "A page of another site has sent the cookie.",
            fix="Send the key itself, in x-api-key or as Authorization: Bearer.",
        )
    try:
        principal = services.access.principal(_key(request))
    except AuthError as error:
        raise KeyRefusedError(error.what, fix=error.fix) from None
    allowance = request.app.state.limiter.take(
        principal.key_id, principal.requests_per_minute or services.requests_per_minute
    )
    request.state.allowance = allowance
    if allowance.wait:
        raise TooManyRequestsError(
            f"This key may send {allowance.limit} requests a minute.",
            fix=f"Wait {allowance.wait} s.",
            retry_after=allowance.wait,
        )
    request.state.caller = Caller(principal, services)
    return request.state.caller  # type: ignore[no-any-return]  # a state holds anything


def is_known(request: Request) -> bool:
    """Whether `authenticate` needs no look into the store."""
    return services_of(request).access.remembers(_given(request))


def _given(request: Request) -> str:
    given = _in_header(request) or request.cookies.get("vai_token")
    return given.strip() if given else ""


def _in_header(request: Request) -> str | None:
    return request.headers.get("x-api-key") or _bearer_of(request)


def _is_by_cookie(request: Request) -> bool:
    return not _in_header(request) and "vai_token" in request.cookies


def _key(request: Request) -> str:
    given = _given(request)
    if not given:
        raise AuthError("There is no API key in the request.", fix="Send it in x-api-key, or as Authorization: Bearer.")
    return given


def _bearer_of(request: Request) -> str | None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() or None if scheme.casefold() == "bearer" else None


async def caller(
    request: Request,
    _key: Annotated[str | None, Depends(_header)] = None,
    _token: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None,
    _biscuit: Annotated[str | None, Depends(_cookie)] = None,
) -> Caller:
    """Dependency of every route that needs a key, which `routes` has looked at; its three forms are parameters only for the sake of the OpenAPI
    document."""
    return authenticate(request)


Authenticated = Annotated[Caller, Depends(caller)]
