"""Anything that speaks PostgreSQL's wire protocol: connections that share one snapshot, COPY as blocks of CSV, errors sorted.

The driver is asyncpg, imported when a connection is made. Its COPY callback gets whole CopyData messages, and a server puts a whole row into
each; so a block may end after any of them, and rows are never cut, whatever is in them.
"""

import asyncio
import os
import ssl
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

from pydantic import Field, SecretStr

from elt_dagster.errors import AuthError, ConfigError, EltError, NotFoundError, SourceError, TransientError
from elt_dagster.sdk.connector import Config
from elt_dagster.sdk.egress import guard_loop
from elt_dagster.sdk.places import LOCAL
from elt_dagster.sdk.pump import BlockQueue, Blocks, LoopThread

_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_GOODBYE_SECONDS = 5.0


class ServerConfig(Config):
    """How to reach a server that speaks PostgreSQL's protocol."""

    host: str = "localhost"
    """Host name or address of the server."""
    port: int = Field(default=5432, ge=1, le=65535)
    """Port of the server."""
    database: str
    """Name of the database."""
    user: str
    """Role to connect as; reading is all it needs."""
    password: SecretStr | None = None
    """Password of the role, unless the server asks for none."""
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    """How to use TLS; `verify-full` also proves that the server is who it says."""
    sslrootcert: str | None = Field(default=None, json_schema_extra=LOCAL)
    """File with the certificates to trust, for verify-ca and verify-full."""
    sslcert: str | None = Field(default=None, json_schema_extra=LOCAL)
    """File with the client's certificate, where the server asks for one."""
    sslkey: str | None = Field(default=None, json_schema_extra=LOCAL)
    """File with the client certificate's private key."""
    connect_timeout_seconds: int = Field(default=15, ge=1, le=300)
    """How long to wait for the server to answer."""
    statement_timeout_seconds: int = Field(default=0, ge=0, le=7 * 86400)
    """How long the server may work on one read, waiting for a slow warehouse included; 0 is without limit."""

    @property
    def where(self) -> str:
        """The server, for messages."""
        return f"PostgreSQL at {self.host}:{self.port}"


class CopyConnections:
    """Connections to one server, all reading the same snapshot once `begin` was called; their asyncio loop lives in a thread of its own.

    Every method raises EltErrors only (see `translated`). `settings` are SET LOCAL statements, so that poolers keep nothing of them.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        application_name: str,
        settings: str,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._config = config
        self._application_name = application_name
        timeout = f"SET LOCAL statement_timeout = {config.statement_timeout_seconds * 1000}"
        # the pause between two statements is the warehouse's, not ours
        self._settings = f"{settings.strip()}; SET LOCAL idle_in_transaction_session_timeout = 0; {timeout}"
        self._connections: list[Any] = []
        self._pump = LoopThread(f"copy-{config.database}")
        try:
            guard_loop(self._pump.loop, config.host, environ)
            self._connections.append(self._run(self._connect()))
        except BaseException:
            self.close()
            raise

    def fetch(self, sql: str, *arguments: Any) -> list[Mapping[str, Any]]:
        """All rows of ``sql``, for small questions."""
        rows: list[Mapping[str, Any]] = self._run(self._connections[0].fetch(sql, *arguments))
        return rows

    def begin(self) -> None:
        """Begin the read-only transaction; its first query takes the snapshot."""
        self._run(self._connections[0].execute(f"{_BEGIN}; {self._settings}"))

    def share(self, count: int) -> int:
        """Add connections until ``count`` share the snapshot, or the server has no more. Returns how many there are."""
        return int(self._run(self._share(count)))

    def copy(self, selects: Sequence[str], block_bytes: int, *, what: str) -> Generator[bytes]:
        """CSV of each of ``selects`` on a connection of its own, in blocks of about ``block_bytes`` that end with a row.

        Order is kept within one SELECT. ``what`` names the table in errors. Closing the iterator cancels the queries.
        """
        blocks = BlockQueue(self._pump, (len(selects) + 1) * block_bytes)
        copying = self._pump.start(blocks.fill(lambda: self._copy_all(selects, blocks, block_bytes)))
        try:
            yield from blocks
        except EltError:
            raise
        except Exception as error:
            raise translated(error, what, self._config) from None
        finally:
            copying.cancel()

    def close(self) -> None:
        """Cancel what runs on the server, disconnect, end the thread. Idempotent."""
        try:
            if self._connections:
                self._pump.run(self._disconnect())
        finally:
            self._pump.close()

    def _run(self, work: Any) -> Any:
        try:
            return self._pump.run(work)
        except EltError:
            raise
        except Exception as error:
            raise translated(error, self._config.where, self._config) from None

    async def _connect(self) -> Any:
        return await connect(self._config, self._application_name)

    async def _share(self, count: int) -> int:
        import asyncpg

        snapshot = await self._connections[0].fetchval("SELECT pg_export_snapshot()")
        while len(self._connections) < count:
            try:
                self._connections.append(await self._connect())
                await self._connections[-1].execute(
                    f"{_BEGIN}; SET TRANSACTION SNAPSHOT '{snapshot}'; {self._settings}"
                )
            except (asyncpg.PostgresError, OSError):
                # fewer connections read everything too, only slower
                await asyncio.gather(*(goodbye(c) for c in self._connections[1:]))
                del self._connections[1:]
                break
        return len(self._connections)

    async def _copy_all(self, selects: Sequence[str], blocks: BlockQueue, block_bytes: int) -> None:
        async with asyncio.TaskGroup() as group:
            for connection, select in zip(self._connections, selects, strict=False):
                group.create_task(_copy(connection, select, Blocks(blocks, block_bytes)))

    async def _disconnect(self) -> None:
        connections, self._connections = self._connections, []
        running = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in running:
            task.cancel()  # asyncpg then asks the server to cancel the query
        if running:
            _, stuck = await asyncio.wait(running, timeout=_GOODBYE_SECONDS)
            if stuck:
                for connection in connections:
                    connection.terminate()
        await asyncio.gather(*(goodbye(c) for c in connections))


async def connect(config: ServerConfig, application_name: str) -> Any:
    """A connection of the driver. Raises the driver's errors, see `translated`, and ConfigError for TLS files that are not there."""
    import asyncpg

    return await asyncpg.connect(
        dsn=f"postgresql:///?{urlencode(_tls(config))}",
        host=config.host,
        port=config.port,
        user=config.user,
        database=config.database,
        # empty and not None, for which the driver takes PGPASSWORD or a file of passwords: they may be of the store, and the host is anybody's
        password=config.password.get_secret_value() if config.password else "",
        timeout=config.connect_timeout_seconds,
        statement_cache_size=0,  # poolers in transaction mode know no prepared statements
        server_settings={"application_name": application_name},
    )


async def _copy(connection: Any, select: str, blocks: Blocks) -> None:
    await connection.copy_from_query(select, output=blocks.add, format="csv")
    await blocks.flush()


async def goodbye(connection: Any) -> None:
    """Close ``connection`` politely, or at once when the server does not answer."""
    try:
        await connection.close(timeout=_GOODBYE_SECONDS)
    except Exception:
        connection.terminate()


def _tls(config: ServerConfig) -> dict[str, str]:
    """The driver's TLS settings. Raises ConfigError for files that are not there."""
    files = {key: value for key in ("sslrootcert", "sslcert", "sslkey") if (value := getattr(config, key))}
    for key, path in files.items():
        if not Path(path).is_file():
            raise ConfigError(f"{key} names {path}, which is not a file.", fix="Correct the path.")
    return {"sslmode": config.sslmode, **files}


_BY_STATE: tuple[tuple[str, type[EltError], str, str], ...] = (
    ("28", AuthError, "refused the role or its password", "Check user and password, and the server's pg_hba.conf."),
    ("42501", AuthError, "says that permission is denied", "Grant the role SELECT on the table and USAGE on its schema."),
    ("3D", ConfigError, "has no such database", "Correct `database`."),
    ("42P01", NotFoundError, "is gone", "Run discover to see what there is."),
    ("42703", NotFoundError, "lost a column while it was read", "Run discover to see what there is."),
    ("3F", NotFoundError, "lost its schema", "Run discover to see what there is."),
    ("57014", TransientError, "took longer than statement_timeout", "Raise statement_timeout_seconds, or read when it is quieter."),
    ("08", TransientError, "lost the connection", "It is tried again."),
    ("40", TransientError, "was in conflict with other transactions", "It is tried again."),
    ("53", TransientError, "has run out of connections, memory or disk", "It is tried again."),
    ("55", TransientError, "is locked or not ready", "It is tried again."),
    ("57P", TransientError, "is shutting down, starting, or ended the session", "It is tried again."),
    ("72", TransientError, "no longer keeps the snapshot", "It is tried again."),
    ("22", SourceError, "holds a value that its query cannot convert", "Exclude the column, or choose another setting for it."),
)  # fmt: skip


def translated(error: Exception, what: str, config: ServerConfig) -> EltError:
    """The EltError for what the driver raised while ``what`` was read; never with the server's text, which may show values."""
    import asyncpg

    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, EltError):
        return error
    if isinstance(error, asyncpg.PostgresError):
        return _by_state(error, what)
    if isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError | EOFError):
        return _unreachable(error, config)
    return SourceError(f"{what} could not be read: {type(error).__name__}.")


def _by_state(error: Any, what: str) -> EltError:
    state: str = error.sqlstate or "XX000"
    for prefix, kind, text, fix in _BY_STATE:
        if state.startswith(prefix):
            return kind(f"{what} {text} (SQLSTATE {state}).", fix=fix)
    return SourceError(f"{what} could not be read: the server answered {type(error).__name__} (SQLSTATE {state}).")


def _unreachable(error: Exception, config: ServerConfig) -> EltError:
    if isinstance(error, ssl.SSLError):
        what = f"{config.where} has a certificate that sslmode {config.sslmode} does not accept."
        return ConfigError(what, fix="Check sslrootcert and host.")
    if isinstance(error, ConnectionError) and "SSL" in str(error):
        return ConfigError(
            f"{config.where} offers no TLS, which sslmode {config.sslmode} asks for.", fix="Correct sslmode."
        )
    return TransientError(
        f"{config.where} cannot be reached or closed the connection ({type(error).__name__}).",
        fix="Check host and port, and whether the server runs.",
    )
