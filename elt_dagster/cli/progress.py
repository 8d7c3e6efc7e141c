"""The progress of a run on a terminal: one line per stream, alive; plain lines where stderr is no terminal."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from elt_dagster.cli.show import STATUS_STYLES, number, seconds, size

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.spinner import Spinner

    from elt_dagster.control.runs import RunView
    from elt_dagster.engine import Progress

PLAIN_INTERVAL_SECONDS = 10.0
SHOWN_STREAMS = 40
"""More lines than a terminal has would flicker; the rest is counted in one line."""


@dataclass(slots=True)
class StreamLine:
    """What is known of one stream while its run goes on; sizes are bytes, times seconds."""

    stream: str
    status: str = "pending"
    rows: int | None = None
    bytes: int | None = None
    seconds: float | None = None
    error: str | None = None

    @property
    def figures(self) -> str:
        """``1,200,000 rows · 412,000 rows/s · 310.2 MB · 2.9 s``; empty before the first row."""
        if self.rows is None:
            return ""
        speed = f"{number(self.rows / self.seconds)} rows/s" if self.seconds else ""
        return " · ".join(filter(None, (f"{number(self.rows)} rows", speed, size(self.bytes), seconds(self.seconds))))


class Board:
    """The lines of one run, kept up to date from its views and its events."""

    def __init__(self, streams: Iterable[str]) -> None:
        self.lines = {name: StreamLine(name) for name in streams}

    def see_progress(self, progress: "Progress") -> StreamLine:
        """Take over how far a stream is."""
        line = self.lines.setdefault(progress.stream, StreamLine(progress.stream))
        line.rows, line.bytes, line.seconds = progress.rows, progress.bytes, progress.seconds
        if line.status == "pending":
            line.status = "running"
        return line

    def see_view(self, view: "RunView") -> list[StreamLine]:
        """Take over a run's state; the lines whose status changed."""
        changed: list[StreamLine] = []
        for stream in view.streams:
            line = self.lines.setdefault(stream.stream, StreamLine(stream.stream))
            if line.status != stream.status.value:
                line.status = stream.status.value
                changed.append(line)
            line.error = stream.error or line.error
            if stream.status.is_final:
                line.rows = stream.rows if stream.rows is not None else line.rows
                line.bytes = stream.bytes if stream.bytes is not None else line.bytes
                line.seconds = stream.seconds if stream.seconds is not None else line.seconds
        return changed


class ProgressView(Protocol):
    """Shows a `Board` while a run goes on."""

    def __enter__(self) -> "ProgressView": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def progressed(self, line: StreamLine) -> None:
        """A stream got further."""
        ...

    def changed(self, line: StreamLine) -> None:
        """A stream's status changed."""
        ...

    def message(self, text: str) -> None:
        """The run said something worth showing."""
        ...


def progress_view(console: "Console", board: Board) -> ProgressView:
    """The live view on a terminal, plain lines elsewhere."""
    return LiveView(console, board) if console.is_terminal else PlainView(console)


class PlainView:
    """Lines for a log: every change of status, and a sign of life per stream every ten seconds."""

    def __init__(self, console: "Console") -> None:
        self.console = console
        self.said: dict[str, float] = {}

    def __enter__(self) -> "PlainView":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def progressed(self, line: StreamLine) -> None:
        """A line, unless the last one is recent."""
        now = time.monotonic()
        if now - self.said.get(line.stream, 0.0) >= PLAIN_INTERVAL_SECONDS:
            self.said[line.stream] = now
            self._print(line)

    def changed(self, line: StreamLine) -> None:
        """A line."""
        self._print(line)

    def message(self, text: str) -> None:
        """A line."""
        self.console.print(text, soft_wrap=True)

    def _print(self, line: StreamLine) -> None:
        figures = f"  {line.figures}" if line.figures else ""
        self.console.print(f"{line.stream}: {line.status}{figures}", soft_wrap=True)


class LiveView:
    """A table that redraws itself; messages scroll above it."""

    def __init__(self, console: "Console", board: Board) -> None:
        from rich.live import Live

        self.board = board
        self.spinners: dict[str, Spinner] = {}
        self.live = Live(self, console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> "LiveView":
        self.live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()

    def progressed(self, line: StreamLine) -> None:
        """Nothing: the next redraw shows it."""

    def changed(self, line: StreamLine) -> None:
        """Nothing: the next redraw shows it."""

    def message(self, text: str) -> None:
        """Print above the table."""
        self.live.console.print(text, soft_wrap=True)

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        lines = sorted(self.board.lines.values(), key=lambda line: line.status != "running")
        for line in lines[:SHOWN_STREAMS]:
            style = STATUS_STYLES.get(line.status, "")
            grid.add_row(self._sign(line), Text(line.stream), Text(line.status, style=style), Text(line.figures))
        yield grid
        if len(lines) > SHOWN_STREAMS:
            done = sum(line.status == "completed" for line in lines)
            yield Text(f"  and {len(lines) - SHOWN_STREAMS} more; {done} of {len(lines)} completed", style="dim")

    def _sign(self, line: StreamLine) -> Any:
        from rich.spinner import Spinner
        from rich.text import Text

        if line.status == "running":
            return self.spinners.setdefault(line.stream, Spinner("dots", style="cyan"))
        signs = {"completed": "✓", "failed": "✗", "cancelled": "■", "skipped": "-"}
        return Text(signs.get(line.status, "·"), style=STATUS_STYLES.get(line.status, ""))
