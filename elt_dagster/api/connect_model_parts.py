"""What all models of the Connect dialect are made of: their bases, moments, pages and problems."""

import datetime as dt
from typing import Annotated, Generic, TypeVar

from pydantic import PlainSerializer, WithJsonSchema

from elt_dagster.api.model_base import Shown
from elt_dagster.api.words import moment

T = TypeVar("T")
Moment = Annotated[
    dt.datetime,
    PlainSerializer(moment),
    WithJsonSchema({"type": "string", "format": "date-time"}, mode="serialization"),
]


class Problem(Shown):
    """What is wrong."""

    error_code: str
    """For machines, such as `not_found`."""
    message: str
    """For people: what happened and where, and what to do. A wrong body is told with the JSON pointer of each field."""


class ConflictProblem(Problem):
    """What is wrong, and with what it collides."""

    conflict_id: str | None = None
    """The id of what is in the way."""


class RunConflictProblem(Problem):
    """What is wrong, and which run is in the way."""

    active_run_id: str | None = None
    """An id for `/elt_stream_runs/{id}`."""


class Paged(Shown, Generic[T]):
    """One page of a list, newest first."""

    has_more: bool
    """Whether there are more."""
    next_cursor: str | None
    """Send it as `starting_after` to get the next page; null on the last one."""
    data: list[T]
    """This page's items."""
