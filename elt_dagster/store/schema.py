"""The store's tables. What a table looks like is written here once; `migrations` builds it, and a test compares the two.

Names carry the prefix ``elt_``, and Alembic's bookkeeping is in ``elt_version``: the store may live in the database that Dagster
itself uses, and must not meet its ``alembic_version``. JSON is kept as text, so that one damaged row is found when that row is
read, and not by the driver in the middle of a listing.
"""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

HEAD = "0005"
"""The newest migration. Revisions are numbers of four digits, so that newer and older can be told apart without the scripts."""
VERSION_TABLE = "elt_version"
DEFAULT_WORKSPACE = "default"


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """A moment in UTC, aware in Python; SQLite keeps it without its zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class database_now(FunctionElement[float]):  # noqa: N801 - reads as the SQL function it is
    """Seconds since 1970 by the database's clock, the only one all processes share."""

    type = sa.Double()
    inherit_cache = True


@compiles(database_now, "sqlite")
def _sqlite_now(element: Any, compiler: Any, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_now, "postgresql")
def _postgres_now(element: Any, compiler: Any, **_: Any) -> str:
    # now() would be the start of the transaction, before it waited for a lock
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


def _id() -> sa.Column[str]:
    return sa.Column("id", sa.String(36), primary_key=True)


def _belongs_to(table: str, column: str, **options: Any) -> sa.Column[str]:
    return sa.Column(column, sa.String(36), sa.ForeignKey(f"{table}.id", **options), nullable=False)


def _history() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        # the workspace's revision that the row's last change made
        sa.Column("revision", sa.BigInteger, nullable=False),
    )


workspaces = sa.Table(
    "elt_workspaces",
    metadata,
    _id(),
    sa.Column("name", sa.String(255), nullable=False, unique=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
    # sealed; made when the first hashed column needs it
    sa.Column("salt", sa.Text),
    sa.Column("created_at", UtcDateTime, nullable=False),
    # the warehouse of syncs that name none; no foreign key, for it may be deleted
    sa.Column("default_destination_id", sa.String(36)),
)

connections = sa.Table(
    "elt_connections",
    metadata,
    _id(),
    _belongs_to("elt_workspaces", "workspace_id"),
    sa.Column("name", sa.String(63), nullable=False),
    sa.Column("connector", sa.String(255), nullable=False),
    sa.Column("config", sa.Text, nullable=False),
    *_history(),
    # what people call it; the name where there is none
    sa.Column("label", sa.String(255)),
    sa.UniqueConstraint("workspace_id", "name"),
    sa.Index(None, "workspace_id", "created_at", "id"),
)

syncs = sa.Table(
    "elt_syncs",
    metadata,
    _id(),
    _belongs_to("elt_workspaces", "workspace_id"),
    sa.Column("slug", sa.String(63), nullable=False),
    _belongs_to("elt_connections", "connection_id"),
    _belongs_to("elt_connections", "destination_id"),
    sa.Column("dataset", sa.String(63), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    # the SyncSpec without its streams
    sa.Column("spec", sa.Text, nullable=False),
    *_history(),
    # its display name, to be searched
    sa.Column("title", sa.String(255)),
    # who made and who last changed it: the id of an API key, or a name; empty where it was a file
    sa.Column("created_by", sa.String(255)),
    sa.Column("updated_by", sa.String(255)),
    # what the REST dialects keep of a sync that is no word of the model
    sa.Column("envelope", sa.Text),
    sa.UniqueConstraint("workspace_id", "slug"),
    sa.Index(None, "workspace_id", "created_at", "id"),
    sa.Index(None, "connection_id"),
    sa.Index(None, "destination_id", "dataset"),
)

bindings = sa.Table(
    "elt_bindings",
    metadata,
    _id(),
    _belongs_to("elt_syncs", "sync_id", ondelete="CASCADE"),
    sa.Column("stream", sa.Text, nullable=False),
    sa.Column("table_name", sa.String(63), nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    # the TableBinding
    sa.Column("spec", sa.Text, nullable=False),
    # the Stream as the source described it
    sa.Column("discovered", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime),
    sa.Column("updated_at", UtcDateTime),
    sa.UniqueConstraint("sync_id", "stream"),
    sa.Index(None, "created_at", "id"),
)

leases = sa.Table(
    "elt_leases",
    metadata,
    # no foreign key: a sync that stands in a defs.yaml has bindings, and leases, but no rows
    sa.Column("binding_id", sa.String(255), primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("fence", sa.BigInteger, nullable=False),
    # seconds since 1970 by the database's clock; 0 when released
    sa.Column("expires_at", sa.Double, nullable=False),
)

rate_budgets = sa.Table(
    "elt_rate_budgets",
    metadata,
    # workspace and name; no foreign key, for a row outlives a connection that is made anew
    sa.Column("connection", sa.String(255), primary_key=True),
    # seconds since 1970 by the database's clock, see sdk.budget.Page
    sa.Column("next_at", sa.Double, nullable=False),
    sa.Column("hold_until", sa.Double, nullable=False),
    sa.Column("left_over", sa.Double, nullable=False),
    sa.Column("left_over_until", sa.Double, nullable=False),
)

sync_versions = sa.Table(
    "elt_sync_versions",
    metadata,
    # what a sync was before a change or its deletion; no foreign keys, for it outlives what it names
    sa.Column("sync_id", sa.String(36), primary_key=True),
    sa.Column("revision", sa.BigInteger, primary_key=True),
    # the revision that ended it
    sa.Column("until_revision", sa.BigInteger, nullable=False),
    sa.Column("workspace_id", sa.String(36), nullable=False),
    sa.Column("slug", sa.String(63), nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    # its rows of elt_bindings
    sa.Column("bindings", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime, nullable=False),
    sa.Index(None, "workspace_id", "until_revision"),
)

first_runs = sa.Table(
    "elt_first_runs",
    metadata,
    # which syncs had the run that their creation starts; outside elt_syncs, for writing it is no change of the sync
    sa.Column("sync_id", sa.String(36), primary_key=True),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("seen_at", UtcDateTime, nullable=False),
)

full_refreshes = sa.Table(
    "elt_full_refreshes",
    metadata,
    # a binding whose next run reads everything again; no foreign key, as for leases
    sa.Column("binding_id", sa.String(255), primary_key=True),
    # another one for each request, so that a run takes away only the mark it honoured
    sa.Column("mark_id", sa.String(36), nullable=False),
    sa.Column("reset_history", sa.Boolean, nullable=False),
    sa.Column("requested_by", sa.String(255), nullable=False),
    sa.Column("requested_at", UtcDateTime, nullable=False),
)

api_keys = sa.Table(
    "elt_api_keys",
    metadata,
    _id(),
    _belongs_to("elt_workspaces", "workspace_id"),
    sa.Column("name", sa.String(255), nullable=False),
    # SHA-256 of the whole key, in hex
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    # its first characters, to tell keys apart
    sa.Column("hint", sa.String(16), nullable=False),
    sa.Column("requests_per_minute", sa.Integer),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime),
    sa.Column("revoked_at", UtcDateTime),
    sa.Column("last_used_at", UtcDateTime),
    sa.Index(None, "workspace_id", "created_at", "id"),
)

replies = sa.Table(
    "elt_replies",
    metadata,
    # what a request with an Idempotency-Key was answered
    sa.Column("workspace_id", sa.String(36), primary_key=True),
    sa.Column("idempotency_key", sa.String(255), primary_key=True),
    # SHA-256 of method, path, query and body
    sa.Column("request", sa.String(64), nullable=False),
    # NULL while it is being carried out
    sa.Column("status", sa.Integer),
    sa.Column("headers", sa.Text),
    sa.Column("body", sa.Text),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Index(None, "started_at"),
)

bridges = sa.Table(
    "elt_bridges",
    metadata,
    # the way of a person to a new connection: consent page or form
    _id(),
    _belongs_to("elt_workspaces", "workspace_id"),
    sa.Column("connector", sa.String(255), nullable=False),
    sa.Column("label", sa.String(255), nullable=False),
    sa.Column("redirect_uri", sa.Text, nullable=False),
    # the caller's own, handed back unread
    sa.Column("caller_state", sa.Text),
    # the connection that is authorised anew; after the end, the one that came of it
    sa.Column("connection_id", sa.String(36)),
    # SHA-256 of what makes the page's address unguessable
    sa.Column("token_digest", sa.String(64), nullable=False, unique=True),
    # SHA-256 of the OAuth state that is out now, and the sealed PKCE verifier and settings that go with it
    sa.Column("state_digest", sa.String(64), unique=True),
    sa.Column("sealed", sa.Text),
    sa.Column("created_by", sa.String(255), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Column("used_at", UtcDateTime),
    sa.Index(None, "workspace_id", "created_at", "id"),
)

oauth_clients = sa.Table(
    "elt_oauth_clients",
    metadata,
    # a workspace's own OAuth client of a connector
    sa.Column("workspace_id", sa.String(36), sa.ForeignKey("elt_workspaces.id"), primary_key=True),
    sa.Column("connector", sa.String(255), primary_key=True),
    sa.Column("client_id", sa.Text, nullable=False),
    # sealed
    sa.Column("client_secret", sa.Text),
    # settings that every connection of this client gets, such as its login host
    sa.Column("settings", sa.Text, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
)
