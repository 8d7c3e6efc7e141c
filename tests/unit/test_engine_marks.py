"""Who was busy when a load failed, and what becomes of the wish for a full refresh when a load does not come to its end."""

from dataclasses import dataclass
from typing import Any

import pytest

from elt_dagster.errors import LimitError, TransientError, WarehouseBusyError
from elt_dagster.model import LoadMode, RunMode, Window
from elt_dagster.testing.fakes import MemoryWarehouse
from tests.unit.test_engine import Bench, at, rows


class Busy(MemoryWarehouse):
    """Refuses one call."""

    def __init__(self, call: str, error: TransientError) -> None:
        super().__init__()
        self.call, self.error = call, error

    def _may(self, call: str) -> None:
        if call == self.call:
            raise self.error

    def state(self, *words: Any, **more: Any) -> Any:
        self._may("state")
        return super().state(*words, **more)

    def begin(self, *words: Any, **more: Any) -> Any:
        self._may("begin")
        return super().begin(*words, **more)


@pytest.mark.parametrize("call", ["state", "begin"])
def test_a_busy_destination_is_told_from_a_busy_source(call: str) -> None:
    bench = Bench(rows(1, 2))
    bench.warehouse = Busy(call, TransientError("It is busy.", fix="Wait.", retry_after=7))
    with pytest.raises(WarehouseBusyError, match=r"It is busy\. Wait\.") as caught:
        bench.run()
    assert (caught.value.reason, caught.value.retry_after) == ("destination_unavailable", 7)


def test_a_busy_source_stays_one_and_a_limit_a_limit() -> None:
    bench = Bench(rows(1, 2))

    def busy(request: Any) -> Any:
        raise TransientError("It is busy.")

    bench.source.read = busy  # type: ignore[method-assign]
    with pytest.raises(TransientError) as caught:
        bench.run()
    assert caught.value.reason == "source_unavailable"
    bench = Bench(rows(1, 2))
    bench.warehouse = Busy("begin", LimitError("No more."))
    with pytest.raises(LimitError) as limited:
        bench.run()
    assert limited.value.reason == "rate_limited"


@dataclass
class Wish:
    """One that is there until it is taken away."""

    mark_id: str = "m1"
    reset_history: bool = False


class Marks:
    """Where the wish is kept."""

    def __init__(self) -> None:
        self.wish: Wish | None = Wish()
        self.loses_connection = False

    def words(self) -> dict[str, Any]:
        return {"mark": lambda: self.wish, "end_mark": self.end}

    def end(self, mark_id: str) -> None:
        if self.loses_connection:
            raise TransientError("The store cannot be reached.")
        if self.wish is not None and self.wish.mark_id == mark_id:
            self.wish = None


def test_a_load_that_dies_before_its_mark_is_gone_is_a_full_refresh_once_more() -> None:
    bench, marks = Bench(rows(1, 2)), Marks()
    bench.run()
    marks.loses_connection = True
    with pytest.raises(TransientError):
        bench.run(**marks.words())
    assert len(bench.loaded) == 2, "what was committed stays"
    marks.loses_connection = False
    again, after = bench.run(**marks.words()), bench.run(**marks.words())
    assert (again.run_mode, again.load_mode, again.table_rows) == (RunMode.FULL_REFRESH, LoadMode.REPLACE, 2)
    assert after.run_mode is RunMode.INCREMENTAL


def test_a_window_leaves_the_mark_for_the_next_run() -> None:
    bench, marks = Bench(rows(1, 2)), Marks()
    result = bench.run(window=Window(start=at(1), end=at(3)), **marks.words())
    assert result.run_mode is not RunMode.FULL_REFRESH
    assert marks.wish is not None
