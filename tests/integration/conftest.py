"""What most integration tests start from; a module that needs something else makes its own of the same name."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.integration.dagster_project import CONNECTORS, ShopProject


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShopProject:
    """A folder with a store, a scripted source and a DuckDB file."""
    monkeypatch.setenv("ELT_DAGSTER_CONNECTORS", str(CONNECTORS))
    return ShopProject.make(tmp_path)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory: one on disk costs half a second to make, and as much with each run."""
    with dg.DagsterInstance.ephemeral() as found:
        yield found


@pytest.fixture(scope="session")
def prepared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Dagster home on disk with empty tables, which are what takes half a second to make."""
    home = tmp_path_factory.mktemp("prepared") / "home"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)):
        return home


@pytest.fixture
def instance_on_disk(prepared_home: Path, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance that other processes can open, and that keeps what one in memory does not."""
    home = shutil.copytree(prepared_home, tmp_path / "home", dirs_exist_ok=True)
    with dg.DagsterInstance.local_temp(str(home)) as found:
        yield found
