"""PostgreSQL's refusals in our words, by SQLSTATE: who has to act, and what to run.

The server's own text is repeated only where it speaks of names and never of values; a value belongs to a customer.
https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from elt_dagster.destinations.sql import quote
from elt_dagster.errors import AuthError, DestinationError, EltError, SourceError, TransientError
from elt_dagster.sdk.pgwire import ServerConfig, translated

_DENIED = re.compile(
    r"(permission denied for|must be owner of) (?:(?:table|view|relation|schema|database) )?\"?(.+?)\"?$"
)
_COPY_COLUMN = re.compile(r"^COPY .*, line \d+, column ([^\n]*?)(?:: .*)?$", re.MULTILINE)
_NUL = ("22021", "22P05")
"""A character the database cannot hold: NUL in text or JSON, or one that its encoding does not have."""
_NAMES_ONLY = ("0A", "22001", "22003", "2BP01", "2200", "42", "54")  # SQLSTATEs whose messages show no values
_DETAIL_OF_NAMES = ("0A", "2BP01")

_TRANSIENT = {
    "55P03": ("somebody else held a lock on it for longer than lock_timeout_seconds",
              "It is tried again; see pg_blocking_pids() for who holds it, or raise lock_timeout_seconds."),
    "57014": ("the server cancelled the statement, which took longer than statement_timeout_seconds or was cancelled by hand",
              "Raise statement_timeout_seconds, or load when it is quieter."),
    "53300": ("the server has no connection left", "Raise max_connections, or lower the number of parallel loads."),
    "53200": ("the server ran out of memory", "It is tried again."),
    "08": ("the connection was lost", "It is tried again."),
    "40": ("it was in conflict with another transaction", "It is tried again."),
    "57P": ("the server was shutting down, starting, or ended the session", "It is tried again."),
    "55": ("the object was in use", "It is tried again."),
}  # fmt: skip
_REFUSED = {
    "53100": ("the server's disk is full", "Free some space; nothing was committed."),
    "53": ("the server has run out of a resource", "Free some; nothing was committed."),
    "25006": ("the server takes no writes (a standby, or default_transaction_read_only)", "Connect to the primary."),
    "23502": ("the column does not take NULL", "Drop the NOT NULL constraint, or exclude the column."),
    "23": ("a constraint of the table refused the rows", "Drop the constraint, or correct the source."),
    "22008": ("a date or time is outside the range that PostgreSQL holds", "Correct it at the source, or exclude the column."),
    "22": ("a value does not fit the column's type", "Set schema_drift to evolve, or exclude the column."),
    "54": ("a limit of PostgreSQL was passed", "See https://www.postgresql.org/docs/current/limits.html."),
}  # fmt: skip


def is_about_values(error: BaseException) -> bool:
    """Whether a value was refused: by the server, or by our encoder when a date or time overflows."""
    return isinstance(error, pa.ArrowInvalid) or str(getattr(error, "sqlstate", None) or "").startswith("22")


def column_at_fault(error: BaseException) -> str | None:
    """The column that a refused COPY is about, if the server says so."""
    found = _COPY_COLUMN.search(getattr(error, "context", None) or "")
    return found[1] if found else None


def explained(error: Exception, doing: str, config: ServerConfig) -> Exception:
    """The driver's ``error`` as one of ours; any other as it is. ``doing`` completes "PostgreSQL refused while ..."."""
    import asyncpg

    if isinstance(error, EltError):
        return DestinationError(error.what, fix=error.fix) if isinstance(error, SourceError) else error
    if not isinstance(
        error, asyncpg.PostgresError | asyncpg.InterfaceError | asyncpg.InternalClientError | OSError | EOFError
    ):
        return error  # a bug of ours, which nobody finds without its own words
    state = getattr(error, "sqlstate", None) or ""
    # 28 and 3D are about logging in; what is no answer of the server is about the network
    if not isinstance(error, asyncpg.PostgresError) or state.startswith(("28", "3D")):
        found = translated(error, f"{config.where} while {doing}", config)
        return DestinationError(found.what, fix=found.fix) if isinstance(found, SourceError) else found
    if state == "42501":
        return _denied(error, doing, config)
    for prefix, (what, fix) in _TRANSIENT.items():
        if state.startswith(prefix):
            return TransientError(f"PostgreSQL gave up {doing}: {what} (SQLSTATE {state}).", fix=fix)
    return _refused(error, state, doing)


@contextlib.contextmanager
def explaining(doing: str, config: ServerConfig) -> Iterator[None]:
    """Turn the driver's errors into ours, without the original: tracebacks are shown to people, and its text may quote a row."""
    try:
        yield
    except Exception as error:
        raise explained(error, doing, config) from None


def _refused(error: Any, state: str, doing: str) -> DestinationError:
    where = _column(error)
    if state in _NUL:
        return DestinationError(
            f"PostgreSQL refused while {doing}: {where or 'a text column'} has a character that PostgreSQL cannot hold "
            f"there, such as NUL (SQLSTATE {state}).",
            fix="Set nul_characters to remove, correct it at the source, or exclude the column.",
        )
    what, fix = next(
        (found for prefix, found in _REFUSED.items() if state.startswith(prefix)),
        ("", "Nothing was committed; the table is as it was."),
    )
    shown = _shown(error, state) or what or type(error).__name__
    return DestinationError(
        f"PostgreSQL refused while {doing}: {f'{where}: ' if where else ''}{shown} (SQLSTATE {state}).", fix=fix
    )


def _shown(error: Any, state: str) -> str:
    """The server's message where it can only show names, with the detail that says which view depends on what."""
    if not state.startswith(_NAMES_ONLY) or (state.startswith("2200") and state not in ("22001", "22003")):
        return ""
    lines = [str(error.args[0]).partition("\n")[0]]
    if state.startswith(_DETAIL_OF_NAMES) and getattr(error, "detail", None):
        lines += str(error.detail).split("\n")[:5]
    return "; ".join(lines)


def _column(error: Any) -> str:
    """The column an error is about, if the server says so."""
    if name := getattr(error, "column_name", None):
        return f"column {name!r}"
    found, constraint = column_at_fault(error), getattr(error, "constraint_name", None)
    return f"column {found!r}" if found else f"constraint {constraint!r}" if constraint else ""


def _denied(error: Any, doing: str, config: ServerConfig) -> EltError:
    message = str(error.args[0]).partition("\n")[0]
    role, database = quote(config.user), quote(config.database)
    found = _DENIED.search(message)
    name = quote(found[2]) if found else ""
    if "temporary tables" in message:
        fix = f"Run: GRANT TEMPORARY ON DATABASE {database} TO {role}; or set staging to unlogged."
    elif found and found[1].startswith("must be owner"):
        fix = f"Run: ALTER TABLE {name} OWNER TO {role}; only a table's owner may change its columns."
    elif "for schema" in message:
        fix = f"Run: GRANT USAGE, CREATE ON SCHEMA {name} TO {role};"
    elif "for database" in message:
        fix = f"Run: GRANT CREATE ON DATABASE {database} TO {role}; or make the schema and grant it USAGE and CREATE there."
    else:
        fix = f"Run: GRANT SELECT, INSERT, UPDATE, DELETE ON {name or 'the table'} TO {role};"
    return AuthError(f"PostgreSQL refused while {doing}: {message}.", fix=fix)
