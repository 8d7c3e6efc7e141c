"""From our words to those of the Syncs dialect: what is answered. The way back is `syncs_reading`."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic.alias_generators import to_camel

from elt_dagster.api import syncs_models as shown
from elt_dagster.api import syncs_run_models as run_models
from elt_dagster.api.model_base import RunStatusWord
from elt_dagster.api.syncs_configs import shown_destination, shown_execution
from elt_dagster.api.words import Spelling
from elt_dagster.control.catalog import Provider, Resource
from elt_dagster.control.kept import Kept
from elt_dagster.control.runs import LatestRuns, RunView
from elt_dagster.control.validate import job_of
from elt_dagster.engine import defaults
from elt_dagster.model import (
    ExecutionBackend,
    ExecutionMode,
    LoadMode,
    SyncSpec,
    SyncStatus,
    TableBinding,
    TriggerMode,
)
from elt_dagster.model.names import table_name
from elt_dagster.model.slicing import WINDOWS
from elt_dagster.store import AnySync, BrokenSync, StoredSync

LOAD_MODES = Spelling(LoadMode, append="append_event", merge="upsert_entity", replace="replace_snapshot")
BINDINGS = "table_bindings"
"""In a sync's envelope: what this dialect keeps of each stream."""
_NOTHING = LatestRuns()
_WITHOUT_RUNS = Kept[StoredSync, shown.Sync]()
_RUNS = Kept[RunView, run_models.Run]()
_LOAD_WORDS = {mode: shown.LoadModeWord(LOAD_MODES.write(mode)) for mode in LoadMode}


def shown_sync(
    sync: AnySync, *, kinds: Mapping[str, str], latest: Mapping[str, LatestRuns], errors: Mapping[str, str]
) -> shown.Sync:
    """A sync. ``kinds`` are the connectors of all connections, by name; ``latest`` and ``errors`` are by the sync's id."""
    runs = latest.get(sync.id, _NOTHING)
    if isinstance(sync, BrokenSync):
        return _broken(sync, runs)
    of_now = {"last_error": errors.get(sync.id), "last_success_at": runs.last_success_at}
    base = _WITHOUT_RUNS.of(sync.id, sync, _without_runs)
    return base.model_copy(update={**of_now, "provider_key": kinds.get(sync.spec.connection, "")})


def _without_runs(sync: StoredSync) -> shown.Sync:
    spec = sync.spec
    data = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"streams", "settings"})
    return shown.Sync(
        id=sync.id,
        name=spec.title,
        slug=spec.slug,
        task_slug=job_of(spec.slug),
        provider_key="",
        connection_id=sync.connection_id,
        status=spec.status,
        trigger_mode=spec.trigger,
        schedule=shown.Schedule(cron=spec.schedule.cron, timezone=spec.schedule.timezone) if spec.schedule else None,
        source_config=dict(spec.settings),
        destination_config=shown_destination(data, sync.envelope, sync.destination_id),
        entities=[b.name for b in spec.streams],
        table_bindings=_bindings(sync),
        execution_mode=spec.execution_mode,
        execution_backend=spec.execution_backend,
        execution_config=shown_execution(data, sync.envelope),
        freshness_sla_seconds=spec.freshness_sla_seconds,
        last_error=None,
        last_success_at=None,
        created_at=sync.created_at,
        created_by=sync.created_by or None,
        updated_at=sync.updated_at,
        updated_by=sync.updated_by or None,
    )


def _broken(sync: BrokenSync, runs: LatestRuns) -> shown.Sync:
    return shown.Sync(
        id=sync.id,
        name=sync.title or sync.slug,
        slug=sync.slug,
        task_slug=job_of(sync.slug),
        provider_key="",
        connection_id=sync.connection_id,
        status=SyncStatus.ERROR,
        trigger_mode=TriggerMode.MANUAL,
        schedule=None,
        source_config={},
        destination_config={},
        entities=[],
        table_bindings=[],
        execution_mode=ExecutionMode.SEQUENTIAL,
        execution_backend=ExecutionBackend.NATIVE,
        execution_config={},
        freshness_sla_seconds=None,
        last_error=sync.error,
        last_success_at=runs.last_success_at,
        created_at=sync.created_at,
        created_by=None,
        updated_at=sync.updated_at,
        updated_by=None,
    )


def _bindings(sync: StoredSync) -> list[shown.TableBinding]:
    kept: Mapping[str, Any] = sync.envelope.get(BINDINGS) or {}
    return [_binding(sync, binding, kept.get(binding.name) or {}) for binding in sync.spec.streams]


def _binding(sync: StoredSync, binding: TableBinding, kept: Mapping[str, Any]) -> shown.TableBinding:
    mode, primary_key, cursor = defaults(binding, sync.streams[binding.name])
    created_at, updated_at = sync.binding_times[binding.name]
    return shown.TableBinding(
        id=sync.binding_ids[binding.name],
        entity_key=binding.name,
        load_mode=_LOAD_WORDS[mode],
        primary_key_columns=list(primary_key),
        cursor_field=cursor,
        table_name=binding.table_name,
        physical_table_name=binding.table_name,
        logical_table_name=kept.get("logical_table_name") or table_name(binding.name),
        table_naming_version=shown.TableNaming(named)
        if (named := kept.get("table_naming_version"))
        else shown.TableNaming.V1,
        source_instance_key=kept.get("source_instance_key") or sync.connection_id,
        created_at=created_at,
        updated_at=updated_at,
    )


# --- runs --------------------------------------------------------------------------------------------------------------------


def shown_run(view: RunView, spec: SyncSpec) -> run_models.Run:
    """A run of a sync; where the run itself does not say how it is carried out, the sync does."""
    said_by_sync = f"{view.id} {spec.execution_mode} {spec.execution_backend}"
    return _RUNS.of(said_by_sync, view, lambda _: _shown_run(view, spec))


def _shown_run(view: RunView, spec: SyncSpec) -> run_models.Run:
    work = view.backend
    backend = view.execution_backend or spec.execution_backend.value
    return run_models.Run(
        id=view.id,
        sync_id=view.sync_id,
        status=RunStatusWord(view.status.value),
        run_mode=view.run_mode,
        triggered_by=view.triggered_by,
        trigger_ref=view.trigger_ref or None,
        attempt_number=view.attempt or 1,
        attempt_root_run_id=view.root_id or view.id,
        previous_attempt_run_id=view.parent_id,
        next_attempt_run_id=view.next_id,
        max_auto_resume_attempts=view.max_retries,
        execution_mode=ExecutionMode(view.execution_mode or spec.execution_mode),
        execution_backend=ExecutionBackend(backend),
        executor_id=view.executor_id,
        backend_run_ref=work.run if work else view.id,
        backend_run_url=(work.url if work else None) or view.url,
        backend_status={"backend": work.backend if work else backend, "status": work.status if work else view.status.value},
        backend_heartbeat_at=work.heartbeat_at if work else view.heartbeat_at,
        last_heartbeat_at=view.heartbeat_at,
        cancel_reason=view.cancel_reason or None,
        cancel_requested_at=view.cancel_requested_at,
        cancel_requested_by=view.cancel_requested_by or None,
        result_class=view.result_class,
        result_reason_code=view.reason,
        summary=_summary(view),
        error=view.first_error,
        created_at=view.created_at,
        started_at=view.started_at,
        completed_at=view.ended_at,
        updated_at=view.updated_at or _newest(view),
    )  # fmt: skip


def _newest(view: RunView) -> datetime | None:
    known = [at for at in (view.created_at, view.started_at, view.ended_at) if at is not None]
    return max(known, default=None)


def _summary(view: RunView) -> dict[str, Any]:
    whole = {to_camel(name): value for name, value in view.summary.items()}
    streams: Mapping[str, Mapping[str, Any]] = view.summary["streams"]
    # the names of streams are the source's own
    return {**whole, "streams": {name: {to_camel(k): v for k, v in s.items()} for name, s in streams.items()}}


# --- what a provider offers --------------------------------------------------------------------------------------------------


def shown_provider(found: Provider, warehouse: str | None) -> shown.ProviderCatalog:
    """What a connector offers; ``warehouse`` is the kind that a sync loads into if it names none."""
    resources = [_resource(r, warehouse) for r in found.resources]
    usual = shown.SyncWanted.model_fields
    choices = ("execution_backend", "execution_mode", "status", "trigger_mode")
    return shown.ProviderCatalog(
        provider=found.name,
        name=found.name,
        display_name=found.title,
        config_schema=dict(found.settings_schema),
        defaults={"sourceConfig": dict(found.settings), **{to_camel(n): usual[n].default for n in choices}},
        dynamic_resources=found.is_dynamic,
        available_resources=[r.entity_key for r in resources],
        default_resources=[r.entity_key for r in resources if r.default_selected],
        resources=resources,
    )


def _resource(found: Resource, warehouse: str | None) -> shown.Resource:
    windows = {"cursorField": found.cursor_field, "windows": list(WINDOWS)} if found.cursor_field else {}
    return shown.Resource(
        entity_key=found.name,
        display_name=found.name.replace("_", " ").capitalize(),
        description=found.description,
        load_mode=_LOAD_WORDS[found.load_mode],
        cursor_field=found.cursor_field,
        depends_on=list(found.depends_on),
        default_selected=found.selected,
        size_class=found.size_class,
        slicing=windows,
        storage_kind=warehouse,
        storage_description=f"The table {table_name(found.name)} in the sync's schema of the warehouse.",
        config_schema={"type": "object", "properties": {}, "additionalProperties": False},
    )
