"""Reading one stream of a REST API: pages, parents, blocks of pages, batches, checkpoints.

Pages are collected to blocks of some megabytes before they are parsed, because a parse has a price of its own; the first block is one
page, so that the first rows come at once.
"""

import email.utils
import re
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from elt_dagster.errors import ConfigError, SourceError
from elt_dagster.model import Batch, Checkpoint, CursorValue, ReadRequest
from elt_dagster.model.types import JSON
from elt_dagster.sdk.arrow import split
from elt_dagster.sdk.csv_pages import CsvDocument, CsvParser
from elt_dagster.sdk.cursor import asked
from elt_dagster.sdk.endpoint import Endpoint, Limits, Parent
from elt_dagster.sdk.http import Action, Answer, Http, Rule
from elt_dagster.sdk.json import Document, JsonParser
from elt_dagster.sdk.pages import Call, Page, fill
from elt_dagster.sdk.rest_position import Position, limits_of, selected

if TYPE_CHECKING:
    from elt_dagster.sdk.rest import RestConnector

BLOCK_BYTES = 4 * 1024 * 1024
BLOCK_PAGES = 500
BLOCK_SECONDS = 10.0
"""A slow source's pages do not wait longer than this for company."""
EMPTY_PAGES = 100
_PLACEHOLDER = re.compile(r"\{parent\.([^{}]+)\}")
_LEFT_OPEN = re.compile(r"\{[^{}/]*\}")
_ERROR_KEYS = ("error", "errors", "error_message", "errorMessage", "fault")
_GONE = Rule(action=Action.IGNORE, status=frozenset({404, 410}))


@dataclass(frozen=True, slots=True)
class ParentRow:
    """The values of one parent that its children need, and the types of their columns."""

    values: Mapping[str, Any]
    types: Mapping[str, pa.DataType]


Origin = tuple[Page, ParentRow | None]


@dataclass(frozen=True, slots=True)
class _Content:
    """What a page leaves behind for the parse; the tree simdjson made of it takes ten times its bytes and is gone by then."""

    body: bytes
    non_finite: int
    row: ParentRow | None


@dataclass(slots=True)
class StreamReader:
    """Reads one endpoint of ``connector`` through ``http``; used once."""

    connector: "RestConnector[Any]"
    http: Http
    endpoint: Endpoint
    counts: Counter[str] = field(default_factory=Counter[str])
    started: datetime | None = None
    """The source's clock when it answered first, or earlier where its rows are older."""
    opened: tuple[Call, Answer] | None = None
    """The first page, where somebody has looked at it already."""
    go_on: Callable[[Call], Mapping[str, Any]] | None = None
    """What checkpoints keep (as ``extra``) of the request for the next page, where a list without order can be gone on with from there."""
    reached: CursorValue | None = None
    """The highest cursor value of the pages that an earlier read had."""
    following: Call | None = None
    """The request for the page after those that are out; only kept for ``go_on``."""

    # -- what the connector asks for ---------------------------------------------------------------------------------

    def first_page(self) -> Page | None:
        """The first page; None when the answer is ignored."""
        with closing(self._walk(self._call(self.endpoint, None))) as pages:
            return next(pages, None)

    def peek(self, request: ReadRequest) -> Document | None:
        """The first page that `read` will begin with; None when the answer is ignored or CSV."""
        pagination = self.endpoint.pagination or self.connector.default_pagination()
        call = pagination.first(self._call(self.endpoint, limits_of(self._position(request))))
        answer = self.http.fetch(call, self._rules())
        self._note_time(answer)
        self.opened = (call, answer)
        return None if answer.ignored or self.endpoint.csv else Document(answer.content, where=self._where)

    def sample(self) -> pa.Schema | None:
        """Columns and types of the first page; of a child stream, of the first page with records among three parents."""
        tries = 1 if self.endpoint.parent is None else 3
        with closing(self._pages(None, at_once=1)) as pages:
            found = next((o for o in islice(pages, tries) if o[0].count), None)
        if found is None:
            return None
        with self._parser(None, None) as parser:
            batch, origin = parser.parse_with_origin([found[0].document.content])
        return self._with_parents(batch, origin, [_Content(found[0].document.content, 0, found[1])]).schema

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        """Batches as `elt_dagster.sdk.connector.Connector.read` promises them."""
        position = self._position(request)
        if position is not None and self.reached is not None:
            position.high = self.reached
        limits = limits_of(position)
        one_by_one = position is not None and position.cursor.order == "desc" and position.start is not None
        extra = (position.cursor.field,) if position else ()
        with self._parser(request, extra) as parser, closing(self._pages(limits)) as pages:
            for block in self._blocks(pages, request, one_by_one=one_by_one):
                batch, origin = parser.parse_with_origin([content.body for content in block])
                self.counts["non_finite_values"] += sum(content.non_finite for content in block)
                data = self.connector.transform(self.endpoint, self._with_parents(batch, origin, block))
                data = self.endpoint.complete(data) if self.endpoint.complete else data
                yield from self._batches(data, position, request)
                if position and position.done:
                    break
        final = position.final(self.started or self.connector.runtime.now()) if position is not None else None
        if final is not None:
            yield Batch(final[0], final[1], self._counted())

    # -- pages ---------------------------------------------------------------------------------------------------------

    def _pages(self, limits: Any, at_once: int | None = None) -> Generator[Origin, None, None]:
        """Every page with the parent it belongs to."""
        if self.endpoint.parent is None:
            opened, self.opened = self.opened, None
            for page in self._walk(*opened) if opened else self._walk(self._call(self.endpoint, limits)):
                yield page, None
            return
        many = at_once or self.connector.concurrency()
        with ThreadPoolExecutor(many, thread_name_prefix="elt-rest") as pool:
            waiting: deque[tuple[ParentRow, Call, Future[Answer]]] = deque()
            try:
                for row, call in self._asked_of_parents(self._call(self.endpoint, limits), self.endpoint.parent):
                    waiting.append((row, call, pool.submit(self.http.fetch, call, self._rules())))
                    if len(waiting) >= many:
                        yield from self._children(*waiting.popleft())
                while waiting:
                    yield from self._children(*waiting.popleft())
            finally:
                for _, _, answer in waiting:
                    answer.cancel()

    def _children(self, row: ParentRow, call: Call, answer: "Future[Answer]") -> Iterator[Origin]:
        for page in self._walk(call, answer.result()):
            yield page, row

    def _walk(self, call: Call, answer: Answer | None = None) -> Generator[Page, None, None]:
        """The pages of one list. Raises SourceError when the source leads us round in circles."""
        pagination = self.endpoint.pagination or self.connector.default_pagination()
        records_at, where = self.connector.records_path(self.endpoint), self._where
        asked_for, contents, empty = set[int](), set[int](), 0
        step: Call | None = pagination.first(call) if answer is None else call
        while step is not None:
            self._guard(
                len(asked_for), hash(repr(step)), asked_for, f"{where}: the source asked for the same page twice."
            )
            got = answer or self.http.fetch(step, self._rules())
            answer = None
            self._note_time(got)
            if got.ignored:
                self.counts["ignored_answers"] += 1
                return
            page = self._page(step, got, records_at)
            count = page.count
            if count:
                self._guard(0, hash(page.document.content), contents, f"{where}: two pages have the same content.")
            empty = 0 if count else empty + 1
            if empty > EMPTY_PAGES:
                raise SourceError(f"{where}: {EMPTY_PAGES} pages in a row are empty.", fix="Check the pagination.")
            yield page
            step = pagination.next(page)

    def _guard(self, number: int, key: int, known: set[int], what: str) -> None:
        if key in known:
            raise SourceError(what, fix="Check the pagination; its cursor does not move on.")
        if number >= self.connector.max_pages():
            raise SourceError(
                f"{self._where}: more than {number} pages.", fix="Check the pagination or raise max_pages."
            )
        known.add(key)

    def _page(self, call: Call, got: Answer, records_at: str) -> Page:
        content = got.content
        if self.endpoint.csv:
            return Page(call=call, url=got.url, headers=got.headers, document=CsvDocument(content))
        if self.endpoint.json_lines:
            content = (
                b"["
                + b",".join(filter(None, map(bytes.strip, content.removeprefix(b"\xef\xbb\xbf").splitlines())))
                + b"]"
            )
        document = Document(content, where=self._where)
        if records_at and not document.has(records_at):
            wrong = next((k for k in _ERROR_KEYS if document.at(k)), None)
            if wrong:
                raise SourceError(
                    f"{self._where}: the answer has {wrong!r} where {records_at!r} should be.",
                    fix="Check the parameters of the stream; a rule for errors can decide what such an answer means.",
                )
        return Page(call=call, url=got.url, headers=got.headers, document=document, records_at=records_at)

    def _note_time(self, got: Answer) -> None:
        if self.started is None:
            try:
                self.started = email.utils.parsedate_to_datetime(got.headers.get("date", ""))
            except (ValueError, TypeError):
                self.started = self.connector.runtime.now()

    def limits(self, request: ReadRequest) -> Limits:
        """From where to where `read` will ask."""
        position = self._position(request)
        return (position.start, position.end) if position else (None, None)

    def _position(self, request: ReadRequest) -> Position | None:
        return Position.of(self.endpoint, request, self._where)

    def _call(self, endpoint: Endpoint, limits: Any) -> Call:
        if endpoint.ask is not None:
            within_limits: Limits = limits[1:] if limits is not None else (None, None)
            return endpoint.ask(within_limits)
        call = Call(
            url=endpoint.path, method=endpoint.method, params=endpoint.params, headers=endpoint.headers,
            body=endpoint.body, form=endpoint.form,
        )  # fmt: skip
        if limits is not None:
            call = asked(call, *limits)
        if endpoint.parent is None:
            self._refuse_gaps(call)
        return call

    def _refuse_gaps(self, call: Call) -> None:
        if gap := _LEFT_OPEN.search(call.url.partition("?")[0]):
            raise ConfigError(
                f"Nothing fills {gap[0]} in the path of stream {self.endpoint.name!r}.",
                fix="Set the cursor's initial value, or correct the placeholder.",
            )

    def _rules(self) -> tuple[Rule, ...]:
        parent = self.endpoint.parent
        return (*self.endpoint.rules, *((_GONE,) if parent and parent.on_missing == "ignore" else ()))

    @property
    def _where(self) -> str:
        return f"{self.connector.title}, stream {self.endpoint.name}"

    # -- parents -------------------------------------------------------------------------------------------------------

    def _parents(self, parent: Parent) -> Iterator[ParentRow]:
        """What the children need of each record of the parent stream, over all its pages."""
        endpoint = self.connector.endpoint(parent.stream)
        wanted = dict.fromkeys([*_PLACEHOLDER.findall(self.endpoint.path), parent.field, *parent.include.values()])
        reader = StreamReader(self.connector, self.http, endpoint)
        schema = endpoint.schema
        declared = pa.schema([schema.field(n) for n in wanted if n in schema.names]) if schema is not None else None
        path = self.connector.records_path(endpoint)
        with JsonParser(None, path, columns=list(wanted), key_as=endpoint.key_as, where=reader._where) as parser:
            for page, _ in reader._pages(None):
                batch = parser.parse([page.document.content])
                types = {f.name: f.type for f in (declared or [])} | {
                    f.name: f.type for f in batch.schema if declared is None or f.name not in declared.names
                }
                columns = [batch.column(n).to_pylist() for n in wanted]
                for values in zip(*columns, strict=True):
                    yield ParentRow(dict(zip(wanted, values, strict=True)), types)
        self.counts.update(reader.counts)
        self.started = self.started or reader.started

    def _asked_of_parents(self, call: Call, parent: Parent) -> Iterator[tuple[ParentRow, Call]]:
        """The first request for the children of each parent, or of each group of parents."""
        rows = self._parents(parent)
        if parent.asked_by is None:
            yield from ((row, self._of_parent(call, parent, row)) for row in rows)
            return
        pagination = self.endpoint.pagination or self.connector.default_pagination()
        while group := list(islice(rows, max(1, parent.together))):
            values = [str(row.values[parent.field]) for row in group if row.values[parent.field] not in (None, "")]
            if values:
                yield group[0], pagination.first(parent.asked_by(call, values))

    def _of_parent(self, call: Call, parent: Parent, row: ParentRow) -> Call:
        """``call`` for the children of ``row``. Raises SourceError for a parent without the value that is needed."""
        needed = set(_PLACEHOLDER.findall(call.url)) | ({parent.field} if parent.param else set())
        missing = next((n for n in sorted(needed) if row.values[n] in (None, "")), None)
        if missing:
            raise SourceError(
                f"{self._where}: a record of {parent.stream} has no {missing!r}.",
                fix="Choose a field every parent has.",
            )
        url = fill(call.url, {f"parent.{n}": str(row.values[n]) for n in _PLACEHOLDER.findall(call.url)})
        filled = Call(
            url=url, method=call.method, params=call.params, headers=call.headers, body=call.body, form=call.form
        )
        if parent.param:
            value = row.values[parent.field]
            filled = filled.put(parent.into, parent.param, value if isinstance(value, int) else str(value))
        self._refuse_gaps(filled)
        return (self.endpoint.pagination or self.connector.default_pagination()).first(filled)

    def _with_parents(self, batch: pa.RecordBatch, origin: pa.Array, block: list[_Content]) -> pa.RecordBatch:
        """``batch`` with the columns that come from the parents."""
        parent = self.endpoint.parent
        for name, source in (parent.include if parent else {}).items():
            if name in batch.schema.names:
                raise ConfigError(
                    f"{self._where}: its records have a {name!r} of their own.",
                    fix="Include the parent's field under another name.",
                )
            rows = [content.row for content in block if content.row is not None]
            column = _column([row.values[source] for row in rows], rows[0].types.get(source, pa.string()))
            batch = batch.append_column(pa.field(name, column.type), column.take(origin))
        return batch

    # -- batches -------------------------------------------------------------------------------------------------------

    def _parser(self, request: ReadRequest | None, extra: tuple[str, ...] | None) -> JsonParser | CsvParser:
        """A parser for the columns asked for, those the parent gives left out."""
        given = request.stream.schema if request else None
        schema = given if given is not None else self.endpoint.schema
        inherited = self.endpoint.parent.include if self.endpoint.parent else {}
        if schema is not None:
            schema = pa.schema([f for f in schema if f.name not in inherited])
        columns = None
        if request is not None and request.columns is not None:
            columns = [c for c in dict.fromkeys((*request.columns, *(extra or ()))) if c not in inherited]
        if self.endpoint.csv:
            return CsvParser(schema, columns=columns, where=self._where)
        path = self.connector.records_path(self.endpoint)
        return JsonParser(schema, path, columns=columns, key_as=self.endpoint.key_as, where=self._where)

    def _blocks(self, pages: Iterator[Origin], request: ReadRequest, *, one_by_one: bool) -> Iterator[list[_Content]]:
        """Pages in groups that are worth a parse: the first alone, then as many as fit in a batch or come within seconds."""
        limit, now = min(request.batch_bytes, BLOCK_BYTES), self.connector.runtime.now
        block: list[_Content] = []
        size, first, since = 0, True, now()
        for page, row in pages:
            block.append(_Content(page.document.content, page.document.non_finite, row))
            size += len(page.document.content)
            late = (now() - since).total_seconds() > BLOCK_SECONDS
            if first or one_by_one or late or size >= limit or len(block) >= BLOCK_PAGES:
                self._look_ahead(page)
                yield block
                block, size, first, since = [], 0, False, now()
        if block:
            self.following = None
            yield block

    def _look_ahead(self, page: Page) -> None:
        if self.go_on is not None:
            self.following = (self.endpoint.pagination or self.connector.default_pagination()).next(page)

    def _batches(self, data: pa.RecordBatch, position: Position | None, request: ReadRequest) -> Iterator[Batch]:
        if position is not None and data.num_rows:  # without rows there may be no columns yet
            data = position.advance(data, self.counts, self.connector.runtime.log)
        data = selected(data, request)
        slices = list(split(data, request.batch_bytes)) if data.num_rows else []
        for i, piece in enumerate(slices):
            checkpoint = self._saved(position) if position and position.saves and i == len(slices) - 1 else None
            yield Batch(piece, checkpoint, self._counted())
        if position and slices:
            position.last = slices[-1].slice(0, 0)

    def _saved(self, position: Position) -> Checkpoint | None:
        """What may be saved now that a block is out."""
        if position.high is None:
            return None
        if position.ordered:
            position.saved = True
            return Checkpoint(position.high)
        if self.go_on is None or self.following is None:
            return None
        # nothing is complete up to any value yet: the cursor stays where it was, and the rest of the list is what is kept
        reached = Checkpoint(position.high).to_json()["cursor"]
        return Checkpoint(position.since, {**self.go_on(self.following), "reached": reached})

    def _counted(self) -> Mapping[str, int]:
        found = {k: n for k, n in self.counts.items() if n}
        self.counts.clear()
        return found


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if kind == JSON:
        return pa.ExtensionArray.from_storage(JSON, pa.array(values, pa.string()))
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # the parent's column was widened on the way
        return pa.array([None if v is None else str(v) for v in values], pa.string())
