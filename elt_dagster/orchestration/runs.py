"""`elt_dagster.control.runs.Runs` over Dagster's GraphQL: see `open_runs`."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from elt_dagster.control.runs import BackendRun, BackfillView, RunEvents, RunStatus, RunView
from elt_dagster.engine import Progress
from elt_dagster.errors import ConfigError, ConflictError, NotFoundError, TransientError
from elt_dagster.model import RunMode, TriggeredBy, Window
from elt_dagster.orchestration import graphql
from elt_dagster.orchestration.jobs import job_name
from elt_dagster.orchestration.launching import Launcher, Wish, gone_job, tag_list
from elt_dagster.orchestration.progress import parse_progress
from elt_dagster.orchestration.run_views import (
    JobStream,
    backfill_view,
    event_message,
    in_chain,
    observed_backend,
    run_view,
    stream_errors,
    with_streams,
)
from elt_dagster.orchestration.tags import (
    CANCEL_REASON_TAG,
    PARENT_RUN_TAG,
    PARTITION_TAG,
    RANGE_END_TAG,
    RANGE_START_TAG,
    ROOT_RUN_TAG,
    SYNC_TAG,
    trigger_tags,
)

WEBSERVER_VARIABLE = "ELT_DAGSTER_WEBSERVER_URL"
PAGE = 500
_POLL_SECONDS = 0.5
_NOT_OURS = 20
"""How many pages of runs to look through for those of syncs, when no sync is named."""


def open_runs(workspace_file: str | None = None, *, webserver_url: str | None = None) -> "GraphQLRuns":
    """The runs of the webserver at ``webserver_url`` (default ``ELT_DAGSTER_WEBSERVER_URL``), else of a workspace opened here.

    Without a webserver, ``workspace_file`` is loaded, by default the ``workspace.yaml`` of the current folder, and runs live no
    longer than the returned object: leaving it waits for them. Raises ConfigError when there is nothing to open.
    """
    url = webserver_url or os.environ.get(WEBSERVER_VARIABLE)
    if url and workspace_file is None:
        return GraphQLRuns(graphql.HttpTransport(url))
    from elt_dagster.orchestration.hosting import Host

    return GraphQLRuns(Host(workspace_file), hosts=True)


@dataclass(slots=True)
class _Followed:
    """How far the log of a run was read, the time of its newest event, and the newest sight of work elsewhere by step."""

    cursor: str | None = None
    newest: datetime | None = None
    backends: dict[str, BackendRun] = field(default_factory=dict[str, BackendRun])


class GraphQLRuns:
    """Implements `Runs`. With ``hosts``, launched runs depend on this object: `close` waits for them."""

    def __init__(self, transport: graphql.Transport, *, hosts: bool = False) -> None:
        self._transport, self._hosts = transport, hosts
        self._launcher = Launcher(transport)
        self._followed: dict[str, _Followed] = {}
        self._hosted: list[str] = []

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
    ) -> str:
        """Start a run through the sync's job."""
        wish = Wish(
            sync=sync, streams=streams, run_mode=run_mode, reset_history_table=reset_history_table,
            window=window, triggered_by=triggered_by, trigger_ref=trigger_ref,
        )  # fmt: skip
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
        run = self._run(run_id)
        view = self.get(run_id)
        if not view.status.is_final:
            raise ConflictError(f"Run {run_id} has not ended; it is {view.status.value}.", fix="Cancel it first.")
        ref = trigger_ref or run_id
        if run_mode is None:
            if view.status is RunStatus.COMPLETED:
                raise ConfigError(f"Run {run_id} has failed nowhere.", fix="Give a run mode to run all of it again.")
            tags = trigger_tags(TriggeredBy.RETRY, ref, view.run_mode)
            params = {"parentRunId": run_id, "strategy": "FROM_FAILURE", "extraTags": tag_list(tags)}
            answer = self._ask(graphql.RETRY, {"params": params}, "launchRunReexecution", "LaunchRunSuccess")
            return self._hosted_run(answer)
        return self._launch(self._again(run, view, run_mode, ref))

    def attempts(self, run_id: str) -> list[RunView]:
        """The root and everything that names it as its root."""
        root = run_view(self._run(run_id), None).root_id
        wanted = {"tags": [{"key": ROOT_RUN_TAG, "value": root}]}
        found = self._ask(graphql.RUNS, {"filter": wanted, "limit": PAGE}, "runsOrError", "Runs")["results"]
        views = [run_view(run, self._transport.run_url(run["runId"])) for run in (self._run(root), *found)]
        ordered = sorted(views, key=lambda v: (v.created_at or datetime.min.replace(tzinfo=UTC), v.id != root))
        return [in_chain(view, ordered) for view in ordered]

    def get(self, run_id: str) -> RunView:
        """One run with its streams; the log is read only when something failed."""
        run = self._run(run_id)
        view = run_view(run, self._transport.run_url(run_id))
        failed = view.status is RunStatus.FAILED or any(s["status"] == "FAILURE" for s in run["stepStats"])
        errors = stream_errors(self._log(run_id)) if failed else {}
        backends: dict[str, BackendRun] = {}
        if view.status is RunStatus.RUNNING or failed:
            followed = self._follow(run_id)
            view, backends = replace(view, heartbeat_at=followed.newest), followed.backends
        if view.status.is_final or view.parent_id is not None:
            view = in_chain(view, self.attempts(run_id))
        else:
            view = replace(view, attempt=1)
        return with_streams(view, run, self._streams_of(run), errors, backends)

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

    def events(self, run_id: str, *, after: str | None = None) -> RunEvents:
        """Everything the log has beyond ``after``."""
        progress: list[Progress] = []
        messages: list[str] = []
        for page in self._pages(run_id, after):
            after = page["cursor"]
            for event in page["events"]:
                if (sign := parse_progress(event.get("message") or "")) is not None:
                    progress.append(sign)
                elif (message := event_message(event)) is not None:
                    messages.append(message)
        return RunEvents(cursor=after, progress=tuple(progress), messages=tuple(messages))

    def cancel(self, run_id: str, reason: str = "") -> None:
        """Terminate safely: the step is interrupted, rolls back, and ends."""
        view = run_view(self._run(run_id), None)
        if view.status.is_final:
            return
        if reason:
            self._transport.annotate(run_id, {CANCEL_REASON_TAG: reason[:255]}, f"Cancelled: {reason}")
        answer = self._transport.execute(graphql.TERMINATE, {"id": run_id})["terminateRun"]
        if answer["__typename"] != "TerminateRunSuccess" and not self.get(run_id).status.is_final:
            raise TransientError(f"Run {run_id} could not be stopped: {answer.get('message', answer['__typename'])}.")

    def close(self) -> None:
        """Wait for the runs that live in our code server, then stop it."""
        try:
            while self._hosted:
                if run_view(self._run(self._hosted[0]), None).status.is_final:
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

    def _launch(self, params: Mapping[str, Any]) -> str:
        return self._hosted_run(self._ask(graphql.LAUNCH, {"params": params}, "launchRun", "LaunchRunSuccess"))

    def _hosted_run(self, answer: Mapping[str, Any]) -> str:
        run_id = str(answer["run"]["runId"])
        if self._hosts:
            self._hosted.append(run_id)
        return run_id

    def _again(self, run: Mapping[str, Any], view: RunView, run_mode: RunMode, ref: str) -> dict[str, Any]:
        """The same streams and windows once more, in another run mode and in the same retry group."""
        job = self._launcher.job(run["jobName"], view.sync)
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

    def _follow(self, run_id: str) -> "_Followed":
        """What the run's log tells of its life; every look reads on from the one before."""
        known = self._followed.setdefault(run_id, _Followed())
        for page in self._pages(run_id, known.cursor):
            known.cursor = page["cursor"]
            for event in page["events"]:
                if event.get("timestamp"):
                    known.newest = datetime.fromtimestamp(int(event["timestamp"]) / 1000, UTC)
                if (backend := observed_backend(event)) is not None:
                    known.backends[event["stepKey"]] = backend
        return known

    def _streams_of(self, run: Mapping[str, Any]) -> tuple[JobStream, ...]:
        """The streams a run was about: those of its job, cut down to its selection. Empty when the job is gone, or when loading the
        workspace only to name steps that have not begun would be out of proportion."""
        name = run["jobName"]
        if not name.startswith("sync_") or (self._hosts and not self._launcher.knows(name)):
            return ()
        try:
            streams = self._launcher.job(run["jobName"], run["jobName"], as_it_was=True).streams
        except NotFoundError:
            return ()
        selected = {tuple(k["path"]) for k in run["assetSelection"] or ()}
        steps = set(run["stepKeysToExecute"] or ())
        return tuple(s for s in streams if (not selected or s.key in selected) and (not steps or s.step in steps))

    def _run(self, run_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = self._transport.execute(graphql.RUN, {"id": run_id})["runOrError"]
        if answer["__typename"] != "Run":
            raise NotFoundError(f"There is no run {run_id!r}.", fix="`elt-dagster runs` lists them.")
        return answer

    def _log(self, run_id: str) -> Iterator[dict[str, Any]]:
        for page in self._pages(run_id, None):
            yield from page["events"]

    def _pages(self, run_id: str, after: str | None) -> Iterator[dict[str, Any]]:
        while True:
            variables = {"id": run_id, "after": after, "limit": PAGE}
            answer = self._transport.execute(graphql.EVENTS, variables)["logsForRun"]
            if answer["__typename"] != "EventConnection":
                raise NotFoundError(f"There is no run {run_id!r}.", fix="`elt-dagster runs` lists them.")
            yield answer
            after = answer["cursor"]
            if not answer["hasMore"]:
                return

    def _ask(self, document: str, variables: Mapping[str, Any], field: str, wanted: str) -> dict[str, Any]:
        """The ``field`` of the answer. Raises NotFoundError for a job that is gone, ConfigError with Dagster's words when it is not a ``wanted``."""
        answer: dict[str, Any] = self._transport.execute(document, variables)[field]
        if answer["__typename"] == "PipelineNotFoundError":
            raise gone_job(answer)
        if answer["__typename"] != wanted:
            said = answer.get("message") or "; ".join(e["message"] for e in answer.get("errors", ()))
            raise ConfigError(f"Dagster answered {answer['__typename']}: {said.strip() or 'nothing more'}")
        return answer
