"""How values look to people: sizes, times, cells of tables."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

CELL_CHARACTERS = 60
_MINUTE, _HOUR, _DAY = 60, 3600, 86400

STATUS_STYLES = {
    "pending": "dim",
    "running": "cyan",
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "skipped": "dim",
    "active": "green",
    "paused": "yellow",
    "broken": "red",
    "fresh": "green",
    "stale": "red",
}


def number(value: float | None) -> str:
    """``1,234,567``; nothing for None."""
    return "" if value is None else f"{value:,.0f}"


def size(count: float | None) -> str:
    """Bytes as ``310.2 MB``; nothing for None."""
    if count is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def seconds(value: float | None) -> str:
    """``2.9 s``, ``4 min 10 s``, ``3 h 5 min``; nothing for None."""
    if value is None:
        return ""
    if value < _MINUTE:
        return f"{value:.1f} s"
    if value < _HOUR:
        return f"{int(value // _MINUTE)} min {int(value % _MINUTE)} s"
    return f"{int(value // _HOUR)} h {int(value % _HOUR // _MINUTE)} min"


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """``3 min ago`` or ``in 2 h``; nothing for None."""
    if moment is None:
        return ""
    delta = ((now or datetime.now(UTC)) - moment).total_seconds()
    words = next(
        f"{int(abs(delta) // unit)} {name}"
        for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min"), (1, "s"))
        if abs(delta) >= unit or unit == 1
    )
    return f"{words} ago" if delta >= 0 else f"in {words}"


def clock(moment: datetime | None) -> str:
    """A point in time in the reader's own zone."""
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def cell(value: Any) -> str:
    """A value from a source as one short, harmless piece of text: no line breaks, no escape sequences."""
    text = "" if value is None else str(value)
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: CELL_CHARACTERS + 1])
    return plain if len(plain) <= CELL_CHARACTERS else f"{plain[: CELL_CHARACTERS - 1]}…"


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = (), title: str = ""
) -> "Table":
    """A table; a column named in ``right`` holds numbers. Cells with a known status are coloured."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        texts = ["" if value is None else str(value) for value in row]
        made.add_row(*(Text(text, style=STATUS_STYLES.get(text, "")) for text in texts))
    return made
