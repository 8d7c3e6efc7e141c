"""What the dialects share in writing: moments, ETags, spellings of a word that two sides call differently."""

import re
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, TypeVar

from fastapi import Depends, Header

from elt_dagster.api.one_thread import awaitable
from elt_dagster.control.loaders import Loader
from elt_dagster.control.syncs import ChangedMeanwhileError
from elt_dagster.errors import ConfigError
from elt_dagster.store import AnySync

W = TypeVar("W", bound=StrEnum)


def moment(at: datetime | None) -> str | None:
    """ISO 8601 in UTC with ``Z``."""
    return None if at is None else _moment(at)


@lru_cache(maxsize=20_000)  # a page of runs has hundreds, and the next answer has the same ones
def _moment(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def etag(found: AnySync | Loader) -> str:
    """What changes with every change of a sync, or of a loader."""
    return f'"{found.revision}"'


def expected_revision(
    if_match: Annotated[
        str | None,
        Header(
            description="The `ETag` of the last answer: what somebody else has changed since is not overwritten (412).",
            examples=['"42"'],
        ),
    ] = None,
) -> int | None:
    """The revision that ``If-Match`` asks for; None where anything will do. Raises ChangedMeanwhileError for a tag that is none of ours."""
    given = (if_match or "").strip()
    if given in ("", "*"):
        return None
    match = re.fullmatch(r'(?:W/)?"(\d{1,18})"', given)
    if match is None:
        raise ChangedMeanwhileError(
            "The If-Match header is no ETag that this server has given.", fix="Send the ETag of the last answer."
        )
    return int(match[1])


Revision = Annotated[int | None, Depends(awaitable(expected_revision))]
"""Of what is to be changed, as whoever asks has seen it; None for any."""


class Spelling:
    """How a dialect writes the words of the model. On input the canonical word is accepted as well."""

    def __init__(self, kind: type[W], **written: str) -> None:
        self._kind = kind
        self._written = {word.value: written.get(word.value, word.value) for word in kind}
        self._read = {**{word.value: word.value for word in kind}, **{v: k for k, v in self._written.items()}}

    def write(self, word: StrEnum | str) -> str:
        """The dialect's spelling."""
        return self._written[str(word)]

    def read(self, text: str) -> str:
        """The canonical word. Raises ConfigError that lists the dialect's spellings."""
        if text not in self._read:
            raise ConfigError(f"{text[:60]!r} is not known.", fix=f"Allowed: {', '.join(self._written.values())}.")
        return self._read[text]
