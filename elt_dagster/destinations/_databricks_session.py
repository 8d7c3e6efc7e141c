"""Talking to one workspace through databricks-sdk: statements, staged files, result chunks. The SDK is imported when the first is needed.

A statement is waited for by asking again, and cancelled when the wait ends early, whatever ends it. Result links carry their own credential and
never get ours. https://docs.databricks.com/api/workspace/statementexecution
"""

import contextlib
import io
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx
import pyarrow as pa

from elt_dagster.destinations._databricks_errors import StatementFailedError
from elt_dagster.destinations._databricks_settings import DatabricksConfig
from elt_dagster.errors import ConfigError, DestinationError, TransientError
from elt_dagster.sdk.connector import Runtime

_FIRST_WAIT = 30
_LONGEST_PAUSE = 5.0
_LINK_ATTEMPTS = 3
_EXPIRED = (401, 403, 404, 410)
_CLI_CLIENT = "databricks-cli"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value for a ``:name`` in a statement; ``value`` is its text and ``kind`` the SQL type that text is read as."""

    name: str
    value: str
    kind: str


@dataclass(slots=True)
class Session:
    """One workspace and warehouse. Making one does no I/O; safe to share between threads."""

    config: DatabricksConfig
    runtime: Runtime
    is_idempotent: bool = False
    """Whether loads are committed by claim: because it was asked for, or because the warehouse refused a transaction."""
    _client: Any = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, sql: str) -> None:
        """Execute a statement whose rows nobody needs. Raises StatementFailedError when it is refused."""
        self._finished(sql, (), external=False)

    def rows(self, sql: str) -> list[list[Any]]:
        """The rows of a small result, every value as text or None."""
        response = self._finished(sql, (), external=False)
        found: list[list[Any]] = []
        result = response.result
        while result is not None:
            found += result.data_array or []
            if result.next_chunk_index is None:
                break
            result = self._api.get_statement_result_chunk_n(response.statement_id, result.next_chunk_index)
        return found

    def number(self, sql: str) -> int:
        """The one number a query gives."""
        return int(self.rows(sql)[0][0])

    def batches(self, sql: str, parameters: Sequence[Parameter] = ()) -> Iterator[pa.RecordBatch]:
        """The rows of a result of any size as Arrow: it is computed now, and fetched chunk by chunk as the iterator is read."""
        response = self._finished(sql, parameters, external=True)
        return self._chunks(response.statement_id, response.result)

    # --- staged files

    def upload(self, path: str, data: bytes) -> None:
        """Write one file below ``/Volumes``."""
        self._workspace.files.upload(path, io.BytesIO(data), overwrite=True)

    def make_folder(self, path: str) -> None:
        """Make a folder below ``/Volumes`` with all above it; the volume has to exist."""
        self._workspace.files.create_directory(path)

    def remove_folder(self, path: str) -> None:
        """Remove a folder below ``/Volumes`` with all in it. Does nothing when it is not there."""
        from databricks.sdk.errors import NotFound

        with contextlib.suppress(NotFound):
            for entry in list(self._workspace.files.list_directory_contents(path)):
                if entry.is_directory:
                    self.remove_folder(entry.path)
                else:
                    self._workspace.files.delete(entry.path)
            self._workspace.files.delete_directory(path)

    def folders(self, path: str) -> list[str]:
        """The names of the folders in ``path``; none when it is not there."""
        from databricks.sdk.errors import NotFound

        try:
            return [e.name for e in self._workspace.files.list_directory_contents(path) if e.is_directory]
        except NotFound:
            return []

    # --- statements

    def _finished(self, sql: str, parameters: Sequence[Parameter], *, external: bool) -> Any:
        from databricks.sdk.service import sql as api

        response = self._api.execute_statement(
            sql,
            self.config.warehouse_id,
            parameters=[api.StatementParameterListItem(p.name, p.kind, p.value) for p in parameters] or None,
            disposition=api.Disposition.EXTERNAL_LINKS if external else api.Disposition.INLINE,
            format=api.Format.ARROW_STREAM if external else api.Format.JSON_ARRAY,
            wait_timeout=f"{_FIRST_WAIT}s",
            on_wait_timeout=api.ExecuteStatementRequestOnWaitTimeout.CONTINUE,
        )
        try:
            response = self._awaited(response)
        except BaseException:
            with contextlib.suppress(Exception):
                self._api.cancel_execution(response.statement_id)
            raise
        return _succeeded(response)

    def _awaited(self, response: Any) -> Any:
        waited, running, pause, told = float(_FIRST_WAIT), 0.0, 0.2, False
        while (state := response.status.state.value) in ("PENDING", "RUNNING"):
            limit = self.config.statement_timeout_seconds
            if state == "RUNNING" and limit and running >= limit:
                raise DestinationError(
                    f"A statement ran for more than {limit:g} seconds and was cancelled.",
                    fix="Raise statement_timeout_seconds, or use a larger SQL warehouse.",
                )
            if state == "PENDING":
                if not told:
                    self.runtime.log.info("%s; waiting for it.", self._warehouse_in_words())
                    told = True
                if waited >= self.config.startup_timeout_seconds:
                    raise TransientError(
                        f"{self._warehouse_in_words()} and took no statement for {waited:.0f} seconds.",
                        fix="Start the warehouse, or raise startup_timeout_seconds; it is tried again.",
                        retry_after=60.0,
                    )
            self.runtime.sleep(pause)
            waited, running, pause = (
                waited + pause,
                running + pause * (state == "RUNNING"),
                min(pause * 1.5, _LONGEST_PAUSE),
            )
            response = self._api.get_statement(response.statement_id)
        return response

    def _warehouse_in_words(self) -> str:
        state = "unknown"
        with contextlib.suppress(Exception):  # a right that is missing here must not hide the state of the statement
            state = str(self._workspace.warehouses.get(self.config.warehouse_id).state.value).lower()
        what = "has a full queue" if state == "running" else f"is {state}"
        return f"The SQL warehouse {self.config.warehouse_id} {what}"

    # --- results

    def _chunks(self, statement: str, result: Any) -> Iterator[pa.RecordBatch]:
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs whole links, with their credential
        with httpx.Client(transport=self.runtime.transport, timeout=120) as http:
            while result is not None and result.external_links:
                (link, *_) = result.external_links
                data = self._chunk(http, statement, link)
                yield from pa.ipc.open_stream(data)
                if link.next_chunk_index is None:
                    return
                result = self._api.get_statement_result_chunk_n(statement, link.next_chunk_index)

    def _chunk(self, http: httpx.Client, statement: str, link: Any) -> bytes:
        for attempt in range(_LINK_ATTEMPTS):
            if attempt:
                self.runtime.sleep(float(attempt))
                # a link lives for minutes only, and a reader may be slow: a new one costs nothing
                link = self._api.get_statement_result_chunk_n(statement, link.chunk_index).external_links[0]
            if not link.external_link.startswith(("https://", "http://127.0.0.1")):
                raise DestinationError("Databricks gave a result link that is not https.", fix="Tell its support.")
            try:
                answer = http.get(link.external_link, headers=link.http_headers or {})
            except httpx.HTTPError:
                continue
            if answer.status_code == httpx.codes.OK:
                return answer.content
            if answer.status_code not in _EXPIRED and answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                break
        raise TransientError(
            "A part of a result could not be fetched from the workspace's storage.",
            fix="Check that this machine may reach the storage of the workspace (a firewall?); it is tried again.",
        )

    # --- the SDK

    @property
    def _api(self) -> Any:
        return self._workspace.statement_execution

    @property
    def _workspace(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = _connected(self.config, self.runtime)
            return self._client


def _succeeded(response: Any) -> Any:
    status = response.status
    if status.state.value == "SUCCEEDED":
        return response
    if status.error is not None:
        code = status.error.error_code.value if status.error.error_code else "UNKNOWN"
        raise StatementFailedError(code, status.error.message or "")
    raise TransientError(
        "A statement was cancelled in the SQL warehouse, by a person or by its limits.", fix="It is tried again."
    )


def _connected(config: DatabricksConfig, runtime: Runtime) -> Any:
    try:
        from databricks import sdk
        from databricks.sdk.config import Config
    except ImportError:
        raise ConfigError(
            "The Databricks warehouse needs the package databricks-sdk.",
            fix="Run: pip install 'elt-dagster[databricks]'",
        ) from None
    logging.getLogger("databricks.sdk").setLevel(logging.WARNING)  # at DEBUG it prints statements
    limits = {"retry_timeout_seconds": int(runtime.max_wait_seconds), "http_timeout_seconds": 120}
    given: dict[str, Any] = {"host": config.host, "product": "elt-dagster", "product_version": "0", **limits}
    if config.token is not None:
        given |= {"auth_type": "pat", "token": config.token.get_secret_value()}
    elif config.client_secret is not None:
        secret = config.client_secret.get_secret_value()
        given |= {"auth_type": "oauth-m2m", "client_id": config.client_id, "client_secret": secret}
    elif config.refresh_token is not None:
        given |= {"credentials_strategy": _refreshing(config)}
    else:
        given |= {"profile": config.profile}
    return sdk.WorkspaceClient(config=Config(clock=_clock(runtime), **given))


def _refreshing(config: DatabricksConfig) -> Any:
    """A person's access, kept alive with the refresh token."""
    from databricks.sdk.oauth import SessionCredentials, Token

    secret = config.refresh_token.get_secret_value() if config.refresh_token is not None else ""
    stale = Token("", "Bearer", secret, datetime.now() - timedelta(days=1))
    return SessionCredentials(stale, f"{config.host}/oidc/v1/token", config.client_id or _CLI_CLIENT)


def _clock(runtime: Runtime) -> Any:
    """The SDK's pauses between tries, on our own sleep; a pause too long for a worker becomes a TransientError."""
    from databricks.sdk.clock import Clock

    class RuntimeClock(Clock):
        slept = 0.0
        started = time.monotonic()

        def time(self) -> float:
            return max(self.slept, time.monotonic() - self.started)

        def sleep(self, seconds: float) -> None:
            if seconds > runtime.max_wait_seconds:
                raise TransientError(
                    "Databricks is too busy and asks to wait.",
                    fix="It is tried again.",
                    retry_after=float(int(seconds)),
                )
            self.slept += seconds
            runtime.sleep(seconds)

    return RuntimeClock()
