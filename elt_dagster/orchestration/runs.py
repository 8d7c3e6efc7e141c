"""`elt_dagster.control.runs.Runs` over Dagster's GraphQL: see `open_runs`."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from types import TracebackType
from typing import Any

from elt_dagster.control.runs import (
    AsStored,
    BackfillView,
    LatestRuns,
    RunEvents,
    RunPage,
    RunStatus,
    RunView,
    StreamRun,
)
from elt_dagster.engine import Progress
from elt_dagster.errors import ConfigError, ConflictError, NotFoundError, TransientError
from elt_dagster.model import RunMode, TriggeredBy, Window
from elt_dagster.orchestration import graphql
from elt_dagster.orchestration.jobs import job_name
from elt_dagster.orchestration.launching import Launcher, Wish, gone_job, tag_list
from elt_dagster.orchestration.newest_runs import Newest
from elt_dagster.orchestration.progress import parse_progress
from elt_dagster.orchestration.run_details import RunDetails
from elt_dagster.orchestration.run_lists import Run, gone, sync_tag
from elt_dagster.orchestration.run_reading import log_pages
from elt_dagster.orchestration.run_views import (
    backfill_view,
    event_message,
    in_chain,
    is_id,
    run_view,
)
from elt_dagster.orchestration.tags import (
    CANCEL_REASON_TAG,
    CANCEL_REQUESTED_AT_TAG,
    CANCEL_REQUESTED_BY_TAG,
    PARENT_RUN_TAG,
    PARTITION_TAG,
    RANGE_END_TAG,
    RANGE_START_TAG,
    ROOT_RUN_TAG,
    SYNC_TAG,
    trigger_tags,
)

WEBSERVER_VARIABLE = "ELT_DAGSTER_WEBSERVER_URL"
_START_SECONDS = 20.0
_POLL_SECONDS = 0.5
Pairs = list[tuple[RunView, StreamRun]]
_NOT_OURS = 20
"""How many pages of runs to look through for those of syncs, when no sync is named."""


def open_runs(
    workspace_file: str | None = None, *, webserver_url: str | None = None, fresh_seconds: float = 0.0
) -> "GraphQLRuns":
    """The runs of the webserver at ``webserver_url`` (default ``ELT_DAGSTER_WEBSERVER_URL``), else of a workspace opened here.

    Without a webserver, ``workspace_file`` is loaded, by default the ``workspace.yaml`` of the current folder, and runs live no
    longer than the returned object: leaving it waits for them. `latest` and `active` may miss what others did in the last ``fresh_seconds``, for
    servers that ask often. Raises ConfigError when there is nothing to open.
    """
    url = webserver_url or os.environ.get(WEBSERVER_VARIABLE)
    if url and workspace_file is None:
        from elt_dagster.orchestration.http_transport import HttpTransport

        return GraphQLRuns(HttpTransport(url), fresh_seconds=fresh_seconds)
    from elt_dagster.orchestration.hosting import Host

    return GraphQLRuns(Host(workspace_file), hosts=True, fresh_seconds=fresh_seconds)


LOOKED_AT_ONCE = 12
"""How many runs of a sync are looked through for those of one stream."""


class GraphQLRuns:
    """Implements `Runs`. With ``hosts``, launched runs depend on this object: `close` waits for them."""

    def __init__(self, transport: graphql.Transport, *, hosts: bool = False, fresh_seconds: float = 0.0) -> None:
        self._transport, self._hosts, self._fresh_seconds = transport, hosts, fresh_seconds
        self._launcher = Launcher(transport, hosts=hosts)
        self._details = RunDetails(transport, self._launcher, hosts=hosts)
        self._hosted: list[str] = []
        self._seen_latest: dict[str, tuple[tuple[Run | None, ...], LatestRuns]] = {}

    def launch(
        self,
        sync: str,
        *,
        streams: Sequence[str] | None = None,
        run_mode: RunMode = RunMode.INCREMENTAL,
        reset_history_table: bool = False,
        window: Window | None = None,
        triggered_by: TriggeredBy = TriggeredBy.MANUAL,
        trigger_ref: str = "",
        sync_id: str = "",
        as_stored: AsStored | None = None,
    ) -> str:
        """Start a run through the sync's job."""
        wish = Wish(
            sync=sync, streams=streams, run_mode=run_mode, reset_history_table=reset_history_table,
            window=window, triggered_by=triggered_by, trigger_ref=trigger_ref,
        )  # fmt: skip
        if sync_id:
            job = self._launcher.ready_job(job_name(sync), sync, sync_id, streams, as_stored)
        else:
            job = self._launcher.job(job_name(sync), sync)
        return self._launch(self._launcher.execution(job, wish))

    def backfill(
        self, sync: str, window: Window, *, streams: Sequence[str] | None = None, trigger_ref: str = ""
    ) -> str:
        """Hand it to Dagster's backfill daemon."""
        wish = Wish(
            sync=sync, streams=streams, run_mode=RunMode.INCREMENTAL, reset_history_table=False,
            window=window, triggered_by=TriggeredBy.BACKFILL, trigger_ref=trigger_ref,
        )  # fmt: skip
        params = self._launcher.backfill(self._launcher.job(job_name(sync), sync), wish)
        self._require_daemon()
        answer = self._ask(graphql.BACKFILL, {"params": params}, "launchPartitionBackfill", "LaunchBackfillSuccess")
        return str(answer["backfillId"])

    def get_backfill(self, backfill_id: str) -> BackfillView:
        """Its windows, counted by the state of their newest runs."""
        answer = self._transport.execute(graphql.BACKFILL_STATUS, {"id": backfill_id})["partitionBackfillOrError"]
        if answer["__typename"] != "PartitionBackfill":
            raise NotFoundError(f"There is no backfill {backfill_id!r}.")
        return backfill_view(answer)

    def cancel_backfill(self, backfill_id: str) -> None:
        """The daemon stops its runs."""
        if not self.get_backfill(backfill_id).is_final:
            self._ask(graphql.CANCEL_BACKFILL, {"id": backfill_id}, "cancelPartitionBackfill", "CancelBackfillSuccess")

    def retry(self, run_id: str, *, run_mode: RunMode | None = None, trigger_ref: str = "") -> str:
        """From failure by Dagster's re-execution; with a ``run_mode`` by a run of all its streams, for a re-execution keeps the old config."""
        run = self._details.run(run_id)
        view = self.get(run_id)
        if not view.status.is_final:
            raise ConflictError(f"Run {run_id} has not ended; it is {view.status.value}.", fix="Cancel it first.")
        ref = trigger_ref or run_id
        if run_mode is None:
            if view.status is RunStatus.COMPLETED:
                raise ConfigError(f"Run {run_id} has failed nowhere.", fix="Give a run mode to run all of it again.")
            job = self._launcher.job(run["jobName"], view.sync, sync_id=view.sync_id)
            tags = {**job.configuration, **trigger_tags(TriggeredBy.RETRY, ref, view.run_mode)}
            params = {"parentRunId": run_id, "strategy": "FROM_FAILURE", "extraTags": tag_list(tags)}
            answer = self._ask(graphql.RETRY, {"params": params}, "launchRunReexecution", "LaunchRunSuccess")
            return self._hosted_run(answer)
        return self._launch(self._again(run, view, run_mode, ref))

    def attempts(self, run_id: str) -> list[RunView]:
        """The root and everything that names it as its root."""
        view = self._details.bare(run_id)
        ordered = self._details.groups([view])[view.root_id]
        return [in_chain(replace(v, url=self._transport.run_url(v.id)), ordered) for v in ordered]

    def get(self, run_id: str) -> RunView:
        """One run with its streams; the log is read only when something failed. What has ended is read once."""
        return self._details.whole([self._details.bare(run_id)])[0]

    def list(self, sync: str | None = None, *, limit: int = 20) -> list[RunView]:
        """The latest runs of one sync, or of any."""
        wanted = {"tags": [{"key": SYNC_TAG, "value": sync}]} if sync is not None else {}
        found: list[RunView] = []
        cursor: str | None = None
        for _ in range(_NOT_OURS):
            variables = {"filter": wanted, "cursor": cursor, "limit": max(limit, 50)}
            page = self._ask(graphql.RUNS, variables, "runsOrError", "Runs")["results"]
            views = (run_view(run, self._transport.run_url(run["runId"])) for run in page)
            found += [v for v in views if v.sync]
            if len(found) >= limit or not page:
                break
            cursor = page[-1]["runId"]
        return found[:limit]

    def page(
        self,
        sync_ids: Sequence[str],
        *,
        limit: int,
        offset: int = 0,
        before: str | None = None,
        streams: bool = False,
    ) -> RunPage:
        """A page of the runs themselves, then what they loaded."""
        found, total = self._details.lists.of_syncs(sync_ids, limit=limit, offset=offset, before=_id(before))
        views = [self._details.view(run) for run in found]
        are_all = before is None and total == len(views)
        return RunPage(tuple(self._details.whole(views, are_all=are_all) if streams else views), total)

    def latest(self, sync_ids: Sequence[str]) -> dict[str, LatestRuns]:
        """As `Newest` keeps them."""
        if not sync_ids:
            return {}
        known = self._newest.of(sync_ids)
        return {sync_id: self._latest_of(sync_id, *known[sync_id]) for sync_id in sync_ids}

    def _latest_of(self, sync_id: str, newest: Run | None, success: Run | None, active: Sequence[Run]) -> LatestRuns:
        """What they say, which is looked at once for as long as `Newest` gives the same ones."""
        runs = (newest, success, *active)
        seen = self._seen_latest.get(sync_id)
        if seen is None or len(seen[0]) != len(runs) or any(a is not b for a, b in zip(seen[0], runs, strict=True)):
            seen = self._seen_latest[sync_id] = runs, self._latest(newest, success, active)
        return seen[1]

    def _latest(self, newest: Run | None, success: Run | None, active: Sequence[Run]) -> LatestRuns:
        views = [run_view(r, self._transport.run_url(r["runId"])) if r is not None else None for r in (newest, success)]
        under_way = [run_view(r, self._transport.run_url(r["runId"])) for r in active[:1]]
        return LatestRuns(
            newest=views[0],
            last_success_at=views[1].ended_at if views[1] is not None else None,
            active=under_way[0] if under_way else None,
        )

    def active(self, sync_id: str, stream: str | None = None) -> str | None:
        """Of those that have not ended, the newest; with a stream, the newest that has it."""
        active = self._details.reader.active(sync_id)
        return next((run_id for run_id in active if stream is None or self._details.loads(run_id, stream)), None)

    def stream_page(
        self, sync_id: str, stream: str, *, limit: int, after: str | None = None, ascending: bool = False
    ) -> Sequence[tuple[RunView, StreamRun]]:
        """Runs of the sync are looked through until enough of them had the stream."""
        after, size = _id(after), max(limit, LOOKED_AT_ONCE)
        found: Pairs = []
        while len(found) < limit:
            runs = self._details.lists.page(sync_tag(sync_id), limit=size, offset=0, before=after, ascending=ascending)
            views = [self._details.view(run) for run in runs]
            for view in self._details.whole(views, are_all=after is None and len(runs) < size):
                found += [(view, s) for s in view.streams if s.stream == stream]
            if len(runs) < size:
                break
            after = runs[-1]["runId"]
        return found[:limit]

    def events(self, run_id: str, *, after: str | None = None) -> RunEvents:
        """Everything the log has beyond ``after``."""
        progress: list[Progress] = []
        messages: list[str] = []
        for page in log_pages(self._transport, run_id, after):
            after = page["cursor"]
            for event in page["events"]:
                if (sign := parse_progress(event.get("message") or "")) is not None:
                    progress.append(sign)
                elif (message := event_message(event)) is not None:
                    messages.append(message)
        return RunEvents(cursor=after, progress=tuple(progress), messages=tuple(messages))

    def cancel(self, run_id: str, reason: str = "", *, requested_by: str = "") -> None:
        """Terminate safely: the step is interrupted, rolls back, and ends."""
        view = run_view(self._details.run(run_id), None)
        if view.status.is_final:
            return
        asked: dict[str, str] = {}
        if view.cancel_requested_at is None or reason:
            said = {CANCEL_REQUESTED_AT_TAG: datetime.now(UTC).isoformat(), CANCEL_REQUESTED_BY_TAG: requested_by,
                    CANCEL_REASON_TAG: reason[:255]}  # fmt: skip
            asked = {k: v for k, v in said.items() if v}
            self._transport.annotate(run_id, asked, f"Cancelled: {reason or 'no reason given'}")
        until = time.monotonic() + _START_SECONDS
        while not self._stopped(run_id, until):
            time.sleep(_POLL_SECONDS)
        self._tell_again(run_id, asked)

    def _stopped(self, run_id: str, until: float) -> bool:
        """Ask Dagster once to stop a run, and whether that is done; False where it cannot be stopped yet. Raises TransientError for one that goes on."""
        answer = self._transport.execute(graphql.TERMINATE, {"id": run_id})["terminateRun"]
        if "_newest" in vars(self):
            self._newest.outdated()
        if answer["__typename"] == "TerminateRunSuccess":
            return True
        run = self._details.run(run_id)
        status = run_view(run, None).status
        # its process is being started, or somebody else's cancel is about to end it
        not_yet = status is RunStatus.PENDING or run["status"] == "CANCELING"
        if not status.is_final and (not not_yet or time.monotonic() > until):
            raise TransientError(
                f"Run {run_id} could not be stopped: {answer.get('message', answer['__typename'])}.", fix="Try again."
            )
        return status.is_final

    def _tell_again(self, run_id: str, asked: Mapping[str, str]) -> None:
        """Dagster writes a run anew with each of its events, as it was read a moment ago: a tag that came in between is gone."""
        for run in self._details.lists.those([run_id]) if asked else ():
            tags = {tag["key"] for tag in run["tags"]}
            if lost := {key: value for key, value in asked.items() if key not in tags}:
                self._transport.annotate(run_id, lost, "")

    def close(self) -> None:
        """Wait for the runs that live in our code server, then stop it."""
        try:
            while self._hosted:
                if run_view(self._details.run(self._hosted[0]), None).status.is_final:
                    self._hosted.pop(0)
                else:
                    time.sleep(_POLL_SECONDS)
        finally:
            self._transport.close()

    def __enter__(self) -> "GraphQLRuns":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @cached_property
    def _newest(self) -> Newest:
        return Newest(self._details.lists, fresh_seconds=self._fresh_seconds)

    def _launch(self, params: Mapping[str, Any]) -> str:
        return self._hosted_run(self._ask(graphql.LAUNCH, {"params": params}, "launchRun", "LaunchRunSuccess"))

    def _hosted_run(self, answer: Mapping[str, Any]) -> str:
        run_id = str(answer["run"]["runId"])
        if "_newest" in vars(self):  # made when it is first asked
            self._newest.outdated()
        if self._hosts:
            self._hosted.append(run_id)
        return run_id

    def _again(self, run: Mapping[str, Any], view: RunView, run_mode: RunMode, ref: str) -> dict[str, Any]:
        """The same streams and windows once more, in another run mode and in the same retry group."""
        job = self._launcher.job(run["jobName"], view.sync, sync_id=view.sync_id)
        selected = {tuple(k["path"]) for k in run["assetSelection"] or ()}
        streams = [s.stream for s in job.streams if s.key in selected] if selected else None
        old = {tag["key"]: tag["value"] for tag in run["tags"]}
        kept = {key: old[key] for key in (PARTITION_TAG, RANGE_START_TAG, RANGE_END_TAG) if key in old}
        wish = Wish(
            sync=view.sync, streams=streams, run_mode=run_mode, reset_history_table=False,
            window=None, triggered_by=TriggeredBy.RETRY, trigger_ref=ref,
        )  # fmt: skip
        group = {ROOT_RUN_TAG: view.root_id, PARENT_RUN_TAG: view.id}
        params = self._launcher.execution(job, wish, {**kept, **group})
        params["executionMetadata"] |= {"rootRunId": view.root_id, "parentRunId": view.id}
        return params

    def _require_daemon(self) -> None:
        """Without a backfill daemon the windows would wait for ever."""
        health = self._transport.execute(graphql.DAEMONS, {})["instance"]["daemonHealth"]["allDaemonStatuses"]
        if self._hosts or not any(d["daemonType"] == "BACKFILL" and d["healthy"] for d in health):
            raise ConfigError(
                "No dagster-daemon would start the runs of a backfill.",
                fix="Set ELT_DAGSTER_WEBSERVER_URL to a deployment with a daemon (`dagster dev` has one), or use `elt-dagster run --from --to`.",
            )

    def _ask(self, document: str, variables: Mapping[str, Any], field: str, wanted: str) -> dict[str, Any]:
        """The ``field`` of the answer. Raises NotFoundError for a job that is gone, ConfigError with Dagster's words when it is not a ``wanted``."""
        answer: dict[str, Any] = self._transport.execute(document, variables)[field]
        if answer["__typename"] == "PipelineNotFoundError":
            raise gone_job(answer)
        if answer["__typename"] != wanted:
            said = answer.get("message") or "; ".join(e["message"] for e in answer.get("errors", ()))
            raise ConfigError(f"Dagster answered {answer['__typename']}: {said.strip() or 'nothing more'}")
        return answer


def _id(run_id: str | None) -> str | None:
    if run_id is not None and not is_id(run_id):
        raise gone(run_id)
    return run_id
