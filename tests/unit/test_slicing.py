"""Windows as Dagster partitions: where they begin and where they end."""

from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from elt_dagster.model import Slicing
from elt_dagster.orchestration.windows import partitions_of


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ({"window": "1d", "end": "2026-01-04"}, ["2026-01-01", "2026-01-02", "2026-01-03"]),
        ({"window": "1d", "end": "2026-01-02", "include_current": True}, ["2026-01-01"]),
        ({"window": "12h", "end": "2026-01-02"}, ["2026-01-01-00:00", "2026-01-01-12:00"]),
        ({"window": "1mo", "end": "2026-03-01", "timezone": "Asia/Tokyo"}, ["2026-01-01", "2026-02-01"]),
    ],
)
def test_the_last_window_has_ended_on_the_day_that_is_named(words: dict[str, Any], keys: list[str]) -> None:
    slicing = Slicing.model_validate({"start": "2026-01-01", **words})
    assert list(partitions_of(slicing).get_partition_keys()) == keys


def test_windows_without_an_end_go_on() -> None:
    assert len(partitions_of(Slicing(start=date(2026, 1, 1))).get_partition_keys()) > 100


def test_windows_are_counted_up_to_their_end() -> None:
    slicing = Slicing(start=date(2026, 1, 1), end=date(2026, 1, 5))
    assert (slicing.count(date(2030, 1, 1)), slicing.count(date(2026, 1, 3))) == (4, 2)


@pytest.mark.parametrize("end", ["2026-01-01", "2025-12-31"])
def test_windows_do_not_end_before_they_begin(end: str) -> None:
    with pytest.raises(ValidationError, match="not after the start"):
        Slicing.model_validate({"start": "2026-01-01", "end": end})
