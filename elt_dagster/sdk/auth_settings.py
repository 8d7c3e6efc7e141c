"""Authentication as settings: what a user writes to say how requests are signed, for every connector that leaves the choice open."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import httpx
from pydantic import Field, SecretStr, field_validator, model_validator

from elt_dagster.errors import nearest
from elt_dagster.sdk.auth import ApiKey, Basic, Bearer, Login, SessionLogin
from elt_dagster.sdk.auth_oauth import OAuth2, OAuthClient, TokenFields
from elt_dagster.sdk.auth_signed import JwtBearer, JwtClaims, SigV4
from elt_dagster.sdk.connector import Config
from elt_dagster.sdk.vault import Vault

Place = Literal["header", "query", "cookie", "body"]
Rotated = Callable[[SecretStr], None]


class NoneAuth(Config):
    """No authentication."""

    type: Literal["none"] = "none"
    """Nothing is sent."""

    def build(self, rotated: Rotated, vault: Vault | None = None) -> httpx.Auth | None:
        """Nothing."""
        return None


class BearerAuth(Config):
    """A token in the Authorization header."""

    type: Literal["bearer"]
    """A fixed token."""
    token: SecretStr
    """The token, without the word in front of it."""
    scheme: str = "Bearer"
    """The word in front of the token, where it is not Bearer."""

    def build(self, rotated: Rotated, vault: Vault | None = None) -> httpx.Auth:
        """The header."""
        return Bearer(self.token, self.scheme)


class ApiKeyAuth(Config):
    """A key in a header, the query, a cookie or the JSON body."""

    type: Literal["api_key"]
    """A fixed key under a name of the source's choosing."""
    api_key: SecretStr
    """The key."""
    name: str = "X-Api-Key"
    """Name of the header, parameter, cookie or field."""
    into: Place = "header"
    """Where the key is sent; prefer the header, queries end up in other people's logs."""
    prefix: str = ""
    """Text in front of the key, such as "Token "."""

    def build(self, rotated: Rotated, vault: Vault | None = None) -> httpx.Auth:
        """The key in its place."""
        return ApiKey(self.name, self.api_key, self.into, self.prefix)


class BasicAuth(Config):
    """User name and password."""

    type: Literal["basic"]
    """HTTP basic authentication."""
    username: str
    """User name; some sources take an API key here."""
    password: SecretStr = SecretStr("")
    """Password; empty where the key is the user name."""

    def build(self, rotated: Rotated, vault: Vault | None = None) -> httpx.Auth:
        """The header."""
        return Basic(self.username, self.password)


class OAuth2Auth(Config):
    """OAuth 2 with client credentials, a refresh token or a password."""

    type: Literal["oauth2"]
    """A token fetched from a token endpoint and renewed by itself."""
    grant: Literal["client_credentials", "refresh_token", "password"] = "client_credentials"
    """How the token is obtained."""
    token_url: str
    """Address of the token endpoint."""
    client_id: str = ""
    """Id of the client."""
    client_secret: SecretStr | None = None
    """Secret of the client, if it has one."""
    client_auth: Literal["post", "basic"] = "post"
    """Whether id and secret are sent in the form (post) or in the header (basic)."""
    refresh_token: SecretStr | None = None
    """The refresh token, for that grant. One that the source replaces is handed back to be stored."""
    username: str = ""
    """User name, for the grant password."""
    password: SecretStr | None = None
    """Password, for the grant password."""
    scopes: tuple[str, ...] = ()
    """Scopes to ask for."""
    body: Literal["form", "json", "query"] = "form"
    """How the token request is written."""
    extra: dict[str, str] = {}
    """Further fields of the token request, such as audience or account_id."""
    headers: dict[str, str] = {}
    """Further headers of the token request."""
    fields: dict[str, str] = {}
    """Names of the source's own for grant_type, client_id, client_secret, refresh_token, username, password, scope (sent) and
    access_token, expires_in (answered; dots reach into nested answers)."""
    grant_type: str | None = None
    """Another word for the grant, where the source has its own."""
    scheme: str = "Bearer"
    """The word in front of the token, where it is not Bearer."""

    @field_validator("fields")
    @classmethod
    def _known_fields(cls, value: dict[str, str]) -> dict[str, str]:
        known = list(TokenFields.__dataclass_fields__)
        for name in value:
            if name not in known:
                raise ValueError(f"{name!r} is not a field. {nearest(name, known)}")
        return value

    @model_validator(mode="after")
    def _complete(self) -> "OAuth2Auth":
        needed = {"refresh_token": self.refresh_token, "password": self.password}.get(self.grant, True)
        if needed is None:
            raise ValueError(f"the grant {self.grant} needs {self.grant}")
        return self

    def build(self, rotated: Rotated, vault: Vault | None = None) -> httpx.Auth:
        """The token machinery."""
        client = OAuthClient(
            token_url=self.token_url, client_id=self.client_id, client_secret=self.client_secret, scopes=self.scopes,
            client_auth=self.client_auth, body=self.body, extra=self.extra, headers=self.headers,
            fields=TokenFields(**self.fields), grant_type=self.grant_type,
        )  # fmt: skip
        return OAuth2(
            client, self.grant, refresh_token=self.refresh_token, username=self.username, password=self.password,
            on_rotated=rotated, vault=vault, setting="auth.refresh_token", scheme=self.scheme,
        )  # fmt: skip


class JwtAuth(Config):
    """A JSON web token signed with a key of ours."""

    type: Literal["jwt_bearer"]
    """Signed here; exchanged for an access token when there is a token_url."""
    private_key: SecretStr
    """PEM private key for RS and ES algorithms, shared secret for HS."""
    algorithm: Literal["RS256", "RS384", "RS512", "ES256", "HS256", "HS384", "HS512"] = "RS256"
    """How it is signed."""
    key_is_base64: bool = False
    """Whether a shared secret is given in base64."""
    token_url: str | None = None
    """Where it is exchanged for an access token; without one it is sent itself."""
    issuer: str = ""
    """The claim iss."""
    subject: str = ""
    """The claim sub."""
    audience: str = ""
    """The claim aud."""
    scope: str = ""
    """The claim scope."""
    lifetime_seconds: int = 600
    """How long it is valid."""
    claims: dict[str, Any] = {}
    """Further claims."""
    headers: dict[str, str] = {}
    """Further fields of the token's header, such as kid."""

    def build(self, rotated: Rotated, vault: Vault | None = None) -> httpx.Auth:
        """The signing machinery."""
        claims = JwtClaims(
            issuer=self.issuer, subject=self.subject, audience=self.audience, scope=self.scope,
            seconds=self.lifetime_seconds, extra=self.claims, headers=self.headers,
        )  # fmt: skip
        return JwtBearer(
            self.private_key,
            claims,
            algorithm=self.algorithm,
            key_is_base64=self.key_is_base64,
            token_url=self.token_url,
        )


class SessionAuth(Config):
    """A login request that answers with a session token."""

    type: Literal["session_login"]
    """Log in first, then send the token that came back."""
    login_url: str
    """Where to log in; a full address."""
    method: Literal["POST", "GET", "PUT"] = "POST"
    """How the login is sent."""
    login_body: dict[str, Any] = {}
    """What is sent and is not secret, such as the user name."""
    login_secrets: dict[str, SecretStr] = {}
    """What is sent and is secret, such as the password."""
    login_form: bool = False
    """Send a form instead of JSON."""
    login_headers: dict[str, str] = {}
    """Headers of the login."""
    answer_at: str | None = "token"
    """Path to the token in the answer."""
    answer_header: str | None = None
    """Header of the answer with the token, instead of the path."""
    answer_cookie: str | None = None
    """Cookie of the answer with the token, instead of the path."""
    expires_in_at: str | None = None
    """Path to the seconds the session lasts."""
    lifetime_seconds: float | None = None
    """How long a session lasts, if the answer does not say; without it, until the source refuses it."""
    name: str = "Authorization"
    """Name under which the token is sent."""
    into: Place = "header"
    """Where the token is sent."""
    prefix: str = "Bearer "
    """Text in front of the token."""

    def build(self, rotated: Rotated, vault: Vault | None = None) -> httpx.Auth:
        """The login machinery."""
        login = Login(
            url=self.login_url, method=self.method, body=self.login_body, secrets=self.login_secrets, form=self.login_form,
            headers=self.login_headers, token_at=self.answer_at, token_header=self.answer_header,
            token_cookie=self.answer_cookie, expires_at=self.expires_in_at,
            seconds=float("inf") if self.lifetime_seconds is None else self.lifetime_seconds,
        )  # fmt: skip
        return SessionLogin(login, name=self.name, into=self.into, prefix=self.prefix)


class SigV4Auth(Config):
    """AWS signatures."""

    type: Literal["sigv4"]
    """Every request is signed for AWS."""
    access_key_id: str
    """Id of the access key."""
    secret_access_key: SecretStr
    """The access key's secret."""
    session_token: SecretStr | None = None
    """Token of a temporary key."""
    region: str
    """Such as eu-west-1."""
    service: str = "execute-api"
    """Such as execute-api for an API gateway."""

    def build(self, rotated: Rotated, vault: Vault | None = None) -> httpx.Auth:
        """The signing machinery."""
        return SigV4(
            self.access_key_id,
            self.secret_access_key,
            region=self.region,
            service=self.service,
            session_token=self.session_token,
        )


AuthSettings = Annotated[
    NoneAuth | BearerAuth | ApiKeyAuth | BasicAuth | OAuth2Auth | JwtAuth | SessionAuth | SigV4Auth,
    Field(discriminator="type"),
]
