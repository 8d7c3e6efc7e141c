"""Everything a connector may import. If it is not here, a connector does not need it."""

from elt_dagster.errors import (
    AuthError,
    ConfigError,
    ContractError,
    NotFoundError,
    SourceError,
    TransientError,
    nearest,
)
from elt_dagster.model import (
    Batch,
    Catalog,
    Checkpoint,
    CheckResult,
    CursorValue,
    ReadRequest,
    Stream,
    SyncMode,
    Window,
    cursor_text,
)
from elt_dagster.sdk.arrow import canonical_schema, highest, null_rows, split, text_column
from elt_dagster.sdk.connector import Config, Connector, Runtime

__all__ = [
    "AuthError",
    "Batch",
    "Catalog",
    "CheckResult",
    "Checkpoint",
    "Config",
    "ConfigError",
    "Connector",
    "ContractError",
    "CursorValue",
    "NotFoundError",
    "ReadRequest",
    "Runtime",
    "SourceError",
    "Stream",
    "SyncMode",
    "TransientError",
    "Window",
    "canonical_schema",
    "cursor_text",
    "highest",
    "nearest",
    "null_rows",
    "split",
    "text_column",
]
