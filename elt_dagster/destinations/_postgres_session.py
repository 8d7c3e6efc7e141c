"""One connection to PostgreSQL, used from plain code: the driver (asyncpg) runs in a thread of its own.

So a COPY can go out while the next rows are read and encoded. The driver's errors come out as they are; see `_postgres_errors.explaining`.
"""

import contextlib
from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal

from elt_dagster.destinations.base import TableRef
from elt_dagster.destinations.sql import quote
from elt_dagster.sdk.pgwire import ServerConfig, connect, goodbye
from elt_dagster.sdk.pump import BlockQueue, Blocks, LoopThread

APPLICATION_NAME = "elt_dagster destination"
JOIN_MEMORY = "64MB"
"""What one large join may take of the server's memory (twice as much from PostgreSQL 15 on); what needs more goes to disk."""
_MESSAGE_BYTES = 256 * 1024
# Plain output, whatever the role's defaults are; names of ours are always qualified, so nobody's schema can get in between.
_SETTINGS: dict[str, str] = {
    "TimeZone": "UTC", "DateStyle": "ISO, YMD", "IntervalStyle": "postgres", "extra_float_digits": "1",
    "bytea_output": "hex", "search_path": "pg_catalog", "idle_in_transaction_session_timeout": "0", "jit": "off",
    "tcp_keepalives_idle": "60", "default_transaction_isolation": "read committed",
}  # fmt: skip
_PREPARE = (
    "SELECT set_config(name, setting, false) FROM unnest($1::text[], $2::text[]) AS wanted (name, setting) "
    # this one came with PostgreSQL 14; the time between two batches is the source's, not ours
    "UNION ALL SELECT set_config('idle_session_timeout', '0', false) "
    "WHERE current_setting('server_version_num')::integer >= 140000 "
    # taken as staged rows come; with the server's 8 MB they go to disk and back for every statement
    "UNION ALL SELECT set_config('temp_buffers', '64MB', false) WHERE pg_size_bytes(current_setting('temp_buffers')) < pg_size_bytes('64MB')"
)

_ROOM = """
SELECT set_config('work_mem', $1, true)
WHERE pg_size_bytes(current_setting('work_mem')) < pg_size_bytes($1)
AND NOT EXISTS (SELECT FROM pg_stats WHERE schemaname = $2 AND tablename = $3 AND attname = $4 AND abs(correlation) > 0.9)
"""


class Session:
    """An open connection. Use from one thread, and `close` it."""

    def __init__(self, config: ServerConfig, settings: Mapping[str, str]) -> None:
        self._pump = LoopThread(f"postgres-{config.database}")
        self._connection: Any = None
        try:
            self._connection = self._pump.run(connect(config, APPLICATION_NAME))
            wanted = {**_SETTINGS, **settings}
            self.rows(_PREPARE, list(wanted), list(wanted.values()))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what runs and disconnect; the server drops temporary tables and rolls back. Idempotent."""
        connection, self._connection = self._connection, None
        try:
            if connection is not None:
                self._pump.run(goodbye(connection))
        finally:
            self._pump.close()

    @property
    def is_open(self) -> bool:
        """Whether the server is still there, as far as is known."""
        return self._connection is not None and not self._connection.is_closed()

    def rows(self, sql: str, *parameters: Any) -> list[Any]:
        """All rows of a small result; each can be asked by position and by name."""
        found: list[Any] = self._pump.run(self._connection.fetch(sql, *parameters))
        return found

    def value(self, sql: str, *parameters: Any) -> Any:
        """The first value of the first row; None if there is no row."""
        rows = self.rows(sql, *parameters)
        return rows[0][0] if rows else None

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Execute a statement; the number of rows it says it touched."""
        status: str = self._pump.run(self._connection.execute(sql, *parameters))
        last = status.rpartition(" ")[2]
        return int(last) if last.isdigit() else 0

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the body does, or roll it back when it raises."""
        self.run("BEGIN")
        try:
            yield
            self.run("COMMIT")
        except BaseException:
            if self.is_open:
                with contextlib.suppress(Exception):  # the connection may just have died; the first error tells more
                    self.run("ROLLBACK")
            raise

    def start_copy(self, schema: str, table: str, pieces: Sequence[memoryview]) -> Future[Any]:
        """Begin to send ``pieces`` of binary COPY into a table; wait for the result before anything else is asked."""
        copying = self._connection.copy_to_table(table, source=_messages(pieces), schema_name=schema, format="binary")
        return self._pump.start(copying)

    def copy_out(self, select: str, block_bytes: int) -> Generator[bytes]:
        """CSV of ``select`` in blocks of about ``block_bytes`` that end with a row. Closing the iterator cancels the query."""
        blocks = BlockQueue(self._pump, 2 * block_bytes)
        chunks = Blocks(blocks, block_bytes)

        async def copy() -> None:
            await self._connection.copy_from_query(select, output=chunks.add, format="csv")
            await chunks.flush()

        copying = self._pump.start(blocks.fill(copy))
        try:
            yield from blocks
        finally:
            copying.cancel()


async def _messages(pieces: Sequence[memoryview]) -> AsyncIterator[bytes]:
    for piece in pieces:
        for start in range(0, len(piece), _MESSAGE_BYTES):
            yield bytes(piece[start : start + _MESSAGE_BYTES])


def qualified(table: TableRef) -> str:
    """The quoted name of ``table``, with its schema."""
    return f"{quote(table.schema)}.{quote(table.name)}"


@contextlib.contextmanager
def whole_tables(session: Session) -> Iterator[None]:
    """In a transaction: statements that bring all rows of one table together with all of another, however few the planner takes them for."""
    session.run("SET LOCAL enable_nestloop = off")
    yield
    session.run("SET LOCAL enable_nestloop TO DEFAULT")


@contextlib.contextmanager
def roomy(session: Session, table: TableRef, key: str) -> Iterator[None]:
    """In a transaction: a join of ``table`` by ``key`` with so many rows that a hash of them has no room in the server's 4 MB.

    Without room the whole table goes to disk and back. Where the table's rows lie in the order of the key, a walk along the index needs no room
    and is faster than any hash: then nothing changes, nor where the server gives more anyway.
    """
    session.rows(_ROOM, JOIN_MEMORY, table.schema, table.name, key)
    yield
    session.run("SET LOCAL work_mem TO DEFAULT")


@contextlib.contextmanager
def by_place(session: Session) -> Iterator[None]:
    """In a transaction: statements that find rows by their ``ctid``, which the planner takes for far dearer than reading the whole table."""
    session.run("SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off")
    yield
    session.run("SET LOCAL enable_hashjoin TO DEFAULT; SET LOCAL enable_mergejoin TO DEFAULT")


def lock(session: Session, what: str, kind: Literal["transaction", "session"] = "transaction") -> None:
    """Wait until nobody else of ours holds ``what``, and hold it until the transaction (or the session) ends."""
    function = "pg_advisory_xact_lock" if kind == "transaction" else "pg_advisory_lock"
    session.rows(f"SELECT {function}(hashtextextended($1, 0))", f"elt_dagster {what}")
