"""Syncs without a store: written in Python, in a notebook, or in a YAML file beside the code.

```python
shop = '''
connections:
  - {name: files, connector: files, config: {url: exports}}
  - {name: warehouse, connector: duckdb, config: {path: warehouse.duckdb}}
syncs:
  - {slug: shop, connection: files, destination: warehouse, schema: raw_shop, streams: [{name: orders}]}
'''
dg.materialize(elt_dagster.sync_assets(shop))
orders = elt_dagster.sync_definitions(shop).load_asset_value(["raw_shop", "orders"], python_type=pd.DataFrame)
```

Sources are asked for their streams when a run reads them; making assets asks nobody.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from elt_dagster.control.configured import ConfiguredSync, derived_id
from elt_dagster.control.connections import InlineConnections
from elt_dagster.control.problems import parse
from elt_dagster.control.yaml_file import load_project, parse_project
from elt_dagster.errors import ConfigError
from elt_dagster.model import Project, SyncSpec
from elt_dagster.orchestration.definitions import sync_definitions as definitions_of
from elt_dagster.orchestration.literals import refuse_literal_secrets
from elt_dagster.orchestration.translator import SyncTranslator

Written = str | Path | Mapping[str, Any]
"""YAML text, the path of a YAML file, or the same as a dict: ``connections`` and ``syncs``, as `elt-dagster apply` takes them."""


def sync_definitions(project: Written, *, translator: SyncTranslator | None = None) -> dg.Definitions:
    """Assets, jobs, schedules and resources of the syncs in ``project``, to merge with others or to load tables from.

    A sync that cannot become assets becomes one broken asset that tells why. Raises ConfigError for what cannot be understood, and for a
    secret that stands in YAML; in a dict a secret may be a value that Python found somewhere, which then stays in this process.
    """
    return definitions_of(configured_syncs(read_project(project)), translator)


def sync_assets(project: Written, *, translator: SyncTranslator | None = None) -> list[dg.AssetsDefinition]:
    """The assets alone, with their resources bound, for `dagster.materialize`. Raises ConfigError as `sync_definitions` does."""
    made = sync_definitions(project, translator=translator)
    assets = [asset for asset in made.assets or () if isinstance(asset, dg.AssetsDefinition)]
    return [
        asset
        for asset in dg.with_resources(assets, dict(made.resources or {}))
        if isinstance(asset, dg.AssetsDefinition)
    ]


def read_project(written: Written) -> Project:
    """``written`` as a project. Raises ConfigError."""
    if isinstance(written, Mapping):
        project, problems = parse(Project, dict(written))
        if project is None or problems:
            raise ConfigError("\n".join(str(p) for p in problems))
        return project
    project = load_project(written) if isinstance(written, Path) else parse_project(written, "the YAML").project
    for connection in project.connections:
        refuse_literal_secrets(connection)
    return project


def configured_syncs(project: Project) -> list[ConfiguredSync]:
    """The syncs of ``project`` with its connections; no network, no secret opened."""
    connections = InlineConnections(project.connections)
    return [_configured(spec, connections) for spec in project.syncs]


def _configured(spec: SyncSpec, connections: InlineConnections) -> ConfiguredSync:
    return ConfiguredSync(
        id=derived_id("sync", spec.slug),
        spec=spec,
        streams={},
        binding_ids={b.name: derived_id("binding", spec.slug, b.name) for b in spec.streams},
        connections=connections,
    )
