"""One run of one sync as the rest of the program sees it: what it is, where it is, and what came of each of its streams."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from elt_dagster.model import ESTIMATED_ROWS, RunMode


class RunStatus(StrEnum):
    """Where a run is, or where one stream of it is. ``skipped`` is a stream whose parent failed."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"

    @property
    def is_final(self) -> bool:
        """Whether it will not change any more."""
        return self not in (RunStatus.PENDING, RunStatus.RUNNING)


class ResultClass(StrEnum):
    """What came of a run that has ended; ``partial`` is one of which some streams landed and some did not."""

    SUCCESS = "success"
    PARTIAL = "partial"
    FAILURE = "failure"
    CANCELLED = "cancelled"


LOST = "heartbeat_timeout"
"""The reason of a run whose process died or fell silent, and which was ended."""
TIMED_OUT = "max_runtime_exceeded"
"""The reason of a run that took longer than its sync allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendRun:
    """A piece of work of another scheduler that loads a stream for us."""

    backend: str
    """prefect or temporal."""
    run: str
    """What it is called there."""
    status: str
    """In the scheduler's own words."""
    url: str | None = None
    heartbeat_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRun:
    """One stream of one run. Sizes are Arrow bytes, times seconds; what is not known yet is None."""

    stream: str
    status: RunStatus
    rows: int | None = None
    """Rows read."""
    bytes: int | None = None
    seconds: float | None = None
    error: str | None = None
    """Two sentences: what happened and where; what to do."""
    reason: str | None = None
    """The `reason` of the error's class, such as ``auth_failed``."""
    error_class: str | None = None
    """Such as ``AuthError``; None for an error that is not one of ours."""
    metrics: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Everything the materialization reported, without the ``elt/`` prefix: load_mode, table_rows, schema_changes ..."""
    backend: BackendRun | None = None
    """Who loads it, where that is not Dagster itself."""

    @property
    def rows_inserted(self) -> int | None:
        """New rows in the table."""
        return self.metrics.get("rows_inserted")

    @property
    def rows_updated(self) -> int | None:
        """Rows of the table that were replaced."""
        return self.metrics.get("rows_updated")

    @property
    def rows_deleted(self) -> int | None:
        """Rows that left the table, or were marked as deleted."""
        return self.metrics.get("rows_deleted")

    @property
    def rows_rejected(self) -> int | None:
        """Rows that fit nothing and were set aside."""
        return self.metrics.get("rows_rejected")

    @property
    def cursor_before(self) -> str | None:
        """Where the read went on from."""
        return self.metrics.get("cursor_before")

    @property
    def cursor_after(self) -> str | None:
        """Where the next one will."""
        return self.metrics.get("cursor_after")

    @property
    def expected_rows(self) -> int | None:
        """About how many rows there were to read, when everything was and the source told."""
        return self.metrics.get(f"counts/{ESTIMATED_ROWS}")

    @property
    def summary(self) -> dict[str, Any]:
        """What it loaded, as plain data."""
        return {
            "rows": self.rows,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "cursor_before": self.cursor_before,
            "cursor_after": self.cursor_after,
            "schema_changes": self.metrics.get("schema_changes"),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """One run of one sync. Times are aware, in UTC."""

    id: str
    sync: str
    """Slug; empty for a run that was started on assets of several syncs."""
    status: RunStatus
    run_mode: RunMode
    triggered_by: str
    trigger_ref: str = ""
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    streams: tuple[StreamRun, ...] = ()
    """In a list of runs this is empty; `Runs.get` fills it."""
    error: str | None = None
    """Why the run as a whole failed, where no single stream says it."""
    url: str | None = None
    """The run's page in the Dagster UI, when a webserver is known."""
    partition: str | None = None
    """The window it loads, or ``first...last`` of several."""
    root_id: str = ""
    """The first run of its retry group: its own id where it is no retry."""
    parent_id: str | None = None
    """The run it retries."""
    attempt: int | None = None
    """Its place in its retry group, from 1; `Runs.get` and `Runs.attempts` fill it."""
    next_id: str | None = None
    """The first run that retries it; filled as ``attempt`` is."""
    max_retries: int = 0
    """How often Dagster starts it again by itself when its process is lost."""
    cancel_reason: str = ""
    end_reason: str = ""
    """The reason code of a run that was ended because it was silent or took too long."""
    heartbeat_at: datetime | None = None
    """Its newest sign of life, while it runs and where it failed."""
    sync_id: str = ""
    """The id of its sync, which a slug may outlive; empty for a run that was started on assets of several syncs."""
    updated_at: datetime | None = None
    executor_id: str | None = None
    """What runs it, as far as Dagster knows."""
    cancel_requested_at: datetime | None = None
    cancel_requested_by: str = ""
    execution_mode: str | None = None
    """As the run itself says; None where only its sync can tell."""
    execution_backend: str | None = None

    @property
    def summary(self) -> dict[str, Any]:
        """What it loaded: rows_loaded, bytes_loaded, streams_total, streams_succeeded, streams_failed, and under ``streams`` the rows, bytes,
        seconds, cursor_before, cursor_after and schema_changes of each."""

        def count(status: RunStatus) -> int:
            return sum(s.status is status for s in self.streams)

        return {
            "rows_loaded": sum(s.rows or 0 for s in self.streams),
            "bytes_loaded": sum(s.bytes or 0 for s in self.streams),
            "streams_total": len(self.streams),
            "streams_succeeded": count(RunStatus.COMPLETED),
            "streams_failed": count(RunStatus.FAILED),
            "streams": {s.stream: s.summary for s in self.streams},
        }

    @property
    def result_class(self) -> ResultClass | None:
        """What came of it; None while it runs."""
        if not self.status.is_final:
            return None
        if self.status is RunStatus.CANCELLED and not self.end_reason:
            return ResultClass.CANCELLED
        if self.status is RunStatus.COMPLETED:
            return ResultClass.SUCCESS
        landed = any(s.status is RunStatus.COMPLETED for s in self.streams)
        return ResultClass.PARTIAL if landed else ResultClass.FAILURE

    @property
    def reason(self) -> str | None:
        """Why it did not succeed: the first failed stream's reason; ``heartbeat_timeout`` for a lost process."""
        if self.end_reason and self.status.is_final and self.status is not RunStatus.COMPLETED:
            return self.end_reason
        if self.status is RunStatus.CANCELLED:
            return "cancelled"
        if self.status is not RunStatus.FAILED:
            return None
        given = [s.reason for s in self.failures if s.reason]
        if given or self.failures:
            return given[0] if given else "unknown"
        return LOST if self.started_at is not None else "unknown"

    @property
    def backend(self) -> BackendRun | None:
        """The work of another scheduler that this run is waiting for, else the last it waited for; None for Dagster's own runs."""
        found = [s for s in self.streams if s.backend is not None]
        running = [s for s in found if s.status is RunStatus.RUNNING]
        return (running or found)[-1].backend if found else None

    @property
    def failures(self) -> tuple[StreamRun, ...]:
        """The streams that failed."""
        return tuple(s for s in self.streams if s.status is RunStatus.FAILED)

    @property
    def first_error(self) -> str | None:
        """What its first failed stream says, else what is known of the whole."""
        return next((s.error for s in self.failures if s.error), None) or self.error
