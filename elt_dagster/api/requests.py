"""Bodies and addresses before anybody looks at them: too large, too deep, or of characters that no database keeps."""

import json
import math
import re
from typing import Any
from urllib.parse import unquote

from fastapi import HTTPException, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 1_000_000
MAX_DEPTH = 64
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_UNKEEPABLE = re.compile("[\x00\ud800-\udfff]")


class TooLargeError(HTTPException):
    """The body has more than `MAX_BODY_BYTES`."""

    def __init__(self) -> None:
        super().__init__(413, f"The body is larger than {MAX_BODY_BYTES:,} bytes.", headers={"Connection": "close"})


class BodyLimit:
    """ASGI middleware: a body that is too large is answered 413, whether it says so first or not, and never held as a whole."""

    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._app, self._max = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what is received."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max:
                raise TooLargeError
            return message

        await self._app(scope, counted, send)


class CheckedRequest(Request):
    """A request whose JSON is what we can keep. What is not is told as FastAPI tells of broken JSON."""

    async def json(self) -> Any:
        """The body. Raises JSONDecodeError."""
        if not hasattr(self, "_json"):
            body = await self.body()
            check_depth(body)
            try:
                found = json.loads(body, parse_constant=_no_number)
            except json.JSONDecodeError:
                raise
            except UnicodeDecodeError:
                raise json.JSONDecodeError("the body is not UTF-8", "", 0) from None
            except ValueError:
                raise json.JSONDecodeError("a number has too many digits", "", 0) from None
            _check_values(found)
            self._json = found
        return self._json


def check_depth(body: bytes) -> None:
    """Raises JSONDecodeError for a body that is nested deeper than `MAX_DEPTH`."""
    depth = 0
    for match in _BRACKETS.finditer(body):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(match.group(), 0)
        if depth > MAX_DEPTH:
            raise json.JSONDecodeError(f"nested deeper than {MAX_DEPTH} levels", "", match.start())


def check_address(request: Request) -> None:
    """Raises 404 for a path, 422 for a query, with characters that no database keeps."""
    if _UNKEEPABLE.search("".join(map(str, request.path_params.values()))):
        raise HTTPException(404, "Not Found")
    query = request.scope.get("query_string", b"").decode("latin-1").replace("+", " ")
    if _UNKEEPABLE.search(unquote(query, errors="strict") if _is_utf8(query) else "\x00"):
        raise HTTPException(422, "The query has characters that are not allowed.")


def _is_utf8(query: str) -> bool:
    try:
        unquote(query, errors="strict")
    except UnicodeDecodeError:
        return False
    return True


def _no_number(text: str) -> Any:
    raise json.JSONDecodeError(f"{text} is no JSON number", "", 0)


def _check_values(value: Any) -> None:
    if isinstance(value, str):
        if _UNKEEPABLE.search(value):
            raise json.JSONDecodeError("a text holds NUL or half a surrogate pair", "", 0)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise json.JSONDecodeError("a number is too large", "", 0)
    elif isinstance(value, dict):
        for key, below in value.items():
            _check_values(key)
            _check_values(below)
    elif isinstance(value, list):
        for below in value:
            _check_values(below)
