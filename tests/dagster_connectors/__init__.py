"""A folder of connectors as ELT_DAGSTER_CONNECTORS names one; the Dagster tests use it in and outside of their process."""
