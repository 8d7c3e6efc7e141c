"""Everything a connector may import. If it is not here, a connector does not need it."""

from elt_dagster.errors import (
    AuthError,
    ConfigError,
    ContractError,
    EltError,
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
from elt_dagster.model.types import JSON, TIMESTAMP, TIMESTAMP_UTC, UUID
from elt_dagster.sdk.arrow import canonical_schema, highest, null_rows, split, text_column
from elt_dagster.sdk.connector import Config, Connector, Runtime
from elt_dagster.sdk.csv import CsvDecoder
from elt_dagster.sdk.files import CsvOptions, FileConfig, FileConnector, FileStream
from elt_dagster.sdk.sql import Column, Query, SqlConnector, SqlSession, SqlSettings, Table

__all__ = [
    "JSON",
    "TIMESTAMP",
    "TIMESTAMP_UTC",
    "UUID",
    "AuthError",
    "Batch",
    "Catalog",
    "CheckResult",
    "Checkpoint",
    "Column",
    "Config",
    "ConfigError",
    "Connector",
    "ContractError",
    "CsvDecoder",
    "CsvOptions",
    "CursorValue",
    "EltError",
    "FileConfig",
    "FileConnector",
    "FileStream",
    "NotFoundError",
    "Query",
    "ReadRequest",
    "Runtime",
    "SourceError",
    "SqlConnector",
    "SqlSession",
    "SqlSettings",
    "Stream",
    "SyncMode",
    "Table",
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
