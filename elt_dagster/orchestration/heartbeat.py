"""Signs of life: a line in the run's log every 30 s, for as long as a step's work moves.

A thread writes it, so that a long statement or a slow source is no silence. A process that stands still writes nothing; and a step whose
work has not moved for the sync's ``stall_timeout_seconds`` is no longer vouched for. What is silent is ended by `silence`.

The same thread looks whether the run is to be cancelled. Dagster says so with an interrupt, which can be lost where code that is not ours
swallows it; a step that works on although its run has been canceling for a while is interrupted once more.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dagster as dg

from elt_dagster.model import Execution

HEARTBEAT_SECONDS = 30.0
LOOK_SECONDS = 10.0
"""How often a step looks whether its run is to be cancelled; a cancel is to be seen within 30 s."""
BEATS_PER_TIMEOUT = 4
"""A limit shorter than two minutes makes the heart beat faster: one lost line ends no run."""


class Pulse:
    """Of one step, until ``stop`` is set. ``write`` hears the beats; ``stall_seconds`` is None where somebody else looks after hanging work."""

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
        self.stop = threading.Event()

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


class Ear:
    """Of one step: interrupts it when its run is canceling in two looks in a row, once. The first look leaves Dagster's own interrupt its time."""

    def __init__(self, is_canceling: Callable[[], bool], interrupt: Callable[[], object]) -> None:
        self._is_canceling, self._interrupt = is_canceling, interrupt
        self._heard = self._done = False

    def look(self) -> None:
        """Look once."""
        if self._done or not self._is_canceling():
            return
        if self._heard:
            self._done = True
            self._interrupt()
        self._heard = True


_interrupted: set[str] = set()
"""Runs that this process interrupted itself: several steps in threads have one main thread to interrupt."""
_pulses: dict[tuple[str, str], Pulse] = {}


@contextmanager
def heartbeat(
    context: dg.AssetExecutionContext, stream: str, execution: Execution, *, watches_stalls: bool = True
) -> Iterator[None]:
    """Beat while the body runs, in the name of the step of ``context``."""
    key = (context.run.run_id, context.op_execution_context.op_def.name)
    stall = float(execution.stall_timeout_seconds) if watches_stalls else None
    pulse = _pulses[key] = Pulse(context.log.info, stream, stall)
    owner = threading.current_thread()
    seconds = min(HEARTBEAT_SECONDS, execution.heartbeat_timeout_seconds / BEATS_PER_TIMEOUT)
    beats = threading.Thread(target=_beat_until, args=(pulse, owner, seconds), name="elt-heartbeat", daemon=True)
    beats.start()
    ear = Ear(lambda: _is_canceling(context.instance, context.run.run_id), lambda: _interrupt_once(context.run.run_id))
    looks = threading.Thread(target=_listen_until, args=(ear, pulse.stop, owner), name="elt-cancel", daemon=True)
    looks.start()
    try:
        yield
    finally:
        pulse.stop.set()
        if _pulses.get(key) is pulse:  # and not the next attempt's, when this one is collected as garbage
            del _pulses[key]


def ended(run_id: str, step_key: str) -> None:
    """Stop beating for a step that has failed outside of the asset's own generator. Dagster leaves that where it is, as long as somebody keeps the
    error, and its heart would beat on for work that nobody does."""
    if (pulse := _pulses.pop((run_id, step_key), None)) is not None:
        pulse.stop.set()


def moving(run_id: str, step_key: str, cancelled: Callable[[], bool]) -> Callable[[], bool]:
    """``cancelled``, each question of which shows that the step's work goes on: it asks before every batch, and while it waits for its turn."""
    pulse = _pulses.get((run_id, step_key))
    if pulse is None:
        return cancelled

    def asked() -> bool:
        pulse.moved()
        return cancelled()

    return asked


def _beat_until(pulse: Pulse, owner: threading.Thread, seconds: float) -> None:
    while not pulse.stop.wait(seconds) and owner.is_alive():
        try:
            pulse.beat()
        except dg.DagsterExecutionInterruptedError:
            return  # the run has gone on without this step
        except Exception:  # noqa: S112 - an event log that is busy is written to at the next beat; the load does not depend on it
            continue


def _is_canceling(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is not None and run.status is dg.DagsterRunStatus.CANCELING


def _interrupt_once(run_id: str) -> None:
    if run_id not in _interrupted:
        _interrupted.add(run_id)
        os.kill(os.getpid(), signal.SIGINT)


def _listen_until(ear: Ear, stop: threading.Event, owner: threading.Thread) -> None:
    while not stop.wait(LOOK_SECONDS) and owner.is_alive():
        try:
            ear.look()
        except Exception:  # noqa: S112 - a run storage that is busy is asked at the next look
            continue
