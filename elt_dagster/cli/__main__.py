"""``python -m elt_dagster.cli`` is ``elt-dagster``."""

from elt_dagster.cli.app import main

main()
