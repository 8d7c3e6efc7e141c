"""The command tree and the one place where errors become text and exit codes.

Exit codes: 0 done; 1 unknown; 2 settings or usage; 3 credentials; 4 try again later; 5 source; 6 warehouse; 7 a connector's
bug; 130 cancelled. They are `exit_code` of the classes in `elt_dagster.errors`.
"""

import errno
import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from elt_dagster.errors import EltError, nearest

DEBUG_VARIABLE = "ELT_DAGSTER_DEBUG"
BROKEN_PIPE = 1  # as click and rich answer when the reader of our output has gone
CANCELLED = 130

COMMANDS = {
    "init": "elt_dagster.cli.project:init",
    "apply": "elt_dagster.cli.project:apply",
    "export": "elt_dagster.cli.project:export",
    "connectors": "elt_dagster.cli.explore:connectors",
    "check": "elt_dagster.cli.explore:check",
    "discover": "elt_dagster.cli.explore:discover",
    "preview": "elt_dagster.cli.explore:preview",
    "connections": "elt_dagster.cli.connections:connections",
    "syncs": "elt_dagster.cli.syncs:syncs",
    "streams": "elt_dagster.cli.streams:streams",
    "loaders": "elt_dagster.cli.loaders:loaders",
    "run": "elt_dagster.cli.run:run",
    "status": "elt_dagster.cli.status:status",
    "runs": "elt_dagster.cli.status:runs",
    "cancel": "elt_dagster.cli.status:cancel",
    "retry": "elt_dagster.cli.again:retry",
    "backfill": "elt_dagster.cli.again:backfill",
    "state": "elt_dagster.cli.state:state",
    "workspaces": "elt_dagster.cli.workspaces:workspaces",
    "keys": "elt_dagster.cli.keys:keys",
    "oauth-clients": "elt_dagster.cli.oauth:oauth_clients",
    "serve": "elt_dagster.cli.serve:serve",
}


class Suggesting(click.Group):
    """A group that answers an unknown command with the nearest one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with a suggestion when there is no such command."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            ctx.fail(f"There is no command {args[0]!r}. {nearest(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


class _Lazy(Suggesting):
    """The top group: its commands are modules that are imported when they are named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        found: click.Command = getattr(import_module(module), attribute)
        return found


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="A connection, sync or stream that does not exist is answered with the nearest one that does. "
    f"{DEBUG_VARIABLE}=1 shows the traceback of an error.",
)
@click.version_option(package_name="elt-dagster")
def cli() -> None:
    """Configure ELT syncs, run them with Dagster, and see what came of them."""


def main() -> None:
    """The entry point ``elt-dagster``."""
    sys.exit(execute(sys.argv[1:]))


def execute(args: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors have been told to stderr by then."""
    try:
        code = _execute(args)
        sys.stdout.flush()
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise
        # The reader has gone. Python would complain once more when it closes stdout, so that goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return code


def _execute(args: Sequence[str]) -> int:
    try:
        code = cli.main(args=list(args), prog_name="elt-dagster", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return _told(args, "usage", error.format_message(), error.exit_code)
    except EltError as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        click.secho(f"Error: {error}", fg="red", err=True)
        return _told(args, error.reason, str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Cancelled.", err=True)
        return _told(args, "cancelled", "Cancelled.", CANCELLED)
    except OSError as error:
        if error.errno == errno.EPIPE or os.environ.get(DEBUG_VARIABLE):
            raise
        return _bug(args, error)
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        return _bug(args, error)
    return code if isinstance(code, int) else 0


def _bug(args: Sequence[str], error: Exception) -> int:
    """An error nobody raised on purpose: its text may repeat settings or rows, so only its class and place are told."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})" if trace else ""
    text = f"Unexpected {type(error).__name__}{place}. This is a bug; {DEBUG_VARIABLE}=1 shows the whole traceback."
    click.secho(f"Error: {text}", fg="red", err=True)
    return _told(args, "unknown", text, 1)


def _told(args: Sequence[str], reason: str, message: str, code: int) -> int:
    """With ``--json`` a program reads stdout: it gets the error there as well."""
    if "--json" in args:
        click.echo(json.dumps({"error": {"reason": reason, "message": message, "exit_code": code}}))
    return code
