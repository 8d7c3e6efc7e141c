"""What keeps the API apart from the rest of the web: headers on every answer, HEAD for every GET, and cookies that foreign pages send along."""

from urllib.parse import urlsplit

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_KEPT_FOREVER = "/static-offline-docs/"
_PAGES = "/connection_bridges/"
_USUAL = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)


class WebHeaders:
    """ASGI middleware: no answer is kept by a proxy, framed by another page, or taken for another type; HEAD is a GET without its body.

    Pages of bridges say more of this themselves, and are not asked by HEAD: whoever looks at a link before a person does must begin nothing.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put the headers where the answer has none of its own."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headless = scope["method"] == "HEAD" and not scope["path"].startswith(_PAGES)

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and not scope["path"].startswith(_KEPT_FOREVER):
                # as bytes, for every answer passes here
                there = {name.lower() for name, _ in message["headers"]}
                message = {**message, "headers": [*message["headers"], *(h for h in _USUAL if h[0] not in there)]}
            elif message["type"] == "http.response.body" and headless:
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET"} if headless else scope, receive, told)


def is_forged(request: Request, base_url: str) -> bool:
    """Whether a page of another site has a browser change something with the cookie that it keeps for us.

    Browsers say where a request comes from (Fetch Metadata, else ``Origin``); a program that says neither holds the cookie itself.
    """
    if request.method in ("GET", "HEAD"):
        return False
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get("origin")
    if origin is None:
        return False
    # without the scheme: a proxy may have taken the encryption off
    return _place(origin) not in (_place(base_url), request.headers.get("host", "").lower())


def _place(url: str) -> str:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""
