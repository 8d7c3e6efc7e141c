"""How a code location is made to load its definitions again, without a restart and whatever serves it.

`reload_in_place` asks the code server this process is for ``ReloadCodeWithState``: definitions are built beside the old ones and swapped in one
step, the server's id changes, and webserver and daemon, which look at it every second, fetch what is new. That works under ``dagster
dev`` and under ``dagster api grpc``, where ``ReloadCode`` (behind the UI's button) does nothing. It was made for component trees, so for
the duration of the call the repository shows one, whose rebuilding is to execute the user's module again.
`restart` is for what cannot be rebuilt so: the proxy of ``dagster dev`` and ``dagster code-server start`` starts another code server.

``dagster._core`` and ``dagster._grpc`` are imported here because neither the code server's interface nor what it is loading right now
has public names; `tests/integration/test_live_syncs.py` holds them to what this page says.
"""

import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import dagster as dg
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType  # noqa: TID251
from dagster._core.definitions.reconstruct import repository_def_from_target_def  # noqa: TID251
from dagster._core.types.loadable_target_origin import (  # noqa: TID251
    LoadableTargetOrigin,
    enter_loadable_target_origin_load_context,
)
from dagster._serdes import serialize_value

from elt_dagster.errors import ConfigError, TransientError

RELOAD_SECONDS = 300
GONE_SECONDS = 120.0
STATE_KEY = "elt_dagster"
_MODULE = "<module>"
_GONE = "_elt_gone_jobs"
_PINS = "elt_dagster/"

_target: LoadableTargetOrigin | None = None
_importing: dict[str, None] = {}
"""Modules that were being imported while definitions were built: those that hold them, and so have to be executed again."""


# --- while definitions load ------------------------------------------------------------------------------------------------------


def note_load() -> None:
    """Remember what is being loaded and by which modules. To be called where definitions are built."""
    global _target  # noqa: PLW0603 - there is one code location in a process
    try:
        _target = LoadableTargetOrigin.get()
    except dg.DagsterError:
        return  # loaded by a command or a test; the server's own note, if there is one, stays
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if frame.f_code.co_name == _MODULE and name != "__main__" and not name.startswith("dagster."):
            _importing[name] = None
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop


def pin(name: str, text: str) -> None:
    """Give ``text`` to every run that is planned from the definitions now being loaded: its processes find it with `pinned`."""
    DefinitionsLoadContext.get().add_to_pending_reconstruction_metadata(_PINS + name, text)


def pinned(name: str) -> str | None:
    """What `pin` gave this run's definitions; None in a code server that loads for the first time, or without one."""
    context = DefinitionsLoadContext.get()
    if context.load_type is DefinitionsLoadType.INITIALIZATION:
        return None
    text: str | None = context.reconstruction_metadata.get(_PINS + name)
    return text


def is_run() -> bool:
    """Whether definitions are loaded for a run, or a second time by a code server that starts."""
    return DefinitionsLoadContext.get().load_type is DefinitionsLoadType.RECONSTRUCTION


def is_reloading() -> bool:
    """Whether definitions are built to replace others, which stay when building fails."""
    return _Again.at_work


# --- reloading -----------------------------------------------------------------------------------------------------------------


def reload_in_place(repository: dg.RepositoryDefinition, origin: Any, version: str) -> dg.RepositoryDefinition | None:
    """Swap ``repository`` in the code server of this process for one that is built anew, and return that; None where that cannot be done.

    ``version`` is anything that differs from the last time. The old definitions stay when this raises: ConfigError for definitions that
    do not load, TransientError when the server does not answer.
    """
    client = own_client() or getattr(origin, "create_client", lambda: None)()
    if _target is None or not hasattr(client, "reload_code_with_state"):
        return None
    tree = _Again(_target, repository)
    with _shown_as_tree(repository, tree):
        try:
            _ask_server(client, version)
        except ConfigError:
            if tree.is_one_of_several:
                return None
            raise
    if tree.made is None:
        raise TransientError("The code server reloaded another repository.")
    return tree.made


def answer_for_gone_jobs(made: Any, before: Any) -> None:
    """Let ``made`` know, for a while, the jobs that only ``before`` has.

    Webserver and daemon fetch a list of jobs and then each of them. Were definitions swapped in between, the first job that is gone would
    turn the whole location into an error, there, and until its next change.
    """
    until = time.monotonic() + GONE_SECONDS
    names = set(before.job_names) - set(made.job_names)
    older = getattr(before, _GONE, {})
    gone = {name: (job, end) for name, (job, end) in older.items() if end > time.monotonic()}
    gone |= {name: (before.get_job(name), until) for name in names}
    present = made.get_job

    def get_job(name: str) -> Any:
        if name not in gone or made.has_job(name):
            return present(name)
        job, end = gone[name]
        return job if time.monotonic() < end else present(name)

    setattr(made, _GONE, gone)
    made.get_job = get_job


def restart(origin: Any) -> bool:
    """Have another code server started in place of this one; False where nothing does that. Raises TransientError."""
    client = getattr(origin, "create_client", lambda: None)()
    own = own_client()
    if client is None or (own is not None and _place(own) == _place(client)):
        return False
    try:
        client.reload_code(timeout=RELOAD_SECONDS)
    except Exception as error:
        raise TransientError(f"The code server did not restart ({type(error).__name__}).") from error
    return True


def own_client(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> Any:
    """A client of the code server that this process is, as its command line says; None when it is none."""
    from dagster._grpc.client import DagsterGrpcClient

    words = list(sys.argv if argv is None else argv)
    if "grpc" not in words:
        return None
    socket = _option(words, "socket", "s") or environ.get("DAGSTER_GRPC_SOCKET")
    port = _option(words, "port", "p") or environ.get("DAGSTER_GRPC_PORT")
    host = _option(words, "host", "h") or environ.get("DAGSTER_GRPC_HOST") or "localhost"
    if socket:
        return DagsterGrpcClient(socket=socket, host="localhost")
    everywhere = {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound
    return DagsterGrpcClient(port=int(port), host="localhost" if host in everywhere else host) if port else None


def _option(words: Sequence[str], long: str, short: str) -> str | None:
    for i, word in enumerate(words):
        if word in (f"--{long}", f"-{short}"):
            return words[i + 1] if i + 1 < len(words) else None
        if found := re.fullmatch(f"--{long}=(.+)|-{short}(.+)", word):
            return found[1] or found[2]
    return None


def _place(client: Any) -> tuple[Any, Any]:
    return (client.socket, None if client.socket else client.port)


def _ask_server(client: Any, version: str) -> None:
    from dagster_shared.serdes.objects.models.defs_state_info import DefsStateInfo

    info = DefsStateInfo.add_version(None, STATE_KEY, version)
    try:
        reply = client.reload_code_with_state(serialize_value(info), timeout=RELOAD_SECONDS)
    except Exception as error:
        raise TransientError(f"The code server did not answer ({type(error).__name__}).") from error
    if reply.serialized_error:
        raise ConfigError(f"The definitions do not load: {_first_line(reply.serialized_error)}")


def _first_line(serialized: str) -> str:
    from dagster._serdes import deserialize_value
    from dagster_shared.error import SerializableErrorInfo

    error = deserialize_value(serialized, SerializableErrorInfo)
    return error.message.strip().splitlines()[0] if error.message.strip() else str(error.cls_name)


@contextmanager
def _shown_as_tree(repository: Any, tree: "_Again") -> Any:
    repository.get_component_tree = lambda: tree
    try:
        yield
    finally:
        del repository.get_component_tree


class _Again:
    """Looks to the code server like a component tree, and answers a reload by executing the user's module again."""

    at_work: ClassVar[bool] = False

    def __init__(self, target: LoadableTargetOrigin, before: Any) -> None:
        self._target, self._before, self._tree = target, before, before.get_component_tree()
        self.made: dg.RepositoryDefinition | None = None
        self.is_one_of_several = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tree, name)

    def reload_with_state(self, changed: Iterable[str]) -> "_Again":
        """Asked by the server, which then calls `get_repository_def`."""
        return self

    def get_repository_def(self) -> dg.RepositoryDefinition:
        """The repository of the module, executed again."""
        before = {name: sys.modules.pop(name) for name in _importing if name in sys.modules}
        _Again.at_work = True
        try:
            with enter_loadable_target_origin_load_context(self._target):
                made = repository_def_from_target_def(self._load())
            if made is None:
                raise ConfigError("The module defines no Definitions any more.")
        except BaseException:
            sys.modules.update(before)
            raise
        finally:
            _Again.at_work = False
        answer_for_gone_jobs(made, self._before)
        self.made = made
        return made

    def _load(self) -> object:
        from dagster._grpc.utils import get_loadable_targets

        target = self._target
        found = get_loadable_targets(
            python_file=target.python_file,
            module_name=target.module_name,
            package_name=target.package_name,
            working_directory=target.working_directory,
            attribute=target.attribute,
            autoload_defs_module_name=target.autoload_defs_module_name,
            resolve_lazy_defs=False,
        )
        if len(found) != 1:
            self.is_one_of_several = True
            raise ConfigError("The module defines several repositories.")
        return found[0].target_definition
