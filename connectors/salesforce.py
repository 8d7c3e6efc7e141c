"""Salesforce: every object of an org, custom ones too, by REST queries or, where there is much to read, by the Bulk API 2.0.

What is odd about it, and what we do:
- Where the API is, only the token endpoint says (`instance_url`); the login host is another one. Client credentials need the My Domain host.
- A refresh token may be good for one use only; the next one is kept before the access token is used.
- Rows appear late: an index is brought up to date some time after a commit. Every incremental read begins `lookback_seconds` before the checkpoint.
- Deleted rows stay in the recycle bin for about 15 days and are read from there (`IsDeleted`). What is purged earlier is found by a full refresh.
- Formula fields change without touching `SystemModstamp`: an incremental read does not see that, a full refresh does.
- A request has to name its fields, and an address has a limit: objects with very many fields are read in shares and put together by `Id`.
- Bulk queries have no addresses and locations as such; these are made from their parts. Files (base64) and some objects they do not have at all.
- A bulk download that is cut short is gone on with by the next run. To discover takes one request per object: name the ones you want in `objects`.
- Requests are counted over 24 hours for the whole org. From 80 % on we slow down, at `max_quota_percent` we stop until later.
"""

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any, Literal

import httpx
from pydantic import Field, SecretStr, field_validator, model_validator

from elt_dagster.sdk import (
    SLOW_FROM,
    Action,
    AuthError,
    Batch,
    Call,
    Catalog,
    CheckResult,
    Config,
    ConfigError,
    Connector,
    Consent,
    Document,
    EltError,
    Endpoint,
    Http,
    JwtBearer,
    JwtClaims,
    NextUrl,
    NotFoundError,
    OAuth2,
    OAuthClient,
    Quota,
    ReadRequest,
    RestConnector,
    Rule,
    SourceError,
    Stream,
)

from ._salesforce_bulk import QUERY_RULES
from ._salesforce_objects import KEY, Described, can_be_read, described, offered
from ._salesforce_read import ObjectReader
from ._salesforce_soql import select

DESCRIBED_AT_ONCE = 8
_DAY_SECONDS = 86_400.0
_HOUR_SECONDS = 3_600.0
_USAGE = re.compile(r"(?<![\w-])api-usage=(\d+)/(\d+)")
_REFUSED = frozenset({400, 401, 403, 404, 500, 503})
_QUOTA = "The org's requests of 24 hours are used up. What was loaded stays, and the next run goes on from there."


class SalesforceConfig(Config):
    """An org, who we are in it, and how much of it is read in what way."""

    auth_type: Literal["refresh_token", "client_credentials", "jwt"] = "refresh_token"
    """How we sign in: refresh_token after a person's consent, client_credentials as the app's run-as user, jwt as `username` with a private key."""
    client_id: str = Field(min_length=1)
    """Consumer key of the external client app or connected app."""
    client_secret: SecretStr | None = None
    """Consumer secret of the app; not needed for jwt, nor for apps that ask for none."""
    refresh_token: SecretStr | None = None
    """For refresh_token: what the consent brought. One that the org replaces is kept in its place."""
    private_key: SecretStr | None = None
    """For jwt: the PEM private key whose certificate the app has."""
    username: str | None = None
    """For jwt: the user we act as."""
    domain: str | None = Field(default=None, pattern=r"^[A-Za-z0-9.-]+$")
    """The org's My Domain host, such as acme.my.salesforce.com; needed for client_credentials."""
    is_sandbox: bool = False
    """Sign in at test.salesforce.com, where no domain is given."""
    login_url: str | None = Field(default=None, pattern=r"^https?://[^\s/?#@]+/?$")
    """Another address to sign in at, such as a proxy; by default that of the domain, else Salesforce's own."""
    start_date: datetime | date | None = None
    """Rows changed before it are not read; empty reads everything."""
    api_version: str = Field(default="62.0", pattern=r"^\d{2,3}\.0$")
    """Version of the API."""
    api_type: Literal["auto", "rest", "bulk"] = "auto"
    """rest, bulk, or auto: bulk where there are more rows than bulk_from_rows to read. What bulk cannot do is read by rest."""
    bulk_from_rows: int = Field(default=20_000, ge=1)
    """For auto: from how many rows on a bulk job is worth its wait."""
    lookback_seconds: int = Field(default=600, ge=0)
    """Read again this far before the checkpoint: rows appear late."""
    objects: tuple[str, ...] = ()
    """Which objects to offer, by name or pattern, such as Account or *__c; empty offers all."""
    max_quota_percent: float = Field(default=90.0, gt=0, le=100)
    """Stop for the time being when this share of the org's daily requests is used, by whomever."""

    @field_validator("start_date")
    @classmethod
    def _as_moment(cls, value: datetime | date | None) -> datetime | date | None:
        return _moment(value)

    @model_validator(mode="after")
    def _complete(self) -> "SalesforceConfig":
        needed = {
            "refresh_token": ("refresh_token",),
            "client_credentials": ("client_secret",),
            "jwt": ("private_key", "username"),
        }[self.auth_type]
        for name in needed:
            if not getattr(self, name):
                raise ValueError(f"auth_type {self.auth_type} needs {name}")
        if self.auth_type == "client_credentials" and not (self.domain or self.login_url):
            raise ValueError("auth_type client_credentials needs the org's own domain, such as acme.my.salesforce.com")
        return self

    @property
    def login(self) -> str:
        """Where tokens come from, without a slash at its end."""
        return _login(self.login_url, self.domain, self.is_sandbox)


class SalesforceSettings(Config):
    """What one sync wants of the org."""

    start_date: datetime | date | None = None
    """Rows changed before it are not read by this sync; empty leaves that to the connection."""

    @field_validator("start_date")
    @classmethod
    def _as_moment(cls, value: datetime | date | None) -> datetime | date | None:
        return _moment(value)


def _moment(value: datetime | date | None) -> datetime | None:
    """A day begins at midnight, and a time without a zone is taken as UTC."""
    if value is None or isinstance(value, datetime):
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)
    return datetime(value.year, value.month, value.day, tzinfo=UTC)


def _login(login_url: str | None, domain: str | None, is_sandbox: bool) -> str:
    usual = domain or ("test.salesforce.com" if is_sandbox else "login.salesforce.com")
    return (login_url or f"https://{usual}").rstrip("/")


class Salesforce(RestConnector[SalesforceConfig]):
    """Objects of a Salesforce org, standard and custom, complete or by their modification time, deletes included."""

    name = "salesforce"
    title = "Salesforce"
    docs_url = "https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/intro_rest.htm"
    settings_type = SalesforceSettings
    pagination = NextUrl(at="nextRecordsUrl")
    records_at = "records"
    rules = (
        Rule(action=Action.RETRY, status=frozenset({406, 420})),
        Rule(
            action=Action.RETRY, status=_REFUSED, wait_seconds=30.0, body_matches="(?s)REQUEST_LIMIT_EXCEEDED.*Concurrent|Concurrent.*REQUEST_LIMIT_EXCEEDED",
            message="Too many long queries run in the org at the same time: let fewer runs ask it at a time.",
        ),
        Rule(
            action=Action.RETRY, status=_REFUSED, body_matches='REQUEST_LIMIT_EXCEEDED|"LIMIT_EXCEEDED"', quota=True,
            wait_seconds=_HOUR_SECONDS, message=_QUOTA,
        ),
        Rule(
            # the same locator will not come back, but another run goes on from what was saved on the way
            action=Action.RETRY, status=_REFUSED, body_contains="INVALID_QUERY_LOCATOR", wait_seconds=90.0,
            message="The query had been open for too long; the next run goes on from what was loaded.",
        ),
        Rule(action=Action.RETRY, status=_REFUSED, body_matches="SERVER_UNAVAILABLE|QUERY_TIMEOUT|UNABLE_TO_LOCK_ROW"),
        Rule(
            action=Action.CONFIG, status=_REFUSED, body_matches="INVALID_FIELD|INVALID_TYPE|MALFORMED_QUERY",
            message="An object or field is gone, cannot be queried, or is hidden from the user: discover again and check the user's permissions.",
        ),
        Rule(
            action=Action.CONFIG, status=_REFUSED, body_matches="API_DISABLED_FOR_ORG|API_CURRENTLY_DISABLED",
            message="The org's edition or the user's profile has no API access: enable it.",
        ),
        Rule(
            action=Action.CONFIG, status=_REFUSED, body_matches="INSUFFICIENT_ACCESS|TXN_SECURITY_METERING_ERROR",
            message="The user may not read this: give it the permission, or leave the stream out.",
        ),
    )  # fmt: skip

    def start(self, settings: Mapping[str, Any]) -> datetime | date | None:
        """Where the first read of a sync begins: its own start date, else the connection's."""
        return SalesforceSettings.model_validate(dict(settings)).start_date or self.config.start_date

    @classmethod
    def consent(cls, settings: Mapping[str, Any]) -> Consent:
        """Salesforce's own consent page, of the org's domain where that is known."""
        login = _login(settings.get("login_url"), settings.get("domain"), bool(settings.get("is_sandbox")))
        return Consent(
            authorize_url=f"{login}/services/oauth2/authorize",
            token_url=f"{login}/services/oauth2/token",
            scopes=("api", "refresh_token", "offline_access"),
            settings={"auth_type": "refresh_token"},
            ask=("is_sandbox", "domain"),
            hosts=("login.salesforce.com", "test.salesforce.com", "*.my.salesforce.com"),
        )

    # -- how it is reached ---------------------------------------------------------------------------------------------

    def auth(self) -> httpx.Auth:
        """A bearer token by the configured grant; without an end known ahead, so it is fetched anew when it is refused."""
        config, token_url = self.config, f"{self.config.login}/services/oauth2/token"
        if config.auth_type == "jwt":
            audience = f"https://{'test' if config.is_sandbox else 'login'}.salesforce.com"
            claims = JwtClaims(issuer=config.client_id, subject=config.username or "", audience=audience, seconds=180)
            key = config.private_key or SecretStr("")
            return JwtBearer(key, claims, token_url=token_url, clock=self._clock)
        client = OAuthClient(token_url=token_url, client_id=config.client_id, client_secret=config.client_secret)
        return OAuth2(
            client, config.auth_type, refresh_token=config.refresh_token, on_rotated=self._rotated,
            vault=self.runtime.vault, clock=self._clock,
        )  # fmt: skip

    def url(self) -> str:
        """The instance that the token is for. Raises AuthError when the token endpoint names none."""
        said = self.signed_in(self.config.login).get("instance_url")
        if not isinstance(said, str) or not re.fullmatch(r"https?://[^\s/?#@]+/?", said):
            raise AuthError(
                "The token endpoint of Salesforce did not say where the org's API is (instance_url).",
                fix="Check domain or login_url.",
            )
        if said.startswith("http:") and not self.config.login.startswith("http:"):
            raise AuthError("Salesforce wants its API asked without encryption.", fix="Check domain or login_url.")
        return said

    def quota(self, headers: Mapping[str, str]) -> Quota | None:
        """The org's daily requests and what of them is left for us, from ``Sforce-Limit-Info``; what stands beside it there is about other limits."""
        found = _USAGE.search(headers.get("sforce-limit-info", ""))
        if found is None:
            return None
        used, total = int(found[1]), int(found[2])
        allowed = total * self.config.max_quota_percent / 100
        # a share of ours that ends before we would slow down is slowed down to in the same way
        slow_from = SLOW_FROM * (total if allowed > SLOW_FROM * total else allowed)
        return Quota(total, (allowed if used >= slow_from else total) - used, _DAY_SECONDS)

    @property
    def data(self) -> str:
        """Path of the API in the configured version."""
        return f"services/data/v{self.config.api_version}"

    def _clock(self) -> float:
        return self.runtime.now().timestamp()

    def _rotated(self, secret: SecretStr) -> None:
        if self.on_secret_rotated:
            self.on_secret_rotated("refresh_token", secret)

    # -- what a connector does -----------------------------------------------------------------------------------------

    def check(self) -> CheckResult:
        """One request to the root of the API."""
        try:
            with self.http() as http:
                answer = http.fetch(Call(url=f"{self.data}/"))
        except EltError as error:
            return CheckResult(False, str(error))
        usage = _USAGE.search(answer.headers.get("sforce-limit-info", ""))
        told = f" {usage[1]} of {usage[2]} requests of the last 24 hours are used." if usage else ""
        return CheckResult(True, f"{answer.url.host} answered.{told}")

    def discover(self, settings: Mapping[str, Any] | None = None) -> Catalog:
        """Every object that can be queried and is wanted, sorted by name, with its columns as ``describe`` tells them.

        An object that cannot be described is left out with a warning. Raises ConfigError when nothing is there that is wanted.
        """
        with self.http() as http:
            everything = self._document(http, f"{self.data}/sobjects").at("sobjects") or []
            names = offered(everything, self.config.objects)
            if not names:
                raise ConfigError(
                    f"The org has no queryable object named {' or '.join(self.config.objects) or 'at all'}.",
                    fix="Correct objects, or give the user permission to read some.",
                )
            with ThreadPoolExecutor(DESCRIBED_AT_ONCE, thread_name_prefix="elt-describe") as pool:
                try:
                    found = list(pool.map(lambda name: self._stream_of(http, name), names))
                except EltError:
                    pool.shutdown(cancel_futures=True)
                    raise
        there = {s.name for s in found if s is not None}
        return Catalog(
            tuple(replace(s, depends_on=tuple(d for d in s.depends_on if d in there)) for s in found if s is not None)
        )

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        """Batches of one object as it is now: fields that are new come last, fields that are gone are left out."""
        with self.http() as http:
            found = self.described(http, request.stream.name)
            yield from ObjectReader(self, http, found).read(request)

    def endpoint(self, name: str) -> Endpoint:
        """The ids of an object, for those that are asked for by them."""
        call = Call(url=f"{self.data}/query", params=(("q", select(name, [KEY])),))
        return Endpoint(name=name, path=call.url, ask=lambda _: call, rules=QUERY_RULES)

    def described(self, http: Http, name: str) -> Described:
        """The object called ``name`` as it is now. Raises NotFoundError when there is none, or none that can be read."""
        gone = Rule(action=Action.IGNORE, status=frozenset({404}))
        if can_be_read(name):
            answer = http.fetch(Call(url=f"{self.data}/sobjects/{name}/describe"), (gone, *QUERY_RULES))
            found = None if answer.ignored else Document(answer.content, where=self.title).at("")
            if isinstance(found, dict) and found.get("queryable", True):
                return described(found)
        raise NotFoundError(
            f"The org has no object {name!r} that can be read.", fix="Discover again, or check the user's permissions."
        )

    def _stream_of(self, http: Http, name: str) -> Stream | None:
        try:
            found = self.described(http, name)
        except (AuthError, ConfigError, SourceError) as error:
            self.runtime.log.warning("The object %s is left out: %s", name, error)
            return None
        return found.stream() if KEY in found.fields else None

    def _document(self, http: Http, path: str) -> Document:
        return Document(http.fetch(Call(url=path), QUERY_RULES).content, where=self.title)


connector: type[Connector[Any]] = Salesforce
