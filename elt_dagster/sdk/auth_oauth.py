"""OAuth 2: tokens by client credentials, refresh token or password, with refresh tokens that may be good for one use only (RFC 6749)."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from elt_dagster.errors import ConfigError
from elt_dagster.sdk.auth import TokenAuth, answer_object, basic, dig, seconds_of, token_of, utc_seconds
from elt_dagster.sdk.tokens import TOKENS, Token
from elt_dagster.sdk.vault import Drawer, Vault


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFields:
    """What a token endpoint calls things, in the request and in its answer; dotted paths reach into nested answers."""

    grant_type: str = "grant_type"
    client_id: str = "client_id"
    client_secret: str = "client_secret"  # noqa: S105 - the name of a field
    refresh_token: str = "refresh_token"  # noqa: S105 - the name of a field
    username: str = "username"
    password: str = "password"  # noqa: S105 - the name of a field
    scope: str = "scope"
    access_token: str = "access_token"  # noqa: S105 - the name of a field
    expires_in: str = "expires_in"


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuthClient:
    """An OAuth 2 client and how it asks for tokens.

    ``extra`` and ``headers`` are added to the token request (audience, account id). ``client_auth`` says where id and secret go:
    ``post`` in the form, ``basic`` in the header.
    """

    token_url: str
    client_id: str = ""
    client_secret: SecretStr | None = None
    scopes: tuple[str, ...] = ()
    client_auth: Literal["post", "basic"] = "post"
    body: Literal["form", "json", "query"] = "form"
    extra: Mapping[str, str] = field(default_factory=dict[str, str])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    fields: TokenFields = TokenFields()
    grant_type: str | None = None
    """Another word for the grant, where the source has its own."""


class OAuth2(TokenAuth):
    """OAuth 2: client credentials, refresh token or password, whichever ``grant`` says.

    Where refresh tokens are kept in a ``vault`` (under ``setting``), the one that is kept now is used, while nobody else may, and one that
    replaces it is kept before anything else happens. Otherwise ``on_rotated`` gets a refresh token that replaces ours.
    """

    def __init__(
        self,
        client: OAuthClient,
        grant: Literal["client_credentials", "refresh_token", "password"] = "client_credentials",
        *,
        refresh_token: SecretStr | None = None,
        username: str = "",
        password: SecretStr | None = None,
        on_rotated: Callable[[SecretStr], None] | None = None,
        vault: Vault | None = None,
        setting: str = "refresh_token",
        scheme: str = "Bearer",
        clock: Callable[[], float] = utc_seconds,
    ) -> None:
        super().__init__(clock)
        self._vault = vault if grant == "refresh_token" else None
        self._setting = setting
        self._drawer: Drawer | None = None
        self._unkept: tuple[str | None, SecretStr] | None = None
        self._client = client
        self._grant = grant
        self._first = self._refresh_token = refresh_token
        self._username = username
        self._password = password
        self._on_rotated = on_rotated
        self._scheme = scheme

    def ask(self) -> httpx.Request:
        """The token request: grant, client, scopes and extras, in the form, as JSON or in the query."""
        client, names = self._client, self._client.fields
        data = {names.grant_type: client.grant_type or self._grant, **self._proof()}
        headers = {"Accept": "application/json", **client.headers}
        secret = client.client_secret.get_secret_value() if client.client_secret else None
        if client.client_auth == "basic":
            headers["Authorization"] = basic(quote(client.client_id, safe=""), quote(secret or "", safe=""))
        else:
            data |= {k: v for k, v in ((names.client_id, client.client_id), (names.client_secret, secret)) if v}
        if client.scopes:
            data[names.scope] = " ".join(client.scopes)
        data |= client.extra
        return _token_request(client.token_url, client.body, data, headers)

    def take(self, response: httpx.Response) -> tuple[str, float]:
        """Token and life from the answer; a new refresh token is kept first."""
        names, answer = self._client.fields, answer_object(response, self.title)
        rotated = answer.get(names.refresh_token)
        spent = self._refresh_token.get_secret_value() if self._refresh_token else None
        if self._grant == "refresh_token" and isinstance(rotated, str) and rotated and rotated != spent:
            self._refresh_token = SecretStr(rotated)
            self._keep(self._refresh_token, spent)
        return token_of(answer, names.access_token, self.title), seconds_of(dig(answer, names.expires_in))

    def _keep(self, rotated: SecretStr, spent: str | None) -> None:
        if self._drawer is not None:
            self._unkept = (spent, rotated)
            self._drawer.keep(self._setting, rotated)
            self._unkept = None
        elif self._on_rotated:
            self._on_rotated(rotated)

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """With the vault, if there is one: what it holds now replaces what we were given, for another process may have spent that."""
        if self._vault is None:
            yield
            return
        with self._vault.exclusive() as drawer:
            self._refresh_token = self._current(drawer)
            self._drawer = drawer
            try:
                yield
            finally:
                self._drawer = None

    def _current(self, drawer: Drawer) -> SecretStr | None:
        """The refresh token that is good now: the vault's, unless we have spent that one and could not keep its successor."""
        kept, unkept = drawer.current(self._setting) or self._refresh_token, self._unkept
        if unkept is not None and kept is not None and kept.get_secret_value() == unkept[0]:
            drawer.keep(self._setting, unkept[1])
            kept = unkept[1]
        self._unkept = None
        return kept

    def fetched_by_others(self) -> Iterable[Token]:
        """The tokens of whoever left the refresh token that the vault holds, or began with the same one as we."""
        # the latter are good too: another process may have replaced what the vault holds since, which ends no session of ours
        secrets = (self._refresh_token, self._first) if self._vault is not None else ()
        return filter(None, (TOKENS.get(self._token_key(secret)) for secret in secrets))

    def _noted(self, response: httpx.Response) -> Token:
        token = super()._noted(response)
        if self._vault is not None:
            for secret in (self._first, self._refresh_token):
                TOKENS.put(self._token_key(secret), token)
        return token

    def _token_key(self, secret: SecretStr | None) -> tuple[str, str, str]:
        return self._client.token_url, self._client.client_id, secret.get_secret_value() if secret else ""

    def said(self, response: httpx.Response) -> Mapping[str, Any]:
        """The answer without its tokens."""
        names, answer = self._client.fields, answer_object(response, self.title)
        return {k: v for k, v in answer.items() if k not in (names.access_token, names.refresh_token, "id_token")}

    def use(self, request: httpx.Request, token: str) -> httpx.Request:
        """Add the header."""
        request.headers["Authorization"] = f"{self._scheme} {token}"
        return request

    def _proof(self) -> dict[str, str]:
        names = self._client.fields
        if self._grant == "refresh_token" and self._refresh_token:
            return {names.refresh_token: self._refresh_token.get_secret_value()}
        if self._grant == "password" and self._password:
            return {names.username: self._username, names.password: self._password.get_secret_value()}
        if self._grant == "client_credentials":
            return {}
        raise ConfigError(f"OAuth with the grant {self._grant} needs its {self._grant}.", fix="Add it to the settings.")


def _token_request(url: str, body: str, data: dict[str, str], headers: dict[str, str]) -> httpx.Request:
    if body == "query":
        return httpx.Request("POST", url, params=data, headers=headers)
    return httpx.Request("POST", url, headers=headers, **({"json": data} if body == "json" else {"data": data}))  # type: ignore[arg-type]
