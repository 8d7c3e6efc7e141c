"""A cancel that got lost is repeated once, and only once the step has had time to see the first."""

import pytest

from elt_dagster.orchestration.heartbeat import Ear


@pytest.mark.parametrize(
    ("seen", "interrupts"),
    [
        ([False, False, False], 0),
        ([True], 0),
        ([True, True], 1),
        ([False, True, True, True, True], 1),
    ],
)
def test_a_step_that_works_on_after_a_cancel_is_interrupted_once_more(seen: list[bool], interrupts: int) -> None:
    looks = iter(seen)
    sent: list[None] = []
    ear = Ear(lambda: next(looks), lambda: sent.append(None))
    for _ in seen:
        ear.look()
    assert len(sent) == interrupts
