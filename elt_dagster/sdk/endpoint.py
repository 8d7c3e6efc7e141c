"""What an author writes about one stream of a REST API."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from elt_dagster.model import CursorValue
from elt_dagster.sdk.cursor import Cursor
from elt_dagster.sdk.http import Rule
from elt_dagster.sdk.pages import Call, Into, Pagination

Limits = tuple[CursorValue | None, CursorValue | None]
"""From where to where a cursor is read, half-open; None is no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """Another endpoint whose records tell where to ask: once per record of ``stream``, over all its pages.

    ``{parent.<field>}`` in the path is filled from the record; ``param`` with ``into`` puts ``field`` elsewhere. ``include`` maps new
    columns to fields of the parent. ``on_missing`` says what a 404 or 410 for one parent means; ignored ones are counted.

    With ``asked_by`` one request is about up to ``together`` parents: it gets the call and the values of their ``field``. What comes back
    must name its parent by itself.
    """

    stream: str
    field: str = "id"
    param: str | None = None
    into: Into = Into.QUERY
    include: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    on_missing: Literal["ignore", "fail"] = "fail"
    together: int = 1
    asked_by: Callable[[Call, Sequence[str]], Call] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One stream of a REST API: where to ask, where the records are, how to continue."""

    name: str
    path: str
    method: str = "GET"
    params: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    body: Any = None
    form: bool = False
    ask: Callable[[Limits], Call] | None = None
    """The first request of a read within limits, where it is a text in a query language rather than parameters; path, params and body are not used then."""
    records_at: str | None = None
    """Path to the records; None takes the connector's."""
    key_as: str | None = None
    """Column for the keys where ``records_at`` ends in ``.*``, a dictionary of records."""
    json_lines: bool = False
    """The body is one JSON document per line."""
    csv: bool = False
    """The body is CSV with a header line, as the results of bulk jobs are; an empty field is NULL."""
    pagination: Pagination | None = None
    """None takes the connector's."""
    primary_key: tuple[str, ...] = ()
    cursor: Cursor | None = None
    parent: Parent | None = None
    schema: pa.Schema | None = None
    """Declared columns with canonical types; None looks at the first page."""
    rules: tuple[Rule, ...] = ()
    complete: Callable[[pa.RecordBatch], pa.RecordBatch] | None = None
    """What is done to every batch before its rows are counted, such as fetching the columns that one request could not hold."""
    description: str = ""
