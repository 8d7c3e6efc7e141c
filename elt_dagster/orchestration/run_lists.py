"""Lists of runs: a page of them, the newest of each of many syncs, those that have not ended.

Where the instance of the deployment is at hand it is asked itself: one query instead of a round through GraphQL for each run. Elsewhere
the same questions go to the webserver. Both give runs as the GraphQL documents do, so that `run_views` reads one shape.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import dagster as dg
from dagster._core.storage.dagster_run import RunRecord, TagBucket  # noqa: TID251 - what `DagsterInstance.get_run_records` gives and takes

from elt_dagster.errors import ConfigError, NotFoundError
from elt_dagster.orchestration import graphql
from elt_dagster.orchestration.tags import PARENT_RUN_TAG, ROOT_RUN_TAG, SYNC_ID_TAG

ACTIVE = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
Run = Mapping[str, Any]
"""A run in the fields of `graphql.RUNS`."""


class RunLists(Protocol):
    """Questions about many runs."""

    def page(
        self, tags: Mapping[str, str], *, limit: int, offset: int, before: str | None, ascending: bool = False
    ) -> list[Run]:
        """Runs with these tags, newest first, that come before a run (after it, when ``ascending``), or after so many."""
        ...

    def count(self, tags: Mapping[str, str]) -> int:
        """How many runs have these tags."""
        ...

    def newest(self, key: str, values: Sequence[str], statuses: Sequence[dg.DagsterRunStatus] | None) -> list[Run]:
        """The newest run for each value of the tag ``key``, of those that are in one of the ``statuses``."""
        ...

    def groups(self, root_ids: Sequence[str]) -> list[Run]:
        """All runs that name one of these as the root of their retry group."""
        ...


class InstanceLists:
    """Implements `RunLists` over the instance."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance

    def page(
        self, tags: Mapping[str, str], *, limit: int, offset: int, before: str | None, ascending: bool = False
    ) -> list[Run]:
        """One query, two with an offset."""
        filters = dg.RunsFilter(tags=dict(tags))
        if offset:
            skipped = self._instance.get_run_ids(filters, limit=offset)
            if len(skipped) < offset:
                return []
            before = skipped[-1]
        if before is not None and not self._instance.has_run(before):
            raise gone(before)
        found = self._instance.get_run_records(filters, limit=limit, cursor=before, ascending=ascending)
        return [from_record(record) for record in found]

    def count(self, tags: Mapping[str, str]) -> int:
        """One query over the index of tags."""
        return self._instance.get_runs_count(dg.RunsFilter(tags=dict(tags)))

    def newest(self, key: str, values: Sequence[str], statuses: Sequence[dg.DagsterRunStatus] | None) -> list[Run]:
        """One query for all."""
        filters = dg.RunsFilter(tags={key: list(values)}, statuses=list(statuses) if statuses else None)
        bucket = TagBucket(tag_key=key, tag_values=list(values), bucket_limit=1)
        return [from_record(record) for record in self._instance.get_run_records(filters, bucket_by=bucket)]

    def groups(self, root_ids: Sequence[str]) -> list[Run]:
        """One query for all."""
        return [
            from_record(r) for r in self._instance.get_run_records(dg.RunsFilter(tags={ROOT_RUN_TAG: list(root_ids)}))
        ]


class GraphQLLists:
    """Implements `RunLists` over a webserver; what takes several questions goes there in one request."""

    def __init__(self, transport: graphql.Transport) -> None:
        self._transport = transport

    def page(
        self, tags: Mapping[str, str], *, limit: int, offset: int, before: str | None, ascending: bool = False
    ) -> list[Run]:
        """GraphQL gives runs newest first only, so an ascending page is the end of those that are newer than ``before``."""
        if offset:
            skipped = self._runs(tags, limit=offset)
            if len(skipped) < offset:
                return []
            before = skipped[-1]["runId"]
        if not ascending:
            return self._runs(tags, limit=limit, cursor=before)
        newer: list[Run] = []
        for run in self._runs(tags, limit=None):
            if run["runId"] == before:
                break
            newer.append(run)
        else:
            if before is not None:
                raise gone(before)
        return newer[::-1][:limit]

    def count(self, tags: Mapping[str, str]) -> int:
        """As the webserver counts."""
        answer = self._transport.execute(graphql.RUN_COUNT, {"filter": _filter(tags)})["runsOrError"]
        return int(answer.get("count") or 0)

    def newest(self, key: str, values: Sequence[str], statuses: Sequence[dg.DagsterRunStatus] | None) -> list[Run]:
        """One alias per value."""
        filters = [
            {**_filter({key: v}), **({"statuses": [s.value for s in statuses]} if statuses else {})} for v in values
        ]
        return self._each(filters, limit=1)

    def groups(self, root_ids: Sequence[str]) -> list[Run]:
        """One alias per root."""
        return self._each([_filter({ROOT_RUN_TAG: root}) for root in root_ids], limit=100)

    def _each(self, filters: Sequence[Mapping[str, Any]], limit: int) -> list[Run]:
        if not filters:
            return []
        document = graphql.runs_of_each(len(filters))
        answer = self._transport.execute(document, {"limit": limit, **{f"f{i}": f for i, f in enumerate(filters)}})
        return [run for part in answer.values() for run in part.get("results", ())]

    def _runs(self, tags: Mapping[str, str], *, limit: int | None, cursor: str | None = None) -> list[Run]:
        variables = {"filter": _filter(tags), "limit": limit, "cursor": cursor}
        answer = self._transport.execute(graphql.RUNS, variables)["runsOrError"]
        if answer["__typename"] != "Runs":
            raise ConfigError(f"Dagster answered {answer['__typename']}: {answer.get('message', 'nothing more')}")
        return list(answer["results"])


def gone(run_id: str) -> NotFoundError:
    """A page was to begin at a run that is not there."""
    return NotFoundError(f"There is no run {run_id!r} to go on from.", fix="Begin at the first page.")


def sync_tag(sync_id: str) -> dict[str, str]:
    """What the runs of a sync have."""
    return {SYNC_ID_TAG: sync_id}


def from_record(record: RunRecord) -> dict[str, Any]:
    """A record of the instance in the fields of `graphql.RUNS`."""
    run = record.dagster_run
    return {
        "runId": run.run_id,
        "status": run.status.value,
        "jobName": run.job_name,
        "creationTime": record.create_timestamp.timestamp(),
        "updateTime": record.update_timestamp.timestamp(),
        "startTime": record.start_time,
        "endTime": record.end_time,
        "rootRunId": run.tags.get(ROOT_RUN_TAG) or run.root_run_id,
        "parentRunId": run.tags.get(PARENT_RUN_TAG) or run.parent_run_id,
        "tags": [{"key": key, "value": value} for key, value in run.tags.items()],
    }


def _filter(tags: Mapping[str, str]) -> dict[str, Any]:
    return {"tags": [{"key": key, "value": value} for key, value in tags.items()]}
