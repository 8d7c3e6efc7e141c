"""What most integration tests start from; a module that needs something else makes its own of the same name."""

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
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance on disk, for what an ephemeral one does not keep."""
    with dg.DagsterInstance.local_temp(str(tmp_path / "home")) as found:
        yield found
