"""From our settings to one of dlt's destinations: credentials opened, options checked, transactions asked for."""

import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from elt_dagster.errors import ConfigError, nearest

Credentials = SecretStr | dict[str, SecretStr | int | bool] | None


def build(name: str, credentials: Credentials, replace_strategy: str, options: Mapping[str, Any]) -> Any:
    """dlt's destination called ``name``. Raises ConfigError for one without SQL tables and for options it does not have."""
    from dlt.common.destination.reference import DestinationReference
    from dlt.destinations.job_client_impl import SqlJobClientBase

    kind = DestinationReference.find(name)
    made = kind(credentials=opened(credentials), replace_strategy=replace_strategy)
    if not issubclass(made.client_class, SqlJobClientBase) or "lance" in name:
        raise ConfigError(
            f"dlt's destination {name} has no tables that can be written with SQL, so a checkpoint has no place there.",
            fix="Choose a SQL warehouse, such as bigquery, redshift, clickhouse, mssql, athena or sqlalchemy.",
        )
    # once: dlt looks into every place where a setting might be to answer this
    capabilities = made.capabilities()
    _check_options(name, made, capabilities, options)
    return kind(
        credentials=opened(credentials), replace_strategy=replace_strategy, **{**_transactions(capabilities), **options}
    )


def opened(credentials: Credentials) -> Any:
    """Credentials as dlt wants them: the only place where they are open."""
    if isinstance(credentials, SecretStr) or credentials is None:
        return credentials.get_secret_value() if credentials else None
    return {k: v.get_secret_value() if isinstance(v, SecretStr) else v for k, v in credentials.items()}


def _check_options(name: str, made: Any, capabilities: Any, options: Mapping[str, Any]) -> None:
    """dlt drops an argument that it does not know and says so in its log alone."""
    if not options:
        return
    known = {
        *made.spec.get_resolvable_fields(),
        *type(capabilities).get_resolvable_fields(),
        *inspect.signature(type(made).__init__).parameters,
    } - {"self", "kwargs", "credentials"}
    for option in options:
        if option not in known:
            raise ConfigError(f"dlt's destination {name} has no option {option!r}.", fix=nearest(option, sorted(known)))


def _transactions(capabilities: Any) -> dict[str, bool]:
    """That a merge and a replace are one transaction: dlt 1.31 wraps only statements that hold DDL where its destination leaves this open.

    DuckDB, PostgreSQL, Redshift, SQL Server and others do; their DELETE is then committed before the INSERT, and lost rows with it when that fails.
    """
    open_question = capabilities.supports_transactions is None and capabilities.supports_ddl_transactions
    return {"supports_transactions": True} if open_question else {}
