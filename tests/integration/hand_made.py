"""Connections given by hand, for tests that need a `ConfiguredSync` and no store."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from elt_dagster.sdk.budget import LocalLedger


class HandMadeConnections:
    """Connector and settings by connection name; no leases."""

    def __init__(self, kinds: Mapping[str, str], configs: Mapping[str, dict[str, Any]]) -> None:
        self._kinds, self._configs = kinds, configs

    def kind(self, name: str) -> str:
        return self._kinds[name]

    def config(self, name: str) -> dict[str, Any]:
        return self._configs[name]

    def identity(self, name: str) -> str:
        return name

    def salt(self) -> bytes:
        return b"tests"

    def ledger(self, name: str) -> LocalLedger:
        return LocalLedger()

    def vault(self, name: str) -> None:
        """None."""

    def full_refresh(self, binding_id: str) -> None:
        """None is marked."""

    def end_full_refresh(self, binding_id: str, mark_id: str) -> None:
        """Nothing to do."""

    def active_run(self, binding_id: str) -> str | None:
        return None

    has_leases = False

    def end_lease(self, binding_id: str, run_id: str) -> None:
        raise AssertionError("there is no lease to end")

    def lease(self, binding_id: str, run_id: str) -> nullcontext[int]:
        return nullcontext(0)
