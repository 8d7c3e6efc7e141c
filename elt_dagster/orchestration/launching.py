"""How a run of a sync is asked for over GraphQL: which job, which assets, which windows, with what config and tags."""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from elt_dagster.control.runs import AsStored
from elt_dagster.errors import ConfigError, EltError, NotFoundError, TransientError, nearest
from elt_dagster.model import RunMode, TriggeredBy, Window
from elt_dagster.orchestration import graphql
from elt_dagster.orchestration.metadata import STREAM
from elt_dagster.orchestration.resources import run_config
from elt_dagster.orchestration.run_views import JobStream
from elt_dagster.orchestration.tags import (
    CONFIGURATION_TAGS,
    PARTITION_TAG,
    RANGE_END_TAG,
    RANGE_START_TAG,
    REVISION_TAG,
    SYNC_ID_TAG,
    sync_tags,
    trigger_tags,
)

PAGE = 1_000
REMEMBER_SECONDS = 5.0
"""Syncs change while Dagster runs: what is launched is looked up again after this."""
RELOAD_SECONDS = 15.0
"""How long a launch waits for a code location to load a sync as it was just written."""
FOLLOW_SECONDS = 3.0
"""How long it usually takes one that looks at the store by itself (`live`), which does so without a new code server."""
_POLL_SECONDS = 0.5
_SHOWN = 3
_GONE = "Is it archived, broken, loaded by others (external), or not selected by ELT_DAGSTER_SELECT? Reload the code location if it is new."


@dataclass(frozen=True, slots=True)
class Job:
    """A sync's job where it is loaded."""

    location: str
    repository: str
    name: str
    streams: tuple[JobStream, ...]
    tags: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def revision(self) -> int | None:
        """The store's revision of the sync that was loaded; None where it does not tell."""
        text = self.tags.get(REVISION_TAG, "")
        return int(text) if text.isdigit() else None

    @property
    def configuration(self) -> dict[str, str]:
        """The tags that tell how its runs are carried out."""
        return {key: value for key, value in self.tags.items() if key in CONFIGURATION_TAGS}

    @property
    def selector(self) -> dict[str, Any]:
        """What GraphQL calls it by."""
        return {
            "repositoryLocationName": self.location,
            "repositoryName": self.repository,
            "pipelineName": self.name,
        }

    def chosen(self, sync: str, streams: Sequence[str] | None) -> tuple[JobStream, ...]:
        """The streams of these names, all of them for None. Raises NotFoundError with the nearest name."""
        if streams is None:
            return self.streams
        known = {s.stream: s for s in self.streams}
        for name in streams:
            if name not in known:
                raise NotFoundError(f"Sync {sync!r} has no stream {name!r}.", fix=nearest(name, list(known)))
        return tuple(known[name] for name in streams)

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of ``names`` that it does not load."""
        known = {s.stream for s in self.streams}
        return [name for name in names if name not in known]

    def is_as(self, stored: AsStored) -> bool:
        """Whether it is no older than what is stored, as far as it tells."""
        return not self.missing(stored.streams) if self.revision is None else self.revision >= stored.revision


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a caller of `Runs.launch` asked for."""

    sync: str
    streams: Sequence[str] | None
    run_mode: RunMode
    reset_history_table: bool
    window: Window | None
    triggered_by: TriggeredBy
    trigger_ref: str


class Launcher:
    """Turns wishes into GraphQL parameters; remembers the jobs it has found."""

    def __init__(self, transport: graphql.Transport, *, hosts: bool = False) -> None:
        self._transport, self._hosts = transport, hosts
        self._jobs: dict[str, tuple[Job, float]] = {}
        self._missing: dict[str, float] = {}

    def knows(self, name: str) -> bool:
        """Whether the job was found before."""
        return any(known.startswith(f"{name}/") for known in self._jobs.copy())

    def forget(self, name: str) -> None:
        """Have the job looked up anew when it is next asked for."""
        for known in (self._jobs, self._missing):
            for place in [place for place in known.copy() if place.startswith(f"{name}/")]:
                known.pop(place, None)

    def ready_job(
        self,
        name: str,
        sync: str,
        sync_id: str,
        streams: Sequence[str] | None = None,
        as_stored: AsStored | None = None,
    ) -> Job:
        """The job of a sync that may have been written a moment ago, as it was written: what is loaded is waited for, and asked to load again.

        Should it not, an older state will do that has the streams which the run is about. Raises TransientError where it has not, NotFoundError for
        streams that the sync does not have.
        """
        wanted = streams if streams is not None else as_stored.streams if as_stored is not None else ()
        begun, asked = time.monotonic(), False
        while True:
            job, problem = self._look(name, sync, sync_id)
            missing = job.missing(wanted) if job is not None else wanted
            if job is not None and (job.is_as(as_stored) if as_stored is not None else not missing):
                return job
            self._jobs.pop(f"{name}/{sync_id}", None)  # so that the next look is a new one
            waited = time.monotonic() - begun
            if waited >= RELOAD_SECONDS:
                break
            if not asked and (self._hosts or waited >= FOLLOW_SECONDS):
                asked = True
                self._ask_to_reload()
            else:
                time.sleep(_POLL_SECONDS)
        if job is None or missing:
            raise _not_loaded(sync, problem or f"It lacks {_some(missing)}.")
        return job

    def _look(self, name: str, sync: str, sync_id: str) -> tuple[Job | None, str]:
        """The job as it is loaded now, or why it is not."""
        try:
            return self.job(name, sync, sync_id=sync_id), ""
        except NotFoundError as error:
            return None, str(error)

    def _ask_to_reload(self) -> None:
        """What is hosted here loads again before this returns; a webserver is asked, and may take its time."""
        if self._hosts:
            self._reload()
        else:
            threading.Thread(target=self._reload, name="elt-reload", daemon=True).start()

    def _reload(self) -> None:
        """Ask every code location to load again: which of them brings the sync is known only then."""
        with suppress(EltError):  # whether it loads is seen by looking
            data = self._transport.execute(graphql.REPOSITORIES, {})["workspaceOrError"]
            for entry in data.get("locationEntries", ()):
                self._transport.execute(graphql.RELOAD, {"name": entry["name"]})

    def job(self, name: str, sync: str, *, sync_id: str = "", as_it_was: bool = False) -> Job:
        """The job called ``name``, wherever it is loaded; with a ``sync_id`` that very sync's; with ``as_it_was`` one that was found before will
        do.

        Raises NotFoundError that says what failed to load.
        """
        place = f"{name}/{sync_id}"
        if as_it_was and time.monotonic() - self._missing.get(place, float("-inf")) < REMEMBER_SECONDS:
            raise NotFoundError(f"Dagster has no job for the sync {sync!r}.", fix=_GONE)
        known, at = self._jobs.get(place, (None, 0.0))
        if known is not None and (as_it_was or time.monotonic() - at < REMEMBER_SECONDS):
            return known
        data = self._transport.execute(graphql.REPOSITORIES, {})
        for repository in data["repositoriesOrError"].get("nodes", ()):
            empty = Job(repository["location"]["name"], repository["name"], name, ())
            found = self._transport.execute(graphql.JOB, {"selector": empty.selector})
            if found["pipelineOrError"]["__typename"] == "Pipeline" and _is_of(found["pipelineOrError"], sync_id):
                streams = tuple(_job_stream(node) for node in found["assetNodes"])
                job = Job(empty.location, empty.repository, name, streams, _tags(found["pipelineOrError"]))
                self._jobs[place] = (job, time.monotonic())
                return job
        self._missing[place] = time.monotonic()
        raise NotFoundError(f"Dagster has no job for the sync {sync!r}.", fix=_why_not_loaded(data["workspaceOrError"]))

    def execution(self, job: Job, wish: Wish, more_tags: Mapping[str, str] | None = None) -> dict[str, Any]:
        """``ExecutionParams`` of a run. Raises ConfigError where the wish leads to no window."""
        chosen = job.chosen(wish.sync, wish.streams)
        sliced = tuple(s for s in chosen if s.key_format is not None)
        if wish.window is not None:
            # What has no windows of its own is read by the cursor's time, as the config says.
            chosen = sliced or chosen
        tags = {**trigger_tags(wish.triggered_by, wish.trigger_ref, wish.run_mode), **(more_tags or {})}
        if not tags.keys() & {PARTITION_TAG, RANGE_START_TAG}:
            windows, chosen = self._windows(wish, chosen, sliced)
            tags |= windows
        selector = job.selector
        if len(chosen) < len(job.streams):
            selector["assetSelection"] = [{"path": list(s.key)} for s in chosen]
        span = wish.window if not sliced else None
        return {
            "selector": selector,
            "runConfigData": run_config(wish.run_mode, reset_history_table=wish.reset_history_table, window=span),
            "executionMetadata": {"tags": tag_list(tags)},
        }

    def backfill(self, job: Job, wish: Wish) -> dict[str, Any]:
        """``LaunchBackfillParams`` over the windows that begin in the wish's."""
        sliced = [s for s in job.chosen(wish.sync, wish.streams) if s.key_format is not None]
        if not sliced or wish.window is None:
            raise ConfigError(
                f"Sync {wish.sync!r} is not loaded in windows.",
                fix="Run it with --from and --to, or give it `slicing`.",
            )
        why = trigger_tags(wish.triggered_by, wish.trigger_ref, wish.run_mode)
        tags = {**sync_tags("", wish.sync), **job.configuration, **why}
        return {
            "assetSelection": [{"path": list(s.key)} for s in sliced],
            "partitionNames": self._keys_between(sliced[0], wish.window),
            "tags": tag_list({key: value for key, value in tags.items() if value}),
            "runConfigData": run_config(wish.run_mode),
            "title": f"{wish.sync}: {wish.window.start:%Y-%m-%d %H:%M} to {wish.window.end:%Y-%m-%d %H:%M}",
        }

    def _windows(
        self, wish: Wish, chosen: tuple[JobStream, ...], sliced: tuple[JobStream, ...]
    ) -> tuple[dict[str, str], tuple[JobStream, ...]]:
        """The tags that name the windows, and the streams that then remain."""
        if not sliced:
            return {}, chosen
        if wish.window is not None:
            keys = self._keys_between(sliced[0], wish.window)
            if len(keys) == 1:
                return {PARTITION_TAG: keys[0]}, chosen
            return {RANGE_START_TAG: keys[0], RANGE_END_TAG: keys[-1]}, chosen
        newest = next(self._keys(sliced[0], ascending=False), None)
        if newest is not None:
            return {PARTITION_TAG: newest}, chosen
        whole = tuple(s for s in chosen if s.key_format is None)
        if not whole:
            raise ConfigError(
                f"No window of sync {wish.sync!r} has ended yet.", fix="Wait, or set slicing.include_current to true."
            )
        return {}, whole

    def _keys_between(self, stream: JobStream, window: Window) -> list[str]:
        # Keys are times in the sync's own zone, as the window's ends are, and sort as they follow each other.
        first, end = (at.strftime(stream.key_format or "") for at in (window.start, window.end))
        found = [key for key in self._keys(stream, ascending=True) if first <= key < end]
        if not found:
            raise ConfigError(
                f"No window of {stream.stream!r} begins between {first} and {end}.",
                fix="Windows begin where `slicing` says, and only those that have ended are there.",
            )
        return found

    def _keys(self, stream: JobStream, *, ascending: bool) -> Iterator[str]:
        cursor: str | None = None
        while True:
            asked = {"key": {"path": list(stream.key)}, "limit": PAGE if ascending else 1, "ascending": ascending}
            node = self._transport.execute(graphql.PARTITIONS, {**asked, "cursor": cursor})["assetNodeOrError"]
            page = node.get("partitionKeyConnection") or {"results": [], "hasMore": False, "cursor": None}
            yield from page["results"]
            if not page["hasMore"]:
                return
            cursor = page["cursor"]


def _is_of(pipeline: Mapping[str, Any], sync_id: str) -> bool:
    """Two workspaces may have the same slug, and so the same job name in two code locations."""
    return not sync_id or _tags(pipeline).get(SYNC_ID_TAG) == sync_id


def _tags(pipeline: Mapping[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in pipeline.get("tags", ())}


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as GraphQL takes them."""
    return [{"key": key, "value": value} for key, value in tags.items()]


def gone_job(answer: Mapping[str, Any]) -> NotFoundError:
    """What to raise when Dagster answers that it does not know the job."""
    return NotFoundError(f"Dagster does not run it: {str(answer.get('message', '')).strip()}.", fix=_GONE)


def _job_stream(node: Mapping[str, Any]) -> JobStream:
    key = tuple(node["assetKey"]["path"])
    named = {entry["label"]: entry.get("text") for entry in node["metadataEntries"]}
    steps = node["opNames"] or ["__".join(key)]
    windows = node["partitionDefinition"]
    return JobStream(
        stream=named.get(STREAM) or key[-1], key=key, step=steps[0], key_format=windows["fmt"] if windows else None
    )


def _not_loaded(sync: str, why: str) -> TransientError:
    return TransientError(
        f"Dagster has not loaded the sync {sync!r} as it is now, and nothing was started. {why}",
        fix="Try again; `elt-dagster status` shows whether its code location loads.",
        retry_after=5,
    )


def _some(streams: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in streams[:_SHOWN])
    return f"the streams {shown}, ..." if len(streams) > _SHOWN else f"the stream{'s'[: len(streams) > 1]} {shown}"


def _why_not_loaded(workspace: Mapping[str, Any]) -> str:
    for entry in workspace.get("locationEntries", ()):
        problem = entry["locationOrLoadError"]
        if problem and problem["__typename"] == "PythonError":
            return f"The code location {entry['name']} does not load: {problem['message'].strip()}"
    return _GONE
