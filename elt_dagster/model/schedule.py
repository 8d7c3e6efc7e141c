"""Cron expressions: what Dagster's scheduler will accept, decided when the sync is written."""

import re
from functools import lru_cache

from croniter import croniter

_MACROS = {"@hourly", "@daily", "@weekly", "@monthly", "@yearly", "@midnight", "@annually"}
_HINT = "use five fields, such as '*/10 * * * *', or @hourly, @daily, @weekly, @monthly"


@lru_cache(maxsize=1024)  # a thousand syncs share a handful of schedules, and asking croniter takes 0.2 ms
def check_cron(expression: str) -> str:
    """``expression`` unchanged if it can ever fire. Raises ValueError otherwise (``30 2 31 2 *`` never does)."""
    text = expression.strip()
    if text not in _MACROS and len(re.split(r"\s+", text)) != 5:
        raise ValueError(f"{expression!r} is not a cron expression; {_HINT}")
    if not croniter.is_valid(text):
        raise ValueError(f"{expression!r} is not a valid cron expression; {_HINT}")
    try:
        next(croniter(text, max_years_between_matches=9))
    except (ValueError, KeyError, StopIteration):
        raise ValueError(f"{expression!r} names a day that never comes; {_HINT}") from None
    return text
