"""Ways to prove who we are, as `httpx.Auth` generators: they yield requests and look at answers, and do no I/O themselves.

Secrets are opened in the line that uses them. A token is fetched on first use, kept while it lasts, and fetched anew once when the
source answers 401. Instances are safe to share between threads.
"""

import base64
import json
import threading
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import parse_qsl

import httpx
from pydantic import SecretStr

from elt_dagster.errors import AuthError, ConfigError, TransientError
from elt_dagster.sdk.bounded import read_token
from elt_dagster.sdk.tokens import Token

EARLY = 60.0
"""Seconds before its end at which a token is replaced."""
Flow = Generator[httpx.Request, httpx.Response, None]
_REMEDIES = {
    "invalid_grant": "The permission is used up, withdrawn or expired: authorise the connection again.",
    "invalid_client": "Check the client id and its secret.",
    "invalid_client_id": "Check the client id.",
    "unauthorized_client": "Allow this kind of grant for the client, or choose another.",
    "unsupported_grant_type": "Allow this kind of grant for the client, or choose another.",
    "invalid_scope": "Ask for scopes that the client may have.",
}
"""What to do about the error codes of RFC 6749 and of those who have more; other codes are not shown, for anything may be in them."""


def utc_seconds() -> float:
    """Seconds since 1970."""
    return datetime.now(UTC).timestamp()


class NoAuth(httpx.Auth):
    """Nothing is added."""


class Bearer(httpx.Auth):
    """``Authorization: Bearer ...``; ``scheme`` is the word in front (``Token``, ``token``, ``Zoho-oauthtoken``)."""

    def __init__(self, token: SecretStr, scheme: str = "Bearer") -> None:
        self._token = token
        self._scheme = scheme

    def auth_flow(self, request: httpx.Request) -> Flow:
        """Add the header."""
        request.headers["Authorization"] = f"{self._scheme} {self._token.get_secret_value()}"
        yield request


class Basic(httpx.Auth):
    """HTTP basic: user name and password; an empty password is fine (API keys as user names)."""

    def __init__(self, username: str, password: SecretStr) -> None:
        self._username = username
        self._password = password

    def auth_flow(self, request: httpx.Request) -> Flow:
        """Add the header."""
        request.headers["Authorization"] = basic(self._username, self._password.get_secret_value())
        yield request


class ApiKey(httpx.Auth):
    """A key under ``name`` in a header, the query, a cookie, or the JSON body; ``prefix`` goes in front of it."""

    def __init__(
        self, name: str, key: SecretStr, into: Literal["header", "query", "cookie", "body"] = "header", prefix: str = ""
    ) -> None:
        self._name = name
        self._key = key
        self._into = into
        self._prefix = prefix

    def auth_flow(self, request: httpx.Request) -> Flow:
        """Put the key in its place."""
        yield self.placed(request, self._prefix + self._key.get_secret_value())

    def placed(self, request: httpx.Request, value: str) -> httpx.Request:
        """``request`` with ``value`` where the key goes."""
        if self._into == "header":
            request.headers[self._name] = value
        elif self._into == "query":
            request.url = request.url.copy_set_param(self._name, value)
        elif self._into == "cookie":
            others = [
                c for c in request.headers.get("Cookie", "").split("; ") if c and not c.startswith(self._name + "=")
            ]
            request.headers["Cookie"] = "; ".join([*others, f"{self._name}={value}"])
        else:
            return _with_body(request, {self._name: value})
        return request


class TokenAuth(httpx.Auth):
    """Base of everything that first asks for a token: fetch, keep, use, and fetch once more after a 401."""

    title = "The token endpoint"

    def __init__(self, clock: Callable[[], float] = utc_seconds) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._token: Token | None = None

    @abstractmethod
    def ask(self) -> httpx.Request:
        """The request for a token."""

    @abstractmethod
    def take(self, response: httpx.Response) -> tuple[str, float]:
        """The token in ``response`` and the seconds it lasts (infinity when it does not say)."""

    @abstractmethod
    def use(self, request: httpx.Request, token: str) -> httpx.Request:
        """``request`` with the token in it."""

    def auth_flow(self, request: httpx.Request) -> Flow:
        """Send ``request`` with a token. Raises AuthError when none is given, TransientError when the endpoint is busy."""
        used = yield from self._ready(None)
        response = yield self.use(request, used)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            read_token(response, "The source")  # as far as httpx, which reads what is followed by another request
            fresh = yield from self._ready(used)
            yield self.use(request, fresh)

    def sign_in(self, client: httpx.Client) -> Mapping[str, Any]:
        """What the endpoint said beside the token (such as where the API is), asking by ``client`` when there is no token yet.

        Raises as `auth_flow` does, and httpx.TransportError when the endpoint cannot be reached.
        """
        asking = self._ready(None)
        try:
            request = next(asking)
            while True:
                request = asking.send(client.send(request, auth=None, stream=True))
        except StopIteration:
            pass
        finally:
            asking.close()
        return self._token.said if self._token is not None else {}

    def _ready(self, refused: str | None) -> Generator[httpx.Request, httpx.Response, str]:
        """A token that is not ``refused``; whoever comes second finds the one the first has fetched."""
        with self._lock:
            if not self._is_good(self._token, refused):
                with self.exclusively():
                    known = next((t for t in self.fetched_by_others() if self._is_good(t, refused)), None)
                    if known is None:
                        response = read_token((yield self.ask()), self.title)
                        known = self._noted(self._accepted(response))
                    self._token = known
            assert self._token is not None  # noqa: S101 - for the type checkers
            return self._token.value

    def _is_good(self, token: Token | None, refused: str | None) -> bool:
        return token is not None and token.value != refused and self._clock() < token.until - EARLY

    def _noted(self, response: httpx.Response) -> Token:
        value, seconds = self.take(response)
        # a token that lives shorter than our margin is used for half its life
        return Token(value, self._clock() + max(seconds, EARLY + seconds / 2), self.said(response))

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Held while a token is asked for."""
        yield

    def fetched_by_others(self) -> Iterable[Token]:
        """Tokens that somebody else of this process got, maybe while we waited for our turn."""
        return ()

    def said(self, response: httpx.Response) -> Mapping[str, Any]:
        """What `sign_in` hands on."""
        return {}

    def _accepted(self, response: httpx.Response) -> httpx.Response:
        where = (
            f"{self.title} answered {response.status_code} to {response.request.method} {response.request.url.path}."
        )
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error:
            after = response.headers.get("Retry-After", "")
            raise TransientError(where, retry_after=float(after) if after.isdigit() else None)
        if not response.is_success:
            raise AuthError(where, fix=_remedy(response))
        return response


def _remedy(response: httpx.Response) -> str:
    try:
        code = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        code = ""
    usual = "Check the client, its secret and its permissions."
    return f"It says {code}. {_REMEDIES[code]}" if isinstance(code, str) and code in _REMEDIES else usual


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """How a session starts: what is sent where, and where its token is in the answer.

    ``secrets`` are added to ``body``, or to the query of a GET. ``token_at`` is a path into the answer, ``token_header`` a header or
    ``token_cookie`` a cookie of it. ``seconds`` is how long a session lasts, if the answer does not say at ``expires_at``.
    """

    url: str
    method: str = "POST"
    body: Mapping[str, Any] = field(default_factory=dict[str, Any])
    secrets: Mapping[str, SecretStr] = field(default_factory=dict[str, SecretStr])
    form: bool = False
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    token_at: str | None = "token"  # noqa: S105 - a path
    token_header: str | None = None
    token_cookie: str | None = None
    expires_at: str | None = None
    seconds: float = float("inf")


class SessionLogin(TokenAuth):
    """Logs in with a request of its own, then sends what it got as an API key (`ApiKey`), such as ``X-Session`` or a cookie."""

    title = "The login"

    def __init__(
        self,
        login: Login,
        *,
        name: str = "Authorization",
        into: Literal["header", "query", "cookie", "body"] = "header",
        prefix: str = "Bearer ",
        clock: Callable[[], float] = utc_seconds,
    ) -> None:
        super().__init__(clock)
        self._login = login
        self._prefix = prefix
        self._place = ApiKey(name, SecretStr(""), into)

    def ask(self) -> httpx.Request:
        """The login itself."""
        login = self._login
        data = dict(login.body) | {k: v.get_secret_value() for k, v in login.secrets.items()}
        if login.method == "GET":
            return httpx.Request("GET", login.url, params=data, headers=dict(login.headers))
        content: dict[str, Any] = {"data": data} if login.form else {"json": data}
        return httpx.Request(login.method, login.url, headers=dict(login.headers), **content)

    def take(self, response: httpx.Response) -> tuple[str, float]:
        """The session's token and life."""
        login = self._login
        if login.token_header or login.token_cookie:
            found = response.headers.get(login.token_header or "") or response.cookies.get(login.token_cookie or "")
            if not found:
                raise AuthError(
                    f"{self.title} was answered without a token.", fix="Check where the token is said to be."
                )
            return found, login.seconds
        answer = answer_object(response, self.title)
        seconds = seconds_of(dig(answer, login.expires_at)) if login.expires_at else login.seconds
        return token_of(answer, login.token_at or "", self.title), seconds

    def use(self, request: httpx.Request, token: str) -> httpx.Request:
        """Put the token where the source wants it."""
        return self._place.placed(request, self._prefix + token)


def basic(username: str, password: str) -> str:
    """The value of an ``Authorization`` header for user name and password."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def _with_body(request: httpx.Request, values: Mapping[str, str]) -> httpx.Request:
    """A copy of ``request`` whose JSON object or form also has ``values``."""
    headers = {
        k: v
        for k, v in request.headers.items()
        if k.lower() not in ("content-length", "content-type", "transfer-encoding")
    }
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        form = {**dict(parse_qsl(request.content.decode(), keep_blank_values=True)), **values}
        return httpx.Request(request.method, request.url, headers=headers, data=form, extensions=request.extensions)
    old = json.loads(request.content) if request.content else {}
    if not isinstance(old, dict):
        raise ConfigError(
            "A key can only be put into a body that is a JSON object.", fix="Put it into a header instead."
        )
    return httpx.Request(
        request.method, request.url, headers=headers, json={**old, **values}, extensions=request.extensions
    )


def answer_object(response: httpx.Response, title: str) -> dict[str, Any]:
    """The JSON object in ``response``. Raises AuthError when it is something else."""
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise AuthError(f"{title} did not answer with a JSON object.", fix="Check its address.")
    return answer


def dig(answer: Any, path: str) -> Any:
    """The value at a dotted path, None where it breaks off."""
    for key in path.split("."):
        answer = answer.get(key) if isinstance(answer, dict) else None
    return answer


def token_of(answer: dict[str, Any], path: str, title: str) -> str:
    """The token at ``path``. Raises AuthError when there is none."""
    token = dig(answer, path)
    if not isinstance(token, str) or not token:  # some answer 200 with an error inside
        raise AuthError(f"{title} answered without {path!r}.", fix="Check the credentials and the name of the field.")
    return token


def seconds_of(value: Any) -> float:
    """Seconds from now: a number, a number as text, or infinity when it is missing."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("inf")
