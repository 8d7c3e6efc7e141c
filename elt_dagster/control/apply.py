"""From a project to changes of the store: compare, check everything, then write in one transaction or not at all."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from elt_dagster.control.backends import check_backend
from elt_dagster.control.changes import (
    Action,
    Change,
    Changes,
    FieldChange,
    connection_fields,
    differences,
    stream_fields,
    sync_fields,
)
from elt_dagster.control.kept_secrets import Update
from elt_dagster.control.problems import Path, Problem, raise_problems
from elt_dagster.control.secrets import fill_masks
from elt_dagster.control.validate import (
    Account,
    Discovery,
    Kinds,
    check_account,
    check_roles,
    check_settings,
    check_streams,
    check_tables,
    check_warehouse,
    discover_all,
    find_kinds,
)
from elt_dagster.errors import ConfigError, EltError, TransientError
from elt_dagster.model import Catalog, ConnectionSpec, Project, Stream, SyncSpec
from elt_dagster.sdk.connector import Runtime
from elt_dagster.store import AnySync, Store, StoredConnection, StoredSync, Transaction

ATTEMPTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """How to apply: look only, remove what the file does not name, stay off the network, ask every source again; or ask it only for what
    was never discovered."""

    dry_run: bool = False
    prune: bool = False
    verify: bool = True
    refresh: bool = False
    frugal: bool = False


def _nowhere(path: Path) -> str:
    return ""


def _nothing_more(transaction: Transaction) -> None:
    pass


@dataclass(kw_only=True)
class Applying:
    """One apply of one project to one workspace of a store."""

    store: Store
    workspace: str
    project: Project
    wishes: Wishes = field(default_factory=Wishes)
    locate: Callable[[Path], str] = _nowhere
    runtime: Runtime = field(default_factory=Runtime)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    catalogs: dict[str, Catalog] = field(default_factory=dict[str, Catalog])
    by: str = ""
    """Who asks for it."""
    before: Callable[[Transaction], None] = _nothing_more
    """Looks at the store under the write lock, and may refuse by raising."""
    also: Callable[[Transaction], None] = _nothing_more
    """Writes something beside the project, in the same transaction; then the store is written even if the project changes nothing."""

    def run(self) -> Changes:
        """Compare, check, write. Raises an EltError that lists every problem; the store is then as it was.

        Asking sources takes time, so it happens before the write lock; when another writer came in between, all is looked at again.
        """
        for _ in range(ATTEMPTS):
            seen = self.store.revision(self.workspace)
            draft = self._draft()
            if self.wishes.dry_run or not (draft.changes or self.also is not _nothing_more):
                return draft.changes
            with self.store.transaction(self.workspace) as transaction:
                # the lock is ours now: the revision cannot move any more
                if self.store.revision(self.workspace) == seen:
                    self.before(transaction)
                    draft.write(transaction, self.by)
                    self.also(transaction)
                    return draft.changes
        raise TransientError("Others kept changing this workspace meanwhile.", fix="Apply again.")

    def _draft(self) -> "_Draft":
        with self.store.reading(self.workspace) as reader:
            draft = _Draft(
                self.project, {c.spec.name: c for c in reader.connections()}, {s.slug: s for s in reader.syncs()}
            )
        _Comparison(self, draft).run()
        return draft


@dataclass
class _Draft:
    """What is stored, and what will be written."""

    project: Project
    connections: dict[str, StoredConnection]
    syncs: dict[str, AnySync]
    changes: Changes = field(default_factory=Changes)
    put_connections: list[tuple[ConnectionSpec, frozenset[str]]] = field(default_factory=list[Any])
    put_syncs: list[tuple[SyncSpec, dict[str, Stream]]] = field(default_factory=list[Any])
    drop_syncs: list[str] = field(default_factory=list[str])
    drop_connections: list[str] = field(default_factory=list[str])

    def write(self, transaction: Transaction, by: str = "") -> None:
        """Deletions of syncs first: a table may move from one sync to another in one apply."""
        for slug in self.drop_syncs:
            transaction.delete_sync(slug)
        for spec, secrets in self.put_connections:
            transaction.put_connection(spec, secrets)
        for sync, streams in self.put_syncs:
            transaction.put_sync(sync, streams, by=by)
        for name in self.drop_connections:
            transaction.delete_connection(name)


class _Comparison:
    """Fills a `_Draft`: what differs, and whether all of it makes sense."""

    def __init__(self, applying: Applying, draft: _Draft) -> None:
        self.it, self.draft, self.project = applying, draft, applying.project
        self.wishes = applying.wishes
        self.problems: list[Problem] = []
        self.accounts: dict[str, Account] = {}
        self.broken: list[str] = []
        self.changes: list[Change] = []

    def run(self) -> None:
        self._decide_deletions()
        self._compare_connections()
        self._stop()
        self._note_uses()
        self.problems += check_roles(self.project, self.accounts, self.broken)
        for account in self.accounts.values():
            if account.path is not None:
                self.problems += check_account(account, self.it.environ, verify=self.wishes.verify)
        self.problems += check_tables(
            self.project, self._staying(), self._same_places(), {s.slug: s.id for s in self.draft.syncs.values()}
        )
        for i, sync in enumerate(self.project.syncs):
            kind = self.accounts[sync.connection].kinds.source if sync.connection in self.accounts else None
            self.problems += check_settings(sync, ("syncs", i), kind) if kind else []
            self.problems += check_backend(sync, ("syncs", i), self.it.environ, verify=self.wishes.verify)
        self._stop()
        self._compare_syncs()
        self._stop()
        deleted = [
            *(Change(action=Action.DELETE, kind="sync", name=n) for n in self.draft.drop_syncs),
            *(Change(action=Action.DELETE, kind="connection", name=n) for n in self.draft.drop_connections),
        ]
        self.draft.changes = Changes((*self.changes, *deleted))

    def _stop(self) -> None:
        raise_problems(self.problems, self.it.locate)

    def _decide_deletions(self) -> None:
        if not self.wishes.prune:
            return
        kept = {s.slug for s in self.project.syncs}
        self.draft.drop_syncs = sorted(self.draft.syncs.keys() - kept)
        named = {c.name for c in self.project.connections}
        named |= {n for s in self.project.syncs for n in (s.connection, s.destination)}
        self.draft.drop_connections = sorted(self.draft.connections.keys() - named)

    # --- connections -----------------------------------------------------------------------------------------------------------

    def _compare_connections(self) -> None:
        for i, spec in enumerate(self.project.connections):
            path: Path = ("connections", i)
            try:
                self._compare_connection(spec, find_kinds(spec.connector), path)
            except EltError as error:
                self.broken.append(spec.name)
                known = error.what.startswith("There is no connector")
                self.problems.append(Problem((*path, "connector" if known else "config"), str(error), type(error)))
        for stored in self.draft.connections.values():
            name = stored.spec.name
            if name not in self.accounts and name not in self.broken and self._is_needed(name):
                self._add_stored(stored)

    def _compare_connection(self, spec: ConnectionSpec, kinds: Kinds, path: Path) -> None:
        stored = self.draft.connections.get(spec.name)
        before = self._opened(stored) if stored else {}
        config = fill_masks(spec.config, before, kinds.secrets, what=f"connection {spec.name!r}")
        # who writes the file may write any reference into it
        update = Update(
            kinds=kinds, sent=spec.config, filled=config, stored=before, path=(*path, "config"), references_too=False
        )
        self.problems += update.problems()
        after = connection_fields(spec, config, kinds.secrets)
        old = connection_fields(stored.spec, before, kinds.secrets) if stored and stored.error is None else {}
        fields = differences(old, after)
        action = Action.CREATE if stored is None else Action.UPDATE if fields else Action.UNCHANGED
        self.changes.append(Change(action=action, kind="connection", name=spec.name, fields=fields))
        if action is not Action.UNCHANGED:
            self.draft.put_connections.append((spec, kinds.secrets))
        self.accounts[spec.name] = Account(spec.name, kinds, config, path=path, changed=action is not Action.UNCHANGED)

    def _is_needed(self, name: str) -> bool:
        return any(name in (s.connection, s.destination) for s in self.project.syncs)

    def _add_stored(self, stored: StoredConnection) -> None:
        name = stored.spec.name
        try:
            self.accounts[name] = Account(name, find_kinds(stored.spec.connector), self.it.store.open_config(stored))
        except EltError as error:
            self.broken.append(name)
            self.problems.append(Problem(("connections",), f"connection {name!r}: {error}", type(error)))

    def _opened(self, stored: StoredConnection) -> dict[str, Any]:
        try:
            return self.it.store.open_config(stored)
        except ConfigError:
            return {}  # its key is lost or its row damaged; what the file says takes its place

    def _note_uses(self) -> None:
        for sync in self.project.syncs:
            for name, uses in ((sync.connection, "sources_of"), (sync.destination, "warehouse_of")):
                if name in self.accounts:
                    getattr(self.accounts[name], uses).append(sync.slug)

    # --- syncs -----------------------------------------------------------------------------------------------------------------

    def _staying(self) -> list[SyncSpec]:
        named = {s.slug for s in self.project.syncs} | set(self.draft.drop_syncs)
        return [s.spec for s in self.draft.syncs.values() if isinstance(s, StoredSync) and s.slug not in named]

    def _same_places(self) -> dict[str, str]:
        """Warehouse connections with equal settings lead to the same tables, whatever they are called."""
        first: dict[str, str] = {}
        places: dict[str, str] = {}
        for name, account in self.accounts.items():
            if account.kinds.warehouse is not None:
                settings = f"{account.kinds.warehouse.name} {sorted(account.config.items(), key=str)!r}"
                places[name] = first.setdefault(settings, name)
        return places

    def _compare_syncs(self) -> None:
        asked = [q for i, s in enumerate(self.project.syncs) if (q := self._question(i, s)) is not None]
        if self.wishes.verify:
            for account in self.accounts.values():
                if account.changed:
                    self.problems += check_warehouse(account, self.it.environ, self.it.runtime)
            self.problems += discover_all(asked, self.it.runtime, self.it.environ, self.it.catalogs)
            self._stop()
        keys = {q.sync.slug: q.key for q in asked} if self.wishes.verify else {}
        for i, sync in enumerate(self.project.syncs):
            catalog = self.it.catalogs.get(keys.get(sync.slug, ""))
            self._compare_sync(i, sync, catalog)

    def _question(self, i: int, sync: SyncSpec) -> Discovery | None:
        stored = self.draft.syncs.get(sync.slug)
        account = self.accounts[sync.connection]
        known = isinstance(stored, StoredSync) and stored.spec == sync and not account.changed
        if self.wishes.frugal and not account.changed and isinstance(stored, StoredSync):
            known = (stored.spec.connection, stored.spec.settings) == (sync.connection, sync.settings)
            known = known and all(b.name in stored.streams for b in sync.streams)
        if known and not self.wishes.refresh and isinstance(stored, StoredSync):
            known = all(stored.streams[b.name] != Stream(name=b.name) for b in sync.streams)
            if known:
                return None
        return Discovery(account, sync, ("syncs", i))

    def _compare_sync(self, i: int, sync: SyncSpec, catalog: Catalog | None) -> None:
        stored = self.draft.syncs.get(sync.slug)
        old_streams = stored.streams if isinstance(stored, StoredSync) else {}
        streams = {b.name: old_streams.get(b.name) or Stream(name=b.name) for b in sync.streams}
        if catalog is None and self.wishes.frugal:
            catalog = Catalog(tuple(streams.values()))
        if catalog is not None:
            streams, problems = check_streams(sync, ("syncs", i), catalog)
            self.problems += problems
        fields = self._sync_differences(stored, sync)
        # Most syncs of a large file are as they were: only what differs is taken apart.
        moved = [n for n in streams if n in old_streams and old_streams[n] != streams[n]]
        seen = differences(
            stream_fields({n: old_streams[n] for n in moved}), stream_fields({n: streams[n] for n in moved})
        )
        if stored is None:
            action = Action.CREATE
        else:
            changed = moved or not isinstance(stored, StoredSync) or stored.spec != sync
            action = Action.UPDATE if changed else Action.UNCHANGED
        self.changes.append(Change(action=action, kind="sync", name=sync.slug, fields=(*fields, *seen)))
        if action is not Action.UNCHANGED:
            self.draft.put_syncs.append((sync, streams))

    def _sync_differences(self, stored: AnySync | None, sync: SyncSpec) -> tuple[FieldChange, ...]:
        if not isinstance(stored, StoredSync):
            return differences({}, sync_fields(sync))
        if stored.spec == sync:
            return ()
        fields = differences(sync_fields(stored.spec), sync_fields(sync))
        before, after = ([b.name for b in spec.streams] for spec in (stored.spec, sync))
        same_names = sorted(before) == sorted(after)
        return (*fields, FieldChange("streams", before, after)) if same_names and before != after else fields
