"""From a binding to a Dagster asset: the one place where a user changes what an asset looks like.

```python
class OurTranslator(SyncTranslator):
    def get_asset_spec(self, props):
        spec = super().get_asset_spec(props)
        return spec.replace_attributes(owners=["team:data"], tags={**spec.tags, "tier": "1"})
```
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import dagster as dg

from elt_dagster.control.configured import ConfiguredSync
from elt_dagster.engine import ResolvedBinding
from elt_dagster.engine.plan import warehouse_name
from elt_dagster.engine.windows import slicing_of, window_field
from elt_dagster.model import ExecutionBackend, SyncSpec
from elt_dagster.orchestration.automation import condition_of
from elt_dagster.orchestration.frame_plans import PARTITION_COLUMN
from elt_dagster.orchestration.lineage import source_key
from elt_dagster.orchestration.metadata import SYNC, definition_metadata
from elt_dagster.orchestration.windows import partitions_of


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingProps:
    """All there is to know about a binding when its asset is made."""

    sync: ConfiguredSync
    resolved: ResolvedBinding
    source_kind: str
    """The connector, such as ``postgres``."""
    warehouse_kind: str
    """The warehouse, such as ``duckdb``."""
    key_prefix: tuple[str, ...] = ()
    """Empty for the default destination, else its name."""

    @property
    def key(self) -> dg.AssetKey:
        """``[schema, table]``, after the prefix."""
        return self.key_of(self.resolved.binding.table_name)

    def key_of(self, table: str) -> dg.AssetKey:
        """The key of another table of the same sync."""
        return dg.AssetKey([*self.key_prefix, self.sync.spec.dataset, table])


class SyncTranslator:
    """Says which asset a binding becomes. Subclass it, call ``super()`` and `replace_attributes`."""

    def get_asset_spec(self, props: BindingProps) -> dg.AssetSpec:
        """The asset of one binding. Keep ``dagster/table_name`` in the metadata if you change the key: downstream assets read by it."""
        spec, resolved = props.sync.spec, props.resolved
        slicing = slicing_of(spec, resolved)
        sla = spec.freshness_sla_seconds
        return dg.AssetSpec(
            key=props.key,
            deps=_parents(props),
            description=_description(props),
            group_name=group_name(spec.slug),
            owners=list(spec.owners),
            tags={**spec.tags, SYNC: spec.slug},
            kinds={props.source_kind, props.warehouse_kind, *_backend_kind(spec)},
            automation_condition=condition_of(spec),
            partitions_def=partitions_of(slicing) if slicing is not None else None,
            freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(seconds=sla)) if sla else None,
            metadata={
                **definition_metadata(
                    resolved,
                    dataset=spec.dataset,
                    sync=spec.slug,
                    add_metadata_columns=spec.add_metadata_columns,
                    source_file=props.sync.source_file,
                    source=source_key(spec.connection, resolved.stream.name),
                ),
                **(_partition_column(resolved) if slicing is not None else {}),
            },
        )


def group_name(slug: str) -> str:
    """A slug as an asset group or part of a job's name, which take no hyphens."""
    return slug.replace("-", "_")


def _backend_kind(spec: SyncSpec) -> set[str]:
    native = spec.execution_backend is ExecutionBackend.NATIVE
    return set() if native else {spec.execution_backend.value}


def _partition_column(resolved: ResolvedBinding) -> dict[str, str]:
    """So that an asset downstream with the same windows is handed the rows of its own."""
    return {PARTITION_COLUMN: warehouse_name(resolved.names, window_field(resolved))}


def _parents(props: BindingProps) -> list[dg.AssetKey]:
    bindings = (props.sync.spec.binding(name) for name in props.resolved.stream.depends_on)
    return [props.key_of(b.table_name) for b in bindings if b is not None]


def _description(props: BindingProps) -> str:
    spec, resolved = props.sync.spec, props.resolved
    schedule = f"`{spec.schedule.cron}` {spec.schedule.timezone}" if spec.schedule else "none"
    rows: Mapping[str, str] = {
        "Connection": f"{spec.connection} ({props.source_kind})",
        "Destination": f"{spec.destination} ({props.warehouse_kind})",
        "Stream": f"`{resolved.stream.name}`",
        "Load mode": resolved.load_mode.value,
        "Primary key": ", ".join(f"`{c}`" for c in resolved.primary_key) or "none",
        "Cursor": f"`{resolved.cursor_field}`" if resolved.cursor_field else "none",
        "Schedule": schedule,
        "Sync": spec.title,
    }
    if spec.execution_backend is not ExecutionBackend.NATIVE:
        rows = {**rows, "Loaded by": spec.execution_backend.value}
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
    # a list of assets shows the first line alone, as text
    about = (
        resolved.stream.description.strip() or f"{resolved.stream.name} of {props.source_kind}, from {spec.connection}."
    )
    return f"{about}\n\n{table}"
