"""The nouns of a sync: what a source offers, what was configured, what travels, what came of it."""

from elt_dagster.model.backend import BackendSettings
from elt_dagster.model.batch import (
    ESTIMATED_ROWS,
    Batch,
    Checkpoint,
    CheckResult,
    CursorValue,
    ReadRequest,
    Window,
    cursor_text,
)
from elt_dagster.model.checks import Checks
from elt_dagster.model.run import StreamResult
from elt_dagster.model.slicing import Slicing
from elt_dagster.model.stream import Catalog, Stream
from elt_dagster.model.sync import ConnectionSpec, Execution, Project, Schedule, SyncSpec, TableBinding
from elt_dagster.model.words import (
    Automation,
    DeleteMode,
    ExecutionBackend,
    ExecutionMode,
    ExecutorChoice,
    LoadMode,
    Overlap,
    RunMode,
    SchemaDrift,
    SyncMode,
    SyncStatus,
    TriggeredBy,
    TriggerMode,
)

__all__ = [
    "ESTIMATED_ROWS",
    "Automation",
    "BackendSettings",
    "Batch",
    "Catalog",
    "CheckResult",
    "Checkpoint",
    "Checks",
    "ConnectionSpec",
    "CursorValue",
    "DeleteMode",
    "Execution",
    "ExecutionBackend",
    "ExecutionMode",
    "ExecutorChoice",
    "LoadMode",
    "Overlap",
    "Project",
    "ReadRequest",
    "RunMode",
    "Schedule",
    "SchemaDrift",
    "Slicing",
    "Stream",
    "StreamResult",
    "SyncMode",
    "SyncSpec",
    "SyncStatus",
    "TableBinding",
    "TriggerMode",
    "TriggeredBy",
    "Window",
    "cursor_text",
]
