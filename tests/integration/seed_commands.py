"""Finds the ``curl`` commands in a page of documentation, also where the page has lost its line breaks.

python -m tests.integration.seed_commands ../shared/seeds > tests/integration/seed_curls.json
"""

import json
import sys
from pathlib import Path


def commands(text: str) -> list[str]:
    """Every command, as it is printed."""
    found: list[str] = []
    at = text.find("curl ")
    while at >= 0:
        end = _end(text, at)
        # what is talked about is no command: that one has an address
        if "://" in text[at:end]:
            found.append(text[at:end].strip())
        at = text.find("curl ", end)
    return found


def _end(text: str, at: int) -> int:
    """Where a command ends: at a line break that nothing continues, or where something sticks to a closing quote."""
    quote = ""
    while at < len(text):
        letter = text[at]
        if quote:
            if letter == quote:
                quote = ""
                if at + 1 < len(text) and text[at + 1] not in " \n\\":
                    return at + 1
        elif letter in "\"'":
            quote = letter
        elif letter == "\n" and not text[:at].rstrip(" ").endswith("\\"):
            return at
        at += 1
    return at


def main() -> None:
    """Print the commands of all pages in a folder as JSON."""
    pages = sorted(Path(sys.argv[1]).glob("*.txt"))
    print(json.dumps({page.name[:3]: commands(page.read_text()) for page in pages}, indent=1))


if __name__ == "__main__":
    main()
