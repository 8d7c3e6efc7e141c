"""Everything that can be wrong with a project although it reads well: names that lead nowhere, roles mixed up, settings a connector
does not have, streams and columns a source does not have. Each check returns problems; none writes, and only `discover_all` uses the network.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from elt_dagster.control.live_settings import complaints
from elt_dagster.control.problems import Path, Problem, parse, path_text
from elt_dagster.control.secrets import references, secret_fields, with_stand_ins
from elt_dagster.destinations.base import Destination
from elt_dagster.engine import resolve_binding, unknown_columns
from elt_dagster.errors import (
    ConfigError,
    ConflictError,
    ContractError,
    DestinationError,
    EltError,
    NotFoundError,
    nearest,
)
from elt_dagster.model import Catalog, Project, Stream, SyncSpec
from elt_dagster.model.secret import resolve
from elt_dagster.registry import connector_names, destination_names, load_connector, load_destination, require_driver
from elt_dagster.sdk.connector import Connector, Runtime

DISCOVERIES_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Kinds:
    """What a connector's name stands for: a source, a warehouse, or both."""

    source: type[Connector[Any]] | None
    warehouse: type[Destination[Any]] | None

    @property
    def secrets(self) -> frozenset[str]:
        """The dotted paths of its secrets, in either role."""
        return frozenset().union(*(secret_fields(k.config_type) for k in (self.source, self.warehouse) if k))


def find_kinds(name: str) -> Kinds:
    """What ``name`` stands for. Raises NotFoundError with the nearest match among connectors and warehouses."""
    warehouse = load_destination(name) if name in destination_names() else None
    try:
        return Kinds(load_connector(name), warehouse)
    except NotFoundError:
        if warehouse is not None:
            return Kinds(None, warehouse)
        known = sorted({*connector_names(), *destination_names()})
        raise NotFoundError(f"There is no connector {name!r}.", fix=nearest(name, known)) from None


@dataclass(slots=True)
class Account:
    """A connection while it is looked at: what it is, and its settings with masks filled and sealed values opened.

    ``path`` is where it stands in the project, None for one that only the store has.
    """

    name: str
    kinds: Kinds
    config: Mapping[str, Any] = field(repr=False)
    path: Path | None = None
    changed: bool = False
    sources_of: list[str] = field(default_factory=list[str])
    warehouse_of: list[str] = field(default_factory=list[str])

    @property
    def used_by(self) -> str:
        """`` (used by sync 'shop')``, or nothing."""
        slugs = list(dict.fromkeys([*self.sources_of, *self.warehouse_of]))
        shown = ", ".join(map(repr, slugs[:5])) + (f" and {len(slugs) - 5} more" if len(slugs) > 5 else "")
        return f" (used by sync{'s' if len(slugs) > 1 else ''} {shown})" if slugs else ""

    def roles(self) -> list[type[Connector[Any]] | type[Destination[Any]]]:
        """What its settings have to fit: the roles it is used in, else the first it could have."""
        used = [(self.kinds.source, self.sources_of), (self.kinds.warehouse, self.warehouse_of)]
        wanted = [kind for kind, syncs in used if kind and syncs]
        return wanted or [kind for kind, _ in used if kind][:1]


def check_account(account: Account, environ: Mapping[str, str], *, verify: bool) -> list[Problem]:
    """Whether its settings fit; with ``verify`` every secret must be there, without it a reference may stand for anything."""
    path = (*(account.path or ("connections",)), "config")
    unknown: set[Path] = set()
    if verify:
        missing = list(_missing_secrets(account, environ, path))
        if missing:
            return missing
        config = resolve(account.config, environ)
    else:
        unknown = set(references(account.config))
        config = with_stand_ins(account.config)
    problems: list[Problem] = []
    for kind in account.roles():
        _, found = parse(kind.config_type, config, path=path, show=False)
        hidden = [p for p in found if not any(p.path[len(path) :][: len(u)] == u for u in unknown)]
        problems += [Problem(p.path, f"{p.text}{account.used_by}") for p in hidden if p not in problems]
    return problems


def _missing_secrets(account: Account, environ: Mapping[str, str], path: Path) -> Iterator[Problem]:
    for inner in references(account.config):
        reference: Any = account.config
        for step in inner:
            reference = reference[step]
        try:
            resolve(reference, environ, where=f"connection {path_text((account.name, *inner))}")
        except ConfigError as error:
            yield Problem((*path, *inner), f"{error}{account.used_by}", type(error))


def check_warehouse(account: Account, environ: Mapping[str, str], runtime: Runtime) -> list[Problem]:
    """Whether the warehouse behind ``account`` can be reached and loaded into, as it says itself."""
    kind = account.kinds.warehouse
    if kind is None or not account.warehouse_of:
        return []
    path = (*(account.path or ("connections",)), "config")
    try:
        require_driver(kind)
        result = kind.configured(resolve(account.config, environ), runtime).check()
    except EltError as error:
        return [Problem(path, f"connection {account.name!r}: {error}{account.used_by}", type(error))]
    text = f"connection {account.name!r}: {result.message}{account.used_by}"
    return [] if result.ok else [Problem(path, text, DestinationError)]


def check_roles(project: Project, accounts: Mapping[str, Account], broken: Iterable[str]) -> list[Problem]:
    """Whether each sync's connections exist, its source being a connector and its destination a warehouse."""
    problems: list[Problem] = []
    names = [*accounts, *broken]
    for i, sync in enumerate(project.syncs):
        for key, name in (("connection", sync.connection), ("destination", sync.destination)):
            path = ("syncs", i, key)
            if name not in names:
                missing = f"sync {sync.slug!r}: there is no connection {name!r}. {nearest(name, names)}"
                problems.append(Problem(path, missing, NotFoundError))
            elif name in accounts:
                problems += _role_problem(path, sync, key, accounts[name])
    return problems


def _role_problem(path: Path, sync: SyncSpec, key: str, account: Account) -> Iterator[Problem]:
    kinds = account.kinds
    if key == "connection" and kinds.source is None and kinds.warehouse is not None:
        word, known = "source that can be read", connector_names()
    elif key == "destination" and kinds.warehouse is None and kinds.source is not None:
        word, known = "warehouse", destination_names()
    else:
        return
    name = (kinds.source or kinds.warehouse).name  # type: ignore[union-attr]  # one of them is there
    text = f"sync {sync.slug!r}: connection {account.name!r} is of connector {name!r}, which is no {word}. Allowed: {', '.join(known)}."
    yield Problem(path, text)


def check_tables(
    project: Project, others: Iterable[SyncSpec], same_place: Mapping[str, str], ids: Mapping[str, str] | None = None
) -> list[Problem]:
    """Whether any table would be loaded by two syncs, or two slugs make one job name.

    ``others`` are stored syncs that stay, ``ids`` theirs by slug; ``same_place`` maps a warehouse connection to a name shared by all that lead to
    the same place.
    """
    ids = ids or {}
    tables: dict[tuple[str, str, str], str] = {}
    jobs: dict[str, str] = {}
    for other in others:
        jobs[job_of(other.slug)] = other.slug
        for binding in other.streams:
            tables[_place(other, binding.table_name, same_place)] = other.slug
    problems: list[Problem] = []
    for i, sync in enumerate(project.syncs):
        taken = jobs.setdefault(job_of(sync.slug), sync.slug)
        if taken != sync.slug:
            text = f"{sync.slug!r} and {taken!r} would both be the job {job_of(sync.slug)!r}. Choose another slug."
            problems.append(Problem(("syncs", i, "slug"), text, ConflictError, ids.get(taken)))
        for j, binding in enumerate(sync.streams):
            owner = tables.setdefault(_place(sync, binding.table_name, same_place), sync.slug)
            if owner != sync.slug:
                text = (
                    f"sync {sync.slug!r} would load the table {sync.dataset}.{binding.table_name}, which sync {owner!r} loads. "
                    "Give one of them another `schema` or `table`."
                )
                problems.append(Problem(("syncs", i, "streams", j), text, ConflictError, ids.get(owner)))
    return problems


def _place(sync: SyncSpec, table: str, same_place: Mapping[str, str]) -> tuple[str, str, str]:
    # Most warehouses take RAW and raw for one schema, and where they are two, two people will take them for one.
    return same_place.get(sync.destination, sync.destination), sync.dataset.casefold(), table


def job_of(slug: str) -> str:
    """What the job of a sync is called in Dagster."""
    return f"sync_{slug.replace('-', '_')}"


def check_settings(sync: SyncSpec, path: Path, kind: type[Connector[Any]]) -> list[Problem]:
    """Whether the sync's own settings fit the connector, as far as that can be told without asking the source."""
    path = (*path, "settings")
    if kind.settings_type is not None:
        return parse(kind.settings_type, sync.settings, path=path)[1]
    if sync.settings and kind.settings_schema is Connector.settings_schema:
        text = f"sync {sync.slug!r}: the connector {kind.name!r} has no settings per sync. Remove them."
        return [Problem((*path, next(iter(sync.settings))), text)]
    return []


def check_live_settings(sync: SyncSpec, path: Path, connector: Connector[Any]) -> list[Problem]:
    """Whether the sync's own settings fit the connector's schema with what the source offers at this moment."""
    schema = connector.settings_schema(sync.settings)
    found = complaints(sync.settings, schema, connector=connector.name)
    return [Problem((*path, "settings", *inner), f"sync {sync.slug!r}: {text}") for inner, text in found]


def check_streams(sync: SyncSpec, path: Path, catalog: Catalog) -> tuple[dict[str, Stream], list[Problem]]:
    """The discovered stream of each binding, and every name the source does not have or that cannot serve as what it should."""
    streams: dict[str, Stream] = {}
    problems: list[Problem] = []
    for j, binding in enumerate(sync.streams):
        at = (*path, "streams", j)
        if binding.name not in catalog:
            known = [s.name for s in catalog]
            text = f"sync {sync.slug!r}: the source has no stream {binding.name!r}. {nearest(binding.name, known)}"
            problems.append(Problem((*at, "name"), text, NotFoundError))
            continue
        streams[binding.name] = catalog[binding.name]
        unknown = list(unknown_columns(binding, streams[binding.name]))
        problems += [Problem((*at, *p), f"sync {sync.slug!r}: {e}", NotFoundError) for p, e in unknown]
        if unknown:
            continue
        try:
            resolve_binding(binding, streams[binding.name])
        except ConfigError as error:
            named = re.search(r": (primary_key|cursor_field|excluded_columns|hashed_columns|load_mode)\b", error.what)
            problems.append(Problem((*at, named[1]) if named else at, f"sync {sync.slug!r}: {error}", type(error)))
    return streams, problems


@dataclass(frozen=True, slots=True)
class Discovery:
    """One question to one source: what does it offer under these settings?"""

    account: Account
    sync: SyncSpec
    path: Path

    @property
    def key(self) -> str:
        """Equal for questions that have the same answer."""
        return f"{self.account.name}\n{sorted(self.sync.settings.items(), key=str)!r}"


def discover_all(
    questions: Iterable[Discovery], runtime: Runtime, environ: Mapping[str, str], known: dict[str, Catalog]
) -> list[Problem]:
    """Put into ``known`` the catalog for each question's key, several sources at a time; what went wrong comes back, naming the sync."""
    asked: dict[str, list[Discovery]] = defaultdict(list)
    for question in questions:
        if question.key not in known:
            asked[question.key].append(question)
    problems: list[Problem] = []
    if not asked:
        return problems
    with ThreadPoolExecutor(DISCOVERIES_AT_ONCE, thread_name_prefix="elt-discover") as pool:
        answers = pool.map(lambda group: discover(group[0], runtime, environ), asked.values())
        for group, (catalog, found) in zip(asked.values(), answers, strict=True):
            problems += found
            if catalog is not None:
                known[group[0].key] = catalog
    return problems


def discover(question: Discovery, runtime: Runtime, environ: Mapping[str, str]) -> tuple[Catalog | None, list[Problem]]:
    """What a source answers; None where it is no source, or what went wrong, naming the sync."""
    account, sync = question.account, question.sync
    kind = account.kinds.source
    where = f"sync {sync.slug!r}, connection {account.name!r}"
    at = (*question.path, "connection")
    if kind is None:
        return None, []
    try:
        require_driver(kind)
        config = resolve(account.config, environ, where=f"connection {account.name!r}")
        connector = kind.configured(config, runtime)
        problems = check_live_settings(sync, question.path, connector)
        return (None, problems) if problems else (connector.discover(sync.settings), [])
    except EltError as error:
        return None, [Problem(at, f"{where}: {error}", type(error))]
    except Exception as error:
        # only the class: the text of a foreign error may repeat settings
        text = f"{where}: the connector {kind.name!r} failed with {type(error).__name__} while it was asked for its streams."
        return None, [Problem(at, f"{text} This is a bug in the connector.", ContractError)]
