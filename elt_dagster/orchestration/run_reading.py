"""Whole runs: their steps, what these materialized, why they failed, and when they were last heard of.

As with `run_lists`, the instance is asked itself where it is at hand, and both ways give what the GraphQL documents would.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import dagster as dg

from elt_dagster.errors import NotFoundError
from elt_dagster.orchestration import graphql
from elt_dagster.orchestration.run_lists import ACTIVE, from_record, in_our_words, sync_tag

PAGE = 500
_TOLD = {
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.ASSET_OBSERVATION,
}
"""What `run_views` reads in a log."""
_DEEPEST_CAUSE = 10
Event = Mapping[str, Any]
"""An event in the fields of `graphql.EVENTS`."""


class RunReader(Protocol):
    """Questions about single runs, and what a sync has under way at this very moment."""

    def whole(self, run_ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """The runs with these ids in the fields of `graphql.RUN`, as far as they are there."""
        ...

    def log(self, run_id: str, after: str | None = None) -> tuple[list[Event], str | None, float | None]:
        """What the log tells beyond ``after`` of failures and of work elsewhere, where to read on, and when the newest event was (a Unix time,
        None where there was none)."""
        ...

    def active(self, sync_id: str) -> list[str]:
        """The runs of a sync that have not ended, newest first."""
        ...


@in_our_words
class InstanceReader:
    """Implements `RunReader` over the instance."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance

    def whole(self, run_ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """One query for the runs, and one for the steps of each."""
        if not run_ids:
            return {}
        records = self._instance.get_run_records(dg.RunsFilter(run_ids=list(run_ids)))
        return {
            record.dagster_run.run_id: {
                **from_record(record),
                "assetSelection": [{"path": list(key.path)} for key in record.dagster_run.asset_selection or ()],
                "stepKeysToExecute": record.dagster_run.step_keys_to_execute,
                "stepStats": [_step(stats) for stats in self._instance.get_run_step_stats(record.dagster_run.run_id)],
            }
            for record in records
        }

    def log(self, run_id: str, after: str | None = None) -> tuple[list[Event], str | None, float | None]:
        """Two queries: only what we read is fetched."""
        found = self._instance.get_records_for_run(run_id, cursor=after, of_type=_TOLD)
        last = self._instance.get_records_for_run(run_id, limit=1, ascending=False).records
        return (
            [event for r in found.records if (event := _event(r.event_log_entry)) is not None],
            found.cursor,
            last[0].event_log_entry.timestamp if last else None,
        )

    def active(self, sync_id: str) -> list[str]:
        """One query."""
        wanted = dg.RunsFilter(tags=sync_tag(sync_id), statuses=list(ACTIVE))
        return list(self._instance.get_run_ids(wanted, limit=PAGE))


class GraphQLReader:
    """Implements `RunReader` over a webserver."""

    def __init__(self, transport: graphql.Transport) -> None:
        self._transport = transport

    def whole(self, run_ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """One question for all."""
        if not run_ids:
            return {}
        wanted = {"filter": {"runIds": list(run_ids)}, "limit": len(run_ids)}
        answer = self._transport.execute(graphql.WHOLE_RUNS, wanted)["runsOrError"]
        return {run["runId"]: run for run in answer.get("results", ())}

    def log(self, run_id: str, after: str | None = None) -> tuple[list[Event], str | None, float | None]:
        """The whole log, for a webserver cannot be asked for some kinds of events."""
        events: list[Event] = []
        newest: float | None = None
        for page in log_pages(self._transport, run_id, after):
            after = page["cursor"]
            events += page["events"]
            times = [int(event["timestamp"]) / 1000 for event in page["events"] if event.get("timestamp")]
            newest = times[-1] if times else newest
        return events, after, newest

    def active(self, sync_id: str) -> list[str]:
        """One question."""
        tags = [{"key": key, "value": value} for key, value in sync_tag(sync_id).items()]
        wanted = {"tags": tags, "statuses": [status.value for status in ACTIVE]}
        answer = self._transport.execute(graphql.RUNS, {"filter": wanted, "limit": PAGE})["runsOrError"]
        return [run["runId"] for run in answer.get("results", ())]


def log_pages(transport: graphql.Transport, run_id: str, after: str | None) -> Iterator[dict[str, Any]]:
    """The log of a run beyond ``after``. Raises NotFoundError."""
    while True:
        answer = transport.execute(graphql.EVENTS, {"id": run_id, "after": after, "limit": PAGE})["logsForRun"]
        if answer["__typename"] != "EventConnection":
            raise no_run(run_id)
        yield answer
        after = answer["cursor"]
        if not answer["hasMore"]:
            return


def no_run(run_id: str) -> NotFoundError:
    """Nothing has this id."""
    return NotFoundError(f"There is no run {run_id!r}.", fix="`elt-dagster runs` lists them.")


def _step(stats: Any) -> dict[str, Any]:
    made = (event.asset_materialization for event in stats.materialization_events)
    return {
        "stepKey": stats.step_key,
        "status": stats.status.value if stats.status is not None else None,
        "startTime": stats.start_time,
        "endTime": stats.end_time,
        "materializations": [{"metadataEntries": _entries(m.metadata)} for m in made if m is not None],
    }


def _event(entry: dg.EventLogEntry) -> Event | None:
    event = entry.dagster_event
    if event is None:
        return None
    common = {"message": entry.message, "stepKey": entry.step_key}
    if event.event_type is dg.DagsterEventType.STEP_FAILURE:
        data = event.step_failure_data
        told = data.user_failure_data
        metadata = {"description": told.description, "metadataEntries": _entries(told.metadata)} if told else None
        failed = {"error": _error(data.error), "failureMetadata": metadata}
        return {"__typename": "ExecutionStepFailureEvent", **common, **failed}
    if event.event_type is dg.DagsterEventType.RUN_FAILURE:
        error = event.job_failure_data.error if event.event_specific_data is not None else None
        return {"__typename": "RunFailureEvent", **common, "error": _error(error)}
    seen = entry.asset_observation
    return {"__typename": "ObservationEvent", **common, "metadataEntries": _entries(seen.metadata if seen else {})}


def _error(error: Any) -> dict[str, Any] | None:
    if error is None:
        return None
    causes: list[dict[str, str]] = []
    cause = error.cause
    while cause is not None and len(causes) < _DEEPEST_CAUSE:
        causes.append({"message": cause.message})
        cause = cause.cause
    return {"message": error.message, "causes": causes}


def _entries(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"label": label, **_value(value)} for label, value in metadata.items()]


def _value(value: Any) -> dict[str, Any]:
    """In the fields GraphQL has for it; nothing for the kinds that we do not write."""
    match value:
        case dg.IntMetadataValue(value=int(number)):
            return {"intRepr": str(number)}
        case dg.FloatMetadataValue(value=float(number)):
            return {"floatValue": number if math.isfinite(number) else None}
        case dg.TextMetadataValue():
            return {"text": value.text}
        case dg.MarkdownMetadataValue():
            return {"mdStr": value.md_str}
        case dg.UrlMetadataValue():
            return {"url": value.url}
        case _:
            return {}
