"""What the parts of the client have in common: rows become answers, values become what a request says."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from elt_dagster.client.sending import Sending
from elt_dagster.errors import SourceError

M = TypeVar("M", bound=BaseModel)


class Part:
    """Some of the operations of one server."""

    def __init__(self, sending: Sending, sleep: Callable[[float], None]) -> None:
        self._sending, self._sleep = sending, sleep

    def _tagged(self, kind: type[M], method: str, path: str, **request: Any) -> M:
        """An answer with its ``etag``."""
        row, tag = self._sending.ask_tagged(method, path, **request)
        return one(kind, {**row, "etag": tag} if isinstance(row, dict) else row)


def each(kind: type[M], rows: Iterator[Any]) -> Iterator[M]:
    """All ``rows``, as they come."""
    return (one(kind, row) for row in rows)


def one(kind: type[M], row: Any) -> M:
    """A row of the server's. Raises SourceError for one that is no such thing."""
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        fields = ", ".join(sorted({str(e["loc"][0]) for e in error.errors(include_input=False) if e["loc"]})) or "it"
        raise SourceError(
            f"The server sent a {kind.__name__} that is none: {fields}.", fix="Use a client of the server's version."
        ) from None


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` without those that are None."""
    return {name: value for name, value in values.items() if value is not None}


def if_match(etag: str | None) -> dict[str, str] | None:
    """The header that refuses to overwrite what somebody else has changed; None for whatever is there."""
    return {"If-Match": etag} if etag is not None else None


def in_path(part: str) -> str:
    """``part`` as one step of an address, whatever is in it."""
    return quote(part, safe="")
