"""Pagination as pure functions: a page in, the next call out."""

import json
from typing import Any

import httpx
import pytest

from elt_dagster.errors import ConfigError, SourceError
from elt_dagster.sdk import (
    AutoPages,
    Call,
    Document,
    Into,
    LinkHeader,
    NextCursor,
    NextUrl,
    Offset,
    Page,
    PageNumber,
    PageSize,
    Pagination,
    SinglePage,
    Stop,
)  # fmt: skip
from elt_dagster.sdk.pages import fill


def page(body: Any, call: Call | None = None, headers: dict[str, str] | None = None, records_at: str = "data") -> Page:
    return Page(
        call=call or Call(url="items"), url=httpx.URL("https://api.test/v1/items?a=1"), headers=httpx.Headers(headers or {}),
        document=Document(json.dumps(body).encode()), records_at=records_at,
    )  # fmt: skip


def walk(pagination: Pagination, bodies: list[Any]) -> list[Call]:
    """The calls that are made when the source answers with ``bodies`` one after another."""
    calls = [pagination.first(Call(url="items"))]
    for body in bodies:
        step = pagination.next(page(body, calls[-1]))
        if step is None:
            return calls
        calls.append(step)
    raise AssertionError("asked for more pages than there are")


def test_a_single_page_is_all() -> None:
    assert len(walk(SinglePage(), [{"data": [1]}])) == 1


@pytest.mark.parametrize(
    ("header", "target"),
    [
        ('<https://api.test/v1/items?page=2>; rel="next"', "https://api.test/v1/items?page=2"),
        (
            '<https://api.test/a>; rel="prev", </v1/items?page=3>; rel=next; title="x, y"',
            "https://api.test/v1/items?page=3",
        ),
        ('<?page=4>; title="a"; rel="last next"', "https://api.test/v1/items?page=4"),
        ('<https://api.test/a?x=1,2>; rel="next"', "https://api.test/a?x=1,2"),
        ('<https://api.test/a>; rel="prev"', None),
    ],
)
def test_link_headers(header: str, target: str | None) -> None:
    step = LinkHeader().next(page({"data": [1]}, headers={"Link": header}))
    assert (step.url if step else None) == target


def test_a_next_url_may_be_relative_and_replaces_the_parameters() -> None:
    call = Call(url="items", params=(("limit", "5"),), headers={"X": "1"})
    step = NextUrl(at="links.next").next(page({"data": [1], "links": {"next": "more?cursor=z"}}, call))
    assert step is not None
    assert (step.url, step.params, step.headers) == ("https://api.test/v1/more?cursor=z", (), {"X": "1"})
    assert NextUrl(at="@odata.nextLink").next(page({"@odata.nextLink": "/x"})) is not None
    assert NextUrl(at="next").next(page({"next": None})) is None
    with pytest.raises(SourceError):
        NextUrl(at="next").next(page({"next": {"href": "/x"}}))


def test_a_cursor_comes_from_body_header_or_last_record() -> None:
    assert [c.params for c in walk(NextCursor(param="after", at="c"), [{"c": "x", "data": [1]}, {"c": ""}])] == [
        (),
        (("after", "x"),),
    ]
    step = NextCursor(param="after", header="X-Next").next(page({"data": [1]}, headers={"X-Next": "h"}))
    assert step is not None
    assert step.params == (("after", "h"),)
    last = NextCursor(param="starting_after", last_record="id", stop=Stop(has_more_at="more"))
    calls = walk(last, [{"data": [{"id": 1}, {"id": 2}], "more": True}, {"data": [{"id": 3}], "more": False}])
    assert calls[1].params == (("starting_after", "2"),)
    assert len(calls) == 2


def test_a_cursor_from_the_last_record_ends_at_an_empty_page() -> None:
    assert len(walk(NextCursor(param="p", last_record="id"), [{"data": [{"id": 1}]}, {"data": []}])) == 2


def test_a_cursor_may_travel_alone() -> None:
    call = Call(url="items", params=(("since", "x"),))
    step = NextCursor(param="c", at="c", alone=True).next(page({"c": 5}, call))
    assert step is not None
    assert step.params == (("c", "5"),)


def test_a_cursor_needs_exactly_one_place() -> None:
    with pytest.raises(ConfigError):
        NextCursor(param="c").first(Call(url="x"))
    with pytest.raises(ConfigError):
        NextCursor(param="c", at="a", header="b").first(Call(url="x"))


def test_an_offset_counts_what_came_so_a_capped_page_loses_nothing() -> None:
    pagination = Offset(size=PageSize(size=100))
    calls = walk(pagination, [{"data": [1] * 40}, {"data": [1] * 40}, {"data": [1] * 3}, {"data": []}])
    assert [dict(c.params)["offset"] for c in calls] == ["0", "40", "80", "83"]
    assert all(dict(c.params)["limit"] == "100" for c in calls)


@pytest.mark.parametrize(
    ("stop", "bodies", "asked"),
    [
        (Stop(total_at="total"), [{"data": [1] * 2, "total": 4}, {"data": [1] * 2, "total": "4"}], 2),
        (Stop(has_more_at="more"), [{"data": [1], "more": "true"}, {"data": [1], "more": "false"}], 2),
        (Stop(short_page=True), [{"data": [1] * 2}, {"data": [1]}], 2),
        (Stop(), [{"data": [1] * 2}, {"data": [1]}, {"data": []}], 3),
    ],
)
@pytest.mark.parametrize("kind", [Offset, PageNumber])
def test_what_says_that_there_is_no_more(kind: Any, stop: Stop, bodies: list[Any], asked: int) -> None:
    assert len(walk(kind(size=PageSize(size=2), stop=stop), bodies)) == asked


def test_page_numbers_may_start_at_zero_and_end_at_the_last_page() -> None:
    pagination = PageNumber(param="p", start=0, stop=Stop(pages_at="pages"))
    calls = walk(pagination, [{"data": [1], "pages": 2}, {"data": [1], "pages": 2}])
    assert [dict(c.params)["p"] for c in calls] == ["0", "1"]


def test_auto_finds_links_and_refuses_hints_it_cannot_follow() -> None:
    assert AutoPages().next(page({"data": [1], "paging": {"next": "/x?after=1"}})) is not None
    assert AutoPages().next(page({"data": [1]}, headers={"Link": "</x>; rel=next"})) is not None
    assert AutoPages().next(page({"data": [1], "next": None, "has_more": False, "total_pages": 1})) is None
    assert AutoPages().next(page([1, 2], records_at="")) is None
    for hint in ({"has_more": True}, {"next_cursor": "abc"}, {"total_pages": 3}, {"meta": {"has_more": "true"}}):
        with pytest.raises(SourceError, match="more pages"):
            AutoPages().next(page({"data": [1], **hint}))


def test_a_value_is_put_where_it_belongs_without_touching_the_original() -> None:
    call = Call(url="a/{x}", params=(("p", "1"), ("q", "2")), body={"a": {"b": 1}})
    assert call.put(Into.QUERY, "p", 9).params == (("q", "2"), ("p", "9"))
    assert call.put(Into.HEADER, "H", 9).headers == {"H": "9"}
    assert call.put(Into.PATH, "x", "b/c").url == "a/b%2Fc"
    assert call.put(Into.BODY, "a.c.d", 9).body == {"a": {"b": 1, "c": {"d": 9}}}
    assert call.body == {"a": {"b": 1}}


@pytest.mark.parametrize("value", ["..", ".", "a/../b", "a?b#c", "ø", "{y}"])
def test_what_fills_a_path_stays_one_segment(value: str) -> None:
    url = httpx.URL("https://api.test/v1/").join(fill("a/{x}/z", {"x": value}))
    parts = url.raw_path.split(b"/")
    assert (parts[:3], parts[-1], len(parts)) == ([b"", b"v1", b"a"], b"z", 5)
