"""Alert sensors over real runs: what is told, how often, and what never is."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest

from elt_dagster.errors import ConfigError, TransientError
from elt_dagster.orchestration import alerts
from elt_dagster.orchestration.alerts import Alert, AlertKind, Webhook
from tests.dagster_connectors.scripted import Scripted
from tests.integration.dagster_project import CANARY, ORDERS, ShopProject, shop

SAMPLE = Alert(
    kind=AlertKind.STALE, sync="shop", title="raw_shop/orders is older than agreed.", at="2026-01-01T00:00:00+00:00"
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShopProject:
    monkeypatch.setattr("elt_dagster.control.configured.load_connector", {"scripted": Scripted}.__getitem__)
    project = ShopProject.make(tmp_path)
    project.put(shop(streams=[{"name": "public.orders", "load_mode": "replace"}], freshness_sla_seconds=60))
    return project


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def run(project: ShopProject, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    job = project.defs().resolve_job_def("sync_shop")
    return job.execute_in_process(instance=instance, raise_on_error=False)


class Told(list[Alert]):
    """Notifies by keeping; ``broken`` refuses as often as it says."""

    broken = 0

    def __call__(self, alert: Alert, /) -> None:
        """Keep it."""
        if self.broken:
            self.broken -= 1
            raise TransientError("nobody answers")
        self.append(alert)


def tick(sensor: dg.SensorDefinition, project: ShopProject, instance: dg.DagsterInstance, cursor: str | None) -> str:
    repository = project.defs().get_repository_def()
    context = dg.build_sensor_context(instance=instance, cursor=cursor, repository_def=repository)
    sensor(context)
    assert context.cursor is not None
    return context.cursor


def drift(project: ShopProject) -> None:
    project.rows("ALTER TABLE raw_shop.orders DROP COLUMN amount")  # the next load brings it back, which is a change


def test_a_check_that_fails_is_told_once_and_again_after_it_was_well(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    told = Told()
    sensor = alerts.check_alerts(told, webserver_url="http://ui/")
    run(project, instance)
    cursor = tick(sensor, project, instance, None)
    drift(project)
    run(project, instance)
    cursor = tick(sensor, project, instance, cursor)
    cursor = tick(sensor, project, instance, cursor)
    (alert,) = told
    assert (alert.kind, alert.sync, alert.asset, alert.check) == (
        "check_failed",
        "shop",
        "raw_shop/orders",
        "schema_drift",
    )
    assert (alert.severity, alert.url) == ("warning", "http://ui/assets/raw_shop/orders?view=checks")
    run(project, instance)
    cursor = tick(sensor, project, instance, cursor)
    drift(project)
    run(project, instance)
    tick(sensor, project, instance, cursor)
    assert len(told) == 2


def test_what_is_bad_when_alerts_begin_is_not_told(project: ShopProject, instance: dg.DagsterInstance) -> None:
    told = Told()
    run(project, instance)
    drift(project)
    run(project, instance)
    sensor = alerts.check_alerts(told)
    tick(sensor, project, instance, tick(sensor, project, instance, None))
    assert not told


def test_warnings_and_other_syncs_may_be_left_out(project: ShopProject, instance: dg.DagsterInstance) -> None:
    told = Told()
    sensors = [alerts.check_alerts(told, warnings=False), alerts.check_alerts(told, syncs=["other"])]
    run(project, instance)
    cursors = [tick(sensor, project, instance, None) for sensor in sensors]
    drift(project)
    run(project, instance)
    for sensor, cursor in zip(sensors, cursors, strict=True):
        tick(sensor, project, instance, cursor)
    assert not told


def test_an_alert_that_was_not_delivered_is_sent_with_the_next_tick(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    told = Told()
    sensor = alerts.check_alerts(told)
    run(project, instance)
    cursor = tick(sensor, project, instance, None)
    drift(project)
    run(project, instance)
    told.broken = 1
    with pytest.raises(TransientError):
        tick(sensor, project, instance, cursor)
    tick(sensor, project, instance, cursor)
    assert len(told) == 1


def test_a_failed_run_is_told_with_what_its_streams_said_and_no_secret(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    told = Told()
    project.say("orders.fail", "yes")
    result = run(project, instance)
    failed = instance.get_run_by_id(result.run_id)
    assert failed is not None
    (failure,) = [e for e in result.all_events if e.event_type is dg.DagsterEventType.RUN_FAILURE]
    sensor = alerts.run_failure_alerts(told, webserver_url="http://ui")
    context = dg.build_run_status_sensor_context(
        sensor_name=sensor.name, dagster_event=failure, dagster_instance=instance, dagster_run=failed
    ).for_run_failure()
    sensor(context)
    (alert,) = told
    assert alert.text == "public.orders: Scripted refused 'orders'. Check the credentials."
    assert alert.url == f"http://ui/runs/{result.run_id}"
    assert CANARY not in json.dumps(alert.as_json())


def test_a_stale_table_is_told(
    project: ShopProject, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    sensor = alerts.freshness_alerts(told)
    state = {"now": "PASS"}

    class Record:
        @property
        def freshness_state(self) -> Any:
            return type("State", (), {"value": state["now"]})

    monkeypatch.setattr(type(instance), "get_freshness_state_records", lambda *_: {ORDERS: Record()})
    cursor = tick(sensor, project, instance, None)
    state["now"] = "FAIL"
    cursor = tick(sensor, project, instance, cursor)
    tick(sensor, project, instance, cursor)
    (alert,) = told
    assert (alert.kind, alert.asset, alert.severity) == ("stale", "raw_shop/orders", "error")


def hook(answers: list[int], posted: list[httpx.Request]) -> Webhook:
    def answer(request: httpx.Request) -> httpx.Response:
        posted.append(request)
        return httpx.Response(answers.pop(0))

    return Webhook(variable="TEST_HOOK", transport=httpx.MockTransport(answer), sleep=lambda _: None)


def test_a_webhook_gets_json_and_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_HOOK", "https://hooks.example.com/T0/s3cret")
    posted: list[httpx.Request] = []
    hook([503, 429, 200], posted)(SAMPLE)
    assert len(posted) == 3
    body = json.loads(posted[0].content)
    assert body["sync"] == "shop"
    assert body["text"] == SAMPLE.title
    assert "run_id" not in body


@pytest.mark.parametrize(
    ("answers", "error"), [([404], ConfigError), ([302], ConfigError), ([500] * 3, TransientError)]
)
def test_a_webhook_that_refuses_is_an_error_without_its_address(
    monkeypatch: pytest.MonkeyPatch, answers: list[int], error: type[Exception]
) -> None:
    monkeypatch.setenv("TEST_HOOK", "https://hooks.example.com/T0/s3cret")
    with pytest.raises(error) as caught:
        hook(answers, [])(SAMPLE)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("address", ["", "hooks.example.com/x", "http://x:y"])
def test_a_webhook_without_an_address_says_which_variable(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("TEST_HOOK", address)
    with pytest.raises(ConfigError, match="TEST_HOOK"):
        hook([200], [])(SAMPLE)


def test_all_sensors_stand_beside_the_syncs(project: ShopProject) -> None:
    defs = dg.Definitions.merge(project.defs(), dg.Definitions(sensors=alerts.alert_sensors(Told())))
    dg.Definitions.validate_loadable(defs)
    assert {"elt_run_failure_alerts", "elt_check_alerts", "elt_freshness_alerts"} <= {
        s.name for s in defs.get_repository_def().sensor_defs
    }
