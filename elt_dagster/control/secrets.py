"""Which settings of a connector are secrets, and how a configuration with masks or references becomes one that can be tried."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, Secret, SecretBytes, SecretStr

from elt_dagster.control.problems import Path
from elt_dagster.errors import ConfigError
from elt_dagster.model.secret import MASK, is_reference
from elt_dagster.sdk.connector import Config

REFERENCES_VARIABLE = "ELT_DAGSTER_API_REFERENCES"
"""1 lets whoever has an API key refer to the environment and the files of the server; else a key could have the server send its own secrets to a
host that the same request names."""


def may_refer(environ: Mapping[str, str]) -> bool:
    """Whether what comes over the API may hold references."""
    return environ.get(REFERENCES_VARIABLE) == "1"


def secret_fields(kind: type[BaseModel]) -> frozenset[str]:
    """Dotted paths of every setting that pydantic keeps secret, such as ``password`` or ``auth.token``; lists on the way do not count."""
    return frozenset(_secret_paths(kind, (), ()))


def _secret_paths(kind: type[BaseModel], above: tuple[str, ...], inside: tuple[type[BaseModel], ...]) -> Iterator[str]:
    for name, field in kind.model_fields.items():
        path = (*above, field.alias or name)
        leaves = list(_leaves(field.annotation))
        extra = field.json_schema_extra
        declared = isinstance(extra, dict) and extra.get("writeOnly") is True
        if declared or any(
            isinstance(leaf, type) and issubclass(leaf, SecretStr | SecretBytes | Secret) for leaf in leaves
        ):
            yield ".".join(path)
        for leaf in leaves:
            if isinstance(leaf, type) and issubclass(leaf, BaseModel) and leaf not in inside:
                yield from _secret_paths(leaf, path, (*inside, leaf))


def _leaves(annotation: Any) -> Iterator[Any]:
    parts = get_args(annotation)
    yield get_origin(annotation) if parts else annotation
    for part in parts:
        yield from _leaves(part)


def fill_masks(config: Any, stored: Any, secrets: frozenset[str], *, what: str) -> Any:
    """``config`` with each mask in a secret field replaced by the secret in ``stored``, an opened configuration.

    Raises ConfigError, naming ``what`` and the field, for a mask without a stored secret.
    """

    def walk(value: Any, kept: Any, path: str, secret: bool) -> Any:
        if secret and value == MASK:
            if kept is None:
                raise ConfigError(f"{what}: {path} is the mask {MASK}, but no secret is stored.",
                                  fix="Write the secret itself, or a reference such as {env: NAME}.")  # fmt: skip
            return kept
        if isinstance(value, Mapping) and not is_reference(value):
            below = kept if isinstance(kept, Mapping) else {}
            return {k: walk(v, below.get(k), p, secret or p in secrets)
                    for k, v in value.items() for p in [f"{path}.{k}" if path else str(k)]}  # fmt: skip
        if isinstance(value, list):
            same = kept if isinstance(kept, list) and len(kept) == len(value) else [None] * len(value)
            return [walk(v, k, path, secret) for v, k in zip(value, same, strict=True)]
        return value

    return walk(config, stored, "", False)


def references(config: Any, path: Path = ()) -> Iterator[Path]:
    """The paths of all ``{env: NAME}`` and ``{file: PATH}`` in ``config``."""
    if is_reference(config):
        yield path
    elif isinstance(config, Mapping):
        for key, value in config.items():
            yield from references(value, (*path, str(key)))
    elif isinstance(config, list):
        for i, value in enumerate(config):
            yield from references(value, (*path, i))


def holds_reference(config: Any) -> bool:
    """Whether there is one in ``config``, however deep."""
    return next(references(config), None) is not None


def with_stand_ins(config: Any) -> Any:
    """``config`` with some text in the place of each reference, to look at the rest of it where the secrets are not at hand."""
    if is_reference(config):
        return "stand-in"
    if isinstance(config, Mapping):
        return {k: with_stand_ins(v) for k, v in config.items()}
    return [with_stand_ins(v) for v in config] if isinstance(config, list) else config


def setting_rows(kind: type[Config]) -> list[dict[str, Any]]:
    """Each setting of a connector for people and forms: name, type, required, secret, default, examples, description."""
    schema = kind.model_json_schema()
    secrets = secret_fields(kind)
    rows: list[dict[str, Any]] = []
    for name, part in schema.get("properties", {}).items():
        rows.append(
            {
                "name": name,
                "type": _type_words(part, schema.get("$defs", {})),
                "required": name in schema.get("required", ()),
                "secret": any(s == name or s.startswith(f"{name}.") for s in secrets),
                "default": part.get("default"),
                "examples": part.get("examples", []),
                "description": " ".join(part.get("description", "").split()),
            }
        )
    return rows


def _type_words(part: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "$ref" in part:
        return _type_words(definitions.get(str(part["$ref"]).rpartition("/")[2], {}), definitions)
    if "const" in part:
        return repr(part["const"])
    if "enum" in part:
        return " | ".join(map(str, part["enum"]))
    choices = part.get("anyOf") or part.get("oneOf")
    if choices:
        words = [_type_words(c, definitions) for c in choices if c.get("type") != "null"]
        return " | ".join(dict.fromkeys(words))
    if part.get("type") == "array":
        return f"list of {_type_words(part.get('items', {}), definitions)}"
    plain = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true | false"}
    return plain.get(str(part.get("type")), "mapping")
