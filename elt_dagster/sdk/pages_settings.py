"""Pagination as settings: what a user writes to say how to go on from page to page."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from elt_dagster.sdk.connector import Config
from elt_dagster.sdk.pages import (
    AutoPages,
    Into,
    LinkHeader,
    NextCursor,
    NextUrl,
    Offset,
    PageNumber,
    PageSize,
    Pagination,
    SinglePage,
    Stop,
)


class Sized(Config):
    """What every pagination may say about the size of a page."""

    page_size: int | None = Field(default=None, gt=0)
    """Records per page to ask for; empty leaves it to the source."""
    page_size_param: str = "limit"
    """Name under which the page size is sent."""
    page_size_into: Into = Into.QUERY
    """Where the page size is sent."""

    def size(self) -> PageSize:
        """As the sdk wants it."""
        return PageSize(size=self.page_size, param=self.page_size_param, into=self.page_size_into)


class Stopping(Sized):
    """What says that there is no further page."""

    has_more_at: str | None = None
    """Path to a flag that is true while there are more pages."""
    total_at: str | None = None
    """Path to the number of all records."""
    total_header: str | None = None
    """Header with the number of all records, such as X-Total-Count."""
    short_page: bool = False
    """End at a page with fewer records than asked for. Not for sources that silently cap the page size."""

    def stop(self, pages_at: str | None = None) -> Stop:
        """As the sdk wants it."""
        return Stop(
            has_more_at=self.has_more_at, total_at=self.total_at, total_header=self.total_header, pages_at=pages_at,
            short_page=self.short_page,
        )  # fmt: skip


class AutoPagination(Sized):
    """Follow a Link header or a next URL in one of the usual places."""

    type: Literal["auto"] = "auto"
    """Found by itself; refused when the answer says that there is more but not where."""

    def build(self) -> Pagination:
        """As the sdk wants it."""
        return AutoPages(size=self.size())


class NoPagination(Config):
    """One answer is all there is."""

    type: Literal["none"]
    """No further page is asked for."""

    def build(self) -> Pagination:
        """As the sdk wants it."""
        return SinglePage()


class LinkPagination(Sized):
    """The header Link carries the next URL."""

    type: Literal["link_header"]
    """As GitHub and Shopify do."""
    rel: str = "next"
    """Name of the link to follow."""

    def build(self) -> Pagination:
        """As the sdk wants it."""
        return LinkHeader(rel=self.rel, size=self.size())


class UrlPagination(Sized):
    """The answer carries the next URL."""

    type: Literal["next_url"]
    """Absolute or relative, always on the same host."""
    at: str = "next"
    """Path to the URL in the answer."""

    def build(self) -> Pagination:
        """As the sdk wants it."""
        return NextUrl(at=self.at, size=self.size())


class CursorPagination(Stopping):
    """The next request carries a value from the last answer."""

    type: Literal["cursor"]
    """From the body, a header, or the last record; a missing value is the end."""
    at: str | None = None
    """Path to the value in the answer."""
    header: str | None = None
    """Header of the answer with the value."""
    last_record: str | None = None
    """Field of the last record with the value."""
    param: str = "cursor"
    """Name under which it is sent."""
    into: Into = Into.QUERY
    """Where it is sent; in a body the name is a path such as variables.after."""
    alone: bool = False
    """Send the cursor without the other query parameters."""

    @model_validator(mode="after")
    def _one_place(self) -> "CursorPagination":
        if [self.at, self.header, self.last_record].count(None) != 2:
            raise ValueError("set exactly one of at, header and last_record")
        return self

    def build(self) -> Pagination:
        """As the sdk wants it."""
        return NextCursor(
            param=self.param, at=self.at, header=self.header, last_record=self.last_record, into=self.into,
            size=self.size(), stop=self.stop(), alone=self.alone,
        )  # fmt: skip


class OffsetPagination(Stopping):
    """The next request skips what was seen."""

    type: Literal["offset"]
    """Ends at an empty page, unless something else says so earlier."""
    param: str = "offset"
    """Name under which the offset is sent."""
    into: Into = Into.QUERY
    """Where the offset is sent."""
    start: int = 0
    """Offset of the first record."""
    page_size: int | None = Field(default=100, gt=0)
    """Records per page to ask for."""

    def build(self) -> Pagination:
        """As the sdk wants it."""
        return Offset(param=self.param, start=self.start, into=self.into, size=self.size(), stop=self.stop())


class PagePagination(Stopping):
    """The next request asks for the next page number."""

    type: Literal["page"]
    """Ends at an empty page, unless something else says so earlier."""
    param: str = "page"
    """Name under which the number is sent."""
    into: Into = Into.QUERY
    """Where the number is sent."""
    start: int = 1
    """Number of the first page."""
    total_pages_at: str | None = None
    """Path to the number of pages."""

    def build(self) -> Pagination:
        """As the sdk wants it."""
        return PageNumber(
            param=self.param, start=self.start, into=self.into, size=self.size(), stop=self.stop(self.total_pages_at)
        )


PaginationSettings = Annotated[
    AutoPagination
    | NoPagination
    | LinkPagination
    | UrlPagination
    | CursorPagination
    | OffsetPagination
    | PagePagination,
    Field(discriminator="type"),
]
