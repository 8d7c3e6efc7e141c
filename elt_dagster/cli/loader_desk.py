"""Loaders for the commands, as the REST dialect writes them: of the store at hand, or of a server."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from elt_dagster.errors import ConfigError, ConflictError, NotFoundError, nearest

if TYPE_CHECKING:
    from elt_dagster.cli.session import Session
    from elt_dagster.client.loaders import Loaders as RemoteLoaders
    from elt_dagster.control.loaders import Loader, Loaders
    from elt_dagster.control.running import Running

Row = dict[str, Any]
BY = "cli"
_ANSWERED = frozenset(
    {"id", "workspace_id", "status_error", "created_by", "created_at", "updated_at", "last_run_at", "last_run_id"}
)
"""Fields of a loader that nobody can choose."""


class LoaderDesk(Protocol):
    """Loaders of one workspace. Methods raise EltError and nothing else on purpose."""

    def types(self) -> Sequence[Row]:
        """Every connector that can be read from."""
        ...

    def loaders(self) -> Sequence[Row]:
        """All of them."""
        ...

    def create(self, wanted: Mapping[str, Any]) -> Row:
        """A new one, from the fields of the Loaders dialect."""
        ...

    def replace(self, before: Row, wanted: Mapping[str, Any]) -> Row:
        """Another in the place of ``before``. Raises ConflictError where it was changed meanwhile."""
        ...

    def delete(self, loader_id: str) -> None:
        """Remove one."""
        ...

    def trigger(self, loader_id: str) -> Row:
        """Run one; the run."""
        ...

    def runs(self, loader_id: str, limit: int) -> Sequence[Row]:
        """The newest runs of one."""
        ...


def loader_desk(session: "Session", workspace_file: str | None = None) -> LoaderDesk:
    """Of the server that was named, else of the store at hand."""
    if session.url:
        return RemoteLoaderDesk(session.client.loaders(session.workspace_name))
    return LocalLoaderDesk(session, workspace_file)


def find_loader(desk: LoaderDesk, name: str) -> Row:
    """The loader with that id, else with that name. Raises NotFoundError with the nearest one, ConflictError where several have it."""
    rows = desk.loaders()
    found = [row for row in rows if row["id"] == name] or [row for row in rows if row["name"] == name]
    if not found:
        raise NotFoundError(f"There is no loader {name!r}.", fix=nearest(name, [row["name"] for row in rows]))
    if len(found) > 1:
        raise ConflictError(
            f"Several are called {name!r}: {', '.join(row['id'] for row in found[:5])}.", fix="Give the id."
        )
    return found[0]


@dataclass(frozen=True)
class RemoteLoaderDesk:
    """See `LoaderDesk`."""

    remote: "RemoteLoaders"

    def types(self) -> Sequence[Row]:
        """See `LoaderDesk`."""
        return [_plain(found) for found in self.remote.types()]

    def loaders(self) -> Sequence[Row]:
        """See `LoaderDesk`."""
        return [_plain(found) for found in self.remote.list()]

    def create(self, wanted: Mapping[str, Any]) -> Row:
        """See `LoaderDesk`."""
        return _plain(self.remote.create_as(wanted))

    def replace(self, before: Row, wanted: Mapping[str, Any]) -> Row:
        """See `LoaderDesk`."""
        now = self.remote.get(before["id"])
        return _plain(self.remote.replace(now, etag=now.etag, **wanted))

    def delete(self, loader_id: str) -> None:
        """See `LoaderDesk`."""
        self.remote.delete(loader_id)

    def trigger(self, loader_id: str) -> Row:
        """See `LoaderDesk`."""
        return _plain(self.remote.trigger(loader_id))

    def runs(self, loader_id: str, limit: int) -> Sequence[Row]:
        """See `LoaderDesk`."""
        return [_plain(run) for _, run in zip(range(limit), self.remote.runs(loader_id), strict=False)]


@dataclass(frozen=True)
class LocalLoaderDesk:
    """See `LoaderDesk`. What is read and written is understood by the models of the REST dialect."""

    session: "Session"
    workspace_file: str | None = None

    @property
    def _loaders(self) -> "Loaders":
        from elt_dagster.control.loaders import Loaders

        return Loaders(self.session.workspace)

    @property
    def _workspace_id(self) -> str:
        return next(w.id for w in self.session.store.workspaces() if w.name == self.session.workspace_name)

    def types(self) -> Sequence[Row]:
        """See `LoaderDesk`."""
        from elt_dagster.control.catalog import providers

        with _api():
            from elt_dagster.api.loaders_words import shown_types
        return [kind.model_dump(mode="json") for found in providers() for kind in shown_types(found)]

    def loaders(self) -> Sequence[Row]:
        """See `LoaderDesk`; without their runs, for which Dagster would have to be asked."""
        return [self._shown(found) for found in self._loaders.every()]

    def create(self, wanted: Mapping[str, Any]) -> Row:
        """See `LoaderDesk`."""
        return self._written(wanted, None)

    def replace(self, before: Row, wanted: Mapping[str, Any]) -> Row:
        """See `LoaderDesk`."""
        kept = {name: value for name, value in before.items() if name not in _ANSWERED}
        return self._written({**kept, **wanted}, before["id"])

    def delete(self, loader_id: str) -> None:
        """See `LoaderDesk`."""
        self._loaders.delete(loader_id)

    def trigger(self, loader_id: str) -> Row:
        """See `LoaderDesk`. Without a webserver the run is this process's own, and is waited for."""
        with self.session.runs(self.workspace_file) as runs:
            running = self._running(runs)
            return self._run(running.get(running.trigger(loader_id, by=BY))[0])

    def runs(self, loader_id: str, limit: int) -> Sequence[Row]:
        """See `LoaderDesk`."""
        with self.session.past_runs() as runs:
            return [self._run(view) for view in self._running(runs).page(loader_id, limit=limit)[0].items]

    def _running(self, runs: Any) -> "Running":
        from elt_dagster.control.running import Running

        return Running(self.session.workspace, runs)

    def _written(self, data: Mapping[str, Any], loader_id: str | None) -> Row:
        from elt_dagster.control.accounts import Accounts
        from elt_dagster.control.problems import parse, raise_problems

        with _api():
            from elt_dagster.api.loaders_models import LoaderReplaced, LoaderWanted
            from elt_dagster.api.loaders_words import read_loader, told
        body, problems = parse(LoaderWanted if loader_id is None else LoaderReplaced, dict(data), show=False)
        raise_problems(problems)
        assert body is not None  # noqa: S101 - without a problem it is there
        warehouse = Accounts(self.session.workspace).get(str(body.source_id))
        with told():
            wanted = read_loader(body, warehouse)
            loaders = self._loaders
            done = loaders.create(wanted, by=BY) if loader_id is None else loaders.replace(loader_id, wanted, by=BY)
        return self._shown(done)

    def _shown(self, loader: "Loader") -> Row:
        from elt_dagster.control.runs import LatestRuns

        with _api():
            from elt_dagster.api.loaders_words import shown_loader
        shown = shown_loader(loader, workspace_id=self._workspace_id, runs=LatestRuns(), error=None)
        return shown.model_dump(mode="json")

    def _run(self, view: Any) -> Row:
        with _api():
            from elt_dagster.api.loaders_words import shown_run
        return shown_run(view, workspace_id=self._workspace_id).model_dump(mode="json")


def _plain(answer: Any) -> Row:
    row: Row = answer.model_dump(mode="json", exclude={"etag"})
    return row


@contextmanager
def _api() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"The words of loaders need the package {error.name}.", fix="Run: pip install 'elt-dagster[api]'."
        ) from None
