"""Where the store is: a SQLAlchemy URL from the caller, the environment, or a file in the usual place."""

import os
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import exc
from sqlalchemy.engine import URL, make_url

from elt_dagster.errors import ConfigError

STORE_VARIABLE = "ELT_DAGSTER_STORE"
_FORMS = "sqlite:////path/to/store.sqlite or postgresql://user:password@host:5432/database"


def store_url(url: str | None, environ: Mapping[str, str] = os.environ) -> URL:
    """The URL to use: ``url``, else ``$ELT_DAGSTER_STORE``, else a SQLite file under ``$DAGSTER_HOME``, else under ``.elt_dagster/``.

    Raises ConfigError for what is no URL of SQLite or Postgres; the message never repeats it, for it may hold a password.
    """
    text = url or environ.get(STORE_VARIABLE, "").strip()
    if not text:
        return _sqlite(_default_file(environ))
    try:
        parsed = make_url(text)
    except (exc.ArgumentError, ValueError):
        raise ConfigError("The store's location is not a URL.", fix=f"Set {STORE_VARIABLE} to {_FORMS}.") from None
    return _understood(parsed)


def shown(url: URL) -> str:
    """``url`` for people: without password and without query, which can hold one."""
    return url.set(query={}).render_as_string(hide_password=True)


def sqlite_file(url: URL) -> Path | None:
    """The file of a SQLite store; None for a server."""
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


def _understood(url: URL) -> URL:
    backend = url.get_backend_name()
    if backend == "sqlite":
        if not url.database or ":memory:" in url.database or url.database.startswith("file:"):
            raise ConfigError(
                "A SQLite store needs a plain file: Dagster's processes share it.",
                fix=f"Set {STORE_VARIABLE} to {_FORMS}.",
            )
        return _sqlite(Path(url.database))
    if backend in ("postgresql", "postgres"):
        # whatever driver was named, the store is synchronous and uses the one that Dagster uses
        return url.set(drivername="postgresql+psycopg2")
    raise ConfigError(f"The store cannot live in {backend!r}.", fix=f"Set {STORE_VARIABLE} to {_FORMS}.")


def _default_file(environ: Mapping[str, str]) -> Path:
    home = environ.get("DAGSTER_HOME", "").strip()
    return Path(home).expanduser() / "elt_dagster" / "store.sqlite" if home else Path(".elt_dagster") / "store.sqlite"


def _sqlite(path: Path) -> URL:
    # absolute, so that a later chdir does not open another store
    return URL.create("sqlite", database=str(path.expanduser().absolute()))
