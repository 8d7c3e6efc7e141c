"""Who may use the REST API: a key opens one workspace and nothing else."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from elt_dagster.errors import AuthError
from elt_dagster.store import ApiKey, Store

AUDIT = logging.getLogger("elt_dagster.audit")
"""One line per write: who did what to which object, and what came of it."""
CACHE_SECONDS = 5.0
"""For how long a revoked key may still open a server that has just seen it."""
_CACHE_SIZE = 1024


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever a request comes from."""

    key_id: str
    key_name: str
    workspace: str
    workspace_id: str
    requests_per_minute: int | None = None


@dataclass(kw_only=True)
class Access:
    """Tells whose key it is. One object per server; threads may share it."""

    store: Store
    _seen: dict[str, tuple[float, Principal]] = field(default_factory=dict[str, tuple[float, Principal]])

    def remembers(self, text: str) -> bool:
        """Whether `principal` knows ``text`` without asking the store; only a moment later it may not."""
        known = self._seen.get(text)
        return known is not None and time.monotonic() < known[0]

    def principal(self, text: str) -> Principal:
        """Whom the key ``text`` stands for. Raises AuthError for one that is unknown, revoked or expired."""
        now = time.monotonic()
        known = self._seen.get(text)
        if known is not None and now < known[0]:
            return known[1]
        key = self.store.api_keys.find(text)
        if key is None:
            self._seen.pop(text, None)
            raise AuthError("The API key is not known, revoked or expired.", fix="Make one: elt-dagster keys create.")
        self.store.api_keys.note_use(key)
        found = _principal(key)
        if len(self._seen) >= _CACHE_SIZE:
            self._seen.clear()
        self._seen[text] = (now + CACHE_SECONDS, found)
        return found

    def audit(self, principal: Principal, action: str, path: str, outcome: int, **more: Any) -> None:
        """Write the line of one write. ``path`` has ids and no query."""
        AUDIT.info("%s", _line({"key": principal.key_id, "name": principal.key_name, "workspace": principal.workspace,
                                "action": action, "path": path, "status": outcome, **more}))  # fmt: skip


def _principal(key: ApiKey) -> Principal:
    return Principal(key.id, key.name, key.workspace, key.workspace_id, key.requests_per_minute)


def _line(parts: Mapping[str, Any]) -> str:
    """``key=... action=...``; what could break the line is escaped."""
    return " ".join(
        f"{name}={str(value)!r}" if _needs_quotes(str(value)) else f"{name}={value}" for name, value in parts.items()
    )


def _needs_quotes(value: str) -> bool:
    return not value or not value.isascii() or not value.isprintable() or " " in value or "'" in value
