"""One run in a process of its own, to be cancelled from outside."""

from typing import Any

import dagster as dg

from tests.dagster_executors.jobs import FOLDER, build


def main(job: str, executor: str, home: str, folder: str) -> None:
    """Execute and say how it went by the run's status alone."""
    arguments: Any = (job, executor)
    recon = dg.build_reconstructable_job("tests.dagster_executors.jobs", build.__name__, reconstructable_args=arguments)
    with dg.DagsterInstance.local_temp(home) as instance, dg.execute_job(recon, instance, tags={FOLDER: folder}):
        pass
