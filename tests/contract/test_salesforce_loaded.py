"""Salesforce in a warehouse: changes, deletes, histories and new types arrive in a real table, whichever way they were read."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from elt_dagster.destinations.base import TableRef
from elt_dagster.engine import StreamRead
from elt_dagster.errors import CancelledError
from elt_dagster.model import StreamResult, SyncSpec, TableBinding
from elt_dagster.registry import load_connector, load_destination
from elt_dagster.sdk import Connector, Runtime
from tests.contract.salesforce_org import SETTINGS, Org, SObject, fields, hours, key

Salesforce = load_connector("salesforce")


class Loaded:
    """One object of an org, loaded into DuckDB again and again."""

    def __init__(self, folder: Path, way: str, found: SObject, name: str, **binding: Any) -> None:
        self.org = Org({name: found})
        self.way = way
        self.path = str(folder / "warehouse.duckdb")
        self.stream = self.open().discover()[name]
        self.binding = TableBinding.model_validate({"name": name, **binding})
        self.table = TableRef("raw", self.binding.table_name)

    def open(self) -> Connector[Any]:
        runtime = Runtime(transport=httpx.MockTransport(self.org), sleep=lambda _: None, environ={})
        return Salesforce.configured({**SETTINGS, "api_type": self.way}, runtime)

    def warehouse(self) -> Any:
        return load_destination("duckdb").configured({"path": self.path})

    def load(self, **more: Any) -> StreamResult:
        sync = SyncSpec.model_validate(
            {"slug": "s", "connection": "c", "destination": "d", "schema": "raw", "streams": [self.binding]}
        )
        return StreamRead(
            sync=sync, binding=self.binding, binding_id="b1", stream=self.stream, run_id="r1", open_source=self.open,
            open_destination=self.warehouse,
        ).load(**more)  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        rows = self.warehouse().read(self.table).read_all().to_pylist()
        return [
            {k: v for k, v in row.items() if not k.startswith("_elt")} for row in sorted(rows, key=lambda r: r["id"])
        ]


def accounts() -> SObject:
    found = SObject(fields(Id="id", IsDeleted="boolean", Name="string", Revenue__c="double", SystemModstamp="datetime"))
    found.rows = [
        {"Id": key("001", n), "IsDeleted": False, "Name": f"n{n}", "Revenue__c": n * 1.5, "SystemModstamp": hours(n)}
        for n in range(20)
    ]
    return found


@pytest.mark.parametrize("way", ["rest", "bulk"])
def test_changes_and_deletes_arrive_with_the_next_run(way: str, tmp_path: Path) -> None:
    world = Loaded(tmp_path, way, accounts(), "Account", load_mode="merge")
    assert world.load().rows_inserted == 20
    rows = world.org.objects["Account"].rows
    rows[3] |= {"Name": "changed", "SystemModstamp": hours(30)}
    rows[4] |= {"IsDeleted": True, "SystemModstamp": hours(31)}
    rows.append(
        {"Id": key("001", 99), "IsDeleted": False, "Name": "new", "Revenue__c": None, "SystemModstamp": hours(32)}
    )
    done = world.load()
    assert (done.rows_inserted, done.rows_updated, done.rows_deleted) == (1, 1, 1)
    table = {r["id"]: r["name"] for r in world.rows()}
    assert table == {r["Id"]: r["Name"] for r in rows if not r["IsDeleted"]}


@pytest.mark.parametrize("way", ["rest", "bulk"])
def test_a_field_whose_type_changes_and_one_that_comes_are_followed(way: str, tmp_path: Path) -> None:
    world = Loaded(tmp_path, way, accounts(), "Account", load_mode="merge")
    world.load()
    found = world.org.objects["Account"]
    found.fields = fields(Id="id", IsDeleted="boolean", Revenue__c="string", Since__c="date", SystemModstamp="datetime")
    found.rows[5] |= {"Revenue__c": "a lot", "Since__c": "2024-02-03", "SystemModstamp": hours(40)}
    world.load()
    row = world.rows()[5]
    assert (row["revenue_c"], str(row["since_c"])) == ("a lot", "2024-02-03")
    assert world.rows()[6]["revenue_c"] == "9.0"
    assert world.rows()[6]["name"] == "n6", "a column that is gone keeps what it had"


def test_a_history_is_appended_without_doubling_what_is_read_again(tmp_path: Path) -> None:
    found = SObject(fields(Id="id", IsDeleted="boolean", OldValue="anyType", CreatedDate="datetime"))
    found.rows = [
        {"Id": key("017", n), "IsDeleted": False, "OldValue": f"v{n}", "CreatedDate": hours(n / 60)} for n in range(30)
    ]
    world = Loaded(tmp_path, "rest", found, "AccountHistory", load_mode="append")
    world.load()
    found.rows.append({"Id": key("017", 40), "IsDeleted": False, "OldValue": "late", "CreatedDate": hours(28 / 60)})
    found.rows.append({"Id": key("017", 41), "IsDeleted": False, "OldValue": "new", "CreatedDate": hours(2)})
    done = world.load()
    assert done.rows_read > 2, "ten minutes are read again"
    assert [r["id"] for r in world.rows()] == sorted(r["Id"] for r in found.rows)


def test_a_run_that_is_cancelled_while_a_job_is_waited_for_leaves_no_job(tmp_path: Path) -> None:
    world = Loaded(tmp_path, "bulk", accounts(), "Account", load_mode="merge")
    world.org.polls = 10_000
    looks = iter(range(3))
    with pytest.raises(CancelledError):
        world.load(cancelled=lambda: next(looks, None) is None)
    assert not world.org.jobs
    assert any(r.method == "PATCH" for r in world.org.requests)
