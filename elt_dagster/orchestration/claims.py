"""Names that several documents of one Dagster project may not use for different things.

Dagster joins the definitions of all documents, and where two of them disagree it tells of resources and jobs that nobody wrote. So the documents of
one load are compared while they are read, and the answer names both.
"""

import threading

from elt_dagster.errors import ConflictError
from elt_dagster.model import Project

_lock = threading.Lock()
_current: tuple[object, dict[str, tuple[str, str]]] = (None, {})


def claim(load: object, document: str, project: Project) -> None:
    """Note what ``document`` calls connections and syncs in this ``load`` (any object that stands for it).

    Raises ConflictError when another document means something else by one of these names. A document that is read again claims again.
    """
    global _current  # noqa: PLW0603 - the documents of a load know nothing of each other
    with _lock:
        if _current[0] is not load:
            _current = (load, {})  # one load at a time: an old one is not kept in memory
        known = _current[1]
        for what, name, text in _names(project):
            other, meant = known.setdefault(f"{what} {name!r}", (document, text))
            if meant != text:
                raise ConflictError(
                    f"The {what} {name!r} of {document} is another one in {other}.",
                    fix=_fix(what),
                )


def _names(project: Project) -> list[tuple[str, str, str]]:
    used = {s.destination for s in project.syncs}  # sources are known to their own syncs only
    connections = [("connection", c.name, c.model_dump_json()) for c in project.connections if c.name in used]
    return [*connections, *(("sync", s.slug, s.model_dump_json()) for s in project.syncs)]


def _fix(what: str) -> str:
    if what == "sync":
        return "Give one of them another slug."
    return "Write it once, in a file that both name as `connections_file`, or give one of them another name."
