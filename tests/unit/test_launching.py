"""What is launched when the store knows more than Dagster has loaded: a deployment that plays, and a clock that is turned by hand."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from elt_dagster.control.runs import AsStored
from elt_dagster.errors import TransientError
from elt_dagster.orchestration import graphql, launching
from elt_dagster.orchestration.launching import FOLLOW_SECONDS, RELOAD_SECONDS, Launcher
from elt_dagster.orchestration.run_details import RunDetails
from tests.integration.dagster_project import ShopProject, shop

SYNC_ID = "5d1f6a0e-0000-4000-8000-000000000001"
NOW = AsStored(7, ("orders", "customers"))


@dataclass
class Playing:
    """One code location; ``then`` is what it loads when it is asked, or after some seconds by itself."""

    revision: int | None
    streams: Sequence[str]
    then: tuple[int | None, Sequence[str]] | None = None
    follows_after: float | None = None
    time: float = 0.0
    reloads: list[float] = field(default_factory=list[float])

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        for thread in threading.enumerate():
            if thread.name == "elt-reload":
                thread.join()

    def execute(self, document: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        if self.follows_after is not None and self.time >= self.follows_after:
            self._load()
        if document == graphql.REPOSITORIES:
            nodes = [{"name": "repo", "location": {"name": "elt"}}]
            return {
                "repositoriesOrError": {"nodes": nodes},
                "workspaceOrError": {"locationEntries": [{"name": "elt", "locationOrLoadError": None}]},
            }
        if document == graphql.RELOAD:
            self.reloads.append(self.time)
            self._load()
            return {}
        assert document == graphql.JOB
        return self._job()

    def _load(self) -> None:
        if self.then is not None:
            self.revision, self.streams = self.then

    def _job(self) -> dict[str, Any]:
        if not self.streams:
            return {"pipelineOrError": {"__typename": "PipelineNotFoundError"}, "assetNodes": []}
        tags = {"elt/sync_id": SYNC_ID, "elt/sync_revision": self.revision}
        found = [{"key": key, "value": str(value)} for key, value in tags.items() if value is not None]
        nodes = [
            {
                "assetKey": {"path": ["raw", name]},
                "opNames": [f"raw__{name}"],
                "partitionDefinition": None,
                "metadataEntries": [{"label": "elt/stream", "text": name}],
            }
            for name in self.streams
        ]
        return {"pipelineOrError": {"__typename": "Pipeline", "tags": found}, "assetNodes": nodes}


def ready(
    playing: Playing,
    monkeypatch: pytest.MonkeyPatch,
    *,
    streams: Sequence[str] | None = None,
    stored: AsStored | None = NOW,
    hosts: bool = False,
) -> list[str]:
    """The streams of the job that would be launched."""
    monkeypatch.setattr(launching, "time", playing)
    launcher = Launcher(playing, hosts=hosts)  # type: ignore[arg-type]  # as much of a transport as is asked
    job = launcher.ready_job("sync_shop", "shop", SYNC_ID, streams, stored)
    return [s.stream for s in job.streams]


def test_what_is_loaded_already_is_launched_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    playing = Playing(8, ["orders", "customers"])
    assert ready(playing, monkeypatch) == ["orders", "customers"]
    assert (playing.time, playing.reloads) == (0, [])


def test_a_location_that_follows_the_store_is_waited_for_and_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    playing = Playing(6, ["orders"], then=(7, NOW.streams), follows_after=1.5)
    assert ready(playing, monkeypatch) == ["orders", "customers"]
    assert 1.5 <= playing.time < FOLLOW_SECONDS
    assert playing.reloads == []


def test_one_that_does_not_is_asked_to_load_again(monkeypatch: pytest.MonkeyPatch) -> None:
    playing = Playing(6, ["orders"], then=(7, NOW.streams))
    assert ready(playing, monkeypatch) == ["orders", "customers"]
    assert playing.reloads == [FOLLOW_SECONDS]
    assert playing.time < RELOAD_SECONDS


def test_one_that_only_we_look_after_is_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    playing = Playing(6, ["orders"], then=(7, NOW.streams))
    assert ready(playing, monkeypatch, hosts=True) == ["orders", "customers"]
    assert playing.reloads == [0]


def test_a_change_that_is_no_new_stream_is_waited_for_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    playing = Playing(6, NOW.streams, then=(7, NOW.streams), follows_after=2)
    ready(playing, monkeypatch, streams=["orders"])
    assert playing.time >= 2


@pytest.mark.parametrize("streams", [None, ("customers",)], ids=["the whole sync", "the new stream"])
def test_nothing_is_launched_without_a_stream_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, streams: Sequence[str] | None
) -> None:
    playing = Playing(6, ["orders"])
    with pytest.raises(TransientError, match=r"nothing was started\. It lacks the stream 'customers'") as caught:
        ready(playing, monkeypatch, streams=streams)
    assert caught.value.retry_after is not None
    assert RELOAD_SECONDS <= playing.time < RELOAD_SECONDS + 1
    assert len(playing.reloads) == 1


def test_a_long_list_of_missing_streams_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    many = AsStored(7, tuple("abcde"))
    with pytest.raises(TransientError, match=r"It lacks the streams 'a', 'b', 'c', \.\.\."):
        ready(Playing(6, ["orders"]), monkeypatch, stored=many)


def test_an_older_state_that_has_what_was_asked_for_is_better_than_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ready(Playing(6, ["orders"]), monkeypatch, streams=["orders"]) == ["orders"]


def test_a_location_that_tells_no_revision_is_judged_by_its_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    playing = Playing(None, ["orders", "customers", "items"])
    ready(playing, monkeypatch)
    assert playing.time == 0
    with pytest.raises(TransientError, match="customers"):
        ready(Playing(None, ["orders"]), monkeypatch)


def test_a_sync_that_does_not_come_is_told_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TransientError, match="no job for the sync 'shop'"):
        ready(Playing(None, []), monkeypatch)


def test_a_new_sync_without_a_known_state_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    playing = Playing(None, [], then=(7, ["orders"]))
    assert ready(playing, monkeypatch, stored=None, streams=["orders"]) == ["orders"]


class OneRun:
    """A run of chosen assets, or of chosen steps, as Dagster tells it."""

    def __init__(self, *assets: str, steps: Sequence[str] = ()) -> None:
        selected = [{"path": ["raw", name]} for name in assets]
        tags = [{"key": "elt/sync_id", "value": SYNC_ID}]
        self.run = {"jobName": "sync_shop", "tags": tags, "assetSelection": selected, "stepKeysToExecute": list(steps)}

    def whole(self, run_ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        return {"r1": self.run} if "r1" in run_ids else {}


def loads(playing: Playing, run: OneRun, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which streams the run loads, asked when another state of the job was seen a moment ago."""
    monkeypatch.setattr(launching, "time", playing)
    launcher = Launcher(playing)  # type: ignore[arg-type]  # as much of a transport as is asked
    details = RunDetails(playing, launcher)  # type: ignore[arg-type]
    details.reader = run  # type: ignore[assignment]  # as much of a reader as is asked
    launcher.job("sync_shop", "shop", sync_id=SYNC_ID)
    playing._load()
    assert not details.loads("gone", "orders")
    return [name for name in ("orders", "customers") if details.loads("r1", name)]


def test_a_run_of_a_stream_that_was_added_since_we_looked_is_seen_to_load_it(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = Playing(6, ["orders"], then=(7, NOW.streams))
    assert loads(grown, OneRun("customers"), monkeypatch) == ["customers"]


def test_a_run_of_nothing_chosen_loads_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loads(Playing(7, NOW.streams), OneRun(), monkeypatch) == ["orders", "customers"]


def test_an_attempt_at_what_failed_loads_only_that(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loads(Playing(7, NOW.streams), OneRun(steps=["raw__orders"]), monkeypatch) == ["orders"]


def test_a_job_tells_its_syncs_revision_and_how_it_is_carried_out(tmp_path: Path) -> None:
    project = ShopProject.make(tmp_path)
    project.put(shop(execution_mode="fan_out_entity", schedule={"cron": "0 3 * * *"}))
    definitions = project.defs()
    job = definitions.resolve_job_def("sync_shop")
    told = {
        "elt/sync_revision": str(project.store.sync("shop").revision),
        "elt/execution_mode": "fan_out_entity",
        "elt/execution_backend": "native",
    }
    assert told.items() <= job.tags.items()
    # schedules and sensors start runs with these
    assert told.items() <= job.run_tags.items()
    with dg.DagsterInstance.ephemeral() as instance, dg.build_schedule_context(instance) as context:
        tick = definitions.resolve_schedule_def("sync_shop_schedule").evaluate_tick(context)
    assert not told.keys() & (tick.run_requests or [])[0].tags.keys()
