"""Everything a connector may import. If it is not here, a connector does not need it.

A module of it is imported when a name of it is first asked for: a process that reads a database has no need of an HTTP client.
"""

from typing import TYPE_CHECKING

from elt_dagster.errors import (
    AuthError,
    ConfigError,
    ContractError,
    EltError,
    LimitError,
    NotFoundError,
    SourceError,
    TransientError,
    nearest,
)
from elt_dagster.lazy import lazily
from elt_dagster.model import (
    ESTIMATED_ROWS,
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
from elt_dagster.model.types import JSON, TIMESTAMP, TIMESTAMP_UTC, UUID, parse_type

if TYPE_CHECKING:
    from elt_dagster.sdk.arrow import canonical_schema, highest, null_rows, split, text_column
    from elt_dagster.sdk.auth import (
        ApiKey,
        Basic,
        Bearer,
        Login,
        NoAuth,
        SessionLogin,
        TokenAuth,
    )
    from elt_dagster.sdk.auth_oauth import OAuth2, OAuthClient, TokenFields
    from elt_dagster.sdk.auth_settings import AuthSettings, NoneAuth
    from elt_dagster.sdk.auth_signed import JwtBearer, JwtClaims, SigV4
    from elt_dagster.sdk.budget import SLOW_FROM, Budget, Quota
    from elt_dagster.sdk.columns import nested, with_column, with_columns_of
    from elt_dagster.sdk.connector import Config, Connector, Runtime
    from elt_dagster.sdk.consent import Consent
    from elt_dagster.sdk.csv import CsvDecoder
    from elt_dagster.sdk.csv_pages import CsvParser
    from elt_dagster.sdk.cursor import Cursor, parse_cursor
    from elt_dagster.sdk.endpoint import Endpoint, Limits, Parent
    from elt_dagster.sdk.files import CsvOptions, FileConfig, FileConnector, FileStream
    from elt_dagster.sdk.http import Action, Answer, Http, Rule
    from elt_dagster.sdk.jobs import Job, JobApi, resumed, submitted
    from elt_dagster.sdk.json import Document, JsonParser
    from elt_dagster.sdk.json_path import parse_path
    from elt_dagster.sdk.pages import (
        AutoPages,
        Call,
        Into,
        LinkHeader,
        NextCursor,
        NextUrl,
        Offset,
        Page,
        PageNumber,
        PageSize,
        Pagination,
        SinglePage,
        Stop,
    )
    from elt_dagster.sdk.pages_settings import AutoPagination, PaginationSettings
    from elt_dagster.sdk.places import ADDRESS, LOCAL, NO_ADDRESS, NOT_LOCAL
    from elt_dagster.sdk.rest import RestConnector
    from elt_dagster.sdk.rest_read import StreamReader
    from elt_dagster.sdk.sql import Column, Query, SqlConnector, SqlSession, SqlSettings, Table
    from elt_dagster.sdk.vault import Drawer, Vault

_HOMES = {
    "arrow": "canonical_schema highest null_rows split text_column",
    "auth": "ApiKey Basic Bearer Login NoAuth SessionLogin TokenAuth",
    "auth_oauth": "OAuth2 OAuthClient TokenFields",
    "auth_settings": "AuthSettings NoneAuth",
    "auth_signed": "JwtBearer JwtClaims SigV4",
    "budget": "SLOW_FROM Budget Quota",
    "columns": "nested with_column with_columns_of",
    "connector": "Config Connector Runtime",
    "consent": "Consent",
    "csv": "CsvDecoder",
    "csv_pages": "CsvParser",
    "cursor": "Cursor parse_cursor",
    "endpoint": "Endpoint Limits Parent",
    "files": "CsvOptions FileConfig FileConnector FileStream",
    "http": "Action Answer Http Rule",
    "jobs": "Job JobApi resumed submitted",
    "json": "Document JsonParser",
    "json_path": "parse_path",
    "pages": "AutoPages Call Into LinkHeader NextCursor NextUrl Offset Page PageNumber PageSize Pagination SinglePage Stop",
    "pages_settings": "AutoPagination PaginationSettings",
    "places": "ADDRESS LOCAL NO_ADDRESS NOT_LOCAL",
    "rest": "RestConnector",
    "rest_read": "StreamReader",
    "sql": "Column Query SqlConnector SqlSession SqlSettings Table",
    "vault": "Drawer Vault",
}
_LAZY = {name: f"elt_dagster.sdk.{module}" for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "ADDRESS",
    "ESTIMATED_ROWS",
    "JSON",
    "LOCAL",
    "NOT_LOCAL",
    "NO_ADDRESS",
    "SLOW_FROM",
    "TIMESTAMP",
    "TIMESTAMP_UTC",
    "UUID",
    "Action",
    "Answer",
    "ApiKey",
    "AuthError",
    "AuthSettings",
    "AutoPages",
    "AutoPagination",
    "Basic",
    "Batch",
    "Bearer",
    "Budget",
    "Call",
    "Catalog",
    "CheckResult",
    "Checkpoint",
    "Column",
    "Config",
    "ConfigError",
    "Connector",
    "Consent",
    "ContractError",
    "CsvDecoder",
    "CsvOptions",
    "CsvParser",
    "Cursor",
    "CursorValue",
    "Document",
    "Drawer",
    "EltError",
    "Endpoint",
    "FileConfig",
    "FileConnector",
    "FileStream",
    "Http",
    "Into",
    "Job",
    "JobApi",
    "JsonParser",
    "JwtBearer",
    "JwtClaims",
    "LimitError",
    "Limits",
    "LinkHeader",
    "Login",
    "NextCursor",
    "NextUrl",
    "NoAuth",
    "NoneAuth",
    "NotFoundError",
    "OAuth2",
    "OAuthClient",
    "Offset",
    "Page",
    "PageNumber",
    "PageSize",
    "Pagination",
    "PaginationSettings",
    "Parent",
    "Query",
    "Quota",
    "ReadRequest",
    "RestConnector",
    "Rule",
    "Runtime",
    "SessionLogin",
    "SigV4",
    "SinglePage",
    "SourceError",
    "SqlConnector",
    "SqlSession",
    "SqlSettings",
    "Stop",
    "Stream",
    "StreamReader",
    "SyncMode",
    "Table",
    "TokenAuth",
    "TokenFields",
    "TransientError",
    "Vault",
    "Window",
    "canonical_schema",
    "cursor_text",
    "highest",
    "nearest",
    "nested",
    "null_rows",
    "parse_cursor",
    "parse_path",
    "parse_type",
    "resumed",
    "split",
    "submitted",
    "text_column",
    "with_column",
    "with_columns_of",
]

if not TYPE_CHECKING:
    __getattr__ = lazily(__name__, _LAZY)


def __dir__() -> list[str]:
    return sorted(__all__)
