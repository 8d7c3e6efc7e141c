"""Databricks beyond the contract: crashes half way, refusals in our words, links that expire, and what is asked of the workspace."""

import logging
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from pydantic import SecretStr

from elt_dagster.destinations import _databricks_commit as commits
from elt_dagster.destinations._databricks_errors import StatementFailedError
from elt_dagster.destinations._databricks_sql import text
from elt_dagster.destinations._databricks_stage import Shape, abandoned
from elt_dagster.destinations._databricks_state import add_statement
from elt_dagster.destinations._databricks_types import widens_in_place
from elt_dagster.destinations.databricks import Databricks
from elt_dagster.errors import AuthError, ConfigError, DestinationError, EltError, TransientError
from elt_dagster.model import Checkpoint, LoadMode
from elt_dagster.sdk.connector import Runtime
from elt_dagster.testing.destination import Bench, Capabilities, batch_of
from tests import databricks_standin as standin
from tests.contract.test_databricks import workspace  # noqa: F401 - a fixture

APPEND, MERGE, REPLACE = LoadMode.APPEND, LoadMode.MERGE, LoadMode.REPLACE
KEYED: dict[str, Any] = {"primary_key": ("id",), "cursor_field": "at"}
pytestmark = pytest.mark.timeout(90)


@dataclass
class Clock:
    """A clock that stands still unless it is told to go on, or somebody sleeps."""

    now: datetime = datetime(2026, 5, 1, tzinfo=UTC)

    def read(self) -> datetime:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class Desk:
    """A bench on the stand-in whose clock and faults are in the test's hands."""

    space: standin.Workspace
    clock: Clock
    schema: str

    def bench(self, **settings: Any) -> Bench:
        config = self.space.config(**settings)
        runtime = Runtime(now=self.clock.read, sleep=self.clock.sleep)
        return Bench(
            destination=Databricks.configured(config, runtime), config=config, schema=self.schema, can=Capabilities(),
            run_sql=lambda statement: None,
        )  # fmt: skip

    def statements(self) -> list[str]:
        return [s for s in self.space.seen() if self.schema in s]


@pytest.fixture
def desk(workspace: standin.Workspace) -> Iterator[Desk]:  # noqa: F811
    yield Desk(workspace, Clock(), f"u_{uuid.uuid4().hex[:8]}")
    workspace.heal()


# --- a commit by claim that is interrupted

CLAIMED = {"transactions": "idempotent"}
LOADS: dict[str, dict[str, Any]] = {
    "append": {"mode": APPEND, "rows": [(3, "c", 3), (None, "x", 3)]},
    "merge": {"mode": MERGE, "rows": [(1, "A", 3), (3, "c", 3), (None, "x", 3)], **KEYED},
    "merge with history": {"mode": MERGE, "rows": [(1, "A", 3), (3, "c", 3)], "history": True, **KEYED},
    "replace": {"mode": REPLACE, "rows": [(3, "c", 3)]},
}


def begin(desk: Desk, kind: str, **more: Any) -> tuple[Bench, dict[str, Any], list[Any]]:
    bench = desk.bench(**CLAIMED)
    options = dict(LOADS[kind])
    mode, rows = options.pop("mode"), options.pop("rows")
    bench.load(APPEND if mode is APPEND else MERGE, [(1, "a", 1), (2, "b", 1)], checkpoint=Checkpoint(1),
               **({} if mode is APPEND else KEYED), **({"history": True} if options.get("history") else {}))  # fmt: skip
    return bench, {"mode": mode, **options, **more}, rows


def expected(kind: str) -> list[tuple[Any, ...]]:
    rows = LOADS[kind]["rows"]
    if LOADS[kind]["mode"] is REPLACE:
        return sorted(rows, key=repr)
    mine = {row[0] for row in rows if row[0] is not None}
    old = [(1, "a", 1), (2, "b", 1)]
    kept = old if LOADS[kind]["mode"] is APPEND else [row for row in old if row[0] not in mine]
    return sorted([*kept, *rows], key=repr)


# which statement the connection is lost at, counted among those that write the table, its history and the state
CUTS = {
    "before the rows": ("(INSERT INTO|INSERT OVERWRITE|MERGE INTO) `main`.`{}`.`orders`", False),
    "after the rows": ("(INSERT INTO|INSERT OVERWRITE|MERGE INTO) `main`.`{}`.`orders`", True),
    "before the state": ("UPDATE `main`.`{}`.`_elt_state`", False),
    "after the state": ("UPDATE `main`.`{}`.`_elt_state`", True),
}


_MORE_KINDS = pytest.mark.again("the same claim over other statements")


@pytest.mark.parametrize("cut", list(CUTS))
@pytest.mark.parametrize("kind", [pytest.param(k, marks=() if k == "merge" else _MORE_KINDS) for k in LOADS])
def test_a_claim_that_was_cut_is_finished_exactly_once(desk: Desk, kind: str, cut: str) -> None:
    bench, options, rows = begin(desk, kind)
    pattern, after = CUTS[cut]
    desk.space.fail(pattern.format(desk.schema), message="[INTERNAL_ERROR] lost", after=after, code="INTERNAL_ERROR")
    with pytest.raises(TransientError, match="interrupted"):
        bench.load(options.pop("mode"), rows, checkpoint=Checkpoint(3), **options)
    mode = LOADS[kind]["mode"]
    if cut != "after the state":
        assert bench.cursor() == 1, "a claim is no state"
        with pytest.raises(TransientError, match="being committed"):  # the process that claimed may be alive
            bench.destination.begin(bench.plan(mode, **options))
        desk.clock.sleep(commits.CLAIM_SECONDS + 1)
        with pytest.raises(TransientError, match="changed by"):  # this plan was made from the state before
            bench.destination.begin(bench.plan(mode, **options))
    assert bench.cursor() == 3
    assert bench.rows() == expected(kind)
    assert not [t for t in desk.space.sql(f"SHOW TABLES IN main.{desk.schema}") if "_elt_staged" in t["tableName"]] or (
        cut == "after the state"
    )
    if options.get("history"):
        found = bench.destination.read(bench.table("orders__history"), ["id", "name", "_is_current"]).read_all()
        assert sorted(zip(*(c.to_pylist() for c in found.columns), strict=True)) == [
            (1, "A", True), (1, "a", False), (2, "b", True), (3, "c", True)
        ]  # fmt: skip
    bench.load(
        APPEND if mode is APPEND else MERGE,
        [(9, "z", 9)],
        checkpoint=Checkpoint(9),
        **({} if mode is APPEND else KEYED),
    )
    assert bench.cursor() == 9


def test_a_newer_lease_need_not_wait_for_a_claim(desk: Desk) -> None:
    bench, options, rows = begin(desk, "merge", fence=1)
    desk.space.fail(f"UPDATE `main`.`{desk.schema}`.`_elt_state`", message="[INTERNAL_ERROR] lost")
    with pytest.raises(TransientError, match="interrupted"):
        bench.load(options.pop("mode"), rows, checkpoint=Checkpoint(3), **options)
    with pytest.raises(TransientError, match="changed by"):
        bench.destination.begin(bench.plan(MERGE, **{**options, "fence": 2}))
    assert bench.rows() == expected("merge")


def test_a_claim_whose_rows_are_refused_is_taken_back(desk: Desk) -> None:
    bench, options, rows = begin(desk, "merge")
    desk.space.fail(
        f"MERGE INTO `main`.`{desk.schema}`.`orders`", message="[DELTA_NOT_NULL_CONSTRAINT_VIOLATED] SECRET-ROW"
    )
    with pytest.raises(DestinationError) as refused:
        bench.load(options.pop("mode"), rows, checkpoint=Checkpoint(3), **options)
    assert "SECRET" not in str(refused.value)
    assert bench.cursor() == 1
    assert bench.load(MERGE, rows, checkpoint=Checkpoint(3), **KEYED).inserted == 2


def test_a_claim_names_no_statement_to_run(desk: Desk) -> None:
    """Who may write the state table must not thereby run statements with our rights."""
    bench, options, rows = begin(desk, "merge")
    desk.space.fail(f"UPDATE `main`.`{desk.schema}`.`_elt_state`", message="[INTERNAL_ERROR] lost")
    with pytest.raises(TransientError):
        bench.load(options.pop("mode"), rows, **options)
    (row,) = desk.space.sql(f"SELECT pending FROM main.{desk.schema}._elt_state WHERE pending IS NOT NULL")
    for word in ("MERGE", "INSERT", "SELECT"):
        assert word not in row["pending"]


@pytest.mark.emulated(reason="the stand-in cuts the logs back itself")
@pytest.mark.parametrize("kind", list(LOADS))
def test_a_transaction_that_fails_at_its_end_leaves_nothing(desk: Desk, kind: str) -> None:
    bench = desk.bench(transactions="atomic")
    bench.load(MERGE, [(1, "a", 1)], checkpoint=Checkpoint(1), **KEYED)
    options = dict(LOADS[kind])
    mode, rows = options.pop("mode"), options.pop("rows")
    desk.space.fail(
        f"BEGIN ATOMIC.*{desk.schema}", message="[DELTA_CONCURRENT_APPEND] Files were added by a concurrent update."
    )
    with pytest.raises(TransientError, match="conflict"):
        bench.load(mode, rows, checkpoint=Checkpoint(3), **options)
    assert (bench.rows(), bench.cursor()) == ([(1, "a", 1)], 1)


def test_two_commits_at_once_end_in_one(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings in ({"transactions": "atomic"}, CLAIMED):
        bench = desk.bench(**settings)
        table = f"t_{settings['transactions']}"
        bench.load(APPEND, [(1, "a", 1)], table=table, checkpoint=Checkpoint(1))
        plans = [bench.plan(APPEND, table=table) for _ in range(2)]
        loads = [bench.destination.begin(plan) for plan in plans]
        for load in loads:
            load.stage(batch_of([(2, "b", 2)]))

        # the second looks at the state before the first has committed: its compare-and-swap has to find out
        def first_commits(*args: Any, load: Any = loads[0], **more: Any) -> str:
            monkeypatch.setattr(commits, "add_statement", add_statement)
            load.commit(Checkpoint(2))
            return add_statement(*args, **more)

        monkeypatch.setattr(commits, "add_statement", first_commits)
        with loads[0], loads[1] as second, pytest.raises(TransientError, match="changed by"):
            second.commit(Checkpoint(2))
        assert bench.rows(table) == [(1, "a", 1), (2, "b", 2)]
        assert bench.cursor(table) == 2


def test_a_claim_whose_staged_rows_are_gone_can_be_given_up(desk: Desk) -> None:
    bench, options, rows = begin(desk, "merge")
    desk.space.fail(f"MERGE INTO `main`.`{desk.schema}`.`orders`", message="[INTERNAL_ERROR] lost")
    with pytest.raises(TransientError, match="interrupted"):
        bench.load(options.pop("mode"), rows, checkpoint=Checkpoint(3), **options)
    for table in desk.space.sql(f"SHOW TABLES IN main.{desk.schema}"):
        if "_elt_staged" in table["tableName"]:
            desk.space.sql(f"DROP TABLE main.{desk.schema}.{table['tableName']}")
    desk.clock.sleep(commits.CLAIM_SECONDS + 1)
    with pytest.raises(DestinationError, match="state rewind"):
        bench.destination.begin(bench.plan(MERGE, **options))
    bench.destination.move_states([bench.move(Checkpoint(1))])
    bench.load(MERGE, rows, checkpoint=Checkpoint(3), **KEYED)
    assert (bench.rows(), bench.cursor()) == (expected("merge"), 3)


@pytest.mark.parametrize("settings", [{"transactions": "atomic"}, CLAIMED], ids=["atomic", "claimed"])
@pytest.mark.parametrize(
    "lost",
    [
        "BEGIN ATOMIC",
        "CREATE TABLE `main`.`{}`.`orders`",
        "INSERT INTO `main`.`{}`.`orders`",
        "MERGE INTO `main`.`{}`.`_elt_state`",
    ],
)
def test_a_lost_answer_doubles_nothing(desk: Desk, settings: dict[str, str], lost: str) -> None:
    """The SDK sends a statement again when the connection breaks, whether it was carried out or not."""
    bench = desk.bench(**settings)
    desk.space.fail(f"{lost.format(desk.schema)}.*{desk.schema}|{lost.format(desk.schema)}", drop=True, after=True)
    pattern = re.compile(lost.format(desk.schema), re.S)
    for _ in range(2):  # a step that failed is tried again
        try:
            if bench.cursor() is None:
                bench.load(APPEND, [(1, "a", 1)], checkpoint=Checkpoint(1))
        except TransientError:
            desk.clock.sleep(commits.CLAIM_SECONDS + 1)
    assert (bench.rows(), bench.cursor()) == ([(1, "a", 1)], 1)
    asked = [s for s in desk.statements() if pattern.search(s)]
    assert len(asked) != 1, "the connection did break, and the statement was sent again"


# --- signing in


def test_every_way_to_sign_in_works(desk: Desk) -> None:
    ways: list[dict[str, Any]] = [
        {"token": standin.TOKEN}, {"token": None, "client_id": standin.CLIENT_ID, "client_secret": standin.CLIENT_SECRET},
        {"token": None, "refresh_token": standin.REFRESH},
    ]  # fmt: skip
    for way in ways:
        answer = desk.bench(**way).destination.check()
        assert answer.ok, answer.message


def test_a_profile_of_the_command_line_signs_in(desk: Desk, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "databrickscfg"
    file.write_text(f"[work]\nhost = {desk.space.host}\ntoken = {standin.TOKEN}\n")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(file))
    answer = desk.bench(token=None, profile="work").destination.check()
    assert answer.ok, answer.message


@pytest.mark.parametrize("way", ["token", "client_secret", "refresh_token"])
def test_wrong_credentials_are_refused_in_words_without_them(desk: Desk, way: str) -> None:
    wrong: dict[str, Any] = {
        "token": None,
        way: "WRONG-SECRET",
        **({"client_id": "x"} if way == "client_secret" else {}),
    }
    bench = desk.bench(**wrong)
    with pytest.raises(AuthError, match="credentials") as refused:
        bench.destination.states(bench.schema)
    assert "WRONG" not in str(refused.value)
    assert not bench.destination.check().ok


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"token": None}, "none is given"),
        ({"profile": "x"}, "profile and token"),
        ({"token": None, "client_secret": "s"}, "client_id"),
        ({"host": "http://example.com"}, "https"),
        ({"host": "https://example.com/sql?token=SECRET"}, "alone"),
        ({"staging_volume": "a.b"}, "staging_volume"),
    ],
    ids=["no credentials", "two ways", "no client", "no tls", "a path", "half a volume"],
)
def test_wrong_settings_are_named(desk: Desk, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        desk.bench(**settings)
    assert "SECRET" not in str(refused.value)


# --- refusals in our words


@pytest.mark.emulated(reason="privileges are made up by the stand-in")
def test_a_missing_privilege_comes_with_its_grant(desk: Desk) -> None:
    bench = desk.bench(token=standin.GUEST)
    with pytest.raises(AuthError, match=r"GRANT CREATE SCHEMA ON CATALOG `main`"):
        bench.load(APPEND, [(1, "a", 1)])


def test_a_missing_catalog_and_a_missing_warehouse_are_named(desk: Desk) -> None:
    with pytest.raises(ConfigError, match="no catalog 'nope'"):
        desk.bench(catalog="nope").load(APPEND, [(1, "a", 1)])
    with pytest.raises(ConfigError, match="gone999"):
        desk.bench(warehouse_id="gone999").load(APPEND, [(1, "a", 1)])


def test_a_warehouse_that_sleeps_is_waited_for(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.space.fail(f"_elt_state.*{desk.schema}|{desk.schema}.*_elt_state", polls=5)
    with caplog.at_level(logging.INFO, logger="elt_dagster"):
        desk.bench().load(APPEND, [(1, "a", 1)])
    assert "The SQL warehouse abc123 is starting; waiting for it." in caplog.text


def test_a_warehouse_that_does_not_wake_up_is_tried_again_later(desk: Desk) -> None:
    bench = desk.bench(startup_timeout_seconds=60)
    desk.space.fail(desk.schema, polls=10_000)
    with pytest.raises(TransientError, match=r"abc123 is starting and took no statement for \d+ seconds") as refused:
        bench.destination.states(bench.schema)
    assert refused.value.retry_after == 60
    assert desk.space.seen("cancelled"), "what waits in the queue must not run later"


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_workspace_is_tried_again_and_then_later(desk: Desk, status: int) -> None:
    busy = {"status": status, "headers": {"Retry-After": "2"}, "code": "RESOURCE_EXHAUSTED"}
    desk.space.fail("POST /api/2.0/sql/statements", **busy)
    assert desk.bench().destination.states(desk.schema) == []
    desk.space.fail("POST /api/2.0/sql/statements", **{**busy, "headers": {"Retry-After": "900"}})
    with pytest.raises(TransientError, match="busy") as refused:
        desk.bench().destination.states(desk.schema)
    assert refused.value.retry_after == 900


def test_a_statement_that_somebody_cancelled_is_tried_again(desk: Desk) -> None:
    desk.space.fail(desk.schema, state="CANCELED")
    with pytest.raises(TransientError, match="cancelled in the SQL warehouse"):
        desk.bench().destination.states(desk.schema)


def test_an_interrupt_cancels_the_statement(desk: Desk) -> None:
    before = len(desk.space.seen("cancelled"))
    desk.space.fail(desk.schema, polls=10_000)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    bench = desk.bench()
    destination = Databricks.configured(bench.config, Runtime(sleep=interrupt))
    with pytest.raises(KeyboardInterrupt):
        destination.states(bench.schema)
    assert len(desk.space.seen("cancelled")) == before + 1


def test_without_transactions_atomic_refuses_with_a_remedy(desk: Desk) -> None:
    bench = desk.bench(catalog="legacy", transactions="atomic")
    with pytest.raises(DestinationError, match="Set transactions to auto or idempotent"):
        bench.load(APPEND, [(1, "a", 1)])


def test_a_table_without_catalog_commits_is_loaded_by_claim(desk: Desk) -> None:
    desk.bench(**CLAIMED).load(MERGE, [(1, "a", 1)], **KEYED)
    bench = desk.bench()
    assert bench.load(MERGE, [(1, "A", 2), (2, "b", 2)], **KEYED).updated == 1
    assert bench.rows() == [(1, "A", 2), (2, "b", 2)]
    assert bench.destination.columns(bench.table()) == batch_of([]).schema, "the hidden column is hidden"


# --- reading


def numbers(count: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(range(count), pa.int64())], names=["n"])


def test_a_large_result_comes_in_parts_and_no_link_gets_our_token(desk: Desk) -> None:
    bench = desk.bench()
    with bench.destination.begin(bench.plan(APPEND, numbers(0).schema)) as load:
        load.stage(numbers(50_000))
        load.commit(None)
    before = len([r for r in desk.space.seen("requests") if r.startswith("GET /external")])
    reader = bench.destination.read(bench.table())
    assert len([r for r in desk.space.seen("requests") if r.startswith("GET /external")]) == before, (
        "nothing is fetched yet"
    )
    assert sorted(reader.read_all()["n"].to_pylist()) == list(range(50_000))
    assert len([r for r in desk.space.seen("requests") if r.startswith("GET /external")]) == before + 3


def test_an_expired_link_is_asked_for_again(desk: Desk) -> None:
    bench = desk.bench()
    bench.load(APPEND, [(1, "a", 1)])
    desk.space.fail("GET /external/", status=403, times=2)
    assert bench.rows() == [(1, "a", 1)]
    desk.space.fail("GET /external/", status=403, times=3)
    with pytest.raises(TransientError, match="storage") as refused:
        bench.rows()
    assert "SECRET" not in str(refused.value)


def test_where_takes_values_and_no_sql(desk: Desk) -> None:
    bench = desk.bench()
    bench.load(APPEND, [(1, "it's", 1), (2, "b", 2)])
    found = bench.destination.read(bench.table(), ["id"], {"name": ("it's", "it's' OR 1 = 1 --")}).read_all()
    assert found["id"].to_pylist() == [1]


# --- what is left behind


def test_nothing_is_left_in_the_volume(desk: Desk) -> None:
    bench = desk.bench()
    bench.load(MERGE, [(1, "a", 1)], [(2, "b", 2)], **KEYED)
    with bench.destination.begin(bench.plan(MERGE, **KEYED)) as load:
        load.stage(batch_of([(3, "c", 3)]))
    folder = desk.schema.encode().hex()
    assert {f.rpartition("/")[2] for f in desk.space.files() if folder in f} <= {folder, "_elt_staging"}
    names = {t["tableName"] for t in desk.space.sql(f"SHOW TABLES IN main.{desk.schema}")}
    assert names == {"_elt_state", "orders"}


def test_what_a_dead_process_left_is_removed_after_a_day(desk: Desk) -> None:
    bench = desk.bench()
    dead = bench.destination.begin(bench.plan(APPEND))
    dead.stage(batch_of([(1, "a", 1)] * 3))
    folder = desk.schema.encode().hex()
    desk.clock.sleep(3600 * 23)
    desk.bench().destination.begin(bench.plan(APPEND))
    assert [f for f in desk.space.files() if folder in f and "2026" in f]
    desk.clock.sleep(3600 * 2)
    desk.bench().destination.begin(bench.plan(APPEND))
    assert not [f for f in desk.space.files() if folder in f and "2026" in f]


def test_only_folders_that_loads_made_are_ever_removed() -> None:
    names = ["20260101T000000-abc", "mine", "20260102T000000-def"]
    assert abandoned(names, datetime(2026, 1, 2, 1, tzinfo=UTC)) == {"20260101T000000-abc": "abc"}


# --- small parts


def test_literals_hold_whatever_is_in_them(desk: Desk) -> None:
    for value in ("it's", 'back\\slash"', "${spark.x}", "new\nline\r", "ünï✨", "--", "/*", "a\\", "\\u0041"):
        (row,) = desk.space.sql(f"SELECT {text(value)} AS v")
        assert row["v"] == value


@pytest.mark.parametrize(
    ("kind", "to", "is_in_place"),
    [
        (pa.int8(), pa.int64(), True), (pa.int32(), pa.float64(), True), (pa.int64(), pa.float64(), False), (pa.int64(), pa.decimal128(21, 2), False),
        (pa.int64(), pa.decimal128(22, 2), True), (pa.decimal128(5, 2), pa.decimal128(7, 4), True), (pa.decimal128(5, 2), pa.decimal128(6, 4), False),
        (pa.float32(), pa.float64(), True), (pa.date32(), pa.timestamp("us"), True), (pa.int64(), pa.string(), False), (pa.bool_(), pa.int64(), False),
    ],
    ids=str,
)  # fmt: skip
def test_delta_widens_in_place_what_it_documents(kind: pa.DataType, to: pa.DataType, is_in_place: bool) -> None:
    assert widens_in_place(kind, to) is is_in_place


@pytest.mark.parametrize(
    ("message", "condition"),
    [
        ("[TABLE_OR_VIEW_NOT_FOUND] The table", "TABLE_OR_VIEW_NOT_FOUND"),
        ("java.lang.X: [TRANSACTION_NOT_SUPPORTED.COMMAND] no", "TRANSACTION_NOT_SUPPORTED.COMMAND"),
        ("PERMISSION_DENIED: User does not have USE SCHEMA on Schema 'main.s'.", "PERMISSION_DENIED"),
        ("something else", "BAD_REQUEST"),
    ],
    ids=["table", "transaction", "permission", "unknown"],
)
def test_the_condition_of_a_refusal_is_found(message: str, condition: str) -> None:
    assert StatementFailedError("BAD_REQUEST", message).condition == condition


def test_a_shape_tells_the_types_of_its_files() -> None:
    shape = Shape(pa.schema([("a;b", pa.uint64()), ("nothing", pa.null()), ("u", pa.uuid())]), "/Volumes/c/s/v/l")
    assert "schema => 'c0 DECIMAL(20,0), c2 BINARY, arrival BIGINT'" in shape.source


def test_names_that_unity_catalog_refuses_are_refused_before_anything_is_read(desk: Desk) -> None:
    bench = desk.bench()
    plan = bench.plan(APPEND)
    for table in (replace(plan.table, name="a.b"), replace(plan.table, schema="a b")):
        with pytest.raises(DestinationError, match="Unity Catalog"):
            bench.destination.begin(replace(plan, table=table))


def test_json_may_stay_as_it_was_spelled(desk: Desk) -> None:
    from elt_dagster.model.types import JSON

    bench = desk.bench(json_columns="string")
    columns = pa.schema([("id", pa.int64()), ("doc", JSON)])
    done = bench.load(MERGE, [(1, '{"b":  1, "a": 2}'), (2, '{"a": ')], columns=columns, primary_key=("id",))
    assert (done.inserted, done.rejected) == (1, 1)
    assert bench.rows() == [(1, '{"b":  1, "a": 2}')]
    assert bench.load(MERGE, [(1, '{"b":  1, "a": 2}')], columns=columns, primary_key=("id",)).updated == 0


def test_errors_of_ours_stay_as_they_are() -> None:
    from elt_dagster.destinations._databricks_errors import explained
    from elt_dagster.destinations._databricks_settings import DatabricksConfig

    config = DatabricksConfig(host="https://x.example", warehouse_id="a", catalog="c", token=SecretStr("t"))
    for error in (EltError("mine"), KeyError("a bug")):
        assert explained(error, "x", config) is error
