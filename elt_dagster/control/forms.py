"""Settings into a form, and a form into settings. What is wrong with them as settings is not said here, but by who knows their model."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from elt_dagster.control.form_fields import Data, Field, Kind, value_text
from elt_dagster.model.secret import is_reference

MOST_ITEMS = 200
NEEDED = "This is needed."


@dataclass
class Filled:
    """What a form shows: values by name, and the settings that stay as they are when their field is left empty."""

    data: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    kept: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)


def fill_form(fields: Sequence[Field], config: Mapping[str, Any]) -> Filled:
    """``config``, with masks for its secrets, as a form shows it; defaults where it says nothing. Secrets and references are kept, not shown."""
    filled = Filled()
    for it in fields:
        _fill(filled, it, config.get(it.key, it.default), given=it.key in config)
    return filled


def _fill(filled: Filled, it: Field, value: Any, *, given: bool) -> None:
    if given and value is not None and (it.secret or is_reference(value)):
        filled.kept[it.name] = value
        return
    match it.kind:
        case Kind.GROUP:
            _fill_group(filled, it, value)
        case Kind.VARIANTS:
            chosen = next((v for v in it.fields if _is_variant(v, value)), None)
            filled.data[it.choice_name] = [chosen.name] if chosen else [""]
            for variant in it.fields:
                _fill_group(filled, variant, value if variant is chosen else {})
        case Kind.ITEMS:
            items = value if isinstance(value, list) else []
            filled.data[it.count_name] = [str(len(items))]
            for index, inner in enumerate(items):
                one = it.item(index)
                filled.data[one.name] = ["1"]
                _fill_group(filled, one, inner)
        case _:
            shown = "" if it.secret else _shown(it, value)
            if it.kind is Kind.FLAG:
                filled.data[it.shown_name] = ["1"]
            if it.kind is not Kind.FLAG or value:
                filled.data[it.name] = [shown]


def _fill_group(filled: Filled, group: Field, value: Any) -> None:
    inside = value if isinstance(value, Mapping) else {}
    for it in group.fields:
        _fill(filled, it, inside.get(it.key, it.default), given=it.key in inside)


def _is_variant(variant: Field, value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    return variant.tag is None or value.get(variant.tag[0]) == variant.tag[1]


def _shown(it: Field, value: Any) -> str:
    match it.kind:
        case Kind.CHOICE:
            return next(
                (
                    text
                    for text, meant in it.options
                    if meant == value and isinstance(meant, bool) == isinstance(value, bool)
                ),
                "",
            )
        case Kind.LINES:
            return "\n".join(map(str, value or ()))
        case Kind.PAIRS:
            return "\n".join(f"{k}: {v}" for k, v in (value or {}).items())
        case Kind.JSON:
            return json.dumps(value, indent=2, ensure_ascii=False) if value not in (None, {}, []) else ""
        case Kind.FLAG:
            return "1"
        case _:
            return value_text(value) if value is not None else ""


# --- the form into settings --------------------------------------------------------------------------------------------------


@dataclass
class Answers:
    """What was read out of a form. ``places`` says which path of the settings is which field; ``problems`` is by name of the field."""

    config: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)
    places: dict[tuple[str | int, ...], str] = field(default_factory=dict[tuple[str | int, ...], str])
    problems: dict[str, str] = field(default_factory=dict[str, str])

    def place(self, path: Sequence[str | int]) -> str:
        """The field that ``path`` leads to or through; empty where it is about the form as a whole."""
        return next(
            (self.places[tuple(path[:n])] for n in range(len(path), 0, -1) if tuple(path[:n]) in self.places), ""
        )


def read_form(fields: Sequence[Field], data: Data, kept: Mapping[str, Any] | None = None) -> Answers:
    """The settings in ``data``; what was left at its default is left out, what is ``kept`` stays where its field is empty.

    References (``{env: NAME}``) are refused: who fills in a form must not read the server's environment.
    """
    answers = Answers()
    answers.config = _read_group(answers, fields, data, kept or {}, ())
    return answers


_ABSENT = object()


def _read_group(
    answers: Answers, fields: Sequence[Field], data: Data, kept: Mapping[str, Any], path: tuple[str | int, ...]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for it in fields:
        value = _read(answers, it, data, kept, (*path, it.key))
        if value is not _ABSENT:
            found[it.key] = value
    return found


def _read(answers: Answers, it: Field, data: Data, kept: Mapping[str, Any], path: tuple[str | int, ...]) -> Any:
    answers.places[path] = it.choice_name if it.kind is Kind.VARIANTS else it.name
    if it.kind is Kind.GROUP:
        value: Any = _read_group(answers, it.fields, data, kept, path) or (_ABSENT if not it.required else {})
    elif it.kind is Kind.VARIANTS:
        value = _read_variants(answers, it, data, kept, path)
    elif it.kind is Kind.ITEMS:
        value = _read_items(answers, it, data, kept, path)
    else:
        value = _read_plain(answers, it, data, kept)
    # a number that is written otherwise than its default is the same number, but true is no 1
    is_default = value == it.default and isinstance(value, bool) == isinstance(it.default, bool)
    return _ABSENT if is_default and not it.required else value


def _read_plain(answers: Answers, it: Field, data: Data, kept: Mapping[str, Any]) -> Any:
    text = _one(data, it.name)
    if it.name in kept and not text.strip():
        return kept[it.name]
    if it.kind is Kind.FLAG:
        return bool(text) if it.shown_name in data or text else _ABSENT
    if it.name not in data:
        return _missing(answers, it)
    try:
        value = _parsed(it, text)
    except ValueError as error:
        answers.problems[it.name] = str(error)
        return _ABSENT
    return _missing(answers, it) if value is _ABSENT else value


def _missing(answers: Answers, it: Field) -> Any:
    if it.required:
        answers.problems[it.name] = NEEDED
    return _ABSENT


def _read_variants(
    answers: Answers, it: Field, data: Data, kept: Mapping[str, Any], path: tuple[str | int, ...]
) -> Any:
    chosen = _one(data, it.choice_name)
    variant = next((v for v in it.fields if v.name == chosen), None)
    if variant is None:
        if it.required and it.name not in kept:
            answers.problems[it.choice_name] = NEEDED
        return kept.get(it.name, _ABSENT)
    tag = {variant.tag[0]: variant.tag[1]} if variant.tag else {}
    return {**tag, **_read_group(answers, variant.fields, data, kept, path)}


def _read_items(answers: Answers, it: Field, data: Data, kept: Mapping[str, Any], path: tuple[str | int, ...]) -> Any:
    if it.count_name not in data and it.name in kept:
        return kept[it.name]
    found: list[dict[str, Any]] = []
    for index in range(item_count(it, data)):
        one = it.item(index)
        if one.name in data:
            answers.places[(*path, len(found))] = one.name
            found.append(_read_group(answers, one.fields, data, kept, (*path, len(found))))
    return found if found else _ABSENT


def item_count(it: Field, data: Data) -> int:
    """How many items ``data`` may have, gaps included."""
    return min(_number_of(data, it.count_name), MOST_ITEMS)


def _number_of(data: Data, name: str) -> int:
    text = _one(data, name)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0


def _one(data: Data, name: str) -> str:
    return (data.get(name) or [""])[-1]


def _parsed(it: Field, text: str) -> Any:
    """Raises ValueError with a sentence for the person."""
    if any((ord(c) < 32 and c not in "\r\n\t") or 0xD800 <= ord(c) < 0xE000 for c in text):
        raise ValueError("It holds a character that is not allowed.")
    text = text.replace("\r\n", "\n")
    if it.kind is Kind.CHOICE:
        return next((meant for shown, meant in it.options if shown == text), text or _ABSENT)
    parser = _PARSERS.get(it.kind)
    return parser(it, text) if parser is not None else _plain_text(it, text)


def _plain_text(it: Field, text: str) -> Any:
    """As it is written where it is a secret or spaces may matter; an optional text whose default is some other text can be emptied."""
    if text == it.default or (it.secret and text):
        return text
    spaces_matter = it.key == "prefix" or it.limits.get("maxLength") == 1
    has_shape = it.required or "pattern" in it.limits or it.limits.get("minLength")
    can_be_emptied = isinstance(it.default, str) and it.default and not has_shape
    return (text if spaces_matter else text.strip()) or ("" if can_be_emptied else _ABSENT)


def _number(it: Field, text: str) -> Any:
    text = text.strip()
    if not text:
        return _ABSENT
    whole = it.limits.get("type") == "integer"
    try:
        value = int(text) if whole or text.lstrip("+-").isdigit() else float(text)
    except ValueError:
        raise ValueError("A whole number is needed." if whole else "A number is needed.") from None
    if not math.isfinite(value):
        raise ValueError("A number is needed.")
    return value


def _pairs(_: Field, text: str) -> Any:
    found: dict[str, str] = {}
    for line in filter(str.strip, text.split("\n")):
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise ValueError("Write one name: value a line.")
        found[name.strip()] = value.strip()
    if is_reference(found):
        raise ValueError("env and file mean something else here; use the API for references.")
    return found or _ABSENT


def _json(_: Field, text: str) -> Any:
    if not text.strip():
        return _ABSENT
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("This is no JSON.") from None
    if any(is_reference(v) for v in _inside(value)):
        raise ValueError('References such as {"env": ...} are not allowed here; use the API for them.')
    return value


def _inside(value: Any) -> Iterator[Any]:
    yield value
    for below in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _inside(below)


_PARSERS: Mapping[Kind, Callable[[Field, str], Any]] = {
    Kind.NUMBER: _number,
    Kind.LINES: lambda _, text: [line.strip() for line in text.split("\n") if line.strip()] or _ABSENT,
    Kind.PAIRS: _pairs,
    Kind.JSON: _json,
    Kind.BLOCK: lambda _, text: text.strip() or _ABSENT,
}


def without_secrets(fields: Sequence[Field], data: Data) -> Any:
    """The settings in ``data`` that are no secrets, to be compared."""
    return read_form(_plain(fields), data).config


def _plain(fields: Sequence[Field]) -> tuple[Field, ...]:
    return tuple(replace(f, fields=_plain(f.fields)) for f in fields if not f.secret)


def with_another_item(data: Data, name: str) -> dict[str, list[str]]:
    """``data`` with one more item, still empty, in the list called ``name``."""
    count = _number_of(data, f"{name}#count")
    return {**_lists(data), f"{name}#count": [str(count + 1)], f"{name}[{count}]": ["1"]}


def without_item(data: Data, name: str) -> dict[str, list[str]]:
    """``data`` without the item called ``name``; the numbers of the others stay as they are."""
    return {
        key: values
        for key, values in _lists(data).items()
        if key != name and not key.startswith((f"{name}.", f"{name}["))
    }


def _lists(data: Data) -> dict[str, list[str]]:
    return {name: list(values) for name, values in data.items()}
