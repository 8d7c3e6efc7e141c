"""What is generated is fresh, and what can be configured is described."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = "import json, scripts.docs as d; print(json.dumps({str(p.relative_to(d.ROOT)): text for p, text in d.pages()}))"


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """Path and text of every page, made by a process of its own: CPython 3.11 cannot parse code in two threads, and other tests leave threads behind."""
    made = subprocess.run(
        [sys.executable, "-c", PAGES], check=False, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert made.returncode == 0, made.stderr
    found: dict[str, str] = json.loads(made.stdout.splitlines()[-1])
    return found


def test_generated_pages_are_fresh(pages: dict[str, str]) -> None:
    assert len(pages) > 10
    stale = [path for path, text in pages.items() if not (ROOT / path).exists() or (ROOT / path).read_text() != text]
    assert not stale, f"{stale} are stale; run: make docs"


def test_every_connector_says_what_each_setting_means(pages: dict[str, str]) -> None:
    for path, text in pages.items():
        for line in text.splitlines():
            if line.startswith("| `"):
                assert line.rsplit("|", 2)[1].strip(), f"{path}: {line} lacks a meaning"
