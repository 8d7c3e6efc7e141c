"""What a user tells us about a Snowflake warehouse."""

from typing import Any, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from elt_dagster.sdk.connector import Config

APPLICATION = "elt_dagster"


class SnowflakeConfig(Config):
    """How to reach an account, as whom, and where the tables go. One kind of credentials is needed: a key, a password or token, or OAuth."""

    account: str = Field(min_length=1, examples=["myorg-account123"])
    """Account identifier, such as `myorg-account123`."""
    database: str = Field(min_length=1, examples=["ANALYTICS"])
    """Database that the schemas are in. As in SQL, `analytics` means ANALYTICS; write `"analytics"` for a name in lower case."""
    warehouse: str | None = None
    """Virtual warehouse that does the work; by default the user's own."""
    role: str | None = None
    """Role to work as; by default the user's own. It needs USAGE on warehouse and database, and CREATE SCHEMA on the database."""
    user: str | None = None
    """User to log in as; OAuth tells it by itself."""
    private_key: SecretStr | None = None
    """Private key of the user, as PEM text (PKCS #8 or PKCS #1)."""
    private_key_passphrase: SecretStr | None = None
    """Passphrase of the private key, where it has one."""
    password: SecretStr | None = None
    """Password of the user."""
    access_token: SecretStr | None = None
    """Programmatic access token of the user."""
    oauth_token: SecretStr | None = None
    """OAuth access token that somebody else keeps fresh."""
    oauth_client_id: str | None = None
    """Client id for the OAuth client credentials flow."""
    oauth_client_secret: SecretStr | None = None
    """Client secret for the OAuth client credentials flow."""
    oauth_token_url: str | None = None
    """Where the identity provider gives out tokens, for the client credentials flow."""
    oauth_scope: str | None = None
    """Scope to ask for, such as `session:role:LOADER`."""
    host: str | None = None
    """Host name, for a private link or a stand-in; by default `<account>.snowflakecomputing.com`."""
    port: int = Field(default=443, ge=1, le=65535)
    """Port of the host."""
    protocol: Literal["https", "http"] = "https"
    """How to talk to the host; `http` is for stand-ins on this machine."""
    login_timeout_seconds: int = Field(default=60, ge=1, le=600)
    """How long to try to log in."""
    network_timeout_seconds: int = Field(default=300, ge=1, le=86400)
    """How long to go on trying when the network fails in the middle."""
    statement_timeout_seconds: int = Field(default=0, ge=0, le=7 * 86400)
    """How long one statement may take; 0 leaves it to the account."""
    lock_timeout_seconds: int = Field(default=600, ge=1, le=86400)
    """How long to wait for somebody else's lock on a table before the load is tried again later."""

    @field_validator("private_key")
    @classmethod
    def _is_pem(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and "-----BEGIN" not in value.get_secret_value():
            raise ValueError("must be the key itself, in PEM form: it begins with -----BEGIN")
        return value

    @model_validator(mode="after")
    def _has_one_login(self) -> Self:
        given = [
            name
            for name in ("private_key", "password", "access_token", "oauth_token", "oauth_client_id")
            if getattr(self, name)
        ]
        if len(given) != 1:
            found = f"not {' and '.join(given)}" if given else "none is set"
            raise ValueError(f"needs one of private_key, password, access_token, oauth_token, oauth_client_id; {found}")
        if given[0] in ("private_key", "password", "access_token") and not self.user:
            raise ValueError(f"{given[0]} needs user")
        if self.oauth_client_id and not (self.oauth_client_secret and self.oauth_token_url):
            raise ValueError("oauth_client_id needs oauth_client_secret and oauth_token_url")
        return self

    @property
    def where(self) -> str:
        """The account, for messages."""
        return f"Snowflake account {self.account}"

    @property
    def session_parameters(self) -> dict[str, Any]:
        """Parameters of every session: plain formats whatever the account's defaults are, for values travel as text and numbers in UTC."""
        instants = 'YYYY-MM-DD"T"HH24:MI:SS.FF9'
        parameters: dict[str, Any] = {
            "QUERY_TAG": APPLICATION,
            "TIMEZONE": "UTC",
            "TIMESTAMP_NTZ_OUTPUT_FORMAT": instants,
            "TIMESTAMP_TZ_OUTPUT_FORMAT": f"{instants}TZH:TZM",
            "TIMESTAMP_LTZ_OUTPUT_FORMAT": f"{instants}TZH:TZM",
            "DATE_OUTPUT_FORMAT": "YYYY-MM-DD",
            "TIME_OUTPUT_FORMAT": "HH24:MI:SS.FF9",
            "BINARY_OUTPUT_FORMAT": "HEX",
            "QUOTED_IDENTIFIERS_IGNORE_CASE": False,
            "AUTOCOMMIT": True,
            "LOCK_TIMEOUT": self.lock_timeout_seconds,
            "CLIENT_TELEMETRY_ENABLED": False,
        }
        if self.statement_timeout_seconds:
            parameters["STATEMENT_TIMEOUT_IN_SECONDS"] = self.statement_timeout_seconds
        return parameters
