"""Dagster's GraphQL inside this process, for when there is no webserver.

Runs are started as the webserver would start them: by a code server (a child process) that loads the workspace, so that they have a
remote origin, appear in the UI and can be executed again from there. `Host` keeps that server alive; leave it only when they ended.

``dagster._core`` is imported here and nowhere else, because a workspace cannot be opened, nor its GraphQL schema executed, through
public names; ``dagster_graphql``'s own command line does the same.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.workspace.context import WorkspaceProcessContext  # noqa: TID251
from dagster._core.workspace.load_target import EmptyWorkspaceTarget, WorkspaceFileTarget, WorkspaceLoadTarget  # noqa: TID251

from elt_dagster.errors import ConfigError, TransientError
from elt_dagster.orchestration._quick_storages import quicken
from elt_dagster.orchestration.graphql import ABOUT_DEFINITIONS, data_of

DEFAULT_WORKSPACE_FILE = "workspace.yaml"
STATEMENT_MILLISECONDS = 20_000
SERVER_LOG = "elt_dagster_code_server.log"
"""In DAGSTER_HOME: what code servers and run workers print, which would drown a command's own output."""


class Host:
    """A workspace, opened in this process when something is asked of it. The instance is that of DAGSTER_HOME; runs start at once and
    not through its queue. Questions about runs alone start no code server."""

    def __init__(self, workspace_file: str | None = None) -> None:
        self.instance = home_instance()
        self._workspace_file = workspace_file
        self._without = WorkspaceProcessContext(self.instance, EmptyWorkspaceTarget())
        self._loaded: WorkspaceProcessContext | None = None
        self._loading = threading.Lock()

    def execute(self, document: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Run ``document``; the first one about definitions loads the workspace. Raises ConfigError when that cannot be opened."""
        context = self._workspace() if document in ABOUT_DEFINITIONS else self._loaded or self._without

        async def ask() -> Any:
            request = context.create_request_context()
            return await _schema().execute_async(document, context_value=request, variable_values=dict(variables))

        try:
            result = asyncio.run(ask())
        except dg.DagsterError as error:
            raise TransientError(f"Dagster did not answer: {type(error).__name__}.") from error
        return data_of(result.formatted)

    def _workspace(self) -> WorkspaceProcessContext:
        with self._loading:
            if self._loaded is None:
                self._loaded = self._load(workspace_target(self._workspace_file))
            return self._loaded

    def _load(self, target: WorkspaceLoadTarget) -> WorkspaceProcessContext:
        try:
            with _children_write_to(Path(os.environ["DAGSTER_HOME"], SERVER_LOG)):
                return WorkspaceProcessContext(self.instance, target)
        except (dg.DagsterError, OSError) as error:
            raise ConfigError(f"The workspace cannot be opened: {error}", fix="Check workspace.yaml.") from error

    def annotate(self, run_id: str, tags: Mapping[str, str], message: str) -> bool:
        """Straight into the instance."""
        return _annotate(self.instance, run_id, tags, message)

    def instance_at_hand(self) -> dg.DagsterInstance:
        """The one of DAGSTER_HOME."""
        return self.instance

    def run_url(self, run_id: str) -> str | None:
        """There is no page without a webserver."""
        return None

    def close(self) -> None:
        """Stop the code servers."""
        for context in (self._loaded, self._without):
            if context is not None:
                context.__exit__(None, None, None)
        self.instance.dispose()


@cache
def _schema() -> Any:
    from dagster_graphql.schema import create_schema

    return create_schema()


@contextmanager
def _children_write_to(file: Path) -> Iterator[None]:
    """Let processes started in the body, and their children, print to ``file``. They inherit the descriptors and keep them."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    try:
        with file.open("wb") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            yield
    finally:
        for descriptor, original in zip(kept, (1, 2), strict=True):
            os.dup2(descriptor, original)
            os.close(descriptor)


def home_instance() -> dg.DagsterInstance:
    """The instance of DAGSTER_HOME, without its run queue: nobody may be there to take runs out of it. Raises ConfigError."""
    from dagster._serdes import ConfigurableClassData

    if not os.environ.get("DAGSTER_HOME"):
        raise ConfigError(
            "DAGSTER_HOME is not set, so there is nowhere to keep runs.",
            fix="Set it to an absolute path, such as `export DAGSTER_HOME=$HOME/.dagster`.",
        )
    try:
        ref = dg.DagsterInstance.get().get_ref()
    except dg.DagsterError as error:
        raise ConfigError(f"The Dagster instance cannot be opened: {error}", fix="Check DAGSTER_HOME.") from error
    at_once = ConfigurableClassData("dagster._core.run_coordinator", "DefaultRunCoordinator", "{}\n")
    return _pooled(dg.DagsterInstance.from_ref(ref._replace(run_coordinator_data=at_once)))


def _pooled(instance: dg.DagsterInstance) -> dg.DagsterInstance:
    """``instance`` with connections that are kept, as the webserver has them: without, every query connects to PostgreSQL anew."""
    instance.optimize_for_webserver(statement_timeout=STATEMENT_MILLISECONDS, pool_recycle=3600, max_overflow=20)
    quicken(instance)
    return instance


def workspace_target(workspace_file: str | None) -> WorkspaceLoadTarget:
    """What to load: ``workspace_file``, else what Dagster's own commands find in the current folder. Raises ConfigError."""
    if workspace_file is not None:
        if not Path(workspace_file).is_file():
            raise ConfigError(f"There is no workspace file {workspace_file}.", fix="Correct -w, or leave it away.")
        return WorkspaceFileTarget([workspace_file])
    if Path(DEFAULT_WORKSPACE_FILE).is_file():
        return WorkspaceFileTarget([DEFAULT_WORKSPACE_FILE])
    from dagster._core.workspace.load_target import PyProjectFileTarget, PythonFileTarget  # noqa: TID251

    if Path("pyproject.toml").is_file() and "[tool.dagster]" in Path("pyproject.toml").read_text():
        return PyProjectFileTarget("pyproject.toml")
    if Path("definitions.py").is_file():
        return PythonFileTarget("definitions.py", attribute=None, working_directory=str(Path.cwd()), location_name=None)
    raise ConfigError(
        f"There is no {DEFAULT_WORKSPACE_FILE} in {Path.cwd()}.",
        fix="Go to your Dagster project, name the file with -w, or set ELT_DAGSTER_WEBSERVER_URL.",
    )


def instance_of_webserver(info: str | None) -> dg.DagsterInstance | None:
    """The instance of DAGSTER_HOME, if ``info`` (what a webserver tells of its own) says that it is the same; else None."""
    if not info or not os.environ.get("DAGSTER_HOME"):
        return None
    try:
        instance = dg.DagsterInstance.get()
        return _pooled(instance) if instance.info_str() == info else None
    except dg.DagsterError:
        return None


def annotate_at_home(run_id: str, tags: Mapping[str, str], message: str) -> bool:
    """Write onto a run of the instance at DAGSTER_HOME, if it is there; False if not."""
    if not os.environ.get("DAGSTER_HOME"):
        return False
    try:
        with dg.DagsterInstance.get() as instance:
            return _annotate(instance, run_id, tags, message)
    except dg.DagsterError:
        return False


def _annotate(instance: dg.DagsterInstance, run_id: str, tags: Mapping[str, str], message: str) -> bool:
    run = instance.get_run_by_id(run_id)
    if run is None:
        return False
    instance.add_run_tags(run_id, dict(tags))
    if message:
        instance.report_engine_event(message, run)
    return True
