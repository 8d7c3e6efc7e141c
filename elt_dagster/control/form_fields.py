"""The fields of a form, from the JSON Schema of a connector's settings.

Plain data, nothing of HTML. Each field has a ``name`` in the form (``auth:bearer.token``, ``streams[0].path``) and a ``key`` in the settings;
the name says more, because all variants of a union are in the form at the same time.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

DEEPEST = 6
"""Groups within groups; what is deeper is written as JSON."""
FIRST_NAMES = frozenset({"host", "port", "database", "user", "username", "account", "region", "domain", "url", "base_url", "auth", "auth_type", "path"})  # fmt: skip
"""Settings that people look for first, even where they are not required."""
_BLOCKS = ("private_key", "certificate", "service_account", "credentials_json")
"""Ends of names whose values have several lines; a password field would join them."""
_SIMPLE = {"string", "boolean", "integer", "number"}
_ACRONYMS = {"url": "URL", "id": "ID", "api": "API", "ssl": "SSL", "http": "HTTP", "sql": "SQL", "csv": "CSV", "json": "JSON", "jwt": "JWT", "aws": "AWS"}  # fmt: skip
Data = Mapping[str, Sequence[str]]
"""What a browser sends: values by name."""


class Kind(StrEnum):
    """What a field is. ``pairs`` is a mapping of text, one ``name: value`` a line; ``lines`` a list of text, one a line."""

    TEXT = "text"
    BLOCK = "block"
    NUMBER = "number"
    FLAG = "flag"
    CHOICE = "choice"
    LINES = "lines"
    PAIRS = "pairs"
    JSON = "json"
    GROUP = "group"
    VARIANTS = "variants"
    ITEMS = "items"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field, or a group of them."""

    name: str
    key: str
    kind: Kind = Kind.TEXT
    label: str = ""
    hint: str = ""
    required: bool = False
    secret: bool = False
    default: Any = None
    options: tuple[tuple[str, Any], ...] = ()
    """Of a choice: what stands in the form, and the value it means."""
    limits: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Of the schema: ``pattern``, ``minimum``, ``maxLength`` and so on; ``type`` of a number."""
    fields: tuple["Field", ...] = ()
    """Of a group; of variants one group each; of items one, their template."""
    tag: tuple[str, Any] | None = None
    """Of a variant: the key and the value that tell it from the others."""
    depth: int = 0

    @property
    def first(self) -> bool:
        """Whether it is one of those that people have to see."""
        return self.required or self.secret or self.key in FIRST_NAMES

    @property
    def choice_name(self) -> str:
        """Of variants: the name under which the chosen one is sent."""
        return f"{self.name}#kind"

    @property
    def shown_name(self) -> str:
        """Of a flag: what is sent whether it is set or not, for browsers send nothing for one that is not."""
        return f"{self.name}#shown"

    @property
    def count_name(self) -> str:
        """Of items: the name under which their number is sent."""
        return f"{self.name}#count"

    def item(self, index: int | str) -> "Field":
        """Of items: the one with that number."""
        template = self.fields[0]
        return renamed(template, template.name, f"{self.name}[{index}]")


def build_form(
    schema: Mapping[str, Any],
    secrets: Container[str],
    *,
    without: Container[str] = (),
    only: Container[str] | None = None,
) -> tuple[Field, ...]:
    """The fields of an object schema. ``secrets`` are dotted paths; ``without`` and ``only`` name settings at the top."""
    builder = _Builder(schema.get("$defs", {}), secrets)
    fields = builder.fields(schema, "", (), 0)
    return tuple(f for f in fields if f.key not in without and (only is None or f.key in only))


@dataclass
class _Builder:
    definitions: Mapping[str, Any]
    secrets: Container[str]

    def fields(self, schema: Mapping[str, Any], start: str, path: tuple[str, ...], depth: int) -> tuple[Field, ...]:
        required = schema.get("required", ())
        return tuple(
            self.field(part, Field(name=f"{start}{key}", key=key, required=key in required, depth=depth), (*path, key))
            for key, part in schema.get("properties", {}).items()
        )

    def field(self, part: Mapping[str, Any], it: Field, path: tuple[str, ...]) -> Field:
        inner, nullable = self._without_null(self._followed(part))
        hint = str(part.get("description") or inner.get("description") or "")
        described = replace(
            it, label=_label(it.key), hint=" ".join(hint.replace("`", "").split()), secret=".".join(path) in self.secrets,
            default=part.get("default"),
        )  # fmt: skip
        if "const" in inner or "enum" in inner:
            values = inner["enum"] if "enum" in inner else [inner["const"]]
            return replace(described, kind=Kind.CHOICE, options=tuple((value_text(v), v) for v in values))
        if inner.get("type") == "boolean" and nullable:
            return replace(described, kind=Kind.CHOICE, options=(("yes", True), ("no", False)))
        if inner.get("type") in _SIMPLE:
            return replace(described, kind=_simple_kind(it.key, inner), limits=_limits(inner))
        return self._shaped(described, inner, path, nullable)

    def _shaped(self, it: Field, part: Mapping[str, Any], path: tuple[str, ...], nullable: bool) -> Field:
        if part.get("type") == "array":
            return self._list(it, part, path)
        plain = replace(it, kind=Kind.TEXT if _is_scalar(part) else Kind.JSON)
        if it.depth >= DEEPEST or it.secret:
            return plain
        return self._object(it, part, path, nullable) or plain

    def _list(self, it: Field, part: Mapping[str, Any], path: tuple[str, ...]) -> Field:
        items = self._followed(part.get("items", {}))
        if items.get("type") == "string" and "enum" not in items:
            return replace(it, kind=Kind.LINES)
        if "properties" not in items or it.depth >= DEEPEST or it.secret:
            return replace(it, kind=Kind.JSON)
        template = f"{it.name}[__{it.depth}__]"
        fields = self.fields(items, f"{template}.", path, it.depth + 1)
        one = Field(
            name=template,
            key="",
            kind=Kind.GROUP,
            label=_label(it.key.removesuffix("s")),
            fields=fields,
            depth=it.depth + 1,
        )
        return replace(
            it, kind=Kind.ITEMS, fields=(one,), limits={k: part[k] for k in ("minItems", "maxItems") if k in part}
        )

    def _object(self, it: Field, part: Mapping[str, Any], path: tuple[str, ...], nullable: bool) -> Field | None:
        """A group, variants, or a mapping of text; None for what has no shape."""
        choices = part.get("oneOf") or part.get("anyOf") or []
        shapes = [self._followed(c) for c in choices] if choices else [part]
        if not all("properties" in s for s in shapes):
            values = (
                self._followed(part.get("additionalProperties") or {})
                if isinstance(part.get("additionalProperties"), dict)
                else {}
            )
            return replace(it, kind=Kind.PAIRS) if values.get("type") == "string" and "enum" not in values else None
        if len(shapes) == 1 and not nullable:
            return replace(it, kind=Kind.GROUP, fields=self.fields(shapes[0], f"{it.name}.", path, it.depth + 1))
        return replace(it, kind=Kind.VARIANTS, fields=tuple(self._variant(it, s, path) for s in shapes))

    def _variant(self, it: Field, shape: Mapping[str, Any], path: tuple[str, ...]) -> Field:
        tag = next(((k, p["const"]) for k, p in shape["properties"].items() if "const" in p), None)
        word = value_text(tag[1]) if tag else str(shape.get("title", "set")).lower()
        name = f"{it.name}:{word}"
        fields = self.fields(shape, f"{name}.", path, it.depth + 1)
        return Field(
            name=name, key=it.key, kind=Kind.GROUP, label=_label(word) if tag else "Set", tag=tag, depth=it.depth + 1,
            fields=tuple(f for f in fields if tag is None or f.key != tag[0]), hint=" ".join(str(shape.get("description", "")).split()),
        )  # fmt: skip

    def _followed(self, part: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in part:
            part = {
                **self.definitions.get(str(part["$ref"]).rpartition("/")[2], {}),
                **{k: v for k, v in part.items() if k != "$ref"},
            }
        return part

    def _without_null(self, part: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
        choices = part.get("anyOf")
        if not choices:
            return part, False
        rest = [c for c in choices if c.get("type") != "null"]
        nullable = len(rest) < len(choices)
        return (self._followed(rest[0]), nullable) if len(rest) == 1 else ({**part, "anyOf": rest}, nullable)


def renamed(it: Field, old: str, new: str) -> Field:
    return replace(it, name=it.name.replace(old, new, 1), fields=tuple(renamed(f, old, new) for f in it.fields))


def _label(key: str) -> str:
    words = [_ACRONYMS.get(word, word) for word in key.replace("-", "_").split("_")]
    text = " ".join(filter(None, words))
    return text[:1].upper() + text[1:]


def value_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else str(value)


def _limits(part: Mapping[str, Any]) -> dict[str, Any]:
    names = (
        "pattern",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "minLength",
        "maxLength",
        "format",
        "type",
    )
    return {name: part[name] for name in names if name in part}


def _simple_kind(key: str, part: Mapping[str, Any]) -> Kind:
    if part["type"] == "string":
        return Kind.BLOCK if "contentMediaType" in part or key.endswith(_BLOCKS) else Kind.TEXT
    return Kind.FLAG if part["type"] == "boolean" else Kind.NUMBER


def _is_scalar(part: Mapping[str, Any]) -> bool:
    choices = part.get("anyOf") or part.get("oneOf") or ()
    return bool(choices) and all(c.get("type") in ("string", "integer", "number") for c in choices)
