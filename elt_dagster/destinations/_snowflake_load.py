"""One load into a Snowflake table: rows are uploaded while they come, and committed by `_snowflake_commit`."""

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from elt_dagster.destinations._snowflake_commit import Commit
from elt_dagster.destinations._snowflake_errors import explaining
from elt_dagster.destinations._snowflake_session import Session
from elt_dagster.destinations._snowflake_settings import SnowflakeConfig
from elt_dagster.destinations._snowflake_stage import Staging, use_schema
from elt_dagster.destinations._snowflake_table import Found, make_schema
from elt_dagster.destinations._snowflake_types import NAME_LENGTH
from elt_dagster.destinations.base import Committed, Load, LoadPlan
from elt_dagster.errors import ContractError, DestinationError
from elt_dagster.model import Checkpoint, LoadMode
from elt_dagster.sdk.connector import Runtime


@dataclass(frozen=True, slots=True)
class Warehouse:
    """What a load needs of its destination; ``open`` makes a connection."""

    config: SnowflakeConfig
    runtime: Runtime
    open: Callable[[], Session]


class SnowflakeLoad(Load):
    """A load into one table; see `Load` for the promises. After a TransientError, `commit` may be called again while the connection lives."""

    def __init__(self, plan: LoadPlan, session: Session, warehouse: Warehouse, found: Found) -> None:
        self._plan = plan
        self._warehouse = warehouse
        self._session: Session | None = session
        self._staging: Staging | None = None
        self._found: Found | None = found
        self._has_schema = False
        self._is_first = True
        self._commits = 0
        self._seen: str | None = None
        self._doing = f"loading {plan.table}"

    def stage(self, batch: pa.RecordBatch) -> None:
        """Keep ``batch`` as Parquet, and upload it as soon as there is enough for a file. An error may be told by a later call."""
        if batch.num_rows:
            check_names(self._plan, batch.schema.names)
            with explaining(self._doing, self._warehouse.config):
                self._stage().add(batch)

    def commit(self, checkpoint: Checkpoint | None) -> Committed:
        """See `Load.commit`."""
        if self._plan.mode is LoadMode.REPLACE and self._commits:
            raise ContractError(f"A replace of {self._plan.table} was committed twice.")
        found, self._found = self._found, None
        with explaining(self._doing, self._warehouse.config):
            session = self._connected()
            self._prepare_schema(session)
            work = Commit(
                plan=self._plan, session=session, parts=self._staging.parts() if self._staging else [],
                now=self._warehouse.runtime.now(), found=found, seen=self._seen, first=self._is_first,
            )  # fmt: skip
            try:
                committed = work.run(checkpoint)
            finally:
                self._is_first = work.first
            self._seen, self._found = work.seen, work.found
            self._commits += 1
            if self._staging is not None:
                self._staging.clear()
        return committed

    def abort(self) -> None:
        """Throw away what was staged since the last commit, and disconnect: temporary tables and stages go with the session."""
        staging, self._staging = self._staging, None
        session, self._session = self._session, None
        if staging is not None:
            staging.close()
        if session is not None:
            session.close()

    def _connected(self) -> Session:
        if self._session is None:
            self._session, self._has_schema, self._seen = self._warehouse.open(), False, None
        return self._session

    def _stage(self) -> Staging:
        if self._staging is None:
            session = self._connected()
            self._prepare_schema(session)
            self._staging = Staging(session)
        return self._staging

    def _prepare_schema(self, session: Session) -> None:
        """Temporary things need a schema to be in, so it is made before the first row is staged."""
        if not self._has_schema:
            if self._found is None or not self._found.has_state_tables:
                make_schema(session, self._plan.table.schema)
            use_schema(session, self._plan.table)
            self._has_schema = True


def check_names(plan: LoadPlan, names: list[str]) -> None:
    """Raise DestinationError for a name that Snowflake cannot hold."""
    for name in (plan.table.schema, plan.table.name, *names):
        if len(name) > NAME_LENGTH:
            raise DestinationError(
                f"{plan.table}: the name {name[:60]!r}... is longer than Snowflake's {NAME_LENGTH} characters.",
                fix="Give the table another name, or exclude the column.",
            )
