"""What the README shows works: its YAML is a project, its connector is one, its links lead somewhere."""

import re
from pathlib import Path

import pytest
import yaml

from elt_dagster import connector_names, load_connector
from elt_dagster.model import Project
from elt_dagster.registry import destination_names

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks of ``language``."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_sync_is_a_project() -> None:
    project = Project.model_validate(yaml.safe_load(next(b for b in blocks("yaml") if b.startswith("connections"))))
    assert [s.slug for s in project.syncs] == ["shop"]


def test_the_connector_is_found_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "acme.py").write_text(next(b for b in blocks("python") if "class Acme(" in b))
    monkeypatch.setenv("ELT_DAGSTER_CONNECTORS", str(tmp_path))
    assert "acme" in connector_names()
    acme = load_connector("acme").configured({"token": "x"})
    assert [e.name for e in acme.endpoints] == ["customers", "orders"]  # type: ignore[attr-defined]


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


@pytest.mark.parametrize("name", [*connector_names(), *destination_names()])
def test_every_connector_and_warehouse_is_named(name: str) -> None:
    assert f"[{name}](docs/" in README
