"""What is generated is fresh, and what can be configured is described."""

from scripts.docs import ROOT, pages


def test_generated_pages_are_fresh() -> None:
    stale = [str(path.relative_to(ROOT)) for path, text in pages() if not path.exists() or path.read_text() != text]
    assert not stale, f"{stale} are stale; run: make docs"


def test_every_connector_says_what_each_setting_means() -> None:
    for path, text in pages():
        for line in text.splitlines():
            if line.startswith("| `"):
                assert line.rsplit("|", 2)[1].strip(), f"{path.name}: {line} lacks a meaning"
