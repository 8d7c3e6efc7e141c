"""What a user tells us about a Databricks warehouse."""

from enum import StrEnum

from pydantic import Field, SecretStr, field_validator, model_validator

from elt_dagster.sdk.connector import Config
from elt_dagster.sdk.places import LOCAL

_LOCAL = ("http://localhost", "http://127.0.0.1")


class Transactions(StrEnum):
    """How the rows and the state of a load are committed together."""

    AUTO = "auto"
    ATOMIC = "atomic"
    IDEMPOTENT = "idempotent"


class JsonColumns(StrEnum):
    """What a JSON column is in a table."""

    VARIANT = "variant"
    STRING = "string"


class DatabricksConfig(Config):
    """How to reach a SQL warehouse, and how to load through it. One of the ways to sign in is needed."""

    host: str = Field(min_length=1, examples=["https://dbc-a1b2345c-d6e7.cloud.databricks.com"])
    """The workspace's URL."""
    warehouse_id: str = Field(pattern=r"^\w+$", examples=["1234567890abcdef"])
    """The SQL warehouse that runs the statements: the last part of its HTTP path. It may sleep; loads wait until it is up."""
    catalog: str = Field(min_length=1, max_length=255)
    """The Unity Catalog catalog that holds the schemas. It has to exist."""
    client_id: str | None = None
    """A service principal's application id (machine to machine), or the OAuth client a `refresh_token` was given to."""
    client_secret: SecretStr | None = None
    """The service principal's OAuth secret."""
    refresh_token: SecretStr | None = None
    """A person's OAuth refresh token (user to machine)."""
    profile: str | None = Field(default=None, json_schema_extra=LOCAL)
    """A profile of the Databricks CLI on this machine, for a person who signed in with `databricks auth login`."""
    token: SecretStr | None = None
    """A personal access token, where OAuth is not possible."""
    staging_volume: str = Field(default="_elt_staging", pattern=r"^[^./\s]+(\.[^./\s]+\.[^./\s]+)?$")
    """The Unity Catalog volume for rows that are not committed yet: a name, made in each schema that is loaded, or an existing `catalog.schema.volume`."""
    transactions: Transactions = Transactions.AUTO
    """`atomic` commits in one transaction and refuses to load without; `idempotent` never uses transactions; `auto` uses them where the
    workspace allows them."""
    json_columns: JsonColumns = JsonColumns.VARIANT
    """Whether JSON becomes VARIANT, which can be queried by path, or STRING, which keeps the source's spelling."""
    startup_timeout_seconds: float = Field(default=900, ge=0, le=7200)
    """How long to wait for a warehouse that sleeps or has a full queue, before the load is tried again later."""
    statement_timeout_seconds: float = Field(default=0, ge=0, le=172800)
    """How long one statement may run before it is cancelled; 0 is without limit."""

    @field_validator("host")
    @classmethod
    def _is_a_workspace(cls, value: str) -> str:
        url = value.rstrip("/") if "://" in value else f"https://{value.rstrip('/')}"
        if not url.startswith(("https://", *_LOCAL)):
            raise ValueError("must be an https:// address")
        if url.count("/") > 2 or "?" in url or "@" in url:
            raise ValueError("must be the workspace's address alone, without a path")
        return url

    @model_validator(mode="after")
    def _signs_in_one_way(self) -> "DatabricksConfig":
        ways = [n for n in ("client_secret", "refresh_token", "profile", "token") if getattr(self, n) is not None]
        if len(ways) != 1:
            given = f"{' and '.join(ways)} are given" if ways else "none is given"
            raise ValueError(
                f"set one of client_secret (with client_id), refresh_token, profile or token to sign in; {given}"
            )
        if "client_secret" in ways and not self.client_id:
            raise ValueError("client_secret needs client_id, the service principal's application id")
        return self
