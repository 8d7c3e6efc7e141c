"""Access tokens that one reader of a process fetched and the next one may use, so that ten streams of a connection ask for one token.

Only tokens from refresh tokens in a vault are kept here: who holds the same refresh token under the vault's lock is the same connection.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MOST_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Token:
    """An access token; ``until`` is when it ends in seconds since 1970, ``said`` what came with it and is no secret."""

    value: str = field(repr=False)
    until: float
    said: Mapping[str, Any]


class Tokens:
    """The tokens of this process. Secrets are keys only as their hash."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Token] = OrderedDict()

    def get(self, key: tuple[str, ...]) -> Token | None:
        """The token that was put under ``key`` last."""
        with self._lock:
            return self._known.get(_hashed(key))

    def put(self, key: tuple[str, ...], token: Token) -> None:
        """Keep ``token``; the oldest of too many go."""
        with self._lock:
            self._known[_hashed(key)] = token
            self._known.move_to_end(_hashed(key))
            while len(self._known) > MOST_TOKENS:
                self._known.popitem(last=False)


def _hashed(key: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join(key).encode()).hexdigest()


TOKENS = Tokens()
