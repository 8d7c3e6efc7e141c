"""What one run was asked to do, as Dagster run config: ``{resources: {sync_run: {config: {run_mode: full_refresh}}}}``.

The config decides. Where it says nothing, the tag ``elt/run_mode`` does, so that a run launched with a tag alone does what it says;
and the tag is kept in step with what is done, for lists of runs.
"""

from collections.abc import Mapping
from enum import Enum

import dagster as dg
from pydantic import Field

from elt_dagster.errors import ConfigError, nearest
from elt_dagster.model import RunMode, Window
from elt_dagster.model.slicing import parse_window
from elt_dagster.orchestration.tags import RUN_MODE_TAG


class RunModeChoice(Enum):
    """`RunMode` for Dagster's config, which wants a plain Enum and shows its member names."""

    incremental = "incremental"
    full_refresh = "full_refresh"


class SyncRun(dg.ConfigurableResource):  # type: ignore[type-arg]  # what it provides is itself
    """How the streams of this run are read."""

    run_mode: RunModeChoice | None = Field(
        default=None,
        description="incremental goes on from the checkpoint; full_refresh reads everything and swaps the table.",
    )

    reset_history_table: bool = Field(
        default=False,
        description="With a full refresh: begin the history tables anew instead of going on with them.",
    )

    window_start: str | None = Field(
        default=None,
        description="Load only rows whose cursor is at or after this time (ISO 8601), beside the checkpoint.",
    )
    window_end: str | None = Field(default=None, description="End of that window, exclusive (ISO 8601).")

    def window(self) -> Window | None:
        """The window that the config names. Raises ConfigError for half a window, or one that ends before it begins."""
        if self.window_start is None and self.window_end is None:
            return None
        if self.window_start is None or self.window_end is None:
            raise ConfigError("A window has a start and an end, and this run names one of them.", fix="Set both.")
        return parse_window(self.window_start, self.window_end)

    def mode(self, tags: Mapping[str, str]) -> RunMode:
        """The run mode of a run with ``tags``. Raises ConfigError for a tag that names none."""
        if self.run_mode is not None:
            return RunMode(self.run_mode.value)
        wanted = tags.get(RUN_MODE_TAG, RunMode.INCREMENTAL.value)
        if wanted not in {m.value for m in RunMode}:
            known = [m.value for m in RunMode]
            raise ConfigError(
                f"The tag {RUN_MODE_TAG} is {wanted!r}, which is no run mode.", fix=nearest(wanted, known)
            )
        return RunMode(wanted)


SYNC_RUN_KEY = "sync_run"
SYNC_RUN = SyncRun()
"""One object for all definitions: `Definitions.merge` refuses two different ones under the same key."""


def run_config(
    run_mode: RunMode, *, reset_history_table: bool = False, window: Window | None = None
) -> dict[str, object]:
    """Run config that asks for ``run_mode``."""
    config: dict[str, object] = {"run_mode": run_mode.value}
    if reset_history_table:
        config["reset_history_table"] = True
    if window is not None:
        config |= {"window_start": window.start.isoformat(), "window_end": window.end.isoformat()}
    return {"resources": {SYNC_RUN_KEY: {"config": config}}}
