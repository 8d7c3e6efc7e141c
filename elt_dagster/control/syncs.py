"""The use cases on syncs, by id: what the REST API, its client and the command line do to one sync at a time.

A change is a function on the sync as plain data (the words of `SyncSpec`, as in YAML) and on its *envelope*, where the REST dialects keep
what is no word of ours. Everything is checked as `apply` checks it, and written in one transaction, or not at all.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from elt_dagster.control.apply import ATTEMPTS, Applying, Wishes
from elt_dagster.control.problems import parse, raise_problems
from elt_dagster.control.workspace import Workspace
from elt_dagster.errors import ConflictError, EltError, NotFoundError, TransientError
from elt_dagster.model import Catalog, Project, SyncSpec, SyncStatus
from elt_dagster.model.names import slugify, snake_case
from elt_dagster.store import AnySync, BrokenSync, FullRefresh, Place, Reader, StoredSync, SyncFilter, Transaction

Change = Callable[[dict[str, Any], dict[str, Any]], None]
"""Changes the data of a sync and its envelope in place."""
MAX_SLUG = 63


class ChangedMeanwhileError(ConflictError):
    """The sync is not what the caller saw last: another ETag."""

    reason = "precondition_failed"


@dataclass(frozen=True, slots=True)
class SyncPage:
    """Some syncs and how many there are in all. ``kinds`` are the connectors of all connections, by name."""

    items: tuple[AnySync, ...]
    total: int
    kinds: Mapping[str, str]
    marks: Mapping[str, FullRefresh] = field(default_factory=dict[str, FullRefresh])
    """Bindings whose next run is a full refresh, by id."""


@dataclass(frozen=True)
class Syncs:
    """Syncs of one workspace. Methods raise EltError and nothing else on purpose; ids of other workspaces are not found."""

    workspace: Workspace

    # --- looking ---------------------------------------------------------------------------------------------------------------

    def page(self, wanted: SyncFilter, place: Place, *, marks: bool = True) -> SyncPage:
        """One page of the syncs that ``wanted`` names; their streams have no schema. Without ``marks`` these are not looked up.

        Raises NotFoundError when the row it comes after is gone.
        """
        (items, total), kinds = self.workspace.store.recall(
            self.workspace.name,
            ("syncs", wanted, place),
            lambda reader: (reader.sync_page(wanted, place), reader.kinds()),
            lambda found: len(found[0][0]),
        )
        ids = [b for s in items if isinstance(s, StoredSync) for b in s.binding_ids.values()]
        return SyncPage(items, total, kinds, self.marks_of(ids) if marks else {})

    def get(self, sync_id: str, *, revision: int | None = None) -> StoredSync:
        """One sync. Raises NotFoundError; ConfigError when its row is broken; ChangedMeanwhileError when it is not of ``revision``."""
        found = self.workspace.store.sync_by_id(sync_id, workspace=self.workspace.name)
        expect(found.revision, revision, found)
        return found

    def find(self, sync_id: str) -> AnySync:
        """One sync, broken or not. Raises NotFoundError."""
        return self.workspace.store.any_sync_by_id(sync_id, workspace=self.workspace.name)

    def streams_page(
        self, wanted: SyncFilter, place: Place, *, sync_id: str | None = None
    ) -> list[tuple[str, StoredSync, str]]:
        """One page of the bindings of all syncs, or of one: id, sync and stream; without those of broken syncs. Raises NotFoundError."""

        def ask(reader: Reader) -> list[tuple[str, AnySync]]:
            if sync_id is not None:
                reader.any_sync_by_id(sync_id)
            return reader.binding_page(wanted, place, sync_id=sync_id)

        question = ("streams", wanted, place, sync_id)
        found = self.workspace.store.recall(self.workspace.name, question, ask, len)
        good = [(binding, sync) for binding, sync in found if isinstance(sync, StoredSync)]
        return [(binding, sync, _stream(sync, binding)) for binding, sync in good]

    def of_stream(self, binding_id: str) -> tuple[StoredSync, str]:
        """The sync that has a binding, and the binding's stream. Raises NotFoundError."""
        found = self.workspace.store.recall(
            self.workspace.name, ("stream", binding_id), lambda reader: reader.sync_of_binding(binding_id)
        )
        if isinstance(found, BrokenSync):
            raise NotFoundError(found.error)
        return found, _stream(found, binding_id)

    def marks(self, sync: StoredSync) -> Mapping[str, FullRefresh]:
        """The bindings of a sync whose next run is a full refresh, by id."""
        return self.marks_of(list(sync.binding_ids.values()))

    def marks_of(self, binding_ids: Collection[str]) -> Mapping[str, FullRefresh]:
        """Those of these bindings whose next run is a full refresh, by id; the ids are known to be of this workspace."""
        return self.workspace.store.full_refreshes.of(binding_ids) if binding_ids else {}

    def kinds(self) -> dict[str, str]:
        """The connector of every connection, by name."""
        return self.workspace.store.recall(self.workspace.name, "kinds", lambda reader: reader.kinds())

    def connection_name(self, connection_id: str) -> str:
        """What the spec calls a connection. Raises NotFoundError."""
        return self.workspace.store.connection_by_id(connection_id, workspace=self.workspace.name).spec.name

    def available(self, sync_id: str) -> Catalog:
        """What the source of a sync offers now, under the sync's settings. Raises AuthError, TransientError ... when it cannot be asked."""
        spec = self.get(sync_id).spec
        return self.workspace.discover(spec.connection, spec.settings)

    # --- changing --------------------------------------------------------------------------------------------------------------

    def free_slug(self, name: str) -> str:
        """A slug that no sync has yet, made of ``name``."""
        taken = {slug.replace("-", "_") for slug in self._slugs()}
        wished = slugify(name)[:MAX_SLUG].strip("-_") or "sync"
        candidates = [wished, *(f"{wished[: MAX_SLUG - 5]}-{n}" for n in range(2, 10_000))]
        return next(slug for slug in candidates if slug.replace("-", "_") not in taken)

    def create(
        self,
        data: Mapping[str, Any],
        *,
        envelope: Mapping[str, Any] | None = None,
        by: str = "",
        verify: bool = True,
    ) -> StoredSync:
        """A new sync from plain data. Without a ``slug`` one is made of the name, without a ``schema`` one of the slug. ``verify`` asks the source.

        Raises ConfigError whose ``details`` have a path into ``data`` for each problem; ConflictError, with the other's id, for a slug or a
        table that is taken.
        """
        if data.get("slug"):
            return self._create(data, envelope=envelope, by=by, verify=verify)
        for _ in range(ATTEMPTS):
            slug = self.free_slug(str(data.get("name") or ""))
            try:
                return self._create({**data, "slug": slug}, envelope=envelope, by=by, verify=verify)
            except ConflictError:
                # another one may have taken the slug since it was found free
                if slug not in self._slugs():
                    raise
        raise TransientError("Others kept taking the slugs of this name.", fix="Send a slug.")

    def _create(
        self, data: Mapping[str, Any], *, envelope: Mapping[str, Any] | None, by: str, verify: bool
    ) -> StoredSync:
        dataset = data.get("schema")
        spec = self._parsed({**data, "schema": schema_of(str(data["slug"])) if dataset is None else dataset})

        def absent(transaction: Transaction) -> None:
            _refuse_taken(transaction, spec.slug)

        def kept(transaction: Transaction) -> None:
            transaction.put_envelope(spec.slug, envelope or {}, by=by)

        self._apply(spec, by=by, before=absent, also=kept, verify=verify)
        return self.workspace.store.sync(spec.slug, workspace=self.workspace.name)

    def update(
        self, sync_id: str, change: Change, *, revision: int | None = None, by: str = "", verify: bool = True
    ) -> StoredSync:
        """Change one sync. With ``revision`` only if it is still of that one. ``verify`` asks the source for streams it was never asked for;
        without it nothing but the words is checked.

        Raises as `create` does, NotFoundError, and ChangedMeanwhileError.
        """
        for _ in range(ATTEMPTS):
            stored = self.get(sync_id)
            expect(stored.revision, revision, stored)
            data = stored.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            envelope = dict(stored.envelope)
            change(data, envelope)
            spec = self._parsed(data)
            try:
                self._write_changed(stored, spec, envelope, by=by, verify=verify)
            except _MovedError:
                continue
            return self.get(sync_id)
        raise TransientError("Others kept changing this sync meanwhile.", fix="Try again.")

    def set_status(self, sync_id: str, status: SyncStatus, *, revision: int | None = None, by: str = "") -> StoredSync:
        """Activate, pause or archive a sync; no source is asked."""

        def change(data: dict[str, Any], envelope: dict[str, Any]) -> None:
            data["status"] = status.value

        return self.update(sync_id, change, revision=revision, by=by, verify=False)

    def delete(self, sync_id: str, *, revision: int | None = None) -> AnySync:
        """Remove a sync with its bindings, also one whose row is broken; its tables stay. Raises NotFoundError, ChangedMeanwhileError."""
        with self.workspace.store.transaction(self.workspace.name) as transaction:
            found = transaction.any_sync_by_id(sync_id)
            expect(found.revision, revision, found)
            transaction.delete_sync(found.slug)
        return found

    # --- streams ---------------------------------------------------------------------------------------------------------------

    def put_streams(
        self,
        sync_id: str,
        streams: Sequence[Mapping[str, Any]],
        *,
        also: Change | None = None,
        revision: int | None = None,
        by: str = "",
    ) -> StoredSync:
        """Add streams, or change those that are there: fields that a stream does not name stay, None takes one away. Each is plain data with a
        ``name``; ``also`` changes what else there is, afterwards. Raises as `update` does, with paths into ``streams``."""

        def change(data: dict[str, Any], envelope: dict[str, Any]) -> None:
            known = {s["name"]: s for s in data.get("streams", ())}
            for wanted in streams:
                merged = {**known.get(wanted["name"], {}), **wanted}
                known[wanted["name"]] = {k: v for k, v in merged.items() if v is not None}
            data["streams"] = list(known.values())
            order[:] = known
            if also is not None:
                also(data, envelope)

        order: list[str] = []
        try:
            return self.update(sync_id, change, revision=revision, by=by)
        except EltError as error:
            sent = [s["name"] for s in streams]
            error.details = [(_as_sent(path, order, sent), text) for path, text in error.details]
            raise

    def remove_stream(self, binding_id: str, *, by: str = "") -> StoredSync:
        """Take a stream out of its sync; its table stays. With its last stream a sync is a draft again. Raises NotFoundError."""
        sync, name = self.of_stream(binding_id)

        def change(data: dict[str, Any], envelope: dict[str, Any]) -> None:
            data["streams"] = [s for s in data.get("streams", ()) if s["name"] != name]
            if not data["streams"]:
                data["status"] = SyncStatus.DRAFT.value

        return self.update(sync.id, change, by=by, verify=False)

    def request_full_refresh(self, binding_id: str, *, reset_history: bool = False, by: str = "") -> FullRefresh:
        """Have the next run of a stream read everything again. Raises NotFoundError, ConflictError for a stream that is protected from it."""
        sync, name = self.of_stream(binding_id)
        binding = sync.spec.binding(name)
        if binding is not None and binding.protected_from_full_sync:
            raise ConflictError(
                f"The stream {name!r} is protected from full refresh.", fix="Take protected_from_full_sync away first."
            )
        if binding is not None and sync.spec.slicing_of(binding) is not None:
            raise ConflictError(
                f"The stream {name!r} is loaded in windows, which are loaded again one by one.",
                fix="Run its windows again.",
            )
        return self.workspace.store.full_refreshes.mark(binding_id, reset_history=reset_history, requested_by=by)

    def cancel_full_refresh(self, binding_id: str) -> bool:
        """Take the mark away; whether there was one. Raises NotFoundError."""
        self.of_stream(binding_id)
        return self.workspace.store.full_refreshes.end(binding_id)

    # --- inside ----------------------------------------------------------------------------------------------------------------

    def _slugs(self) -> list[str]:
        with self.workspace.store.reading(self.workspace.name) as reader:
            return reader.slugs()

    def _parsed(self, data: Mapping[str, Any]) -> SyncSpec:
        spec, problems = parse(SyncSpec, dict(data))
        raise_problems(problems)
        assert spec is not None  # noqa: S101 - for the type checkers: without a problem it is there
        return spec

    def _write_changed(
        self, stored: StoredSync, spec: SyncSpec, envelope: Mapping[str, Any], *, by: str, verify: bool
    ) -> None:
        def unmoved(transaction: Transaction) -> None:
            if transaction.sync_by_id(stored.id).revision != stored.revision:
                raise _MovedError
            if spec.slug != stored.slug:
                _refuse_taken(transaction, spec.slug, but=stored.slug)

        def renamed(transaction: Transaction) -> None:
            transaction.put_envelope(stored.slug, envelope, by=by)
            transaction.rename_sync(stored.slug, spec.slug)

        # compared under its old slug: under the new one it would look like another sync that wants the same tables
        known = spec.model_copy(update={"slug": stored.slug})
        self._apply(known, by=by, before=unmoved, also=renamed, verify=verify)

    def _apply(
        self,
        spec: SyncSpec,
        *,
        by: str,
        before: Callable[[Transaction], None],
        also: Callable[[Transaction], None],
        verify: bool = True,
    ) -> None:
        it = self.workspace
        applying = Applying(
            store=it.store, workspace=it.name, project=Project(syncs=(spec,)), wishes=Wishes(verify=verify, frugal=True),
            runtime=it.runtime, environ=it.environ, by=by, before=before, also=also,
        )  # fmt: skip
        try:
            applying.run()
        except EltError as error:
            error.details = [_inside(path, text) for path, text in error.details]
            raise


class _MovedError(Exception):
    """Somebody else changed the sync between our look and our write."""


def schema_of(slug: str) -> str:
    """The destination schema of a sync that names none."""
    plain = snake_case(slug)
    # what begins so belongs to the warehouse itself
    return f"raw_{plain}"[:MAX_SLUG] if plain.startswith("pg_") or plain == "information_schema" else plain


def expect(now: int, revision: int | None, found: AnySync) -> None:
    """Raises ChangedMeanwhileError where ``found`` is of another revision ``now`` than is expected; None expects nothing."""
    if revision is not None and now != revision:
        raise ChangedMeanwhileError(
            f"The sync {found.slug!r} was changed meanwhile.",
            fix="Read it again and send the new ETag.",
            with_id=found.id,
        )


def _refuse_taken(transaction: Transaction, slug: str, but: str = "") -> None:
    """Slugs that differ by ``-`` and ``_`` only would be the same job."""
    taken = next((s for s in transaction.slugs() if s != but and s.replace("-", "_") == slug.replace("-", "_")), None)
    if taken is not None:
        text = f"There is a sync {taken!r} already."
        raise ConflictError(text, fix="Choose another slug.", with_id=transaction.any_sync(taken).id)


def _stream(sync: StoredSync, binding_id: str) -> str:
    return next(name for name, known in sync.binding_ids.items() if known == binding_id)


def _as_sent(path: tuple[str | int, ...], order: Sequence[str], sent: Sequence[str]) -> tuple[str | int, ...]:
    """From the place of a stream in its sync to that in the request, if it is there."""
    match path:
        case ("streams", int(at), *inner) if at < len(order):
            name = order[at]
            return ("streams", sent.index(name), *inner) if name in sent else ("streams",)
    return path


def _inside(path: tuple[str | int, ...], text: str) -> tuple[tuple[str | int, ...], str]:
    """From the project's path to the sync's own."""
    return (path[2:] if path[:2] == ("syncs", 0) else path), text
