"""What a user tells us about a PostgreSQL warehouse."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from elt_dagster.sdk.pgwire import ServerConfig


class StagingKind(StrEnum):
    """Where rows wait for their commit."""

    TEMP = "temp"
    UNLOGGED = "unlogged"


class Replace(StrEnum):
    """How a full refresh puts new rows in the place of old ones."""

    DELETE = "delete"
    TRUNCATE = "truncate"
    SWAP = "swap"


class PostgresConfig(ServerConfig):
    """How to reach a database, and how to load it."""

    user: str
    """Role to connect as; it needs CREATE and TEMPORARY on the database, or CREATE and USAGE on the schemas it loads."""
    statement_timeout_seconds: int = Field(default=0, ge=0, le=7 * 86400)
    """How long the server may work on one statement; 0 is without limit."""
    lock_timeout_seconds: float = Field(default=60, ge=0, le=86400)
    """How long to wait for somebody else's lock before the load is tried again later; 0 is without limit."""
    staging: StagingKind = StagingKind.TEMP
    """Where rows wait for their commit: in temporary tables, or in unlogged ones of the target schema for roles without TEMPORARY."""
    replace: Replace = Replace.DELETE
    """How a full refresh replaces rows. `delete` never makes a reader wait, keeps views, grants and indexes, and leaves the old rows to vacuum; `truncate` is faster and leaves no
    dead rows, but readers wait while it loads; `swap` puts a new table in the place of the old one, keeps grants, and is refused under views.
    A refresh that keeps deleted rows replaces none, and so does none of the three."""
    nul_characters: Literal["refuse", "remove"] = "refuse"
    """What to do with NUL characters in text and JSON, which PostgreSQL cannot hold: refuse the row, which then is in `<table>__rejected`, or remove and count them."""
    work_mem: str = Field(default="64MB", pattern=r"^\d+(kB|MB|GB)$")
    """Memory for each sort or join of a merge on the server."""

    @property
    def session_settings(self) -> dict[str, str]:
        """Server settings for every connection."""
        return {
            "statement_timeout": str(self.statement_timeout_seconds * 1000),
            "lock_timeout": str(int(self.lock_timeout_seconds * 1000)),
            "work_mem": self.work_mem,
        }
