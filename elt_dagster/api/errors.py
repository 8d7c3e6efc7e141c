"""Errors as answers: which status, and how each dialect writes it. No text of an error that is not ours ever gets out."""

import logging
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import compile_path

from elt_dagster.api.auth import KeyRefusedError, TooManyRequestsError
from elt_dagster.control.syncs import ChangedMeanwhileError
from elt_dagster.errors import ConfigError, ConflictError, EltError, NotFoundError, TransientError

LOADERS = "/api/v1/workspaces/"
SYNCS = "/api/v1/"
_log = logging.getLogger("elt_dagster.api")
_NO_OBJECT = frozenset({"model_attributes_type", "model_type", "dict_type", "missing"})
_CODES = {400: "invalid_request", 401: "unauthorized", 404: "not_found", 405: "method_not_allowed", 409: "conflict",
          412: "precondition_failed", 413: "too_large", 415: "unsupported_media_type", 422: "invalid_request",
          424: "source_failed", 429: "rate_limited", 500: "internal_error", 503: "unavailable"}  # fmt: skip


@contextmanager
def in_body(*path: str | int) -> Iterator[None]:
    """What is wrong inside is wrong with this field of the body: an unknown id there is no 404."""
    try:
        yield
    except (ConfigError, ValueError) as error:
        told = ConfigError(str(error))
        told.details = [(path, str(error))]
        raise told from None


@contextmanager
def in_request(*loc: str) -> Iterator[None]:
    """What is wrong inside is wrong with this part of the request: ``path``, ``query`` or ``header``, then its name. A conflict stays one."""
    try:
        yield
    except ConflictError:
        raise
    except ConfigError as error:
        raise RequestValidationError([{"loc": loc, "msg": str(error), "type": "value_error"}]) from None


def install(app: FastAPI) -> None:
    """Let ``app`` answer every error in the dialect of its address."""
    app.add_exception_handler(EltError, _elt_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(StarletteHTTPException, _http_error)
    app.add_exception_handler(Exception, _bug)


_STATUS: tuple[tuple[type[EltError], int], ...] = (
    (KeyRefusedError, 401),
    (TooManyRequestsError, 429),
    (ChangedMeanwhileError, 412),
    (ConflictError, 409),
    (NotFoundError, 404),
    (ConfigError, 422),
)


def status_of(error: EltError) -> int:
    """The HTTP status of one of our errors. 424 where the source, the warehouse or Dagster failed: not us, and perhaps not for long."""
    found = next((status for kind, status in _STATUS if isinstance(error, kind)), 424)
    return 422 if found == 404 and error.details else found


def _elt_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, EltError)  # noqa: S101 - installed for these only
    status = status_of(error)
    headers: dict[str, str] = {}
    if isinstance(error, TransientError) and error.retry_after:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    other = error.with_id if isinstance(error, ConflictError) else None
    # without the paths, which are those of our own document
    message = "\n".join(dict.fromkeys(text for _, text in error.details)) or str(error)
    return answer(
        request, status, message, details=error.details, other=other, headers=headers, code=_code(error, status)
    )


def _code(error: EltError, status: int) -> str:
    return error.reason if status == 424 else _CODES[status]


def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - installed for these only
    # the input and pydantic's context are left out: they may hold a secret
    found = [_told(e) for e in error.errors()]
    return _invalid(request, found)


def _told(error: Mapping[str, Any]) -> dict[str, Any]:
    if error["type"] == "json_invalid":
        # what the parser says, which repeats nothing, and not the character's number as if it were a field
        return {
            "loc": ["body"],
            "msg": f"This is no JSON that can be used: {error['ctx']['error']}",
            "type": "json_invalid",
        }
    if error["type"] in _NO_OBJECT and tuple(error["loc"]) == ("body",):
        # also what a body is taken for whose type is not said
        text = "Send a JSON object, with Content-Type: application/json."
        return {"loc": ["body"], "msg": text, "type": error["type"]}
    return {"loc": list(error["loc"]), "msg": error["msg"], "type": error["type"]}


def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)  # noqa: S101 - installed for these only
    if error.status_code == 422:
        return _invalid(request, [{"loc": ["query"], "msg": str(error.detail), "type": "value_error"}])
    headers, text = dict(error.headers or {}), str(error.detail)
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed(request)) or headers.get("Allow", "")
    if error.status_code == 404 and len(request.url.path) > 1 and request.url.path.endswith("/"):
        text = "There is nothing at this address. Leave the slash at its end out."
    return answer(request, error.status_code, text, headers=headers)


def _allowed(request: Request) -> list[str]:
    """The methods of an address. The router itself tells only those of the first of its routes."""
    documented: Mapping[str, Mapping[str, Any]] = request.app.openapi()["paths"]
    at = [methods for path, methods in documented.items() if compile_path(path)[0].match(request.url.path)]
    return sorted({method.upper() for methods in at for method in methods})


def _bug(request: Request, error: Exception) -> JSONResponse:
    # neither text nor traceback: they may repeat settings or rows
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" at {frame.filename}:{frame.lineno}" for frame in place)
    _log.error("%s%s while answering %s %s", type(error).__name__, where, request.method, request.url.path)
    return answer(request, 500, "Something went wrong on our side; the server's log has the place.")


def answer(
    request: Request,
    status: int,
    message: str,
    *,
    details: Sequence[tuple[tuple[str | int, ...], str]] = (),
    other: str | None = None,
    headers: Mapping[str, str] | None = None,
    code: str | None = None,
) -> JSONResponse:
    """An error in the dialect of the request's address."""
    if status == 422:
        found = [{"loc": ["body", *path], "msg": text, "type": "value_error"} for path, text in details]
        return _invalid(request, found or [{"loc": ["body"], "msg": message, "type": "value_error"}])
    path = request.url.path
    if path.startswith(LOADERS):
        body: dict[str, Any] = {"error": message, **({"conflict_id": other} if other else {})}
    elif path.startswith(SYNCS):
        body = {"detail": message, **({"conflictId": other} if other else {})}
    else:
        body = {"error_code": code or _CODES.get(status, "error"), "message": message}
        body |= {"active_run_id" if path.endswith("/request_run") else "conflict_id": other} if other else {}
    return JSONResponse(body, status, {**_rate(request), **(headers or {})})


def _invalid(request: Request, found: list[dict[str, Any]]) -> JSONResponse:
    if request.url.path.startswith(SYNCS):
        return JSONResponse({"detail": found}, 422, _rate(request))
    text = " ".join(f"{_pointer(e['loc'])}{e['msg']}" for e in found[:20])
    return JSONResponse({"error_code": "invalid_request", "message": text}, 400, _rate(request))


def _pointer(loc: Sequence[str | int]) -> str:
    """``/elt_settings/ad_accounts: ``, the JSON pointer into the body; the place of a parameter."""
    where = [str(p) for p in loc]
    if where[:1] == ["body"]:
        inner = "".join("/" + p.replace("~", "~0").replace("/", "~1") for p in where[1:])
        return f"{inner}: " if inner else ""
    return f"{'.'.join(where)}: "


def _rate(request: Request) -> dict[str, str]:
    allowance = getattr(request.state, "allowance", None)
    headers: dict[str, str] = allowance.headers() if allowance is not None else {}
    return headers
