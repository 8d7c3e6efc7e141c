"""Temporal through its own client, which is imported when a step needs it and not before.

The client is asynchronous and a step is not, so every call runs to its end on an event loop that belongs to the step.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from elt_dagster.control.backends import TEMPORAL_ADDRESS, TEMPORAL_API_KEY, TEMPORAL_NAMESPACE, open_key, setting
from elt_dagster.errors import AuthError, ConfigError, NotFoundError, SourceError, TransientError
from elt_dagster.model import SyncSpec
from elt_dagster.orchestration._backend_follow import Phase, Sight
from elt_dagster.sdk.connector import Runtime

T = TypeVar("T")
CALL_SECONDS = 30
_PHASES = {
    "RUNNING": Phase.RUNNING,
    "PAUSED": Phase.WAITING,
    "CONTINUED_AS_NEW": Phase.RUNNING,
    "COMPLETED": Phase.COMPLETED,
    "FAILED": Phase.FAILED,
    "TIMED_OUT": Phase.LOST,
    "CANCELED": Phase.CANCELLED,
    "TERMINATED": Phase.CANCELLED,
}
_REFUSED = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})
_WRONG = frozenset({"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"})


async def connect(address: str, namespace: str, api_key: str | None, tls: bool) -> Any:
    """Temporal's client. A key is never sent without TLS."""
    from temporalio.client import Client

    return await Client.connect(
        address,
        namespace=namespace,
        api_key=api_key,
        tls=tls or api_key is not None,
        connect_timeout=timedelta(seconds=CALL_SECONDS),
    )


class TemporalBackend:
    """Workflows of one type."""

    title = "Temporal"
    what = "workflow"

    def __init__(self, sync: SyncSpec, runtime: Runtime, connect: Callable[..., Awaitable[Any]] = connect) -> None:
        """Raises ConfigError when something is missing, TransientError when Temporal cannot be reached."""
        settings, environ = sync.backend, runtime.environ
        address = setting(settings, "address", TEMPORAL_ADDRESS, environ)
        if address is None or settings.workflow is None or settings.task_queue is None:
            raise ConfigError(f"Sync {sync.slug!r} does not say which Temporal workflow loads it.", fix="Set backend.")
        self._settings, self._address = settings, address
        chosen = settings.namespace if settings.namespace != "default" else environ.get(TEMPORAL_NAMESPACE)
        self._namespace = chosen or settings.namespace
        key = open_key(sync, TEMPORAL_API_KEY, environ)
        self._runner = asyncio.Runner()
        try:
            self._client = self._call(connect(address, self._namespace, key, settings.tls))
        except BaseException:
            self._runner.close()
            raise

    def begin(self, key: str, name: str, parameters: Mapping[str, Any]) -> Sight:
        """See `Backend.begin`: an id that exists is not started again, whether it runs or has ended."""
        from temporalio.common import WorkflowIDReusePolicy
        from temporalio.exceptions import WorkflowAlreadyStartedError

        async def start() -> None:
            try:
                await self._client.start_workflow(
                    self._settings.workflow,
                    dict(parameters),
                    id=key,
                    task_queue=self._settings.task_queue,
                    id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                    # one that nobody follows any more ends by itself
                    execution_timeout=timedelta(seconds=2 * self._settings.timeout_seconds),
                )
            except WorkflowAlreadyStartedError:
                return

        self._call(start())
        return self.look(key)

    def look(self, reference: str) -> Sight:
        """See `Backend.look`; a workflow that went on as a new one is followed there."""
        found = self._call(self._client.get_workflow_handle(reference).describe())
        status = found.status.name if found.status is not None else "RUNNING"
        if status not in _PHASES:
            raise SourceError(f"Temporal says that workflow {reference} is {status}, which is no status we know.")
        signs = [_activity_sign(activity) for activity in found.raw_description.pending_activities]
        known = [sign for sign in (found.start_time, found.close_time, *signs) if sign is not None]
        return Sight(
            phase=_PHASES[status],
            status=status,
            reference=reference,
            url=self._url(reference, found.run_id),
            heartbeat=max(known, default=None),
        )

    def cancel(self, reference: str) -> None:
        """See `Backend.cancel`."""
        self._call(self._client.get_workflow_handle(reference).cancel())

    def result(self, reference: str) -> Any:
        """What the workflow returned."""
        return self._call(self._client.get_workflow_handle(reference).result())

    def close(self) -> None:
        """See `Backend.close`."""
        self._runner.close()

    def _url(self, reference: str, run_id: str | None) -> str | None:
        if self._settings.ui_url is None:
            return None
        return f"{self._settings.ui_url}/namespaces/{self._namespace}/workflows/{reference}/{run_id or ''}".rstrip("/")

    def _call(self, work: Awaitable[T]) -> T:
        """Run ``work`` to its end; whatever Temporal raises becomes one of ours, without its text, which may quote the input."""
        from temporalio.service import RPCError

        async def within() -> T:
            return await asyncio.wait_for(work, CALL_SECONDS)

        try:
            return self._runner.run(within())
        except RPCError as error:
            raise self._translated(error.status.name) from None
        except (RuntimeError, OSError, TimeoutError) as error:  # what its core raises when there is no connection
            raise TransientError(
                f"Temporal could not be reached at {self._address} ({type(error).__name__}).",
                fix="Check backend.address and the network.",
            ) from None

    def _translated(self, status: str) -> Exception:
        what = f"Temporal at {self._address} answered {status} in namespace {self._namespace!r}."
        if status in _REFUSED:
            return AuthError(what, fix="Check backend.api_key and its permissions.")
        if status == "NOT_FOUND":
            return NotFoundError(what, fix="Check backend.namespace.")
        if status in _WRONG:
            return ConfigError(what, fix="Check the settings under backend.")
        return TransientError(what, fix="Try again later.")


def _activity_sign(activity: Any) -> datetime | None:
    """The last heartbeat of an activity that sends any."""
    if not activity.HasField("last_heartbeat_time"):
        return None
    sign: datetime = activity.last_heartbeat_time.ToDatetime(tzinfo=UTC)
    return sign
