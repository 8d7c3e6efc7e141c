"""The code location of a checkout: every sync of the store."""

from elt_dagster import build_definitions

defs = build_definitions()
