"""What pages for people have in common: errors that are pages, headers that keep them apart from the rest of the web, a secret per browser."""

import hashlib
import hmac
import logging
import re
import traceback
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from elt_dagster.api.auth import TooManyRequestsError, services_of
from elt_dagster.api.bridge_page import message_page
from elt_dagster.control.bridges import BridgeEndedError
from elt_dagster.control.oauth import new_secret
from elt_dagster.errors import EltError, NotFoundError, TransientError

_COOKIE_SECONDS = 86_400
_COOKIE_VALUE = re.compile(r"[\w-]{43}", re.ASCII)
_log = logging.getLogger("elt_dagster.api")
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class PageRoute(APIRoute):
    """A route whose errors are pages, too; no page is kept, framed, or told of elsewhere."""

    def get_route_handler(self) -> Handler:
        """The handler with everything around it."""
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                response = await inner(request)
            except EltError as error:
                response = _error_page(_page_status(error), str(error))
                if isinstance(error, TransientError) and error.retry_after:
                    response.headers["Retry-After"] = str(max(1, round(error.retry_after)))
            except HTTPException as error:
                response = _error_page(error.status_code, str(error.detail))
            except RequestValidationError:
                response = _error_page(
                    400, "This address is not complete, or too long. Open the link that you were given again."
                )
            except Exception as error:
                # neither text nor traceback: they may repeat settings
                place = traceback.extract_tb(error.__traceback__)[-1:]
                where = "".join(f" at {frame.filename}:{frame.lineno}" for frame in place)
                _log.error("%s%s while answering %s %s", type(error).__name__, where, request.method, request.url.path)
                response = _error_page(500, "Something went wrong on our side. Try again later.")
            _secure(response)
            return response

        return handle


def _cookie_name(request: Request) -> str:
    return "__Host-elt_bridge" if _is_https(request) else "elt_bridge"


def _is_https(request: Request) -> bool:
    return urlsplit(services_of(request).base_url).scheme == "https"


def browser_of(request: Request) -> str:
    """A secret that only this browser has; a new one for a browser that is here for the first time."""
    if not hasattr(request.state, "browser"):
        known = request.cookies.get(_cookie_name(request), "")
        request.state.browser = known if _COOKIE_VALUE.fullmatch(known) else new_secret()
    found: str = request.state.browser
    return found


def remember(request: Request, response: Response, browser: str) -> None:
    # lax: the vendor's page leads back to us from another site
    response.set_cookie(
        _cookie_name(request), browser, max_age=_COOKIE_SECONDS, path="/", httponly=True, samesite="lax",
        secure=_is_https(request),
    )  # fmt: skip


def csrf_of(browser: str, token: str) -> str:
    return hmac.new(browser.encode(), f"csrf {token}".encode(), hashlib.sha256).hexdigest()


def allow_targets(response: Response, targets: str) -> None:
    response.headers["Content-Security-Policy"] = _policy(f"'self' {targets}")


def _policy(targets: str) -> str:
    return (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        f"form-action {targets}; base-uri 'none'; frame-ancestors 'none'"
    )


def _secure(response: Response) -> None:
    usual = {
        "Cache-Control": "no-store", "Content-Security-Policy": _policy("'self'"), "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
    }  # fmt: skip
    for name, value in usual.items():
        response.headers.setdefault(name, value)


def _page_status(error: EltError) -> int:
    if isinstance(error, BridgeEndedError):
        return 410
    if isinstance(error, TooManyRequestsError):
        return 429
    return 404 if isinstance(error, NotFoundError) else 400


def _error_page(status: int, text: str) -> Response:
    titles = {404: "There is nothing here", 410: "This link is over", 429: "Too many tries", 500: "That did not work"}
    return HTMLResponse(message_page(titles.get(status, "This cannot go on"), text), status)
