"""A rate limit per key: a bucket that holds a minute's requests and fills steadily."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

_MINUTE = 60.0
_MOST_BUCKETS = 10_000


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a key may still ask. ``wait`` is 0 where the request is allowed, else the seconds until one will be."""

    limit: int
    remaining: int
    reset: int
    """Seconds until the bucket is full again."""
    wait: int

    def headers(self) -> dict[str, str]:
        """As response headers."""
        told = {
            "X-RateLimit-Limit": self.limit,
            "X-RateLimit-Remaining": self.remaining,
            "X-RateLimit-Reset": self.reset,
        }
        return {name: str(value) for name, value in (told | ({"Retry-After": self.wait} if self.wait else {})).items()}


class RateLimiter:
    """The buckets of one process. Threads may share it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key_id: str, per_minute: int) -> Allowance:
        """One request of ``key_id``, if it is allowed now."""
        rate = per_minute / 60
        with self._lock:
            now = self._clock()
            if len(self._buckets) >= _MOST_BUCKETS:
                self._forget(now)
            left, seen = self._buckets.get(key_id, (float(per_minute), now))
            left = min(float(per_minute), left + (now - seen) * rate)
            allowed = left >= 1
            left -= allowed
            self._buckets[key_id] = (left, now)
        wait = 0 if allowed else max(1, math.ceil((1 - left) / rate))
        return Allowance(per_minute, int(left), math.ceil((per_minute - left) / rate), wait)

    def _forget(self, now: float) -> None:
        """A bucket that nobody took from for a minute is full, as a new one is."""
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if now - bucket[1] < _MINUTE}
