"""However rows change between, and during, incremental reads: nothing is lost, though the org's index lags behind."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from hypothesis import example, given, settings
from hypothesis import strategies as st

from elt_dagster.model import Checkpoint, ReadRequest
from elt_dagster.registry import load_connector
from elt_dagster.sdk import Runtime
from tests.contract.salesforce_org import SETTINGS, Org, Row, SObject, fields, key

START = datetime(2024, 1, 1, tzinfo=UTC)
MOST_LAG = 540.0
"""Seconds after which a change is found at the latest; the connector looks back for 600."""

steps = st.lists(
    st.tuples(
        st.sampled_from(["insert", "update", "delete", "read", "read"]),
        st.integers(0, 5),
        st.floats(0, MOST_LAG),
        st.sampled_from([0, 1, 30, 300, 4000]),
    ),
    max_size=25,
)


class Lagging:
    """An org whose clock is moved by hand, and whose queries see a change only some time after it was made."""

    def __init__(self, page_size: int) -> None:
        self.now = START
        self.found = SObject(fields(Id="id", IsDeleted="boolean", Name="int", SystemModstamp="datetime"))
        self.old: dict[str, Row] = {}
        self.org = Org({"Account": self.found})
        self.org.page_size = page_size
        self.org.sees = lambda row: row["visible"] <= self.now
        self.changes = 0

    def change(self, what: str, which: int, lag: float) -> None:
        known = next((r for r in self.found.rows if r["Id"] == key("001", which)), None)
        row = {"Id": key("001", which), "IsDeleted": what == "delete", "Name": self.changes, "SystemModstamp": self.now,
               "visible": self.now + timedelta(seconds=lag)}  # fmt: skip
        if known is None and what == "delete":
            return
        self.changes += 1
        # whoever lags is seen as it was before, so the old version stays until the new one is visible
        self.found.rows = [r for r in self.found.rows if r["Id"] != row["Id"]] + [row]


LATE = [("insert", 0, 300.0, 30), ("insert", 1, 0.0, 0), ("read", 0, 0.0, 0)]
"""What is written first is found last."""


@example(LATE, "rest", 1)
@example(LATE, "bulk", 1)
@settings(max_examples=25, deadline=None)
@given(steps, st.sampled_from(["rest", "bulk", "auto"]), st.integers(1, 4))
def test_any_interleaving_of_changes_and_reads_loses_nothing(
    steps: list[tuple[str, int, float, int]], way: str, page_size: int
) -> None:
    world = Lagging(page_size)
    runtime = Runtime(transport=httpx.MockTransport(world.org), sleep=lambda _: None, environ={}, now=lambda: world.now)
    connector = load_connector("salesforce").configured({**SETTINGS, "api_type": way, "bulk_from_rows": 3}, runtime)
    stream = connector.discover()["Account"]
    copy: dict[str, Any] = {}
    since: Checkpoint | None = None

    def read() -> None:
        nonlocal since
        world.org.requests.clear()
        request = ReadRequest(stream=stream, cursor_field="SystemModstamp", since=since)
        for batch in connector.read(request):
            copy.update({r["Id"]: r for r in batch.data.to_pylist()})
            since = batch.checkpoint or since

    for what, which, lag, pause in steps:
        if what == "read":
            read()
        else:
            world.change(what, which, lag)
        world.now += timedelta(seconds=pause)
    world.now += timedelta(seconds=MOST_LAG)
    read()
    wanted = {r["Id"]: (r["Name"], r["IsDeleted"]) for r in world.found.rows}
    assert {k: (v["Name"], v["IsDeleted"]) for k, v in copy.items()} == wanted
