"""Connections and syncs in a YAML file: every problem with its line, and the way back from a project to YAML.

A file may hold several documents; their ``connections`` and ``syncs`` are joined in order. Relative paths inside a ``config`` (a DuckDB file, a
folder of CSVs) stay as they are written: they count from the working directory of the process that runs the sync, not from this file.
"""

import sys
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import yaml

from elt_dagster.control.problems import Path, Problem, found, parse
from elt_dagster.control.yaml_document import Flaw, Mark, Node, read_documents
from elt_dagster.errors import ConfigError, nearest
from elt_dagster.model import Project

STDIN = "-"
MAX_BYTES = 64 * 1024 * 1024
_PARTS = ("connections", "syncs")


class _Dumper(yaml.SafeDumper):
    """Short mappings and lists stay in one line, as people write them: `{env: NAME}`, `[id]`."""

    def represent_data(self, data: Any) -> yaml.Node:
        node = super().represent_data(data)
        if isinstance(node, yaml.MappingNode | yaml.SequenceNode):
            node.flow_style = _is_short(data)
        return node

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _is_short(data: Any) -> bool:
    items = list(data.values() if isinstance(data, dict) else data)
    return (
        bool(items)
        and len(items) <= 8
        and not any(isinstance(i, dict | list | tuple) for i in items)
        and len(str(data)) <= 100
    )


@dataclass(frozen=True, slots=True)
class ProjectFile:
    """A project and the text it was read from."""

    label: str
    project: Project
    joined: Node

    def locate(self, path: Path) -> str:
        """``file:line:column`` of ``path``, such as ``("syncs", 0, "slug")``; of what surrounds it when it was left out."""
        return f"{self.label}:{self.joined.locate(path)}"


def load_project(path: str | FilePath) -> Project:
    """The project in the file ``path`` (``-`` reads standard input). Raises ConfigError that lists every problem, each with its line."""
    return read_project_file(path).project


def read_project_file(path: str | FilePath) -> ProjectFile:
    """As `load_project`, keeping the positions for what later checks find."""
    label = "<stdin>" if str(path) == STDIN else str(path)
    return parse_project(_decoded(_bytes(path, label), label), label)


def parse_project(text: str, label: str) -> ProjectFile:
    """The project in ``text``; ``label`` stands before each line number. Raises ConfigError that lists every problem."""
    documents, flaws = read_documents(text)
    joined, strays = _joined(documents)
    flaws += strays
    if not flaws and not any(joined.value[part].value for part in _PARTS):
        raise ConfigError(f"{label} names no connections and no syncs.", fix="Begin with `connections:` and `syncs:`.")
    project = None
    if documents:
        project, problems = _parsed(joined, label)
        # A place whose YAML is broken was read as nothing; complaining about that nothing as well would only confuse.
        broken = {f.mark for f in flaws}
        flaws += [f for f in problems if f.mark not in broken]
    if flaws or project is None:
        lines = [f"{label}:{f.mark}: {f.problem}" for f in sorted(flaws, key=lambda f: (f.mark.line, f.mark.column))]
        raise ConfigError("\n".join(dict.fromkeys(lines)))
    return ProjectFile(label, project, joined)


def to_yaml(project: Project) -> str:
    """``project`` as YAML that `load_project` reads back to the same project; what equals its default is left out."""
    written = {
        "connections": [c.model_dump(mode="json", by_alias=True, exclude_defaults=True) for c in project.connections],
        "syncs": [s.model_dump(mode="json", by_alias=True, exclude_defaults=True) for s in project.syncs],
    }
    return yaml.dump(
        {part: rows for part, rows in written.items() if rows},
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=140,
    )


def _parsed(joined: Node, label: str) -> tuple[Project | None, list[Flaw]]:
    try:
        plain = joined.plain()
    except OverflowError:
        raise ConfigError(f"{label} unfolds into too many values.", fix="Use fewer nested aliases.") from None
    repeated = _repeated(joined)
    project, problems = parse(Project, plain)
    # Project itself only finds names that are there twice, which `_repeated` says with a line.
    found_ = [Flaw(joined.locate(p.path, key=p.text.startswith("unknown key")), p) for p in problems if p.path]
    return project, [*found_, *repeated]


def _repeated(joined: Node) -> list[Flaw]:
    flaws: list[Flaw] = []
    for part, key in (("connections", "name"), ("syncs", "slug")):
        first: dict[str, Mark] = {}
        for i, row in enumerate(joined.value[part].value):
            name = row.value.get(key) if isinstance(row.value, dict) else None
            if name is None or not isinstance(name.value, str):
                continue
            if name.value in first:
                text = f"{name.value!r} is there twice; the first is in line {first[name.value].line}."
                flaws.append(Flaw(name.mark, Problem((part, i, key), text)))
            first.setdefault(name.value, name.mark)
    return flaws


def _joined(documents: list[Node]) -> tuple[Node, list[Flaw]]:
    """One mapping of all documents' connections and syncs, and what in them is neither."""
    start = Mark(1, 1)
    parts: dict[str, Node] = {part: Node(start, []) for part in _PARTS}
    flaws: list[Flaw] = []
    for document in documents:
        if document.value is None:
            continue
        if not isinstance(document.value, dict):
            text = f"found {found(document.value)}; expected a mapping with connections and syncs."
            flaws.append(Flaw(document.mark, Problem((), text)))
            continue
        for key, node in document.value.items():
            if key not in parts:
                flaws.append(Flaw(document.keys[key], Problem((key,), f"unknown key. {nearest(key, _PARTS)}")))
            elif isinstance(node.value, list):
                parts[key].value += node.value
            elif node.value is not None:
                flaws.append(Flaw(node.mark, Problem((key,), f"found {found(node.value)}; expected a list.")))
    return Node(start, parts, dict.fromkeys(_PARTS, start)), flaws


def _bytes(path: str | FilePath, label: str) -> bytes:
    if str(path) == STDIN:
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"There is no file {label}.", fix=_nearest_file(FilePath(path))) from None
    except OSError as error:
        raise ConfigError(
            f"{label} cannot be read ({error.strerror}).", fix="Correct the path or its permissions."
        ) from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{label} is larger than {MAX_BYTES >> 20} MiB.", fix="Split it into several files.")
    return content


def _decoded(content: bytes, label: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise ConfigError(
            f"{label}:{line}:{column}: the file is not UTF-8 (byte 0x{content[error.start]:02x}).",
            fix="Save it as UTF-8.",
        ) from None


def _nearest_file(path: FilePath) -> str | None:
    folder = path.parent
    names = [f.name for f in folder.iterdir() if f.suffix in (".yaml", ".yml")] if folder.is_dir() else []
    return nearest(path.name, names[:200]) if names else f"We looked in {folder.resolve()}."
