"""Sending requests: patience with busy sources, errors sorted by who must act, and nothing private in a message.

Messages name method and path only: a query may carry a key, a body may carry rows.
"""

import codecs
import email.utils
import gzip
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

import httpx

from elt_dagster.errors import AuthError, ConfigError, LimitError, SourceError, TransientError
from elt_dagster.sdk.auth import TokenAuth
from elt_dagster.sdk.bounded import Bounds, whole
from elt_dagster.sdk.budget import Budget, is_used_up, reset_seconds
from elt_dagster.sdk.connector import Runtime
from elt_dagster.sdk.egress import http_transport
from elt_dagster.sdk.pages import Call

logging.getLogger("httpx").setLevel(logging.WARNING)  # at INFO it logs whole URLs
logging.getLogger("httpcore").setLevel(logging.WARNING)  # at DEBUG it logs headers

RETRIES = 6
REDIRECTS = 5
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
T = TypeVar("T")
_SLOW_DOWN = "It wants fewer requests: try again later, or let fewer runs ask it at a time."
_TROUBLE = "It is busy or in trouble: try again later, and ask its owner when that does not help."


class Action(StrEnum):
    """What an answer means: ``ignore`` is a page without records, ``auth`` asks the user to look at the credentials, ``config`` at the settings."""

    RETRY = "retry"
    IGNORE = "ignore"
    FAIL = "fail"
    AUTH = "auth"
    CONFIG = "config"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What to do about answers the usual rules get wrong. The first rule that matches decides; all set conditions must hold."""

    action: Action
    status: frozenset[int] = frozenset()
    body_contains: str | None = None
    body_matches: str | None = None
    not_json: bool = False
    """The body does not begin and end as JSON does: a page of something in between, or half an answer."""
    message: str = ""
    """What to tell the user to do."""
    wait_seconds: float | None = None
    """For ``retry``, where the answer names no time; longer than `Runtime.max_wait_seconds` means another run, not another try."""
    quota: bool = False
    """For ``retry``: a limit is used up, which is a LimitError."""

    def matches(self, response: httpx.Response) -> bool:
        """Whether this rule is about ``response``; without a status only the body decides."""
        if self.status and response.status_code not in self.status:
            return False
        if self.not_json and _looks_like_json(response.content):
            return False
        if self.body_contains is not None and self.body_contains not in response.text:
            return False
        return self.body_matches is None or re.search(self.body_matches, response.text) is not None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, with the content as UTF-8 bytes; ``ignored`` when a rule said so."""

    url: httpx.URL
    headers: httpx.Headers
    content: bytes
    ignored: bool = False


class Http:
    """One client for one source. Use as a context manager.

    Only requests to the host of ``base_url`` are sent, whatever a link or a redirect says, because each carries the credentials.
    """

    def __init__(
        self,
        base_url: str,
        *,
        title: str,
        runtime: Runtime,
        auth: httpx.Auth | None = None,
        headers: Mapping[str, str] | None = None,
        rules: Sequence[Rule] = (),
        budget: Budget | None = None,
        timeout: float = 60.0,
        retries: int = RETRIES,
        verify: bool = True,
    ) -> None:
        self.base = _base(base_url, title)
        self._title = title
        self._runtime = runtime
        self._rules = tuple(rules)
        self._budget = budget or Budget()
        self._retries = retries
        self._client = httpx.Client(
            auth=auth,
            transport=runtime.transport or http_transport(runtime.environ, verify=verify),
            timeout=timeout,
            headers=dict(headers or {}),
            verify=verify,
        )

    def __enter__(self) -> "Http":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def fetch(self, call: Call, rules: Sequence[Rule] = ()) -> Answer:
        """Send ``call``, patiently; ``rules`` come before those of the client.

        Raises AuthError, SourceError, or TransientError with ``retry_after`` when the source stays busy or asks for a longer wait
        than the runtime allows.
        """
        return self._patiently(lambda: self._once(call, rules))

    def sign_in(self, auth: TokenAuth) -> Mapping[str, Any]:
        """Have ``auth`` get its token now, patiently; what came with the token. Raises AuthError or TransientError."""
        return self._patiently(lambda: self._reaching(self.base, lambda: auth.sign_in(self._client)))

    def _patiently(self, attempted: Callable[[], T]) -> T:
        for attempt in range(self._retries + 1):
            try:
                return attempted()
            except TransientError as error:
                last = attempt == self._retries
                wait = error.retry_after
                if last or (wait is not None and wait > self._runtime.max_wait_seconds):
                    raise
                if wait is None:
                    self._runtime.sleep(self._backoff(attempt))
                elif self._runtime.ledger is None:  # else the budget holds us back, with everybody else
                    self._runtime.sleep(wait)
        raise AssertionError("unreachable")  # the loop returns or raises

    def _backoff(self, attempt: int) -> float:
        """Doubling from one second, each between half and all of it, so that many readers do not come back together."""
        return float(min(2.0**attempt, self._runtime.max_wait_seconds) * (0.5 + self._runtime.jitter() / 2))

    def _once(self, call: Call, rules: Sequence[Rule]) -> Answer:
        self._take_turn()
        request = self._request(call)
        for _ in range(REDIRECTS):
            response = self._send(request)
            if not response.has_redirect_location:
                self._budget.heard(response.headers, self._runtime.now().timestamp())
                return self._judge(response, rules)
            target = self.same_host(response.url.join(response.headers["Location"]))
            keep = response.status_code in (307, 308)
            request = self._client.build_request(
                request.method if keep else "GET", target, content=request.content if keep else None,
                headers={"Content-Type": request.headers["Content-Type"]} if keep and "Content-Type" in request.headers else None,
            )  # fmt: skip
        raise SourceError(f"{self._title} redirects in circles at {request.url.path}.", fix="Check the base_url.")

    def _take_turn(self) -> None:
        """Raises TransientError when others have so many turns before us that a worker should not sit and wait."""
        patience = self._runtime.max_wait_seconds
        pause = self._budget.wait(self._runtime.now().timestamp(), patience)
        if pause > patience:
            raise LimitError(
                f"The request budget of {self._title} is used up for {pause:.0f} s.",
                fix="Its limit is shared by all syncs of the connection; the stream is tried again later.",
                retry_after=pause,
            )
        if pause > 0:
            self._runtime.sleep(pause)

    def _request(self, call: Call) -> httpx.Request:
        url = self.same_host(self.base.join(call.url if "://" in call.url else call.url.lstrip("/")))
        if call.params:
            url = url.copy_with(params=httpx.QueryParams([*url.params.multi_items(), *call.params]))
        body: dict[str, Any] = {} if call.body is None else {"data" if call.form else "json": call.body}
        return self._client.build_request(call.method, url, headers=dict(call.headers), **body)

    def same_host(self, url: httpx.URL) -> httpx.URL:
        """``url`` if it is on our host. Raises SourceError otherwise; plain http on our https host is lifted to https."""
        if (
            url.scheme == "http"
            and self.base.scheme == "https"
            and url.host == self.base.host
            and url.port in (None, 80)
        ):
            url = url.copy_with(scheme="https", port=self.base.port)
        if (url.scheme, url.host, url.port) != (self.base.scheme, self.base.host, self.base.port):
            raise SourceError(
                f"{self._title} sent us on to another host, {url.host}.",
                fix="Credentials are not sent there; set base_url to that host if it is the right one.",
            )
        return url

    def _send(self, request: httpx.Request) -> httpx.Response:
        it = self._runtime
        return self._reaching(
            request.url,
            lambda: whole(
                self._client.send(request, stream=True), Bounds(self._title, it.max_answer_bytes, it.max_answer_seconds)
            ),
        )

    def _reaching(self, url: httpx.URL, attempted: Callable[[], T]) -> T:
        try:
            return attempted()
        except httpx.TransportError as error:
            raise TransientError(
                f"{self._title} could not be reached at {url.host} ({type(error).__name__}).",
                fix="Check the address and the network.",
            ) from None
        except httpx.DecodingError:
            raise SourceError(f"{self._title} sent a broken compressed answer to {url.path}.") from None

    def _judge(self, response: httpx.Response, rules: Sequence[Rule]) -> Answer:
        """A usable answer, or the right error."""
        where = (
            f"{self._title} answered {response.status_code} to {response.request.method} {response.request.url.path}."
        )
        rule = next((r for r in (*rules, *self._rules) if r.matches(response)), None)
        action = rule.action if rule else self._usual(response)
        fix = (rule.message if rule else "") or None
        if action is Action.IGNORE:
            return Answer(response.url, response.headers, b"", ignored=True)
        if action is Action.AUTH:
            raise AuthError(where, fix=fix or "Check the credentials and their permissions.")
        if action is Action.CONFIG:
            raise ConfigError(where, fix=fix or "Check the settings.")
        if action is Action.RETRY:
            raise self._later(response, rule, where)
        if action is Action.FAIL:
            raise SourceError(where, fix=fix or "Check path and parameters of the stream.")
        return Answer(response.url, response.headers, self._content(response, where))

    def _later(self, response: httpx.Response, rule: Rule | None, where: str) -> TransientError:
        limited = response.status_code == 429 or (rule.quota if rule else response.status_code == 403)
        asked = self._asked_to_wait(response)
        wait = rule.wait_seconds if asked is None and rule else asked
        if wait is not None and self._runtime.ledger is not None:
            self._budget.hold(wait)
        fix = (rule.message if rule else "") or (_SLOW_DOWN if limited else _TROUBLE)
        return (LimitError if limited else TransientError)(where, fix=fix, retry_after=wait)

    def _usual(self, response: httpx.Response) -> Action | None:
        status = response.status_code
        if status in BUSY or (status == 403 and self._is_rate_limited(response)):
            return Action.RETRY
        if status in (401, 403, 407):
            return Action.AUTH
        return None if response.is_success else Action.FAIL

    @staticmethod
    def _is_rate_limited(response: httpx.Response) -> bool:
        """GitHub and others answer 403, not 429, when a budget is used up."""
        return "retry-after" in response.headers or is_used_up(response.headers)

    def _asked_to_wait(self, response: httpx.Response) -> float | None:
        """Seconds the source wants us to wait: ``Retry-After`` in seconds or as a date, else a reset header."""
        now = self._runtime.now()
        if (after := response.headers.get("retry-after")) is not None and (
            seconds := _retry_after(after, now)
        ) is not None:
            return seconds
        if response.status_code not in (403, 429):
            return None
        return reset_seconds(response.headers, now.timestamp())

    def _content(self, response: httpx.Response, where: str) -> bytes:
        """The body as UTF-8. Raises AuthError for a login page where data should be."""
        content = response.content
        if content[:2] == b"\x1f\x8b":  # compressed, and the header forgot to say so
            content = _unzipped(content, where)
        kind = response.headers.get("content-type", "").lower()
        if "html" in kind or content.lstrip()[:9].lower() in (b"<!doctype", b"<html>"):
            raise AuthError(
                f"{where} It is a web page, not data.",
                fix="Often that is a login page: check base_url and credentials.",
            )
        charset = response.charset_encoding
        if charset and charset.lower() not in ("utf-8", "utf8", "us-ascii", "ascii") and _is_known(charset):
            content = content.decode(charset, "replace").encode()
        return content


def _base(text: str, title: str) -> httpx.URL:
    try:
        return httpx.URL(text if text.endswith("/") else text + "/")
    except httpx.InvalidURL:
        raise ConfigError(f"The address of {title} is no URL.", fix="Correct it, such as https://host/path.") from None


def _looks_like_json(content: bytes) -> bool:
    ends = content[:64].lstrip()[:1] + content[-64:].rstrip()[-1:]
    return ends in (b"{}", b"[]")


def _is_known(charset: str) -> bool:
    try:
        codecs.lookup(charset)
    except LookupError:
        return False
    return True


def _unzipped(content: bytes, where: str) -> bytes:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError):
        raise SourceError(f"{where} Its compressed body is broken.") from None


def _retry_after(text: str, now: datetime) -> float | None:
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        until = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - now).total_seconds())
