"""From configured syncs to Dagster definitions. Loading asks nothing but the store, and never fails.

``ELT_DAGSTER_SELECT`` (slug patterns, separated by commas) splits many syncs over several code locations.

The **default destination** is the warehouse connection that was made first (of several made at once the one called ``warehouse``, else
the first by name). Its assets are called ``[schema, table]``; those of every other destination ``[destination, schema, table]``. The
choice holds whatever is added or selected later, so that assets keep their names.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from typing import Any

import dagster as dg

from elt_dagster.control.configured import ConfiguredSync
from elt_dagster.errors import ConfigError, ConflictError
from elt_dagster.model import ExecutionBackend, SyncStatus, TriggerMode
from elt_dagster.orchestration._live_load import ShownConnections, StoreRead, pin_revision, read_store
from elt_dagster.orchestration._run_scope import RunScope, run_scope
from elt_dagster.orchestration.assets import broken_asset, build_assets
from elt_dagster.orchestration.automation import automation_sensor
from elt_dagster.orchestration.io_manager import io_manager_key, warehouse_io_manager
from elt_dagster.orchestration.jobs import build_job, build_schedules, job_name
from elt_dagster.orchestration.live import FirstRun, Loaded, note_loaded
from elt_dagster.orchestration.resources import SYNC_RUN, SYNC_RUN_KEY
from elt_dagster.orchestration.sensors import build_first_run_sensor, build_sensor
from elt_dagster.orchestration.silence import add_limits, sensors_of_file
from elt_dagster.orchestration.silence import build_sensor as build_silence_sensor
from elt_dagster.orchestration.silence import sensor_name as silence_sensor_name
from elt_dagster.orchestration.translator import SyncTranslator, group_name
from elt_dagster.registry import destination_names
from elt_dagster.store import DEFAULT_WORKSPACE, AnySync, BrokenSync, StoredConnection

SELECT_VARIABLE = "ELT_DAGSTER_SELECT"
SHOWN = frozenset({SyncStatus.ACTIVE, SyncStatus.PAUSED, SyncStatus.ERROR})
"""Drafts and archived syncs have no assets."""
_log = logging.getLogger("elt_dagster")


def build_definitions(
    store_url: str | None = None,
    *,
    select: str | Sequence[str] | None = None,
    translator: SyncTranslator | None = None,
    workspace: str = DEFAULT_WORKSPACE,
    executor: dg.ExecutorDefinition | None = dg.in_process_executor,
    live: bool = True,
) -> dg.Definitions:
    """Assets, jobs, schedules, resources and the sensor of every sync in the store (default ``ELT_DAGSTER_STORE``).

    ``select`` are slug patterns such as ``shop-*``; default ``ELT_DAGSTER_SELECT``, else all. A sync that cannot become assets becomes
    one broken asset that tells why, and so does a store that is missing or out of reach. The sensor ``elt_syncs`` keeps the location in step
    with the store (`live`): pass ``live=False`` to all but one call for a workspace that is merged into one location. Pass
    ``executor=None`` where the definitions you merge with bring their own default executor.
    """
    read = read_store(store_url, workspace, _scope(translator))
    default = read.default_destination or default_destination(read.connections)
    builder = _Builder(translator or SyncTranslator(), default)
    if read.store is None or read.revision is None:
        builder.add_unreadable(read.problem)
    else:
        pin_revision(read, workspace, default)
        _add_stored(builder, read.syncs, ShownConnections(read.store, workspace), _patterns(select))
    sensors = [_live_sensor(builder, read, workspace)] if live and read.store is not None else []
    silence = silence_sensor_name(workspace)
    add_limits(silence, builder.silences)
    if live and read.revision is not None:
        sensors.append(build_silence_sensor(silence))
    automation = automation_sensor(builder.assets, workspace)
    return builder.build(executor, [*sensors, *([automation] if automation is not None else [])])


def _scope(translator: SyncTranslator | None) -> RunScope | None:
    """The run to load for. Whoever translates may have given the assets other keys, so a run of chosen assets then loads everything."""
    scope = run_scope()
    own_keys = type(translator).get_asset_spec is not SyncTranslator.get_asset_spec if translator is not None else False
    return scope if scope is None or not (scope.tables and own_keys) else None


def _add_stored(
    builder: "_Builder", syncs: Iterable[AnySync], connections: ShownConnections, wanted: Sequence[str]
) -> None:
    for sync in syncs:
        if not any(fnmatchcase(sync.slug, pattern) for pattern in wanted):
            continue
        if isinstance(sync, BrokenSync):
            builder.add_broken(sync.slug, ConfigError(sync.error))
        elif sync.spec.status in SHOWN:
            builder.add(
                ConfiguredSync(
                    id=sync.id,
                    spec=sync.spec,
                    streams=sync.streams,
                    binding_ids=sync.binding_ids,
                    connections=connections,
                    revision=sync.revision,
                )
            )
    connections.are_loading = False


def _live_sensor(builder: "_Builder", read: StoreRead, workspace: str) -> dg.SensorDefinition:
    assert read.store is not None  # noqa: S101 - for the type checkers; the caller looked
    first = builder.first_runs
    waiting = read.store.without_first_run(first) if first else set[str]()
    loaded = Loaded(
        store=read.store,
        workspace=workspace,
        revision=read.revision,
        first_runs=tuple(first[sync_id] for sync_id in first if sync_id in waiting),
        problem=str(read.problem or ""),
    )
    note_loaded(loaded)
    return build_sensor(loaded, [job for sync_id, job in builder.first_jobs.items() if sync_id in waiting])


def sync_definitions(
    syncs: ConfiguredSync | Iterable[ConfiguredSync],
    translator: SyncTranslator | None = None,
    *,
    default_destination: str | None = None,
    document: tuple[object, str] | None = None,
) -> dg.Definitions:
    """Definitions of syncs that stand outside the store. No default executor is set, so that they merge with anything.

    ``default_destination`` is the one whose assets have no prefix; by default that of the first sync. ``document`` is the load that the syncs are
    read in, and the name of their file: with it, runs that fall silent are ended.
    """
    several = [syncs] if isinstance(syncs, ConfiguredSync) else list(syncs)
    default = default_destination or (several[0].spec.destination if several else None)
    builder = _Builder(translator or SyncTranslator(), default)
    for sync in several:
        builder.add(sync)
    sensors = [build_first_run_sensor(first, builder.first_jobs[key]) for key, first in builder.first_runs.items()]
    if document is not None:
        sensors += sensors_of_file(*document, builder.silences)
    return builder.build(None, sensors)


def default_destination(connections: Iterable[StoredConnection]) -> str | None:
    """The warehouse connection whose assets are called ``[schema, table]``; None when there is no warehouse."""
    kinds = set(destination_names())
    warehouses = [c for c in connections if c.spec.connector in kinds]
    first = min(warehouses, key=lambda c: (c.created_at, c.spec.name != "warehouse", c.spec.name), default=None)
    return first.spec.name if first is not None else None


def _patterns(select: str | Sequence[str] | None) -> list[str]:
    given = os.environ.get(SELECT_VARIABLE, "") if select is None else select
    parts = given.split(",") if isinstance(given, str) else list(given)
    return [p.strip() for p in parts if p.strip()] or ["*"]


@dataclass
class _Builder:
    """Collects definitions sync by sync; what one sync does wrong stays with it."""

    translator: SyncTranslator
    default_destination: str | None
    assets: list[dg.AssetsDefinition] = field(default_factory=list[dg.AssetsDefinition])
    jobs: list[Any] = field(default_factory=list[Any])
    schedules: list[dg.ScheduleDefinition] = field(default_factory=list[dg.ScheduleDefinition])
    resources: dict[str, Any] = field(default_factory=lambda: {SYNC_RUN_KEY: SYNC_RUN})
    owners: dict[object, str] = field(default_factory=dict[object, str])
    """Which sync owns an asset key or a job name."""
    first_runs: dict[str, FirstRun] = field(default_factory=dict[str, FirstRun])
    """By sync id, those of active syncs with trigger_mode on_create."""
    first_jobs: dict[str, Any] = field(default_factory=dict[str, Any])
    silences: dict[str, float] = field(default_factory=dict[str, float])
    """By sync id, for how many seconds its runs may be silent."""

    def add(self, sync: ConfiguredSync) -> None:
        """Add a sync, or one broken asset in its place."""
        try:
            self._add(sync)
        except Exception as error:
            # Anything at all: a user's translator, Dagster refusing a tag. A location that does not load would take every sync along.
            self.add_broken(sync.spec.slug, error)

    def add_broken(self, slug: str, error: Exception) -> None:
        """Add what stands for a broken sync."""
        _log.warning("The sync %s is broken: %s", slug, error)
        asset = broken_asset(slug, error)
        if asset.key not in self.owners:
            self.owners[asset.key] = slug
            self.assets.append(asset)

    def add_unreadable(self, error: Exception | None) -> None:
        """Add what stands for a store that cannot be read."""
        self.assets.append(
            broken_asset("elt-store", error or ConfigError("The store cannot be read."), what="store of syncs")
        )

    def build(
        self, executor: dg.ExecutorDefinition | None, sensors: Sequence[dg.SensorDefinition] = ()
    ) -> dg.Definitions:
        """All of it."""
        return dg.Definitions(
            assets=self.assets,
            jobs=self.jobs,
            schedules=self.schedules,
            sensors=sensors,
            resources=self.resources,
            executor=executor,
        )

    def _add(self, sync: ConfiguredSync) -> None:
        spec = sync.spec
        _refuse_cycles(sync)
        if not spec.streams:
            raise ConfigError(f"Sync {spec.slug!r} selects no stream.", fix="Add at least one under streams.")
        io_key = io_manager_key(spec.destination)
        io_manager = warehouse_io_manager(sync.connections, spec.destination)
        if self.resources.get(io_key, io_manager) is not io_manager:
            raise ConflictError(
                f"Sync {spec.slug!r}: another destination has the resource key {io_key!r} already.",
                fix=f"Rename the connection {spec.destination!r}.",
            )
        prefix = () if spec.destination == self.default_destination else (spec.destination.replace("-", "_"),)
        assets = build_assets(sync, self.translator, prefix)
        keys = [a.key for a in assets]
        if spec.execution_backend is ExecutionBackend.EXTERNAL:
            # Nothing here is run by Dagster: no job, no schedule.
            self._claim(spec.slug, keys)
            self.resources[io_key] = io_manager
            self.assets += assets
            return
        job = build_job(sync, keys)
        midnight = [k for k, b in zip(keys, spec.streams, strict=True) if b.full_sync_at_midnight]
        schedules = build_schedules(sync, assets, midnight)
        self._claim(spec.slug, [*keys, job_name(spec.slug)])
        self.resources[io_key] = io_manager
        self.assets += assets
        self.jobs.append(job)
        self.silences[sync.id] = float(spec.execution.heartbeat_timeout_seconds)
        self._add_first_run(sync, assets, job)
        self.schedules += schedules

    def _add_first_run(self, sync: ConfiguredSync, assets: Iterable[dg.AssetsDefinition], job: Any) -> None:
        if sync.spec.trigger is TriggerMode.ON_CREATE and sync.spec.status is SyncStatus.ACTIVE:
            cut = (a.partitions_def for a in assets)
            windows = next((p for p in cut if isinstance(p, dg.TimeWindowPartitionsDefinition)), None)
            self.first_runs[sync.id] = FirstRun(sync.id, sync.spec.slug, job_name(sync.spec.slug), windows)
            self.first_jobs[sync.id] = job

    def _claim(self, slug: str, names: Sequence[object]) -> None:
        for name in names:
            if name in self.owners or names.count(name) > 1:
                shown = name.to_user_string() if isinstance(name, dg.AssetKey) else name
                raise ConflictError(
                    f"Sync {slug!r}: {shown} belongs to sync {self.owners.get(name, slug)!r} already.",
                    fix="Load into another schema or table, or use another slug.",
                )
        self.owners.update(dict.fromkeys(names, slug))


def _refuse_cycles(sync: ConfiguredSync) -> None:
    """Dagster would refuse the whole location."""
    parents = {b.name: set(sync.stream(b.name).depends_on) for b in sync.spec.streams}
    try:
        TopologicalSorter(parents).prepare()
    except CycleError as error:
        ring = " -> ".join(error.args[1])
        raise ConfigError(
            f"Sync {sync.spec.slug!r}: the streams {ring} wait for each other.", fix="Correct their depends_on."
        ) from None


__all__ = ["build_definitions", "default_destination", "group_name", "sync_definitions"]
