"""Whether the backend that a sync chose can be used: its settings, its address, its optional dependency. No network."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec

from elt_dagster.control.problems import Path, Problem
from elt_dagster.errors import ConfigError
from elt_dagster.model import BackendSettings, ExecutionBackend, SyncSpec
from elt_dagster.model.secret import resolve

PREFECT_API_URL, PREFECT_API_KEY = "PREFECT_API_URL", "PREFECT_API_KEY"
TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_API_KEY = "TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE", "TEMPORAL_API_KEY"
"""Prefect's and Temporal's own variables stand in for what a sync does not say."""

_NEEDS: Mapping[ExecutionBackend, tuple[tuple[str, str | None], ...]] = {
    ExecutionBackend.NATIVE: (),
    ExecutionBackend.EXTERNAL: (),
    ExecutionBackend.PREFECT: (("api_url", PREFECT_API_URL), ("deployment", None)),
    ExecutionBackend.TEMPORAL: (("address", TEMPORAL_ADDRESS), ("workflow", None), ("task_queue", None)),
}
"""The settings a backend cannot do without, and the variable that may stand in for each."""
_MODULES = {ExecutionBackend.TEMPORAL: "temporalio"}


def setting(settings: BackendSettings, name: str, variable: str, environ: Mapping[str, str]) -> str | None:
    """What the sync says about ``name``, else what the environment does."""
    return getattr(settings, name) or environ.get(variable) or None


def require_backend(sync: SyncSpec, environ: Mapping[str, str]) -> None:
    """Raise ConfigError naming the first thing that the sync's backend lacks."""
    for _, text, fix in _lacking(sync, environ):
        raise ConfigError(text, fix=fix)


def open_key(sync: SyncSpec, variable: str, environ: Mapping[str, str]) -> str | None:
    """The key to the backend's API, if there is one; that of the environment is for the environment's address and no other.

    Raises ConfigError for a reference that leads nowhere.
    """
    reference = sync.backend.api_key
    if reference is None:
        return (environ.get(variable) or None) if _is_of_environment(sync, environ) else None
    return str(resolve(reference, environ, where=f"sync {sync.slug!r}, backend.api_key"))


def _is_of_environment(sync: SyncSpec, environ: Mapping[str, str]) -> bool:
    """Whether the sync goes where the environment says. Whoever may write a sync would else have the environment's key sent to them."""
    for name, variable in _NEEDS[sync.execution_backend]:
        if variable is not None:
            wanted, usual = getattr(sync.backend, name), environ.get(variable) or None
            return wanted is None or (usual is not None and _same(wanted, usual))
    return False


def _same(one: str, other: str) -> bool:
    return one.strip().rstrip("/") == other.strip().rstrip("/")


def check_backend(sync: SyncSpec, path: Path, environ: Mapping[str, str], *, verify: bool) -> list[Problem]:
    """Everything the sync's backend lacks; with ``verify`` also a secret that is not there."""
    problems = [Problem((*path, *at), f"{text} {fix}") for at, text, fix in _lacking(sync, environ)]
    if verify and sync.backend.api_key is not None:
        try:
            open_key(sync, "", environ)
        except ConfigError as error:
            problems.append(Problem((*path, "backend", "api_key"), str(error)))
    return problems


def _lacking(sync: SyncSpec, environ: Mapping[str, str]) -> Iterator[tuple[Path, str, str]]:
    backend = sync.execution_backend
    who = f"sync {sync.slug!r}: execution_backend {backend.value} needs"
    module = _MODULES.get(backend)
    if module is not None and find_spec(module) is None:
        fix = f"Run: pip install 'elt-dagster[{backend.value}]'"
        yield ("execution_backend",), f"{who} the Python module {module!r}, which is not installed.", fix
    for name, variable in _NEEDS[backend]:
        if variable is None and getattr(sync.backend, name) is None:
            yield ("backend",), f"{who} backend.{name}.", "Add it."
        elif variable is not None and setting(sync.backend, name, variable, environ) is None:
            yield (
                ("backend",),
                f"{who} an address: neither backend.{name} nor the environment variable {variable} is set.",
                "Set one of them.",
            )
