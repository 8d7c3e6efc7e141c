"""``elt-dagster``, the command line. Only `click` is imported until a command runs, so that ``--help`` answers at once."""

from elt_dagster.cli.app import cli, main

__all__ = ["cli", "main"]
