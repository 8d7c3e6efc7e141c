"""What the OpenAPI document tells of headers."""

from typing import Any

Told = dict[str, Any]
MAX_KEY = 255
"""Characters of an ``Idempotency-Key``."""


def _header(description: str, kind: str = "string") -> Told:
    return {"description": description, "schema": {"type": kind}}


TAGGED: Told = {"headers": {"ETag": _header("Changes with every change: send it as `If-Match` with the next one.")}}
"""Of an answer that is about one thing."""
COUNTED: Told = {"headers": {"X-Total-Count": _header("How many there are in all.", "integer")}}
"""Of an answer that is a bare list."""
PATIENT: Told = {"Retry-After": _header("Seconds to wait.", "integer")}
"""Headers of an answer that will be another one later."""
_RATE: Told = {
    "X-RateLimit-Limit": _header("Requests a minute that the key may send.", "integer"),
    "X-RateLimit-Remaining": _header("Requests that are left of them now.", "integer"),
    "X-RateLimit-Reset": _header("Seconds until all of them are there again.", "integer"),
}
_REPLAYED: Told = {
    "Idempotent-Replayed": _header("`true` for the answer of an earlier request, which was not carried out again.")
}
_IDEMPOTENCY_KEY: Told = {
    "name": "Idempotency-Key", "in": "header", "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY},
    "description": "Makes it safe to send this again for a day: the same request under the same key is carried out once, and answered as before.",
}  # fmt: skip


def of_keyed_route(methods: set[str], status: int) -> Told:
    """What a route with an API key has besides its own: of an operation, in the words of OpenAPI. ``status`` is that of success."""
    is_post = "POST" in methods
    headers = {**_RATE, **(_REPLAYED if is_post else {})}
    told: Told = {"responses": {str(status): {"headers": headers}, "429": {"headers": {**_RATE, **PATIENT}}}}
    return {**told, **({"parameters": [_IDEMPOTENCY_KEY]} if is_post else {})}
