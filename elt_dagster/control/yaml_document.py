"""YAML text as plain data that remembers its lines.

Built on PyYAML's event stream instead of its loader: that keeps the position of every key and value, sees duplicate keys, and does not
crash the process on a thousand nested brackets as the C composer does. Two liberties help people who write syncs: dates stay text, and
``12:30`` is not the number 750. Tags such as ``!!python/object`` are refused.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from elt_dagster.control.problems import Path, Problem

MAX_DEPTH = 60
MAX_VALUES = 2_000_000
_TAG = "tag:yaml.org,2002:"
_CONTAINER_TAGS = (None, "!", f"{_TAG}map", f"{_TAG}seq")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a text, both counted from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


@dataclass(slots=True)
class Node:
    """A value with its place: a scalar, or lists and mappings of further nodes. ``keys`` are the places of a mapping's keys."""

    mark: Mark
    value: Any
    keys: dict[str, Mark] = field(default_factory=dict[str, Mark])

    def plain(self) -> Any:
        """The value as dicts, lists and scalars. Raises OverflowError when aliases multiply it beyond reason."""
        return _plain(self, [MAX_VALUES])

    def locate(self, path: Path, *, key: bool = False) -> Mark:
        """Where ``path`` stands, or the nearest thing around it; with ``key`` the place of the last key instead of its value."""
        node, mark = self, self.mark
        for i, step in enumerate(path):
            if isinstance(node.value, dict) and step in node.value:
                mark = node.keys[str(step)] if key and i == len(path) - 1 else node.value[step].mark
                node = node.value[step]
            elif isinstance(node.value, list) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                mark = node.mark
            else:
                break
        return mark


@dataclass(frozen=True, slots=True)
class Flaw:
    """A problem that has a place of its own, found before anything could be understood."""

    mark: Mark
    problem: Problem


def read_documents(text: str) -> tuple[list[Node], list[Flaw]]:
    """Every document of ``text``, and what is wrong with the YAML itself. After a syntax error the rest of the text is not read."""
    composer = _Composer(text)
    try:
        documents = list(composer.documents())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        flaw = Flaw(_mark(mark) if mark else Mark(1, 1), Problem((), _syntax_sentence(error, text)))
        return [], [*composer.flaws, flaw]
    except yaml.reader.ReaderError as error:
        at = text[: error.position]
        mark_ = Mark(at.count("\n") + 1, len(at) - at.rfind("\n"))
        return [], [Flaw(mark_, Problem((), "there is a control character here, which YAML does not allow."))]
    except _TooDeepError as error:
        return [], [*composer.flaws, Flaw(error.mark, Problem((), f"nested deeper than {MAX_DEPTH} levels."))]
    return documents, composer.flaws


class _TooDeepError(Exception):
    def __init__(self, mark: Mark) -> None:
        super().__init__()
        self.mark = mark


class _Composer:
    """Events in, nodes out; what is wrong but readable is collected in ``flaws``."""

    def __init__(self, text: str) -> None:
        self.events: Iterator[Any] = yaml.parse(text, Loader=_Loader)
        self.flaws: list[Flaw] = []
        self.anchors: dict[str, Node | None] = {}
        self.resolver: Any = Resolver()
        self.constructor = SafeConstructor()

    def documents(self) -> Iterator[Node]:
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                self.anchors = {}
                yield self._node(next(self.events), ())

    def _node(self, event: Any, path: Path) -> Node:
        mark = _mark(event.start_mark)
        if len(path) > MAX_DEPTH:
            raise _TooDeepError(mark)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, mark, path)
        if event.anchor:
            self.anchors[event.anchor] = None  # known, not yet complete: an alias to it from inside would never end
        if not isinstance(event, yaml.ScalarEvent) and event.tag not in _CONTAINER_TAGS:
            self._refuse_tag(event.tag, mark, path)
        if isinstance(event, yaml.ScalarEvent):
            node = Node(mark, self._scalar(event, mark, path))
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(mark, path)
        else:
            node = self._mapping(mark, path)
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _alias(self, event: Any, mark: Mark, path: Path) -> Node:
        node = self.anchors.get(event.anchor)
        if node is None:
            why = "contains itself" if event.anchor in self.anchors else "has no anchor"
            self._flaw(mark, path, f"the alias *{event.anchor} {why}. Put quotes around text that begins with *.")
            return Node(mark, None)
        return node

    def _sequence(self, mark: Mark, path: Path) -> Node:
        items: list[Node] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items))))
        return Node(mark, items)

    def _mapping(self, mark: Mark, path: Path) -> Node:
        node = Node(mark, {})
        merged: list[Node] = []
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            at = _mark(event.start_mark)
            if not isinstance(event, yaml.ScalarEvent):
                self._flaw(at, path, "a key must be plain text.")
                self._node(event, path)
                self._node(next(self.events), path)
                continue
            key = event.value
            value = self._node(next(self.events), (*path, key))
            if key == "<<" and event.implicit[0]:
                merged += value.value if isinstance(value.value, list) else [value]
                continue
            if key in node.value:
                self._flaw(at, (*path, key), f"is there twice; the first is in line {node.keys[key].line}.")
            node.value[key], node.keys[key] = value, at
        self._merge(node, merged, path)
        return node

    def _merge(self, node: Node, merged: list[Node], path: Path) -> None:
        for source in merged:
            if not isinstance(source.value, dict):
                self._flaw(source.mark, path, "<< takes a mapping or a list of mappings.")
                continue
            for key, value in source.value.items():
                node.value.setdefault(key, value)
                node.keys.setdefault(key, source.keys[key])

    def _scalar(self, event: Any, mark: Mark, path: Path) -> Any:
        tag = event.tag or self.resolver.resolve(yaml.ScalarNode, event.value, event.implicit)
        kind = tag.removeprefix(_TAG)
        if kind in ("str", "timestamp", "value", "merge") or (kind in ("int", "float") and ":" in event.value):
            return event.value
        if kind not in ("null", "bool", "int", "float"):
            self._refuse_tag(tag, mark, path)
            return None
        try:
            value = getattr(self.constructor, f"construct_yaml_{kind}")(yaml.ScalarNode(tag, event.value))
        except (ValueError, KeyError):
            self._flaw(mark, path, f"this is not of the type its tag {tag} promises.")
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self._flaw(mark, path, "must be a finite number.")
            return None
        return value

    def _refuse_tag(self, tag: str, mark: Mark, path: Path) -> None:
        self._flaw(mark, path, f"the tag {tag} is not allowed here. Write plain text, numbers, lists and mappings.")

    def _flaw(self, mark: Mark, path: Path, text: str) -> None:
        self.flaws.append(Flaw(mark, Problem(path, text)))


def _mark(mark: Any) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


def _plain(node: Node, budget: list[int]) -> Any:
    budget[0] -= 1
    if budget[0] < 0:
        raise OverflowError
    if isinstance(node.value, dict):
        return {key: _plain(value, budget) for key, value in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(value, budget) for value in node.value]
    return node.value


def _syntax_sentence(error: yaml.MarkedYAMLError, text: str) -> str:
    problem = (error.problem or "this is not YAML").replace("did not find expected", "expected")
    context = f" {error.context}" if error.context else ""
    mark = error.problem_mark
    lines = text.splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    hint = ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        hint = " Indent with spaces, not with tabs."
    elif "alias" in context or "alias" in problem:
        hint = " Put quotes around text that begins with *, such as a cron expression."
    elif "mapping values are not allowed" in problem:
        hint = " Put quotes around text that contains a colon."
    elif "block" in context or "block" in problem:
        hint = " Check the indentation of this line and the one above."
    return f"YAML syntax:{context}: {problem}.{hint}" if context else f"YAML syntax: {problem}.{hint}"
