"""Signs of life: a line in the run's log every 30 s, for as long as a step's work moves.

A thread writes it, so that a long statement or a slow source is no silence. A process that stands still writes nothing; and a step whose
work has not moved for the sync's ``stall_timeout_seconds`` is no longer vouched for. What is silent is ended by `silence`.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dagster as dg

from elt_dagster.model import Execution

HEARTBEAT_SECONDS = 30.0
BEATS_PER_TIMEOUT = 4
"""A limit shorter than two minutes makes the heart beat faster: one lost line ends no run."""


class Pulse:
    """Of one step. ``write`` hears the beats; ``stall_seconds`` is None where somebody else looks after hanging work."""

    def __init__(
        self,
        write: Callable[[str], object],
        stream: str,
        stall_seconds: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write, self._stream, self._stall_seconds, self._clock = write, stream, stall_seconds, clock
        self._moved_at = clock()
        self._told = False

    def moved(self) -> None:
        """The work has just gone on."""
        self._moved_at, self._told = self._clock(), False

    def beat(self) -> None:
        """Vouch for the work, unless it hangs; that is said once."""
        still = self._clock() - self._moved_at
        if self._stall_seconds is None or still < self._stall_seconds:
            self._write(f"{self._stream}: alive; last moved {still:,.0f} s ago.")
        elif not self._told:
            self._told = True
            self._write(f"{self._stream}: has not moved for {still:,.0f} s, and will be ended as hanging.")


_pulses: dict[tuple[str, str], Pulse] = {}


@contextmanager
def heartbeat(
    context: dg.AssetExecutionContext, stream: str, execution: Execution, *, watches_stalls: bool = True
) -> Iterator[None]:
    """Beat while the body runs, in the name of the step of ``context``."""
    key = (context.run.run_id, context.op_execution_context.op_def.name)
    stall = float(execution.stall_timeout_seconds) if watches_stalls else None
    pulse = _pulses[key] = Pulse(context.log.info, stream, stall)
    stop = threading.Event()
    seconds = min(HEARTBEAT_SECONDS, execution.heartbeat_timeout_seconds / BEATS_PER_TIMEOUT)
    beats = threading.Thread(target=_beat_until, args=(pulse, stop, seconds), name="elt-heartbeat", daemon=True)
    beats.start()
    try:
        yield
    finally:
        stop.set()
        _pulses.pop(key, None)


def moving(run_id: str, step_key: str, cancelled: Callable[[], bool]) -> Callable[[], bool]:
    """``cancelled``, each question of which shows that the step's work goes on: it asks before every batch, and while it waits for its turn."""
    pulse = _pulses.get((run_id, step_key))
    if pulse is None:
        return cancelled

    def asked() -> bool:
        pulse.moved()
        return cancelled()

    return asked


def _beat_until(pulse: Pulse, stop: threading.Event, seconds: float) -> None:
    while not stop.wait(seconds):
        try:
            pulse.beat()
        except Exception:  # noqa: S112 - an event log that is busy is written to at the next beat; the load does not depend on it
            continue
