"""Which syncs the process of a single run needs: it loads these and not the whole workspace.

Every run worker, and with processes for steps every step, builds the definitions of its code location anew; with 1,000 syncs that is many
seconds for the one that is run. Dagster does not tell the code that it loads which run it is loaded for, but the processes that exist for one
run have it at hand while they load. What is not such a process, a code server, a test, a Celery worker other than `celery_app`, loads everything, and so does
a run of anything that is not plainly ours: a job of the user's, or a selection with other assets in it.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

_RUN_WORKERS = {"core_execute_run": "dagster._grpc.impl", "_execute_step_command_body": "dagster._cli.api"}
"""Functions of processes that end with the run or step, and their modules. Each has the run as ``dagster_run``."""
_STEP_WORKER = "MultiprocessExecutorChildProcessCommand"
_ASSET_JOB = "__ASSET_JOB"


@dataclass(frozen=True, slots=True)
class RunScope:
    """The run that definitions are being loaded for."""

    job_name: str
    tables: frozenset[tuple[str, str]] = frozenset()
    """Schema and table of each selected asset, for a run of Dagster's own job for assets; of a key that cannot be ours, empty texts."""

    def slugs(
        self,
        all_slugs: Iterable[str],
        job_name: Callable[[str], str],
        tables: Callable[[], Mapping[tuple[str, str], str]],
    ) -> set[str] | None:
        """The syncs to load, of those there are; None when everything has to be. ``tables`` says which sync loads each wanted table."""
        if self.job_name != _ASSET_JOB:
            return {slug for slug in all_slugs if job_name(slug) == self.job_name} or None
        found = tables() if self.tables else {}
        return {found[table] for table in self.tables} if self.tables and self.tables <= found.keys() else None


def run_scope() -> RunScope | None:
    """What this process was started for, when that is a single run or step; None otherwise."""
    run = _run_of_this_process()
    if run is None:
        return None
    checks = {check.asset_key for check in run.asset_check_selection or ()}
    keys = {*(run.asset_selection or ()), *checks}
    return RunScope(run.job_name, frozenset(_table_of(key) for key in keys))


def add_step_worker(function: str, module: str) -> None:
    """Let ``function`` of ``module`` count as a process for one run; it has the run as ``dagster_run`` and is called once per process."""
    _RUN_WORKERS[function] = module


def _table_of(key: dg.AssetKey) -> tuple[str, str]:
    schema, table = ("", *key.path)[-2:]
    return schema, table


def _run_of_this_process() -> Any:
    frame = sys._getframe(1)
    while frame is not None:
        name, module = frame.f_code.co_name, frame.f_globals.get("__name__")
        if _RUN_WORKERS.get(name) == module:
            return frame.f_locals.get("dagster_run")
        if type(worker := frame.f_locals.get("self")).__name__ == _STEP_WORKER and name == "execute":
            return getattr(worker, "dagster_run", None)
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop
    return None
