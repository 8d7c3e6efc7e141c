"""Dagster's GraphQL over HTTP, from a webserver that runs. Apart, for an HTTP client takes its time to import and few processes have need of one."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import dagster as dg
import httpx

from elt_dagster.errors import ConfigError, TransientError
from elt_dagster.orchestration.graphql import INSTANCE, TIMEOUT_SECONDS, data_of


class HttpTransport:
    """Talks to a running ``dagster-webserver``."""

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        self._url = url.rstrip("/")
        self._client = httpx.Client(timeout=TIMEOUT_SECONDS, transport=transport)

    def execute(self, document: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """POST to ``/graphql``."""
        try:
            response = self._client.post(f"{self._url}/graphql", json={"query": document, "variables": dict(variables)})
        except httpx.HTTPError as error:
            raise TransientError(
                f"The Dagster webserver at {self._shown()} cannot be reached ({type(error).__name__}).",
                fix="Start it with `dagster dev`, or unset ELT_DAGSTER_WEBSERVER_URL to run without one.",
            ) from None
        if response.status_code >= 500:
            raise TransientError(f"The Dagster webserver at {self._shown()} answered {response.status_code}.")
        try:
            answer = response.json()
        except ValueError:
            raise ConfigError(
                f"{self._shown()} answered {response.status_code} and no JSON to a GraphQL query.",
                fix="Point ELT_DAGSTER_WEBSERVER_URL at a Dagster webserver.",
            ) from None
        return data_of(answer)

    def annotate(self, run_id: str, tags: Mapping[str, str], message: str) -> bool:
        """Through DAGSTER_HOME, when it is that of the same deployment."""
        from elt_dagster.orchestration.hosting import annotate_at_home

        return annotate_at_home(run_id, tags, message)

    @cached_property
    def _instance(self) -> dg.DagsterInstance | None:
        from elt_dagster.orchestration.hosting import instance_of_webserver

        info = self.execute(INSTANCE, {})["instance"].get("info")
        return instance_of_webserver(info)

    def instance_at_hand(self) -> dg.DagsterInstance | None:
        """That of DAGSTER_HOME, when it is the webserver's own."""
        return self._instance

    def run_url(self, run_id: str) -> str | None:
        """The run's page."""
        return f"{self._url}/runs/{run_id}"

    def close(self) -> None:
        """Close the connection pool."""
        self._client.close()

    def _shown(self) -> str:
        url = httpx.URL(self._url)
        return f"{url.scheme}://{url.host}" + (f":{url.port}" if url.port else "")
