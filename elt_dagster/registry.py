"""Find connectors and warehouses by name, importing only the one that is asked for.

Connectors come from three places: the bundled package ``elt_dagster.connectors`` (the folder ``connectors/`` of a checkout), other
packages' entry points in the group ``elt_dagster.connectors``, and the folder that ``ELT_DAGSTER_CONNECTORS`` names.
Warehouses are the modules of ``elt_dagster.destinations`` and the entry-point group ``elt_dagster.destinations``.
"""

import ast
import os
import re
import sys
import threading
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from elt_dagster.destinations.base import Destination
from elt_dagster.errors import ConfigError, ContractError, NotFoundError, nearest
from elt_dagster.sdk.connector import Connector

CONNECTORS = "elt_dagster.connectors"
DESTINATIONS = "elt_dagster.destinations"
FOLDER_VARIABLE = "ELT_DAGSTER_CONNECTORS"
_PARSING = threading.Lock()
"""CPython 3.11 loses count when two threads parse at once."""
_FOLDER_PACKAGE = "elt_dagster_connectors_folder"
_SETS_DESTINATION = re.compile(r"^destination\b[^\n=]*=", re.MULTILINE)


def connector_names() -> list[str]:
    """Names of all connectors, sorted, without importing any of them; aliases are left out."""
    return sorted(_connector_modules())


def load_connector(name: str) -> type[Connector[Any]]:
    """The class of the connector called ``name`` or by one of its aliases.

    Raises NotFoundError with the nearest match, ConfigError naming the command that installs a missing driver, ContractError for a
    module that does not set ``connector``.
    """
    modules = _connector_modules()
    module = modules.get(_aliases().get(name, name))
    if module is None:
        raise NotFoundError(f"There is no connector {name!r}.", fix=nearest(name, [*modules, *_aliases()]))
    found: type[Connector[Any]] = _load(module, "connector", Connector)
    return found


def destination_names() -> list[str]:
    """Names of all warehouses, sorted, without importing any of them."""
    return sorted(_destination_modules())


def load_destination(name: str) -> type[Destination[Any]]:
    """The class of the warehouse called ``name``; raises as `load_connector` does."""
    modules = _destination_modules()
    if name not in modules:
        raise NotFoundError(f"There is no warehouse {name!r}.", fix=nearest(name, list(modules)))
    found: type[Destination[Any]] = _load(modules[name], "destination", Destination)
    return found


def require_driver(kind: "type[Connector[Any]] | type[Destination[Any]]") -> None:
    """Raise ConfigError with the command to run when the optional driver of ``kind`` is missing."""
    missing = [module for module in kind.requires if not _is_installed(module)]
    if missing:
        raise ConfigError(
            f"{kind.title} needs the Python module {missing[0]!r}, which is not installed.",
            fix=f"Run: pip install 'elt-dagster[{kind.name}]'",
        )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


def _load(module: str, attribute: str, base: type[Any]) -> Any:
    found: object = getattr(import_module(module), attribute, None)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ContractError(f"{module} must set `{attribute}` to its {base.__name__} class.")
    return found


def _connector_modules() -> dict[str, str]:
    found = {m.name: f"{CONNECTORS}.{m.name}" for m in iter_modules(_bundled().__path__) if m.name[0] != "_"}
    _add_entry_points(found, CONNECTORS, "connector")
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        package = _import_folder(_FOLDER_PACKAGE, Path(folder))
        for m in iter_modules(package.__path__):
            if m.name in found:
                raise ConfigError(
                    f"The connector {m.name!r} is in {folder} and in {found[m.name]}.", fix="Rename one of them."
                )
            if m.name[0] != "_":
                found[m.name] = f"{_FOLDER_PACKAGE}.{m.name}"
    return found


@cache
def _destination_modules() -> dict[str, str]:
    package = import_module(DESTINATIONS)
    found = {
        m.name: f"{DESTINATIONS}.{m.name}"
        for m in iter_modules(package.__path__)
        if _is_warehouse(Path(package.__path__[0], f"{m.name}.py"))
    }
    _add_entry_points(found, DESTINATIONS, "warehouse")
    return found


def _is_warehouse(file: Path) -> bool:
    """Whether a module of ours sets ``destination``: its neighbours are what several warehouses share."""
    return file.exists() and _SETS_DESTINATION.search(file.read_text()) is not None


def _add_entry_points(found: dict[str, str], group: str, what: str) -> None:
    for name, value in _entry_points(group):
        if name in found and found[name] != value:
            raise ConfigError(
                f"Two packages provide the {what} {name!r}: {found[name]} and {value}.",
                fix="Uninstall one of them.",
            )
        found[name] = value


@cache  # reading those of two hundred packages takes 10 ms, and a server asks for every connection it shows
def _entry_points(group: str) -> tuple[tuple[str, str], ...]:
    return tuple((point.name, point.value) for point in entry_points(group=group))


def _aliases() -> dict[str, str]:
    """Other names of bundled connectors."""
    with _PARSING:
        return _read_aliases()


@cache
def _read_aliases() -> dict[str, str]:
    """From their source text, so that none is imported."""
    found: dict[str, str] = {}
    for folder in _bundled().__path__:
        for file in Path(folder).glob("[a-z]*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    if any(isinstance(t, ast.Name) and t.id == "aliases" for t in targets):
                        found.update(dict.fromkeys(ast.literal_eval(node.value), file.stem))
    return found


@cache
def _bundled() -> ModuleType:
    try:
        return import_module(CONNECTORS)
    except ModuleNotFoundError as error:
        # A checkout that shadows the installed package: the current folder comes first on sys.path.
        checkout = Path(__file__).parent.parent / "connectors"
        if error.name != CONNECTORS or not (checkout / "__init__.py").exists():
            raise
        return _import_folder(CONNECTORS, checkout)


def _import_folder(name: str, folder: Path) -> ModuleType:
    """Import ``folder`` as package ``name`` without touching ``sys.path``."""
    if name in sys.modules:
        if str(folder) in sys.modules[name].__path__:
            return sys.modules[name]
        for known in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
            del sys.modules[known]  # the variable names another folder now
    if not folder.is_dir():
        raise ConfigError(f"{FOLDER_VARIABLE} names {folder}, which is not a folder.", fix="Correct or unset it.")
    init = folder / "__init__.py"
    if init.exists():
        spec = spec_from_file_location(name, init, submodule_search_locations=[str(folder)])
        if spec is None or spec.loader is None:
            raise ConfigError(f"{folder} is not an importable folder.")
        module = module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    else:
        module = ModuleType(name)
        module.__path__ = [str(folder)]
        sys.modules[name] = module
    return module
