"""What an executor promises, asked of Dagster's own and of ours alike; then what only threads can do or get wrong."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from elt_dagster.orchestration import _executor_run as executor_module
from tests.dagster_connectors.scripted import Scripted
from tests.dagster_executors import run as run_alone
from tests.dagster_executors.jobs import EXECUTORS, FOLDER, Line, build, build_sync, diary
from tests.integration.dagster_project import ShopProject, shop

CANCELLED_WITHIN = 4.0
"""Seconds from asking until the run has ended: about 2, and twice that on a busy machine."""


@dataclass(frozen=True)
class Seen:
    """A run that has ended."""

    success: bool
    run_id: str
    events: Sequence[dg.DagsterEvent]

    def steps(self, kind: str) -> set[str | None]:
        """The steps with an event of that type."""
        return {e.step_key for e in self.events if e.event_type_value == kind}

    def of(self, step: str) -> list[str]:
        """The types of one step's events, in order."""
        return [e.event_type_value for e in self.events if e.step_key == step]


@dataclass(frozen=True)
class Bench:
    """An instance on disk, a folder for what steps write, and an executor."""

    executor: str
    folder: Path
    instance: dg.DagsterInstance

    def run(self, job: str, **options: Any) -> Seen:
        """Execute ``job`` in this process."""
        tags = {FOLDER: str(self.folder), **options.pop("tags", {})}
        with dg.execute_job(self._recon(job), self.instance, tags=tags, **options) as result:
            return Seen(result.success, result.run_id, result.all_events)

    def again(self, job: str, parent: str) -> Seen:
        """Execute what failed in ``parent``, and what hangs on it."""
        again = dg.ReexecutionOptions.from_failure(parent, self.instance)
        return self.run(job, reexecution_options=again)

    def lines(self) -> list[Line]:
        """The diary."""
        return diary(self.folder)

    def ran(self) -> list[str]:
        """Who wrote into the diary, in order of the alphabet."""
        return sorted(line.step for line in self.lines())

    def most_at_once(self, prefix: str = "") -> int:
        """How many steps were between begin and end at the same time."""
        now = most = 0
        for line in sorted(self.lines(), key=lambda one: one.at):
            if line.step.startswith(prefix):
                now += 1 if line.what == "begin" else -1
                most = max(most, now)
        return most

    def start(self, job: str) -> BaseProcess:
        """Execute ``job`` in a process of its own, forked from one that has imported what it takes."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([run_alone.__name__])
        arguments = (job, self.executor, self.instance.root_directory, str(self.folder))
        process = context.Process(target=run_alone.main, args=arguments)
        process.start()
        return process

    def cancel(self, process: BaseProcess, signal_number: int = signal.SIGTERM) -> float:
        """Cancel the only run there is as Dagster does, and wait for the end of its process; seconds until the run had ended."""
        (run,) = self.instance.get_runs()
        self.instance.report_run_canceling(run)
        assert process.pid is not None
        os.kill(process.pid, signal_number)
        process.join(60)
        assert process.exitcode is not None
        at = {
            e.dagster_event.event_type_value: e.timestamp for e in self.instance.all_logs(run.run_id) if e.dagster_event
        }
        return at["PIPELINE_CANCELED"] - at["PIPELINE_CANCELING"]

    def wait_for(self, step: str, what: str) -> None:
        """Until the diary says so."""
        self.wait_until(lambda: any((line.step, line.what) == (step, what) for line in self.lines()))

    def wait_until(self, holds: Any) -> None:
        """Until ``holds()``, at most half a minute."""
        until = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < until
            time.sleep(0.05)

    def status(self) -> dg.DagsterRunStatus:
        """How the only run ended."""
        (run,) = self.instance.get_runs()
        return run.status

    def log(self) -> Seen:
        """The only run, as its log tells it."""
        (run,) = self.instance.get_runs()
        entries = self.instance.all_logs(run.run_id)
        return Seen(run.is_success, run.run_id, [e.dagster_event for e in entries if e.dagster_event is not None])

    def _recon(self, job: str) -> Any:
        arguments: Any = (job, self.executor)
        return dg.build_reconstructable_job(
            "tests.dagster_executors.jobs", build.__name__, reconstructable_args=arguments
        )


@pytest.fixture
def instance(instance_on_disk: dg.DagsterInstance) -> dg.DagsterInstance:
    return instance_on_disk


@pytest.fixture
def threads(tmp_path: Path, instance: dg.DagsterInstance) -> Bench:
    return Bench("threaded", tmp_path, instance)


# held against ours before a release
DAGSTERS_OWN = pytest.mark.again("Dagster's own, to compare with")


@pytest.mark.parametrize(
    "executor", [pytest.param(name, marks=() if name == "threaded" else DAGSTERS_OWN) for name in EXECUTORS]
)
class TestEveryExecutor:
    """The contract."""

    @pytest.fixture
    def bench(self, executor: str, tmp_path: Path, instance: dg.DagsterInstance) -> Bench:
        return Bench(executor, tmp_path, instance)

    def test_outputs_reach_the_steps_that_need_them(self, bench: Bench) -> None:
        seen = bench.run("simple")
        assert seen.success
        assert seen.steps("STEP_SUCCESS") == {"left", "right", "add"}
        assert seen.of("add")[-4:] == ["STEP_INPUT", "STEP_OUTPUT", "HANDLED_OUTPUT", "STEP_SUCCESS"]

    def test_steps_run_side_by_side(self, bench: Bench) -> None:
        if bench.executor == "in_process":
            pytest.skip("one step at a time is what it promises")
        assert bench.run("side_by_side").success
        assert bench.most_at_once() > 1

    def test_a_failing_step_leaves_its_siblings_alone_and_its_children_out(self, bench: Bench) -> None:
        seen = bench.run("one_fails")
        assert not seen.success
        assert (seen.steps("STEP_SUCCESS"), seen.steps("STEP_FAILURE")) == ({"good"}, {"bad"})
        assert bench.ran() == ["bad", "good"]

    def test_after_a_failure_only_what_failed_and_what_hangs_on_it_runs_again(self, bench: Bench) -> None:
        first = bench.run("one_fails")
        (bench.folder / "mended").write_text("")
        (bench.folder / "diary").unlink()
        again = bench.again("one_fails", first.run_id)
        assert again.success
        assert bench.ran() == ["bad", "child", "grandchild"]

    def test_what_needs_an_output_that_was_not_made_is_skipped(self, bench: Bench) -> None:
        seen = bench.run("skipped")
        assert seen.success
        assert seen.steps("STEP_SKIPPED") == {"on_unmade", "after_unmade"}
        assert bench.ran() == ["on_made"]

    def test_a_step_is_retried_after_its_delay_unless_its_failure_forbids_it(self, bench: Bench) -> None:
        seen = bench.run("retried")
        assert seen.steps("STEP_FAILURE") == {"hopeless"}
        assert seen.steps("STEP_UP_FOR_RETRY") == {"by_policy", "by_request"} == seen.steps("STEP_RESTARTED")
        assert bench.ran() == ["by_policy", "by_policy", "by_request", "by_request", "hopeless"]
        tries = [line.at for line in bench.lines() if line.step == "by_request"]
        assert tries[1] - tries[0] >= 0.5

    def test_steps_of_a_pool_of_one_never_overlap(self, bench: Bench) -> None:
        bench.instance.event_log_storage.set_concurrency_slots("narrow", 1)
        assert bench.run("pooled").success
        assert bench.most_at_once() == 1
        assert bench.instance.event_log_storage.get_concurrency_info("narrow").claimed_slots == []

    def test_a_tag_limit_holds_back_its_own_steps_only(self, bench: Bench) -> None:
        if bench.executor == "in_process":
            pytest.skip("it knows no tag limits")
        assert bench.run("tag_limited").success
        assert bench.most_at_once("heavy") == 1

    def test_what_has_priority_comes_first(self, bench: Bench) -> None:
        assert bench.run("prioritised").success
        assert [line.step for line in bench.lines()] == ["first", "second", "last"]

    def test_hooks_are_called_once_and_may_fail(self, bench: Bench) -> None:
        seen = bench.run("hooked")
        assert sorted((line.step, line.what) for line in bench.lines()) == [("broken", "sad"), ("fine", "glad")]
        assert seen.steps("HOOK_ERRORED") == {"fine"} == seen.steps("STEP_SUCCESS")

    def test_a_step_that_ends_as_none_should_fails_alone(self, bench: Bench) -> None:
        seen = bench.run("crashes")
        assert (seen.steps("STEP_SUCCESS"), seen.steps("STEP_FAILURE")) == ({"stands"}, {"leaves", "swells"})

    def test_steps_found_while_the_run_goes_on_are_run(self, bench: Bench) -> None:
        seen = bench.run("dynamic")
        assert seen.success
        assert {"double[piece_0]", "double[piece_1]", "double[piece_2]", "total"} <= seen.steps("STEP_SUCCESS")
        (total,) = [e for e in seen.events if e.is_successful_output and e.step_key == "total"]
        assert total.step_output_data.metadata["total"].value == 6

    def test_async_steps_each_have_a_loop(self, bench: Bench) -> None:
        assert bench.run("asynchronous").success

    def test_assets_over_a_range_of_partitions_with_a_check_from_the_same_step(self, bench: Bench) -> None:
        first, last = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
        seen = bench.run("checked", tags={first: "2026-01-01", last: "2026-01-03"})
        assert seen.success
        made = [e for e in seen.events if e.is_step_materialization]
        assert sorted((e.step_key, e.partition) for e in made) == [
            (key, f"2026-01-0{day}") for key in ("items", "orders") for day in (1, 2, 3)
        ]
        (check,) = [e for e in seen.events if e.event_type_value == "ASSET_CHECK_EVALUATION"]
        assert check.asset_check_evaluation_data.passed

    def test_cancelling_interrupts_a_step_in_its_sleep(self, bench: Bench) -> None:
        process = bench.start("hard_to_stop")
        bench.wait_for("patient", "begin")
        seconds = bench.cancel(process)
        assert bench.status() is dg.DagsterRunStatus.CANCELED
        assert seconds < CANCELLED_WITHIN
        assert [line.what for line in bench.lines() if line.step == "patient"] == ["begin", "end"]
        assert "after" not in bench.ran()
        assert "patient" in bench.log().steps("STEP_FAILURE")

    def test_cancelling_does_not_sit_out_the_wait_for_a_retry(self, bench: Bench) -> None:
        if bench.executor == "in_process":
            pytest.skip("it sleeps until the retry is due")
        process = bench.start("waits_to_retry")
        bench.wait_until(lambda: bench.instance.get_runs() and "busy" in bench.log().steps("STEP_UP_FOR_RETRY"))
        assert bench.cancel(process) < CANCELLED_WITHIN
        assert bench.status() is dg.DagsterRunStatus.CANCELED

    def test_cancelling_does_not_wait_for_a_place_in_a_pool(self, bench: Bench) -> None:
        if bench.executor == "in_process":
            pytest.skip("it looks for no interrupt while it waits for a place")
        bench.instance.event_log_storage.set_concurrency_slots("closed", 0)
        process = bench.start("waits_for_pool")
        bench.wait_for("free", "end")
        assert bench.cancel(process) < CANCELLED_WITHIN
        assert bench.status() is dg.DagsterRunStatus.CANCELED
        assert bench.ran() == ["free", "free"]
        assert bench.instance.event_log_storage.get_concurrency_info("closed").pending_steps == []


@pytest.mark.again("one thousand, where make test has some dozens")
@pytest.mark.parametrize("executor", ["threaded", "in_process"])
def test_a_thousand_steps_come_to_an_end(executor: str, tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        seen = Bench(executor, tmp_path, instance).run("thousand")
    assert seen.success
    assert len(seen.steps("STEP_SUCCESS")) == 1000


class TestThreads:
    """What goes wrong only where steps share a process."""

    def test_a_step_in_a_call_that_cannot_be_interrupted_is_given_up(self, threads: Bench) -> None:
        threads.instance.event_log_storage.set_concurrency_slots("native", 1)
        process = threads.start("hard_to_stop")
        threads.wait_for("native", "begin")
        threads.wait_for("patient", "begin")
        threads.wait_for("drowsy", "begin")
        assert threads.cancel(process, signal.SIGINT) < CANCELLED_WITHIN
        log = threads.log()
        (native,) = [e for e in log.events if e.step_key == "native" and e.is_step_failure]
        assert "cannot be interrupted" in native.step_failure_data.error_display_string
        assert log.steps("STEP_UP_FOR_RETRY") == set(), "a cancelled run tries nothing again"
        assert log.steps("STEP_FAILURE") == {"native", "patient", "drowsy"}
        assert [line.what for line in threads.lines() if line.step == "drowsy"] == ["begin", "end"]
        assert threads.instance.event_log_storage.get_concurrency_info("native").claimed_slots == []

    def test_what_a_step_says_is_its_own_and_is_written_once(self, threads: Bench) -> None:
        seen = threads.run("simple")
        entries = threads.instance.all_logs(seen.run_id)
        for text in ("from one", "managed, from one"):
            assert sorted(e.step_key or "" for e in entries if e.user_message == text) == ["left", "right"]
        (captured,) = [e for e in seen.events if e.event_type_value == "LOGS_CAPTURED"]
        assert set(captured.logs_captured_data.step_keys or ()) == {"left", "right", "add"}

    def test_the_events_of_a_step_keep_their_order(self, threads: Bench) -> None:
        seen = threads.run("side_by_side")
        logged = threads.instance.all_logs(seen.run_id)
        for i in range(4):
            own = [e.dagster_event.event_type_value for e in logged if e.step_key == f"sleeper_{i}" and e.dagster_event]
            assert own == ["STEP_START", "STEP_OUTPUT", "STEP_SUCCESS"] == seen.of(f"sleeper_{i}")

    def test_a_crash_of_dagster_in_one_thread_fails_that_step_only(
        self, threads: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def crash(context: Any) -> Iterator[dg.DagsterEvent]:
            if context.step.key == "sleeper_1":
                raise RuntimeError("out of nowhere")
            yield from real(context)

        real = vars(executor_module)["dagster_event_sequence_for_step"]
        monkeypatch.setattr(executor_module, "dagster_event_sequence_for_step", crash)
        seen = threads.run("side_by_side")
        assert (seen.steps("STEP_FAILURE"), len(seen.steps("STEP_SUCCESS"))) == ({"sleeper_1"}, 3)
        (failed,) = [e for e in seen.events if e.is_step_failure]
        assert "out of nowhere" in failed.step_failure_data.error_display_string

    def test_where_an_error_is_to_be_raised_the_steps_that_run_come_to_their_end(self, threads: Bench) -> None:
        with pytest.raises(ValueError, match="bad luck"):
            threads.run("one_fails", raise_on_error=True)
        assert threads.status() is dg.DagsterRunStatus.FAILURE
        assert threads.log().steps("STEP_SUCCESS") == {"good"}
        assert steps_alive() == []

    def test_a_store_that_takes_no_more_events_ends_the_run_and_every_thread(
        self, threads: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(event: dg.EventLogEntry) -> None:
            if event.dagster_event is not None and event.dagster_event.event_type_value.startswith("STEP_"):
                raise OSError("no space left")
            real(event)

        real = threads.instance.event_log_storage.store_event
        monkeypatch.setattr(threads.instance.event_log_storage, "store_event", full)
        with pytest.raises(OSError, match="no space left"):
            threads.run("side_by_side", raise_on_error=True)
        assert steps_alive() == []

    def test_a_number_of_steps_below_one_is_refused(self, threads: Bench) -> None:
        assert not threads.run("refused").success
        (failed,) = [e for e in threads.log().events if e.event_type_value == "PIPELINE_FAILURE"]
        assert failed.job_failure_data.error is not None
        assert "max_concurrent is -1. Set it to 1 or more." in failed.job_failure_data.error.message


class TestSyncs:
    """Streams of a sync side by side."""

    @pytest.fixture
    def project(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShopProject:
        monkeypatch.setattr("elt_dagster.control.configured.load_connector", {"scripted": Scripted}.__getitem__)
        (tmp_path / "shop").mkdir()
        return ShopProject.make(tmp_path / "shop")

    def run(self, project: ShopProject, instance: dg.DagsterInstance) -> Seen:
        arguments: Any = (project.url, "shop")
        recon = dg.build_reconstructable_job(
            "tests.dagster_executors.jobs", build_sync.__name__, reconstructable_args=arguments
        )
        with dg.execute_job(recon, instance) as result:
            return Seen(result.success, result.run_id, result.all_events)

    def test_streams_load_side_by_side_and_parents_before_children(
        self, project: ShopProject, instance: dg.DagsterInstance
    ) -> None:
        project.put(shop(execution_mode="fan_out_entity"))
        seen = self.run(project, instance)
        assert seen.success
        assert project.rows("SELECT count(*) FROM raw_shop.orders") == [(3,)]
        order = [(e.event_type_value, e.step_key) for e in seen.events]
        assert order.index(("STEP_SUCCESS", "raw_shop__orders")) < order.index(("STEP_START", "raw_shop__items"))

    def test_a_cancelled_load_ends_between_batches_and_says_so(
        self, project: ShopProject, instance: dg.DagsterInstance
    ) -> None:
        project.put(shop(execution_mode="fan_out_entity", execution={"max_retries": 5, "retry_delay_seconds": 30}))
        project.say("orders.slow", 30)

        def cancel() -> None:
            until = time.monotonic() + 30
            while time.monotonic() < until and "raw_shop__orders" not in running(instance):
                time.sleep(0.05)
            (run,) = instance.get_runs()
            instance.report_run_canceling(run)
            os.kill(os.getpid(), signal.SIGINT)

        canceller = threading.Thread(target=cancel)
        canceller.start()
        started = time.monotonic()
        seen = self.run(project, instance)
        canceller.join()
        (run,) = instance.get_runs()
        assert run.status is dg.DagsterRunStatus.CANCELED
        assert time.monotonic() - started < 20
        (failed,) = [e for e in seen.events if e.is_step_failure and e.step_key == "raw_shop__orders"]
        assert failed.step_failure_data.user_failure_data is not None
        reason = failed.step_failure_data.user_failure_data.metadata["elt/reason"]
        assert reason.value == "cancelled"
        assert seen.steps("STEP_UP_FOR_RETRY") == set()
        assert project.rows("SELECT count(*) FROM information_schema.tables WHERE table_name = 'orders'") == [(0,)]


def running(instance: dg.DagsterInstance) -> set[str | None]:
    """The steps that have begun, in any run."""
    return {
        entry.step_key
        for run in instance.get_runs()
        for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_START)
    }


def steps_alive() -> list[str]:
    """Threads of steps that have not ended."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("step-")]
