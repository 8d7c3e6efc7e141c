"""What runs a sync: plan (pure), then read, transform, stage, commit. Does not know Dagster."""

from elt_dagster.engine.binding import ResolvedBinding, defaults, resolve_binding, unknown_columns
from elt_dagster.engine.load import Lease, Observer, Progress, StreamRead
from elt_dagster.engine.plan import RunContext, StreamPlan, plan_stream

__all__ = [
    "Lease",
    "Observer",
    "Progress",
    "ResolvedBinding",
    "RunContext",
    "StreamPlan",
    "StreamRead",
    "defaults",
    "plan_stream",
    "resolve_binding",
    "unknown_columns",
]
