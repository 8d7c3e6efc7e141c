"""Small jobs, each with one thing to see, that run under any executor and in any process.

Steps leave lines in ``<folder>/diary``, where the folder is named by the run's tag: what ran, when it began and when it ended.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from elt_dagster.orchestration.definitions import build_definitions
from elt_dagster.orchestration.executor import threaded_executor

FOLDER = "test/folder"
EXECUTORS = ("in_process", "multiprocess", "threaded")
BUILDERS: dict[str, Callable[[dg.ExecutorDefinition], dg.JobDefinition]] = {}
_CONFIG: dict[str, dict[str, Any]] = {
    "tag_limited": {"tag_concurrency_limits": [{"key": "kind", "value": "heavy", "limit": 1}]},
    "prioritised": {"max_concurrent": 1},
    "refused": {"max_concurrent": -1},
    "thousand": {"max_concurrent": 8},
}
_FORK = {"forkserver": {"preload_modules": ["tests.dagster_executors.jobs"]}}


def executor(name: str, **config: Any) -> dg.ExecutorDefinition:
    """One of `EXECUTORS`, four steps at once."""
    if name == "in_process":
        return dg.in_process_executor
    if name == "multiprocess":
        return dg.multiprocess_executor.configured({"max_concurrent": 4, "start_method": _FORK, **config})
    return threaded_executor.configured({"max_concurrent": 4, **config})


def build(job: str, executor_name: str) -> dg.JobDefinition:
    """The job called ``job``; what `dagster.build_reconstructable_job` calls in other processes."""
    return BUILDERS[job](executor(executor_name, **_CONFIG.get(job, {})))


def build_sync(url: str, slug: str) -> dg.JobDefinition:
    """The job of a sync in the store at ``url``."""
    return build_definitions(url).resolve_job_def(f"sync_{slug}")


def job(
    builder: Callable[[dg.ExecutorDefinition], dg.JobDefinition],
) -> Callable[[dg.ExecutorDefinition], dg.JobDefinition]:
    """Register a builder under its name."""
    BUILDERS[builder.__name__] = builder
    return builder


@dataclass(frozen=True)
class Line:
    """What a step wrote: its name, what it did, when."""

    step: str
    what: str
    at: float


def note(context: Any, what: str) -> None:
    """Write a line into the diary, atomically."""
    line = f"{context.op_handle.name if hasattr(context, 'op_handle') else context.op_def.name} {what} {time.time()}\n"
    folder = context.run.tags[FOLDER]
    descriptor = os.open(f"{folder}/diary", os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def diary(folder: Path) -> list[Line]:
    """All lines."""
    path = folder / "diary"
    rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [Line(step, what, float(at)) for step, what, at in rows]


@contextmanager
def noted(context: Any) -> Iterator[None]:
    """Lines when the body begins and ends, whatever ends it."""
    note(context, "begin")
    try:
        yield
    finally:
        note(context, "end")


def sleeper(name: str, seconds: float, **options: Any) -> dg.OpDefinition:
    """An op that sleeps in small pieces, as Python code that waits for others does."""

    @dg.op(name=name, ins={"start": dg.In(dg.Nothing)}, **options)
    def sleep(context: dg.OpExecutionContext) -> None:
        with noted(context):
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(0.02)

    return sleep


@job
def simple(executor_def: dg.ExecutorDefinition) -> dg.JobDefinition:
    """One plus one, through the IO manager."""

    @dg.op
    def one(context: dg.OpExecutionContext) -> int:
        context.log.info("from one")
        dg.get_dagster_logger().info("managed, from one")
        print("printed by one")
        return 1

    @dg.op
    def add(context: dg.OpExecutionContext, left: int, right: int) -> int:
        context.log.info(f"sum {left + right}")
        return left + right

    @dg.job(executor_def=executor_def)
    def simple_job() -> None:
        add(one.alias("left")(), one.alias("right")())

    return simple_job


@job
def refused(executor_def: dg.ExecutorDefinition) -> dg.JobDefinition:
    """A job whose executor cannot be made."""
    return simple(executor_def)


@job
def side_by_side(executor_def: dg.ExecutorDefinition) -> dg.JobDefinition:
    """Four sleepers."""

    @dg.job(executor_def=executor_def)
    def side_by_side_job() -> None:
        for i in range(4):
            sleeper(f"sleeper_{i}", 0.5)()

    return side_by_side_job


@job
def one_fails(executor_def: dg.ExecutorDefinition) -> dg.JobDefinition:
    """``bad`` fails until ``<folder>/mended`` exists; ``child`` and ``grandchild`` hang on it, ``good`` does not."""

    @dg.op
    def good(context: dg.OpExecutionContext) -> int:
        note(context, "ran")
        return 1

    @dg.op
    def bad(context: dg.OpExecutionContext) -> int:
        note(context, "ran")
        if not Path(context.run.tags[FOLDER], "mended").exists():
            raise ValueError("bad luck")
        return 2

    @dg.op
    def child(context: dg.OpExecutionContext, upstream: int) -> int:
        note(context, "ran")
        return upstream

    @dg.job(executor_def=executor_def)
    def one_fails_job() -> None:
        good()
        child.alias("grandchild")(child(bad()))

    return one_fails_job


@job
def skipped(executor_def: dg.ExecutorDefinition) -> dg.JobDefinition:
    """An output that is not made skips what needs it."""

    @dg.op(out={"made": dg.Out(is_required=False), "unmade": dg.Out(is_required=False)})
    def fork() -> Iterator[Any]:
        yield dg.Output(1, "made")

    @dg.op
    def use(context: dg.OpExecutionContext, value: int) -> int:
        note(context, "ran")
        return value

    @dg.job(executor_def=executor_def)
    def skipped_job() -> None:
        made, unmade = fork()
        use.alias("on_made")(made)
        use.alias("after_unmade")(use.alias("on_unmade")(unmade))

    return skipped_job


@job
def retried(executor_def: dg.ExecutorDefinition) -> dg.JobDefinition:
    """``by_policy`` and ``by_request`` succeed at the second try, half a second later; ``hopeless`` may not be retried."""

    @dg.op(retry_policy=dg.RetryPolicy(max_retries=2, delay=0.5))
    def by_policy(context: dg.OpExecutionContext) -> None:
        note(context, "ran")
        if context.retry_number == 0:
            raise ValueError("once")

    @dg.op
    def by_request(context: dg.OpExecutionContext) -> None:
        note(context, "ran")
        if context.retry_number == 0:
            raise dg.RetryRequested(max_retries=1, seconds_to_wait=0.5)

    @dg.op(retry_policy=dg.RetryPolicy(max_retries=5))
    def hopeless(context: dg.OpExecutionContext) -> None:
        note(context, "ran")
        raise dg.Failure("no use", allow_retries=False)

    @dg.job(executor_def=executor_def)
    def retried_job() -> None:
        by_policy()
        by_request()
        hopeless()

    return retried_job


@job
def pooled(executor_def: dg.ExecutorDefinition) -> dg.JobDefinition:
    """Three sleepers in a pool."""

    @dg.job(executor_def=executor_def)
    def pooled_job() -> None:
        for i in range(3):
            sleeper(f"pooled_{i}", 0.2, pool="narrow")()

    return pooled_job


@job
def tag_limited(executor_def: dg.ExecutorDefinition) -> dg.JobDefinition:
    """Three heavy sleepers and a light one."""

    @dg.job(executor_def=executor_def)
    def tag_limited_job() -> None:
        for i in range(3):
            sleeper(f"heavy_{i}", 0.2, tags={"kind": "heavy"})()
        sleeper("light", 0.2, tags={"kind": "light"})()

    return tag_limited_job


@job
def hooked(executor_def: dg.ExecutorDefinition) -> dg.JobDefinition:
    """Hooks that write into the diary, and one that fails."""

    @dg.success_hook
    def glad(context: dg.HookContext) -> None:
        Path(_folder(context), f"glad-{context.op.name}").write_text("x")
        note_hook(context, "glad")

    @dg.failure_hook
    def sad(context: dg.HookContext) -> None:
        note_hook(context, "sad")

    @dg.success_hook
    def clumsy(context: dg.HookContext) -> None:
        raise ValueError("hook")

    @dg.op
    def fine() -> None: ...

    @dg.op
    def broken() -> None:
        raise ValueError("bad luck")

    @dg.job(executor_def=executor_def, hooks={glad, sad, clumsy})
    def hooked_job() -> None:
        fine()
        broken()

    return hooked_job


def _folder(context: dg.HookContext) -> str:
    run = context.instance.get_run_by_id(context.run_id)
    assert run is not None
    return run.tags[FOLDER]


def note_hook(context: dg.HookContext, what: str) -> None:
    """A diary line of a hook."""
    with open(f"{_folder(context)}/diary", "a") as file:
        file.write(f"{context.op.name} {what} {time.time()}\n")


@job
def crashes(executor_def: dg.ExecutorDefinition) -> dg.JobDefinition:
    """Steps that end as no step should, and one that is none the worse for it."""

    @dg.op
    def leaves() -> None:
        sys.exit(3)

    @dg.op
    def swells() -> None:
        raise MemoryError

    @dg.op
    def stands() -> None: ...

    @dg.job(executor_def=executor_def)
    def crashes_job() -> None:
        leaves()
        swells()
        stands()

    return crashes_job


@job
def dynamic(executor_def: dg.ExecutorDefinition) -> dg.JobDefinition:
    """Three pieces found while it runs, doubled side by side and summed."""

    @dg.op(out=dg.DynamicOut(int))
    def pieces() -> Iterator[dg.DynamicOutput[int]]:
        for i in range(3):
            yield dg.DynamicOutput(i, mapping_key=f"piece_{i}")

    @dg.op
    def double(value: int) -> int:
        return 2 * value

    @dg.op
    def total(context: dg.OpExecutionContext, values: list[int]) -> None:
        context.add_output_metadata({"total": sum(values)})

    @dg.job(executor_def=executor_def)
    def dynamic_job() -> None:
        total(pieces().map(double).collect())

    return dynamic_job


@job
def asynchronous(executor_def: dg.ExecutorDefinition) -> dg.JobDefinition:
    """Async ops side by side."""

    def waits(name: str) -> dg.OpDefinition:
        @dg.op(name=name)
        async def wait(context: dg.OpExecutionContext) -> None:
            with noted(context):
                await asyncio.sleep(0.2)

        return wait

    @dg.job(executor_def=executor_def)
    def asynchronous_job() -> None:
        for i in range(3):
            waits(f"wait_{i}")()

    return asynchronous_job


@job
def thousand(executor_def: dg.ExecutorDefinition) -> dg.JobDefinition:
    """A thousand ops that do nothing, in chains of ten."""

    @dg.op(ins={"start": dg.In(dg.Nothing)})
    def nothing() -> None: ...

    @dg.job(executor_def=executor_def)
    def thousand_job() -> None:
        for chain in range(100):
            last: Any = nothing.alias(f"c{chain}_0")()
            for i in range(1, 10):
                last = nothing.alias(f"c{chain}_{i}")(start=last)

    return thousand_job


@job
def hard_to_stop(executor_def: dg.ExecutorDefinition) -> dg.JobDefinition:
    """A step that sleeps in small pieces, with a cleanup; and what would come after.

    In threads also an async one, one in a single long call, and a retry policy: under Dagster's own executors a policy takes the interrupt for a failure.
    """
    in_threads = executor_def.name == "threaded"

    @dg.op(retry_policy=dg.RetryPolicy(max_retries=3, delay=5) if in_threads else None)
    def patient(context: dg.OpExecutionContext) -> None:
        with noted(context):
            until = time.monotonic() + 60
            while time.monotonic() < until:
                time.sleep(0.02)

    @dg.op(pool="native")
    def native(context: dg.OpExecutionContext) -> None:
        note(context, "begin")
        time.sleep(60)  # one call, as a query is

    @dg.op
    async def drowsy(context: dg.OpExecutionContext) -> None:
        with noted(context):
            await asyncio.sleep(60)

    @dg.op(ins={"start": dg.In(dg.Nothing)})
    def after(context: dg.OpExecutionContext) -> None:
        note(context, "ran")

    @dg.job(executor_def=executor_def)
    def hard_to_stop_job() -> None:
        after(start=patient())
        if in_threads:
            native()
            drowsy()

    return hard_to_stop_job


@job
def prioritised(executor_def: dg.ExecutorDefinition) -> dg.JobDefinition:
    """Three steps of different weight, one at a time."""

    def weighs(name: str, priority: int) -> dg.OpDefinition:
        @dg.op(name=name, tags={"dagster/priority": str(priority)})
        def weigh(context: dg.OpExecutionContext) -> None:
            note(context, "ran")

        return weigh

    @dg.job(executor_def=executor_def)
    def prioritised_job() -> None:
        weighs("last", -1)()
        weighs("second", 0)()
        weighs("first", 7)()

    return prioritised_job


@job
def waits_to_retry(executor_def: dg.ExecutorDefinition) -> dg.JobDefinition:
    """A step whose next try is a minute away."""

    @dg.op
    def busy(context: dg.OpExecutionContext) -> None:
        note(context, "begin")
        raise dg.RetryRequested(max_retries=3, seconds_to_wait=60)

    @dg.job(executor_def=executor_def)
    def waits_to_retry_job() -> None:
        busy()

    return waits_to_retry_job


@job
def waits_for_pool(executor_def: dg.ExecutorDefinition) -> dg.JobDefinition:
    """One step for a pool that is closed, and one that runs."""

    @dg.job(executor_def=executor_def)
    def waits_for_pool_job() -> None:
        sleeper("free", 0.1)()
        sleeper("blocked", 0.1, pool="closed")()

    return waits_for_pool_job


@job
def checked(executor_def: dg.ExecutorDefinition) -> dg.JobDefinition:
    """Assets in a row over a range of partitions, with a check from the same op."""
    days = dg.DailyPartitionsDefinition("2026-01-01")

    @dg.asset(
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=[dg.AssetCheckSpec("positive", asset="orders")],
    )
    def orders(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster reads it
        first, last = context.partition_key_range
        result = dg.AssetCheckResult(check_name="positive", passed=True)
        return dg.MaterializeResult(metadata={"range": f"{first}..{last}"}, check_results=[result])

    @dg.asset(partitions_def=days, backfill_policy=dg.BackfillPolicy.single_run(), deps=[orders])
    def items(context: dg.AssetExecutionContext) -> None:
        context.log.info(f"{len(context.partition_keys)} days")

    name = "checked_job"
    selected = dg.define_asset_job(name, selection=[orders, items])
    defs = dg.Definitions(assets=[orders, items], jobs=[selected], executor=executor_def)
    return defs.resolve_job_def(name)
