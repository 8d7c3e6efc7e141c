"""Handing work to another scheduler and following it to its end, whichever scheduler that is.

One key is one piece of work over there, however often it is asked for: a step that lost sight of its flow run, or was started again after
its process died, finds it by the key instead of starting a second one. Only work that has failed gets a new key.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

from elt_dagster.errors import CancelledError, EltError, SourceError, TransientError

HEARTBEAT_SECONDS = 30.0
CANCEL_PATIENCE_SECONDS = 10.0
_SLICE_SECONDS = 0.2


class Phase(StrEnum):
    """Where the work stands, in our words."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    LOST = "lost"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen."""
        return self not in (Phase.WAITING, Phase.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What one look at the work showed. ``status`` is the scheduler's own word, ``heartbeat`` (aware) its newest sign of life."""

    phase: Phase
    status: str
    reference: str
    url: str | None = None
    heartbeat: datetime | None = None


class Backend(Protocol):
    """A scheduler that runs our work. Every method raises TransientError, AuthError, ConfigError or SourceError."""

    title: str
    what: str
    """What it calls a piece of work, such as ``flow run``."""

    def begin(self, key: str, name: str, parameters: Mapping[str, Any]) -> Sight:
        """Start the work called ``key``, or find what was started under that key before."""
        ...

    def look(self, reference: str) -> Sight:
        """Where the work stands."""
        ...

    def cancel(self, reference: str) -> None:
        """Ask it to stop."""
        ...

    def result(self, reference: str) -> Any:
        """What completed work tells about itself, by the convention in docs/backends.md; None when it tells nothing."""
        ...

    def close(self) -> None:
        """Give the connection back."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Time, handed in so that tests need none."""

    now: Callable[[], float]
    sleep: Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class Follower:
    """Follows one piece of work for one step; ``stream`` is what errors name, ``notice`` hears of every change of status."""

    backend: Backend
    stream: str
    poll_seconds: float
    timeout_seconds: float
    clock: Clock
    notice: Callable[[Sight], None]
    alive: Callable[[Sight], None] = field(default=lambda _: None)
    """Hears every 30 s that the work goes on."""

    def run(self, key: str, name: str, parameters: Mapping[str, Any], attempt: int) -> Sight:
        """Start (or find) the work and wait for its end. ``attempt`` counts the tries of this step before this one.

        Raises SourceError when it failed, TransientError when it was lost or took too long, CancelledError when somebody stopped it;
        whatever interrupts the wait itself cancels the work over there.
        """
        sight = self._begin(key, name, parameters, attempt)
        self.notice(sight)
        with self._cancelling(sight.reference):
            sight = self._wait(sight)
        if sight.phase is not Phase.COMPLETED:
            raise self._error(sight)
        return sight

    def _begin(self, key: str, name: str, parameters: Mapping[str, Any], attempt: int) -> Sight:
        for number in range(attempt + 1):
            sight = self.backend.begin(f"{key}-{number}", name, parameters)
            # what completed while nobody looked is done; what failed in an earlier attempt is what we are here to try again
            if not sight.phase.is_final or sight.phase is Phase.COMPLETED:
                break
        return sight

    def _wait(self, sight: Sight) -> Sight:
        started = beaten = self.clock.now()
        while not sight.phase.is_final:
            if self.clock.now() - started >= self.timeout_seconds:
                self._stop(sight.reference)
                raise TransientError(
                    f"{self._named(sight)} had not ended after {self.timeout_seconds:,.0f} s ({sight.status}) and was cancelled.",
                    fix="See whether a worker takes its work, or raise backend.timeout_seconds.",
                )
            self.clock.sleep(self.poll_seconds)
            before, sight = sight, self.backend.look(sight.reference)
            if sight.status != before.status:
                self.notice(sight)
            if self.clock.now() - beaten >= HEARTBEAT_SECONDS:
                beaten = self.clock.now()
                self.alive(sight)
        return sight

    @contextmanager
    def _cancelling(self, reference: str) -> Iterator[None]:
        try:
            yield
        except CancelledError:
            self._stop(reference)
            raise
        except EltError:
            raise  # it may well run on; the next attempt finds it by its key
        except BaseException:  # Dagster's interrupt among them
            self._stop(reference)
            raise

    def _stop(self, reference: str) -> None:
        """Ask for the end and wait a little for it, so that the next run does not meet the old work at the same table."""
        with suppress(EltError):  # the reason why we stop matters more than that this failed
            self.backend.cancel(reference)
            for _ in range(int(CANCEL_PATIENCE_SECONDS / _SLICE_SECONDS / 5)):
                if self.backend.look(reference).phase.is_final:
                    return
                threading.Event().wait(5 * _SLICE_SECONDS)

    def _error(self, sight: Sight) -> EltError:
        # Not what it says about its failure: that is somebody else's exception, and may hold rows.
        text, look = f"{self._named(sight)} ended as {sight.status}.", f"Look there: {sight.url or sight.reference}"
        if sight.phase is Phase.FAILED:
            return SourceError(text, fix=look)
        return TransientError(text, fix=look) if sight.phase is Phase.LOST else CancelledError(text, fix=look)

    def _named(self, sight: Sight) -> str:
        return f"{self.backend.title} {self.backend.what} {sight.reference} of stream {self.stream!r}"


def patient(cancelled: Callable[[], bool]) -> Callable[[float], None]:
    """A sleep that raises CancelledError soon after ``cancelled`` says so."""

    def sleep(seconds: float) -> None:
        left = seconds
        while True:
            if cancelled():
                raise CancelledError("The run was cancelled while another scheduler worked for it.")
            if left <= 0:
                return
            threading.Event().wait(min(left, _SLICE_SECONDS))
            left -= _SLICE_SECONDS

    return sleep


def moment(text: object) -> datetime | None:
    """An ISO time as an aware datetime; None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
