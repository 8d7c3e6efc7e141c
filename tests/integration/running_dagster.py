"""A Dagster of its own for tests of run control: ``dagster dev`` over a project, quick in what a deployment does slowly."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg

from elt_dagster.control.runs import Runs, RunView
from tests.integration.dagster_project import WARM_DEFINITIONS
from tests.integration.test_live_syncs import Deployment, made, start_dev

DAGSTER_YAML = """
telemetry: {enabled: false}
run_retries: {enabled: true}
run_monitoring: {enabled: true, poll_interval_seconds: 2}
"""
QUICKER = """
from dataclasses import replace

from elt_dagster.control.configured import ConfiguredSync
from elt_dagster.orchestration import silence

silence.TICK_SECONDS = 1
_read = ConfiguredSync.read
if not hasattr(ConfiguredSync, "quick"):
    # every batch is committed, so that there is something to go on from
    ConfiguredSync.quick = True
    ConfiguredSync.read = lambda self, *words, **more: replace(_read(self, *words, **more), commit_seconds=0.0)
"""


def started_dagster(folder: Path, dagster_yaml: str = DAGSTER_YAML) -> Deployment:
    """``dagster dev`` with run retries, quick run monitoring, and commits after every batch."""
    deployment = made(folder)
    (folder / "home" / "dagster.yaml").write_text(dagster_yaml)
    (folder / "definitions.py").write_text(QUICKER + WARM_DEFINITIONS.read_text())
    start_dev(deployment)
    return deployment


def wait_for(
    runs: Runs, run_id: str, until: Callable[[RunView], bool] = lambda v: v.status.is_final, seconds: float = 120
) -> RunView:
    """The run as soon as it is as it should be."""
    end = time.monotonic() + seconds
    while not until(view := runs.get(run_id)):
        assert time.monotonic() < end, view
        time.sleep(0.3)
    return view


def next_attempt(runs: Runs, run_id: str, seconds: float = 120) -> RunView:
    """The run that Dagster made to retry ``run_id``, once that has ended."""
    end = time.monotonic() + seconds
    while (found := runs.get(run_id).next_id) is None:
        assert time.monotonic() < end, f"nothing retries {run_id}: {runs.get(run_id)}"
        time.sleep(0.3)
    return wait_for(runs, found)


def worker_of(deployment: Deployment, run_id: str) -> int:
    """The process that executes a run."""
    with dg.DagsterInstance.from_config(str(deployment.project.folder / "home")) as instance:
        told = " ".join(e.dagster_event.message or "" for e in instance.all_logs(run_id) if e.dagster_event is not None)
        pid = re.search(r"Started process for run \(pid: (\d+)\)", told)
        assert pid is not None, told
        return int(pid[1])
