"""Requests to the server: patient where that is safe, once where it is not, and every refusal one of our errors.

A POST carries an Idempotency-Key, so that sending it again after a lost answer cannot do it twice.
"""

import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx

from elt_dagster.errors import (
    AuthError,
    CancelledError,
    ConfigError,
    ConflictError,
    ContractError,
    DestinationError,
    EltError,
    LimitError,
    NotFoundError,
    SourceError,
    TransientError,
)

BUSY = frozenset({429, 502, 503, 504})
MAX_WAIT_SECONDS = 60.0
SOON_SECONDS = 10.0
PAGE = 100
"""How many rows a list asks for at a time: the most that the server gives."""
_BY_REASON: Mapping[str, type[EltError]] = {
    kind.reason: kind
    for kind in (AuthError, TransientError, LimitError, SourceError, DestinationError, CancelledError, ContractError)
}


class Sending:
    """One server, one key. Threads may share it."""

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        timeout: float,
        retries: int,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        try:
            base = httpx.URL(url)
        except httpx.InvalidURL:
            base = httpx.URL("")
        if base.scheme not in ("http", "https") or not base.host:
            raise ConfigError("The server's address is no http or https URL.", fix="Such as http://127.0.0.1:8000.")
        if not api_key or not api_key.isascii() or not api_key.isprintable():
            raise ConfigError("The API key is empty, or holds what no header can.", fix="Copy it once more.")
        self._where, self._retries, self._sleep = base.host, retries, sleep
        # no redirects: the key would go wherever they lead
        self._http = httpx.Client(
            base_url=base, headers={"x-api-key": api_key}, timeout=timeout, transport=transport, follow_redirects=False
        )

    def close(self) -> None:
        """Let the connections go."""
        self._http.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The JSON of an answer; None for one without a body.

        Raises NotFoundError, ConflictError, ConfigError, AuthError and others as the server says; TransientError when it stays away or busy.
        """
        return self.ask_tagged(method, path, params=params, body=body, headers=headers)[0]

    def ask_tagged(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[Any, str]:
        """As `ask`, with the answer's ``ETag``; empty where there is none."""
        told = {**(headers or {}), **({"Idempotency-Key": str(uuid.uuid4())} if method == "POST" else {})}
        asked = {name: value for name, value in (params or {}).items() if value is not None}
        lost = False
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            try:
                response = self._http.request(
                    method, path, params=asked, headers=told, **({"json": body} if body is not None else {})
                )
            except httpx.TransportError as error:
                # what was changed under an ETag is another thing now: sent again it would look like somebody else's change
                if last or "If-Match" in told:
                    raise self._unreachable(error) from None
                lost = True
                self._wait(attempt, None)
                continue
            if not last and _may_work_soon(response):
                self._wait(attempt, _retry_after(response))
                continue
            if lost and method == "DELETE" and response.status_code == 404:
                return None, ""  # the answer that was lost was the one that said so
            return self._judged(response), response.headers.get("etag", "")
        raise AssertionError("unreachable")  # the loop returns or raises

    def cursor_pages(self, path: str, params: Mapping[str, Any] | None = None) -> Iterator[Any]:
        """Rows of a list of the Connect dialect, a page at a time, as they are asked for."""
        cursor: str | None = None
        while True:
            page = self.ask("GET", path, params={"limit": PAGE, **(params or {}), "starting_after": cursor})
            yield from _rows(page, "data")
            cursor = page.get("next_cursor")
            if not page.get("has_more") or cursor is None:
                return

    def offset_pages(self, path: str, rows: str, params: Mapping[str, Any] | None = None) -> Iterator[Any]:
        """Rows of a list of the Syncs dialect, a page at a time, as they are asked for."""
        offset = 0
        while True:
            page = self.ask("GET", path, params={"limit": PAGE, **(params or {}), "offset": offset})
            found = _rows(page, rows)
            yield from found
            offset += len(found)
            if not page.get("hasNext") or not found:
                return

    def numbered_pages(self, path: str) -> Iterator[Any]:
        """Rows of a list of the Loaders dialect, a page at a time, as they are asked for."""
        page = 1
        while True:
            found = self.ask("GET", path, params={"page": page, "page_size": PAGE})
            if not isinstance(found, list):
                raise SourceError("The server sent a list that is none.", fix="Check the address.")
            yield from found
            if len(found) < PAGE:
                return
            page += 1

    def is_ready(self) -> bool:
        """What ``/readyz`` says, asked once; False where nobody answers."""
        try:
            return self._http.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def _wait(self, attempt: int, asked: float | None) -> None:
        backoff = 2.0**attempt * (0.5 + random.random() / 2)  # noqa: S311 - spread, no secret
        self._sleep(min(MAX_WAIT_SECONDS, backoff if asked is None else asked))

    def _unreachable(self, error: Exception) -> TransientError:
        return TransientError(
            f"The server at {self._where} could not be reached ({type(error).__name__}).",
            fix="Check the address, and whether it runs.",
        )

    def _judged(self, response: httpx.Response) -> Any:
        if response.is_success:
            if response.status_code == 204 or not response.content:
                return None
            answer = _json(response)
            if answer is None:
                raise SourceError(f"The server at {self._where} sent no JSON.", fix="Check the address.")
            return answer
        if response.has_redirect_location:
            raise ConfigError(f"The server at {self._where} redirects.", fix="Give the address it redirects to.")
        raise error_of(response, self._where)


def error_of(response: httpx.Response, where: str) -> EltError:
    """The error that a refusal stands for, with the server's own words, in whichever dialect it wrote them."""
    answer = _json(response)
    body = answer if isinstance(answer, dict) else {}
    detail = body.get("detail")
    details = [d for d in detail if isinstance(d, dict)] if isinstance(detail, list) else []
    said = body.get("message") or body.get("error") or (detail if isinstance(detail, str) else None)
    text = str(said) if said else "; ".join(_told(d) for d in details)
    text = text or f"The server at {where} answered {response.status_code}."
    other = body.get("active_run_id") or body.get("conflict_id") or body.get("conflictId")
    status, wait = response.status_code, _retry_after(response)
    if status in (409, 412):
        return ConflictError(text, with_id=str(other) if other else None)
    if status in (424, 429) or status >= 500:
        return _later(str(body.get("error_code", "")) if status == 424 else "", text, wait, limited=status == 429)
    error = {401: AuthError, 404: NotFoundError}.get(status, ConfigError)(text)
    error.details = [(tuple(d.get("loc", ())), str(d.get("msg", ""))) for d in details]
    return error


def _later(reason: str, text: str, wait: float | None, *, limited: bool) -> EltError:
    """What the server, or the source behind it, cannot do now."""
    kind = LimitError if limited else _BY_REASON.get(reason, TransientError)
    return kind(text, retry_after=wait) if issubclass(kind, TransientError) else kind(text)


def _may_work_soon(response: httpx.Response) -> bool:
    """Whether nothing was done, and the same request is worth another try: what is behind the server says so itself, and that it is soon."""
    wait = _retry_after(response)
    return response.status_code in BUSY or (response.status_code == 424 and wait is not None and wait <= SOON_SECONDS)


def _told(detail: Mapping[str, Any]) -> str:
    place = ".".join(str(p) for p in detail.get("loc", ()) if p != "body")
    return f"{place}: {detail.get('msg', '')}" if place else str(detail.get("msg", ""))


def _rows(page: Any, name: str) -> list[Any]:
    found = page.get(name) if isinstance(page, dict) else None
    if not isinstance(found, list):
        raise SourceError("The server sent a list that is none.", fix="Check the address.")
    return found


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None
