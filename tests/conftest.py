"""Fixtures that more than one test module needs."""

import gc
import os
from collections.abc import Iterator

import pytest

from tests import quick_stores, servers

EVERYTHING = "ELT_DAGSTER_TEST_ALL"
ESSENTIAL = frozenset(
    {
        "test_a_run_that_was_overtaken_cannot_commit",
        "test_an_error_on_the_way_leaves_neither_rows_nor_state",
        "test_append_adds_to_what_is_there",
        "test_merge_counts_inserted_updated_and_leaves_the_unchanged",
        "test_replace_leaves_only_the_new_rows",
        "test_resuming_by_key_doubles_nothing_and_keeps_new_versions",
        "test_resuming_without_a_key_respects_equal_rows",
        "test_the_state_tells_where_committed_data_ends",
        "test_two_runs_from_one_state_commit_once",
    }
)
"""What is asked of every variant of a warehouse, each time."""
LATE = (
    "test_api_attacks.py",
    "test_seed_curls.py",
    "test_bridges_browser.py",
    "test_dagster_commands.py",
    "test_ecosystem_dbt.py",
)
"""Modules of minutes whose tests are few."""

quick_stores.install()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Modules that start servers come first, so that the workers do not wait for the last of them at the end. A variant of a warehouse that signed
    the contract already repeats only what variants differ in, unless all is asked for."""
    slow = {item.path for item in items if item.get_closest_marker("slow") or item.path.name in LATE}
    items.sort(key=lambda item: item.path not in slow)
    if os.environ.get(EVERYTHING):
        return
    repeated = [item for item in items if item.get_closest_marker("again") and not _is_essential(item)]
    config.hook.pytest_deselected(items=repeated)
    left_out = set(repeated)
    items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish() -> None:
    """What thousands of tests and their modules are made of stays until the end; a collector need not look through it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _is_essential(item: pytest.Item) -> bool:
    return getattr(item, "originalname", item.name) in ESSENTIAL


@pytest.fixture(scope="session")
def postgres_server() -> str:
    """URL of a superuser on a real PostgreSQL server."""
    return servers.postgres_url()


@pytest.fixture
def postgres_database(postgres_server: str) -> Iterator[str]:
    """URL of an empty PostgreSQL database for one test."""
    with servers.database() as url:
        yield url


@pytest.fixture
def real_migrations() -> Iterator[None]:
    """Stores are made as they are everywhere but in tests; see `quick_stores`."""
    with quick_stores.real_migrations():
        yield
