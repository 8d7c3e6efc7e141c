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

Connections that several documents use stand once, in a file that each of them names: ``connections_file: ../connections.yaml``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import dagster as dg
from pydantic import BaseModel, ValidationError

from elt_dagster.control.yaml_file import load_project
from elt_dagster.errors import ConfigError
from elt_dagster.model import ConnectionSpec, Project, SyncSpec
from elt_dagster.orchestration.claims import claim
from elt_dagster.orchestration.definitions import sync_definitions
from elt_dagster.orchestration.literals import refuse_literal_secrets
from elt_dagster.orchestration.standalone import configured_syncs
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
    return kind.model_validate(
        _plain(context.resolve_value(part.model_dump(mode="json", by_alias=True, exclude_unset=True)))
    )


def _plain(value: Any) -> Any:
    """A template that stands alone, such as ``{{ context.project_root }}``, is filled in with an object and not with its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(below) for below in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _shared_connections(context: dg.ResolutionContext, value: Any) -> list[ConnectionSpec] | None:
    """The connections of the file, with Dagster's templates filled in as in a document. Raises ConfigError."""
    if value is None:
        return None
    path = context.resolve_source_relative_path(str(context.resolve_value(value)))
    if not path.is_file():
        raise ConfigError(f"There is no connections_file {path}.", fix="Make it, or correct the path.")
    shared = load_project(path)
    if shared.syncs:
        raise ConfigError(
            f"{path} has syncs, and a connections_file is for connections alone.",
            fix="Move them into the documents that name it.",
        )
    return [_again(context, ConnectionSpec, connection) for connection in shared.connections]


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
    connections: Annotated[Any, _resolver(ConnectionSpec, list[ConnectionSpec])] = []
    """Source accounts and warehouses. A secret is ``{env: NAME}`` or ``{file: PATH}``, never a literal."""
    connections_file: Annotated[Any, dg.Resolver(_shared_connections, model_field_type=str | None)] = None
    """A YAML file with ``connections`` that several documents share; a relative path counts from this document."""
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
        claim(context.component_tree, str(context.path), project)
        document = (context.component_tree, str(context.component_loc))
        return sync_definitions(configured_syncs(project), self.translator(), document=document)

    def _project(self) -> Project:
        syncs = [*([self.sync] if self.sync is not None else []), *self.syncs]
        if not syncs:
            raise ConfigError("A SyncComponent has no sync.", fix="Write one under `sync`, or several under `syncs`.")
        connections = (*(self.connections_file or ()), *self.connections)
        try:
            return Project(connections=connections, syncs=tuple(syncs))
        except ValidationError as error:
            problems = "; ".join(str(p["msg"]) for p in error.errors(include_input=False, include_url=False))
            raise ConfigError(f"A SyncComponent is wrong: {problems}.") from None
