"""What was made of things that stay the same objects for as long as they do not change: rows of the store, runs that have ended."""

from collections.abc import Callable
from typing import Generic, TypeVar

S = TypeVar("S")
V = TypeVar("V")


class Kept(Generic[S, V]):
    """What was made of an object, for as long as it is that very object that is asked about."""

    def __init__(self, most: int = 4_000) -> None:
        self._made: dict[str, tuple[S, V]] = {}
        self._most = most

    def of(self, key: str, source: S, make: Callable[[S], V]) -> V:
        """What ``make`` made of ``source``, whose name is ``key``. Nobody may change it."""
        known = self._made.get(key)
        if known is not None and known[0] is source:
            return known[1]
        if len(self._made) >= self._most:
            self._made.clear()
        made = make(source)
        self._made[key] = source, made
        return made
