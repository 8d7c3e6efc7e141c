"""Asset checks of real loads: what passes, what warns, what fails, and what is said when the load itself fails."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg
import pyarrow as pa
import pytest

from elt_dagster.errors import TransientError
from elt_dagster.model import Batch, Checkpoint, ReadRequest, RunMode
from elt_dagster.orchestration import checking
from elt_dagster.orchestration import checks as names
from elt_dagster.orchestration.lineage import COLUMN_LINEAGE
from elt_dagster.orchestration.resources import run_config
from elt_dagster.orchestration.translator import BindingProps, SyncTranslator
from elt_dagster.sdk.arrow import highest
from tests.dagster_connectors.scripted import Scripted, _orders
from tests.integration.dagster_project import ORDERS, ShopProject, shop

ALL = {names.SCHEMA_DRIFT, names.PRIMARY_KEY, names.REJECTED_ROWS, names.VOLUME}
STEP = "raw_shop__orders"


class Told(Scripted):
    """A source whose only batch is what the test says."""

    batch: ClassVar[pa.RecordBatch]

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        """The batch, whatever is asked."""
        cursor = highest(self.batch, request.cursor_field) if request.cursor_field and self.batch.num_rows else None
        yield Batch(self.batch, Checkpoint(cursor) if cursor is not None else None)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShopProject:
    monkeypatch.setattr("elt_dagster.control.configured.load_connector", {"scripted": Told}.__getitem__)
    says(_orders(range(1, 11)))
    return ShopProject.make(tmp_path)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def says(batch: pa.RecordBatch) -> None:
    Told.batch = batch


def orders(**stream: Any) -> dict[str, Any]:
    sync = {key: stream.pop(key) for key in ("schema_drift", "checks", "execution") if key in stream}
    return shop(streams=[{"name": "public.orders", **stream}], **sync)


def run(project: ShopProject, instance: dg.DagsterInstance, **options: Any) -> dg.ExecuteInProcessResult:
    job = project.defs().resolve_job_def("sync_shop")
    return job.execute_in_process(instance=instance, raise_on_error=False, **options)


def said(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {e.check_name: e for e in result.get_asset_check_evaluations()}


def stored(instance: dg.DagsterInstance, run_id: str, check: str) -> dg.AssetCheckEvaluation:
    """What the event log of the run has, which is what the UI shows."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    events = [r.event_log_entry.dagster_event for r in records]
    (found,) = [
        e.asset_check_evaluation_data for e in events if e and e.asset_check_evaluation_data.check_name == check
    ]
    return found


def values(evaluation: dg.AssetCheckEvaluation) -> dict[str, Any]:
    return {name: value.value for name, value in evaluation.metadata.items()}


def diff(evaluation: dg.AssetCheckEvaluation, name: str = "diff") -> list[dict[str, Any]]:
    table = evaluation.metadata[name]
    assert isinstance(table, dg.TableMetadataValue)
    return [dict(record.data) for record in table.records]


def with_column(batch: pa.RecordBatch, name: str, values: list[Any]) -> pa.RecordBatch:
    return batch.append_column(name, pa.array(values))


def test_a_load_that_is_as_it_should_be_passes_every_check(project: ShopProject, instance: dg.DagsterInstance) -> None:
    project.put(orders())
    result = run(project, instance)
    assert {name: e.passed for name, e in said(result).items()} == dict.fromkeys(ALL, True)
    (materialization,) = result.get_asset_materialization_events()
    for evaluation in said(result).values():  # the UI shows a check beside the materialization it is about
        assert evaluation.asset_key == ORDERS
        assert evaluation.target_materialization_data is not None
        assert evaluation.target_materialization_data.run_id == result.run_id
    assert materialization.asset_key == ORDERS


def test_a_new_column_is_a_warning_with_the_difference_as_a_table(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    project.put(orders())
    run(project, instance)
    says(with_column(_orders(range(10, 13)), "note", ["a", "b", "c"]))
    result = run(project, instance)
    drift = said(result)[names.SCHEMA_DRIFT]
    assert result.success
    assert (drift.passed, drift.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert diff(drift) == [{"column": "note", "change": "added", "before": "", "after": "string"}]
    assert said(run(project, instance))[names.SCHEMA_DRIFT].passed


def test_a_frozen_table_that_refuses_a_column_is_a_failed_check_of_the_failed_run(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    project.put(orders(schema_drift="freeze"))
    run(project, instance)
    says(with_column(_orders(range(10, 13)), "note", ["a", "b", "c"]))
    result = run(project, instance)
    assert not result.success
    drift = stored(instance, result.run_id, names.SCHEMA_DRIFT)
    assert (drift.passed, drift.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert diff(drift) == [{"column": "note", "change": "added", "before": "", "after": "string"}]
    assert "frozen" in str(drift.description)
    key = dg.AssetCheckKey(ORDERS, names.SCHEMA_DRIFT)
    (latest,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert (latest.run_id, latest.status.value) == (result.run_id, "FAILED")


def test_a_null_key_is_a_failed_check_of_the_failed_run(project: ShopProject, instance: dg.DagsterInstance) -> None:
    project.put(orders())
    batch = _orders(range(1, 4))
    columns = [pa.array([1, None, 3], pa.int64()), *batch.columns[1:]]
    says(pa.RecordBatch.from_arrays(columns, names=batch.schema.names))
    result = run(project, instance)
    assert not result.success
    key = stored(instance, result.run_id, names.PRIMARY_KEY)
    assert (key.passed, key.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert (values(key)["column"], values(key)["null_keys"]) == ("id", 1)


def test_keys_that_are_there_twice_fail_where_the_load_does_not_merge(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    project.put(orders(load_mode="replace"))
    says(pa.concat_batches([_orders(range(1, 4)), _orders(range(2, 4)), _orders(range(3, 4))]))
    result = run(project, instance)
    key = said(result)[names.PRIMARY_KEY]
    assert result.success
    assert (key.passed, key.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert values(key) == {"rows": 6, "null_keys": 0, "keys_twice": 2, "rows_too_many": 3}
    assert str(key.description) == "Of 6 rows: 2 keys more than once."


def test_duplicates_that_a_full_refresh_of_a_merged_stream_left_out_are_told(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    project.put(orders())
    says(pa.concat_batches([_orders(range(1, 4)), _orders(range(2, 4))]))
    key = said(run(project, instance, run_config=run_config(RunMode.FULL_REFRESH)))[names.PRIMARY_KEY]
    assert key.passed
    assert values(key) == {"duplicates_removed": 2}
    assert project.rows("SELECT count(*) FROM raw_shop.orders") == [(3,)]


def test_a_table_above_the_limit_is_not_scanned(
    project: ShopProject, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scan(*_: object) -> None:
        raise AssertionError("scanned")

    monkeypatch.setattr(checking, "key_facts", scan)
    project.put(orders(load_mode="replace", checks={"primary_key": {"max_rows": 9}}))
    key = said(run(project, instance))[names.PRIMARY_KEY]
    assert key.passed
    assert "not counted" in str(key.description)


def test_a_merge_needs_no_look_at_the_table(
    project: ShopProject, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "key_facts", lambda *_: pytest.fail("scanned"))
    project.put(orders())
    assert said(run(project, instance))[names.PRIMARY_KEY].passed


def test_rejected_rows_warn_with_their_reasons_and_where_they_are(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    project.put(orders(schema_drift="discard"))
    run(project, instance)
    project.rows("ALTER TABLE raw_shop.orders ALTER id TYPE INTEGER")
    batch = _orders(range(11, 14))
    ids = pa.array([11, 3_000_000_000, 4_000_000_000], pa.int64())
    says(pa.RecordBatch.from_arrays([ids, *batch.columns[1:]], schema=batch.schema))
    result = run(project, instance)
    assert result.success
    rejected = said(result)[names.REJECTED_ROWS]
    assert (rejected.passed, rejected.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert values(rejected)["rejected"] == 2
    assert values(rejected)["table"] == "raw_shop.orders__rejected"
    (reason,) = diff(rejected, "reasons")
    assert reason["rows"] == 2
    assert "id" in reason["reason"]
    assert "3000000000" not in reason["reason"]
    assert not said(alone(project, instance))[names.REJECTED_ROWS].passed


def test_rows_that_stay_away_are_noticed_once_there_is_a_past(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    project.put(orders(load_mode="replace"))
    says(_orders(range(1, 101)))
    for _ in range(names.MIN_PAST):
        assert said(run(project, instance))[names.VOLUME].passed
    says(_orders(range(1, 50)))
    result = run(project, instance)
    volume = said(result)[names.VOLUME]
    assert (volume.passed, volume.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert values(volume)["usual_table_rows"] == 100.0
    assert values(volume)["rows_read"] == 49
    assert "49 rows read where 100 are usual" in str(volume.description)


def test_the_first_loads_never_fail_for_their_volume(project: ShopProject, instance: dg.DagsterInstance) -> None:
    project.put(orders(load_mode="replace"))
    for rows in (1000, 10, 1):
        says(_orders(range(1, rows + 1)))
        assert said(run(project, instance))[names.VOLUME].passed


def test_an_increment_is_not_held_against_the_load_of_everything(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    project.put(orders())
    full = run_config(RunMode.FULL_REFRESH)
    says(_orders(range(1, 101)))
    for _ in range(names.MIN_PAST):
        run(project, instance, run_config=full)
    says(_orders(range(101, 102)))
    assert said(run(project, instance))[names.VOLUME].passed


@pytest.mark.parametrize("check", sorted(ALL))
def test_each_check_can_be_switched_off(project: ShopProject, check: str) -> None:
    project.put(orders(checks={check: False}))
    found = {key.name for key in project.defs().get_repository_def().asset_graph.asset_check_keys}
    assert found == ALL - {check}


def test_a_streams_own_checks_stand_for_the_syncs(project: ShopProject) -> None:
    own = {"name": "public.orders", "checks": {"volume": False}}
    project.put(shop(streams=[own, {"name": "public.customers"}], checks={"rejected_rows": False}))
    keys = project.defs().get_repository_def().asset_graph.asset_check_keys
    assert {k.name for k in keys if k.asset_key == ORDERS} == ALL - {names.VOLUME}
    assert {k.name for k in keys if k.asset_key != ORDERS} == ALL - {names.REJECTED_ROWS}


def test_an_asset_can_be_loaded_without_its_checks(project: ShopProject, instance: dg.DagsterInstance) -> None:
    project.put(orders())
    selection = dg.AssetSelection.assets(ORDERS).without_checks()
    defs = dg.Definitions.merge(project.defs(), dg.Definitions(jobs=[dg.define_asset_job("bare", selection=selection)]))
    result = defs.resolve_job_def("bare").execute_in_process(instance=instance)
    assert result.success
    assert not said(result)
    assert project.rows("SELECT count(*) FROM raw_shop.orders") == [(10,)]


def alone(project: ShopProject, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    selection = dg.AssetSelection.checks_for_assets(ORDERS)
    defs = dg.Definitions.merge(
        project.defs(), dg.Definitions(jobs=[dg.define_asset_job("checks_only", selection=selection)])
    )
    return defs.resolve_job_def("checks_only").execute_in_process(instance=instance, raise_on_error=False)


def test_checks_run_by_themselves_look_at_the_table_and_load_nothing(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    project.put(orders(load_mode="replace"))
    run(project, instance)
    project.rows("INSERT INTO raw_shop.orders SELECT * FROM raw_shop.orders WHERE id < 3")
    project.rows("ALTER TABLE raw_shop.orders ADD COLUMN by_hand INTEGER")
    says(_orders(range(1, 2)))
    result = alone(project, instance)
    assert result.success
    assert not result.get_asset_materialization_events()
    assert {name: e.passed for name, e in said(result).items()} == {
        names.SCHEMA_DRIFT: False,
        names.PRIMARY_KEY: False,
        names.REJECTED_ROWS: True,
        names.VOLUME: True,
    }
    assert values(said(result)[names.PRIMARY_KEY])["keys_twice"] == 2
    assert diff(said(result)[names.SCHEMA_DRIFT])[0]["column"] == "by_hand"
    assert project.rows("SELECT count(*) FROM raw_shop.orders") == [(12,)]


def test_a_check_without_a_table_says_so_and_fails_nothing(project: ShopProject, instance: dg.DagsterInstance) -> None:
    project.put(orders())
    result = alone(project, instance)
    assert result.success
    drift = said(result)[names.SCHEMA_DRIFT]
    assert not drift.passed
    assert "There is no table raw_shop.orders" in str(drift.description)


@pytest.mark.parametrize("error", [TransientError("The warehouse is busy."), ZeroDivisionError("a bug")])
def test_a_check_that_cannot_look_warns_and_leaves_the_load_alone(
    project: ShopProject, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(checking, "key_facts", broken)
    project.put(orders(load_mode="replace"))
    result = run(project, instance)
    assert result.success
    key = said(result)[names.PRIMARY_KEY]
    assert (key.passed, key.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert str(key.description).startswith("Could not be checked")
    assert said(result)[names.VOLUME].passed


def test_a_load_that_fails_for_another_reason_says_nothing_of_the_data(
    project: ShopProject, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elt_dagster.control.configured.load_connector", {"scripted": Scripted}.__getitem__)
    project.put(orders())
    project.say("orders.fail", "yes")
    result = run(project, instance)
    assert not result.success
    assert not instance.get_records_for_run(result.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records


def test_a_retried_load_is_checked_once(
    project: ShopProject, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elt_dagster.control.configured.load_connector", {"scripted": Scripted}.__getitem__)
    project.put(orders())
    project.say("orders.busy", 1)
    result = run(project, instance)
    assert result.success
    assert len(result.get_asset_check_evaluations()) == len(ALL)


def test_columns_lead_back_to_the_source_through_renaming_and_hashing(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    project.put(orders(hashed_columns=["amount"], excluded_columns=[]))
    (event,) = run(project, instance).get_asset_materialization_events()
    lineage: Any = event.materialization.metadata[COLUMN_LINEAGE].value
    source = dg.AssetKey(["source", "shop_db", "public", "orders"])
    assert lineage.deps_by_column == {
        name: [dg.TableColumnDep(source, name)] for name in ("id", "updated_at", "amount")
    }  # and none for our own columns
    specs = {spec.key: spec for spec in project.defs().resolve_all_asset_specs()}
    assert not list(specs[ORDERS].deps)
    assert specs[ORDERS].metadata["elt/source"].asset_key == source


def test_a_translator_may_lead_columns_to_another_asset(project: ShopProject, instance: dg.DagsterInstance) -> None:
    origin = dg.AssetKey(["crm", "orders"])

    class Ours(SyncTranslator):
        def get_asset_spec(self, props: BindingProps) -> dg.AssetSpec:
            spec = super().get_asset_spec(props)
            return spec.merge_attributes(metadata={"elt/source": dg.MetadataValue.asset(origin)})

    project.put(orders())
    job = project.defs(translator=Ours()).resolve_job_def("sync_shop")
    (event,) = job.execute_in_process(instance=instance).get_asset_materialization_events()
    lineage: Any = event.materialization.metadata[COLUMN_LINEAGE].value
    assert lineage.deps_by_column["id"] == [dg.TableColumnDep(origin, "id")]
