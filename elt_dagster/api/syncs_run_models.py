"""Runs as the Syncs dialect shows them, and what is sent about them."""

from typing import Any

from pydantic import Field

from elt_dagster.api.model_base import RunStatusWord
from elt_dagster.api.syncs_models import Moment, Sent, Shown
from elt_dagster.control.runs import ResultClass
from elt_dagster.model import ExecutionBackend, ExecutionMode, RunMode


class Run(Shown):
    """One run: a run of Dagster, also one that was started there."""

    id: str
    """The run's id in Dagster."""
    sync_id: str
    """Whose it is."""
    status: RunStatusWord
    """Where it is."""
    run_mode: RunMode
    """What it was asked to do."""
    triggered_by: str = Field(examples=["manual"])
    """manual, schedule, on_create, midnight, backfill, api or retry."""
    trigger_ref: str | None
    """The schedule, the sensor or the API key."""
    attempt_number: int
    """Its place in its retry group, from 1."""
    attempt_root_run_id: str
    """The first run of the group."""
    previous_attempt_run_id: str | None
    """The run it retries."""
    next_attempt_run_id: str | None
    """The run that retries it."""
    max_auto_resume_attempts: int
    """How often Dagster starts it again by itself when its process is lost."""
    execution_mode: ExecutionMode
    """How its streams are spread."""
    execution_backend: ExecutionBackend
    """Who loads the tables."""
    executor_id: str | None
    """What runs it, as far as is known."""
    backend_run_ref: str | None
    """What the work is called there."""
    backend_run_url: str | None
    """Its page in the Dagster UI, or there."""
    backend_status: dict[str, Any] | None = Field(examples=[{"backend": "native", "status": "completed"}])
    """What the backend says."""
    backend_heartbeat_at: Moment | None
    """The backend's newest sign of life."""
    last_heartbeat_at: Moment | None
    """The run's own."""
    cancel_reason: str | None
    """Why it was asked to stop."""
    cancel_requested_at: Moment | None
    """When."""
    cancel_requested_by: str | None
    """By which API key."""
    result_class: ResultClass | None
    """What came of it; null until it has ended."""
    result_reason_code: str | None = Field(examples=["heartbeat_timeout"])
    """Why it did not succeed."""
    summary: dict[str, Any]
    """`rowsLoaded`, `bytesLoaded`, `streamsTotal`, `streamsSucceeded`, `streamsFailed`, and under `streams` for each stream `rows`, `bytes`, `seconds`,
    `cursorBefore`, `cursorAfter`, `schemaChanges`."""
    error: str | None
    """What went wrong first, and what to do."""
    created_at: Moment | None
    """When it was asked for."""
    started_at: Moment | None
    """When it began."""
    completed_at: Moment | None
    """When it ended."""
    updated_at: Moment | None
    """When something last happened to it."""


class RunPage(Shown):
    """Some runs, newest first."""

    has_next: bool
    """Whether there are more."""
    limit: int
    """How many a page has at most."""
    offset: int
    """How many come before."""
    total: int
    """How many there are in all."""
    runs: list[Run]
    """This page's."""


class RunWanted(Sent):
    """How to run."""

    run_mode: RunMode | None = None
    """incremental if not given; full_refresh reads everything again."""


class RetryWanted(Sent):
    """How to retry."""

    run_mode: RunMode | None = None
    """Without it only what failed runs again; with it everything does, in this mode."""


class CancelWanted(Sent):
    """Why to stop."""

    reason: str | None = Field(default=None, max_length=1000)
    """For the run's record."""
