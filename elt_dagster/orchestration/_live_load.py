"""What a load of definitions reads from the store, and what it does when it cannot.

A code server that starts without its store shows that as one broken asset, and loads again when the store is back. One that reloads keeps
the definitions it has: the error is passed on, and the reload does not happen. A run's own processes pass it on too, for a run of a job
that is not there would fail with words that tell nothing; and they read the revision that their run was planned from, so that a
run in the queue outlives changes to its sync.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from elt_dagster.control.connections import StoreConnections
from elt_dagster.errors import ConfigError, EltError, NotFoundError
from elt_dagster.orchestration import _live_reload as reloading
from elt_dagster.orchestration._run_scope import RunScope
from elt_dagster.orchestration.jobs import job_name
from elt_dagster.store import AnySync, Store, StoredConnection, open_store
from elt_dagster.store.reading import Reader

UNKNOWN = "unknown"
_log = logging.getLogger("elt_dagster")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRead:
    """One state of one workspace, as far as it could be read."""

    store: Store | None
    """None when its URL is wrong."""
    syncs: Sequence[AnySync] = ()
    connections: Sequence[StoredConnection] = ()
    revision: int | None = None
    problem: EltError | None = None
    default_destination: str | None = None
    """That of the revision the run was planned from; None outside runs."""


def read_store(store_url: str | None, workspace: str, scope: RunScope | None = None) -> StoreRead:
    """What to build definitions from: everything, or what the run in ``scope`` needs. Raises EltError in a reload and in a run, and nowhere else."""
    reloading.note_load()
    store: Store | None = None
    pinned: str | None = None
    try:
        store = open_store(store_url)
        pinned = reloading.pinned(_pin_name(store, workspace))
        return _read(store, workspace, pinned, scope)
    except EltError as error:
        if pinned is not None or reloading.is_reloading():
            raise
        level = logging.WARNING if isinstance(error, ConfigError) else logging.ERROR
        _log.log(level, "No syncs, because the store cannot be read: %s", error)
        return StoreRead(store=store, problem=error)


def pin_revision(read: StoreRead, workspace: str, default_destination: str | None) -> None:
    """Have runs that are planned from these definitions load this revision, whatever is changed before they start."""
    if read.store is not None and read.revision is not None:
        text = json.dumps({"revision": read.revision, "destination": default_destination})
        reloading.pin(_pin_name(read.store, workspace), text)


def _read(store: Store, workspace: str, pinned: str | None, scope: RunScope | None) -> StoreRead:
    pin = json.loads(pinned) if pinned is not None else {}
    store.ensure_current()
    with store.reading(workspace) as reader:
        revision = pin.get("revision", reader.revision)
        return StoreRead(
            store=store,
            # What is called so now may be another sync than the one that the run was planned for.
            syncs=reader.syncs(
                at_revision=revision, slugs=_wanted(reader, scope) if revision == reader.revision else None
            ),
            connections=reader.connections(),
            revision=revision,
            default_destination=pin.get("destination"),
        )


def _wanted(reader: Reader, scope: RunScope | None) -> set[str] | None:
    if scope is None:
        return None
    return scope.slugs(reader.slugs(), job_name, lambda: reader.tables({schema for schema, _ in scope.tables}))


def _pin_name(store: Store, workspace: str) -> str:
    return f"{store.url_shown}#{workspace}"


class ShownConnections(StoreConnections):
    """Connections of definitions. One that was deleted after a run was queued harms only the step that needs it, when it does."""

    are_loading = True
    """While assets are built, a missing connection of a run's sync is called `UNKNOWN` instead of refused."""

    def kind(self, name: str) -> str:
        """Its connector. Raises NotFoundError."""
        try:
            return super().kind(name)
        except NotFoundError:
            if self.are_loading and reloading.is_run():
                return UNKNOWN
            raise
