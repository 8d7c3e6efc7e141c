"""Fixtures that more than one test module needs."""

from collections.abc import Iterator

import pytest

from tests import servers


@pytest.fixture(scope="session")
def postgres_server() -> str:
    """URL of a superuser on a real PostgreSQL server."""
    return servers.postgres_url()


@pytest.fixture
def postgres_database(postgres_server: str) -> Iterator[str]:
    """URL of an empty PostgreSQL database for one test."""
    with servers.database() as url:
        yield url
