"""Snowflake signs the destination contract, against a stand-in, and keeps some promises of its own."""

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from elt_dagster.destinations._snowflake_session import Session
from elt_dagster.destinations._snowflake_settings import SnowflakeConfig
from elt_dagster.destinations.snowflake import Snowflake
from elt_dagster.testing.destination import Capabilities, DestinationContract
from tests import snowflake_server


@pytest.fixture(scope="session")
def port() -> Iterator[int]:
    """Port of the stand-in."""
    with snowflake_server.running() as port:
        yield port


@pytest.fixture
def config(port: int) -> Iterator[dict[str, Any]]:
    """Settings of a database that no other test uses."""
    settings: dict[str, Any] = {
        "account": "standin", "user": "loader", "password": "SECRET", "warehouse": snowflake_server.WAREHOUSE,
        "database": f"db_{uuid.uuid4().hex[:8]}", "host": "127.0.0.1", "port": port, "protocol": "http",
        "login_timeout_seconds": 10, "network_timeout_seconds": 5,
    }  # fmt: skip
    yield settings
    execute({**settings, "database": "home"}, f"DROP DATABASE IF EXISTS {settings['database']}")


def execute(config: Mapping[str, Any], statement: str) -> None:
    with Session(SnowflakeConfig.model_validate(dict(config))) as session:
        session.run(statement)


class TestContract(DestinationContract):
    warehouse = Snowflake
    can = Capabilities(
        stand_in="fakesnow 0.12.1",
        unsupported={
            "test_a_schema_of_any_name_will_do": "the stand-in cannot work in a schema with a quote in its name"
        },
        many_columns=100,  # the stand-in takes seconds to parse a statement with more
        missing_types={
            "uint8": "Snowflake has no unsigned types; it comes back as int16",
            "uint16": "Snowflake has no unsigned types; it comes back as int32",
            "uint32": "Snowflake has no unsigned types; it comes back as int64",
            "uint64": "Snowflake has no unsigned types; it comes back as decimal(20,0)",
            "float": "FLOAT has 64 bits",
            "uuid": "kept as text",
            "interval": "kept as text",
            "json": "VARIANT keeps the value, not the text",
            "timestamp_ns": "the stand-in has microseconds only",
            "timestamp_ns_utc": "the stand-in has microseconds only",
        },
    )

    @pytest.fixture
    def config(self, config: dict[str, Any]) -> dict[str, Any]:
        return config

    def run_sql(self, config: Mapping[str, Any], statement: str) -> None:
        execute(config, statement)
