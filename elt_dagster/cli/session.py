"""What every command gets: where the store is, which workspace, and whether the answer is for a program or a person.

Answers go to stdout, everything else to stderr; with ``--json`` stdout holds one JSON document and nothing else.
"""

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from elt_dagster.cli.desk import Desk
    from elt_dagster.client import Client
    from elt_dagster.control.runs import Runs
    from elt_dagster.control.workspace import Workspace
    from elt_dagster.store import Store

F = TypeVar("F", bound=Callable[..., Any])
STORE_VARIABLE = "ELT_DAGSTER_STORE"
WEBSERVER_VARIABLE = "ELT_DAGSTER_WEBSERVER_URL"
URL_VARIABLE = "ELT_DAGSTER_URL"
KEY_VARIABLE = "ELT_DAGSTER_API_KEY"
WIDE = 1000
"""Columns of output that is no terminal: a table in a pipe is for `grep`, and must not be cut."""


@dataclass(frozen=True)
class Session:
    """One call of the command line."""

    store_url: str | None
    workspace_name: str
    as_json: bool
    url: str | None = None
    """The server to talk to instead of the store."""
    api_key: str | None = None

    @cached_property
    def out(self) -> "Console":
        """Where answers for people go."""
        return _console(stderr=False)

    @cached_property
    def err(self) -> "Console":
        """Where messages go."""
        return _console(stderr=True)

    @cached_property
    def store(self) -> "Store":
        """The store, not yet connected."""
        from elt_dagster.store import open_store

        return open_store(self.store_url)

    @cached_property
    def workspace(self) -> "Workspace":
        """The use cases on the workspace that was asked for."""
        from elt_dagster.control.workspace import Workspace

        return Workspace(store=self.store, name=self.workspace_name)

    @cached_property
    def client(self) -> "Client":
        """The server that was named. Raises ConfigError when there is no key for it."""
        from elt_dagster.client import Client
        from elt_dagster.errors import ConfigError

        if not self.api_key:
            raise ConfigError(f"{self.url} needs an API key.", fix=f"Set {KEY_VARIABLE}, or give --api-key.")
        return Client(self.url or "", self.api_key)

    def desk(self, workspace_file: str | None = None) -> "Desk":
        """Connections, syncs and streams: of the server that was named, else of the store."""
        from elt_dagster.cli.local import LocalDesk
        from elt_dagster.cli.remote import RemoteDesk

        return RemoteDesk(self.client) if self.url else LocalDesk(self, workspace_file)

    def stream_names(self, slug: str) -> list[str]:
        """The streams of a sync. Raises NotFoundError with the nearest slug."""
        from elt_dagster.cli.desk import find_sync

        if self.url:
            return list(find_sync(self.desk(), slug).streams)
        return [binding.name for binding in self.workspace.configured(slug).spec.streams]

    @contextmanager
    def runs(self, workspace_file: str | None = None, *, fresh_seconds: float = 0.0) -> "Iterator[Runs]":
        """The runs of the server that was named, else of the configured Dagster, with its code loaded so that syncs can be launched."""
        if self.url:
            from elt_dagster.cli.remote import RemoteRuns

            yield cast("Runs", RemoteRuns(self.client))
            return
        from elt_dagster.orchestration.runs import open_runs

        self._name_store()
        with stdout_as_stderr(), open_runs(workspace_file=workspace_file, fresh_seconds=fresh_seconds) as runs:
            yield runs

    @contextmanager
    def past_runs(self) -> "Iterator[Runs]":
        """The runs of the configured Dagster, to look at and to cancel: no code is loaded, which takes time with many syncs."""
        if self.url or os.environ.get(WEBSERVER_VARIABLE):
            with self.runs() as runs:
                yield runs
            return
        with TemporaryDirectory(prefix="elt-dagster-") as folder:
            nothing = Path(folder) / "workspace.yaml"
            nothing.write_text("load_from: []\n")
            with self.runs(str(nothing)) as runs:
                yield runs

    def _name_store(self) -> None:
        """A run is executed by other processes, which find the store through their environment."""
        if self.store_url:
            os.environ[STORE_VARIABLE] = self.store_url

    def answer(self, data: Any, *shown: "RenderableType") -> None:
        """The result of a command: ``data`` with ``--json``, else what is ``shown``."""
        if self.as_json:
            click.echo(json.dumps(data, indent=2, default=_json_value, ensure_ascii=False))
            return
        for part in filter(None, shown):
            self.out.print(part, soft_wrap=isinstance(part, str))

    def say(self, message: str, style: str | None = None) -> None:
        """A message beside the answer."""
        self.err.print(message, style=style, soft_wrap=True)


@contextmanager
def stdout_as_stderr() -> Iterator[None]:
    """While Dagster is open its processes inherit our stdout and log to it; an answer must not have that in between."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


workspace_option = click.option(
    "-w",
    "workspace_file",
    metavar="FILE",
    help="Dagster's workspace.yaml; default the webserver at $ELT_DAGSTER_WEBSERVER_URL, else the file in this folder.",
)
"""Where the definitions are that a command launches runs of."""


def command(function: F) -> F:
    """Give a command ``--store``, ``--workspace`` and ``--json``, and call it with a `Session` first."""

    @functools.wraps(function)
    def call(*args: Any, store_url: str | None, workspace_name: str, as_json: bool, **kwargs: Any) -> Any:
        return function(Session(store_url, workspace_name, as_json), *args, **kwargs)

    return cast("F", _with_options(call, _OPTIONS))  # same call, other parameters


def steering(function: F) -> F:
    """As `command`, for one that can also talk to a server: it gets ``--url`` and ``--api-key`` as well."""

    @functools.wraps(function)
    def call(
        *args: Any,
        store_url: str | None,
        workspace_name: str,
        as_json: bool,
        url: str | None,
        api_key: str | None,
        **kwargs: Any,
    ) -> Any:
        return function(Session(store_url, workspace_name, as_json, url, api_key), *args, **kwargs)

    return cast("F", _with_options(call, (*_SERVER_OPTIONS, *_OPTIONS)))


_OPTIONS = (
    click.option("--json", "as_json", is_flag=True, help="Answer with one JSON document on stdout."),
    click.option("--workspace", "workspace_name", default="default", show_default=True, help="Workspace of the store."),
    click.option(
        "--store", "store_url", metavar="URL", help=f"SQLAlchemy URL of the store; default ${STORE_VARIABLE}."
    ),
)
_SERVER_OPTIONS = (
    click.option(
        "--api-key", metavar="KEY", envvar=KEY_VARIABLE, help=f"Its key, which says the workspace; default ${KEY_VARIABLE}."
    ),
    click.option(
        "--url", metavar="URL", envvar=URL_VARIABLE, help=f"Talk to this `elt-dagster serve`, not to a store; default ${URL_VARIABLE}."
    ),
)  # fmt: skip


def _with_options(call: Any, options: Sequence[Callable[[Any], Any]]) -> Any:
    for option in options:
        call = option(call)
    return call


def _console(*, stderr: bool) -> "Console":
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    # No markup: what we print comes from sources and files, where [brackets] mean themselves.
    width = None if stream.isatty() else WIDE
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=width)


def _json_value(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else str(value)
