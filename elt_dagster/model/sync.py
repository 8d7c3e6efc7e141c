"""A sync as data: what a user writes in YAML, sends to the API, or puts into ``defs.yaml``.

All of it is frozen, refuses unknown keys, and never repeats its input in an error, for the input may hold a secret.
What depends on the source (does the stream exist, can the column be a cursor) is checked in `elt_dagster.control`.
"""

import re
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from elt_dagster.model.backend import BackendSettings, misplaced
from elt_dagster.model.checks import Checks
from elt_dagster.model.names import SLUG, snake_case, table_name
from elt_dagster.model.part import MisplacedError, Part
from elt_dagster.model.schedule import check_cron
from elt_dagster.model.slicing import Slicing, known_zone
from elt_dagster.model.words import (
    Automation,
    DeleteMode,
    ExecutionBackend,
    ExecutionMode,
    ExecutorChoice,
    LoadMode,
    Overlap,
    SchemaDrift,
    SyncStatus,
    TriggerMode,
)

ConnectionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
MIN_FRESHNESS_SECONDS = 60  # Dagster's freshness policies refuse less
TEN_YEARS = 3650 * 86_400  # seconds; Dagster fails to load what no timedelta can hold
OURS = "_elt_"
"""Tables whose names start so hold our own state."""
_SYSTEM_SCHEMA = re.compile(r"information_schema|pg_.*", re.IGNORECASE)
_OWNER = re.compile(r"team:.+|[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}")
_TAG_KEY = re.compile(r"([\w.-]{1,63}/)?[\w.-]{1,63}", re.ASCII)
_TAG_VALUE = re.compile(r"[\w.-]{0,63}", re.ASCII)


class ConnectionSpec(Part):
    """Credentials for a connector: a source account or a warehouse."""

    name: ConnectionName
    """What syncs call this connection; unique in the workspace."""
    connector: str
    """Which connector or warehouse, such as `postgres` or `duckdb`; `elt-dagster connectors` lists them."""
    config: dict[str, Any] = Field(default_factory=dict)
    """The connector's settings. A secret is `{env: NAME}`, `{file: PATH}`, or a literal that is encrypted at rest."""


class Schedule(Part):
    """When a sync runs by itself."""

    cron: str
    """Five cron fields, or `@hourly`, `@daily`, `@weekly`, `@monthly`."""
    timezone: str = "UTC"
    """An IANA time zone, such as `Europe/Copenhagen`."""

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        return known_zone(value)

    @field_validator("cron")
    @classmethod
    def _possible_cron(cls, value: str) -> str:
        return check_cron(value)


class Execution(Part):
    """How the runs of a sync are carried out."""

    max_concurrent: int = Field(default=4, ge=1, le=256)
    """How many streams load side by side in the fan-out modes."""
    executor: ExecutorChoice = ExecutorChoice.THREADS
    """threads, multiprocess, celery or k8s: what runs the streams in the fan-out modes; celery and k8s need Dagster's package of that name."""
    overlap: Overlap = Overlap.WAIT
    """wait or skip: what a run does with a stream that another run is loading."""
    max_retries: int = Field(default=3, ge=0, le=100)
    """How often a stream is tried again after an error that time may mend."""
    retry_delay_seconds: float = Field(default=5.0, ge=0, le=3600)
    """Wait before the first retry; it doubles each time."""
    max_runtime_seconds: int | None = Field(default=None, ge=1, le=TEN_YEARS)
    """A run that takes longer is ended by Dagster's run monitoring; by default there is no such limit."""
    heartbeat_timeout_seconds: int = Field(default=180, ge=10, le=86_400)
    """A run without a sign of life for so long is ended and started again, up to max_retries times."""
    stall_timeout_seconds: int = Field(default=7200, ge=10, le=7 * 86_400)
    """A stream that has not moved for so long gives no more signs of life: raise it where a source or a merge may take longer."""


class TableBinding(Part):
    """One stream of a sync and the table it loads: one Dagster asset."""

    name: str = Field(min_length=1)
    """The stream's name at the source, such as `public.orders`."""
    table: str | None = None
    """Table in the destination schema; by default the stream's last part in snake_case."""
    load_mode: LoadMode | None = None
    """append, replace or merge; by default merge with a primary key and a cursor, else replace."""
    primary_key: tuple[str, ...] | None = None
    """Columns that identify a row; by default the source's own key."""
    cursor_field: str | None = None
    """Column that grows with every change; by default none for replace, else the source's own."""
    lookback_seconds: int = Field(default=0, ge=0, le=30 * 86400)
    """Read again this far before the checkpoint, for sources whose rows appear late."""
    excluded_columns: tuple[str, ...] = ()
    """Columns that never leave the source."""
    hashed_columns: tuple[str, ...] = ()
    """Columns replaced by a salted SHA-256 before they reach the warehouse."""
    deletes: DeleteMode | None = None
    """hard, soft or ignore: what happens to rows that a full refresh no longer finds, or that the source reports as deleted; by default hard."""
    deleted_field: str | None = None
    """Column that tells a deleted row: true, or a date where it is no boolean; by default the source's own, if it has one."""
    enabled_history_table: bool = False
    """Keep every version of a row in `<table>__history`, with `_valid_from`, `_valid_to` and `_is_current`."""
    sliced: bool | None = None
    """For execution_mode fan_out_window: false loads this stream whole, true insists on windows; by default windows where its cursor is a time."""
    checks: Checks | None = None
    """What is checked after each load of this stream; by default the sync's."""
    full_sync_always: bool = False
    """Every run reads everything and replaces the table."""
    full_sync_at_midnight: bool = False
    """One full refresh a day, at midnight in the schedule's zone."""
    protected_from_full_sync: bool = False
    """Refuse any full refresh after the first load."""

    @field_validator("table")
    @classmethod
    def _plain_table(cls, value: str | None) -> str | None:
        if value is not None and snake_case(value) != value:
            raise ValueError(f"{value!r} is not a plain table name; use {snake_case(value)!r}")
        return value

    @field_validator("primary_key")
    @classmethod
    def _each_once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for i, name in enumerate(value or ()):
            if name in (value or ())[:i]:
                raise MisplacedError((i,), f"the column {name!r} is there twice")
        return value

    @model_validator(mode="after")
    def _not_ours(self) -> "TableBinding":
        if self.table_name.startswith(OURS):
            where = "table" if self.table else "name"
            text = f"the table {self.table_name!r} would begin with {OURS}, as those that hold our state do; give it another `table`"
            raise MisplacedError((where,), text)
        return self

    @model_validator(mode="after")
    def _flags_agree(self) -> "TableBinding":
        if self.sliced and (self.full_sync_always or self.full_sync_at_midnight):
            raise MisplacedError(
                ("sliced",),
                "a stream that is loaded in windows has no full refresh; take full_sync_always and full_sync_at_midnight away",
            )
        if self.protected_from_full_sync and (self.full_sync_always or self.full_sync_at_midnight):
            raise ValueError("protected_from_full_sync contradicts full_sync_always and full_sync_at_midnight")
        if self.protected_from_full_sync and self.load_mode is LoadMode.REPLACE:
            raise ValueError("protected_from_full_sync contradicts load_mode replace, which reads everything each time")
        if self.load_mode is LoadMode.APPEND and self.deletes is not None:
            raise MisplacedError(
                ("deletes",), "load_mode append keeps every row that ever came; deletes need merge or replace"
            )
        if self.load_mode is LoadMode.APPEND and self.enabled_history_table:
            raise MisplacedError(
                ("enabled_history_table",),
                "load_mode append keeps every version already; a history table needs merge or replace",
            )
        both = set(self.excluded_columns) & set(self.hashed_columns)
        if both:
            raise ValueError(f"columns {sorted(both)} are both excluded and hashed")
        needed = {*(self.primary_key or ()), self.cursor_field, self.deleted_field} - {None}
        if gone := needed & set(self.excluded_columns):
            raise ValueError(
                f"columns {sorted(map(str, gone))} are excluded, but are the primary key, the cursor or the deletion mark"
            )
        if self.deleted_field in self.hashed_columns:
            raise ValueError(f"the column {self.deleted_field!r} tells deleted rows and cannot be hashed")
        if self.cursor_field in self.hashed_columns:
            raise ValueError(f"the cursor column {self.cursor_field!r} cannot be hashed: hashes do not grow")
        return self

    @property
    def table_name(self) -> str:
        """The physical table this stream loads."""
        return self.table or table_name(self.name)


class SyncSpec(Part):
    """A configured sync: one source connection, one warehouse, its streams and when they run."""

    slug: str = Field(pattern=SLUG, max_length=63)
    """Short unique name, used in job names, tags and on the command line."""
    name: str = Field(default="", max_length=255)
    """Display name; the slug when empty."""
    connection: ConnectionName
    """The source connection."""
    destination: ConnectionName
    """The warehouse connection."""
    dataset: str = Field(alias="schema", min_length=1, max_length=63)
    """Schema in the warehouse that gets the tables (`schema` in YAML)."""
    status: SyncStatus = SyncStatus.ACTIVE
    """Only active syncs run by themselves."""
    schedule: Schedule | None = None
    """When it runs; needed for trigger_mode scheduled."""
    trigger_mode: TriggerMode | None = None
    """manual, scheduled or on_create; by default scheduled where there is a schedule, else manual."""
    automation: Automation | None = None
    """eager or on_missing: Dagster also loads a stream by itself, when its parents have changed or while it was never loaded."""
    execution_mode: ExecutionMode = ExecutionMode.SEQUENTIAL
    """sequential, fan_out_entity or fan_out_window."""
    slicing: Slicing | None = None
    """For fan_out_window: the windows into which every stream is cut that can be read by time; the others are loaded whole."""
    execution: Execution = Execution()
    """Concurrency and retries."""
    execution_backend: ExecutionBackend = ExecutionBackend.NATIVE
    """native, external, prefect or temporal: who loads the tables."""
    backend: BackendSettings = BackendSettings()
    """For execution_backend prefect and temporal: where that is and what it runs."""
    freshness_sla_seconds: int | None = Field(default=None, ge=MIN_FRESHNESS_SECONDS, le=TEN_YEARS)
    """How old the tables may get before Dagster says they are stale; at least 60, for Dagster's policies allow no less."""
    schema_drift: SchemaDrift = SchemaDrift.EVOLVE
    """What to do when the source's columns change."""
    checks: Checks = Checks()
    """What is checked after each load."""
    add_metadata_columns: bool = True
    """Add `_elt_loaded_at` and `_elt_run_id` to every table."""
    owners: tuple[str, ...] = ()
    """Dagster owners of the assets: e-mail addresses or `team:name`."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Dagster tags of the assets."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the connector that belong to this sync rather than to the account."""
    streams: tuple[TableBinding, ...] = ()
    """What to load."""

    @field_validator("dataset")
    @classmethod
    def _plain_schema(cls, value: str) -> str:
        if snake_case(value) != value and not value.replace("_", "").isalnum():
            raise ValueError(f"{value!r} is not a plain schema name; use {snake_case(value)!r}")
        if _SYSTEM_SCHEMA.fullmatch(value):
            raise ValueError(f"{value!r} belongs to the warehouse itself; choose another schema")
        return value

    @field_validator("owners")
    @classmethod
    def _dagster_owners(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for i, owner in enumerate(value):
            if not _OWNER.fullmatch(owner):
                raise MisplacedError((i,), f"{owner!r} is no owner; allowed: an e-mail address, or team:name")
        return value

    @field_validator("tags")
    @classmethod
    def _dagster_tags(cls, value: dict[str, str]) -> dict[str, str]:
        # Dagster refuses others only when definitions load, which is too late to tell whoever wrote them.
        for key, text in value.items():
            if not _TAG_KEY.fullmatch(key):
                raise ValueError(f"{key[:80]!r} is no tag; allowed: at most 63 letters, digits, _ - and .")
            if not _TAG_VALUE.fullmatch(text):
                raise MisplacedError((key,), "the value of a tag has at most 63 letters, digits, _ - and .")
        return value

    @model_validator(mode="after")
    def _hangs_together(self) -> "SyncSpec":
        if self.trigger_mode is TriggerMode.SCHEDULED and self.schedule is None:
            raise MisplacedError(("schedule",), "trigger_mode scheduled needs a schedule")
        if any(s.full_sync_at_midnight for s in self.streams) and self.schedule is None:
            raise MisplacedError(("schedule",), "full_sync_at_midnight needs a schedule, for its time zone")
        self._check_slicing()
        self._check_backend()
        seen: dict[str, str] = {}
        for i, binding in enumerate(self.streams):
            if binding.name in seen.values():
                raise MisplacedError(("streams", i, "name"), f"the stream {binding.name!r} is there twice")
            if binding.table_name in seen:
                raise MisplacedError(
                    ("streams", i),
                    f"streams {seen[binding.table_name]!r} and {binding.name!r} would both load the table "
                    f"{binding.table_name!r}; give one of them another `table`",
                )
            seen[binding.table_name] = binding.name
        return self

    def _check_slicing(self) -> None:
        windows = self.execution_mode is ExecutionMode.FAN_OUT_WINDOW
        if windows and self.slicing is None:
            raise ValueError("execution_mode fan_out_window needs `slicing`: the window and the first day")
        if self.slicing is not None and not windows:
            raise MisplacedError(("slicing",), "slicing needs execution_mode fan_out_window")
        for i, binding in enumerate(self.streams):
            if binding.sliced and not windows:
                raise MisplacedError(("streams", i, "sliced"), "sliced needs execution_mode fan_out_window")

    def _check_backend(self) -> None:
        if wrong := misplaced(self.execution_backend, self.backend):
            name, text = wrong
            raise MisplacedError(("backend", name), text)
        if self.execution_backend is not ExecutionBackend.EXTERNAL:
            return
        by_itself = {
            "schedule": self.schedule is not None,
            "automation": self.automation is not None,
            "trigger_mode": self.trigger is not TriggerMode.MANUAL,
        }
        for name in (name for name, is_set in by_itself.items() if is_set):
            text = f"execution_backend external means that Dagster starts nothing, so there can be no {name}"
            raise MisplacedError((name,), text)

    def slicing_of(self, binding: TableBinding) -> Slicing | None:
        """How ``binding`` is cut into windows, with the zone filled in; None when it is loaded whole."""
        slicing = self.slicing
        if slicing is None or binding.sliced is False or binding.full_sync_always or binding.full_sync_at_midnight:
            return None
        zone = self.schedule.timezone if self.schedule is not None else "UTC"
        return slicing if slicing.timezone else slicing.model_copy(update={"timezone": zone})

    @property
    def title(self) -> str:
        """The display name."""
        return self.name or self.slug

    @property
    def trigger(self) -> TriggerMode:
        """What starts its runs, with the default filled in."""
        return self.trigger_mode or (TriggerMode.SCHEDULED if self.schedule else TriggerMode.MANUAL)

    def binding(self, name: str) -> TableBinding | None:
        """The binding of stream ``name``, if it is selected."""
        return next((b for b in self.streams if b.name == name), None)


class Project(Part):
    """A YAML file: connections and syncs."""

    connections: tuple[ConnectionSpec, ...] = ()
    """Source accounts and warehouses."""
    syncs: tuple[SyncSpec, ...] = ()
    """Configured syncs."""

    @model_validator(mode="after")
    def _unique(self) -> "Project":
        for what, names in (("connection", [c.name for c in self.connections]), ("sync", [s.slug for s in self.syncs])):
            twice = sorted({n for n in names if names.count(n) > 1})
            if twice:
                raise ValueError(f"{what} {twice[0]!r} is there twice")
        return self
