"""Two runs of one stream: the second waits for its turn, or leaves the stream out, as the sync says."""

import threading
import time

import dagster as dg

from elt_dagster.orchestration.tags import SKIPPED_FOR_TAG
from tests.integration.dagster_project import ORDERS, ShopProject, shop


def run(project: ShopProject, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    job = project.defs(executor=dg.in_process_executor).resolve_job_def("sync_shop")
    return job.execute_in_process(instance=instance, raise_on_error=False)


def test_a_stream_that_another_run_loads_is_left_out_and_the_others_land(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    project.put(shop(execution={"overlap": "skip"}))
    binding = project.store.sync("shop").binding_ids["public.customers"]
    project.store.acquire_lease(binding, "somebody", "run-0")
    done = run(project, instance)
    assert done.success
    landed = {e.asset_key.path[-1] for e in done.get_asset_materialization_events() if e.asset_key is not None}
    assert landed == {"orders", "items"}
    found = instance.get_run_by_id(done.run_id)
    assert found is not None
    assert found.tags[SKIPPED_FOR_TAG] == "run-0"


def test_a_stream_that_another_run_loads_waits_for_its_turn(project: ShopProject, instance: dg.DagsterInstance) -> None:
    project.put(shop(streams=[{"name": "public.orders"}]))
    lease = project.store.acquire_lease(project.store.sync("shop").binding_ids["public.orders"], "somebody", "run-0")

    def says_so() -> bool:
        logs = [event for run in instance.get_runs() for event in instance.all_logs(run.run_id)]
        return any("waiting for run run-0" in event.user_message for event in logs)

    def release_once_it_waits() -> None:
        end = time.monotonic() + 60
        while not says_so() and time.monotonic() < end:
            time.sleep(0.2)
        project.store.release_lease(lease)

    free = threading.Thread(target=release_once_it_waits)
    free.start()
    done = run(project, instance)
    free.join()
    assert done.success
    assert instance.get_latest_materialization_event(ORDERS) is not None
    assert says_so()
