"""REST connectors: a list of endpoints, an auth, a pagination; the rest is here.

A subclass names its `Endpoint` objects; page bytes become Arrow in `elt_dagster.sdk.json`, requests are sent by `elt_dagster.sdk.http`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import httpx
import pyarrow as pa
from pydantic import SecretStr

from elt_dagster.errors import AuthError, ConfigError, EltError, NotFoundError, SourceError, nearest
from elt_dagster.model import Batch, Catalog, CheckResult, ReadRequest, Stream
from elt_dagster.model.types import is_orderable, type_name
from elt_dagster.sdk.auth import TokenAuth
from elt_dagster.sdk.budget import Budget, LocalLedger, Quota
from elt_dagster.sdk.connector import C, Connector
from elt_dagster.sdk.endpoint import Endpoint
from elt_dagster.sdk.http import Http, Rule
from elt_dagster.sdk.pages import Pagination, SinglePage
from elt_dagster.sdk.rest_read import StreamReader


class RestConnector(Connector[C]):
    """A connector that is mostly a table of endpoints."""

    base_url: ClassVar[str] = ""
    endpoints: ClassVar[Sequence[Endpoint]] = ()
    records_at: ClassVar[str] = ""
    pagination: ClassVar[Pagination] = SinglePage()
    rules: ClassVar[Sequence[Rule]] = ()
    on_secret_rotated: Callable[[str, SecretStr], None] | None = None
    """Called with the name of a setting and its new secret when the source replaced it (single-use refresh tokens)."""

    def url(self) -> str:
        """Where the API is; override it when it depends on the settings."""
        return self.base_url

    def all_endpoints(self) -> Sequence[Endpoint]:
        """The endpoints; override it when they depend on the settings."""
        return self.endpoints

    def default_pagination(self) -> Pagination:
        """How endpoints without one of their own go on; override it when it depends on the settings."""
        return self.pagination

    def auth(self) -> httpx.Auth | None:
        """How requests are signed. Called once per connector, so that a token is shared by everything it reads."""
        return None

    def headers(self) -> Mapping[str, str]:
        """Headers of every request."""
        return {}

    def all_rules(self) -> Sequence[Rule]:
        """What to do about unusual answers; the first match decides."""
        return self.rules

    def requests_per_second(self) -> float | None:
        """The request budget; None for as fast as the source answers."""
        return None

    def quota(self, headers: Mapping[str, str]) -> Quota | None:
        """What an answer's headers say of the vendor's limit, where they are not the usual ``X-RateLimit-*``."""
        return None

    def concurrency(self) -> int:
        """How many parents' children are asked for at the same time."""
        return 4

    def max_pages(self) -> int:
        """How many pages one list may have before we believe to be going round in circles."""
        return 1_000_000

    def timeout(self) -> float:
        """Seconds to wait for the source to go on sending."""
        return 60.0

    def verify(self) -> bool:
        """Whether the certificate of the source is checked."""
        return True

    def transform(self, endpoint: Endpoint, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A hook for whole batches; keep it vectorised."""
        return batch

    @cached_property
    def _auth(self) -> httpx.Auth | None:
        return self.auth()

    @cached_property
    def _budget(self) -> Budget:
        ledger = self.runtime.ledger if self.runtime.ledger is not None else LocalLedger()
        return Budget(self.requests_per_second(), ledger, self.quota)

    def signed_in(self, url: str) -> Mapping[str, Any]:
        """What came with the token from the host of ``url``, for sources that say only then where their API is; asks when there is no token yet."""
        if not isinstance(self._auth, TokenAuth):
            return {}
        with Http(url, title=self.title, runtime=self.runtime, budget=self._budget, timeout=self.timeout(),
                  verify=self.verify()) as http:  # fmt: skip
            return http.sign_in(self._auth)

    def http(self) -> Http:
        """A client with everything above, to be used as a context manager."""
        return Http(
            self.url(), title=self.title, runtime=self.runtime, auth=self._auth, headers=self.headers(),
            rules=self.all_rules(), budget=self._budget, timeout=self.timeout(), verify=self.verify(),
        )  # fmt: skip

    def endpoint(self, name: str) -> Endpoint:
        """The endpoint called ``name``. Raises NotFoundError with the nearest match."""
        found = next((e for e in self.all_endpoints() if e.name == name), None)
        if found is None:
            known = [e.name for e in self.all_endpoints()]
            raise NotFoundError(f"{self.title} has no stream {name!r}.", fix=nearest(name, known))
        return found

    def records_path(self, endpoint: Endpoint) -> str:
        """Where the records of ``endpoint`` are."""
        return self.records_at if endpoint.records_at is None else endpoint.records_at

    def check(self) -> CheckResult:
        """One request to the first endpoint without a parent."""
        try:
            first = next((e for e in self.all_endpoints() if e.parent is None), None)
            if first is None:
                return CheckResult(False, f"{self.title} has no stream that can be asked without a parent.")
            with self.http() as http:
                StreamReader(self, http, first).first_page()
        except EltError as error:
            return CheckResult(False, str(error))
        return CheckResult(True, f"{self.title} answered to {first.method} {first.path.partition('?')[0]}.")

    def discover(self, settings: Mapping[str, Any] | None = None) -> Catalog:
        """Streams in their declared order; where no schema is declared, types come from the first page.

        A stream that cannot be sampled is listed without schema, unless none can. Raises ConfigError for a cursor or key that is
        not there or cannot be ordered.
        """
        streams: list[Stream] = []
        failures: list[EltError] = []
        endpoints = self.all_endpoints()
        with self.http() as http:
            for endpoint in endpoints:
                try:
                    streams.append(self._stream(endpoint, self._sampled(http, endpoint)))
                except (AuthError, SourceError) as error:
                    failures.append(error)
                    streams.append(self._stream(endpoint, None))
        if failures and len(failures) == len(endpoints):
            raise failures[0]
        return Catalog(tuple(streams))

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        """Batches of a few megabytes, the first after one page."""
        endpoint = self.endpoint(request.stream.name)
        with self.http() as http:
            yield from StreamReader(self, http, endpoint).read(request)

    def _sampled(self, http: Http, endpoint: Endpoint) -> pa.Schema | None:
        return endpoint.schema if endpoint.schema is not None else StreamReader(self, http, endpoint).sample()

    def _stream(self, endpoint: Endpoint, schema: pa.Schema | None) -> Stream:
        cursor = endpoint.cursor.field if endpoint.cursor else None
        if schema is not None and len(schema):
            self._check_columns(endpoint, cursor, schema)
        return Stream(
            name=endpoint.name,
            schema=schema if schema is not None and len(schema) else None,
            primary_key=endpoint.primary_key,
            cursor_field=cursor,
            cursor_fields=(cursor,) if cursor else (),
            ordered=bool(endpoint.cursor and endpoint.cursor.order == "asc" and endpoint.parent is None),
            depends_on=(endpoint.parent.stream,) if endpoint.parent else (),
            description=endpoint.description,
        )

    def _check_columns(self, endpoint: Endpoint, cursor: str | None, schema: pa.Schema) -> None:
        for name in (*endpoint.primary_key, *((cursor,) if cursor else ())):
            if name not in schema.names:
                raise ConfigError(
                    f"The stream {endpoint.name!r} has no column {name!r}.", fix=nearest(name, list(schema.names))
                )
        if cursor and not (is_orderable(kind := schema.field(cursor).type) or pa.types.is_null(kind)):
            raise ConfigError(
                f"The cursor {cursor!r} of stream {endpoint.name!r} is {type_name(kind)}, which cannot be ordered.",
                fix="Choose a column with numbers, dates, times or text.",
            )
