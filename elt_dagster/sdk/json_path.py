"""Paths into JSON documents, as users write them and as DuckDB wants them."""

import json
from collections.abc import Sequence

from elt_dagster.errors import ConfigError

ELEMENTS, VALUES = "[*]", ".*"
"""Steps that stand for every element of a list, or every value of an object."""
Step = str | int


def parse_path(path: str) -> tuple[Step, ...]:
    """``data.items[*].node`` as its steps; ``$.`` in front is accepted, ``"a.b"`` quotes a key with dots, ``rates.*`` is every value of an object.

    Raises ConfigError for a path that is not closed.
    """
    steps: list[Step] = []
    text = path.strip().removeprefix("$").removeprefix(".")
    while text:
        if text[0] == '"':
            key, closed, text = text[1:].partition('"')
            steps.append(key)
        elif text[0] == "[":
            key, closed, text = text[1:].partition("]")
            steps.append(_index(key, path))
        else:
            cut = min((i for i in (text.find("."), text.find("[")) if i >= 0), default=len(text))
            key, closed, text = text[:cut], "ok", text[cut:]
            steps.append(VALUES if key == "*" else key)
        if not closed or key == "":
            raise ConfigError(
                f"{path!r} is not a path into JSON.", fix="Write data.items, data[0].id or edges[*].node."
            )
        text = text.removeprefix(".")
    return tuple(steps)


def _index(key: str, path: str) -> Step:
    if key == "*":
        return ELEMENTS
    if key.lstrip("-").isdigit():
        return int(key)
    if len(key) > 2 and key[0] == key[-1] and key[0] in "'\"":
        return key[1:-1]
    raise ConfigError(f"{path!r} is not a path into JSON.", fix="Write data.items, data[0].id or edges[*].node.")


def json_path(steps: Sequence[Step]) -> str:
    """Steps as a SQL literal with a JSON path in it."""
    if steps == ("",):
        return "'/'"  # a JSON path cannot name the empty key, a JSON pointer can
    parts = ["$"]
    for step in steps:
        if step in (ELEMENTS, VALUES):
            parts.append(str(step))
        elif isinstance(step, int):
            parts.append(f"[{step}]" if step >= 0 else f"[#{step}]")
        else:
            parts.append("." + json.dumps(step, ensure_ascii=False))
    return literal("".join(parts))


def literal(text: str) -> str:
    """``text`` as a SQL literal."""
    return "'" + text.replace("'", "''") + "'"
