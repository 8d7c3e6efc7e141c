"""Cutting a stream's history into windows of time, one Dagster partition each."""

import re
from datetime import date, datetime
from zoneinfo import ZoneInfo, available_timezones

from pydantic import field_validator, model_validator

from elt_dagster.errors import ConfigError, nearest
from elt_dagster.model.batch import Window
from elt_dagster.model.part import MisplacedError, Part

_CRONS = {
    "1h": "0 * * * *",
    **{f"{hours}h": f"0 */{hours} * * *" for hours in (2, 3, 4, 6, 8, 12)},
    "1d": "0 0 * * *",
    "1w": "0 0 * * 1",
    "1mo": "0 0 1 * *",
}
WINDOWS = tuple(_CRONS)
_HOURS = re.compile(r"(\d+)h")
_ABOUT_HOURS = {"1d": 24, "1w": 168, "1mo": 730}
MAX_PARTITIONS = 50_000
"""Dagster's own advice ends between 25,000 and 100,000 partitions of an asset."""


def known_zone(value: str) -> str:
    """``value`` if it is an IANA time zone, else ValueError with the nearest one."""
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"there is no time zone {value!r}. {nearest(value, sorted(available_timezones()))}") from None
    return value


def parse_window(start: str, end: str, timezone: str = "UTC") -> Window:
    """The window between two dates or times (ISO 8601; without an offset in ``timezone``). Raises ConfigError for what is none."""
    begins, ends = _parse_time(start, timezone), _parse_time(end, timezone)
    if begins >= ends:
        raise ConfigError(f"The window from {start} to {end} ends before it begins.", fix="The end is exclusive.")
    return Window(begins, ends)


def _parse_time(text: str, timezone: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"{text!r} is no date or time.", fix="Write it like 2026-07-01 or 2026-07-01T06:00."
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=ZoneInfo(timezone))


class Slicing(Part):
    """How a stream's history is cut into windows of its cursor, for execution_mode fan_out_window."""

    window: str = "1d"
    """Length of a window: 1h, 2h, 3h, 4h, 6h, 8h, 12h, 1d, 1w (from Monday) or 1mo."""
    start: date
    """First day of the first window."""
    end: date | None = None
    """Day on which the last window has ended, itself not loaded; by default there is always a next window."""
    timezone: str | None = None
    """IANA zone in which days begin; by default the schedule's, else UTC."""
    include_current: bool = False
    """Whether the window that has not ended yet is one too. A schedule then loads it again and again."""

    @field_validator("window")
    @classmethod
    def _known_window(cls, value: str) -> str:
        if value not in _CRONS:
            raise ValueError(f"{value!r} is no window; allowed: {', '.join(WINDOWS)}")
        return value

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, value: str | None) -> str | None:
        return value if value is None else known_zone(value)

    @model_validator(mode="after")
    def _ends_after_its_start(self) -> "Slicing":
        if self.end is not None and self.end <= self.start:
            raise MisplacedError(("end",), f"{self.end} is not after the start, {self.start}")
        return self

    @property
    def cron(self) -> str:
        """When windows begin, as a cron expression."""
        return _CRONS[self.window]

    def count(self, until: date) -> int:
        """About how many windows there are up to ``until``; 0 when ``start`` is later."""
        match = _HOURS.fullmatch(self.window)
        hours = int(match[1]) if match else _ABOUT_HOURS[self.window]
        until = min(until, self.end or until)
        return max(0, (until - self.start).days * 24 // hours)
