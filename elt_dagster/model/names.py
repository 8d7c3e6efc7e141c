"""Names: how a source's words become identifiers in a warehouse (naming version ``v1``).

``v1`` is snake_case in lower-case ASCII: ``OrderID`` becomes ``order_id``, ``Umsatz (€)`` becomes ``umsatz``. A name that is too
long for a warehouse is cut and given a hash of the whole, so that two long names never fall together.
Two columns that fall together are refused when the sync is written: `check_collisions`.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from elt_dagster.errors import ConfigError

SLUG = r"^[a-z0-9]+(?:[_-][a-z0-9]+)*$"
_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_OTHER = re.compile(r"[^a-z0-9_]+")
MAX_LENGTH = 63  # PostgreSQL's limit is the lowest of the warehouses


@lru_cache(maxsize=16_384)  # the same few names are asked for again and again, wherever many syncs are looked at
def snake_case(name: str, *, max_length: int = MAX_LENGTH) -> str:
    """``name`` as an identifier. Never empty; never starts with a digit; stable, and ``snake_case(snake_case(x)) == snake_case(x)``."""
    folded = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    words = _OTHER.sub("_", _BOUNDARY.sub("_", folded).lower())
    plain = re.sub(r"(?<=[a-z0-9])_{2,}", "_", words).rstrip("_") or _hashed("x", name)
    if plain.lstrip("_") != plain and not name.startswith("_"):
        plain = plain.lstrip("_") or _hashed("x", name)
    if plain[0].isdigit():
        plain = f"_{plain}"
    return plain if len(plain) <= max_length else _hashed(plain[: max_length - 9], name)


@lru_cache(maxsize=16_384)
def table_name(stream: str) -> str:
    """Default table of a stream: the part after the last dot (``public.orders`` becomes ``orders``), in snake_case."""
    return snake_case(stream.rpartition(".")[2] or stream)


def suffixed(name: str, suffix: str) -> str:
    """``name`` with ``suffix``; cut and given a hash where both together would be too long for a warehouse (in bytes)."""
    room = MAX_LENGTH - len(suffix)
    if len(name.encode()) <= room:
        return name + suffix
    return _hashed(name.encode()[: room - 9].decode(errors="ignore"), name) + suffix


def slugify(name: str) -> str:
    """A slug for a display name: lower case words joined by hyphens."""
    return snake_case(name, max_length=60).strip("_").replace("_", "-")


def check_collisions(names: Iterable[str], *, what: str) -> dict[str, str]:
    """Map each of ``names`` to its identifier. Raises ConfigError when two become the same."""
    taken: dict[str, str] = {}
    for name in names:
        plain = snake_case(name)
        if plain in taken:
            raise ConfigError(
                f"{what}: columns {taken[plain]!r} and {name!r} would both be called {plain!r}.",
                fix="Exclude one of them with excluded_columns.",
            )
        taken[plain] = name
    return {name: plain for plain, name in taken.items()}


def _hashed(head: str, whole: str) -> str:
    return f"{head.rstrip('_')}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
