"""What every command gets: where the store is, which workspace, and whether the answer is for a program or a person.

Answers go to stdout, everything else to stderr; with ``--json`` stdout holds one JSON document and nothing else.
"""

import functools
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from elt_dagster.control.runs import Runs
    from elt_dagster.control.workspace import Workspace
    from elt_dagster.store import Store

F = TypeVar("F", bound=Callable[..., Any])
STORE_VARIABLE = "ELT_DAGSTER_STORE"
WIDE = 1000
"""Columns of output that is no terminal: a table in a pipe is for `grep`, and must not be cut."""


@dataclass(frozen=True)
class Session:
    """One call of the command line."""

    store_url: str | None
    workspace_name: str
    as_json: bool

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

        if self.store_url:
            # a run is executed by other processes; they find the store through their environment
            os.environ[STORE_VARIABLE] = self.store_url
        return open_store(self.store_url)

    @cached_property
    def workspace(self) -> "Workspace":
        """The use cases on the workspace that was asked for."""
        from elt_dagster.control.workspace import Workspace

        return Workspace(store=self.store, name=self.workspace_name)

    def runs(self, workspace_file: str | None) -> "Runs":
        """The runs of the configured Dagster."""
        from elt_dagster.orchestration.runs import open_runs

        return open_runs(workspace_file=workspace_file)

    def answer(self, data: Any, *shown: "RenderableType") -> None:
        """The result of a command: ``data`` with ``--json``, else what is ``shown``."""
        if self.as_json:
            click.echo(json.dumps(data, indent=2, default=_json_value, ensure_ascii=False))
            return
        for part in shown:
            self.out.print(part, soft_wrap=isinstance(part, str))

    def say(self, message: str, style: str | None = None) -> None:
        """A message beside the answer."""
        self.err.print(message, style=style, soft_wrap=True)


def command(function: F) -> F:
    """Give a command ``--store``, ``--workspace`` and ``--json``, and call it with a `Session` first."""

    @functools.wraps(function)
    def call(*args: Any, store_url: str | None, workspace_name: str, as_json: bool, **kwargs: Any) -> Any:
        return function(Session(store_url, workspace_name, as_json), *args, **kwargs)

    for option in (
        click.option("--json", "as_json", is_flag=True, help="Answer with one JSON document on stdout."),
        click.option(
            "--workspace", "workspace_name", default="default", show_default=True, help="Workspace of the store."
        ),
        click.option(
            "--store", "store_url", metavar="URL", help=f"SQLAlchemy URL of the store; default ${STORE_VARIABLE}."
        ),
    ):
        call = option(call)
    return call  # type: ignore[return-value]  # same call, other parameters


def launching(function: F) -> F:
    """Give a command ``-w``: the Dagster workspace file whose code location holds the assets."""
    return click.option(
        "-w",
        "workspace_file",
        metavar="FILE",
        help="Dagster's workspace.yaml; default the one in this folder, or the webserver at $ELT_DAGSTER_WEBSERVER_URL.",
    )(function)


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
