"""Loaders: a connection and its sync as one thing, over the Loaders dialect."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from elt_dagster.client import answers
from elt_dagster.client.parts import Part, each, if_match, in_path, one
from elt_dagster.client.sending import Sending


class Loaders(Part):
    """The loaders of one workspace, which has to be that of the key."""

    def __init__(self, sending: Sending, sleep: Callable[[float], None], workspace: str) -> None:
        super().__init__(sending, sleep)
        self._base = f"/api/v1/workspaces/{in_path(workspace)}"

    def _path(self, loader_id: str, *more: str) -> str:
        return "/".join((self._base, "loaders", in_path(loader_id), *more))

    def types(self) -> tuple[answers.LoaderType, ...]:
        """Every connector that can be read from, with the JSON Schema of its ``config``."""
        return tuple(one(answers.LoaderType, row) for row in self._sending.ask("GET", f"{self._base}/loader-types"))

    def list(self) -> Iterator[answers.Loader]:
        """All of them, oldest first; pages are fetched as they are needed."""
        return each(answers.Loader, self._sending.numbered_pages(f"{self._base}/loaders"))

    def get(self, loader_id: str) -> answers.Loader:
        """One of them."""
        return self._tagged(answers.Loader, "GET", self._path(loader_id))

    def create(
        self,
        *,
        name: str,
        loader_type: str,
        source_id: str,
        config: Mapping[str, Any],
        target_schema: str,
        selected_streams: Sequence[Mapping[str, Any]],
        sync_mode: str = "incremental",
        schedule: str | None = None,
    ) -> answers.Loader:
        """A connection from ``config`` and an active sync that reads it, or neither. ``source_id`` is the warehouse; ``selected_streams`` have a ``name``
        each and may have a ``sync_mode`` of their own."""
        body = {
            "name": name, "loader_type": loader_type, "source_id": source_id, "config": dict(config), "target_schema": target_schema,
            "selected_streams": [dict(s) for s in selected_streams], "sync_mode": sync_mode, "schedule": schedule,
        }  # fmt: skip
        return self.create_as(body)

    def create_as(self, fields: Mapping[str, Any]) -> answers.Loader:
        """As `create`, from the fields as the dialect has them: those that are missing or unknown are the server's to tell."""
        return self._tagged(answers.Loader, "POST", f"{self._base}/loaders", body=dict(fields))

    def replace(self, loader: answers.Loader, *, etag: str | None = None, **changes: Any) -> answers.Loader:
        """``loader`` with ``changes`` to its fields, in the place of the one of its id. The mask of a secret stands for the one that is kept.

        Raises ConflictError where somebody else has changed it since it was of ``etag``.
        """
        body = {**loader.model_dump(mode="json", exclude={"etag"}), **changes}
        return self._tagged(answers.Loader, "PUT", self._path(loader.id), body=body, headers=if_match(etag))

    def delete(self, loader_id: str, *, etag: str | None = None) -> None:
        """Remove it, and its connection unless something else uses that; its tables stay."""
        self._sending.ask("DELETE", self._path(loader_id), headers=if_match(etag))

    def trigger(self, loader_id: str) -> answers.LoaderRun:
        """Run it now. Raises ConflictError, with the run's id, while one is active."""
        return one(answers.LoaderRun, self._sending.ask("POST", self._path(loader_id, "trigger")))

    def runs(self, loader_id: str) -> Iterator[answers.LoaderRun]:
        """Its runs, newest first; pages are fetched as they are needed."""
        return each(answers.LoaderRun, self._sending.numbered_pages(self._path(loader_id, "runs")))

    def run(self, loader_id: str, run_id: str) -> answers.LoaderRun:
        """One of its runs."""
        return one(answers.LoaderRun, self._sending.ask("GET", self._path(loader_id, "runs", in_path(run_id))))
