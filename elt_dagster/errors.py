"""Every error this package raises on purpose, sorted by who has to act.

EltError
├── ConfigError             the user: a setting is missing or wrong; a retry cannot help
│   ├── NotFoundError       the user: there is nothing of that name
│   └── ConflictError       the user: it collides with something that exists or runs
├── AuthError               the user: the other side refused the credentials
├── TransientError          nobody: busy or unreachable; the same call may work later
│   ├── LimitError          nobody: it allows no more requests for now
│   └── WarehouseBusyError  nobody: it is the destination that is busy or unreachable
├── SourceError             the source's owner: it answered with something we cannot use
│   └── PrimaryKeyError     the source's owner: rows that nothing identifies
├── DestinationError        the warehouse's owner: it refused what we asked of it
│   ├── DriftError          the user: the table's columns may not, or cannot, follow the source's
│   └── RejectedError       the source's owner: no value of a column fits, so that nothing is left to load
├── CancelledError          nobody: a person or Dagster asked us to stop
└── ContractError           the author of a connector or destination: it broke its contract

A message has two sentences: what happened and where; what to do (``fix``).
Secrets, query strings and rows never enter a message.
"""

from collections.abc import Sequence
from typing import ClassVar


class EltError(Exception):
    """Base of all errors; ``fix`` is one sentence telling the reader what to do."""

    exit_code: ClassVar[int] = 1
    """What the command line exits with."""
    reason: ClassVar[str] = "unknown"
    """A stable code for machines: the ``resultReasonCode`` of a run."""

    details: Sequence[tuple[tuple[str | int, ...], str]] = ()
    """Where a document was wrong: the path into it, and a sentence; empty where it was no document."""

    def __init__(self, what: str, *, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what} {self.fix}" if self.fix else self.what


class ConfigError(EltError):
    """A setting is missing or wrong."""

    exit_code = 2
    reason = "config_invalid"


class NotFoundError(ConfigError):
    """There is no connector, connection, sync, stream or column of that name."""


class ConflictError(ConfigError):
    """What was asked collides with something that exists or runs; ``with_id`` names it."""

    reason = "schema_conflict"

    def __init__(self, what: str, *, fix: str | None = None, with_id: str | None = None) -> None:
        super().__init__(what, fix=fix)
        self.with_id = with_id


class AuthError(EltError):
    """The other side refused the credentials."""

    exit_code = 3
    reason = "auth_failed"


class TransientError(EltError):
    """Busy or unreachable; the same call may work later, after ``retry_after`` seconds if given."""

    exit_code = 4
    reason = "source_unavailable"

    def __init__(self, what: str, *, fix: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(what, fix=fix)
        self.retry_after = retry_after


class LimitError(TransientError):
    """The other side allows us no more requests for now: its quota, or the share of it that is ours, is used up."""

    reason = "rate_limited"


class WarehouseBusyError(TransientError):
    """The destination is busy or unreachable. The engine makes it of whatever TransientError a destination raises."""

    reason = "destination_unavailable"


class SourceError(EltError):
    """The source answered with something we cannot use."""

    exit_code = 5
    reason = "source_error"


class PrimaryKeyError(SourceError):
    """The key ``column`` is NULL in ``missing`` of the ``rows`` of a batch."""

    def __init__(self, what: str, *, fix: str | None = None, column: str, missing: int, rows: int) -> None:
        super().__init__(what, fix=fix)
        self.column, self.missing, self.rows = column, missing, rows


class DestinationError(EltError):
    """The warehouse refused what we asked of it."""

    exit_code = 6
    reason = "destination_error"


class DriftError(DestinationError):
    """The table's columns may not, or cannot, follow the source's.

    ``differences`` are (column, type in the table, type at the source), the types None where there is no such column.
    """

    def __init__(
        self, what: str, *, fix: str | None = None, differences: Sequence[tuple[str, str | None, str | None]] = ()
    ) -> None:
        super().__init__(what, fix=fix)
        self.differences = tuple(differences)


class RejectedError(DestinationError):
    """All of the ``rejected`` rows of a load have values in ``columns`` that do not fit."""

    def __init__(self, what: str, *, fix: str | None = None, rejected: int, columns: Sequence[str]) -> None:
        super().__init__(what, fix=fix)
        self.rejected, self.columns = rejected, tuple(columns)


class ContractError(EltError):
    """A connector or destination broke its contract; a bug in its code, not in the data."""

    exit_code = 7
    reason = "contract_broken"


class CancelledError(EltError):
    """Somebody asked the run to stop; nothing was left half written."""

    exit_code = 130
    reason = "cancelled"


def nearest(name: str, known: "list[str] | tuple[str, ...]") -> str:
    """One sentence that helps after a wrong name: the nearest match, else the known names."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    if close:
        return f"Did you mean {close[0]!r}?"
    if not known:
        return "There are none yet."
    shown = ", ".join(sorted(known)[:20])
    return f"Known: {shown}{', ...' if len(known) > 20 else ''}."
