"""What the routers reach: the use cases of `control`, for the workspace of whoever asks."""

from dataclasses import dataclass, field
from typing import Any

from elt_dagster.control.access import Access, Principal
from elt_dagster.control.accounts import Accounts
from elt_dagster.control.loaders import Loaders
from elt_dagster.control.running import Failures, Running
from elt_dagster.control.runs import Runs
from elt_dagster.control.setup import Setup
from elt_dagster.control.syncs import Syncs
from elt_dagster.control.workspace import Workspace
from elt_dagster.sdk.connector import Runtime
from elt_dagster.store import Store

DEFAULT_REQUESTS_PER_MINUTE = 1200
PATIENCE: dict[str, Any] = {"max_wait_seconds": 5.0, "max_answer_bytes": 64_000_000, "max_answer_seconds": 60.0}
"""With a source that is asked while somebody waits for the answer: whoever chooses its host could otherwise hold all workers and all memory."""


@dataclass(kw_only=True)
class Services:
    """One per server; threads share it."""

    store: Store
    runs: Runs
    base_url: str = "http://127.0.0.1:8000"
    """How a browser reaches this server: bridges and OAuth callbacks are there."""
    requests_per_minute: int = DEFAULT_REQUESTS_PER_MINUTE
    """The rate limit of a key that has none of its own."""
    runtime: Runtime = field(default_factory=lambda: Runtime(**PATIENCE))
    access: Access = field(init=False)
    failures: Failures = field(default_factory=Failures, init=False)

    def __post_init__(self) -> None:
        self.access = Access(store=self.store)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever a request comes from, and what they may use."""

    principal: Principal
    services: Services

    @property
    def by(self) -> str:
        """What is noted as the author of a change: the id of the key."""
        return self.principal.key_id

    @property
    def workspace(self) -> Workspace:
        """The use cases on a workspace as a whole."""
        return Workspace(store=self.services.store, name=self.principal.workspace, runtime=self.services.runtime)

    @property
    def syncs(self) -> Syncs:
        """The use cases on syncs."""
        return Syncs(self.workspace)

    @property
    def accounts(self) -> Accounts:
        """The use cases on connections."""
        return Accounts(self.workspace)

    @property
    def loaders(self) -> Loaders:
        """The use cases on loaders."""
        return Loaders(self.workspace)

    @property
    def running(self) -> Running:
        """The use cases on runs."""
        return Running(self.workspace, self.services.runs, self.services.failures)

    @property
    def setup(self) -> Setup:
        """Setting up a sync step by step."""
        return Setup(self.workspace, self.running)
