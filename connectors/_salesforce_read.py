"""Reading one object: by REST or by a bulk job, whichever suits what is asked and how much there is of it."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from elt_dagster.sdk import (
    ESTIMATED_ROWS,
    Batch,
    Call,
    ConfigError,
    Cursor,
    Document,
    Endpoint,
    Http,
    JsonParser,
    Limits,
    Parent,
    ReadRequest,
    StreamReader,
    with_columns_of,
)

from ._salesforce_bulk import QUERY_RULES, BulkReader, Compounds, trimmed
from ._salesforce_objects import DELETED, DOCUMENTS, KEY, LINKS, Described, bulk_can_read
from ._salesforce_soql import fits_uri, ids_per_request, in_list, select, shares

if TYPE_CHECKING:
    from .salesforce import Salesforce

WIDE_BULK_FROM_ROWS = 2_000
"""An object that needs several requests for each few hundred rows is worth a job much earlier."""
DOCUMENTS_AT_ONCE = 200
_ATTRIBUTES = "attributes"
"""In every record of an answer: its type and address."""
_LINKED_BY = "ContentDocumentId"


@dataclass(slots=True)
class ObjectReader:
    """Reads ``found`` through ``http``; used once."""

    connector: "Salesforce"
    http: Http
    found: Described
    expected: int = 0
    """How many rows there are, as far as an answer has told and nobody was told yet."""

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        """Batches as `Connector.read` promises them."""
        with closing(self._batches(request)) as batches:
            for batch in batches:
                told = {ESTIMATED_ROWS: self.expected} if self.expected else {}
                self.expected = 0
                yield replace(batch, counts={**batch.counts, **told}) if told else batch

    def _batches(self, request: ReadRequest) -> Generator[Batch]:
        settled = self._settled(request)
        wanted = [c for c in settled.columns or () if c in self.found.fields]
        rest = self._by_rest(settled, wanted)
        # a preview does not wait for a job about the whole object
        if self.connector.config.api_type != "rest" and request.at_most is None and self._bulk_can(wanted):
            is_bulk = self.connector.config.api_type == "bulk" or self._is_much(rest, settled)
            if is_bulk and (yield from self._by_bulk(settled, wanted, rest.limits(settled)).read()):
                return
        with closing(rest.endpoint.complete) if isinstance(rest.endpoint.complete, OtherShares) else nullcontext():
            yield from trimmed(rest.read(self._narrowed(settled, rest)), settled)

    # -- what is asked for ---------------------------------------------------------------------------------------------

    def _settled(self, request: ReadRequest) -> ReadRequest:
        """``request`` about the object as it is now. Raises ConfigError when its key or cursor is no more."""
        fields, known = self.found.fields, request.stream.schema
        cursor = request.cursor_field or (next(iter(self.found.cursors), None) if request.window else None)
        for name in (KEY, *((cursor,) if cursor else ())):
            if name not in fields or (name == cursor and not fields[name].filterable):
                raise ConfigError(
                    f"The field {name!r} of {self.found.name} is gone, or cannot be filtered on any more.",
                    fix="Discover again and choose another cursor.",
                )
        asked = request.columns if request.columns is not None else tuple(known.names if known is not None else fields)
        new = [n for n in fields if known is not None and n not in known.names]
        types = {f.name: f for f in (known if known is not None else ())}
        schema = pa.schema([types.get(n) or f.column for n, f in fields.items()] + [pa.field(_ATTRIBUTES, pa.string())])
        return replace(
            request, stream=request.stream.with_schema(schema), cursor_field=cursor,
            columns=tuple(dict.fromkeys([*(n for n in asked if n in fields), *new])),
        )  # fmt: skip

    def _cursor(self, request: ReadRequest, *, ordered: bool) -> Cursor | None:
        if request.cursor_field is None:
            return None
        config = self.connector.config
        return Cursor(
            field=request.cursor_field, order="asc" if ordered else "none", initial=self.connector.start(request.settings),
            lookback_seconds=config.lookback_seconds,
        )  # fmt: skip

    @staticmethod
    def _keyed(request: ReadRequest, more: Sequence[str] = ()) -> ReadRequest:
        """``request`` with the columns that putting rows together takes."""
        return replace(request, columns=tuple(dict.fromkeys([*(request.columns or ()), KEY, *more])))

    def _narrowed(self, request: ReadRequest, rest: StreamReader) -> ReadRequest:
        """``request`` without the columns that `OtherShares` brings: to look for them in the first answers would cost more than to read these."""
        later = rest.endpoint.complete
        keyed, schema = self._keyed(request), request.stream.schema
        if not isinstance(later, OtherShares) or schema is None:
            return keyed
        first = pa.schema([f for f in schema if f.name not in later.names])
        columns = tuple(c for c in keyed.columns or () if c not in later.names)
        return replace(keyed, stream=request.stream.with_schema(first), columns=columns)

    # -- by REST -------------------------------------------------------------------------------------------------------

    def _by_rest(self, request: ReadRequest, wanted: Sequence[str]) -> StreamReader:
        name, cursor = self.found.name, request.cursor_field
        asked_first = [KEY, *([cursor] if cursor else []), *([DELETED] if DELETED in wanted else [])]
        needed = list(dict.fromkeys(asked_first))
        first, *others = self._shares(wanted, needed)
        by = _LINKED_BY if name == LINKS else None
        url = f"{self.connector.data}/{self._verb(wanted)}"

        def ask(limits: tuple[Any, Any]) -> Call:
            soql = select(name, first, cursor=cursor, start=limits[0], end=limits[1], by=by, ordered=name != LINKS)
            return Call(url=url, params=(("q", soql),))

        parent = Parent(stream=DOCUMENTS, field=KEY, together=DOCUMENTS_AT_ONCE, asked_by=_about) if by else None
        endpoint = Endpoint(
            name=name, path=url, ask=ask, parent=parent, cursor=self._cursor(request, ordered=True), rules=QUERY_RULES,
            complete=OtherShares(self.http, url, name, others, request.stream.schema) if others else None,
        )  # fmt: skip
        return StreamReader(self.connector, self.http, endpoint)

    def _shares(self, wanted: Sequence[str], needed: Sequence[str]) -> list[list[str]]:
        fields = list(dict.fromkeys([*needed, *wanted]))
        # a filter and an order come on top
        return (
            [fields]
            if fits_uri(select(self.found.name, fields) + " " * 200)
            else shares(self.found.name, fields, needed)
        )

    def _verb(self, wanted: Sequence[str]) -> str:
        # without the mark, rows from the recycle bin would pass for living ones
        return "queryAll" if DELETED in wanted else "query"

    # -- by a bulk job -------------------------------------------------------------------------------------------------

    def _bulk_can(self, wanted: Sequence[str]) -> bool:
        fields = [self.found.fields[n] for n in wanted]
        return bulk_can_read(self.found.name) and all(
            f.type != "base64" and (not f.is_compound or bool(self.found.parts_of(f.name))) for f in fields
        )

    def _is_much(self, rest: StreamReader, request: ReadRequest) -> bool:
        """Whether there are so many rows that a job is quicker, going by the first page of a REST query, which says how many there are."""
        page = rest.peek(self._keyed(request))
        rows = page.at("totalSize") if page is not None else 0
        most = self.connector.config.bulk_from_rows
        if isinstance(rows, int) and request.since is None and rest.endpoint.parent is None:
            self.expected = rows
        return isinstance(rows, int) and rows >= (min(most, WIDE_BULK_FROM_ROWS) if rest.endpoint.complete else most)

    def _by_bulk(self, request: ReadRequest, wanted: Sequence[str], limits: Limits) -> BulkReader:
        made = Compounds({n: self.found.parts_of(n) for n in wanted if self.found.fields[n].is_compound})
        cursor = [request.cursor_field] if request.cursor_field else []
        fields = list(dict.fromkeys([KEY, *(n for n in wanted if n not in made.of), *made.parts, *cursor]))
        soql = select(self.found.name, fields, cursor=request.cursor_field, start=limits[0], end=limits[1])
        return BulkReader(
            connector=self.connector, http=self.http, name=self.found.name, request=request, asked=self._keyed(request, made.parts),
            query=soql, operation=self._verb(wanted), columns=len(fields), cursor=self._cursor(request, ordered=False), made=made,
        )  # fmt: skip


@dataclass(slots=True)
class OtherShares:
    """Fetches the fields of rows that their first request had no room for."""

    http: Http
    url: str
    name: str
    shares: Sequence[Sequence[str]]
    schema: pa.Schema | None
    parsers: list[JsonParser] = field(default_factory=list[JsonParser])

    @property
    def names(self) -> set[str]:
        """The fields it brings."""
        return {n for share in self.shares for n in share}

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        ids = batch.column(KEY).to_pylist()
        for i, share in enumerate(self.shares):
            per = ids_per_request(self.name, [KEY, *share])
            pages = [page for at in range(0, len(ids), per) for page in self._pages(share, ids[at : at + per])]
            if pages:
                batch = with_columns_of(batch, self._parser(i).parse(pages), KEY, share)
        return batch

    def close(self) -> None:
        """Give back the memory of the parsers."""
        for parser in self.parsers:
            parser.close()

    def _pages(self, share: Sequence[str], ids: Sequence[str]) -> Iterator[bytes]:
        soql = select(self.name, [KEY, *share], by=KEY, ids=ids)
        call: Call | None = Call(url=self.url, params=(("q", soql),))
        while call is not None:
            answer = self.http.fetch(call, QUERY_RULES)
            yield answer.content
            more = Document(answer.content, where=f"Salesforce, stream {self.name}").at("nextRecordsUrl")
            call = Call(url=str(answer.url.join(more))) if isinstance(more, str) and more else None

    def _parser(self, i: int) -> JsonParser:
        if i == len(self.parsers):
            where = f"Salesforce, stream {self.name}"
            self.parsers.append(JsonParser(self.schema, "records", columns=[KEY, *self.shares[i]], where=where))
        return self.parsers[i]


def _about(call: Call, documents: Sequence[str]) -> Call:
    soql = dict(call.params)["q"].replace(f"{_LINKED_BY} IN ()", in_list(_LINKED_BY, documents))
    return replace(call, params=(("q", soql),))
