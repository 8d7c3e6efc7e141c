"""A good dozen of kills; `make chaos` does hundreds. After each, the table has every row of the source once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.harness import Harness
from tests.chaos.source import Kind, difference, rows_of_phase
from tests.contract.test_postgres_destination import config_of

WAREHOUSES = ("duckdb", "postgres")


@pytest.fixture(scope="module", params=WAREHOUSES)
def harness(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """A harness over a warehouse of its own."""
    folder = tmp_path_factory.mktemp("chaos")
    store = f"sqlite:///{folder / 'store.sqlite'}"
    if request.param == "duckdb":
        yield Harness("duckdb", duckdb_config(folder), store)
        return
    from tests import servers

    with servers.database("chaos") as url:
        yield Harness("postgres", config_of(url), store)


def duckdb_config(folder: Path) -> dict[str, Any]:
    """A small file."""
    return {"path": str(folder / "warehouse.duckdb"), "threads": 1}


@pytest.mark.parametrize("kind", list(Kind))
def test_killed_loads_lose_nothing_and_double_nothing(harness: Harness, kind: Kind) -> None:
    tally = harness.run(kind, named=1, anytime=1)
    assert (tally.kills, tally.lost, tally.doubled) == (2, 0, 0), tally


def test_the_harness_notices_a_load_that_doubles_what_it_has(tmp_path: Path) -> None:
    harness = Harness("duckdb", duckdb_config(tmp_path), f"sqlite:///{tmp_path / 'store.sqlite'}", forgetful=True)
    assert harness.run(Kind.APPEND, named=3, anytime=0).doubled > 0


def test_the_source_has_what_makes_resuming_hard() -> None:
    rows = rows_of_phase(Kind.APPEND, 1)
    assert len(rows) > len(set(rows)), "rows that nothing tells apart"
    assert rows_of_phase(Kind.APPEND, 0)[-1][1] == rows[len(rows_of_phase(Kind.APPEND, 0))][1], "phases part a tie"
    assert len(rows_of_phase(Kind.MERGE, 1)) < len(rows_of_phase(Kind.APPEND_KEYED, 1)), "rows that change"


def test_a_row_too_few_is_lost_and_one_too_many_is_doubled() -> None:
    assert difference([(1,), (2,), (2,)], [(2,), (3,)]) == (2, 1)
