"""The REST control plane: the Connect, Syncs and Loaders dialects over `elt_dagster.control`."""
