"""What is in the tree is in the wheel, and the wheel works beside a project that has a ``connectors`` package of its own."""

import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_every_package_of_the_tree_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "elt_dagster").rglob("__init__.py")}
    assert set(listed) == found | {"elt_dagster.connectors"}


def test_connectors_is_flat() -> None:
    assert not [p for p in (ROOT / "connectors").iterdir() if p.is_dir() and p.name != "__pycache__"]


def test_constraints_are_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or line.count("==") == 1, line
        assert "://" not in line
        assert "@" not in line


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tree and unpacked into an environment that borrows only our dependencies."""
    work = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(
        ["git", "ls-files", "elt_dagster", "connectors", "pyproject.toml", "README.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in tracked:
        if (ROOT / name).exists():
            target = work / "src" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(work), str(work / "src")]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    environment = work / "env"
    venv.create(environment, with_pip=False)
    site = next((environment / "lib").glob("python*")) / "site-packages"
    wheel = next(work.glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Our own dependencies come from the environment that runs the tests, whose editable install must stay out.
    borrowed = Path(next(p for p in sys.path if p.endswith("site-packages")))
    (site / "borrowed.pth").write_text(str(borrowed) + "\n")
    return environment


def test_what_pages_for_people_are_made_of_is_in_the_wheel(installed: Path) -> None:
    static = next((installed / "lib").glob("python*/site-packages/elt_dagster/api/static"))
    assert {p.name for p in static.iterdir()} == {p.name for p in (ROOT / "elt_dagster/api/static").iterdir()}


def test_the_wheel_validates_inside_a_project_with_its_own_connectors(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "connectors").mkdir()
    (tmp_path / "connectors" / "__init__.py").write_text("MINE = 'a user\\'s own package'\n")
    (tmp_path / "definitions.py").write_text(
        "import connectors\n"
        "import elt_dagster\n"
        "assert connectors.MINE\n"
        "assert 'env' in elt_dagster.__file__, elt_dagster.__file__\n"
        "assert {'postgres', 'http_api', 'files'} <= set(elt_dagster.connector_names())\n"
        "assert elt_dagster.load_connector('http_api').__module__ == 'elt_dagster.connectors.http_api'\n"
        "defs = elt_dagster.build_definitions()\n"
    )
    environ = {**os.environ, "DAGSTER_HOME": str(tmp_path), "DAGSTER_DISABLE_TELEMETRY": "1"}
    environ.pop("PYTHONPATH", None)
    python = installed / "bin" / "python"
    started = [str(python), "-m", "elt_dagster.cli", "init"]
    done = subprocess.run(started, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    command = [str(python), "-m", "dagster", "definitions", "validate", "-f", "definitions.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "validation successful" in (done.stdout + done.stderr).lower()
    assert (tmp_path / "connectors" / "__init__.py").exists()
