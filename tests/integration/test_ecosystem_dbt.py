"""A sync, dbt's models and an asset of the user's own in one graph and one run, as a person types it: ``examples/dbt_shop``."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from tests.integration.dagster_project import REPOSITORY

pytestmark = pytest.mark.slow

DBT = REPOSITORY / ".dbt"
ORDERS = dg.AssetKey(["raw_shop", "orders"])


@dataclass(frozen=True)
class Shop:
    """The example after one run of everything."""

    folder: Path
    instance: dg.DagsterInstance
    run: dg.DagsterRun

    def materialization(self, key: dg.AssetKey) -> dg.AssetMaterialization:
        """The last one of ``key``."""
        event = self.instance.get_latest_materialization_event(key)
        assert event is not None, key
        assert event.asset_materialization is not None
        return event.asset_materialization


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """dbt parses and builds once for all tests, for that is what takes its time."""
    if not (DBT / ".ready").exists():
        reason = "No dbt: run `make servers`."
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    folder = tmp_path_factory.mktemp("dbt") / "dbt_shop"
    unwanted = shutil.ignore_patterns("*.duckdb*", ".local_defs_state", "target", "logs", "__pycache__", "home")
    shutil.copytree(REPOSITORY / "examples" / "dbt_shop", folder, ignore=unwanted)
    home = folder / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    command = [str(Path(sys.executable).parent / "dg"), "launch", "--assets", "*"]
    done = subprocess.run(
        command, cwd=folder, env=environ(folder), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    with dg.DagsterInstance.from_config(str(home)) as instance:
        (run,) = instance.get_runs()
        yield Shop(folder, instance, run)


def environ(folder: Path) -> dict[str, str]:
    """dbt's packages come before ours, where both have one: it wants older ones."""
    (site,) = (DBT / "lib").glob("python*/site-packages")
    return {
        **os.environ,
        "DAGSTER_HOME": str(folder / "home"),
        "PATH": os.pathsep.join([str(DBT / "bin"), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(folder / "src"), str(site)]),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "DO_NOT_TRACK": "1",
    }


def test_one_command_loads_the_files_builds_the_models_and_reports(shop: Shop) -> None:
    assert shop.run.is_success
    with duckdb.connect(str(shop.folder / "warehouse.duckdb")) as warehouse:
        revenue = warehouse.sql("SELECT country, orders, revenue::DOUBLE FROM shop.revenue_by_country ORDER BY ALL")
        assert revenue.fetchall() == [("DK", 2, 17.75), ("SE", 2, 27.0)]
    found = shop.materialization(dg.AssetKey(["best_country"])).metadata
    assert (found["country"].value, found["revenue"].value) == ("SE", 27.0)


def test_sources_of_dbt_are_our_assets_without_a_translation(shop: Shop) -> None:
    assert shop.run.execution_plan_snapshot_id is not None
    plan = shop.instance.get_execution_plan_snapshot(shop.run.execution_plan_snapshot_id)
    parents = {
        step.key: {output.step_key for given in step.inputs for output in (given.upstream_output_handles or ())}
        for step in plan.steps
    }
    assert parents["shop"] == {"raw_shop__customers", "raw_shop__orders"}
    assert parents["best_country"] == {"shop"}


def test_what_dbt_needs_to_know_of_a_table_is_on_its_asset(shop: Shop) -> None:
    found = shop.materialization(ORDERS).metadata
    assert found["dagster/uri"].value == f"duckdb://{shop.folder}/warehouse.duckdb/raw_shop/orders"
    assert found["dagster/row_count"].value == 5


def test_nobody_found_the_file_in_use(shop: Shop) -> None:
    entries = [e.user_message for e in shop.instance.all_logs(shop.run.run_id)]
    assert not [text for text in entries if "held by" in text or "lock" in text.lower()]
