"""A code location with every sync of the store, and alerts: `dagster dev -f examples/alerts.py`.

``ALERT_WEBHOOK`` is the address that alerts are posted to (Slack, Teams, PagerDuty, anything that takes JSON); without it they go to the log of the
sensor. To tell somebody in another way, write a function that takes an `Alert`.
"""

import logging
import os

import dagster as dg

from elt_dagster.orchestration.alerts import Alert, Webhook, alert_sensors
from elt_dagster.orchestration.definitions import build_definitions

_log = logging.getLogger("alerts")


def log_alert(alert: Alert) -> None:
    """Tell nobody but the log."""
    _log.warning("%s %s", alert.title, alert.text)


notify = Webhook(variable="ALERT_WEBHOOK") if os.environ.get("ALERT_WEBHOOK") else log_alert
sensors = alert_sensors(notify, webserver_url=os.environ.get("ELT_DAGSTER_WEBSERVER_URL"))
defs = dg.Definitions.merge(build_definitions(), dg.Definitions(sensors=sensors))
