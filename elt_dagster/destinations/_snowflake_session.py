"""One connection to Snowflake, used from plain code. The driver (snowflake-connector-python) is imported when a connection is made.

Values are bound by the server, never written into SQL; the driver's errors come out as they are, see `_snowflake_errors.explaining`.
"""

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from elt_dagster.destinations._snowflake_settings import APPLICATION, SnowflakeConfig
from elt_dagster.destinations.base import TableRef
from elt_dagster.destinations.sql import quote
from elt_dagster.errors import ConfigError


class Session:
    """An open connection. Use from one thread, and `close` it: temporary tables and stages go with it."""

    def __init__(self, config: SnowflakeConfig) -> None:
        # The driver logs statements, bound values and URLs with their tokens below WARNING.
        for name in ("snowflake.connector", "snowflake.connector.vendored", "boto3", "botocore", "urllib3"):
            logger = logging.getLogger(name)
            if logger.getEffectiveLevel() < logging.WARNING:
                logger.setLevel(logging.WARNING)
        import snowflake.connector

        self._connection: Any = snowflake.connector.connect(**_options(config))

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect; the server rolls back what is open and drops what is temporary. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(
                Exception
            ):  # the connection may just have died, and nothing is asked of it any more
                connection.close(retry=False)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a small result."""
        with self._executed(sql, parameters) as cursor:
            return list(cursor.fetchall())

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The first value of the first row; None if there is no row."""
        rows = self.rows(sql, parameters)
        return rows[0][0] if rows else None

    def named(self, sql: str) -> list[dict[str, Any]]:
        """All rows of a SHOW or DESCRIBE, by column name: their columns change from release to release."""
        with self._executed(sql, ()) as cursor:
            names = [column[0].lower() for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Execute a statement; the number of rows it touched."""
        with self._executed(sql, parameters) as cursor:
            return int(cursor.rowcount or 0)

    def result_batches(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """The driver's handles on a result, each with a ``to_arrow()`` that fetches it; they outlive this connection."""
        with self._executed(sql, parameters) as cursor:
            return list(cursor.get_result_batches() or [])

    def put(self, stage: str, name: str, content: io.BytesIO) -> None:
        """Upload ``content`` as the file ``name`` (of plain characters) into ``stage``."""
        cursor = self._connection.cursor()
        try:
            cursor.execute(f"PUT 'file:///{name}' {stage} AUTO_COMPRESS = FALSE OVERWRITE = TRUE", file_stream=content)
        finally:
            cursor.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the body does, or roll it back when it raises."""
        self.run("BEGIN")
        try:
            yield
            self.run("COMMIT")
        except BaseException:
            if self._connection is not None:
                with contextlib.suppress(Exception):  # the first error tells more
                    self.run("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _executed(self, sql: str, parameters: Sequence[Any]) -> Iterator[Any]:
        cursor = self._connection.cursor()
        try:
            cursor.execute(sql, tuple(parameters) or None)
            yield cursor
        finally:
            cursor.close()


def qualified(table: TableRef) -> str:
    """The quoted name of ``table``, with its schema."""
    return f"{quote(table.schema)}.{quote(table.name)}"


def _options(config: SnowflakeConfig) -> dict[str, Any]:
    options: dict[str, Any] = {
        "account": config.account,
        "database": config.database,
        "warehouse": config.warehouse,
        "role": config.role,
        "user": config.user,
        "host": config.host,
        "port": config.port,
        "protocol": config.protocol,
        "login_timeout": config.login_timeout_seconds,
        "network_timeout": config.network_timeout_seconds,
        "paramstyle": "qmark",
        "application": APPLICATION,
        "session_parameters": config.session_parameters,
        "arrow_number_to_decimal": True,
        # without these every new process first asks metadata services which cloud it is in, and reports its packages
        "platform_detection_timeout_seconds": 0.0,
        "log_imported_packages_in_telemetry": False,
        **_login(config),
    }
    return {name: value for name, value in options.items() if value is not None}


def _login(config: SnowflakeConfig) -> dict[str, Any]:
    if config.private_key is not None:
        return {"authenticator": "SNOWFLAKE_JWT", "private_key": _key(config)}
    if config.password is not None:
        return {"password": config.password.get_secret_value()}
    if config.access_token is not None:
        return {"authenticator": "PROGRAMMATIC_ACCESS_TOKEN", "token": config.access_token.get_secret_value()}
    if config.oauth_token is not None:
        return {"authenticator": "OAUTH", "token": config.oauth_token.get_secret_value()}
    assert config.oauth_client_secret is not None  # noqa: S101 - the settings were checked
    return {
        "authenticator": "OAUTH_CLIENT_CREDENTIALS",
        "oauth_client_id": config.oauth_client_id,
        "oauth_client_secret": config.oauth_client_secret.get_secret_value(),
        "oauth_token_request_url": config.oauth_token_url,
        "oauth_scope": config.oauth_scope or "",
    }


def _key(config: SnowflakeConfig) -> bytes:
    """The private key as the driver wants it. Raises ConfigError, without a word of the key."""
    from cryptography.hazmat.primitives import serialization

    assert config.private_key is not None  # noqa: S101 - the caller looked
    passphrase = config.private_key_passphrase
    try:
        key = serialization.load_pem_private_key(
            config.private_key.get_secret_value().encode(),
            passphrase.get_secret_value().encode() if passphrase is not None else None,
        )
    except (TypeError, ValueError) as error:
        asks = "password" in str(error).lower()
        raise ConfigError(
            f"The private key for {config.where} cannot be read{': its passphrase is missing or wrong' if asks else ''}.",
            fix="Set `private_key_passphrase`." if asks else "Give the whole PEM file, with its first and last line.",
        ) from None
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
