"""Sensors that tell somebody: a run of a sync failed, a check failed, a table is stale.

```python
from elt_dagster.orchestration.alerts import Webhook, alert_sensors

defs = dg.Definitions.merge(build_definitions(), dg.Definitions(sensors=alert_sensors(Webhook(variable="ALERT_WEBHOOK"))))
```
Whom they tell is a function that takes an `Alert`; `Webhook` is one that posts JSON. An alert says which sync, table and check it is about and what to
do, in words that hold no secret and no row. Checks and tables are told about when they turn bad, once, and again after they were well. What could
not be delivered is tried again on the next tick.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

import dagster as dg
import httpx

from elt_dagster.errors import ConfigError, TransientError
from elt_dagster.orchestration.errors import REASON
from elt_dagster.orchestration.metadata import STREAM, SYNC
from elt_dagster.orchestration.tags import SYNC_TAG

logging.getLogger("httpx").setLevel(logging.WARNING)  # at INFO it logs whole URLs, and a webhook's URL is its secret


class AlertKind(StrEnum):
    """What an alert is about."""

    RUN_FAILED = "run_failed"
    CHECK_FAILED = "check_failed"
    STALE = "stale"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One thing that somebody should know."""

    kind: AlertKind
    sync: str
    """Slug of the sync."""
    title: str
    """One line for a person."""
    text: str = ""
    """What happened and what to do."""
    severity: str = "error"
    """error or warning."""
    at: str
    """When, in ISO 8601 (UTC)."""
    asset: str | None = None
    """The asset as ``schema/table``."""
    check: str | None = None
    run_id: str | None = None
    url: str | None = None
    """The page of the run or asset, where the webserver's address is known."""

    def as_json(self) -> dict[str, Any]:
        """Plain data; what is not known is left out. ``text`` is what Slack and others show."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return {**known, "text": f"{self.title}\n{self.text}".strip()}


class Notify(Protocol):
    """Tells somebody; raises when that did not work."""

    def __call__(self, alert: Alert, /) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Posts each alert as JSON to the address in environment variable ``variable``, which is read when there is something to say.

    Tried three times. Raises ConfigError for an address that is missing or refuses, TransientError when nobody answers. Redirects are not followed.
    """

    variable: str
    timeout_seconds: float = 10.0
    transport: httpx.BaseTransport | None = None
    sleep: Callable[[float], None] = time.sleep

    def __call__(self, alert: Alert, /) -> None:
        """Post it."""
        url = os.environ.get(self.variable, "")
        if not url.startswith(("http://", "https://")):
            raise ConfigError(
                f"The environment variable {self.variable} holds no web address.", fix="Set it to the webhook's URL."
            )
        with httpx.Client(timeout=self.timeout_seconds, transport=self.transport) as client:
            for attempt in range(3):
                if (said := self._post(client, url, alert)) is None:
                    return
                self.sleep(2.0**attempt)
        raise TransientError(f"The webhook of {self.variable} does not take alerts: {said}.")

    def _post(self, client: httpx.Client, url: str, alert: Alert) -> str | None:
        """None when it was taken, else why a later try may do better."""
        try:
            status = client.post(url, json=alert.as_json()).status_code
        except httpx.HTTPError as error:
            return type(error).__name__
        except httpx.InvalidURL:
            raise ConfigError(
                f"The environment variable {self.variable} holds no web address.", fix="Set it to the webhook's URL."
            ) from None
        if status < 300:
            return None
        if status == 429 or status >= 500:
            return f"it answered {status}"
        raise ConfigError(f"The webhook of {self.variable} answered {status}.", fix="Correct the address.")


def alert_sensors(
    notify: Notify, *, syncs: Sequence[str] = (), webserver_url: str | None = None, warnings: bool = True
) -> list[dg.SensorDefinition]:
    """All three sensors, for the syncs called ``syncs`` (default: every sync of the code location); see each."""
    return [
        run_failure_alerts(notify, syncs=syncs, webserver_url=webserver_url),
        check_alerts(notify, syncs=syncs, webserver_url=webserver_url, warnings=warnings),
        freshness_alerts(notify, syncs=syncs, webserver_url=webserver_url, warnings=warnings),
    ]


def run_failure_alerts(
    notify: Notify, *, name: str = "elt_run_failure_alerts", syncs: Sequence[str] = (), webserver_url: str | None = None
) -> dg.SensorDefinition:
    """Tells of each run of a sync that failed, with what its streams said. Automatic retries are runs of their own."""

    @dg.run_failure_sensor(
        name=name, default_status=dg.DefaultSensorStatus.RUNNING, description="Tells of failed runs of syncs."
    )
    def sensor(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
        run = context.dagster_run
        sync = run.tags.get(SYNC_TAG, "")
        if not sync or (syncs and sync not in syncs):
            return dg.SkipReason(f"Run {run.run_id} is of no sync that is watched.")
        url = f"{webserver_url.rstrip('/')}/runs/{run.run_id}" if webserver_url else None
        notify(
            Alert(
                kind=AlertKind.RUN_FAILED,
                sync=sync,
                title=f"A run of {sync} failed.",
                text=_failures(context.get_step_failure_events()),
                at=datetime.now(UTC).isoformat(timespec="seconds"),
                run_id=run.run_id,
                url=url,
            )
        )
        return None

    return sensor


def check_alerts(
    notify: Notify,
    *,
    name: str = "elt_check_alerts",
    syncs: Sequence[str] = (),
    webserver_url: str | None = None,
    warnings: bool = True,
    seconds: int = 30,
) -> dg.SensorDefinition:
    """Tells of checks that did not pass; with ``warnings`` also of those that only warn. Looks every ``seconds``."""

    def bad(context: dg.SensorEvaluationContext) -> dict[str, tuple[str, Alert]]:
        owners = _owners(context, syncs)
        graph = context.repository_def.asset_graph if context.repository_def is not None else None
        keys = [key for key in graph.asset_check_keys if key.asset_key in owners] if graph is not None else []
        found: dict[str, tuple[str, Alert]] = {}
        latest = context.instance.event_log_storage.get_latest_asset_check_execution_by_key(keys) if keys else {}
        for key, record in latest.items():
            event = record.event.dagster_event if record.event is not None else None
            if record.status.value == "FAILED" and event is not None:
                evaluation = event.asset_check_evaluation_data
                alert = _check_alert(evaluation, owners[key.asset_key], record.run_id, webserver_url, record.event)
                if warnings or alert.severity == "error":
                    found[key.to_user_string()] = (str(record.id), alert)
        return found

    return _watching(name, "Tells of asset checks that did not pass.", seconds, bad, notify)


def freshness_alerts(
    notify: Notify,
    *,
    name: str = "elt_freshness_alerts",
    syncs: Sequence[str] = (),
    webserver_url: str | None = None,
    warnings: bool = True,
    seconds: int = 60,
) -> dg.SensorDefinition:
    """Tells of tables that are older than their sync's ``freshness_sla_seconds``. Dagster's freshness daemon has to be enabled."""

    def bad(context: dg.SensorEvaluationContext) -> dict[str, tuple[str, Alert]]:
        owners = _owners(context, syncs)
        records = context.instance.get_freshness_state_records(list(owners)) if owners else {}
        found: dict[str, tuple[str, Alert]] = {}
        for key, record in records.items():
            state = record.freshness_state.value
            if state == "FAIL" or (state == "WARN" and warnings):
                found[key.to_user_string()] = (state, _stale_alert(key, state, owners[key], webserver_url))
        return found

    return _watching(name, "Tells of tables that are older than agreed.", seconds, bad, notify)


def _watching(
    name: str,
    description: str,
    seconds: int,
    bad: Callable[[dg.SensorEvaluationContext], Mapping[str, tuple[str, Alert]]],
    notify: Notify,
) -> dg.SensorDefinition:
    """A sensor whose cursor holds what is bad and known; ``bad`` gives what is bad now, with a mark that changes when it is news.

    The first tick only learns what is bad already: whoever switches alerts on does not ask for the past.
    """

    @dg.sensor(
        name=name,
        minimum_interval_seconds=seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=description,
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        now = bad(context)
        if context.cursor is None:
            context.update_cursor(json.dumps({key: mark for key, (mark, _) in now.items()}))
            return dg.SkipReason(f"{len(now)} are bad already; alerts begin now.")
        known: dict[str, str] = json.loads(context.cursor)
        news = {key: alert for key, (mark, alert) in now.items() if known.get(key) != mark}
        undelivered = _deliver(news, notify, context)
        context.update_cursor(json.dumps({key: mark for key, (mark, _) in now.items() if key not in undelivered}))
        return dg.SkipReason(f"{len(news) - len(undelivered)} alerts sent, {len(undelivered)} not delivered.")

    return sensor


def _deliver(news: Mapping[str, Alert], notify: Notify, context: dg.SensorEvaluationContext) -> set[str]:
    """Send ``news``; the keys of what did not arrive. Raises the last error when nothing did, so that the tick shows it."""
    undelivered: set[str] = set()
    error: Exception | None = None
    for key, alert in news.items():
        try:
            notify(alert)
        except Exception as problem:  # whatever a user's function raises
            undelivered.add(key)
            error = problem
            context.log.error(f"The alert about {key} was not delivered ({type(problem).__name__}).")
    if error is not None and len(undelivered) == len(news):
        raise error
    return undelivered


def _owners(context: dg.SensorEvaluationContext, syncs: Sequence[str]) -> dict[dg.AssetKey, str]:
    """The sync that each of the location's assets belongs to, for those that are watched."""
    if context.repository_def is None:
        return {}
    graph = context.repository_def.asset_graph
    owned = ((key, graph.get(key).tags.get(SYNC, "")) for key in graph.get_all_asset_keys())
    return {key: sync for key, sync in owned if sync and (not syncs or sync in syncs)}


def _check_alert(
    evaluation: dg.AssetCheckEvaluation, sync: str, run_id: str, webserver_url: str | None, entry: Any
) -> Alert:
    asset = evaluation.asset_key.to_user_string()
    return Alert(
        kind=AlertKind.CHECK_FAILED,
        sync=sync,
        title=f"{asset}: the check {evaluation.check_name} did not pass.",
        text=evaluation.description or "",
        severity="error" if evaluation.severity is dg.AssetCheckSeverity.ERROR else "warning",
        at=datetime.fromtimestamp(entry.timestamp, UTC).isoformat(timespec="seconds"),
        asset=asset,
        check=evaluation.check_name,
        run_id=run_id or None,
        url=f"{webserver_url.rstrip('/')}/assets/{asset}?view=checks" if webserver_url else None,
    )


def _stale_alert(key: dg.AssetKey, state: str, sync: str, webserver_url: str | None) -> Alert:
    asset = key.to_user_string()
    return Alert(
        kind=AlertKind.STALE,
        sync=sync,
        title=f"{asset} is older than agreed.",
        text=f"Look at the runs of {sync}: none has loaded this table in time.",
        severity="error" if state == "FAIL" else "warning",
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        asset=asset,
        url=f"{webserver_url.rstrip('/')}/assets/{asset}" if webserver_url else None,
    )


def _failures(events: Iterable[dg.DagsterEvent]) -> str:
    """One line per failed stream. An error that is not ours may quote anything, so only its class is told."""
    lines: list[str] = []
    for event in events:
        data = event.step_failure_data
        mine = data.user_failure_data
        if mine is not None and REASON in mine.metadata:
            stream = mine.metadata.get(STREAM)
            lines.append(f"{stream.value if stream is not None else event.step_key}: {mine.description}")
        else:
            kind = data.error.cls_name if data.error is not None else None
            lines.append(f"{event.step_key}: {kind or 'it failed'}, see the log of the run.")
    return "\n".join(lines)
