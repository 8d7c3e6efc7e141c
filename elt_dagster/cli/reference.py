"""The page ``docs/cli.md``, written from the commands themselves: ``python -m elt_dagster.cli.reference``."""

import sys
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import click

from elt_dagster.cli.app import cli

PAGE = Path("docs/cli.md")
_INTRODUCTION = """\
# The command line

Written from the commands by `python -m elt_dagster.cli.reference`; edit those.

Answers go to stdout, messages to stderr. With `--json` stdout holds one JSON document and nothing else; when a command fails that
document is `{"error": {"reason": ..., "message": ..., "exit_code": ...}}`.

| exit code | meaning |
|---|---|
"""


def reference() -> str:
    """The whole page."""
    codes = [f"| {code} | {meaning} |" for code, meaning in _exit_codes()]
    sections = [_section(command, name) for name, command in _commands(cli, "elt-dagster")]
    return f"{_INTRODUCTION}{chr(10).join(codes)}\n\n{chr(10).join(sections)}"


def main() -> None:
    """Write the page to the path that is given, else to docs/cli.md."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    path.write_text(reference())
    click.echo(f"wrote {path}")


def _exit_codes() -> Iterator[tuple[int, str]]:
    from elt_dagster import errors

    yield 0, "done"
    kinds: list[type[errors.EltError]] = [errors.EltError, *errors.EltError.__subclasses__()]
    for kind in sorted(kinds, key=lambda k: k.exit_code):
        meaning = (kind.__doc__ or "").splitlines()[0].split(";")[0].rstrip(".")
        yield kind.exit_code, meaning if kind is not errors.EltError else "anything else; for `check`: refused"


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")
        elif command is not None:
            yield f"{path} {name}", command


def _section(command: click.Command, path: str) -> str:
    context = click.Context(command, info_name=path)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    rows = [record for p in command.params if (record := p.get_help_record(context)) and isinstance(p, click.Option)]
    options = [f"| `{names}` | {text.replace('|', chr(92) + '|')} |" for names, text in rows]
    body = cleandoc(command.help or "")
    lines = [f"## {path}", "", "```", usage, "```", "", body, "", "| option | meaning |", "|---|---|", *options, ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
