"""The words of the domain that are chosen from a list; `docs/glossary.md` explains each."""

from enum import StrEnum


class SyncMode(StrEnum):
    """How rows are read from the source."""

    FULL_REFRESH = "full_refresh"
    INCREMENTAL = "incremental"
    CDC = "cdc"


class LoadMode(StrEnum):
    """How rows are written to the table (dlt: write disposition)."""

    APPEND = "append"
    REPLACE = "replace"
    MERGE = "merge"


class RunMode(StrEnum):
    """What one run was asked to do: go on from the checkpoint, or read everything again."""

    INCREMENTAL = "incremental"
    FULL_REFRESH = "full_refresh"


class TriggerMode(StrEnum):
    """What starts the runs of a sync."""

    MANUAL = "manual"
    SCHEDULED = "scheduled"
    ON_CREATE = "on_create"


class ExecutionMode(StrEnum):
    """How the streams of one run are spread."""

    SEQUENTIAL = "sequential"
    FAN_OUT_ENTITY = "fan_out_entity"
    FAN_OUT_WINDOW = "fan_out_window"


class ExecutionBackend(StrEnum):
    """Who loads the tables of a sync: Dagster, somebody who reports it to Dagster, a Prefect deployment, or a Temporal workflow."""

    NATIVE = "native"
    EXTERNAL = "external"
    PREFECT = "prefect"
    TEMPORAL = "temporal"


class ExecutorChoice(StrEnum):
    """What runs the streams of a run in the fan-out modes: threads or processes of one machine, or those of a cluster."""

    THREADS = "threads"
    MULTIPROCESS = "multiprocess"
    CELERY = "celery"
    K8S = "k8s"


class SyncStatus(StrEnum):
    """Whether a sync may run. ``archived`` syncs keep their tables and lose their assets."""

    DRAFT = "draft"
    ACTIVE = "active"
    PAUSED = "paused"
    ERROR = "error"
    ARCHIVED = "archived"


class SchemaDrift(StrEnum):
    """What happens when the source's columns change: follow, stop, or drop what is unknown."""

    EVOLVE = "evolve"
    FREEZE = "freeze"
    DISCARD = "discard"


class DeleteMode(StrEnum):
    """What happens to a row that is gone at the source: remove it, mark it in ``_elt_deleted_at``, or leave it as it was."""

    HARD = "hard"
    SOFT = "soft"
    IGNORE = "ignore"


class Automation(StrEnum):
    """When Dagster loads a stream by itself beside its schedule: when its parents have changed, or only while it was never loaded."""

    EAGER = "eager"
    ON_MISSING = "on_missing"


class Overlap(StrEnum):
    """What a run does with a table that another run is loading: wait for it, or leave that stream out."""

    WAIT = "wait"
    SKIP = "skip"


class TriggeredBy(StrEnum):
    """Who asked for a run."""

    MANUAL = "manual"
    SCHEDULE = "schedule"
    ON_CREATE = "on_create"
    MIDNIGHT = "midnight"
    BACKFILL = "backfill"
    API = "api"
    RETRY = "retry"
