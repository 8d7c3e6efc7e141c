"""The code location of a checkout, as ``definitions.py`` has it, whose runs start quickly: to be copied there by tests that start many runs.

A code server starts the process of a run with multiprocessing's method ``spawn``, and so imports Dagster and us anew, which is most of what a
run of three rows costs. Here it is forked from a process that has imported both. It stays a process of its own that can be stopped and killed.
"""

from multiprocessing import popen_forkserver, set_forkserver_preload
from multiprocessing.context import SpawnProcess

from elt_dagster import build_definitions

set_forkserver_preload(["dagster._cli", "dagster._grpc.impl", "elt_dagster.orchestration.definitions"])
setattr(SpawnProcess, "_Popen", staticmethod(popen_forkserver.Popen))  # noqa: B010 - it is not declared

defs = build_definitions()
