"""Run every case of `benchmarks.cases` and `benchmarks.merges` in a process of its own and print one table: rows a second, peak memory, ratio to ours.

``python -m benchmarks [--rows N] [part of a round's name ...]``; BENCH_RUNS says how many times (3).
"""

import json
import multiprocessing
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

ROWS_FLAG = "--rows"
if ROWS_FLAG in sys.argv:  # before the cases are imported, and for the processes they run in
    _at = sys.argv.index(ROWS_FLAG)
    os.environ["BENCH_ROWS"] = sys.argv[_at + 1].replace("_", "").replace(",", "")
    del sys.argv[_at : _at + 2]

from benchmarks import cases, merges  # noqa: E402
from benchmarks.rest_server import serve  # noqa: E402
from tests.servers import database  # noqa: E402

RUNS = int(os.environ.get("BENCH_RUNS", "3"))


def main() -> int:
    """Run all rounds, or those whose name contains an argument; or one case as a child process."""
    if len(sys.argv) == 4 and sys.argv[1] == "--case":
        return _child(sys.argv[2], Path(sys.argv[3]))
    table = Table(
        "workload", "case", "rows/s (best)", "seconds", "peak MB", "ours is", title=f"{cases.ROWS:,} rows x 16 columns"
    )
    with tempfile.TemporaryDirectory() as folder, _servers(Path(folder)):
        for name, round_ in {**cases.ROUNDS, **merges.ROUNDS}.items():
            if not sys.argv[1:] or any(a.lower() in name.lower() for a in sys.argv[1:]):
                _measure(table, name, round_, Path(folder))
    Console().print(table)
    return 0


def _measure(table: Table, name: str, round_: tuple[cases.Case, ...], folder: Path) -> None:
    best: dict[str, dict[str, float]] = {}
    cases.BEFORE.get(name, lambda: None)()
    for _ in range(RUNS):  # in turn, so that a slow minute of the machine hits all of them
        for case in round_:
            work = Path(tempfile.mkdtemp(dir=folder))
            if first := merges.TABLES.get(case.__name__):
                _in_a_process(first, work)
            found = _in_a_process(case, work)
            shutil.rmtree(work)
            known = best.setdefault(case.__name__, found)
            known["rate"] = max(known["rate"], found["rate"])
            known["seconds"] = min(known["seconds"], found["seconds"])
            known["mb"] = max(known["mb"], found["mb"])
    ours = best[round_[0].__name__]["rate"]
    for index, (case_name, found) in enumerate(best.items()):
        ratio = "" if index == 0 else f"{ours / found['rate']:.2f}x"
        table.add_row(
            "" if index else name,
            case_name,
            f"{found['rate']:,.0f}",
            f"{found['seconds']:.2f}",
            f"{found['mb']:.0f}",
            ratio,
        )


def _in_a_process(case: cases.Case, work: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks", "--case", case.__name__, str(work)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _child(name: str, folder: Path) -> int:
    case: cases.Case = getattr(cases, name, None) or getattr(merges, name)
    if warm_up := merges.WARM_UP.get(name):
        warm_up(folder)
    started = time.perf_counter()
    rows = case(folder)
    seconds, peak = time.perf_counter() - started, _peak_megabytes()
    if hasattr(merges, name):
        merges.check(case, folder)
    elif case not in cases.WITHOUT_TABLE:
        _check(folder, rows, name)
    print(json.dumps({"rate": rows / seconds, "seconds": seconds, "mb": peak}))
    return 0


def _peak_megabytes() -> float:
    """The most memory this process had. Not ``ru_maxrss`` where it can be helped: that begins with what the parent had when it forked."""
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _check(folder: Path, rows: int, name: str) -> None:
    import duckdb

    column = "number" if name.startswith("rest") else "l_orderkey"
    with duckdb.connect(str(folder / "warehouse.duckdb"), read_only=True) as warehouse:
        (found,) = warehouse.sql(f"SELECT count(*), sum({column}) FROM bench.t").fetchall()
    total = cases.ROWS if name == "merge_elt" else rows
    distinct = total // 10 if name == "arrow_elt_ten_times" else total
    assert found == (total, distinct * (distinct - 1) // 2 * (total // distinct)), (name, found, total)


@contextmanager
def _servers(folder: Path) -> Iterator[None]:
    import duckdb

    with duckdb.connect() as maker:
        maker.execute(f"COPY (SELECT {cases.COLUMNS} FROM range({cases.ROWS}) r(i)) TO '{folder / 'lineitem.parquet'}'")
        maker.execute(f"COPY (FROM '{folder / 'lineitem.parquet'}') TO '{folder / 'lineitem.csv'}' (HEADER)")
    merges.make_files(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    api = multiprocessing.get_context("spawn").Process(target=serve, args=(port, cases.PAGES), daemon=True)
    api.start()
    with database("bench") as url:
        server = urlsplit(url)
        os.environ.update(
            PGHOST=str(server.hostname), PGPORT=str(server.port), PGUSER=str(server.username),
            PGPASSWORD=server.password or "", PGDATABASE=server.path[1:], REST_PORT=str(port),
        )  # fmt: skip
        psql = ["psql", "-q"]
        subprocess.run(
            [*psql, "-c", f"CREATE TABLE lineitem AS SELECT {cases.POSTGRES_COLUMNS} FROM generate_series(0::BIGINT, {cases.ROWS - 1}) i",
             "-c", "ANALYZE lineitem"], check=True,
        )  # fmt: skip
        _wait_for(port)
        try:
            yield
        finally:
            api.terminate()


def _wait_for(port: int) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    sys.exit("The benchmark's own API did not start.")


if __name__ == "__main__":
    sys.exit(main())
