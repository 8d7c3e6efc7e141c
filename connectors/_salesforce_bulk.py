"""Reading by a Bulk API 2.0 query: a job that is made, watched and downloaded page by page, and gone on with where a run was cut short."""

import hashlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from elt_dagster.sdk import (
    Action,
    Batch,
    Call,
    Checkpoint,
    Cursor,
    Endpoint,
    Http,
    Job,
    JobApi,
    NextCursor,
    ReadRequest,
    Rule,
    SourceError,
    StreamReader,
    SyncMode,
    TransientError,
    nested,
    resumed,
    submitted,
    with_column,
)

if TYPE_CHECKING:
    from .salesforce import Salesforce

LARGEST_PAGE = 50_000
SMALLEST_PAGE = 1_000
_CELL_BYTES = 24
"""What a value takes on the average, generously: pages are asked for by rows, and meant by bytes."""
QUERY_RULES = (Rule(action=Action.RETRY, status=frozenset({200}), not_json=True),)
_NO_JOB = Rule(
    action=Action.IGNORE, status=frozenset({400, 403, 404}),
    body_matches="INVALIDENTITY|FEATURENOTENABLED|not supported by the Bulk API|compound data not supported|INVALID_ENTITY",
)  # fmt: skip


def job_api(data: str) -> JobApi:
    """Bulk API 2.0 queries of one version: a job must be made, watched and read with the same one."""
    own = f"{data}/jobs/query/{{job}}"
    return JobApi(
        look=Call(url=own),
        done=frozenset({"JobComplete"}),
        failed=frozenset({"Failed", "Aborted"}),
        error_at="errorMessage",
        cancel=Call(url=own, method="PATCH", body={"state": "Aborted"}),
        remove=Call(url=own, method="DELETE"),
        refused=(_NO_JOB,),
        rules=QUERY_RULES,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkReader:
    """Reads what ``query`` selects; ``asked`` is ``request`` with the columns that making the rows takes."""

    connector: "Salesforce"
    http: Http
    name: str
    request: ReadRequest
    asked: ReadRequest
    query: str
    operation: str
    columns: int
    cursor: Cursor | None
    made: "Compounds"

    def read(self) -> Generator[Batch, None, bool]:
        """Batches; False when there can be no job, and nothing was read."""
        left = self._left_over()
        if left is not None:
            with resumed(self.http, self.connector.runtime, self._api(), str(left.get("job"))) as job:
                if job is not None:
                    yield from self._downloaded(job, left)
                    return True
        with self._submitted() as job:
            if job is not None:
                for _ in job.wait():
                    yield self._nothing()
            if job is None or job.is_failed:
                self._say_why(job)
                return False
            yield from self._downloaded(job, {})
        return True

    def _submitted(self) -> AbstractContextManager[Job | None]:
        order = {
            "operation": self.operation, "query": self.query, "contentType": "CSV", "columnDelimiter": "COMMA", "lineEnding": "LF",
        }  # fmt: skip
        call = Call(url=f"{self.connector.data}/jobs/query", method="POST", body=order)
        return submitted(self.http, self.connector.runtime, self._api(), call)

    def _api(self) -> JobApi:
        # only where a checkpoint tells the next run of the job
        is_kept = self.request.mode is SyncMode.INCREMENTAL and self.cursor is not None and self.request.window is None
        return replace(job_api(self.connector.data), keeps=is_kept)

    # -- the download --------------------------------------------------------------------------------------------------

    def _downloaded(self, job: Job, left: Mapping[str, Any]) -> Iterator[Batch]:
        self.made.rows = int(left.get("rows", 0))
        reader = StreamReader(
            self.connector, self.http, self._results(job, left.get("locator")), started=_moment(job.answer.get("createdDate")),
            go_on=lambda call: self._mark(job, call), reached=left.get("reached"),
        )  # fmt: skip
        for batch in trimmed(reader.read(self.asked), self.request):
            if batch.checkpoint is not None and not batch.checkpoint.extra:
                self.made.check(job)
            yield batch
        self.made.check(job)

    def _results(self, job: Job, locator: str | None) -> Endpoint:
        rows = self.request.batch_bytes // (_CELL_BYTES * self.columns)
        most = ("maxRecords", str(max(SMALLEST_PAGE, min(rows, LARGEST_PAGE))))
        return Endpoint(
            name=self.name, path=f"{self.connector.data}/jobs/query/{job.id}/results", csv=True, headers={"Accept": "text/csv"},
            params=(most, *((("locator", locator),) if locator else ())), cursor=self.cursor, complete=self.made,
            pagination=NextCursor(param="locator", header="Sforce-Locator", end="null"),
        )  # fmt: skip

    # -- what another run goes on with ---------------------------------------------------------------------------------

    def _mark(self, job: Job, call: Call) -> Mapping[str, Any]:
        locator = dict(call.params)["locator"]
        return {"bulk": {"job": job.id, "locator": locator, "query": self._signature(), "rows": self.made.rows}}

    def _left_over(self) -> Mapping[str, Any] | None:
        """What the last run noted, if it was about the same rows and columns."""
        extra = self.request.since.extra if self.request.since is not None else {}
        left, reached = extra.get("bulk"), extra.get("reached")
        if not isinstance(left, Mapping) or left.get("query") != self._signature() or not reached:
            return None
        return {**left, "reached": Checkpoint.from_json({"cursor": reached}).cursor}

    def _signature(self) -> str:
        # a job is read with the version it was made with, or refused (409)
        return hashlib.sha256(f"{self.connector.data} {self.operation} {self.query}".encode()).hexdigest()[:16]

    # -- when there is nothing to download -----------------------------------------------------------------------------

    def _say_why(self, job: Job | None) -> None:
        """Raises SourceError for a job that somebody aborted: to ask for all of it by REST is not what they meant."""
        if job is not None and job.state == "Aborted":
            raise SourceError(
                f"Somebody aborted the bulk job that reads {self.name}.",
                fix="Run again, or set api_type to rest.",
            )
        why = job.error if job is not None else "it was refused"
        self.connector.runtime.log.warning("%s cannot be read by a bulk job (%s); it is read by REST.", self.name, why)

    def _nothing(self) -> Batch:
        """A batch without rows: whoever waits for a job is asked whether to go on."""
        schema = self.request.stream.schema
        kept = pa.schema([schema.field(n) for n in self.request.columns or ()]) if schema is not None else pa.schema([])
        return Batch(pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in kept], schema=kept))


@dataclass(slots=True)
class Compounds:
    """Makes compound fields of their parts, as REST would have given them, and counts the rows."""

    of: dict[str, dict[str, str]]
    rows: int = 0

    @property
    def parts(self) -> list[str]:
        """The fields that are needed."""
        return list(dict.fromkeys(name for parts in self.of.values() for name in parts.values()))

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.rows += batch.num_rows
        for name, parts in self.of.items():
            batch = with_column(batch, name, nested({key: batch.column(part) for key, part in parts.items()}))
        return batch

    def check(self, job: Job) -> None:
        """Raises TransientError when rows of the job have not arrived."""
        promised = job.answer.get("numberRecordsProcessed")
        if isinstance(promised, int) and self.rows < promised:
            raise TransientError(
                f"Of {promised} rows of a Salesforce bulk job {self.rows} arrived.",
                fix="The stream is read again later.",
            )


def trimmed(batches: Iterator[Batch], request: ReadRequest) -> Iterator[Batch]:
    """``batches`` in the order of ``request``, without the columns that only putting them together took."""
    for batch in batches:
        names = [n for n in request.columns or () if n in batch.data.schema.names]
        yield batch if names == batch.data.schema.names else replace(batch, data=batch.data.select(names))


def _moment(text: Any) -> datetime | None:
    with suppress(ValueError, TypeError):
        return datetime.fromisoformat(text)
    return None
