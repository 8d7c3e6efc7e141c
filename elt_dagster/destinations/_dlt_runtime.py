"""dlt inside our process and nowhere else: its own settings, folder, log and telemetry are replaced by ours while we work with it.

dlt keeps these in one "run context" per process. Ours has no configuration files and no environment (what a sync needs is in its connection), writes
below the working directory only, sends nothing home and logs nothing: its messages carry SQL and values. Somebody else's use of dlt in the
same process (dagster-dlt assets) finds its own context again as soon as the last of ours is done.
https://dlthub.com/docs/general-usage/credentials/advanced
"""

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from elt_dagster.errors import ConfigError

_SETTINGS: dict[str, Any] = {
    "runtime": {"dlthub_telemetry": False, "log_level": "CRITICAL", "intercept_signals": False},
    "providers": {"enable_airflow_secrets": False},
    # Each load has a folder of its own, so there is no pipeline to restore; and a trace would hold what was loaded.
    "restore_from_destination": False,
    "enable_runtime_trace": False,
    # Its naming convention that changes nothing but quotes and line ends; `_dlt_names` refuses what would be changed.
    "schema": {"naming": "direct"},
    "normalize": {"workers": 1},
    "load": {"workers": 4, "raise_on_failed_jobs": True, "raise_on_max_retries": 3, "truncate_staging_dataset": True},
}


@dataclass
class _Occupied:
    """How many of ours are in dlt at this moment, and whose context comes back after the last."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0
    before: Any = None


_occupied = _Occupied()


@contextlib.contextmanager
def ours(folder: Path) -> Iterator[None]:
    """While inside, dlt's run context is ours; ``folder`` is where it may write. Threads share the one of the first."""
    _enter(folder)
    try:
        yield
    finally:
        _leave()


def _enter(folder: Path) -> None:
    require_dlt()
    from dlt.common import logger
    from dlt.common.configuration.container import Container
    from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

    with _occupied.lock:
        _occupied.users += 1
        if _occupied.users > 1:
            return
        container = Container()
        if PluggableRunContext in container:  # asking for it would make one
            _occupied.before = container[PluggableRunContext]
        container[PluggableRunContext] = PluggableRunContext(_run_context(folder))
        logger.LOGGER = _silent()
        warnings.filterwarnings("ignore", "Arrow output on a DB-API result")  # of DuckDB about dlt, at every read


def _leave() -> None:
    from dlt.common import logger
    from dlt.common.configuration.container import Container
    from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

    with _occupied.lock:
        _occupied.users -= 1
        if _occupied.users:
            return
        if _occupied.before is not None:
            Container()[PluggableRunContext] = _occupied.before  # also sets up its logger again
        else:
            del Container()[PluggableRunContext]
            logger.LOGGER = None  # type: ignore[assignment] # what dlt itself starts with
        _occupied.before = None


@cache
def _silent() -> logging.Logger:
    silent = logging.Logger("elt_dagster.dlt", level=logging.CRITICAL + 1)
    silent.addHandler(logging.NullHandler())
    return silent


def _run_context(folder: Path) -> Any:
    from dlt.common.configuration.providers import CustomLoaderDocProvider
    from dlt.common.configuration.specs.runtime_configuration import RuntimeConfiguration
    from dlt.common.runtime.run_context import RunContext

    class OurContext(RunContext):
        def initial_providers(self) -> list[Any]:
            return [CustomLoaderDocProvider("elt_dagster", lambda: _SETTINGS, supports_secrets=False)]

        def initialize_runtime(self, runtime_config: Any = None) -> None:
            # Not the inherited one, which begins telemetry and a logger of its own.
            self._runtime_config = RuntimeConfiguration(dlthub_telemetry=False, log_level="CRITICAL")

    context = OurContext(str(folder))
    context._global_dir = str(folder)  # made to be set: "allow to set global dir on an instance"
    return context


def library() -> Any:
    """The module dlt, unknown to type checkers: it is optional, and what it takes are dictionaries."""
    import dlt

    return dlt


def require_dlt() -> None:
    """Raise ConfigError with the command to run when dlt is not installed."""
    from importlib.util import find_spec

    if find_spec("dlt") is None:
        raise ConfigError("The destination dlt needs the Python module 'dlt', which is not installed.",
                          fix="Run: pip install 'elt-dagster[dlt]'")  # fmt: skip
