"""What is wrong with something a user wrote, in sentences: where it stands, what was found, what is allowed, what was meant.

A `Problem` points into the written document by path (``syncs[0].streams[1].load_mode``); whoever knows the file turns the path into
a line. Values are shown to help the reader, but never below ``config``, where they may be secrets.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from elt_dagster.errors import ConfigError, ConflictError, EltError, nearest
from elt_dagster.model.names import SLUG, slugify
from elt_dagster.model.part import MisplacedError

Path = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)
SHOWN_CHARACTERS = 60

_EXPECTED = {
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "a mapping (key: value)",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "mapping_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "string_type": "text",
    "tuple_type": "a list",
}
_LIMITS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}
_IDENTIFIERS = {
    SLUG: "lower-case letters and digits, joined by - or _",
    "^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$": "letters, digits, - and _, at most 63",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, at one place; ``error`` is the class that says who has to act."""

    path: Path
    text: str
    error: type[EltError] = ConfigError
    with_id: str | None = None
    """What it collides with, for a ConflictError."""

    def __str__(self) -> str:
        return f"{path_text(self.path)}: {self.text}" if self.path else self.text


def path_text(path: Path) -> str:
    """``("syncs", 0, "slug")`` as ``syncs[0].slug``."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")


def below_config(path: Path) -> bool:
    """Whether ``path`` leads into a connection's settings, whose values are never shown."""
    return "config" in path


def raise_problems(problems: Sequence[Problem], locate: Callable[[Path], str] = lambda path: "") -> None:
    """Raise one error that lists ``problems``, one a line, each behind the place ``locate`` knows; nothing when there are none.

    One kind of problem keeps its class (AuthError, TransientError, ...), several kinds become a ConfigError.
    """
    if not problems:
        return
    lines = list(dict.fromkeys(": ".join(filter(None, (locate(p.path), str(p)))) for p in problems))
    kinds = {p.error for p in problems}
    kind = kinds.pop() if len(kinds) == 1 else ConfigError
    error = kind("\n".join(lines))
    error.details = [(p.path, p.text) for p in problems]
    if isinstance(error, ConflictError):
        error.with_id = next((p.with_id for p in problems if p.with_id), None)
    raise error


def parse(kind: type[M], value: Any, *, path: Path = (), show: bool = True) -> tuple[M | None, list[Problem]]:
    """``value`` as a ``kind``, or every reason why it is none. ``path`` is where ``value`` stands; ``show`` repeats what was found."""
    try:
        return kind.model_validate(value), []
    except ValidationError as error:
        details = error.errors(include_input=False, include_url=False)
    problems: list[Problem] = []
    for detail in details:
        inner = (*_written_path(detail["loc"], value), *_deeper(detail))
        visible = show and not below_config((*path, *inner))
        problems.append(Problem((*path, *inner), _sentence(detail, kind, inner, value_at(value, inner), show=visible)))
    return None, problems


def found(value: Any) -> str:
    """``value`` in a message: short, quoted when it is text, only its kind when it is a container."""
    if isinstance(value, str):
        return repr(value if len(value) <= SHOWN_CHARACTERS else f"{value[:SHOWN_CHARACTERS]}...")
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _written_path(loc: Path, value: Any) -> Path:
    """``loc`` without what pydantic adds and nobody wrote: the tags of unions."""
    path: list[str | int] = []
    for i, step in enumerate(loc):
        if isinstance(step, str) and isinstance(value, Mapping) and step not in value and i < len(loc) - 1:
            continue
        path.append(step)
        value = value_at(value, (step,))
    return tuple(path)


def _deeper(detail: ErrorDetails) -> Path:
    error = detail.get("ctx", {}).get("error")
    return error.path if isinstance(error, MisplacedError) else ()


def value_at(value: Any, path: Path) -> Any:
    """What stands at ``path``, through maps and lists; None where there is nothing."""
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


@dataclass(frozen=True, slots=True)
class _Case:
    """One complaint of pydantic with what is needed to say it well."""

    kind: str
    context: Mapping[str, Any]
    said: str
    value: Any
    field: FieldInfo | None
    key: str
    known_keys: list[str]
    show: bool

    @property
    def seen(self) -> str:
        return f"found {found(self.value)}; " if self.show else ""

    @property
    def meaning(self) -> str:
        """The field's own description, as far as it fits a message."""
        return _first_sentence(self.field)


def _sentence(detail: ErrorDetails, kind: type[BaseModel], path: Path, value: Any, *, show: bool) -> str:
    case = _Case(
        kind=detail["type"],
        context=detail.get("ctx", {}),
        said=detail["msg"],
        value=value,
        field=_field_at(kind, path),
        key=str(path[-1]) if path else "",
        known_keys=_keys_at(kind, path[:-1]),
        show=show,
    )
    return _SENTENCES.get(case.kind, _other)(case)


def _unknown_key(case: _Case) -> str:
    return f"unknown key. {nearest(case.key, case.known_keys)}"


def _missing(case: _Case) -> str:
    return f"is missing. It is: {case.meaning}" if case.meaning else "is missing."


def _choice(case: _Case) -> str:
    expected = str(case.context.get("expected") or case.context.get("expected_tags"))
    words = re.findall(r"'([^']*)'", expected)
    close = nearest(str(case.value), words) if case.show else ""
    return f"{case.seen}allowed: {', '.join(words)}.{f' {close}' if close.startswith('Did') else ''}"


def _type(case: _Case) -> str:
    remedy = ""
    if case.kind == "string_type" and isinstance(case.value, Mapping) and not case.show:
        remedy = " A secret is written {env: NAME} or {file: PATH}."
    if case.show and case.kind == "string_type" and isinstance(case.value, int | float):
        remedy = " Put it in quotes."
    if case.show and case.kind in ("tuple_type", "list_type") and isinstance(case.value, str):
        remedy = f" Write [{case.value}]."
    return f"{case.seen}expected {_EXPECTED[case.kind]}.{remedy}"


def _limit(case: _Case) -> str:
    name, words = _LIMITS[case.kind]
    reason = f" ({case.meaning})" if case.meaning else ""
    return f"{case.seen}must be {words} {case.context[name]}.{reason}"


def _identifier(case: _Case) -> str:
    pattern = str(case.context["pattern"])
    allowed = f"{case.seen}allowed: {_IDENTIFIERS.get(pattern, pattern)}."
    better = slugify(str(case.value)) if case.show and case.value else ""
    return f"{allowed} How about {better!r}?" if better and better != case.value else allowed


def _too_short(case: _Case) -> str:
    return "must not be empty." if case.context["min_length"] == 1 else _other(case)


def _too_long(case: _Case) -> str:
    return f"{case.seen}at most {case.context['max_length']} characters are allowed."


def _own_words(case: _Case) -> str:
    """What a validator of ours said; it already says what was found."""
    said = str(case.context["error"])
    return said if said.endswith((".", "?")) else f"{said}."


def _other(case: _Case) -> str:
    return f"{case.seen}{case.said[0].lower()}{case.said[1:]}."


_SENTENCES: dict[str, Callable[[_Case], str]] = {
    **dict.fromkeys(_EXPECTED, _type),
    **dict.fromkeys(_LIMITS, _limit),
    **dict.fromkeys(("enum", "literal_error", "union_tag_invalid"), _choice),
    "extra_forbidden": _unknown_key,
    "missing": _missing,
    "string_pattern_mismatch": _identifier,
    "string_too_long": _too_long,
    "string_too_short": _too_short,
    "value_error": _own_words,
}


def _first_sentence(field: FieldInfo | None) -> str:
    return ((field.description if field else "") or "").split("\n\n", maxsplit=1)[0].replace("`", "")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every model inside an annotation such as ``tuple[TableBinding, ...] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _models_at(kind: type[BaseModel], path: Path) -> list[type[BaseModel]]:
    models = [kind]
    for step in path:
        if isinstance(step, str):
            models = [m for model in models if (field := _named(model, step)) for m in _models(field.annotation)]
    return models


def _named(kind: type[BaseModel], key: str) -> FieldInfo | None:
    return next((f for name, f in kind.model_fields.items() if key in (name, f.alias)), None)


def _field_at(kind: type[BaseModel], path: Path) -> FieldInfo | None:
    if not path or not isinstance(path[-1], str):
        return None
    key = path[-1]
    return next((f for m in _models_at(kind, path[:-1]) if (f := _named(m, key))), None)


def _keys_at(kind: type[BaseModel], path: Path) -> list[str]:
    return sorted({f.alias or name for m in _models_at(kind, path) for name, f in m.model_fields.items()})
