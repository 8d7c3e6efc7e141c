"""Loaders: a source connection and the sync that reads it, made, changed and removed as one thing. Either half alone is a row like any other."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from elt_dagster.control.accounts import Accounts
from elt_dagster.control.apply import ATTEMPTS, Applying, Wishes
from elt_dagster.control.catalog import Provider, provider
from elt_dagster.control.kept_secrets import Update
from elt_dagster.control.problems import parse, raise_problems, value_at
from elt_dagster.control.secrets import REFERENCES_VARIABLE, fill_masks, may_refer, references
from elt_dagster.control.syncs import Syncs, expect
from elt_dagster.control.validate import Account, Discovery, Kinds, discover, find_kinds
from elt_dagster.control.vault import HeldVault
from elt_dagster.control.workspace import Workspace
from elt_dagster.errors import ConfigError, ConflictError, NotFoundError, TransientError
from elt_dagster.model import Catalog, ConnectionSpec, Project, SyncSpec, SyncStatus, TriggerMode
from elt_dagster.model.secret import resolve
from elt_dagster.store import AnySync, BrokenSync, Place, StoredConnection, StoredSync, SyncFilter, Transaction, whole
from elt_dagster.store.config import with_secret

OWN = "own_connection"
"""In a sync's envelope: the id of the connection that was made with it, and goes with it."""
AT_ONCE = 500
_HIDDEN = frozenset({SyncStatus.ARCHIVED.value})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a loader is to be. ``streams`` are plain data in the words of `TableBinding`."""

    name: str
    connector: str
    config: Mapping[str, Any]
    """The settings of the connection and those of the sync, in one."""
    destination: StoredConnection
    dataset: str
    streams: Sequence[Mapping[str, Any]]
    cron: str | None
    status: SyncStatus | None = None
    envelope: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Loader:
    """A sync and the connection it reads, without its secrets; None where either cannot be read."""

    sync: AnySync
    connection: StoredConnection | None

    @property
    def config(self) -> dict[str, Any]:
        """The settings of the connection, with a mask for every secret that is kept, and those of the sync."""
        connection = {} if self.connection is None else self.connection.spec.config
        return {**connection, **({} if isinstance(self.sync, BrokenSync) else self.sync.spec.settings)}

    @property
    def revision(self) -> int:
        """The workspace's revision that the last change of either made."""
        return max(self.sync.revision, self.connection.revision if self.connection is not None else 0)


@dataclass(frozen=True)
class Loaders:
    """Loaders of one workspace. Methods raise EltError and nothing else on purpose; ids of other workspaces are not found."""

    workspace: Workspace

    @property
    def _syncs(self) -> Syncs:
        return Syncs(self.workspace)

    @property
    def _accounts(self) -> Accounts:
        return Accounts(self.workspace)

    # --- looking ---------------------------------------------------------------------------------------------------------------

    def page(self, place: Place) -> tuple[list[Loader], int]:
        """One page of them, and how many there are in all."""
        page = self._syncs.page(SyncFilter(without_statuses=_HIDDEN), place, marks=False)
        known = self._connections({s.connection_id for s in page.items})
        return [Loader(sync, known.get(sync.connection_id)) for sync in page.items], page.total

    def every(self) -> Iterator[Loader]:
        """All of them, oldest first."""
        offset = 0
        while True:
            found, total = self.page(Place(limit=AT_ONCE, offset=offset))
            yield from found
            offset += AT_ONCE
            if offset >= total:
                return

    def get(self, loader_id: str) -> Loader:
        """One of them. Raises NotFoundError, also for an archived sync."""
        sync = self._syncs.find(loader_id)
        if isinstance(sync, StoredSync) and sync.spec.status.value in _HIDDEN:
            raise NotFoundError(f"There is no loader with the id {loader_id!r}.")
        return Loader(sync, self._connections({sync.connection_id}).get(sync.connection_id))

    def _connections(self, ids: Set[str]) -> dict[str, StoredConnection]:
        return self.workspace.store.shown_connections(ids, workspace=self.workspace.name)

    # --- changing --------------------------------------------------------------------------------------------------------------

    def create(self, wanted: Wanted, *, by: str = "") -> Loader:
        """A connection and its sync, or neither.

        Raises ConfigError whose ``details`` have a path into a project of one connection and one sync, or into it; ConflictError for a table that is
        taken; AuthError and others for what the source says.
        """
        found = provider(wanted.connector)
        self._refuse_references(wanted.config, {})
        name = self._accounts.free_name(wanted.name)
        slug = self._syncs.free_slug(wanted.name)
        data: dict[str, Any] = {"slug": slug, **_data(wanted, found, name)}
        data.setdefault("status", SyncStatus.ACTIVE.value)
        making = _Making(self.workspace, find_kinds(found.name), name, _of_connection(wanted, found), _spec(data))

        def absent(transaction: Transaction) -> None:
            if name in transaction.kinds() or slug in transaction.slugs():
                raise ConflictError("Another loader of this name was made just now.", fix="Send it again.")

        def beside(transaction: Transaction, connection: StoredConnection) -> None:
            transaction.put_envelope(slug, {**wanted.envelope, OWN: connection.id}, by=by)

        making.run(by, wanted.name, before=absent, also=beside)
        return self.get(self.workspace.store.sync(slug, workspace=self.workspace.name).id)

    def replace(self, loader_id: str, wanted: Wanted, *, revision: int | None = None, by: str = "") -> Loader:
        """Another loader in the place of one; what a loader cannot say of its sync stays as it was. A mask stands for the secret that is kept.

        Raises as `create` does, NotFoundError, ConfigError for another connector, ConflictError for other settings of a connection that
        other syncs use, and ChangedMeanwhileError for a loader that is not of ``revision``.
        """
        for _ in range(ATTEMPTS):
            before = self.get(loader_id)
            expect(before.revision, revision, before.sync)
            sync = whole(before.sync)
            try:
                self._replace(sync, wanted, by)
            except _MovedError:
                continue
            return self.get(loader_id)
        raise TransientError("Others kept changing this loader meanwhile.", fix="Try again.")

    def _replace(self, sync: StoredSync, wanted: Wanted, by: str) -> None:
        found, connection = provider(wanted.connector), self._accounts.get(sync.connection_id)
        kinds = find_kinds(connection.spec.connector)
        if found.name != connection.spec.connector:
            text = f"This loader reads {connection.spec.connector}, and cannot become another."
            raise _at(("connections", 0, "connector"), text, "Create a new one.")
        config, opened = _of_connection(wanted, found), self.workspace.store.open_config(connection)
        self._refuse_references(config, opened)
        filled = fill_masks(config, opened, kinds.secrets, what=f"connection {connection.spec.name!r}")
        update = Update(
            kinds=kinds, sent=config, filled=filled, stored=opened, path=("connections", 0, "config"),
            references_too=not may_refer(self.workspace.environ),
        )  # fmt: skip
        raise_problems(update.problems())
        if filled != opened:
            self._refuse_shared(sync)
        spec = _spec(_replaced(sync.spec, _data(wanted, found, connection.spec.name)))
        known = (
            filled == opened
            and spec.settings == sync.spec.settings
            and all(b.name in sync.streams for b in spec.streams)
        )
        making = _Making(self.workspace, kinds, connection.spec.name, config, spec, filled, known)

        def unmoved(transaction: Transaction) -> None:
            # what somebody else has sent for either would be overwritten
            now = (transaction.sync_by_id(sync.id).revision, transaction.connection_by_id(connection.id).revision)
            if now != (sync.revision, connection.revision):
                raise _MovedError

        def beside(transaction: Transaction, connection: StoredConnection) -> None:
            transaction.put_envelope(sync.slug, {**sync.envelope, **wanted.envelope}, by=by)

        label = wanted.name if sync.envelope.get(OWN) == connection.id else None
        making.run(by, label, before=unmoved, also=beside)

    def _refuse_shared(self, sync: StoredSync) -> None:
        wanted = SyncFilter(connection_id=sync.connection_id)
        others = [s for s in self._syncs.page(wanted, Place(limit=2)).items if s.id != sync.id]
        if others:
            raise ConflictError(
                f"The connection of this loader is used by the sync {others[0].slug!r} as well, so its settings cannot be changed here.",
                fix="Send the config as it is.",
                with_id=others[0].id,
            )

    def _refuse_references(self, config: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
        """A new one; one that is kept already may stay."""
        if may_refer(self.workspace.environ):
            return
        for path in references(config):
            if value_at(config, path) != value_at(kept, path):
                text = "A reference to the environment or a file of the server may not be sent."
                raise _at(
                    ("connections", 0, "config", *path),
                    text,
                    f"Send the secret itself, or set {REFERENCES_VARIABLE}=1 there.",
                )

    def delete(self, loader_id: str, *, revision: int | None = None) -> None:
        """Remove a loader, and its own connection unless something else uses that by now; its tables stay. Raises NotFoundError,
        ChangedMeanwhileError."""
        before = self.get(loader_id)
        expect(before.revision, revision, before.sync)
        with self.workspace.store.transaction(self.workspace.name) as transaction:
            found = transaction.any_sync_by_id(loader_id)
            expect(found.revision, before.sync.revision if revision is not None else None, found)
            transaction.delete_sync(found.slug)
            own = found.envelope.get(OWN) if isinstance(found, StoredSync) else None
            if own is not None:
                _delete_unused(transaction, str(own))


class _MovedError(Exception):
    """Somebody else changed the loader between our look and our write."""


@dataclass(frozen=True)
class _Making:
    """A connection and a sync on their way into the store. ``filled`` is ``config`` with what its masks stand for."""

    workspace: Workspace
    kinds: Kinds
    name: str
    config: Mapping[str, Any]
    spec: SyncSpec
    filled: Mapping[str, Any] | None = None
    is_known: bool = False
    """Whether the source need not be asked."""

    def run(
        self,
        by: str,
        label: str | None,
        *,
        before: Callable[[Transaction], None],
        also: Callable[[Transaction, StoredConnection], None],
    ) -> None:
        """Check, ask the source, write both in one transaction."""
        self._applying(self.config, Wishes(dry_run=True, verify=False), {}).run()
        catalogs, config = ({}, self.config) if self.is_known else self._asked()

        def labelled(transaction: Transaction) -> None:
            connection = transaction.put_connection(self._connection(config), self.kinds.secrets, label=label)
            also(transaction, connection)

        writing = self._applying(config, Wishes(frugal=True), catalogs)
        writing.by, writing.before, writing.also = by, before, labelled
        writing.run()

    def _asked(self) -> tuple[dict[str, Catalog], Mapping[str, Any]]:
        """What the source offers, and the settings with the secrets that it replaced while it was asked: a refresh token may be good for one use."""
        environ, runtime = self.workspace.environ, self.workspace.runtime
        wanted = self.config if self.filled is None else self.filled
        vault = HeldVault(resolve(dict(wanted), environ))
        question = Discovery(Account(self.name, self.kinds, wanted), self.spec, ("syncs", 0))
        catalog, problems = discover(question, replace(runtime, vault=vault), environ)
        raise_problems(problems)
        config = self.config
        for setting, secret in vault.replaced.items():
            config = with_secret(config, setting, secret.get_secret_value())
        return ({question.key: catalog} if catalog is not None else {}), config

    def _applying(self, config: Mapping[str, Any], wishes: Wishes, catalogs: dict[str, Catalog]) -> Applying:
        it = self.workspace
        project = Project(connections=(self._connection(config),), syncs=(self.spec,))
        return Applying(
            store=it.store, workspace=it.name, project=project, wishes=wishes, runtime=it.runtime, environ=it.environ,
            catalogs=catalogs,
        )  # fmt: skip

    def _connection(self, config: Mapping[str, Any]) -> ConnectionSpec:
        kind = self.kinds.source
        assert kind is not None  # noqa: S101 - a provider is a source
        return ConnectionSpec(name=self.name, connector=kind.name, config=dict(config))


def _data(wanted: Wanted, found: Provider, connection: str) -> dict[str, Any]:
    data: dict[str, Any] = {
        "name": wanted.name,
        "connection": connection,
        "destination": wanted.destination.spec.name,
        "schema": wanted.dataset,
        "schedule": {"cron": wanted.cron} if wanted.cron else None,
        "trigger_mode": TriggerMode.SCHEDULED.value if wanted.cron else TriggerMode.MANUAL.value,
        "settings": {k: v for k, v in wanted.config.items() if k in found.setting_names},
        "streams": [dict(s) for s in wanted.streams],
    }
    return {**data, **({"status": wanted.status.value} if wanted.status is not None else {})}


def _replaced(before: SyncSpec, data: Mapping[str, Any]) -> dict[str, Any]:
    """The sync with ``data`` in it; the zone of its schedule, what starts it where the schedule is the same, and what else is known of its streams
    stay."""
    kept = before.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    known = {s["name"]: s for s in kept.get("streams", ())}
    streams = [{**known.get(s.get("name"), {}), **s} for s in data["streams"]]
    schedule = {**(kept.get("schedule") or {}), **data["schedule"]} if data["schedule"] else None
    whole = {**kept, **data, "streams": streams, "schedule": schedule}
    is_same = (schedule or {}).get("cron") == (before.schedule.cron if before.schedule is not None else None)
    return {**whole, "trigger_mode": kept.get("trigger_mode")} if is_same else whole


def _of_connection(wanted: Wanted, found: Provider) -> dict[str, Any]:
    return {name: value for name, value in wanted.config.items() if name not in found.setting_names}


def _spec(data: Mapping[str, Any]) -> SyncSpec:
    spec, problems = parse(SyncSpec, dict(data))
    raise_problems(problems)
    assert spec is not None  # noqa: S101 - for the type checkers: without a problem it is there
    return spec


def _delete_unused(transaction: Transaction, connection_id: str) -> None:
    try:
        transaction.delete_connection(transaction.connection_by_id(connection_id).spec.name)
    except (NotFoundError, ConflictError):
        return


def _at(path: tuple[str | int, ...], what: str, fix: str) -> ConfigError:
    error = ConfigError(what, fix=fix)
    error.details = [(path, str(error))]
    return error
