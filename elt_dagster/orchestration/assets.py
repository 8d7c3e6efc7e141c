"""One asset, hence one step, per binding: a failing stream leaves its siblings alone, and a re-execution runs only what failed."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from inspect import signature
from typing import Any

import dagster as dg

from elt_dagster.control.backends import require_backend
from elt_dagster.control.configured import ConfiguredSync
from elt_dagster.engine import StreamRead, resolve_binding
from elt_dagster.errors import ConfigError, EltError
from elt_dagster.model import ExecutionBackend, RunMode, TriggeredBy
from elt_dagster.orchestration.backends import Handover, external_asset, is_native
from elt_dagster.orchestration.checking import StepChecks
from elt_dagster.orchestration.checks import check_specs
from elt_dagster.orchestration.errors import REASON, dagster_errors, failure, retry_policy
from elt_dagster.orchestration.heartbeat import heartbeat
from elt_dagster.orchestration.io_manager import io_manager_key
from elt_dagster.orchestration.metadata import SYNC
from elt_dagster.orchestration.overlap import run_ahead
from elt_dagster.orchestration.resources import SyncRun
from elt_dagster.orchestration.sizes import step_tags
from elt_dagster.orchestration.tags import (
    EXECUTION_BACKEND_TAG,
    RUN_MODE_TAG,
    SKIPPED_FOR_TAG,
    SYNC_TAG,
    recovery_tags,
    sync_tags,
    trigger_tags,
)
from elt_dagster.orchestration.translator import BindingProps, SyncTranslator, group_name
from elt_dagster.orchestration.windows import run_window

BROKEN = "broken"


def _loads(context: dg.AssetExecutionContext, sync_run: SyncRun) -> Iterator[Any]:
    """What the step of every binding looks like."""
    raise NotImplementedError


_load_signature = signature(_loads)


def build_assets(
    sync: ConfiguredSync, translator: SyncTranslator, key_prefix: tuple[str, ...] = ()
) -> list[dg.AssetsDefinition]:
    """The assets of ``sync``, in the order of its streams. Raises EltError for what cannot become an asset."""
    source = sync.connections.kind(sync.spec.connection)
    warehouse = sync.connections.kind(sync.spec.destination)
    props = [
        BindingProps(
            sync=sync,
            resolved=sync.resolved(binding),
            source_kind=source,
            warehouse_kind=warehouse,
            key_prefix=key_prefix,
        )
        for binding in sync.spec.streams
    ]
    specs = [translator.get_asset_spec(p) for p in props]
    keys = frozenset(spec.key for spec in specs)
    require_backend(sync.spec, sync.runtime.environ)
    if sync.spec.execution_backend is ExecutionBackend.EXTERNAL:
        return [external_asset(spec.with_io_manager_key(io_manager_key(sync.spec.destination))) for spec in specs]
    return [_build_asset(p, spec, keys) for p, spec in zip(props, specs, strict=True)]


def _build_asset(props: BindingProps, spec: dg.AssetSpec, sync_keys: frozenset[dg.AssetKey]) -> dg.AssetsDefinition:
    sync, stream = props.sync, props.resolved.stream.name
    execution = sync.spec.execution

    def load(context: dg.AssetExecutionContext, sync_run: SyncRun) -> Iterator[Any]:
        with heartbeat(context, stream, execution, watches_stalls=is_native(sync)):
            if context.selected_asset_keys:
                yield from run(context, sync_run)
            else:
                yield from StepChecks(context=context, sync=sync, resolved=props.resolved, key=spec.key).alone()

    def run(context: dg.AssetExecutionContext, sync_run: SyncRun) -> Iterator[Any]:
        with dagster_errors(execution, attempt=context.retry_number, stream=stream):
            mode = sync_run.mode(context.run.tags)
            _keep_tags(context, sync, sync_keys, mode)
            reset = sync_run.reset_history_table
            window = run_window(context, sync_run)
            read = sync.read(stream, run_id=context.run.run_id, run_mode=mode, window=window, reset_history=reset)
            if (active := run_ahead(context, sync, read, spec.key)) is not None:
                context.log.warning(f"{stream}: left out, for run {active} is loading it.")
                context.instance.add_run_tags(context.run.run_id, {SKIPPED_FOR_TAG: active})
                return
            handed_over = None if is_native(sync) else _hand_over(context, props, read, spec.key)
            if handed_over is None:
                read = with_discovered_stream(sync, read)
            resolved = resolve_binding(read.binding, read.stream)
        step = StepChecks(context=context, sync=sync, resolved=resolved, key=spec.key)
        if handed_over is not None:
            yield from step.after_elsewhere()  # before the materialization, which they hold the columns against
            yield handed_over
            return
        watched = step.watched(read)
        yield dg.Output(watched, output_name=spec.key.to_python_identifier())  # the IO manager loads it here
        yield from step.after(watched)

    load.__signature__ = _load_signature  # type: ignore[attr-defined]  # Dagster asks for it fifteen times per asset
    # One asset; `multi_asset`, because only there may a person run the checks without the load.
    return dg.multi_asset(
        name=spec.key.to_python_identifier(),
        specs=[spec.with_io_manager_key(io_manager_key(sync.spec.destination))],
        check_specs=check_specs(sync.spec, props.resolved, spec.key),
        can_subset=True,
        op_tags=step_tags(sync.spec, props.resolved.stream.size_class),
        retry_policy=retry_policy(execution),
    )(load)


def _hand_over(
    context: dg.AssetExecutionContext, props: BindingProps, read: StreamRead, key: dg.AssetKey
) -> "dg.MaterializeResult[Any]":
    handover = Handover(sync=props.sync, resolved=props.resolved, read=read, context=context, key=key)
    return dg.MaterializeResult(asset_key=key, metadata=handover.run())


def with_discovered_stream(sync: ConfiguredSync, read: StreamRead) -> StreamRead:
    """``read`` with its stream as the source describes it, where that was not stored (a sync in a ``defs.yaml``).

    Raises NotFoundError for a stream the source does not have.
    """
    if read.binding.name in sync.streams:
        return read
    return replace(read, stream=sync.open_source().discover(sync.spec.settings)[read.binding.name])


def _keep_tags(
    context: dg.AssetExecutionContext, sync: ConfiguredSync, sync_keys: frozenset[dg.AssetKey], mode: RunMode
) -> None:
    """Give the run the tags it lacks: a launch from the asset graph or by ``dg launch`` brings none of them."""
    run, wanted = context.run, {RUN_MODE_TAG: mode.value}
    if SYNC_TAG not in run.tags and run.asset_selection and run.asset_selection <= sync_keys:
        manual = trigger_tags(TriggeredBy.MANUAL, "", mode)
        # its executor is the code location's, so that only who loads the streams is as the sync says
        loaded_by = {EXECUTION_BACKEND_TAG: sync.spec.execution_backend.value}
        lasting = {**sync_tags(sync.id, sync.spec.slug), **recovery_tags(sync.spec.execution), **loaded_by}
        wanted = {**lasting, **manual, **wanted}
    new = {key: value for key, value in wanted.items() if run.tags.get(key) != value}
    if new:
        context.instance.add_run_tags(run.run_id, new)


def broken_asset(slug: str, error: Exception, *, what: str = "sync") -> dg.AssetsDefinition:
    """What stands for a sync that cannot become assets: it shows ``error`` and fails with it, and harms no other."""
    shown = error if isinstance(error, EltError) else ConfigError(f"Sync {slug!r}: {error}")
    failed = failure(shown)
    metadata: Mapping[str, str] = {REASON: shown.reason}

    @dg.asset(
        key=[BROKEN, group_name(slug)],
        group_name=BROKEN,
        description=f"**The {what} `{slug}` is broken.**\n\n{shown}",
        metadata=metadata,
        tags={SYNC: slug},
        kinds={"broken"},
    )
    def broken() -> None:
        raise failed

    return broken
