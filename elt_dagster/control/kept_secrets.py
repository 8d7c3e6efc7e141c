"""A secret that is kept goes where it went before.

Who changes a connection may leave its secrets out, by a mask or by a reference that is there already, without being able to read them. If the same
change could say where the connection goes, it could have them sent to a host of its own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo

from elt_dagster.control.problems import Path, Problem, value_at
from elt_dagster.control.secrets import references
from elt_dagster.control.validate import Kinds
from elt_dagster.model.secret import MASK, is_reference
from elt_dagster.sdk.places import is_address

_FIX = "Send the secret itself again, for a stored one does not go to another place."


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """New settings of a connection, ``filled`` with what their masks stand for, and the ``stored`` ones, opened."""

    kinds: Kinds
    sent: Mapping[str, Any]
    filled: Mapping[str, Any]
    stored: Mapping[str, Any]
    references_too: bool
    """Whether references are secrets to whoever sends it; not to one who may write them."""
    path: Path = ()
    """Of the settings, in what was sent."""

    def problems(self) -> list[Problem]:
        """One for each secret that is kept while the connection goes elsewhere, at its path."""
        moved = self._moved()
        if not moved:
            return []
        names = ", ".join(dict.fromkeys(_dotted(path) for path in moved))
        return [Problem((*self.path, *kept), f"{_pointer(kept)} is kept as it is, and {names} changed. {_FIX}") for kept in self._kept()]  # fmt: skip

    def _moved(self) -> list[Path]:
        places = address_fields(self.kinds)
        before, after = (dict(_leading(config, places, self.kinds.secrets)) for config in (self.stored, self.filled))
        return [path for path in {**after, **before} if before.get(path) != after.get(path)]

    def _kept(self) -> Iterator[Path]:
        yield from _masks(self.sent, self.kinds.secrets)
        if self.references_too:
            places = address_fields(self.kinds)
            for path in references(self.sent):
                if _dotted(path) not in places and value_at(self.sent, path) == value_at(self.stored, path):
                    yield path


def address_fields(kinds: Kinds) -> dict[str, str]:
    """Dotted paths of the settings that say where a connection goes, and what each is where nothing is said; lists on the way do not count."""
    types = [kind.config_type for kind in (kinds.source, kinds.warehouse) if kind is not None]
    return {path: usual for kind in types for path, usual in _addresses(kind, (), ())}


def where_to(kinds: Kinds, config: Mapping[str, Any]) -> dict[Path, JsonValue]:
    """Those parts of ``config`` that say where the connection goes; defaults are left out."""
    return dict(_leading(config, address_fields(kinds), frozenset()))


def _addresses(
    kind: type[BaseModel], above: tuple[str, ...], inside: tuple[type[BaseModel], ...]
) -> Iterator[tuple[str, str]]:
    for name, field in kind.model_fields.items():
        path = (*above, field.alias or name)
        if is_address(path[-1], field):
            yield ".".join(path), _usual(field)
        for model in _models(field.annotation):
            if model not in inside:
                yield from _addresses(model, path, (*inside, model))


def _usual(field: FieldInfo) -> str:
    value = None if field.is_required() else field.get_default(call_default_factory=False)
    return _text(value) if isinstance(value, str | int | float) else ""


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    parts = get_args(annotation)
    if not parts and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    origin = get_origin(annotation)
    if isinstance(origin, type) and issubclass(origin, BaseModel):
        yield origin
    for part in parts:
        yield from _models(part)


def _leading(
    value: Any, places: Mapping[str, str], secrets: frozenset[str], path: Path = (), *, counts: bool = False
) -> Iterator[tuple[Path, JsonValue]]:
    """Everything in a configuration that says where it leads. Below a secret nothing is known of the parts, so that each of them does."""
    name = _dotted(path)
    counts = counts or name in places
    if isinstance(value, Mapping) and not is_reference(value):
        for key, part in value.items():
            yield from _leading(part, places, secrets, (*path, str(key)), counts=counts or name in secrets)
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _leading(part, places, secrets, (*path, index), counts=counts)
    elif counts and _text(value) not in ("", places.get(name)):
        yield path, _text(value)


def _masks(value: Any, secrets: frozenset[str], path: Path = (), *, secret: bool = False) -> Iterator[Path]:
    secret = secret or _dotted(path) in secrets
    if secret and value == MASK:
        yield path
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _masks(part, secrets, (*path, str(key)), secret=secret)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _masks(part, secrets, (*path, index), secret=secret)


def _dotted(path: Path) -> str:
    return ".".join(step for step in path if isinstance(step, str))


def _pointer(path: Path) -> str:
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def _text(value: Any) -> str:
    """The same for a number and for its digits, as the models take both."""
    return "" if value is None else str(value).strip().rstrip("/").lower()
