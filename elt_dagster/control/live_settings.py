"""Settings of a sync against the JSON Schema that its connector gives at this moment, in the draft that the schema names (2020-12 where it names none)."""

from collections.abc import Iterator, Mapping
from typing import Any

from elt_dagster.errors import ContractError, nearest

DRAFT = "https://json-schema.org/draft/2020-12/schema"
SHOWN_OPTIONS = 20
Complaint = tuple[tuple[str | int, ...], str]


def complaints(settings: Mapping[str, Any], schema: Mapping[str, Any], *, connector: str) -> list[Complaint]:
    """Where ``settings`` break ``schema``: the path into them, and a sentence with what is allowed.

    Raises ContractError for what is no schema, or one of a draft that nobody here knows. Nothing is fetched for it.
    """
    import jsonschema
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    meant = _as_meant(dict(schema))
    meant.setdefault("$schema", DRAFT)
    kind: Any = validator_for(meant, default=None)  # type: ignore[arg-type]  # None is what it hands back then
    if kind is None:
        raise ContractError(f"The settings schema of connector {connector!r} is of a draft that is not known.")
    try:
        kind.check_schema(meant)
        validator = kind(meant, registry=Registry(), format_checker=kind.FORMAT_CHECKER)
        found = sorted(validator.iter_errors(dict(settings)), key=lambda e: [str(p) for p in e.absolute_path])
    except (jsonschema.SchemaError, Unresolvable):
        raise ContractError(f"The settings schema of connector {connector!r} is no JSON Schema.") from None
    return [complaint for error in found for complaint in _told(error)]


def _as_meant(schema: Any) -> Any:
    """``schema`` with the options of a list where they belong: many forms write them beside ``type: array``, where no list could ever fit."""
    if isinstance(schema, list):
        return [_as_meant(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    meant = {key: _as_meant(value) for key, value in schema.items()}
    for word in ("anyOf", "oneOf"):
        options = meant.get(word)
        if meant.get("type") == "array" and isinstance(options, list) and _are_items(options):
            del meant[word]
            meant["items"] = {"allOf": [meant.get("items", True), {"anyOf": options}]}
    return meant


def _are_items(options: list[Any]) -> bool:
    return all(isinstance(o, dict) and "const" in o and not isinstance(o["const"], list) for o in options)


def _told(error: Any) -> Iterator[Complaint]:
    path = tuple(error.absolute_path)
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        # jsonschema complains once for each; the name is in its text only
        name = next((n for n in missing if error.message.startswith(repr(n))), missing[0])
        yield (*path, name), f"is missing.{_options_text(_property(error.schema, name))}"
    elif error.validator == "additionalProperties" and isinstance(error.schema, dict):
        known = list(error.schema.get("properties", {}))
        unknown = [name for name in error.instance if name not in known]
        for name in unknown[:SHOWN_OPTIONS]:
            yield (*path, name), f"unknown setting. {nearest(name, known)}"
    else:
        options = _options(error.schema)
        shown = _found(error.instance)
        if error.validator in ("enum", "const", "anyOf", "oneOf") and options:
            close = nearest(str(error.instance), [str(o) for o in options])
            remedy = f" {close}" if close.startswith("Did") else ""
            yield path, f"found {shown};{_options_text(error.schema)}{remedy}"
        elif error.validator == "type":
            yield path, f"found {shown}; expected {_types(error.validator_value)}."
        else:
            yield path, f"{error.message[:200]}."


def _property(schema: Any, name: str) -> Any:
    return schema.get("properties", {}).get(name, {}) if isinstance(schema, dict) else {}


def _options(schema: Any) -> list[Any]:
    """The values that ``schema``, or the items of its list, may have, as far as they are listed."""
    if not isinstance(schema, dict):
        return []
    if isinstance(schema.get("enum"), list):
        return list(schema["enum"])
    if "const" in schema:
        return [schema["const"]]
    listed = [o["const"] for w in ("anyOf", "oneOf", "allOf") for o in schema.get(w, ()) if _is_const(o)]
    deeper = [o for part in schema.get("allOf", ()) for o in _options(part) if not _is_const(part)]
    return listed or deeper or _options(schema.get("items"))


def _is_const(schema: Any) -> bool:
    return isinstance(schema, dict) and "const" in schema


def _options_text(schema: Any) -> str:
    options = _options(schema)
    if not options:
        return ""
    more = f" and {len(options) - SHOWN_OPTIONS} more" if len(options) > SHOWN_OPTIONS else ""
    return f" allowed: {', '.join(map(str, options[:SHOWN_OPTIONS]))}{more}."


def _found(value: Any) -> str:
    return repr(value)[:60] if isinstance(value, str | int | float | bool) else type(value).__name__


def _types(wanted: Any) -> str:
    return " or ".join(wanted) if isinstance(wanted, list) else str(wanted)
