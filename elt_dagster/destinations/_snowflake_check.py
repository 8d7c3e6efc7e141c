"""Whether an account can be loaded into, in words for a person, with the GRANT that is missing."""

import json

from elt_dagster.destinations._snowflake_session import Session
from elt_dagster.destinations._snowflake_settings import SnowflakeConfig
from elt_dagster.destinations.sql import quote
from elt_dagster.model import CheckResult

_WHO = (
    "SELECT CURRENT_VERSION(), CURRENT_DATABASE(), CURRENT_WAREHOUSE(), CURRENT_ROLE(), CURRENT_USER(), "
    "CURRENT_AVAILABLE_ROLES()"
)


def answer(session: Session, config: SnowflakeConfig) -> CheckResult:
    """What is wrong first, else where we are. The driver's errors come out as they are."""
    ((version, database, warehouse, role, user, roles),) = session.rows(_WHO)
    name = quote(role or "PUBLIC")
    if database is None:
        return CheckResult(
            ok=False,
            message=f"There is no database {config.database}, or the role {name} may not use it. "
            f"Run: GRANT USAGE ON DATABASE {config.database} TO ROLE {name};",
        )
    if warehouse is None:
        return CheckResult(ok=False, message=_no_warehouse(config, name))
    if not _may_make_schemas(session, database, {role, *json.loads(roles or "[]")}):
        return CheckResult(
            ok=True,
            message=f"Connected to {config.where} as {user}, but the role {name} may not make schemas in {database}: it can only load into schemas "
            f"that grant it USAGE, CREATE TABLE and CREATE STAGE. Otherwise run: GRANT CREATE SCHEMA ON DATABASE {quote(database)} TO ROLE {name};",
        )
    where = f"{database} in {config.where} as {user} with role {name} and warehouse {warehouse}"
    return CheckResult(ok=True, message=f"Connected to {where}: Snowflake {version}.")


def _no_warehouse(config: SnowflakeConfig, role: str) -> str:
    if config.warehouse is None:
        return f"{config.where} gives {config.user or 'this user'} no warehouse by default. Set `warehouse`."
    grant = f"GRANT USAGE, OPERATE ON WAREHOUSE {config.warehouse} TO ROLE {role};"
    return f"There is no warehouse {config.warehouse}, or the role {role} may not use it. Run: {grant}"


def _may_make_schemas(session: Session, database: str, roles: set[str]) -> bool:
    grants = session.named(f"SHOW GRANTS ON DATABASE {quote(database)}")
    return any(g["grantee_name"] in roles and g["privilege"] in ("CREATE SCHEMA", "OWNERSHIP", "ALL") for g in grants)
