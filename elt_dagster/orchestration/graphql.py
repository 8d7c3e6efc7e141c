"""The GraphQL documents we send to Dagster, and what carries them there.

One set of documents serves both ways: over HTTP to a webserver, and inside this process (`hosting`).
"""

from collections.abc import Mapping
from typing import Any, Protocol

import dagster as dg

from elt_dagster.errors import ConfigError

TIMEOUT_SECONDS = 60.0

REPOSITORIES = """
query EltRepositories {
  repositoriesOrError {
    __typename
    ... on RepositoryConnection { nodes { name location { name } } }
    ... on PythonError { message }
  }
  workspaceOrError {
    __typename
    ... on Workspace { locationEntries { name locationOrLoadError { __typename ... on PythonError { message } } } }
    ... on PythonError { message }
  }
}
"""

JOB = """
query EltJob($selector: PipelineSelector!) {
  pipelineOrError(params: $selector) { __typename ... on Pipeline { tags { key value } } ... on PythonError { message } }
  assetNodes(pipeline: $selector) {
    assetKey { path }
    opNames
    partitionDefinition { fmt }
    metadataEntries { label ... on TextMetadataEntry { text } }
  }
}
"""

PARTITIONS = """
query EltPartitions($key: AssetKeyInput!, $limit: Int!, $ascending: Boolean!, $cursor: String) {
  assetNodeOrError(assetKey: $key) {
    __typename
    ... on AssetNode { partitionKeyConnection(limit: $limit, ascending: $ascending, cursor: $cursor) { results cursor hasMore } }
  }
}
"""

RETRY = """
mutation EltRetry($params: ReexecutionParams) {
  launchRunReexecution(reexecutionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on Error { message }
  }
}
"""

BACKFILL = """
mutation EltBackfill($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on Error { message }
  }
}
"""

BACKFILL_STATUS = """
query EltBackfillStatus($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    __typename
    ... on PartitionBackfill {
      id status numPartitions
      error { message }
      runs(limit: 10000) { runId status tags { key value } }
    }
    ... on Error { message }
  }
}
"""

CANCEL_BACKFILL = """
mutation EltCancelBackfill($id: String!) {
  cancelPartitionBackfill(backfillId: $id) { __typename ... on Error { message } }
}
"""

INSTANCE = """
query EltInstance { instance { info } }
"""

DAEMONS = """
query EltDaemons { instance { daemonHealth { allDaemonStatuses { daemonType healthy } } } }
"""

LAUNCH = """
mutation EltLaunch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on Error { message }
  }
}
"""

_RUN = """
fragment EltRun on Run {
  runId status jobName creationTime updateTime startTime endTime rootRunId parentRunId
  tags { key value }
  repositoryOrigin { repositoryName repositoryLocationName }
}
"""

RUNS = (
    """
query EltRuns($filter: RunsFilter, $cursor: String, $limit: Int) {
  runsOrError(filter: $filter, cursor: $cursor, limit: $limit) {
    __typename
    ... on Runs { results { ...EltRun } }
    ... on Error { message }
  }
}
"""
    + _RUN
)

RUN_COUNT = """
query EltRunCount($filter: RunsFilter) {
  runsOrError(filter: $filter, limit: 1) { __typename ... on Runs { count } ... on Error { message } }
}
"""


def runs_of_each(filters: int) -> str:
    """A document that asks for the newest runs of so many filters, ``$f0``, ``$f1`` ..., at once."""
    named = ", ".join(f"$f{i}: RunsFilter" for i in range(filters))
    parts = "\n".join(
        f"  f{i}: runsOrError(filter: $f{i}, limit: $limit) {{ __typename ... on Runs {{ results {{ ...EltRun }} }} }}"
        for i in range(filters)
    )
    return f"query EltRunsOfEach($limit: Int, {named}) {{\n{parts}\n}}\n{_RUN}"


_WHOLE = (
    """
fragment EltWholeRun on Run {
  ...EltRun
  assetSelection { path }
  stepKeysToExecute
  stepStats {
    stepKey status startTime endTime
    materializations { metadataEntries {
      label
      ... on IntMetadataEntry { intRepr }
      ... on FloatMetadataEntry { floatValue }
      ... on TextMetadataEntry { text }
      ... on MarkdownMetadataEntry { mdStr }
      ... on UrlMetadataEntry { url }
    } }
  }
}
"""
    + _RUN
)

RUN = (
    """
query EltRun($id: ID!) {
  runOrError(runId: $id) { __typename ... on Run { ...EltWholeRun } ... on Error { message } }
}
"""
    + _WHOLE
)

WHOLE_RUNS = (
    """
query EltWholeRuns($filter: RunsFilter, $limit: Int) {
  runsOrError(filter: $filter, limit: $limit) { __typename ... on Runs { results { ...EltWholeRun } } ... on Error { message } }
}
"""
    + _WHOLE
)

EVENTS = """
query EltEvents($id: ID!, $after: String, $limit: Int) {
  logsForRun(runId: $id, afterCursor: $after, limit: $limit) {
    __typename
    ... on EventConnection {
      cursor hasMore
      events {
        __typename
        ... on MessageEvent { message level stepKey timestamp }
        ... on ExecutionStepFailureEvent {
          error { message className causes { message className } }
          failureMetadata { description metadataEntries { label ... on TextMetadataEntry { text } } }
        }
        ... on ExecutionStepUpForRetryEvent { secondsToWait error { message causes { message } } }
        ... on RunFailureEvent { error { message } }
        ... on ObservationEvent {
          metadataEntries {
            label ... on TextMetadataEntry { text } ... on UrlMetadataEntry { url } ... on IntMetadataEntry { intRepr }
          }
        }
      }
    }
    ... on Error { message }
  }
}
"""

TERMINATE = """
mutation EltTerminate($id: String!) {
  terminateRun(runId: $id, terminatePolicy: SAFE_TERMINATE) {
    __typename
    ... on TerminateRunFailure { message }
    ... on Error { message }
  }
}
"""


RELOAD = """
mutation EltReload($name: String!) {
  reloadRepositoryLocation(repositoryLocationName: $name) { __typename ... on Error { message } }
}
"""


ABOUT_DEFINITIONS = frozenset({REPOSITORIES, JOB, LAUNCH, PARTITIONS, RETRY, BACKFILL, RELOAD})
"""What can only be answered with the workspace loaded."""


class Transport(Protocol):
    """Carries GraphQL documents to one Dagster deployment."""

    def execute(self, document: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The ``data`` of the answer. Raises TransientError when Dagster cannot be asked, ConfigError when it refuses the document."""
        ...

    def annotate(self, run_id: str, tags: Mapping[str, str], message: str) -> bool:
        """Write ``tags`` and a line of log, unless it is empty, onto a run, where the instance is at hand; GraphQL has no way to do it."""
        ...

    def instance_at_hand(self) -> dg.DagsterInstance | None:
        """The deployment's instance, where it is at hand."""
        ...

    def run_url(self, run_id: str) -> str | None:
        """The page of a run, if there is a webserver."""
        ...

    def close(self) -> None:
        """Let go of servers and sockets."""
        ...


def data_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The ``data`` of a GraphQL answer. Raises ConfigError with the first message when the document as a whole was refused."""
    data = answer.get("data")
    if answer.get("errors") or data is None:
        problems = answer.get("errors") or [{"message": "no data"}]
        raise ConfigError(f"Dagster refused a query: {problems[0].get('message')}.", fix="Does its version match ours?")
    return dict(data)
