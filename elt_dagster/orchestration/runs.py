"""`elt_dagster.control.runs.Runs` over Dagster's GraphQL: see `open_runs`."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from elt_dagster.control.runs import RunEvents, RunStatus, RunView
from elt_dagster.engine import Progress
from elt_dagster.errors import ConfigError, NotFoundError, TransientError
from elt_dagster.model import RunMode, TriggeredBy
from elt_dagster.orchestration import graphql
from elt_dagster.orchestration.jobs import job_name
from elt_dagster.orchestration.metadata import STREAM
from elt_dagster.orchestration.progress import parse_progress
from elt_dagster.orchestration.resources import run_config
from elt_dagster.orchestration.run_views import JobStream, event_message, run_view, stream_errors, with_streams
from elt_dagster.orchestration.tags import CANCEL_REASON_TAG, SYNC_TAG, trigger_tags

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


@dataclass(frozen=True, slots=True)
class _Job:
    location: str
    repository: str
    name: str
    streams: tuple[JobStream, ...]

    @property
    def selector(self) -> dict[str, str]:
        return _selector(self.location, self.repository, self.name)


class GraphQLRuns:
    """Implements `Runs`. With ``hosts``, launched runs depend on this object: `close` waits for them."""

    def __init__(self, transport: graphql.Transport, *, hosts: bool = False) -> None:
        self._transport, self._hosts = transport, hosts
        self._jobs: dict[str, _Job] = {}
        self._hosted: list[str] = []

    def launch(
        self,
        sync: str,
        *,
        streams: Sequence[str] | None = None,
        run_mode: RunMode = RunMode.INCREMENTAL,
        reset_history_table: bool = False,
        triggered_by: TriggeredBy = TriggeredBy.MANUAL,
        trigger_ref: str = "",
    ) -> str:
        """Start a run through the sync's job."""
        job = self._job(job_name(sync), sync)
        selector: dict[str, Any] = dict(job.selector)
        if streams is not None:
            selector["assetSelection"] = [{"path": list(self._stream(job, sync, s).key)} for s in streams]
        tags = trigger_tags(triggered_by, trigger_ref, run_mode)
        params = {
            "selector": selector,
            "runConfigData": run_config(run_mode, reset_history_table=reset_history_table),
            "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in tags.items()]},
        }
        answer = self._ask(graphql.LAUNCH, {"params": params}, "launchRun", "LaunchRunSuccess")
        run_id = str(answer["run"]["runId"])
        if self._hosts:
            self._hosted.append(run_id)
        return run_id

    def get(self, run_id: str) -> RunView:
        """One run with its streams; the log is read only when something failed."""
        run = self._run(run_id)
        view = run_view(run, self._transport.run_url(run_id))
        failed = view.status is RunStatus.FAILED or any(s["status"] == "FAILURE" for s in run["stepStats"])
        errors = stream_errors(self._log(run_id)) if failed else {}
        return with_streams(view, run, self._streams_of(run), errors)

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

    def _job(self, name: str, sync: str) -> _Job:
        """The job called ``name``, wherever it is loaded. Raises NotFoundError that says what failed to load."""
        if name in self._jobs:
            return self._jobs[name]
        data = self._transport.execute(graphql.REPOSITORIES, {})
        for repository in data["repositoriesOrError"].get("nodes", ()):
            selector = _selector(repository["location"]["name"], repository["name"], name)
            found = self._transport.execute(graphql.JOB, {"selector": selector})
            if found["pipelineOrError"]["__typename"] == "Pipeline":
                streams = tuple(_job_stream(node) for node in found["assetNodes"])
                self._jobs[name] = _Job(repository["location"]["name"], repository["name"], name, streams)
                return self._jobs[name]
        raise NotFoundError(f"Dagster has no job for the sync {sync!r}.", fix=_why_not_loaded(data["workspaceOrError"]))

    def _stream(self, job: _Job, sync: str, stream: str) -> JobStream:
        for candidate in job.streams:
            if candidate.stream == stream:
                return candidate
        from elt_dagster.errors import nearest

        known = [s.stream for s in job.streams]
        raise NotFoundError(f"Sync {sync!r} has no stream {stream!r}.", fix=nearest(stream, known))

    def _streams_of(self, run: Mapping[str, Any]) -> tuple[JobStream, ...]:
        """The streams a run was about: those of its job, cut down to its selection. Empty when the job is gone, or when loading the
        workspace only to name steps that have not begun would be out of proportion."""
        name = run["jobName"]
        if not name.startswith("sync_") or (self._hosts and name not in self._jobs):
            return ()
        try:
            streams = self._job(run["jobName"], run["jobName"]).streams
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
        """The ``field`` of the answer. Raises ConfigError with Dagster's words when it is not a ``wanted``."""
        answer: dict[str, Any] = self._transport.execute(document, variables)[field]
        if answer["__typename"] != wanted:
            said = answer.get("message") or "; ".join(e["message"] for e in answer.get("errors", ()))
            raise ConfigError(f"Dagster answered {answer['__typename']}: {said.strip() or 'nothing more'}")
        return answer


def _selector(location: str, repository: str, job: str) -> dict[str, str]:
    return {"repositoryLocationName": location, "repositoryName": repository, "pipelineName": job}


def _job_stream(node: Mapping[str, Any]) -> JobStream:
    key = tuple(node["assetKey"]["path"])
    named = {entry["label"]: entry.get("text") for entry in node["metadataEntries"]}
    steps = node["opNames"] or ["__".join(key)]
    return JobStream(stream=named.get(STREAM) or key[-1], key=key, step=steps[0])


def _why_not_loaded(workspace: Mapping[str, Any]) -> str:
    for entry in workspace.get("locationEntries", ()):
        problem = entry["locationOrLoadError"]
        if problem and problem["__typename"] == "PythonError":
            return f"The code location {entry['name']} does not load: {problem['message'].strip()}"
    return "Is it archived, broken, or not selected by ELT_DAGSTER_SELECT? Reload the code location if it is new."
