"""Pagination as pure functions: the last page in, the next call out, or None when there is no more.

A `Call` is a request as data. A `Pagination` never remembers anything; what it has to know is in the call that was made (`position`)
and in the page that came back. Going round in circles is caught by the reader, not here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol
from urllib.parse import quote

import httpx

from elt_dagster.errors import ConfigError, SourceError
from elt_dagster.sdk.csv_pages import CsvDocument
from elt_dagster.sdk.json import Document
from elt_dagster.sdk.json_path import parse_path


class Into(StrEnum):
    """Where a value is put into a request; ``path`` replaces ``{name}`` in the path, ``body`` takes a path such as ``page.cursor``."""

    QUERY = "query"
    HEADER = "header"
    BODY = "body"
    PATH = "path"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request as data. ``url`` is relative to the base or absolute; ``params`` may repeat a name; ``body`` is sent as JSON."""

    url: str
    method: str = "GET"
    params: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: Any = None
    form: bool = False
    """Send the body as an HTML form instead of JSON."""
    position: int = 0
    """Offset or page number this call asked for."""
    seen: int = 0
    """Records of the pages before this call."""

    def put(self, into: Into, name: str, value: str | int) -> "Call":
        """This call with ``value`` at ``name``; what was there before is replaced."""
        if into is Into.QUERY:
            kept = tuple(p for p in self.params if p[0] != name)
            return replace(self, params=(*kept, (name, str(value))))
        if into is Into.HEADER:
            return replace(self, headers={**self.headers, name: str(value)})
        if into is Into.PATH:
            return replace(self, url=fill(self.url, {name: str(value)}))
        return replace(self, body=_planted(self.body, parse_path(name), value))


def fill(template: str, values: Mapping[str, str]) -> str:
    """``template`` with each ``{name}`` replaced by its value, encoded so that it stays one segment of a path."""
    for name, value in values.items():
        # `..` would climb out of the path even when encoded by others
        safe = quote(value, safe="~-_.@:,") if value not in (".", "..") else value.replace(".", "%2E")
        template = template.replace("{" + name + "}", safe)
    return template


def _planted(body: Any, steps: tuple[str | int, ...], value: str | int) -> Any:
    """A copy of ``body`` with ``value`` at ``steps``, making objects on the way."""
    if not steps:
        return value
    inside = body if isinstance(body, Mapping) else {}
    key = str(steps[0])
    return {**inside, key: _planted(inside.get(key), steps[1:], value)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One answer of the source: the call that asked, and what came back."""

    call: Call
    url: httpx.URL
    """Where the answer came from, for links relative to it."""
    headers: httpx.Headers
    document: Document | CsvDocument
    records_at: str = ""

    @property
    def count(self) -> int:
        """How many records this page has."""
        return self.document.size(self.records_at)


class Pagination(Protocol):
    """How to ask for the first page, and for the page after one that came; None when there is none."""

    def first(self, call: Call) -> Call:
        """``call`` as the request for the first page."""
        ...

    def next(self, page: Page) -> Call | None:
        """The request for the page after ``page``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSize:
    """How the size of a page is asked for; ``size`` None leaves it to the source."""

    size: int | None = None
    param: str = "limit"
    into: Into = Into.QUERY

    def put(self, call: Call) -> Call:
        """``call`` with the page size in it."""
        return call if self.size is None else call.put(self.into, self.param, self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """When there is no more: any of what is set; a page without records always ends offset and page numbers.

    ``short_page`` also ends at a page with fewer records than asked for. Leave it off for sources that silently cap the page size.
    ``total_at`` and ``pages_at`` are paths to the number of records and of pages, ``total_header`` a header with the former.
    """

    has_more_at: str | None = None
    total_at: str | None = None
    total_header: str | None = None
    pages_at: str | None = None
    short_page: bool = False

    def says_done(self, page: Page, seen: int, size: int | None) -> bool:
        """Whether ``page``, after which ``seen`` records are out, is the last one."""
        if self.has_more_at is not None:
            return not truth(page.document.at(self.has_more_at))
        total = page.document.at(self.total_at) if self.total_at else page.headers.get(self.total_header or "")
        if total is not None and str(total).isdigit() and seen >= int(total):
            return True
        return page.count == 0 or (self.short_page and size is not None and page.count < size)


def truth(value: Any) -> bool:
    """Whether a flag is set: also ``"true"`` and 1; not ``"false"``, 0, null or nothing."""
    return value.strip().lower() in ("true", "1", "yes") if isinstance(value, str) else bool(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class SinglePage:
    """The first answer is all there is."""

    def first(self, call: Call) -> Call:
        """The call as it is."""
        return call

    def next(self, page: Page) -> Call | None:
        """Never another page."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkHeader:
    """The header ``Link`` carries the URL of the next page (GitHub, Shopify); ``rel`` is the name of the link."""

    rel: str = "next"
    size: PageSize = PageSize()

    def first(self, call: Call) -> Call:
        """The call with the page size."""
        return self.size.put(call)

    def next(self, page: Page) -> Call | None:
        """Follow the link if there is one."""
        return follow(page, link(page.headers, self.rel))


def link(headers: httpx.Headers, rel: str) -> str | None:
    """The URL of the link named ``rel`` in the ``Link`` headers."""
    pattern = re.compile(r"<([^>]*)>((?:\s*;\s*[\w*!-]+\s*=\s*(?:\"[^\"]*\"|[^;,\s]+))*)")
    for url, attributes in pattern.findall(", ".join(headers.get_list("link"))):
        named = re.search(r"rel\s*=\s*(?:\"([^\"]*)\"|([^;,\s]+))", attributes, re.IGNORECASE)
        if named and rel in (named[1] or named[2]).split():
            return str(url)
    return None


def follow(page: Page, target: Any) -> Call | None:
    """The call for a link in ``page``, absolute or relative; everything else of the call but its parameters stays."""
    if target is None or target == "" or target is False:
        return None
    if not isinstance(target, str):
        raise SourceError(
            "The next-page link of the source is not text.", fix="Point the pagination at the link itself."
        )
    return replace(page.call, url=str(page.url.join(target)), params=())


@dataclass(frozen=True, slots=True, kw_only=True)
class NextUrl:
    """The body carries the URL of the next page, absolute or relative (Salesforce, Microsoft Graph)."""

    at: str = "next"
    size: PageSize = PageSize()

    def first(self, call: Call) -> Call:
        """The call with the page size."""
        return self.size.put(call)

    def next(self, page: Page) -> Call | None:
        """Follow the link if there is one."""
        return follow(page, page.document.at(self.at))


@dataclass(frozen=True, slots=True, kw_only=True)
class NextCursor:
    """The next call carries a value from this page: from the body, from a header, or from its last record.

    Exactly one of ``at``, ``header`` and ``last_record`` is set. A missing or empty value is the end, and so are ``stop`` and the value ``end``
    (some send the word ``null``).
    """

    param: str
    at: str | None = None
    header: str | None = None
    last_record: str | None = None
    into: Into = Into.QUERY
    size: PageSize = PageSize()
    stop: Stop = Stop()
    alone: bool = False
    """Send the cursor without the other query parameters (sources that refuse both)."""
    end: str | None = None

    def first(self, call: Call) -> Call:
        """The call with the page size."""
        if [self.at, self.header, self.last_record].count(None) != 2:
            raise ConfigError("A cursor pagination needs exactly one of at, header and last_record.")
        return self.size.put(call)

    def next(self, page: Page) -> Call | None:
        """Ask for what comes after this page."""
        if self.stop.has_more_at and not truth(page.document.at(self.stop.has_more_at)):
            return None
        if self.last_record and self.stop.says_done(page, -1, self.size.size):
            return None
        value = self._value(page)
        if value in (None, "", False) or (self.end is not None and value == self.end):
            return None
        if self.stop.short_page and self.stop.says_done(page, -1, self.size.size):
            return None
        if isinstance(value, dict | list):
            raise SourceError("The next-page cursor of the source is not a single value.", fix="Correct its path.")
        call = replace(page.call, params=()) if self.alone else page.call
        return call.put(self.into, self.param, value if isinstance(value, int) else str(value))

    def _value(self, page: Page) -> Any:
        if self.header:
            return page.headers.get(self.header)
        if self.last_record:
            return page.document.last(page.records_at, self.last_record)
        return page.document.at(self.at or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Offset:
    """The next call skips what was seen. Counts what came, not what was asked for, so that a capped page size loses nothing."""

    param: str = "offset"
    start: int = 0
    into: Into = Into.QUERY
    size: PageSize = PageSize(size=100)
    stop: Stop = Stop()

    def first(self, call: Call) -> Call:
        """The call with offset and page size."""
        return replace(self.size.put(call).put(self.into, self.param, self.start), position=self.start)

    def next(self, page: Page) -> Call | None:
        """Skip this page too."""
        after, seen = page.call.position + page.count, page.call.seen + page.count
        if self.stop.says_done(page, seen, self.size.size):
            return None
        return replace(page.call.put(self.into, self.param, after), position=after, seen=seen)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageNumber:
    """The next call asks for the next number; ``start`` is the number of the first page."""

    param: str = "page"
    start: int = 1
    into: Into = Into.QUERY
    size: PageSize = PageSize()
    stop: Stop = Stop()

    def first(self, call: Call) -> Call:
        """The call with page number and page size."""
        return replace(self.size.put(call).put(self.into, self.param, self.start), position=self.start)

    def next(self, page: Page) -> Call | None:
        """The number after this one."""
        after, seen = page.call.position + 1, page.call.seen + page.count
        pages = page.document.at(self.stop.pages_at) if self.stop.pages_at else None
        if pages is not None and str(pages).isdigit() and after - self.start >= int(pages):
            return None
        if self.stop.says_done(page, seen, self.size.size):
            return None
        return replace(page.call.put(self.into, self.param, after), position=after, seen=seen)


_NEXT_AT = (
    "next", "next_url", "nextUrl", "next_link", "nextLink", "@odata.nextLink", "next_page_url", "nextPageUrl", "links.next",
    "links.next.href", "_links.next", "_links.next.href", "paging.next", "paging.next.link", "pagination.next",
    "pagination.next_url", "meta.next", "meta.next_url", "nextRecordsUrl",
)  # fmt: skip
_MORE_AT = ("has_more", "hasMore", "meta.has_more", "pagination.has_more", "paging.has_more", "next_cursor", "nextPageToken",
            "next_page_token", "meta.next_cursor", "pagination.next_cursor", "paging.next.after")  # fmt: skip
_PAGES_AT = ("total_pages", "totalPages", "meta.total_pages", "pagination.total_pages", "page_count", "pageCount")


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoPages:
    """Follow a ``Link`` header or a next URL in one of the usual places; refuse a page that says there is more without saying where."""

    size: PageSize = PageSize()

    def first(self, call: Call) -> Call:
        """The call with the page size."""
        return self.size.put(call)

    def next(self, page: Page) -> Call | None:
        """Follow the link if there is one. Raises SourceError when the page hints at more that cannot be found by itself."""
        target = link(page.headers, "next") or next(filter(None, map(self._url(page), _NEXT_AT)), None)
        if target is not None:
            return follow(page, target)
        document = page.document
        hint = next(
            (p for p in _MORE_AT if truth(document.at(p)) or (isinstance(document.at(p), str) and document.at(p))), None
        )
        hint = hint or next(
            (p for p in _PAGES_AT if str(document.at(p) or 0).isdigit() and int(document.at(p) or 0) > 1), None
        )
        if hint is not None:
            raise SourceError(
                f"The answer says by {hint!r} that there are more pages, but has no link to the next one.",
                fix="Declare the pagination: cursor, offset or page.",
            )
        return None

    @staticmethod
    def _url(page: Page) -> Any:
        def found(path: str) -> str | None:
            value = page.document.at(path)
            return value if isinstance(value, str) and ("/" in value or value.startswith("?")) else None

        return found
