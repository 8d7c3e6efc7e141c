"""Ids of what one request makes. A request that can be recognised when it comes again makes things with the same ids again, and so not twice:
also where the process died between the write and its answer.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_REQUEST: ContextVar[str | None] = ContextVar("elt_dagster_request", default=None)
_NAMESPACE = uuid.UUID("4c8f3a52-1c0e-4e52-9d7b-0a6f6b1d2e73")


@contextmanager
def within_request(name: str) -> Iterator[None]:
    """What is made in the body, in threads that it starts as well, has ids that ``name`` and the table decide: one new row of each table."""
    token = _REQUEST.set(name)
    try:
        yield
    finally:
        _REQUEST.reset(token)


def new_id(table: str) -> tuple[str, bool]:
    """An id for a new row, and whether it may be there already, because its request came before."""
    request = _REQUEST.get()
    if request is None:
        return str(uuid.uuid4()), False
    return str(uuid.uuid5(_NAMESPACE, f"{request}/{table}")), True
