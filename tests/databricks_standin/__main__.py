"""Run a stand-in until the process that started it is gone; its address is the first line of the output."""

import os
import sys
import tempfile
import threading
from pathlib import Path

from tests.databricks_standin.engine import Engine
from tests.databricks_standin.web import serve


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


with tempfile.TemporaryDirectory(prefix="elt-dagster-databricks-") as folder:
    server = serve(Engine(Path(folder)))
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    server.serve_forever()
