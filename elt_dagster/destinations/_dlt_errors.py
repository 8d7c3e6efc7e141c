"""dlt's errors as ours. Its messages carry SQL, rows and whole schemas, so none of them is passed on: only what kind of thing happened."""

import contextlib
from collections.abc import Iterator

from elt_dagster.errors import AuthError, ConfigError, DestinationError, EltError, TransientError

_REFUSED = ("password authentication", "authentication failed", "access denied", "login failed", "permission denied")


@contextlib.contextmanager
def explaining(doing: str, destination: str) -> Iterator[None]:
    """Turn everything that dlt and its drivers raise into one of ours; ``doing`` completes "... while ..."."""
    try:
        yield
    except EltError:
        raise
    except Exception as error:
        # Without the original: tracebacks are shown to people, and its text quotes SQL and rows.
        raise explained(error, doing, destination) from None


def explained(error: Exception, doing: str, destination: str) -> EltError:
    """``error``, or rather what is at its bottom, as one of ours."""
    chain = _chain(error)
    kind = _driver_error(chain)
    return (
        _about_settings(chain, destination)
        or _about_connection(chain, doing, destination)
        or DestinationError(
            f"dlt's destination {destination} refused while {doing} ({kind}).",
            fix="Look at the warehouse's own log; a merge or replace can simply be run again.",
        )
    )


def _about_settings(chain: list[BaseException], destination: str) -> EltError | None:
    from dlt.common.configuration.exceptions import ConfigFieldMissingException, ConfigurationException
    from dlt.common.destination.exceptions import UnknownDestinationModule
    from dlt.common.exceptions import MissingDependencyException

    if missing := _first(chain, MissingDependencyException):
        packages = " ".join(str(name) for name in getattr(missing, "dependencies", ()))
        what, fix = "needs a Python package that is not installed", f"Run: pip install {packages}"
    elif _first(chain, UnknownDestinationModule):
        what, fix = "does not exist", "See https://dlthub.com/docs/dlt-ecosystem/destinations."
    elif lacking := _first(chain, ConfigFieldMissingException):
        what = f"lacks settings: {', '.join(sorted(getattr(lacking, 'traces', {})))}"
        fix = "Add them to `credentials` or `options`."
    elif _first(chain, ConfigurationException):
        what, fix = "cannot use its settings", "Correct `credentials` and `options`."
    else:
        return None
    return ConfigError(f"dlt's destination {destination} {what}.", fix=fix)


def _about_connection(chain: list[BaseException], doing: str, destination: str) -> EltError | None:
    from dlt.common.destination.exceptions import DestinationTransientException
    from dlt.destinations.exceptions import DestinationConnectionError

    where, kind = f"dlt's destination {destination}", _driver_error(chain)
    if any(word in str(link).lower() for link in chain for word in _REFUSED):
        return AuthError(f"{where} refused while {doing} ({kind}).", fix="Check the credentials and their permissions.")
    raw = _last_of_dlt(chain) is None and kind in (
        "OperationalError",
        "InterfaceError",
        "ConnectionError",
        "TimeoutError",
    )
    if raw or _first(chain, DestinationConnectionError):
        fix = "Check `credentials`, and that the warehouse runs and nobody else holds it."
        return TransientError(f"{where} cannot be reached while {doing} ({kind}).", fix=fix)
    if isinstance(_last_of_dlt(chain), DestinationTransientException):
        return TransientError(f"{where} failed while {doing} ({kind}).", fix="Run it again; nothing was lost.")
    return None


def _chain(error: BaseException) -> list[BaseException]:
    """``error`` and what caused it, outermost first."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = (
            getattr(link, "dbapi_exception", None)
            or getattr(link, "client_exception", None)
            or link.__cause__
            or link.__context__
        )
    return links


def _first(chain: list[BaseException], kind: type[BaseException]) -> BaseException | None:
    return next((link for link in chain if isinstance(link, kind)), None)


def _last_of_dlt(chain: list[BaseException]) -> BaseException | None:
    return next((link for link in reversed(chain) if type(link).__module__.startswith("dlt.")), None)


def _driver_error(chain: list[BaseException]) -> str:
    """The name of the driver's own error, such as NumericValueOutOfRange: the most that can be told without telling values."""
    return type(chain[-1]).__name__
