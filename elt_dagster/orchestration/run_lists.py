"""Lists of runs: a page of them, the newest of each of some, those that have not ended.

Where the instance of the deployment is at hand it is asked itself: one query instead of a round through GraphQL for each run. Elsewhere
the same questions go to the webserver. Both give runs as the GraphQL documents do, so that `run_views` reads one shape.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Protocol, TypeVar

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from elt_dagster.errors import ConfigError, NotFoundError, TransientError
from elt_dagster.orchestration import graphql
from elt_dagster.orchestration._ended_runs import EndedRuns
from elt_dagster.orchestration.tags import PARENT_RUN_TAG, ROOT_RUN_TAG, SYNC_ID_TAG

ACTIVE = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
ACTIVE_WORDS = frozenset(status.value for status in ACTIVE)
PAGE = 100
Run = Mapping[str, Any]
"""A run in the fields of `graphql.RUNS`."""


C = TypeVar("C")


def in_our_words(kind: type[C]) -> type[C]:
    """Let the public methods of a class raise TransientError where Dagster's storage does not answer."""
    for name, method in list(vars(kind).items()):
        if callable(method) and not name.startswith("_"):
            setattr(kind, name, _answering(method))
    return kind


def _answering(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def ask(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except (SQLAlchemyError, dg.DagsterError) as error:
            # only the class: a driver's text may have the address and the user of the database
            text = f"Dagster's storage did not answer ({type(error).__name__})."
            raise TransientError(text, fix="Is its database up? Try again.") from None

    return ask


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

    def of_syncs(
        self, sync_ids: Sequence[str], *, limit: int, offset: int, before: str | None
    ) -> tuple[list[Run], int]:
        """A page of the runs of several syncs, newest first, and how many they have."""
        ...

    def newest(self, key: str, values: Sequence[str], statuses: Sequence[dg.DagsterRunStatus] | None) -> list[Run]:
        """The newest run for each value of the tag ``key``, of those that are in one of the ``statuses``."""
        ...

    def groups(self, root_ids: Sequence[str]) -> list[Run]:
        """All runs that name one of these as the root of their retry group."""
        ...

    def newer(self, than: str) -> list[Run]:
        """All runs that were made after one, in any order. When that is gone there are none, or NotFoundError is raised."""
        ...

    def those(self, run_ids: Sequence[str]) -> list[Run]:
        """The runs with these ids, as far as they are there."""
        ...

    def present(self, run_ids: Sequence[str]) -> set[str]:
        """Which of these runs are there."""
        ...


@in_our_words
class InstanceLists:
    """Implements `RunLists` over the instance."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._ended = EndedRuns(ACTIVE_WORDS)

    def page(
        self, tags: Mapping[str, str], *, limit: int, offset: int, before: str | None, ascending: bool = False
    ) -> list[Run]:
        """A query for the ids, one for the runs that are not known to have ended, and another with an offset."""
        return self._page(dg.RunsFilter(tags=dict(tags)), limit, offset, before, ascending=ascending)

    def _page(
        self, filters: dg.RunsFilter, limit: int, offset: int, before: str | None, *, ascending: bool = False
    ) -> list[Run]:
        if offset:
            skipped = self._instance.get_run_ids(filters, limit=offset)
            if len(skipped) < offset:
                return []
            before = skipped[-1]
        if before is not None and not self._instance.has_run(before):
            raise gone(before)
        if ascending:
            found = self._instance.get_run_records(filters, limit=limit, cursor=before, ascending=True)
            return [from_record(record) for record in found]
        return self._ended.fill(self._instance.get_run_ids(filters, limit=limit, cursor=before), self._read)

    def _read(self, run_ids: Sequence[str]) -> list[Run]:
        return [from_record(r) for r in self._instance.get_run_records(dg.RunsFilter(run_ids=list(run_ids)))]

    def count(self, tags: Mapping[str, str]) -> int:
        """One query over the index of tags."""
        return self._instance.get_runs_count(dg.RunsFilter(tags=dict(tags)))

    def of_syncs(
        self, sync_ids: Sequence[str], *, limit: int, offset: int, before: str | None
    ) -> tuple[list[Run], int]:
        """As a page of one, and a count where the page is not the end."""
        if not sync_ids:
            return [], 0
        wanted = dg.RunsFilter(tags={SYNC_ID_TAG: list(sync_ids)})
        found = self._page(wanted, limit, offset, before)
        if before is None and len(found) < limit and (found or not offset):
            return found, offset + len(found)
        return found, self._instance.get_runs_count(wanted)

    def newest(self, key: str, values: Sequence[str], statuses: Sequence[dg.DagsterRunStatus] | None) -> list[Run]:
        """One query for each: the storage knows no other way, and each is answered from an index."""
        wanted = list(statuses) if statuses else None
        found = (self._instance.get_run_records(dg.RunsFilter(tags={key: v}, statuses=wanted), limit=1) for v in values)
        return [from_record(record) for records in found for record in records]

    def groups(self, root_ids: Sequence[str]) -> list[Run]:
        """One query for all."""
        return [
            from_record(r) for r in self._instance.get_run_records(dg.RunsFilter(tags={ROOT_RUN_TAG: list(root_ids)}))
        ]

    def newer(self, than: str) -> list[Run]:
        """From the primary key on. A run that is gone leads nowhere, which only `present` tells."""
        found = self._instance.get_run_records(cursor=than, ascending=True)
        return [from_record(record) for record in found]

    def those(self, run_ids: Sequence[str]) -> list[Run]:
        """One query, which reads no run where all are known to have ended."""
        if not run_ids:
            return []
        if self._ended.knows(run_ids):
            return self._ended.fill(self._instance.get_run_ids(dg.RunsFilter(run_ids=list(run_ids))), self._read)
        return self._ended.noted(self._read(run_ids))

    def present(self, run_ids: Sequence[str]) -> set[str]:
        """One query that reads no run."""
        return set(self._instance.get_run_ids(dg.RunsFilter(run_ids=list(run_ids)))) if run_ids else set()


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

    def of_syncs(
        self, sync_ids: Sequence[str], *, limit: int, offset: int, before: str | None
    ) -> tuple[list[Run], int]:
        """Of several syncs each gives a page, and the newest of these make it: a filter of GraphQL has one value for a tag."""
        many = len(sync_ids) > 1
        asked = (
            self.page(sync_tag(s), limit=limit + offset * many, offset=0 if many else offset, before=before)
            for s in sync_ids
        )
        found = [run for page in asked for run in page]
        if many:
            found = sorted(found, key=lambda run: run["creationTime"], reverse=True)[offset : offset + limit]
        return found, sum(self.count(sync_tag(s)) for s in sync_ids)

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

    def newer(self, than: str) -> list[Run]:
        """From the newest back to that run."""
        found: list[Run] = []
        cursor: str | None = None
        while True:
            page = self._runs({}, limit=PAGE, cursor=cursor)
            for run in page:
                if run["runId"] == than:
                    return found
                found.append(run)
            if len(page) < PAGE:
                raise gone(than)
            cursor = page[-1]["runId"]

    def those(self, run_ids: Sequence[str]) -> list[Run]:
        """One question."""
        if not run_ids:
            return []
        answer = self._transport.execute(graphql.RUNS, {"filter": {"runIds": list(run_ids)}, "limit": len(run_ids)})
        return list(answer["runsOrError"].get("results", ()))

    def present(self, run_ids: Sequence[str]) -> set[str]:
        """As `those`."""
        return {run["runId"] for run in self.those(run_ids)}

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


def from_record(record: dg.RunRecord) -> dict[str, Any]:
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
