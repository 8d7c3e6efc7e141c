"""DuckDB as a calculator: one for the process, the same answers on every machine."""

import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from elt_dagster.engine.transform import _hashed, _to_json
from elt_dagster.sdk.calculator import calculator

SUMMER = pa.array([datetime(2026, 7, 1, 22, 30, tzinfo=UTC), None], pa.timestamp("us", "UTC"))


def test_what_is_made_of_a_moment_does_not_depend_on_the_machines_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("spawn")
    told: list[list[str | None]] = []
    for zone in ("Asia/Tokyo", "America/New_York"):
        monkeypatch.setenv("TZ", zone)  # which DuckDB reads once
        with ProcessPoolExecutor(1, context) as pool:
            told.append(pool.submit(_texts).result())
    assert told[0] == told[1] == _texts()
    assert told[0][2] == '"2026-07-01 22:30:00+00"'


def _texts() -> list[str | None]:
    return [*_hashed(SUMMER, b"salt").to_pylist(), *_to_json(SUMMER).to_pylist()]


def test_a_user_of_it_leaves_nothing_behind() -> None:
    with calculator() as first:
        first.register("v", pa.table({"v": [1]}))
        first.execute("CREATE TEMP TABLE t AS SELECT * FROM v")
    with calculator() as second, pytest.raises(Exception, match="v"):
        second.sql("SELECT * FROM v")
    with calculator() as third:
        third.execute("CREATE TEMP TABLE t AS SELECT 2")


def test_threads_and_forked_children_calculate_at_the_same_time() -> None:
    expected = _texts()
    found: list[list[str | None]] = []
    threads = [threading.Thread(target=lambda: found.append(_texts())) for _ in range(8)]
    for thread in threads:
        thread.start()
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        found.append(pool.submit(_texts).result())
    for thread in threads:
        thread.join()
    assert found == [expected] * 9
