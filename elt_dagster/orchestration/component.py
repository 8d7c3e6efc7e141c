"""Syncs in a ``defs.yaml``: git is the truth, there is no store.

```yaml
type: elt_dagster.SyncComponent
attributes:
  connections:
    - {name: shop-db, connector: postgres, config: {host: db, database: shop, user: reader, password: {env: SHOP_DB_PASSWORD}}}
    - {name: warehouse, connector: duckdb, config: {path: warehouse.duckdb}}
  sync: {slug: shop, connection: shop-db, destination: warehouse, schema: raw_shop, streams: [{name: public.orders}]}
```

``sync`` holds one sync, ``syncs`` a list; the words are those of a YAML file for ``elt-dagster apply``. Sources are asked for their streams when a
run reads them and not while definitions load, so columns are shown after the first run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import dagster as dg
from pydantic import BaseModel, ValidationError

from elt_dagster.control.configured import ConfiguredSync, derived_id
from elt_dagster.control.connections import InlineConnections
from elt_dagster.errors import ConfigError
from elt_dagster.model import ConnectionSpec, Project, SyncSpec
from elt_dagster.orchestration.definitions import sync_definitions
from elt_dagster.orchestration.literals import refuse_literal_secrets
from elt_dagster.orchestration.translator import SyncTranslator

P = TypeVar("P", bound=BaseModel)


def _resolver(kind: type[P], field_type: Any) -> dg.Resolver:
    """Dagster's templates are filled in first, then ``kind`` validates: its field names and messages are those of every other way in."""

    def resolve(context: dg.ResolutionContext, value: Any) -> Any:
        if isinstance(value, Sequence):
            return [_again(context, kind, part) for part in value]
        return None if value is None else _again(context, kind, value)

    return dg.Resolver(resolve, model_field_type=field_type)


def _again(context: dg.ResolutionContext, kind: type[P], part: BaseModel) -> P:
    return kind.model_validate(context.resolve_value(part.model_dump(mode="json", by_alias=True, exclude_unset=True)))


class SyncScaffolder(dg.Scaffolder[Any]):
    """Writes a ``defs.yaml`` that runs as it stands, with a small CSV file beside it."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        """Write the two files."""
        folder = request.target_path.parent if request.append else request.target_path
        (folder / "orders.csv").write_text(
            "id,updated_at,amount\n1,2026-01-01T08:00:00Z,12.50\n2,2026-01-02T09:30:00Z,7.00\n"
        )
        dg.scaffold_component(request, _example(folder.resolve()))


def _example(folder: Path) -> dict[str, Any]:
    name = folder.name.lower().replace("_", "-")
    streams = [{"name": "orders", "glob": "orders.csv"}]
    return {
        "connections": [
            {"name": f"{name}-files", "connector": "files", "config": {"url": str(folder), "streams": streams}},
            {"name": "warehouse", "connector": "duckdb", "config": {"path": "warehouse.duckdb"}},
        ],
        "sync": {
            "slug": name,
            "connection": f"{name}-files",
            "destination": "warehouse",
            "schema": f"raw_{folder.name.lower().replace('-', '_')}",
            "streams": [{"name": "orders", "load_mode": "replace"}],
        },
    }


@dg.scaffold_with(SyncScaffolder)
class SyncComponent(dg.Component, dg.Resolvable, dg.Model):
    """Syncs from a source to a warehouse, as one asset per stream."""

    # Annotated with Any, because Dagster wants to look into every other type and knows nothing of ours; the resolvers carry the types.
    connections: Annotated[Any, _resolver(ConnectionSpec, list[ConnectionSpec])]
    """Source accounts and warehouses. A secret is ``{env: NAME}`` or ``{file: PATH}``, never a literal."""
    sync: Annotated[Any, _resolver(SyncSpec, SyncSpec | None)] = None
    """One configured sync."""
    syncs: Annotated[Any, _resolver(SyncSpec, list[SyncSpec])] = []
    """Several configured syncs."""

    def translator(self) -> SyncTranslator:
        """What makes asset specs; override it in a subclass."""
        return SyncTranslator()

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Assets, jobs and schedules of the syncs in this document. Raises ConfigError."""
        project = self._project()
        for connection in project.connections:
            refuse_literal_secrets(connection)
        connections = InlineConnections(project.connections)
        return sync_definitions([_configured(spec, connections) for spec in project.syncs], self.translator())

    def _project(self) -> Project:
        syncs = [*([self.sync] if self.sync is not None else []), *self.syncs]
        if not syncs:
            raise ConfigError("A SyncComponent has no sync.", fix="Write one under `sync`, or several under `syncs`.")
        try:
            return Project(connections=tuple(self.connections), syncs=tuple(syncs))
        except ValidationError as error:
            problems = "; ".join(str(p["msg"]) for p in error.errors(include_input=False, include_url=False))
            raise ConfigError(f"A SyncComponent is wrong: {problems}.") from None


def _configured(spec: SyncSpec, connections: InlineConnections) -> ConfiguredSync:
    return ConfiguredSync(
        id=derived_id("sync", spec.slug),
        spec=spec,
        streams={},
        binding_ids={b.name: derived_id("binding", spec.slug, b.name) for b in spec.streams},
        connections=connections,
    )
