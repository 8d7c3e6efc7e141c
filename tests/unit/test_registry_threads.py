"""A server asks for connectors from many threads, from its first request on."""

import ast
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from elt_dagster import registry


def test_no_two_threads_parse_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # CPython 3.11 cannot: "AST constructor recursion depth mismatch", seen once in some hundred first requests
    expected, parse, turn, overlaps = registry._aliases(), ast.parse, threading.Lock(), []

    def watched(text: str, *args: Any) -> Any:
        overlaps.append(not turn.acquire(blocking=False))
        time.sleep(0.001)
        if not overlaps[-1]:
            turn.release()
        return parse(text, *args)

    monkeypatch.setattr(ast, "parse", watched)
    registry._read_aliases.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: registry._aliases(), range(4))) == [expected] * 4
    assert overlaps
    assert not any(overlaps)
