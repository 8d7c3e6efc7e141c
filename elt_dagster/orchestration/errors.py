"""Where an `EltError` becomes what Dagster understands: a `Failure`, or a retry after some seconds.

What a person must fix is never retried. What time may mend is retried as the sync's `execution` says. A cancelled step must not
be: Dagster would take the interrupt for an error and let the step's retry policy start it again.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from elt_dagster.errors import CancelledError, EltError, TransientError
from elt_dagster.model import Execution
from elt_dagster.orchestration.metadata import STREAM

LONGEST_WAIT_SECONDS = 900.0
"""A longer wait would hold a worker for nothing; the step fails and the next run goes on from the checkpoint."""
JITTER = 0.25
REASON = "elt/reason"
ERROR_CLASS = "elt/error_class"


@contextmanager
def dagster_errors(execution: Execution | None = None, *, attempt: int = 0, stream: str = "") -> Iterator[None]:
    """Turn what the body raises into Dagster's terms; ``attempt`` counts the tries before this one, ``stream`` is who failed.

    Without ``execution`` (a user's own asset) the asset's own retry policy decides about transient errors.
    """
    try:
        yield
    except EltError as error:
        raise translate(error, execution, attempt, stream) from error
    except (dg.DagsterExecutionInterruptedError, KeyboardInterrupt):
        stopped = CancelledError(
            "The run was cancelled.", fix="What was committed stays; the next run goes on from there."
        )
        raise failure(stopped, stream=stream) from None


def translate(
    error: EltError, execution: Execution | None, attempt: int, stream: str = ""
) -> dg.Failure | dg.RetryRequested:
    """The `Failure` or `RetryRequested` that stands for ``error``."""
    if not isinstance(error, TransientError):
        return failure(error, stream=stream)
    if execution is None:
        return failure(error, stream=stream, allow_retries=True)
    wait = retry_wait(error, execution, attempt)
    if attempt >= execution.max_retries or wait > LONGEST_WAIT_SECONDS:
        return failure(error, stream=stream)
    return dg.RetryRequested(max_retries=execution.max_retries, seconds_to_wait=wait)


def retry_wait(error: TransientError, execution: Execution, attempt: int) -> float:
    """Seconds until the next try: what the source asked for, else a delay that doubles with each attempt (at most `LONGEST_WAIT_SECONDS`).

    Up to `JITTER` of it is left off by chance: streams that were refused together do not come back together.
    """
    if error.retry_after is not None:
        return error.retry_after
    delay = min(execution.retry_delay_seconds * 2.0 ** min(attempt, 30), LONGEST_WAIT_SECONDS)
    return delay * (1 - JITTER * random.random())  # noqa: S311 - chance, not secrecy


def failure(error: EltError, *, stream: str = "", allow_retries: bool = False) -> dg.Failure:
    """A `Failure` that carries the error's message, reason and class."""
    who = {STREAM: stream} if stream else {}
    return dg.Failure(
        description=str(error),
        metadata={REASON: error.reason, ERROR_CLASS: type(error).__name__, **who},
        allow_retries=allow_retries,
    )


def retry_policy(execution: Execution) -> dg.RetryPolicy | None:
    """For what never reaches `dagster_errors`: a step process that was killed, or an error nobody foresaw."""
    if execution.max_retries == 0:
        return None
    return dg.RetryPolicy(
        max_retries=execution.max_retries,
        delay=execution.retry_delay_seconds,
        backoff=dg.Backoff.EXPONENTIAL,
        jitter=dg.Jitter.PLUS_MINUS,
    )
