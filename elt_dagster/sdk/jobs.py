"""Submit, poll, download: sources that prepare an answer while we wait (bulk queries, reports, exports).

What differs between them is data (`JobApi`); how to wait, to give up and to clean up is here. While a job is waited for, the waiting generator yields,
so that whoever iterates can stop it between two looks; a job that is left before its results were fetched is cancelled.
"""

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from elt_dagster.errors import EltError, SourceError, TransientError
from elt_dagster.sdk.connector import Runtime
from elt_dagster.sdk.http import Action, Http, Rule
from elt_dagster.sdk.json import Document
from elt_dagster.sdk.pages import Call, fill

_NAP_SECONDS = 1.0
"""No longer without a look at whether somebody wants us to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobApi:
    """How a source wants its jobs asked for; ``{job}`` in a URL is the job's id."""

    look: Call
    """Asks how it is getting on."""
    done: frozenset[str]
    failed: frozenset[str]
    id_at: str = "id"
    state_at: str = "state"
    error_at: str | None = None
    """Where a failed job says why. Only the codes in it are shown, for the rest may quote the query."""
    cancel: Call | None = None
    """Stops a job that is not done."""
    remove: Call | None = None
    """Takes away a job that is done, with its results."""
    refused: tuple[Rule, ...] = ()
    """Answers to a submission that mean that this cannot be done by a job: rules that ignore."""
    rules: tuple[Rule, ...] = ()
    """For submissions and looks, after those above."""
    first_wait: float = 2.0
    longest_wait: float = 10.0
    growth: float = 1.5
    keeps: bool = False
    """Leave a job that is done when its download is cut short: `resumed` goes on with it."""
    patience_seconds: float = 6 * 3600.0
    """A job that is not done by then is given up."""


@dataclass(slots=True)
class Job:
    """One job of ``api``. ``state`` is what it said last."""

    http: Http
    runtime: Runtime
    api: JobApi
    id: str
    state: str = ""
    answer: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def is_done(self) -> bool:
        """Whether its results are there."""
        return self.state in self.api.done

    @property
    def is_failed(self) -> bool:
        """Whether there will be no results."""
        return self.state in self.api.failed

    @property
    def error(self) -> str:
        """The codes that a failed job gives as its reason, such as QUERY_TIMEOUT."""
        text = str(self.answer.get(self.api.error_at or "") or "")
        return ", ".join(dict.fromkeys(re.findall(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b", text))) or self.state

    def wait(self) -> Generator[None, None, None]:
        """Look until it is done or failed; yields between the looks. Raises TransientError when it takes too long."""
        pause, waited = self.api.first_wait, 0.0
        while self.look() and waited < self.api.patience_seconds:
            for nap in _naps(pause):
                yield
                self.runtime.sleep(nap)
            waited, pause = waited + pause, min(pause * self.api.growth, self.api.longest_wait)
        if not (self.is_done or self.is_failed):
            raise TransientError(
                f"A job at {self.http.base.host} was not done after {waited:,.0f} s.",
                fix="It was cancelled; the stream is tried again later.",
            )

    def look(self, rules: Sequence[Rule] = ()) -> bool:
        """Ask how it is getting on; whether it is still at work. A job that ``rules`` ignore has no state afterwards."""
        got = self.http.fetch(self.of(self.api.look), (*rules, *self.api.rules))
        found = None if got.ignored else Document(got.content, where=f"The job at {self.http.base.host}").at("")
        self.answer = found if isinstance(found, dict) else {}
        self.state = str(self.answer.get(self.api.state_at, ""))
        if not self.state and not got.ignored:
            raise SourceError(f"A job at {self.http.base.host} does not say how it is getting on.")
        return not (self.is_done or self.is_failed)

    def of(self, call: Call) -> Call:
        """``call`` about this job."""
        return replace(call, url=fill(call.url, {"job": self.id}))


@contextmanager
def submitted(http: Http, runtime: Runtime, api: JobApi, call: Call) -> Iterator[Job | None]:
    """A job from ``call``, cancelled and removed when it is left; None when the source says that it cannot be done by a job.

    Raises as `Http.fetch` does, SourceError for an answer without an id.
    """
    answer = http.fetch(call, (*api.refused, *api.rules))
    if answer.ignored:
        yield None
        return
    found = Document(answer.content, where=f"The job at {http.base.host}").at(api.id_at)
    if not isinstance(found, str | int) or found == "":
        raise SourceError(f"{http.base.host} took a job and gave it no id.", fix="Check the request for it.")
    with _cared_for(Job(http, runtime, api, str(found))) as job:
        yield job


@contextmanager
def resumed(http: Http, runtime: Runtime, api: JobApi, job_id: str) -> Iterator[Job | None]:
    """The job that an earlier read left with its results, removed when it is left for good; None when it is there no more, or not done."""
    job = Job(http, runtime, api, job_id)
    job.look((Rule(action=Action.IGNORE, status=frozenset({400, 404, 410})),))
    if not job.is_done:
        yield None
        return
    with _cared_for(job):
        yield job


@contextmanager
def _cared_for(job: Job) -> Iterator[Job]:
    try:
        yield job
    except (TransientError, GeneratorExit):
        if not (job.api.keeps and job.is_done):
            _cleaned_up(job)
        raise
    except BaseException:
        _cleaned_up(job)
        raise
    _cleaned_up(job)


def _cleaned_up(job: Job) -> None:
    # whatever ended the read is what the caller has to hear of
    with suppress(EltError):
        if job.api.cancel is not None and not (job.is_done or job.is_failed):
            job.http.fetch(job.of(job.api.cancel))
    with suppress(EltError):
        if job.api.remove is not None:
            job.http.fetch(job.of(job.api.remove))


def _naps(seconds: float) -> Iterator[float]:
    while seconds > 0:
        yield min(seconds, _NAP_SECONDS)
        seconds -= _NAP_SECONDS
