"""Any JSON API over HTTP, described in settings: streams, authentication, pagination, cursors, parents.

The declaration is the same as `RestConnector` authors write in Python. What a page looks like is found out, not assumed: keys nobody
declared become columns, values that do not fit widen theirs.
"""

from collections.abc import Sequence
from typing import Any, Literal

import httpx
import pyarrow as pa
from pydantic import Field, SecretStr, field_validator, model_validator

from elt_dagster.sdk import (
    Action,
    AuthSettings,
    AutoPagination,
    Config,
    ConfigError,
    Connector,
    Cursor,
    CursorValue,
    Endpoint,
    Into,
    NoneAuth,
    Pagination,
    PaginationSettings,
    Parent,
    RestConnector,
    Rule,
    Runtime,
    nearest,
    parse_cursor,
    parse_path,
    parse_type,
)

Param = str | int | float | bool | list[str | int | float]


class CursorSettings(Config):
    """How a stream is read incrementally."""

    field: str
    """Column that only grows, such as updated_at."""
    param: str | None = None
    """Name under which the start is sent: records from there on, inclusive. Empty: the source cannot filter, it is done here."""
    end_param: str | None = None
    """Name under which the end of a window is sent."""
    inject_into: Into = Into.QUERY
    """Where start and end are sent; in a body the name is a path, in a path it is a placeholder."""
    format: str = "auto"
    """auto (ISO 8601), date, epoch, epoch_ms, or a strftime pattern such as %Y-%m-%d %H:%M:%S."""
    order: Literal["asc", "desc", "none"] = "none"
    """Order the source promises: asc allows to save on the way, desc to stop early."""
    client_filter: bool = False
    """Also drop older records here."""
    exclusive: bool = False
    """The source answers only with later values, not with equal ones."""
    lookback_seconds: int = Field(0, ge=0)
    """Read again this far back, for sources where records appear late."""
    start: str | int | None = None
    """Where the first read begins: an ISO date or time, or a number."""

    def build(self) -> Cursor:
        """As the sdk wants it."""
        return Cursor(
            field=self.field, start_param=self.param, end_param=self.end_param, into=self.inject_into, format=self.format,
            order=self.order, client_filter=self.client_filter, exclusive=self.exclusive,
            lookback_seconds=self.lookback_seconds, initial=_start(self.start),
        )  # fmt: skip


def _start(text: str | int | None) -> CursorValue | None:
    return parse_cursor(text) if isinstance(text, str) else text


class ParentSettings(Config):
    """Which stream's records tell where to ask."""

    stream: str
    """Name of the parent stream."""
    field: str = "id"
    """Field of the parent that is sent."""
    param: str | None = None
    """Name under which it is sent. Empty: the path has a placeholder such as {parent.id}."""
    inject_into: Into = Into.QUERY
    """Where it is sent, if it has a name."""
    include: dict[str, str] = {}
    """Columns to add from the parent: new name to field of the parent."""
    on_missing: Literal["ignore", "fail"] = "fail"
    """What it means when the source answers 404 or 410 for one parent; ignored ones are counted."""

    def build(self) -> Parent:
        """As the sdk wants it."""
        return Parent(
            stream=self.stream, field=self.field, param=self.param, into=self.inject_into, include=self.include,
            on_missing=self.on_missing,
        )  # fmt: skip


class ErrorRule(Config):
    """What to do about an answer the usual rules get wrong."""

    status: tuple[int, ...] = ()
    """Status codes it is about; empty is any, also 200."""
    body_contains: str | None = None
    """Text that must be in the answer."""
    body_matches: str | None = None
    """Regular expression that must match the answer."""
    action: Literal["retry", "ignore", "fail", "auth"]
    """retry later, ignore (a page without records), fail, or ask for other credentials (auth)."""
    message: str = ""
    """What to tell people when it fails."""

    @model_validator(mode="after")
    def _about_something(self) -> "ErrorRule":
        if not self.status and self.body_contains is None and self.body_matches is None:
            raise ValueError("set status, body_contains or body_matches")
        return self

    def build(self) -> Rule:
        """As the sdk wants it."""
        return Rule(
            action=Action(self.action), status=frozenset(self.status), body_contains=self.body_contains,
            body_matches=self.body_matches, message=self.message,
        )  # fmt: skip


class StreamSettings(Config):
    """One stream: where to ask and what comes back."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.\-]*$")
    """Name of the stream; its table is called after it."""
    path: str
    """Path below base_url; {parent.id} is filled from the parent."""
    method: Literal["GET", "POST", "PUT"] = "GET"
    """How it is asked."""
    params: dict[str, Param] = {}
    """Query parameters; a list repeats the name."""
    headers: dict[str, str] = {}
    """Headers of this stream only."""
    body: dict[str, Any] | None = None
    """JSON body to send."""
    form: bool = False
    """Send the body as a form."""
    records_at: str | None = None
    """Path to the records, such as data.items, edges[*].node, or rates.* for a dictionary of records. Empty: the whole answer."""
    key_as: str | None = None
    """Column for the keys of a dictionary of records."""
    format: Literal["json", "json_lines"] = "json"
    """One document, or one per line."""
    pagination: PaginationSettings | None = None
    """How to go on; empty takes the one for all streams."""
    primary_key: tuple[str, ...] = ()
    """Columns that name a record."""
    cursor: CursorSettings | None = None
    """How to read incrementally; empty reads everything each time."""
    parent: ParentSettings | None = None
    """Ask once per record of another stream."""
    columns: dict[str, str] = Field({}, alias="schema")
    """Declared column types, such as {id: int64, total: "decimal(12,2)"}; empty looks at the first page. Further columns are added."""
    errors: tuple[ErrorRule, ...] = ()
    """Rules for this stream, before those for all."""
    description: str = ""
    """What it holds; becomes the table's comment."""

    @field_validator("columns")
    @classmethod
    def _known_types(cls, value: dict[str, str]) -> dict[str, str]:
        for name, kind in value.items():
            try:
                parse_type(kind)
            except ConfigError as error:
                raise ValueError(f"column {name!r}: {error}") from None
        return value

    @field_validator("records_at")
    @classmethod
    def _is_path(cls, value: str | None) -> str | None:
        try:
            parse_path(value or "")
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value

    def build(self) -> Endpoint:
        """As the sdk wants it."""
        return Endpoint(
            name=self.name, path=self.path, method=self.method, params=tuple(_flat(self.params)), headers=self.headers,
            body=self.body, form=self.form, records_at=self.records_at or "", key_as=self.key_as,
            json_lines=self.format == "json_lines", pagination=self.pagination.build() if self.pagination else None,
            primary_key=self.primary_key, cursor=self.cursor.build() if self.cursor else None,
            parent=self.parent.build() if self.parent else None,
            schema=pa.schema([(n, parse_type(k)) for n, k in self.columns.items()]) if self.columns else None,
            rules=tuple(r.build() for r in self.errors), description=self.description,
        )  # fmt: skip


def _flat(params: dict[str, Param]) -> Sequence[tuple[str, str]]:
    return [(name, _text(v)) for name, value in params.items() for v in (value if isinstance(value, list) else [value])]


def _text(value: str | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class HttpApiConfig(Config):
    """A JSON API and its streams."""

    base_url: str = Field(pattern=r"^https?://[^\s?#]+$")
    """Address that all paths are relative to."""
    auth: AuthSettings = NoneAuth()
    """How requests are authenticated."""
    headers: dict[str, str] = {}
    """Headers of every request. Secrets belong in auth, or in secret_headers."""
    secret_headers: dict[str, SecretStr] = {}
    """Headers of every request whose values are secret."""
    pagination: PaginationSettings = AutoPagination()
    """How to go on from page to page, unless a stream has its own."""
    streams: tuple[StreamSettings, ...] = Field(min_length=1)
    """What can be read."""
    errors: tuple[ErrorRule, ...] = ()
    """Rules for unusual answers; the first that matches decides."""
    requests_per_second: float | None = Field(None, gt=0)
    """At most so many requests; empty for as fast as the source answers."""
    concurrency: int = Field(4, ge=1, le=32)
    """How many parents' records are asked for at the same time."""
    max_pages: int = Field(1_000_000, ge=1)
    """Give up on a list with more pages."""
    timeout_seconds: float = Field(60.0, gt=0)
    """How long the source may be silent."""
    verify_certificate: bool = True
    """Whether the certificate of the source is checked."""

    @model_validator(mode="after")
    def _parents_exist(self) -> "HttpApiConfig":
        names = [s.name for s in self.streams]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"there are two streams called {name!r}")
        parents = {s.name: s.parent.stream for s in self.streams if s.parent}
        for child, parent in parents.items():
            if parent not in names:
                raise ValueError(f"the parent {parent!r} of stream {child!r} does not exist. {nearest(parent, names)}")
            seen, above = {child}, parent
            while above in parents:
                if above in seen:
                    raise ValueError(f"the parents of stream {child!r} go round in circles")
                seen.add(above)
                above = parents[above]
        return self


class HttpApi(RestConnector[HttpApiConfig]):
    """Any JSON API: you describe its streams, authentication and pagination; everything else is found out."""

    name = "http_api"
    title = "HTTP API"
    docs_url = "https://www.rfc-editor.org/rfc/rfc9110"
    aliases = ("rest_api",)

    def __init__(self, config: HttpApiConfig, runtime: Runtime | None = None) -> None:
        super().__init__(config, runtime)
        self._endpoints = tuple(s.build() for s in config.streams)
        self._pagination = config.pagination.build()

    def url(self) -> str:
        """The configured address."""
        return self.config.base_url

    def all_endpoints(self) -> Sequence[Endpoint]:
        """The configured streams."""
        return self._endpoints

    def auth(self) -> httpx.Auth | None:
        """The configured authentication."""
        return self.config.auth.build(self._rotated, self.runtime.vault)

    def default_pagination(self) -> Pagination:
        """The configured pagination."""
        return self._pagination

    def headers(self) -> dict[str, str]:
        """The configured headers."""
        return self.config.headers | {k: v.get_secret_value() for k, v in self.config.secret_headers.items()}

    def all_rules(self) -> Sequence[Rule]:
        """The configured rules."""
        return tuple(r.build() for r in self.config.errors)

    def requests_per_second(self) -> float | None:
        """The configured budget."""
        return self.config.requests_per_second

    def concurrency(self) -> int:
        """The configured number."""
        return self.config.concurrency

    def max_pages(self) -> int:
        """The configured limit."""
        return self.config.max_pages

    def timeout(self) -> float:
        """The configured time."""
        return self.config.timeout_seconds

    def verify(self) -> bool:
        """As configured."""
        return self.config.verify_certificate

    def _rotated(self, secret: SecretStr) -> None:
        if self.on_secret_rotated:
            self.on_secret_rotated("auth.refresh_token", secret)


connector: type[Connector[Any]] = HttpApi
