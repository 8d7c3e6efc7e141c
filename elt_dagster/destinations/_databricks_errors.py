"""Databricks's refusals in our words, by error condition: who has to act, and what to run.

The server's own text is repeated only for conditions whose messages name objects and never values; a value belongs to a customer.
https://docs.databricks.com/aws/en/error-messages/error-classes
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from elt_dagster.destinations._databricks_settings import DatabricksConfig
from elt_dagster.errors import AuthError, ConfigError, DestinationError, EltError, NotFoundError, TransientError

_CONDITION = re.compile(r"\[([A-Z][A-Z0-9_]+(?:\.[A-Z0-9_]+)*)\]")
_MISSING = ("TABLE_OR_VIEW_NOT_FOUND", "SCHEMA_NOT_FOUND", "NO_SUCH_SCHEMA", "NO_SUCH_TABLE")
_NO_CATALOG = ("NO_SUCH_CATALOG", "CATALOG_NOT_FOUND", "UC_CATALOG_NOT_FOUND")
_DENIED = ("INSUFFICIENT_PERMISSIONS", "INSUFFICIENT_PRIVILEGES", "PERMISSION_DENIED", "UC_PERMISSION_DENIED")
_NO_TRANSACTION = re.compile(
    r"^(MULTI_STATEMENT_)?TRANSACTION_NOT_SUPPORTED|^UNSUPPORTED_|^SQL_SCRIPTING|CATALOG_?(MANAGED|OWNED)|^DELTA_UNSUPPORTED_FEATURE"
)
_BUSY = re.compile(
    r"ALREADY_EXISTS|^DELTA_CONCURRENT|^DELTA_METADATA_CHANGED|^DELTA_PROTOCOL_CHANGED|^CONCURRENT|CONFLICT|^TRANSACTION_ABORTED|^TRANSACTION_(ROLLBACK|EXPIRED)"
)
_LATER = {
    "ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL_ERROR", "IO_ERROR", "RESOURCE_EXHAUSTED",
    "SERVICE_UNDER_MAINTENANCE", "TEMPORARILY_UNAVAILABLE", "WORKSPACE_TEMPORARILY_UNAVAILABLE",
}  # fmt: skip
_NAMES_ONLY = re.compile(
    r"^(TABLE_OR_VIEW|SCHEMA|UNRESOLVED|DELTA_(UNSUPPORTED|MISSING|COLUMN|DUPLICATE|TABLE)|(MULTI_STATEMENT_)?TRANSACTION_NOT_SUPPORTED|UNSUPPORTED|FEATURE_NOT_ON)"
)


class StatementFailedError(Exception):
    """A statement that the warehouse refused. ``condition`` is its error condition, else the API's code; the message may hold values."""

    def __init__(self, code: str, message: str) -> None:
        found = _CONDITION.search(message)
        self.condition = found[1] if found else _denial(message) or code
        self.message = message.partition("\n")[0]
        super().__init__(self.condition)

    @property
    def is_missing(self) -> bool:
        """Whether a table or schema is not there."""
        return self.condition.startswith(_MISSING)

    @property
    def is_about_transactions(self) -> bool:
        """Whether the warehouse or one of the tables cannot take part in a transaction of several statements."""
        is_unknown_syntax = self.condition == "PARSE_SYNTAX_ERROR" and "ATOMIC" in self.message
        return is_unknown_syntax or _NO_TRANSACTION.search(self.condition) is not None

    @property
    def is_unsure(self) -> bool:
        """Whether the statement may have been carried out all the same."""
        return self.condition in {*_LATER, "UNKNOWN"}

    @property
    def is_conflict(self) -> bool:
        """Whether somebody else changed the same thing at the same time, or a lost answer made us ask twice; trying again may work."""
        return _BUSY.search(self.condition) is not None or self.condition in _LATER


def _denial(message: str) -> str | None:
    return next((word for word in _DENIED if message.startswith(word)), None)


@contextlib.contextmanager
def explaining(doing: str, config: DatabricksConfig) -> Iterator[None]:
    """Turn refusals and the SDK's errors into ours, without the original: tracebacks are shown to people, and its text may quote a row."""
    try:
        yield
    except Exception as error:
        raise explained(error, doing, config) from None


def explained(error: Exception, doing: str, config: DatabricksConfig) -> Exception:
    """``error`` as one of ours; what is a bug of ours stays as it is. ``doing`` completes "Databricks refused while ..."."""
    if isinstance(error, EltError):
        return error
    if isinstance(error, StatementFailedError):
        return _of_statement(error, doing, config)
    return _of_client(error, doing, config)


def _of_statement(error: StatementFailedError, doing: str, config: DatabricksConfig) -> EltError:
    condition = error.condition
    if condition.startswith(_DENIED):
        return AuthError(f"Databricks refused while {doing}: {_shown(error)}.", fix=_grant(error.message, config))
    if condition.startswith(_NO_CATALOG):
        return ConfigError(
            f"There is no catalog {config.catalog!r} in {config.host}, or these credentials may not see it.",
            fix=f"Correct `catalog`, or run: GRANT USE CATALOG ON CATALOG `{config.catalog}` TO the principal that signs in.",
        )
    if error.is_missing:
        return NotFoundError(
            f"Databricks refused while {doing}: {_shown(error)}.", fix="Load it first, or grant SELECT on it."
        )
    if error.is_conflict:
        what = "it was in conflict with another statement, or the warehouse was not ready"
        return TransientError(f"Databricks gave up {doing}: {what} ({condition}).", fix="It is tried again.")
    if error.is_about_transactions:
        return DestinationError(
            f"Databricks refused while {doing}: {_shown(error)}.",
            fix="Set transactions to auto or idempotent, or run ALTER TABLE ... SET TBLPROPERTIES ('delta.feature.catalogManaged' = 'supported').",
        )
    shown = _shown(error) if _NAMES_ONLY.match(condition) else condition
    return DestinationError(
        f"Databricks refused while {doing}: {shown}.",
        fix="Nothing was committed; the query history of the warehouse has its words.",
    )


def _of_client(error: Exception, doing: str, config: DatabricksConfig) -> Exception:
    import requests
    from databricks.sdk import errors

    where = f"{config.host} while {doing}"
    cause = error.__cause__ if isinstance(error, TimeoutError | RuntimeError) and error.__cause__ else error
    if isinstance(cause, errors.Unauthenticated) or (isinstance(cause, ValueError) and _is_about_signing_in(cause)):
        return AuthError(f"The credentials were refused by {where}.", fix="Correct them, or sign in again.")
    if isinstance(cause, errors.base.DatabricksError):
        return _of_api(cause, where, config)
    if isinstance(cause, requests.RequestException | TimeoutError | ConnectionError):
        return TransientError(f"{where} could not be reached.", fix="Check `host` and the network; it is tried again.")
    return error


def _of_api(error: Any, where: str, config: DatabricksConfig) -> EltError:
    from databricks.sdk import errors

    if isinstance(error, errors.PermissionDenied):
        return AuthError(
            f"These credentials may not do this at {where}.",
            fix=f"Grant CAN USE on the SQL warehouse {config.warehouse_id}, and READ VOLUME and WRITE VOLUME on the staging volume.",
        )
    if isinstance(error, errors.NotFound):
        return ConfigError(
            f"Something is not there at {where}: the SQL warehouse {config.warehouse_id}, or the staging volume.",
            fix="Correct `warehouse_id` and `staging_volume`.",
        )
    busy = errors.TooManyRequests, errors.TemporarilyUnavailable, errors.DeadlineExceeded, errors.InternalError
    if isinstance(error, busy):
        wait = getattr(error, "retry_after_secs", None)
        return TransientError(f"{where} answered that it is too busy.", fix="It is tried again.", retry_after=wait)
    code = getattr(error, "error_code", None) or type(error).__name__
    return DestinationError(f"{where} answered {code}.", fix="Check `host`, `warehouse_id` and `catalog`.")


def _is_about_signing_in(error: ValueError) -> bool:
    return any(word in str(error) for word in ("auth", "token", "credential", "OAuth", "oauth", "invalid_"))


def _shown(error: StatementFailedError) -> str:
    return _CONDITION.sub("", error.message).strip().rstrip(".")[:300] + f" ({error.condition})"


def _grant(message: str, config: DatabricksConfig) -> str:
    found = re.search(r"(?:permission|have) ([A-Z][A-Z ,_]+[A-Z]) on (\w+) ['`]?([\w.`-]+?)['`]?(?:\.|$|\s)", message)
    if found:
        name = ".".join(f"`{part}`" for part in found[3].replace("`", "").split("."))
        return f"Run: GRANT {found[1]} ON {found[2].upper()} {name} TO the principal that signs in."
    return (
        f"Run: GRANT USE CATALOG, CREATE SCHEMA ON CATALOG `{config.catalog}` TO the principal that signs in, "
        "or make the schema and grant it USE SCHEMA, CREATE TABLE, CREATE VOLUME, SELECT and MODIFY there."
    )
