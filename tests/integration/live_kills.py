"""A sensor daemon that is killed again and again while syncs are created: ``python -m tests.integration.live_kills FOLDER KILLS SEED``.

Each life is a forked child that does one round of Dagster's own sensor daemon over a project's definitions, and dies with SIGKILL: at one of
the places Dagster names for that, or at some instant. In the end one round is left alone, and the runs are counted.
Runs are queued and never taken out, so that nothing but the sensor is at work.

``dagster._core`` and ``dagster._daemon`` are imported because killing the daemon is what this is about.
"""

import json
import logging
import os
import random
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.remote_origin import InProcessCodeLocationOrigin  # noqa: TID251
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin  # noqa: TID251
from dagster._core.workspace.context import WorkspaceProcessContext  # noqa: TID251
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget  # noqa: TID251
from dagster._daemon import sensor as sensor_daemon
from sqlalchemy.engine import make_url

from elt_dagster.orchestration import sensors
from elt_dagster.store import Store
from tests.integration.dagster_project import ShopProject, shop

PLACES = (
    "TICK_CREATED",
    "TICK_HELD",
    "RUN_IDS_RESERVED",
    "RUN_CREATED",
    "RUN_LAUNCHED",
    "RUN_IDS_ADDED_TO_EVALUATIONS",
)
DAGSTER_YAML = "telemetry: {enabled: false}\nrun_coordinator: {module: dagster, class: QueuedRunCoordinator}\n"


@contextmanager
def daemon(folder: Path) -> Iterator[WorkspaceProcessContext]:
    """A daemon that has loaded the definitions of a project as they are now."""
    target = LoadableTargetOrigin(
        executable_path=sys.executable,
        python_file=str(folder / "definitions.py"),
        working_directory=str(folder),
        attribute="defs",
    )
    origin = InProcessCodeLocationOrigin(target, location_name="elt")
    sys.modules.pop("definitions", None)
    with (
        dg.DagsterInstance.from_config(str(folder / "home")) as instance,
        WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget(origin)) as context,
    ):
        yield context


def one_round(context: WorkspaceProcessContext, crash: Mapping[str, Any] | None = None) -> None:
    """What the daemon does every five seconds."""
    quiet = logging.getLogger("quiet")
    quiet.disabled = True
    flags: Any = {sensors.SENSOR: dict(crash or {})}
    list(sensor_daemon.execute_sensor_iteration(context, quiet, None, None, debug_crash_flags=flags))


def life(work: Callable[[], None], seconds: float = 0.0) -> bool:
    """Do ``work`` in a process of its own, at most for ``seconds``; whether it was killed."""
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_REAL, seconds)  # SIGALRM, unhandled, ends a process as SIGKILL does
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status <= 0, "a round failed by itself"
    return status < 0


def runs_by_sync(folder: Path) -> Counter[str]:
    """How many runs each sync has, by slug."""
    with dg.DagsterInstance.from_config(str(folder / "home")) as instance:
        return Counter(run.tags["elt/sync"] for run in instance.get_runs())


def forget(folder: Path) -> None:
    """Lose the sensor's cursor and its last tick, as if somebody had reset it."""
    with dg.DagsterInstance.from_config(str(folder / "home")) as instance:
        for state in instance.all_instigator_state():
            instance.delete_instigator_state(state.instigator_origin_id, state.selector_id)


def main(folder: Path, kills: int, seed: int) -> None:
    """Kill until it was done ``kills`` times, then print what came of it as JSON."""
    sensors.SETTLE_SECONDS = 0.0
    sensor_daemon.is_under_min_interval = lambda *_: False
    chance = random.Random(seed)  # noqa: S311 - the same lives again, for whoever looks for what went wrong
    project = ShopProject(folder, Store(make_url(f"sqlite:///{folder}/store.sqlite")))
    killed = lives = created = 0
    while killed < kills:
        created += 1
        project.put(shop(slug=f"new-{created}", schema=f"new_{created}", trigger_mode="on_create"))
        with daemon(folder) as context:
            for _ in range(4):
                place = chance.choice(PLACES) if chance.random() < 0.7 else None
                crash = {place: signal.SIGKILL} if place else {}
                killed += life(partial(one_round, context, crash), 0.0 if place else chance.uniform(0.005, 0.3))
                lives += 1
        if created % 3 == 0:
            life(partial(forget, folder))
    with daemon(folder) as context:
        life(partial(one_round, context))
        life(partial(one_round, context))
    print(json.dumps({"killed": killed, "lives": lives, "created": created, "runs": runs_by_sync(folder)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
