"""One run in threads: the main thread decides what starts, writes what is told, and sees to the end. `executor` says what is promised.

What it imports from ``dagster._core`` is what Dagster's own executors are made of; there is no public way to run a step.
"""

import asyncio
import contextvars
import logging
import sys
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from typing import Any, cast

import dagster as dg
from dagster._core.events import DagsterEvent, EngineEventData  # noqa: TID251 - as the docstring says
from dagster._core.execution.compute_logs import create_compute_log_file_key  # noqa: TID251
from dagster._core.execution.context.system import PlanExecutionContext, PlanOrchestrationContext  # noqa: TID251
from dagster._core.execution.plan.active import ActiveExecution  # noqa: TID251
from dagster._core.execution.plan.execute_plan import _trigger_hook, dagster_event_sequence_for_step  # noqa: TID251
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext  # noqa: TID251
from dagster._core.execution.plan.objects import StepFailureData  # noqa: TID251
from dagster._core.execution.plan.plan import ExecutionPlan  # noqa: TID251
from dagster._core.execution.plan.state import KnownExecutionState  # noqa: TID251
from dagster._core.execution.plan.step import ExecutionStep  # noqa: TID251
from dagster._core.log_manager import get_log_record_event, has_log_record_event  # noqa: TID251
from dagster._utils.error import serializable_error_info_from_exc_info
from dagster_shared.error import SerializableErrorInfo

from elt_dagster.orchestration._executor_desk import Desk, Ended, Happened
from elt_dagster.orchestration._executor_interrupt import Interrupter
from elt_dagster.orchestration._executor_log import CapturedLogs, StepLog
from elt_dagster.sdk.cancellation import Cancellation, interruptible

TICK_SECONDS = 0.05
"""How often an interrupt, a retry that is due and a pool's free slot are looked for."""
POLITE_SECONDS = 0.25
"""From asking a step to stop to raising an exception in it."""
STUCK_SECONDS = 1.25
"""From asking a step to stop to giving up on it, if it has not done a thing since."""
CLEANUP_SECONDS = 15.0
"""The same for a step that is still busy, ending what it began."""
_CANCELLED_SECONDS = 5.0
"""What an async step has left under way gets so long for its ``finally``."""


class _StepThread:
    """One try of one step, in a thread of its own."""

    def __init__(self, run: "Run", step: ExecutionStep, known_state: KnownExecutionState) -> None:
        self.step, self._run, self._known_state = step, run, known_state
        self.cancellation = Cancellation()
        self.given_up = self.is_settled = False
        self.retry: DagsterEvent | None = None
        context = contextvars.copy_context()
        # A daemon: one that sits in a native call must not keep a cancelled run's process from exiting.
        self.thread = threading.Thread(target=context.run, args=(self._work,), name=f"step-{step.key}", daemon=True)
        self.interrupter = Interrupter(self.thread, dg.DagsterExecutionInterruptedError)

    @property
    def key(self) -> str:
        return self.step.key

    def write(self, record: logging.LogRecord, work: Callable[[], None]) -> None:
        """Have the main thread write ``record``, unless the run has gone on without this step."""
        if self.cancellation.requested and _is_retry(record):
            return  # it will be told as a failure: a cancelled run tries nothing again
        self._run.desk.write(work, lambda: self.given_up)

    def _work(self) -> None:
        crash: BaseException | None = None
        try:
            self._run.captured.step_thread()
            with self.cancellation.active():
                self._execute()
        except BaseException as error:
            crash = error
        self._run.desk.tell(Ended(self, crash))

    def _execute(self) -> None:
        with _event_loop() as loop, self.interrupter.listening(), interruptible(lambda: _wake(loop)):
            context = self._run.job_context_for(self, loop).for_step(self.step, self._known_state)
            events: list[DagsterEvent] = []
            with closing(cast("Generator[DagsterEvent]", dagster_event_sequence_for_step(context))) as sequence:
                for event in sequence:
                    events.append(event)
                    self._run.desk.tell(Happened(self, event))
            for event in _trigger_hook(context, events):
                self._run.desk.tell(Happened(self, event))


class Run:
    """The main thread's part of one run: it decides what starts, writes what is told, and sees to the end."""

    def __init__(
        self,
        executor: dg.Executor,
        plan_context: PlanOrchestrationContext,
        job_context: PlanExecutionContext,
        plan: ExecutionPlan,
        *,
        max_concurrent: int,
        tag_concurrency_limits: list[dict[str, Any]],
    ) -> None:
        self.executor, self.max_concurrent, self.tag_concurrency_limits = (
            executor,
            max_concurrent,
            tag_concurrency_limits,
        )
        self.plan_context, self.job_context, self.plan = plan_context, job_context, plan
        self.desk: Desk[_StepThread, DagsterEvent] = Desk(dg.DagsterExecutionInterruptedError)
        self.captured = CapturedLogs(job_context.log, lambda _, work: self.desk.write(work, lambda: False))
        self.running: dict[str, _StepThread] = {}
        self.cancelled_at: float | None = None
        self.error: BaseException | None = None
        """The first step's, where ``raise_on_error`` asks for it."""

    def job_context_for(self, thread: _StepThread, loop: asyncio.AbstractEventLoop) -> PlanExecutionContext:
        """`job_context` with a log that is written by the main thread, and an event loop that no other step runs."""
        shared = self.job_context
        return PlanExecutionContext(
            plan_data=shared.plan_data,
            execution_data=shared._execution_data,
            log_manager=StepLog.of(shared.log, self.captured, thread.write),
            output_capture=shared.output_capture,
            event_loop=loop,
        )

    def events(self) -> Iterator[DagsterEvent]:
        """Run everything. Raises DagsterExecutionInterruptedError when cancelled, and a step's error where ``raise_on_error`` asks for it."""
        instance, run = self.job_context.instance, self.job_context.dagster_run
        with ExitStack() as stack:
            pools = stack.enter_context(InstanceConcurrencyContext(instance, run))
            stack.enter_context(self.captured.attached())
            active = stack.enter_context(self._active_execution(pools))
            yield from self._capture_output(stack)
            stack.callback(self._leave, pools)
            yield from self._loop(active)
            if self.cancelled_at is not None:
                active.mark_interrupted()
                raise dg.DagsterExecutionInterruptedError
            if self.error is not None:
                raise self.error

    def _active_execution(self, pools: InstanceConcurrencyContext) -> ActiveExecution:
        return ActiveExecution(
            self.plan,
            retry_mode=self.job_context.retry_mode,
            max_concurrent=self.max_concurrent,
            tag_concurrency_limits=self.tag_concurrency_limits,
            instance_concurrency_context=pools,
            step_dependency_config=self.executor.step_dependency_config,
        )

    def _capture_output(self, stack: ExitStack) -> Iterator[DagsterEvent]:
        manager = self.job_context.instance.compute_log_manager
        keys = [step.key for step in self.plan.get_steps_to_execute_in_topo_order()]
        file_key: str = create_compute_log_file_key()  # type: ignore[no-untyped-call]
        log_key = manager.build_log_key_for_run(self.job_context.run_id, file_key)
        try:
            log_context = manager.capture_logs(log_key)
            where = log_context.__enter__()
        except Exception:
            yield self._mishap("Standard output cannot be captured; the steps run without.")
            return
        stack.callback(self._end_capture, log_context)
        yield DagsterEvent.capture_logs(self.job_context, keys, log_key, where)

    def _end_capture(self, log_context: AbstractContextManager[Any]) -> None:
        try:
            log_context.__exit__(None, None, None)
        except Exception:
            self._mishap("The captured standard output could not be kept.")

    def _mishap(self, message: str) -> DagsterEvent:
        data = EngineEventData(error=serializable_error_info_from_exc_info(sys.exc_info()))
        return DagsterEvent.engine_event(self.job_context, message, data)

    def _loop(self, active: ActiveExecution) -> Iterator[DagsterEvent]:
        look_at = 0.0
        while self.running or not (self._is_stopping or active.is_complete):
            if active.check_for_interrupts() and self.cancelled_at is None:
                yield from self._cancel()
            if not self._is_stopping and time.monotonic() >= look_at:
                yield from self._start_what_can(active)
                look_at = time.monotonic() + TICK_SECONDS
            dead = [t for t in self.running.values() if not t.thread.is_alive()]
            for news in self.desk.take(TICK_SECONDS):
                look_at = 0.0
                if isinstance(news, Happened):
                    yield from self._take_event(active, news.step, news.event)
                else:
                    yield from self._take_end(active, news.step, news.crash)
                # At once, for it also finds the steps of dynamic outputs: until then the plan seems complete.
                yield from active.plan_events_iterator(self.job_context)
            for thread in dead if self.desk.is_empty else ():
                # Interrupted at the very moment in which it wanted to say that it ends.
                yield from self._take_end(active, thread, None)
                yield from active.plan_events_iterator(self.job_context)
            if self.cancelled_at is not None:
                yield from self._press(active, time.monotonic() - self.cancelled_at)

    @property
    def _is_stopping(self) -> bool:
        return self.cancelled_at is not None or self.error is not None

    def _start_what_can(self, active: ActiveExecution) -> Iterator[DagsterEvent]:
        yield from active.plan_events_iterator(self.job_context)
        steps = active.get_steps_to_execute(limit=self.max_concurrent - len(self.running))
        yield from active.concurrency_event_iterator(self.job_context)
        for step in steps:
            known = active.get_known_state()
            # Its set of outputs is the live one, which grows while other threads look into it.
            thread = _StepThread(self, step, known._replace(ready_outputs=set(known.ready_outputs)))
            self.running[step.key] = thread
            try:
                thread.thread.start()
            except RuntimeError as error:  # the system has no thread left
                yield from self._take_end(active, thread, error)

    def _take_event(self, active: ActiveExecution, thread: _StepThread, event: DagsterEvent) -> Iterator[DagsterEvent]:
        if thread.given_up:
            return
        if event.is_step_up_for_retry and self.cancelled_at is not None:
            yield from self._fail(active, thread, event.step_retry_data.error)
            return
        thread.is_settled |= event.is_step_failure or event.is_step_success or event.is_step_up_for_retry
        yield event
        if event.is_step_up_for_retry:
            thread.retry = event  # not before this try has ended: its hooks are still to come
        else:
            active.handle_event(event)

    def _take_end(
        self, active: ActiveExecution, thread: _StepThread, crash: BaseException | None
    ) -> Iterator[DagsterEvent]:
        if self.running.get(thread.key) is not thread:
            return
        del self.running[thread.key]
        interrupted = isinstance(crash, dg.DagsterExecutionInterruptedError | KeyboardInterrupt)
        if crash is not None and not interrupted and self.job_context.raise_on_error:
            self.error = self.error or crash
        if thread.retry is not None:
            active.handle_event(thread.retry)
        if not thread.is_settled:
            yield from self._fail(active, thread, _error_info(crash))
        elif crash is not None and not interrupted and not self.job_context.raise_on_error:
            context = self.plan_context.for_step(thread.step)
            text = f"Step {thread.key} had ended when its thread crashed, in a hook or in Dagster itself."
            yield DagsterEvent.engine_event(context, text, EngineEventData.engine_error(_error_info(crash)))

    def _fail(
        self, active: ActiveExecution, thread: _StepThread, error: SerializableErrorInfo | None
    ) -> Iterator[DagsterEvent]:
        context = self.plan_context.for_step(thread.step)
        if self.cancelled_at is None and error is not None:
            event = self.executor.log_failure_or_retry_event_after_error(context, error, active.get_known_state())
        else:
            data = StepFailureData(error=error, user_failure_data=None)  # type: ignore[no-untyped-call]
            event = DagsterEvent.step_failure_event(context, data)
        thread.is_settled = True
        yield event
        active.handle_event(event)

    def _cancel(self) -> Iterator[DagsterEvent]:
        self.cancelled_at = time.monotonic()
        for thread in self.running.values():
            thread.cancellation.cancel()
        text = "Received a termination signal; telling the running steps"
        yield DagsterEvent.engine_event(self.plan_context, text, EngineEventData.interrupted(list(self.running)))

    def _press(self, active: ActiveExecution, seconds: float) -> Iterator[DagsterEvent]:
        """Interrupt the steps that do not stop by themselves, and go on without those that cannot."""
        for thread in list(self.running.values()) if seconds >= POLITE_SECONDS else ():
            thread.interrupter.step()
            if not thread.interrupter.moved:
                thread.cancellation.interrupt()  # later it would hit the cleaning up
            if seconds < (CLEANUP_SECONDS if thread.interrupter.moved else STUCK_SECONDS):
                continue
            thread.interrupter.send_anyway()
            thread.given_up = True
            del self.running[thread.key]
            if thread.retry is not None:
                active.handle_event(thread.retry)
            if not thread.is_settled:
                text = f"The run was cancelled while step {thread.key} waited in a call that cannot be interrupted.\n"
                error = SerializableErrorInfo(text, [], dg.DagsterExecutionInterruptedError.__name__)
                yield from self._fail(active, thread, error)

    def _leave(self, pools: InstanceConcurrencyContext) -> None:
        """Leave no thread and no slot behind, if something went wrong out here."""
        self.desk.close()
        until = time.monotonic() + STUCK_SECONDS
        for thread in self.running.values():
            thread.cancellation.cancel()
        for thread in self.running.values():
            while thread.thread.is_alive() and time.monotonic() < until:
                thread.interrupter.step()
                thread.thread.join(TICK_SECONDS)
            thread.interrupter.send_anyway()
            pools.free_step(thread.key)


@contextmanager
def _event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """As `asyncio.run` has one: what is still under way at the end, because the step was stopped, is cancelled and gets to its ``finally``."""
    loop = asyncio.new_event_loop()
    try:
        yield loop
    finally:
        try:
            loop.run_until_complete(_cancelled(asyncio.all_tasks(loop)))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()


async def _cancelled(tasks: Collection["asyncio.Task[Any]"]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_CANCELLED_SECONDS)


def _wake(loop: asyncio.AbstractEventLoop) -> None:
    """Make a loop that waits for nothing look up, so that it notices an exception raised in its thread."""
    loop.call_soon_threadsafe(lambda: None)


def _is_retry(record: logging.LogRecord) -> bool:
    return has_log_record_event(record) and get_log_record_event(record).is_step_up_for_retry


def _error_info(error: BaseException | None) -> SerializableErrorInfo:
    if error is None:
        return SerializableErrorInfo("The thread of the step ended without a word.\n", [], None)
    return serializable_error_info_from_exc_info((type(error), error, error.__traceback__))  # type: ignore[arg-type]
