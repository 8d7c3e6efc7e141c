"""What came of loading one stream once."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from elt_dagster.model.batch import Checkpoint
from elt_dagster.model.words import LoadMode, RunMode


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """One difference between the table as it was and as it is: ``kind`` is added, widened or retyped."""

    kind: str
    column: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamResult:
    """The outcome of one stream in one run: counts are rows, sizes bytes in Arrow, times seconds."""

    stream: str
    table: str
    """``schema.table``, unquoted."""
    load_mode: LoadMode
    """What was done to the table; a full refresh of a merge stream is a replace."""
    run_mode: RunMode
    rows_read: int = 0
    rows_inserted: int = 0
    rows_updated: int = 0
    rows_deleted: int = 0
    rows_rejected: int = 0
    bytes_read: int = 0
    table_rows: int = 0
    batches: int = 0
    commits: int = 0
    seconds_total: float = 0.0
    seconds_source: float = 0.0
    """Time the pipeline waited for the source."""
    seconds_warehouse: float = 0.0
    """Time spent staging and committing."""
    before: Checkpoint | None = None
    after: Checkpoint | None = None
    columns: pa.Schema = field(default_factory=lambda: pa.schema([]))
    """The table's columns after the load."""
    schema_changes: tuple[SchemaChange, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    """Further counters from the connector, such as ``null_cursor_rows``."""

    @property
    def rows_per_second(self) -> float:
        """Rows read per second of the whole load."""
        return self.rows_read / self.seconds_total if self.seconds_total else 0.0
