"""Runs the steps of a run side by side in threads of one process: ``executor_def=threaded_executor``.

For steps that wait: for a source, for a warehouse, for Arrow and SQL that release Python's lock. Twenty one-second steps, four at once, take six
to seven seconds here, and 22 to 83 in processes, which begin by importing. What a step may expect, all of it as under Dagster's own executors unless it says otherwise:

- Retries, skips, pools, tag limits, priorities, hooks, dynamic outputs and a selection of steps are decided by the same `ActiveExecution`.
- Resources and IO managers are made once per run, as under ``in_process``, and are used by several threads at once.
- What steps print is captured once for the run, under all their names: a process has one stdout. What they log is told apart by step.
- Cancelling: each running step's `elt_dagster.sdk.cancellation` says so at once; soon after, `DagsterExecutionInterruptedError` is
  raised in it. Its ``finally`` blocks run. A step that sits in a native call is given up on after a second: it is marked failed, can log
  and commit nothing more through Dagster, and ends when its call returns or the process does. No step is retried once a run is cancelled.
- ``MemoryError``, ``SystemExit`` or a crash of Dagster itself in one thread fail that step only. A crash of the process fails all; a step that
  may take the process down wants the multiprocess executor.

Every executor outside Dagster imports from ``dagster._core``: there is no other way to run a step. `docs/adr/0007-threads-for-fan-out.md`.
"""

import os
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import dagster as dg
from dagster._core.events import DagsterEvent, EngineEventData  # noqa: TID251 - as the docstring says
from dagster._core.execution.api import ExecuteRunWithPlanIterable  # noqa: TID251
from dagster._core.execution.context.system import PlanExecutionContext, PlanOrchestrationContext  # noqa: TID251
from dagster._core.execution.context_creation_job import PlanExecutionContextManager  # noqa: TID251
from dagster._core.execution.plan.plan import ExecutionPlan  # noqa: TID251
from dagster._core.execution.retries import RetryMode, get_retries_config  # noqa: TID251
from dagster._core.execution.step_dependency_config import (  # noqa: TID251
    StepDependencyConfig,
    get_step_dependency_config_field,
)
from dagster._core.execution.tags import get_tag_concurrency_limits_config  # noqa: TID251

from elt_dagster.orchestration._executor_run import Run

MAX_CONCURRENT = 8


class ThreadedExecutor(dg.Executor):
    """See the module."""

    def __init__(
        self,
        *,
        max_concurrent: int = MAX_CONCURRENT,
        retries: RetryMode = RetryMode.ENABLED,
        tag_concurrency_limits: Sequence[dict[str, Any]] = (),
        step_dependency_config: StepDependencyConfig = StepDependencyConfig.default(),  # noqa: B008 - frozen
    ) -> None:
        self.max_concurrent, self._retries = max_concurrent, retries
        self.tag_concurrency_limits = list(tag_concurrency_limits)
        self._step_dependency_config = step_dependency_config

    @property
    def retries(self) -> RetryMode:
        """Whether steps are tried again."""
        return self._retries

    @property
    def step_dependency_config(self) -> StepDependencyConfig:
        """Whether a step waits for whole steps or for the outputs it needs."""
        return self._step_dependency_config

    def execute(self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Iterator[DagsterEvent]:
        """Run the plan and yield its events. Raises DagsterExecutionInterruptedError when the run is cancelled."""
        keys, pid, started = execution_plan.step_keys_to_execute, os.getpid(), time.monotonic()
        yield DagsterEvent.engine_event(
            plan_context,
            f"Executing steps in threads of one process (pid: {pid}), at most {self.max_concurrent} at once",
            EngineEventData.in_process(pid, keys),
        )
        yield from ExecuteRunWithPlanIterable(
            execution_plan=plan_context.execution_plan,
            iterator=partial(self._events, plan_context),
            execution_context_manager=PlanExecutionContextManager(
                job=plan_context.job,
                retry_mode=plan_context.retry_mode,
                execution_plan=plan_context.execution_plan,
                run_config=plan_context.run_config,
                dagster_run=plan_context.dagster_run,
                instance=plan_context.instance,
                raise_on_error=plan_context.raise_on_error,
                output_capture=plan_context.output_capture,
                step_dependency_config=self._step_dependency_config,
            ),
        )
        yield DagsterEvent.engine_event(
            plan_context,
            f"Finished steps in threads of one process (pid: {pid}) in {time.monotonic() - started:.2f}s",
            EngineEventData.in_process(pid, keys),
        )

    def _events(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan, job_context: PlanExecutionContext
    ) -> Iterator[DagsterEvent]:
        run = Run(
            self,
            plan_context,
            job_context,
            execution_plan,
            max_concurrent=self.max_concurrent,
            tag_concurrency_limits=self.tag_concurrency_limits,
        )
        return run.events()


@dg.executor(
    name="threaded",
    config_schema={
        "max_concurrent": dg.Field(
            dg.Noneable(int),
            default_value=MAX_CONCURRENT,
            description="How many steps run side by side.",
        ),
        "retries": get_retries_config(),  # type: ignore[no-untyped-call]
        "tag_concurrency_limits": get_tag_concurrency_limits_config(),  # type: ignore[no-untyped-call]
        "step_dependency_config": get_step_dependency_config_field(),  # type: ignore[no-untyped-call]
    },
)
def threaded_executor(init_context: dg.InitExecutorContext) -> dg.Executor:
    """Runs steps side by side in threads of the run's process: for steps that wait for others or work outside Python."""
    config: dict[str, Any] = dict(init_context.executor_config)
    max_concurrent = config.get("max_concurrent") or MAX_CONCURRENT
    if max_concurrent < 0:
        raise dg.DagsterUnmetExecutorRequirementsError(f"max_concurrent is {max_concurrent}. Set it to 1 or more.")
    return ThreadedExecutor(
        max_concurrent=max_concurrent,
        retries=RetryMode.from_config(config["retries"]) or RetryMode.ENABLED,
        tag_concurrency_limits=config.get("tag_concurrency_limits") or (),
        step_dependency_config=StepDependencyConfig.from_config(config.get("step_dependency_config")),
    )
