"""Snowflake's errors as ours: sorted by who has to act, with the GRANT or the setting that helps, and without values or SQL.

The server's numbers are the truth here, for its words may quote a row. Where the words hold names only, they are shown.
"""

import contextlib
import re
from collections.abc import Iterator

from elt_dagster.destinations._snowflake_settings import APPLICATION, SnowflakeConfig
from elt_dagster.destinations.sql import quote
from elt_dagster.errors import AuthError, ConfigError, DestinationError, EltError, TransientError

MISSING_OBJECT = (2003, 2043)
"""There is no such object, or this role may not know of it: Snowflake does not tell which."""
_NO_WAREHOUSE = 606
_DENIED = re.compile(r"Insufficient privileges to operate on (\w[\w ]*?) '([^']+)'")
_LACKS = re.compile(r"must have been granted one of the following privileges[^:]*: ([A-Z_, ]+)")
_NAMED = re.compile(r"(?:Object|Database|Schema|Table|View|Stage|Warehouse|Role) '([^'\n]+)'")

_LOGIN = {
    390100: ("the user or the password is wrong", "Correct `user` and `password`."),
    390101: ("the user's authenticator is not the one that was used", "Set the credentials that this user has."),
    390102: ("the user is disabled", "Ask an administrator for ALTER USER ... SET DISABLED = FALSE."),
    390106: ("the password has expired", "Set a new password."),
    390111: ("the session is gone", "Run it again."),
    390144: (
        "the key is not the user's",
        "Run: ALTER USER ... SET RSA_PUBLIC_KEY = '...' with the public half of `private_key`, and correct `user` and `account`.",
    ),
    390303: ("the OAuth token is not valid", "Get a new token, and check the security integration."),
    390318: ("the OAuth token has expired", "Get a new token, or use the client credentials flow."),
    394400: ("the programmatic access token is not valid", "Make a new token, and check the user's network policy."),
    390432: ("this address may not log in", "Ask an administrator to add it to the network policy."),
    390422: ("this address may not log in", "Ask an administrator to add it to the network policy."),
}  # fmt: skip
_SETTINGS = {
    390189: ("the role {role} does not exist or is not granted to the user", "Run: GRANT ROLE {role} TO USER {user};"),
    390190: ("there is no such account", "Correct `account`; it looks like myorg-account123."),
    390201: ("the database {database} does not exist or {role} may not use it", "Run: GRANT USAGE ON DATABASE {database} TO ROLE {role};"),
    250003: ("there is no such account", "Correct `account`; it looks like myorg-account123."),
    251001: ("there is no such account", "Correct `account`; it looks like myorg-account123."),
}  # fmt: skip
_TRANSIENT = {
    604: ("the statement was cancelled", "It is tried again; ask who cancelled it, in QUERY_HISTORY."),
    625: ("somebody else held a lock on the table for longer than lock_timeout_seconds", "It is tried again; SHOW LOCKS IN ACCOUNT tells who holds it."),
    630: ("the statement took longer than its timeout", "Raise statement_timeout_seconds, or use a larger warehouse."),
    635: ("somebody else changed the table at the same time", "It is tried again."),
    707: ("the server was too busy", "It is tried again."),
    608: ("the warehouse is being suspended or resumed", "It is tried again."),
    300002: ("the server had an internal error", "It is tried again."),
    390112: ("the session expired", "It is tried again."),
    390114: ("the session expired", "It is tried again."),
}  # fmt: skip
_QUOTA = (90073, 90060, 90063)
_VALUES = range(100_000, 101_000)


def explained(error: Exception, doing: str, config: SnowflakeConfig) -> Exception:
    """The driver's ``error`` as one of ours; any other as it is. ``doing`` completes "Snowflake refused while ..."."""
    if isinstance(error, EltError):
        return error
    from snowflake.connector import errors

    if isinstance(error, errors.Error):
        return _sorted(error, doing, config)
    if isinstance(error, OSError) or type(error).__module__.startswith(
        ("requests", "urllib3", "snowflake.connector.vendored")
    ):
        return _unreachable(doing, config)
    return error  # a bug of ours, which nobody finds without its own words


@contextlib.contextmanager
def explaining(doing: str, config: SnowflakeConfig) -> Iterator[None]:
    """Turn the driver's errors into ours, without the original: its text may quote a row or a statement."""
    try:
        yield
    except Exception as error:
        raise explained(error, doing, config) from None


def number(error: Exception) -> int:
    """The server's or the driver's number of an error; 0 when it has none."""
    found = getattr(error, "errno", None)
    return int(found) if isinstance(found, int) else 0


def is_missing_object(error: Exception) -> bool:
    """Whether the server says that an object is not there (or not for this role)."""
    return number(error) in MISSING_OBJECT


def _sorted(error: Exception, doing: str, config: SnowflakeConfig) -> EltError:
    code, text = number(error), str(getattr(error, "msg", None) or error)
    names = {
        "role": quote(config.role) if config.role else "your role",
        "user": config.user or "...",
        "database": config.database,
    }
    for table, kind in ((_LOGIN, AuthError), (_SETTINGS, ConfigError), (_TRANSIENT, TransientError)):
        if code in table:
            what, fix = (words.format(**names) for words in table[code])
            return kind(f"{config.where} refused while {doing}: {what} (error {code:06d}).", fix=fix)
    return _by_words(text, code, doing, config) or _by_range(error, code, doing, config)


def _by_words(text: str, code: int, doing: str, config: SnowflakeConfig) -> EltError | None:
    """What is about a right, a warehouse or a name, where the server's words tell which."""
    if "Insufficient privileges" in text or code == 3001:
        return _denied(text, doing, config)
    if code == _NO_WAREHOUSE or "No active warehouse" in text:
        return _no_warehouse(doing, config)
    if code in _QUOTA or "exceeded its quota" in text:
        return DestinationError(
            f"{config.where} stopped while {doing}: the warehouse has used up its quota of credits (error {code:06d}).",
            fix="Raise the quota of its resource monitor, or set another `warehouse`.",
        )
    return _missing(text, doing, config) if code in MISSING_OBJECT else None


def _by_range(error: Exception, code: int, doing: str, config: SnowflakeConfig) -> EltError:
    if code in _VALUES:
        return DestinationError(
            f"Snowflake refused while {doing}: a value does not fit its column (error {code:06d}). Nothing was committed.",
            fix="Set schema_drift to evolve, or exclude the column.",
        )
    if code >= 250_000 or code <= 0:
        return _about_the_network(code, doing, config)
    return DestinationError(
        f"Snowflake refused while {doing} (error {code:06d}, SQLSTATE {getattr(error, 'sqlstate', None) or 'unknown'}). Nothing was committed.",
        fix=f"Look the statement up by its query tag {APPLICATION!r} in QUERY_HISTORY.",
    )


def _about_the_network(code: int, doing: str, config: SnowflakeConfig) -> EltError:
    if 251_000 <= code < 252_000 and code not in (251_007, 251_008, 251_011):
        return ConfigError(
            f"The settings of {config.where} are not enough to log in (error {code:06d}).",
            fix="Check `account`, `user` and the credentials.",
        )
    return _unreachable(doing, config)


def _unreachable(doing: str, config: SnowflakeConfig) -> TransientError:
    host = f" at {config.host}:{config.port}" if config.host else ""
    return TransientError(
        f"{config.where}{host} could not be reached, or did not answer, while {doing}.",
        fix="It is tried again. If it stays so, check `account`, `host`, and the network between here and there.",
    )


def _no_warehouse(doing: str, config: SnowflakeConfig) -> ConfigError:
    role = quote(config.role) if config.role else "your role"
    if config.warehouse:
        return ConfigError(
            f"{config.where} has no warehouse {config.warehouse} for {role}, or may not start it, while {doing}.",
            fix=f"Run: GRANT USAGE, OPERATE ON WAREHOUSE {config.warehouse} TO ROLE {role};",
        )
    return ConfigError(f"{config.where} has no warehouse to work with, while {doing}.", fix="Set `warehouse`.")


def _missing(text: str, doing: str, config: SnowflakeConfig) -> DestinationError:
    found = _NAMED.search(text)
    what = found[0] if found else "An object"
    role = quote(config.role) if config.role else "your role"
    return DestinationError(
        f"{what} does not exist, or {role} may not use it, while {doing}.",
        fix=f"Make it, or grant {role} USAGE on database and schema, and SELECT, INSERT, UPDATE, DELETE on the table.",
    )


def _denied(text: str, doing: str, config: SnowflakeConfig) -> AuthError:
    role = quote(config.role) if config.role else "<your role>"
    found, lacks = _DENIED.search(text), _LACKS.search(text)
    if found is None:
        return AuthError(
            f"Snowflake refused while {doing}: the role {role} lacks a privilege.",
            fix=f"Grant {role} what it needs there.",
        )
    kind, name = found[1].upper(), found[2]
    needs = lacks[1].strip(" ,") if lacks else _NEEDS.get(kind, "USAGE")
    if kind == "TABLE":
        return AuthError(
            f"Snowflake refused while {doing}: {role} may not work on the table {name}.",
            fix=f"Run: GRANT {needs} ON TABLE {name} TO ROLE {role}; columns are added and comments set by its owner: GRANT OWNERSHIP ON TABLE {name} TO ROLE {role} COPY CURRENT GRANTS;",
        )
    return AuthError(
        f"Snowflake refused while {doing}: {role} lacks {needs} on the {kind.lower()} {name}.",
        fix=f"Run: GRANT {needs} ON {kind} {name} TO ROLE {role};",
    )


_NEEDS = {
    "DATABASE": "USAGE, CREATE SCHEMA",
    "SCHEMA": "USAGE, CREATE TABLE, CREATE STAGE",
    "TABLE": "SELECT, INSERT, UPDATE, DELETE",
    "WAREHOUSE": "USAGE, OPERATE",
    "ACCOUNT": "USAGE",
}
