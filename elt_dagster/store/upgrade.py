"""Is the store as this version needs it, and if not, make it so."""

import os
import threading
import time
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from elt_dagster.errors import ConfigError
from elt_dagster.store.database import BUSY_SECONDS, Database
from elt_dagster.store.schema import HEAD, VERSION_TABLE

_ADVISORY_LOCK = 0x656C745F646167  # "elt_dag"
_one_at_a_time = threading.Lock()  # Alembic keeps its context in module globals


def upgrade(database: Database) -> bool:
    """Bring the tables to `HEAD`; whether anything changed. Several processes may start this at once: one works, the others wait.

    Raises ConfigError when the store is newer than this code.
    """
    if database.file is not None:
        _prepare_file(database, database.file)
    with _one_at_a_time, database.write(wait_seconds=0) as conn:
        if database.file is None:
            conn.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
        before = stored_version(conn)
        if before is not None and before > HEAD:
            raise _newer(database)
        if before == HEAD:
            return False
        _migrate(conn)
        return True


def require_current(database: Database) -> None:
    """Raise ConfigError, with the way out, unless the store's tables are those of this version."""
    missing = ConfigError(f"The store {database.shown} is not initialised.", fix="Run: elt-dagster init.")
    if database.file is not None and not os.path.exists(database.file):
        raise missing  # connecting would create an empty file
    with database.read() as conn:
        version = stored_version(conn)
    if version is None:
        raise missing
    if version > HEAD:
        raise _newer(database)
    if version < HEAD:
        raise ConfigError(
            f"The store {database.shown} is of an older version ({version}; needed: {HEAD}).",
            fix="Run: elt-dagster init.",
        )


def stored_version(conn: Connection) -> str | None:
    """The number of the newest migration that was run; None when none was."""
    if not sa.inspect(conn).has_table(VERSION_TABLE):
        return None
    version: str | None = conn.scalar(sa.select(sa.column("version_num")).select_from(sa.table(VERSION_TABLE)))
    return version


def _newer(database: Database) -> ConfigError:
    return ConfigError(
        f"The store {database.shown} was written by a newer version of elt-dagster.",
        fix="Upgrade elt-dagster: pip install --upgrade elt-dagster.",
    )


def _migrate(conn: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    folder = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = conn
    command.upgrade(config, "head")


def _prepare_file(database: Database, file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"The folder {file.parent} for the store cannot be made ({error.strerror}).", fix="Choose another place."
        ) from None
    with database.errors_in_words():
        _switch_to_wal(database)


def _switch_to_wal(database: Database) -> None:
    """WAL lets readers read while one writes; the file remembers it. SQLite does not wait for this lock by itself."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        raw = database.engine.raw_connection()
        try:
            raw.cursor().execute("PRAGMA journal_mode = WAL")
            return
        except Exception as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise exc.OperationalError("PRAGMA journal_mode", None, error) from None
            time.sleep(0.02)
        finally:
            raw.close()
