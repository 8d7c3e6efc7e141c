"""One rate budget per connection: whoever asks the source, in whatever process, takes a turn.

A `Ledger` is the memory that all share: in the store for syncs that stand there, else in this process. It hands out turns in small leases, so that
a request rarely costs a question to it. Three things slow a reader down: the rate a connector declares, the rate that what the vendor reports leaves
over once 80 % of a limit are used (so that other users of the account keep room), and a pause the vendor has asked for.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

LEASE_SECONDS = 1.0
"""For how long a process takes turns ahead."""
MOST_TURNS = 20
SLOW_FROM = 0.8
"""The used share of a limit from which on we slow down."""
LONGEST_SECONDS = 3600.0
"""No pause is noted for longer; whoever asks after it is told again. What lies further ahead was written before the clock was set back."""
_LONGEST_QUEUE_SECONDS = 900.0
"""No caller waits longer for a turn, so none is given out further ahead."""
_JUMP_SECONDS = 5.0
"""A clock that goes back further than the threads of a process differ was set."""
_NO_RESET_SECONDS = 60.0
_NOTEWORTHY = 0.1
"""A change of the left-over rate by less than this share is not worth telling the others."""
_REMAINING = ("x-ratelimit-remaining", "x-rate-limit-remaining", "ratelimit-remaining")
_LIMIT = ("x-ratelimit-limit", "x-rate-limit-limit", "ratelimit-limit")
_RESET = ("x-ratelimit-reset", "x-rate-limit-reset", "ratelimit-reset", "x-rate-limit-reset-time")
_EPOCH = 1_000_000_000
"""A reset header above this is a point in time, below it a number of seconds."""


@dataclass(frozen=True, slots=True)
class Turns:
    """``count`` requests, the first in ``wait`` seconds and then one every ``interval``; interval 0 means as many as you like for `LEASE_SECONDS`."""

    wait: float
    interval: float
    count: int


@dataclass(frozen=True, slots=True)
class Quota:
    """What a vendor says of its limit: ``remaining`` of ``limit`` requests until it begins anew, in ``seconds`` if it says so."""

    limit: float
    remaining: float
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """What a ledger knows of one connection; times are seconds by the ledger's own clock."""

    next_at: float = 0.0
    """When the next turn is free."""
    hold_until: float = 0.0
    """Nobody asks before this."""
    left_over: float = 0.0
    """Requests per second that the vendor's limit leaves, until ``left_over_until``."""
    left_over_until: float = 0.0


class Ledger(Protocol):
    """The memory of one connection's budget."""

    def take(self, per_second: float | None, patience: float) -> Turns:
        """The next turns at a declared rate (None: none). When the wait would be longer than ``patience`` seconds no turn is taken: count is 0."""
        ...

    def hold(self, seconds: float) -> None:
        """Nobody asks for so long."""
        ...

    def slow(self, per_second: float, seconds: float) -> None:
        """Nobody asks faster than this for so long."""
        ...


def grant(page: Page, now: float, per_second: float | None, patience: float) -> tuple[Turns, Page]:
    """The next turns, and the page after they are taken."""
    page = credible(page, now)
    rates = [r for r in (per_second, page.left_over if page.left_over_until > now else None) if r]
    if not rates:
        return Turns(max(0.0, page.hold_until - now), 0.0, 0), page
    rate = min(rates)
    start = max(now, page.hold_until, page.next_at)
    if start - now > patience:
        return Turns(start - now, 1 / rate, 0), page
    count = max(1, min(MOST_TURNS, int(rate * LEASE_SECONDS)))
    return Turns(start - now, 1 / rate, count), replace(page, next_at=start + count / rate)


def credible(page: Page, now: float) -> Page:
    """``page`` without times that lie too far ahead: a clock that was set back must not stop everybody until it has caught up."""
    hold = page.hold_until if page.hold_until <= now + LONGEST_SECONDS else 0.0
    left = page.left_over_until if page.left_over_until <= now + LONGEST_SECONDS else 0.0
    next_at = page.next_at if page.next_at <= max(now, hold) + _LONGEST_QUEUE_SECONDS else now
    return replace(page, next_at=next_at, hold_until=hold, left_over_until=left)


def noted(seconds: float) -> float:
    """For how long a pause or a slower pace of ``seconds`` is written down."""
    return min(seconds, LONGEST_SECONDS)


class LocalLedger:
    """A ledger for the threads of one process."""

    def __init__(self) -> None:
        self._page, self._lock, self._now = Page(), threading.Lock(), 0.0

    def at(self, now: float) -> "LocalLedger":
        """Set the clock; turns are counted by the reader's own."""
        with self._lock:
            if now < self._now - _JUMP_SECONDS:
                self._page, self._now = _moved(self._page, now - self._now), now
            self._now = max(self._now, now)
        return self

    def take(self, per_second: float | None, patience: float) -> Turns:
        with self._lock:
            turns, self._page = grant(self._page, self._now, per_second, patience)
            return turns

    def hold(self, seconds: float) -> None:
        with self._lock:
            self._page = replace(self._page, hold_until=max(self._page.hold_until, self._now + noted(seconds)))

    def slow(self, per_second: float, seconds: float) -> None:
        with self._lock:
            self._page = replace(self._page, left_over=per_second, left_over_until=self._now + noted(seconds))


def _moved(page: Page, seconds: float) -> Page:
    return replace(
        page,
        next_at=page.next_at + seconds,
        hold_until=page.hold_until + seconds,
        left_over_until=page.left_over_until + seconds,
    )


@dataclass(slots=True)
class Budget:
    """What one reader goes by: at most ``per_second`` requests and what the ledger says. Shared by the threads of a read."""

    per_second: float | None = None
    ledger: Ledger = field(default_factory=LocalLedger)
    quota: Callable[[Mapping[str, str]], Quota | None] | None = None
    """Reads a vendor's own headers; the usual ``X-RateLimit-*`` are understood without it."""
    _turns: Turns = Turns(0.0, 0.0, 0)
    _next: float = 0.0
    _free_until: float = 0.0
    _told: float = 0.0
    _told_until: float = 0.0
    _asked: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self, now: float, patience: float) -> float:
        """Seconds until the caller's turn; more than ``patience`` means that there is none."""
        with self._lock:
            if now < self._asked - _JUMP_SECONDS:  # the clock was set back: what was planned by it is void
                self._turns, self._next, self._free_until = Turns(0.0, 0.0, 0), 0.0, 0.0
            self._asked = now
            if now < self._free_until:
                return 0.0
            if not self._turns.count:
                if isinstance(self.ledger, LocalLedger):
                    self.ledger.at(now)
                turns = self.ledger.take(self.per_second, patience)
                if turns.interval == 0 and turns.wait == 0:
                    self._free_until = now + LEASE_SECONDS
                if not turns.count:
                    return turns.wait
                self._turns, self._next = turns, now + turns.wait
            at = max(now, self._next)
            self._turns = replace(self._turns, count=self._turns.count - 1)
            self._next = at + self._turns.interval
            return at - now

    def hold(self, seconds: float) -> None:
        """The vendor asked for a pause: what was taken ahead is void."""
        with self._lock:
            self._turns, self._free_until = Turns(0.0, 0.0, 0), 0.0
        self.ledger.hold(seconds)

    def heard(self, headers: Mapping[str, str], now: float) -> None:
        """Slow down when the vendor's headers say that most of a limit is used."""
        quota = (self.quota(headers) if self.quota else None) or _usual_quota(headers, now)
        if quota is None or quota.limit <= 0 or quota.remaining > quota.limit * (1 - SLOW_FROM):
            return
        if isinstance(self.ledger, LocalLedger):
            self.ledger.at(now)
        seconds = quota.seconds or _NO_RESET_SECONDS
        if quota.remaining < 1:
            self.hold(seconds)
            return
        rate = quota.remaining / seconds
        # said again once what was noted is over: a rolling limit may stay as it is for hours
        if now >= self._told_until or abs(rate - self._told) > _NOTEWORTHY * self._told:
            self._told, self._told_until = rate, now + noted(seconds)
            with self._lock:
                self._free_until = 0.0
            self.ledger.slow(rate, seconds)


def _usual_quota(headers: Mapping[str, str], now: float) -> Quota | None:
    limit, remaining = _number(headers, _LIMIT), _number(headers, _REMAINING)
    return None if not limit or remaining is None else Quota(limit, remaining, reset_seconds(headers, now))


def reset_seconds(headers: Mapping[str, str], now: float) -> float | None:
    """When a vendor's limit begins anew, from its reset header: seconds, or a point in time (in seconds or milliseconds)."""
    value = _number(headers, _RESET)
    if value is None:
        return None
    value = value / 1000 if value > _EPOCH * 1000 else value
    return max(0.0, value - now if value > _EPOCH else value)


def is_used_up(headers: Mapping[str, str]) -> bool:
    """Whether the vendor says that nothing is left."""
    return any(headers.get(name) == "0" for name in _REMAINING)


def _number(headers: Mapping[str, str], names: tuple[str, ...]) -> float | None:
    for name in names:
        try:
            return float(headers[name])
        except (KeyError, ValueError):
            continue
    return None
