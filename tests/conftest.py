"""Fixtures that more than one test module needs."""

import os
from collections.abc import Iterator

import pytest

from elt_dagster.testing._destination_loads import LoadTests
from tests import servers

EVERYTHING = "ELT_DAGSTER_TEST_ALL"
LONG = ("test_history_keeps_the_last_twenty_newest_first", "test_a_large_load_arrives_whole")
"""Tests of loads that take many of them, or a large one."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A variant of a warehouse that signed the contract already repeats only what variants differ in, unless all is asked for."""
    if os.environ.get(EVERYTHING):
        return
    repeated = [item for item in items if item.get_closest_marker("again") and not _is_about_loads(item)]
    config.hook.pytest_deselected(items=repeated)
    left_out = set(repeated)
    items[:] = [item for item in items if item not in left_out]


def _is_about_loads(item: pytest.Item) -> bool:
    name = getattr(item, "originalname", item.name)
    return name in vars(LoadTests) and name not in LONG


@pytest.fixture(scope="session")
def postgres_server() -> str:
    """URL of a superuser on a real PostgreSQL server."""
    return servers.postgres_url()


@pytest.fixture
def postgres_database(postgres_server: str) -> Iterator[str]:
    """URL of an empty PostgreSQL database for one test."""
    with servers.database() as url:
        yield url
