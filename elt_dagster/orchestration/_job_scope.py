"""Jobs that look at their own assets alone when they are made.

Dagster makes a job by going through all assets of the code location for each: with 1,000 syncs of 10 streams that is the square of what there
is to do, and most of what loading takes (`docs/adr/0009-a-job-per-sync.md`). What a job is made of are its assets and those they depend on,
so a `ScopedJob` hands on a graph of these. The job that comes out is the same, snapshot and all: `tests/unit/test_scale.py` compares them.

``dagster._core`` is imported because jobs by asset selection have no public class; a Dagster in which this does not work makes them its own way.
"""

from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph  # noqa: TID251 - as the docstring says
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition  # noqa: TID251


class ScopedJob(UnresolvedAssetJobDefinition):
    """What `dg.define_asset_job` returns, made in time that grows with its own assets only."""

    def resolve(self, asset_graph: AssetGraph, *args: Any, **kwargs: Any) -> dg.JobDefinition:
        """The job. Raises what Dagster raises for a selection that is no job."""
        return super().resolve(_around(asset_graph, self.selection), *args, **kwargs)


def scoped(job: Any) -> Any:
    """``job``, made by `dg.define_asset_job` from asset keys, as a `ScopedJob`."""
    if type(job) is not UnresolvedAssetJobDefinition:
        return job
    return ScopedJob(**{name: getattr(job, name) for name in job.__annotations__})


def _around(graph: AssetGraph, selection: dg.AssetSelection) -> AssetGraph:
    keys = getattr(selection, "selected_keys", None)
    if keys is None or not all(graph.has(key) for key in keys):
        return graph
    own = [graph.get(key) for key in keys]
    near = {node.key: node for node in own} | {key: graph.get(key) for node in own for key in node.parent_keys}
    checks = {check: node.assets_def for node in own for check in node.check_keys}
    return AssetGraph(asset_nodes_by_key=near, assets_defs_by_check_key=checks)
