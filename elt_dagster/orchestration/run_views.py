"""From Dagster's words about a run to ours. Pure."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from elt_dagster.control.runs import LOST, TIMED_OUT, BackendRun, BackfillView, RunStatus, RunView, StreamRun
from elt_dagster.model import ExecutionBackend, ExecutionMode, RunMode
from elt_dagster.orchestration._backend_follow import moment
from elt_dagster.orchestration.backends import BACKEND, BACKEND_HEARTBEAT, BACKEND_RUN, BACKEND_STATUS, BACKEND_URL
from elt_dagster.orchestration.errors import ERROR_CLASS, REASON
from elt_dagster.orchestration.metadata import BYTES_READ, EXPECTED, ROWS_READ, STREAM, plain_metrics
from elt_dagster.orchestration.tags import (
    CANCEL_REASON_TAG,
    CANCEL_REQUESTED_AT_TAG,
    CANCEL_REQUESTED_BY_TAG,
    END_REASON_TAG,
    EXECUTION_BACKEND_TAG,
    EXECUTION_MODE_TAG,
    EXECUTOR_TAG,
    MAX_RETRIES_TAG,
    PARTITION_TAG,
    RANGE_END_TAG,
    RANGE_START_TAG,
    RUN_MODE_TAG,
    SYNC_ID_TAG,
    SYNC_TAG,
    TRIGGER_REF_TAG,
    TRIGGERED_BY_TAG,
)

_RUN_STATUS = {
    "QUEUED": RunStatus.PENDING,
    "NOT_STARTED": RunStatus.PENDING,
    "MANAGED": RunStatus.PENDING,
    "STARTING": RunStatus.PENDING,
    "STARTED": RunStatus.RUNNING,
    "CANCELING": RunStatus.RUNNING,
    "CANCELED": RunStatus.CANCELLED,
    "SUCCESS": RunStatus.COMPLETED,
    "FAILURE": RunStatus.FAILED,
}
_STEP_STATUS = {
    "SUCCESS": RunStatus.COMPLETED,
    "FAILURE": RunStatus.FAILED,
    "SKIPPED": RunStatus.SKIPPED,
    "IN_PROGRESS": RunStatus.RUNNING,
}
_VALUES = ("intRepr", "floatValue", "text", "mdStr", "url")
_ID = re.compile(r"[\w.-]{1,255}")
_TOO_LONG = "Exceeded maximum runtime"
"""How Dagster's run monitoring begins to tell that it ended a run."""


@dataclass(frozen=True, slots=True)
class JobStream:
    """A stream of a sync's job: its asset and its step."""

    stream: str
    key: tuple[str, ...]
    step: str
    key_format: str | None = None
    """How its windows are named (strftime); None when it is loaded whole."""


@dataclass(frozen=True, slots=True)
class StepError:
    """Why a step failed."""

    message: str
    reason: str | None = None
    stream: str | None = None
    error_class: str | None = None


RUN_ERROR = ""
"""Under this key `stream_errors` puts what no step said."""


def run_view(run: Mapping[str, Any], url: str | None) -> RunView:
    """A run without its streams."""
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    mode = tags.get(RUN_MODE_TAG)
    return RunView(
        id=run["runId"],
        sync=tags.get(SYNC_TAG, ""),
        status=_RUN_STATUS.get(run["status"], RunStatus.PENDING),
        run_mode=RunMode(mode) if mode in {m.value for m in RunMode} else RunMode.INCREMENTAL,
        triggered_by=tags.get(TRIGGERED_BY_TAG, "manual"),
        trigger_ref=tags.get(TRIGGER_REF_TAG, ""),
        created_at=_time(run["creationTime"]),
        started_at=_time(run["startTime"]),
        ended_at=_time(run["endTime"]),
        url=url,
        partition=_partition(tags),
        root_id=run["rootRunId"] or run["runId"],
        parent_id=run["parentRunId"],
        max_retries=int(tags[MAX_RETRIES_TAG]) if tags.get(MAX_RETRIES_TAG, "").isdigit() else 0,
        cancel_reason=tags.get(CANCEL_REASON_TAG, ""),
        end_reason=tags.get(END_REASON_TAG, ""),
        sync_id=tags.get(SYNC_ID_TAG, ""),
        updated_at=_time(run.get("updateTime")) or _time(run["endTime"]) or _time(run["creationTime"]),
        cancel_requested_at=moment(tags.get(CANCEL_REQUESTED_AT_TAG, "")),
        cancel_requested_by=tags.get(CANCEL_REQUESTED_BY_TAG, ""),
        executor_id=tags.get(EXECUTOR_TAG),
        execution_mode=_one_of(ExecutionMode, tags.get(EXECUTION_MODE_TAG)),
        execution_backend=_one_of(ExecutionBackend, tags.get(EXECUTION_BACKEND_TAG)),
    )


def _one_of(words: type[StrEnum], text: str | None) -> str | None:
    """A word we know, and nothing else: anybody may give a run tags."""
    return text if text in {word.value for word in words} else None


def is_id(text: str) -> bool:
    """Whether a run can be called so. What is no id at all is not asked for: databases refuse some texts altogether."""
    return _ID.fullmatch(text) is not None


def _partition(tags: Mapping[str, str]) -> str | None:
    first, last = tags.get(RANGE_START_TAG), tags.get(RANGE_END_TAG)
    return f"{first}...{last}" if first and last else tags.get(PARTITION_TAG)


def backfill_view(backfill: Mapping[str, Any]) -> BackfillView:
    """A backfill, with the windows its runs are about counted by the newest run of each."""
    newest: dict[str, RunStatus] = {}
    for run in reversed(backfill["runs"]):
        tags = {tag["key"]: tag["value"] for tag in run["tags"]}
        newest[_partition(tags) or run["runId"]] = _RUN_STATUS.get(run["status"], RunStatus.PENDING)
    total = backfill["numPartitions"] or len(newest)
    counts = Counter(newest.values())
    counts[RunStatus.PENDING] += max(0, total - len(newest))
    error = (backfill["error"] or {}).get("message")
    return BackfillView(
        id=backfill["id"], status=backfill["status"].lower(), windows=total, runs={k: n for k, n in counts.items() if n}, error=error
    )  # fmt: skip


def with_streams(
    view: RunView,
    run: Mapping[str, Any],
    streams: Iterable[JobStream],
    errors: Mapping[str, StepError],
    backends: Mapping[str, BackendRun] | None = None,
    *,
    estimates: Mapping[str, int] | None = None,
) -> RunView:
    """``view`` with one `StreamRun` per stream, in the job's order; steps the job no longer knows come last.

    ``backends`` are the newest observations of work elsewhere, ``estimates`` how many rows are expected, both by step key.
    """
    stats = {step["stepKey"]: step for step in run["stepStats"]}
    known = list(streams)
    steps = {s.step for s in known}
    known += [
        JobStream(_stream_of(step, errors.get(key)), (key,), key) for key, step in stats.items() if key not in steps
    ]
    whole = errors.get(RUN_ERROR)
    if whole is not None and whole.message.startswith(_TOO_LONG):
        view = replace(view, end_reason=TIMED_OUT)
    found = tuple(
        _stream_run(
            s,
            stats.get(s.step),
            errors.get(s.step),
            view,
            (backends or {}).get(s.step),
            expected=(estimates or {}).get(s.step),
        )
        for s in known
    )
    said = any(s.error for s in found) and not view.end_reason
    return replace(view, streams=found, error=whole.message if whole is not None and not said else None)


def in_chain(view: RunView, attempts: Sequence[RunView]) -> RunView:
    """``view`` with its place among all ``attempts`` of its group, oldest first."""
    places = [v.id for v in attempts]
    after = next((v.id for v in attempts if v.parent_id == view.id), None)
    attempt = places.index(view.id) + 1 if view.id in places else None
    # the very same view tells others that nothing has changed
    return view if (view.attempt, view.next_id) == (attempt, after) else replace(view, attempt=attempt, next_id=after)


def observed_backend(event: Mapping[str, Any]) -> BackendRun | None:
    """What an observation says about work elsewhere; None for any other event."""
    return _backend(_values(event["metadataEntries"])) if event["__typename"] == "ObservationEvent" else None


def observed_estimate(event: Mapping[str, Any]) -> int | None:
    """How many rows an observation expects; None for any other event."""
    found = _values(event["metadataEntries"]).get(EXPECTED) if event["__typename"] == "ObservationEvent" else None
    return found if isinstance(found, int) else None


def _backend(entries: Mapping[str, Any]) -> BackendRun | None:
    if BACKEND not in entries or BACKEND_RUN not in entries:
        return None
    return BackendRun(
        backend=entries[BACKEND],
        run=entries[BACKEND_RUN],
        status=entries.get(BACKEND_STATUS, ""),
        url=entries.get(BACKEND_URL),
        heartbeat_at=moment(entries.get(BACKEND_HEARTBEAT)),
    )


def stream_errors(events: Iterable[Mapping[str, Any]]) -> dict[str, StepError]:
    """Why steps failed, by step key; the run's own failure under `RUN_ERROR`."""
    errors: dict[str, StepError] = {}
    for event in events:
        if event["__typename"] == "ExecutionStepFailureEvent":
            errors[event["stepKey"]] = _step_error(event)
        elif event["__typename"] == "RunFailureEvent":
            said = errors.get(RUN_ERROR)
            if said is not None and said.message.startswith(_TOO_LONG):
                continue  # "forcibly marked as failed", which comes after it, says less
            errors[RUN_ERROR] = StepError(_words(event.get("error")) or event["message"])
    return errors


def event_message(event: Mapping[str, Any]) -> str | None:
    """A line for a person, for the events that are worth one."""
    step = event.get("stepKey") or ""
    match event["__typename"]:
        case "ExecutionStepFailureEvent":
            return f"{step}: {_step_error(event).message}"
        case "ExecutionStepUpForRetryEvent":
            wait = event.get("secondsToWait") or 0
            return f"{step}: {_words(event.get('error'))} Trying again in {wait:g} s."
        case "LogMessageEvent" if event.get("level") in ("WARNING", "ERROR", "CRITICAL"):
            return f"{step}: {event['message']}" if step else str(event["message"])
        case _:
            return None


def _step_error(event: Mapping[str, Any]) -> StepError:
    told = event.get("failureMetadata") or {}
    entries = {e["label"]: e.get("text") for e in told.get("metadataEntries") or ()}
    message = told.get("description") or _words(event.get("error")) or event["message"]
    return StepError(message, entries.get(REASON), entries.get(STREAM), entries.get(ERROR_CLASS))


def _words(error: Mapping[str, Any] | None) -> str:
    """The innermost message of a chain of errors, without the class in front."""
    if not error:
        return ""
    innermost = (error.get("causes") or [error])[-1]
    message = str(innermost["message"]).strip()
    head, separator, rest = message.partition(": ")
    return rest if separator and "." in head and " " not in head else message


def _stream_run(
    stream: JobStream,
    step: Mapping[str, Any] | None,
    error: StepError | None,
    view: RunView,
    observed: BackendRun | None,
    *,
    expected: int | None,
) -> StreamRun:
    if step is None:
        left = RunStatus.PENDING if not view.status.is_final else RunStatus.SKIPPED
        return StreamRun(stream=stream.stream, status=left)
    status = _status(step, view)
    if status is RunStatus.FAILED and error is None:
        error = StepError("Its process was lost while it worked; what it had committed stays.", view.end_reason or LOST)
    failed = error if status is RunStatus.FAILED else None
    entries = {**({EXPECTED: expected} if expected is not None else {}), **_entries(step)}
    start, end = step["startTime"], step["endTime"]
    return StreamRun(
        stream=stream.stream,
        status=status,
        rows=entries.get(ROWS_READ),
        bytes=entries.get(BYTES_READ),
        seconds=end - start if start and end else None,
        error=failed.message if failed is not None else None,
        reason=failed.reason if failed is not None else None,
        error_class=failed.error_class if failed is not None else None,
        metrics=plain_metrics(entries),
        backend=_backend(entries) or observed,
    )


def _status(step: Mapping[str, Any], view: RunView) -> RunStatus:
    """Of a step; the end of its run is the end of what was under way, whether it could say so or not."""
    status = _STEP_STATUS.get(step["status"], RunStatus.PENDING)
    if view.status is RunStatus.CANCELLED and not view.end_reason and status in (RunStatus.FAILED, RunStatus.RUNNING):
        return RunStatus.CANCELLED
    return RunStatus.FAILED if view.status.is_final and status is RunStatus.RUNNING else status


def _entries(step: Mapping[str, Any]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for materialization in step["materializations"]:
        entries |= _values(materialization["metadataEntries"])
    return entries


def _values(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for entry in entries:
        value = next((entry[name] for name in _VALUES if name in entry), None)
        if value is not None:
            values[entry["label"]] = int(value) if "intRepr" in entry else value
    return values


def _stream_of(step: Mapping[str, Any], error: StepError | None) -> str:
    told = error.stream if error is not None else _entries(step).get(STREAM)
    return str(told or step["stepKey"])


def _time(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None
