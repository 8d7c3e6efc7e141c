"""Bundled connectors, one module each. Ask for them by name: ``elt_dagster.load_connector("postgres")``."""

if __name__ not in ("elt_dagster.connectors", "connectors"):
    raise ImportError(f"This folder is the package elt_dagster.connectors, not {__name__!r}.")
