"""Prefect over its REST API (https://docs.prefect.io/v3/api-ref/rest-api): nothing of Prefect is imported here.

A flow run's failure message is somebody's exception and is not repeated; `Follower` gives the link instead. Prefect asks for no version of
its API; what is used here has not changed since Prefect 2.0.
"""

import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from elt_dagster.control.backends import PREFECT_API_KEY, PREFECT_API_URL, open_key, setting
from elt_dagster.errors import ConfigError, SourceError
from elt_dagster.model import SyncSpec
from elt_dagster.orchestration._backend_follow import Phase, Sight, moment
from elt_dagster.sdk.connector import Runtime
from elt_dagster.sdk.http import Action, Answer, Http, Rule
from elt_dagster.sdk.pages import Call

ARTIFACT = "elt-result"
CLOUD_API, CLOUD_UI = "https://api.prefect.cloud/api/accounts/", "https://app.prefect.cloud/account/"
_RETRIES = 3
_PHASES = {
    "SCHEDULED": Phase.WAITING,
    "PENDING": Phase.WAITING,
    "PAUSED": Phase.WAITING,
    "RUNNING": Phase.RUNNING,
    "CANCELLING": Phase.RUNNING,
    "COMPLETED": Phase.COMPLETED,
    "FAILED": Phase.FAILED,
    "CRASHED": Phase.LOST,
    "CANCELLED": Phase.CANCELLED,
}
_TIMED_OUT = "TimedOut"
"""The name of a state of type FAILED that more time, or another try, may mend."""
_ABSENT = Rule(action=Action.IGNORE, status=frozenset({404}))
_REFUSED = Rule(action=Action.IGNORE, status=frozenset({409, 422}))


class PrefectBackend:
    """Flow runs of one deployment."""

    title = "Prefect"
    what = "flow run"

    def __init__(self, sync: SyncSpec, runtime: Runtime, sleep: Callable[[float], None]) -> None:
        """Raises ConfigError when the address or the key is missing."""
        settings, environ = sync.backend, runtime.environ
        url = setting(settings, "api_url", PREFECT_API_URL, environ)
        if url is None or settings.deployment is None:
            raise ConfigError(f"Sync {sync.slug!r} does not say which Prefect deployment loads it.", fix="Set backend.")
        key = open_key(sync, PREFECT_API_KEY, environ)
        self._deployment = settings.deployment
        self._pages = settings.ui_url or _pages(url)
        headers = {"Authorization": _authorization(key)} if key else {}

        def client(runtime: Runtime) -> Http:
            return Http(url, title=self.title, runtime=runtime, headers=headers, retries=_RETRIES)

        self._http = client(replace(runtime, sleep=sleep))
        self._last_words = client(runtime)  # its sleep does not end when the step is cancelled: cancelling is its job

    def begin(self, key: str, name: str, parameters: Mapping[str, Any]) -> Sight:
        """See `Backend.begin`: Prefect answers with the flow run that has the idempotency key already."""
        found = self._ask(Call(url=f"deployments/name/{self._deployment}"), _ABSENT)
        if found is None:
            raise ConfigError(
                f"Prefect has no deployment {self._deployment!r}.",
                fix="Correct backend.deployment, or deploy the flow.",
            )
        body = {"parameters": dict(parameters), "idempotency_key": key, "tags": ["elt_dagster", name]}
        run = self._ask(Call(url=f"deployments/{found['id']}/create_flow_run", method="POST", body=body), _REFUSED)
        if run is None:
            raise ConfigError(
                f"Prefect's deployment {self._deployment!r} does not take the parameters {', '.join(sorted(parameters))}.",
                fix="Name those of its flow under backend.parameters.",
            )
        return self._sight(run)

    def look(self, reference: str) -> Sight:
        """See `Backend.look`; a flow run that somebody deleted counts as cancelled."""
        run = self._ask(Call(url=f"flow_runs/{reference}"), _ABSENT)
        return (
            self._sight(run) if run is not None else Sight(phase=Phase.CANCELLED, status="Deleted", reference=reference)
        )

    def cancel(self, reference: str) -> None:
        """See `Backend.cancel`; one that no worker has taken yet is cancelled at once."""
        state = {"type": "CANCELLING", "name": "Cancelling", "message": "The Dagster run was cancelled."}
        body = {"state": state, "force": False}
        self._last_words.fetch(Call(url=f"flow_runs/{reference}/set_state", method="POST", body=body))

    def result(self, reference: str) -> Any:
        """The newest artifact ``elt-result`` of the flow run: a table's only row, or JSON in a Markdown artifact."""
        wanted = {"flow_run_id": {"any_": [reference]}, "key": {"any_": [ARTIFACT]}}
        body = {"artifacts": wanted, "sort": "CREATED_DESC", "limit": 1}
        found = self._ask(Call(url="artifacts/filter", method="POST", body=body))
        return _only_row(found[0].get("data")) if found else None

    def close(self) -> None:
        """See `Backend.close`."""
        for http in (self._http, self._last_words):
            http.__exit__()

    def _ask(self, call: Call, *rules: Rule) -> Any:
        """The JSON answer; None where a rule says that there is nothing."""
        answer = self._http.fetch(call, rules)
        return None if answer.ignored else _json(answer)

    def _sight(self, run: Mapping[str, Any]) -> Sight:
        state = run.get("state") or {}
        kind, name = str(state.get("type", "")), str(state.get("name") or state.get("type", ""))
        if kind not in _PHASES:
            raise SourceError(f"Prefect says that flow run {run.get('id')} is {kind!r}, which is no state we know.")
        signs = [m for m in (moment(run.get("updated")), moment(state.get("timestamp"))) if m is not None]
        return Sight(
            phase=Phase.LOST if name == _TIMED_OUT else _PHASES[kind],
            status=name,
            reference=str(run["id"]),
            url=f"{self._pages}/runs/flow-run/{run['id']}",
            heartbeat=max(signs, default=None),
        )


def _authorization(key: str) -> str:
    """A key of Prefect Cloud, or the ``user:password`` of a server of one's own."""
    return f"Basic {b64encode(key.encode()).decode()}" if ":" in key else f"Bearer {key}"


def _pages(api_url: str) -> str:
    """Where the pages are that belong to an API."""
    if api_url.startswith(CLOUD_API):
        return CLOUD_UI + api_url.removeprefix(CLOUD_API).replace("/workspaces/", "/workspace/")
    return api_url.rstrip("/").removesuffix("/api")


def _json(answer: Answer) -> Any:
    try:
        return json.loads(answer.content)
    except ValueError:
        raise SourceError(
            f"Prefect's answer to {answer.url.path} is no JSON.", fix="Check backend.api_url: it usually ends in /api."
        ) from None


def _only_row(data: Any) -> Any:
    if isinstance(data, str):
        with_fence = data.strip().removeprefix("```json").removesuffix("```")
        try:
            data = json.loads(with_fence)
        except ValueError:
            return data
    return data[0] if isinstance(data, list) and len(data) == 1 else data
