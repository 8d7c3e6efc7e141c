"""One log line per sign of life of a load: written here by the step, read here by whoever follows the run.

``orders: 1,200,000 rows, 412,000 rows/s, 310.2 MB, 2.9 s``. The format is a promise: lines of older versions lie in event logs.
"""

import re
from collections.abc import Callable

from elt_dagster.engine import Progress

MEGABYTE = 1_000_000
INTERVAL_SECONDS = 2.0
_LINE = re.compile(
    r"(?P<stream>.+): (?P<rows>[\d,]+) rows, [\d,]+ rows/s, (?P<megabytes>[\d,]+\.\d) MB, (?P<seconds>[\d,]+\.\d) s"
)


def format_progress(progress: Progress) -> str:
    """One line for people that `parse_progress` understands. Bytes are rounded to 0.1 MB, seconds to 0.1 s."""
    speed = progress.rows / max(progress.seconds, 0.001)  # a clock that has not moved makes no infinity
    megabytes = progress.bytes / MEGABYTE
    return f"{progress.stream}: {progress.rows:,} rows, {speed:,.0f} rows/s, {megabytes:,.1f} MB, {progress.seconds:,.1f} s"


def parse_progress(line: str) -> Progress | None:
    """The inverse of `format_progress`, as exact as its rounding; None for any other line."""
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    return Progress(
        stream=match["stream"],
        rows=int(match["rows"].replace(",", "")),
        bytes=round(float(match["megabytes"].replace(",", "")) * MEGABYTE),
        seconds=float(match["seconds"].replace(",", "")),
    )


class Throttled:
    """An engine observer that passes on one `Progress` every ``interval`` seconds of the load; `finish` passes on the last one."""

    def __init__(self, write: Callable[[str], None], interval: float = INTERVAL_SECONDS) -> None:
        self._write, self._interval = write, interval
        self._last: Progress | None = None
        self._written_at = 0.0

    def __call__(self, progress: Progress) -> None:
        self._last = progress
        if progress.seconds - self._written_at >= self._interval:
            self._written_at = progress.seconds
            self._write(format_progress(progress))
            self._last = None

    def finish(self) -> None:
        """Write what was held back, so that the last line tells the whole."""
        if self._last is not None:
            self._write(format_progress(self._last))
            self._last = None
