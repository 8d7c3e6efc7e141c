"""What a stream's size class asks of the place where its step runs: resources of its pod, or a queue of Celery's.

Sources put each stream into a class (`elt_dagster.model.Stream.size_class`) by its rows or bytes. With ``execution.executor: k8s`` the class
becomes the op tag ``dagster-k8s/config``; with ``celery`` it becomes ``dagster-celery/queue`` where `CELERY_QUEUES` names a queue for it.
Threads and processes of one machine share what the machine has, so they get neither. Both tables are JSON in environment variables of
the code location: how large a pod may be is for those who run the cluster to say, not for a sync.
"""

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from elt_dagster.errors import ConfigError, nearest
from elt_dagster.model import ExecutionMode, ExecutorChoice, SyncSpec

K8S_SIZES = "ELT_DAGSTER_K8S_SIZES"
"""``{"xl": {...}}``: per size class a ``dagster-k8s/config`` that takes the place of ours."""
CELERY_QUEUES = "ELT_DAGSTER_CELERY_QUEUES"
"""``{"l": "elt-large"}``: per size class a queue; the others go to Celery's default queue."""
K8S_CONFIG_TAG, CELERY_QUEUE_TAG = "dagster-k8s/config", "dagster-celery/queue"


def _pod(cpu: str, memory: str) -> dict[str, Any]:
    # Memory that is promised is also the limit: a pod that was lent more is the first to be killed. The processor has no limit, for a
    # throttled step may miss the heartbeats of its lease.
    return {
        "container_config": {"resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory}}}
    }


# A load holds a few batches whatever the table's size; what grows with it is the work, and what DuckDB sorts and joins in memory.
_PODS = {
    "xs": _pod("250m", "768Mi"),
    "s": _pod("500m", "1Gi"),
    "m": _pod("1", "2Gi"),
    "l": _pod("2", "4Gi"),
    "xl": _pod("4", "8Gi"),
}
SIZE_CLASSES = tuple(_PODS)


def step_tags(spec: SyncSpec, size_class: str) -> dict[str, Any]:
    """The op tags of a binding whose stream is of ``size_class``; none for a class nobody has a row for.

    Raises ConfigError for a table that cannot be read.
    """
    if spec.execution_mode is ExecutionMode.SEQUENTIAL:
        return {}
    if spec.execution.executor is ExecutorChoice.K8S:
        pod = pod_sizes(os.environ.get(K8S_SIZES, "")).get(size_class)
        return {K8S_CONFIG_TAG: pod} if pod is not None else {}
    if spec.execution.executor is ExecutorChoice.CELERY:
        queue = celery_queues(os.environ.get(CELERY_QUEUES, "")).get(size_class)
        return {CELERY_QUEUE_TAG: queue} if queue is not None else {}
    return {}


@lru_cache(maxsize=4)
def pod_sizes(text: str) -> Mapping[str, dict[str, Any]]:
    """Per size class its ``dagster-k8s/config``: ours, with what the JSON in ``text`` replaces. Raises ConfigError."""
    given = _table(text, K8S_SIZES)
    for size, config in given.items():
        _check_pod(size, config)
    return {**_PODS, **given}


@lru_cache(maxsize=4)
def celery_queues(text: str) -> Mapping[str, str]:
    """Per size class its queue, from the JSON in ``text``. Raises ConfigError."""
    given = _table(text, CELERY_QUEUES)
    for size, queue in given.items():
        if not isinstance(queue, str) or not queue.strip():
            raise ConfigError(
                f"The environment variable {CELERY_QUEUES} has no name of a queue for {size!r}.",
                fix='Write it as JSON, such as {"l": "elt-large", "xl": "elt-large"}.',
            )
    return given


def _table(text: str, variable: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    try:
        given = json.loads(text)
    except ValueError as error:
        raise ConfigError(
            f"The environment variable {variable} is no JSON: {error}.", fix="See docs/deploying.md, Sizes."
        ) from None
    if not isinstance(given, dict):
        raise ConfigError(
            f"The environment variable {variable} is no JSON object.",
            fix=f"Its keys are size classes: {', '.join(SIZE_CLASSES)}.",
        )
    for size in given:
        if size not in SIZE_CLASSES:
            raise ConfigError(
                f"The environment variable {variable} has no size class {size!r}.",
                fix=nearest(size, list(SIZE_CLASSES)),
            )
    return given


def _check_pod(size: str, config: Any) -> None:
    """Refuse now what Dagster would refuse when the step is to start."""
    from dagster_k8s.job import get_user_defined_k8s_config

    try:
        get_user_defined_k8s_config({K8S_CONFIG_TAG: json.dumps(config)})
    except Exception as error:  # Kubernetes' client raises Exception itself, and what its models stumble over
        said = " ".join(line.strip() for line in str(error).strip().splitlines()[:2])
        raise ConfigError(
            f"The environment variable {K8S_SIZES} is wrong for {size!r}: {said}",
            fix="Each value is what Dagster takes as dagster-k8s/config.",
        ) from None
