"""Where a backend that loads in Dagster's place is, and what it runs there.

One flat model for all backends: the error for a setting of the wrong one then names it, where a union would list every choice.
"""

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from elt_dagster.errors import nearest
from elt_dagster.model.part import MisplacedError, Part
from elt_dagster.model.words import ExecutionBackend

PLACEHOLDERS = (
    "sync", "stream", "connection", "destination", "schema", "table", "load_mode", "run_mode", "run_id", "window_start", "window_end",
)  # fmt: skip
"""What ``{...}`` in a text of `BackendSettings.parameters` may name."""
PLACEHOLDER = re.compile(r"\{(\w+)\}")
DEFAULT_PARAMETERS = {name: f"{{{name}}}" for name in ("sync", "stream", "schema", "table", "run_mode", "run_id")}

Reference = dict[Literal["env", "file"], str]
_BOTH = frozenset({"api_key", "parameters", "poll_seconds", "timeout_seconds", "ui_url"})
SETTINGS_OF = {
    ExecutionBackend.NATIVE: frozenset[str](),
    ExecutionBackend.EXTERNAL: frozenset[str](),
    ExecutionBackend.PREFECT: _BOTH | {"api_url", "deployment"},
    ExecutionBackend.TEMPORAL: _BOTH | {"address", "namespace", "workflow", "task_queue", "tls"},
}
"""The settings each backend takes."""


class BackendSettings(Part):
    """How execution_backend prefect or temporal is reached, and what it runs for each stream."""

    api_url: str | None = Field(default=None, pattern=r"^https?://")
    """prefect: its API, such as `http://127.0.0.1:4200/api`; by default the environment variable `PREFECT_API_URL`."""
    deployment: str | None = Field(default=None, pattern=r"^[^/]+/[^/]+$")
    """prefect: the deployment that loads one stream, as `flow name/deployment name`."""
    address: str | None = Field(default=None, pattern=r"^[^\s/:]+:\d+$|^\[[0-9a-fA-F:]+\]:\d+$")
    """temporal: host and port of its frontend, such as `127.0.0.1:7233`; by default the environment variable `TEMPORAL_ADDRESS`."""
    namespace: str = Field(default="default", min_length=1)
    """temporal: the namespace of the workflows."""
    workflow: str | None = Field(default=None, min_length=1)
    """temporal: the type of the workflow that loads one stream."""
    task_queue: str | None = Field(default=None, min_length=1)
    """temporal: the queue its workers listen to."""
    tls: bool = False
    """temporal: connect with TLS; an api_key always does."""
    api_key: Annotated[Reference, Field(min_length=1, max_length=1)] | None = None
    """A reference, `{env: NAME}` or `{file: PATH}`; a key itself is refused, for syncs are shown to everybody who may see them. prefect: a key of its cloud, or `user:password` of a server of your own."""
    parameters: dict[str, Any] = Field(default_factory=lambda: dict(DEFAULT_PARAMETERS))
    """What the flow or workflow is given. `{sync}`, `{stream}`, `{connection}`, `{destination}`, `{schema}`, `{table}`, `{load_mode}`, `{run_mode}`, `{run_id}`, `{window_start}` and `{window_end}` in a text are filled in."""
    poll_seconds: float = Field(default=5.0, ge=0.1, le=300)
    """Wait between two looks at what it does."""
    timeout_seconds: float = Field(default=86_400.0, ge=1)
    """A flow run or workflow that has not ended by then is cancelled, and tried again as `execution` says."""
    ui_url: str | None = Field(default=None, pattern=r"^https?://")
    """Where its pages are, for links; by default next to `api_url` for prefect, and no links for temporal."""

    @field_validator("api_url", "ui_url")
    @classmethod
    def _no_credentials(cls, value: str | None) -> str | None:
        # it becomes part of links and messages
        if value is not None and ("@" in urlsplit(value).netloc or urlsplit(value).query):
            raise ValueError("an address here has no user, password or query; put the key into api_key")
        return value.rstrip("/") if value is not None else None

    @field_validator("parameters")
    @classmethod
    def _known_placeholders(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key, part in value.items():
            for name in PLACEHOLDER.findall(str(part)):
                if name not in PLACEHOLDERS:
                    text = f"{{{name}}} stands for nothing. {nearest(name, PLACEHOLDERS)}"
                    raise MisplacedError((key,), text)
        return value


def misplaced(backend: ExecutionBackend, settings: BackendSettings) -> tuple[str, str] | None:
    """The first setting that ``backend`` does not take, and what is to be said about it."""
    # not by what was set: a stored sync has every field in it
    usual = BackendSettings()
    given = {name for name in BackendSettings.model_fields if getattr(settings, name) != getattr(usual, name)}
    wrong = sorted(given - SETTINGS_OF[backend])
    if not wrong:
        return None
    takes = [b.value for b, names in SETTINGS_OF.items() if wrong[0] in names]
    return wrong[0], f"{wrong[0]} is for execution_backend {' or '.join(takes)}, and this sync's is {backend.value}"


def filled(parameters: Any, values: "dict[str, str | None]") -> Any:
    """``parameters`` with its placeholders replaced; one alone becomes its value, which is None where there is none."""
    if isinstance(parameters, str):
        if (alone := PLACEHOLDER.fullmatch(parameters)) is not None:
            return values[alone[1]]
        return PLACEHOLDER.sub(lambda found: values[found[1]] or "", parameters)
    if isinstance(parameters, dict):
        return {key: filled(value, values) for key, value in parameters.items()}
    return [filled(value, values) for value in parameters] if isinstance(parameters, list) else parameters
