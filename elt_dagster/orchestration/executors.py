"""Which Dagster executor runs a sync. Celery and Kubernetes come in packages of their own, imported only by a sync that asks for them."""

import importlib
import os
import sys
from typing import Any

import dagster as dg

from elt_dagster.errors import ConfigError
from elt_dagster.model import ExecutionMode, ExecutorChoice, SyncSpec
from elt_dagster.orchestration.executor import threaded_executor

CELERY_BROKER, CELERY_BACKEND = "ELT_DAGSTER_CELERY_BROKER", "ELT_DAGSTER_CELERY_BACKEND"
"""Variables with the URLs of Celery's broker and result backend; what is not set keeps dagster-celery's default."""
_PRELOADED = ["elt_dagster.orchestration.definitions", "duckdb"]


def build_executor(spec: SyncSpec) -> dg.ExecutorDefinition:
    """The executor of ``spec``. Raises ConfigError when its package is not installed."""
    if spec.execution_mode is ExecutionMode.SEQUENTIAL:
        return dg.in_process_executor
    at_once = {"max_concurrent": spec.execution.max_concurrent}
    match spec.execution.executor:
        case ExecutorChoice.THREADS:
            return threaded_executor.configured(at_once)
        case ExecutorChoice.MULTIPROCESS:
            return dg.multiprocess_executor.configured({**at_once, **_start_method()})
        case ExecutorChoice.K8S:
            return _imported(spec, "dagster_k8s", "k8s_job_executor").configured(at_once)
        case ExecutorChoice.CELERY:
            # How many steps run at once is for its workers to say.
            return _imported(spec, "dagster_celery", "celery_executor").configured(_celery())


def _start_method() -> dict[str, Any]:
    if sys.platform == "win32":
        return {}
    # Measured: importing once and forking halves the time of twenty small steps.
    return {"start_method": {"forkserver": {"preload_modules": _PRELOADED}}}


def _celery() -> dict[str, Any]:
    # By reference: a broker's URL may hold a password, and configuration is shown in the UI.
    urls = {"broker": CELERY_BROKER, "backend": CELERY_BACKEND}
    return {setting: {"env": variable} for setting, variable in urls.items() if os.environ.get(variable)}


def _imported(spec: SyncSpec, module: str, name: str) -> dg.ExecutorDefinition:
    package = module.replace("_", "-")
    try:
        definition: dg.ExecutorDefinition = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ConfigError(
            f"Sync {spec.slug!r} runs on {spec.execution.executor.value}, which needs {package}: {error}.",
            fix=f"Run pip install {package}, or choose execution.executor: threads.",
        ) from None
    return definition
