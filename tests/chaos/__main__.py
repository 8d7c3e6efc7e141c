"""``python -m tests.chaos [--kills N]``: at least N kills of loads into every warehouse, as a table; exit code 1 if a row is lost or doubled."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests import servers
from tests.chaos.harness import Harness, Tally
from tests.chaos.source import Kind
from tests.contract.test_postgres_destination import config_of


def main() -> int:
    """Kill, compare, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=208, help="kills per warehouse (default: %(default)s)")
    parser.add_argument("--warehouse", choices=("duckdb", "postgres"), action="append", help="only this one")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="repeats the order of the named steps")
    options = parser.parse_args()
    each = -(-options.kills // len(Kind))
    print(f"seed {options.seed}, {each} kills per mode")
    print(
        f"{'warehouse':<10} {'mode':<14} {'kills':>6} {'restarts':>9} {'rows lost':>10} {'rows doubled':>13} {'seconds':>8}"
    )
    tallies: list[Tally] = []
    with tempfile.TemporaryDirectory(prefix="elt-chaos-") as folder, servers.database("chaos") as url:
        configs = {"duckdb": {"path": f"{folder}/warehouse.duckdb", "threads": 1}, "postgres": config_of(url)}
        for warehouse in options.warehouse or configs:
            store = f"sqlite:///{Path(folder, f'{warehouse}.sqlite')}"
            harness = Harness(warehouse, configs[warehouse], store, options.seed)
            for kind in Kind:
                began = time.monotonic()
                tally = harness.run(kind, named=each // 2, anytime=each - each // 2)
                tallies.append(tally)
                print(
                    f"{warehouse:<10} {kind:<14} {tally.kills:>6} {tally.restarts:>9} {tally.lost:>10} {tally.doubled:>13} "
                    f"{time.monotonic() - began:>8.1f}",
                    flush=True,
                )
    for where in dict.fromkeys(name for t in tallies for name in t.at):
        print(f"{sum(t.at.get(where, 0) for t in tallies):>6}  {where}")
    return 1 if any(t.lost or t.doubled for t in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
