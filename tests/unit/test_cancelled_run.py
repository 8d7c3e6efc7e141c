"""What a cancelled run says of who cancelled it and why, although Dagster writes the same run at the same time."""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.runs.schema import RunsTable  # noqa: TID251 - what Dagster itself writes there
from dagster._serdes import serialize_value

from elt_dagster.errors import TransientError
from elt_dagster.orchestration import graphql
from elt_dagster.orchestration.hosting import _annotate
from elt_dagster.orchestration.runs import GraphQLRuns
from elt_dagster.orchestration.tags import CANCEL_REASON_TAG, CANCEL_REQUESTED_AT_TAG, CANCEL_REQUESTED_BY_TAG


class Deployment:
    """A transport whose run's process writes an event just as somebody cancels it, from the run as it was before."""

    def __init__(self, instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
        self._instance, self._before = instance, run

    def execute(self, document: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        assert (document, variables["id"]) == (graphql.TERMINATE, self._before.run_id)
        with self._instance.run_storage.connect() as conn:  # type: ignore[attr-defined]
            conn.execute(RunsTable.update().values(run_body=serialize_value(self._before)))
        return {"terminateRun": {"__typename": "TerminateRunSuccess"}}

    def annotate(self, run_id: str, tags: Mapping[str, str], message: str) -> bool:
        return _annotate(self._instance, run_id, tags, message)

    def instance_at_hand(self) -> dg.DagsterInstance:
        return self._instance

    def run_url(self, run_id: str) -> str | None:
        return f"http://dagster/runs/{run_id}"

    def close(self) -> None: ...


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def a_run(instance: dg.DagsterInstance, status: dg.DagsterRunStatus) -> dg.DagsterRun:
    @dg.job
    def sync_shop() -> None: ...

    return instance.create_run_for_job(sync_shop, status=status)


def test_a_tag_that_dagster_wrote_over_is_written_again(instance: dg.DagsterInstance) -> None:
    run = a_run(instance, dg.DagsterRunStatus.STARTED)
    runs = GraphQLRuns(Deployment(instance, run))
    runs.cancel(run.run_id, "wrong tables", requested_by="ada")
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    assert found.tags[CANCEL_REASON_TAG] == "wrong tables"
    assert found.tags[CANCEL_REQUESTED_BY_TAG] == "ada"
    assert CANCEL_REQUESTED_AT_TAG in found.tags
    said = [entry.message for entry in instance.all_logs(run.run_id)]
    assert [text for text in said if "Cancelled" in text] == ["Cancelled: wrong tables"]


class EndedByAnother(Deployment):
    """A transport whose run is already being stopped for somebody else: its process is gone, and its last event comes in a moment."""

    asked = 0

    def execute(self, document: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        assert document == graphql.TERMINATE
        run = self._instance.get_run_by_id(self._before.run_id)
        assert run is not None
        self.asked += 1
        if self.asked == 2:
            self._instance.report_run_canceled(run)
        return {"terminateRun": {"__typename": "TerminateRunFailure", "message": "Unable to terminate run"}}


def test_of_two_cancels_at_once_neither_fails(instance: dg.DagsterInstance) -> None:
    run = a_run(instance, dg.DagsterRunStatus.CANCELING)
    deployment = EndedByAnother(instance, run)
    GraphQLRuns(deployment).cancel(run.run_id)
    assert deployment.asked == 2


def test_a_run_that_goes_on_although_it_was_to_stop_is_told(instance: dg.DagsterInstance) -> None:
    run = a_run(instance, dg.DagsterRunStatus.STARTED)
    with pytest.raises(TransientError, match="could not be stopped: Unable to terminate"):
        GraphQLRuns(EndedByAnother(instance, run)).cancel(run.run_id)
