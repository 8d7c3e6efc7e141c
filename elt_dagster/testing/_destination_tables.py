"""The destination contract, second half: columns, types, names, owners, readers, and several loads at once."""

import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from datetime import time as clock
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from elt_dagster.destinations.base import LoadPlan, TableRef
from elt_dagster.errors import DestinationError, NotFoundError
from elt_dagster.model import LoadMode, SchemaDrift
from elt_dagster.model.types import JSON, TIMESTAMP, TIMESTAMP_UTC, UUID, column, description_of, type_name
from elt_dagster.registry import load_destination
from elt_dagster.testing._destination_bench import APPEND, MERGE, REPLACE, ROWS, Bench, array_of, batch_of, rows_of
from elt_dagster.testing._processes import process

EVOLVE, FREEZE, DISCARD = SchemaDrift.EVOLVE, SchemaDrift.FREEZE, SchemaDrift.DISCARD
WIDER = pa.schema([*ROWS, pa.field("extra", pa.float64())])
EXTREMES: dict[str, tuple[pa.DataType, list[Any]]] = {
    "bool": (pa.bool_(), [True, False]),
    "int8": (pa.int8(), [-128, 127]),
    "int16": (pa.int16(), [-(2**15), 2**15 - 1]),
    "int32": (pa.int32(), [-(2**31), 2**31 - 1]),
    "int64": (pa.int64(), [-(2**63), 2**63 - 1]),
    "uint8": (pa.uint8(), [0, 255]),
    "uint16": (pa.uint16(), [0, 2**16 - 1]),
    "uint32": (pa.uint32(), [0, 2**32 - 1]),
    "uint64": (pa.uint64(), [0, 2**64 - 1]),
    "float": (pa.float32(), [1.5, float("-inf"), -0.25]),
    "double": (pa.float64(), [0.1, 5e-324, 1.7976931348623157e308, float("inf")]),
    "decimal": (pa.decimal128(38, 9), [Decimal("-12345678901234567890123456789.123456789"), Decimal("0.000000001")]),
    "string": (pa.string(), ["", "a'b\"c\\d\n\te", "✨ ünïcode", "NULL", "x" * 70_000]),
    "json": (JSON, ['{"a": [1, null, "x\'y"], "b": {"c": 1.25}}', "[]", "null", '"text"']),
    "uuid": (UUID, [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1), uuid.UUID("31c163d7-daf0-42a8-bffc-9dc39f065f33")]),
    "binary": (pa.binary(), [b"", b"\x00\xff\x00", bytes(range(256))]),
    "date": (pa.date32(), [date(1, 1, 1), date(9999, 12, 31)]),
    "time": (pa.time64("us"), [clock(0), clock(23, 59, 59, 999999)]),
    "timestamp": (TIMESTAMP, [datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999)]),
    "timestamp_utc": (TIMESTAMP_UTC, [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)]),
    "timestamp_ns": (pa.timestamp("ns"), [1, -1, 2**62]),
    "timestamp_ns_utc": (pa.timestamp("ns", "UTC"), [1, -1, 2**62]),
    "interval": (pa.month_day_nano_interval(), [(14, -3, 1_000), (0, 0, -86_400_000_000_000), (-1, 400, 0)]),
}


class TableTests:
    """Schema drift, canonical types, names, foreign tables, reading, concurrency, sudden death."""

    # --- schema drift

    def test_evolve_adds_a_column_whether_planned_or_not(self, bench: Bench) -> None:
        bench.load(APPEND, [(1, "a", 1)])
        surprise = pa.schema([*ROWS, pa.field("surprise", pa.string())])
        done = bench.load(APPEND, [(2, "b", 2, "!")], arriving=surprise)
        assert [(c.kind, c.column, c.before, c.after) for c in done.schema_changes] == [
            ("added", "surprise", None, "string")
        ]
        both = pa.schema([*surprise, pa.field("planned", pa.float64())])
        bench.load(APPEND, [(3, "c", 3, None, 0.5)], columns=both)
        assert bench.rows() == [(1, "a", 1, None, None), (2, "b", 2, "!", None), (3, "c", 3, None, 0.5)]

    def test_evolve_takes_different_shapes_in_one_load(self, bench: Bench) -> None:
        with bench.destination.begin(bench.plan(APPEND)) as load:
            load.stage(batch_of([(1, "a", 1)]))
            load.stage(batch_of([(2, "b", 2, 0.5)], WIDER))
            load.stage(batch_of([("c", 3)], pa.schema([("name", pa.string()), ("at", pa.int64())])))
            load.stage(batch_of([(4, "d", 4, "text")], pa.schema([*ROWS, pa.field("extra", pa.string())])))
            assert load.commit(None).inserted == 4
        assert bench.rows() == [(1, "a", 1, None), (2, "b", 2, "0.5"), (4, "d", 4, "text"), (None, "c", 3, None)]

    def test_evolve_widens_step_by_step_and_keeps_every_value(self, bench: Bench) -> None:
        steps: list[tuple[pa.DataType, Any, str]] = [
            (pa.null(), None, "null"), (pa.bool_(), True, "bool"), (pa.int16(), 7, "int16"), (pa.int64(), 2**40, "int64"),
            (pa.decimal128(20, 2), Decimal("0.25"), "decimal(21,2)"), (pa.float64(), 1e30, "double"),
            (pa.string(), "seven", "string"), (JSON, '{"a":1}', "json"),
        ]  # fmt: skip
        for number, (kind, value, becomes) in enumerate(steps):
            columns = pa.schema([("n", pa.int64()), ("v", kind)])
            bench.load(APPEND, [(number, value)], columns=columns)
            if becomes != "null":
                assert type_name(bench.type_of("v")) == becomes
        kept = dict(bench.rows())
        assert kept[0] is None
        texts = {number: json.loads(value) for number, value in kept.items() if number > 0}
        assert {n: texts[n] for n in (6, 7)} == {6: "seven", 7: {"a": 1}}
        assert [float(texts[n]) for n in (2, 3, 4, 5)] == [7.0, float(2**40), 0.25, 1e30]

    def test_a_wider_table_takes_narrower_values_and_stays(self, bench: Bench) -> None:
        bench.load(APPEND, [(1, "a", 1)])
        narrow = pa.schema([("id", pa.int16()), ("name", pa.int64()), ("at", pa.bool_())])
        done = bench.load(APPEND, [(2, 5, True)], columns=narrow)
        assert done.schema_changes == ()
        assert bench.rows() == [(1, "a", 1), (2, "5", 1)]

    def test_a_column_of_nothing_but_null_waits_for_its_type(self, bench: Bench) -> None:
        columns = pa.schema([("id", pa.int64()), ("later", pa.null())])
        bench.load(APPEND, [(1, None)], columns=columns)
        bench.load(APPEND, [(2, date(2026, 1, 1))], columns=pa.schema([("id", pa.int64()), ("later", pa.date32())]))
        bench.load(APPEND, [(3, None)], columns=columns)
        assert bench.rows() == [(1, None), (2, date(2026, 1, 1)), (3, None)]

    def test_a_table_of_nothing_but_null_can_be_loaded(self, bench: Bench) -> None:
        done = bench.load(APPEND, [(None,), (None,)], columns=pa.schema([("what", pa.null())]))
        assert done.table_rows == 2
        assert bench.rows() == [(None,), (None,)]

    @pytest.mark.parametrize("mode", list(LoadMode))
    def test_freeze_refuses_before_the_source_is_asked_and_names_every_difference(
        self, bench: Bench, mode: LoadMode
    ) -> None:
        bench.load(mode, [(1, "a", 1)], primary_key=("id",))
        changed = pa.schema([("id", pa.string()), ("at", pa.int64()), ("new", pa.int64())])
        with pytest.raises(DestinationError) as refused:
            bench.destination.begin(bench.plan(mode, changed, primary_key=("id",), drift=FREEZE))
        for word in ("id", "string", "new", "name", "missing"):
            assert word in str(refused.value)

    def test_freeze_refuses_what_arrives_unplanned(self, bench: Bench) -> None:
        for _ in range(2):  # the table is not there, and is there
            with pytest.raises(DestinationError, match="extra"):
                bench.load(APPEND, [(1, "a", 1, 0.5)], arriving=WIDER, drift=FREEZE)
            bench.load(APPEND, [(1, "a", 1)], drift=FREEZE)
        assert bench.rows() == [(1, "a", 1), (1, "a", 1)]

    @pytest.mark.parametrize("mode", list(LoadMode))
    def test_discard_drops_unknown_columns(self, bench: Bench, mode: LoadMode) -> None:
        for _ in range(2):
            bench.load(mode, [(1, "a", 1, 0.5)], arriving=WIDER, primary_key=("id",), drift=DISCARD)
        assert bench.destination.columns(bench.table()) == ROWS

    def test_discard_refuses_values_that_would_change(self, bench: Bench) -> None:
        bench.load(APPEND, [(1, "a", 1)])
        floats = pa.schema([("id", pa.float64()), ("name", pa.string()), ("at", pa.int64())])
        with pytest.raises(DestinationError, match="id"):
            bench.load(APPEND, [(1.5, "a", 1)], columns=floats, drift=DISCARD)
        assert bench.rows() == [(1, "a", 1)]

    def test_bytes_and_text_have_no_common_type(self, bench: Bench) -> None:
        bench.load(APPEND, [(1, "a", 1)])
        blobs = pa.schema([("id", pa.int64()), ("name", pa.binary()), ("at", pa.int64())])
        with pytest.raises(DestinationError, match="name"):
            bench.destination.begin(bench.plan(APPEND, blobs))

    def test_a_replace_takes_the_columns_as_they_are_now(self, bench: Bench) -> None:
        bench.load(REPLACE, [(1, "a", 1)])
        now = pa.schema([("id", pa.string()), ("at", pa.null()), ("new", pa.bool_())])
        done = bench.load(REPLACE, [("x", None, True)], columns=now)
        assert bench.rows() == [("x", None, True)]
        assert bench.type_of("at") == pa.int64()  # nothing was seen in it, so it keeps its type
        assert {(c.kind, c.column) for c in done.schema_changes} == {
            ("widened", "id"), ("added", "new"), ("removed", "name")
        }  # fmt: skip

    def test_a_column_that_the_source_drops_and_adds_again_goes_on(self, bench: Bench) -> None:
        for mode in (APPEND, MERGE):
            key: dict[str, Any] = {"primary_key": ("id",), "table": mode.value}
            without = pa.schema([f for f in ROWS if f.name != "name"])
            bench.load(mode, [(1, "a", 1)], **key)
            gone = bench.load(mode, [(2, 2)], columns=without, **key)
            assert gone.schema_changes == (), "what the source no longer has stays in the table"
            again = bench.load(mode, [(3, "c", 3)], **key)
            assert again.schema_changes == ()
            assert bench.rows(mode.value) == [(1, "a", 1), (2, None, 2), (3, "c", 3)]
            numbers = pa.schema([("id", pa.int64()), ("name", pa.int64()), ("at", pa.int64())])
            bench.load(mode, [(4, 4, 4)], columns=numbers, **key)
            assert bench.rows(mode.value)[-1] == (4, "4", 4), "it may come back with another type"

    # --- types and names

    @pytest.mark.parametrize("kind_name", list(EXTREMES))
    def test_every_canonical_type_comes_back_exactly(self, bench: Bench, kind_name: str) -> None:
        kind, values = EXTREMES[kind_name]
        schema = pa.schema([("n", pa.int32()), ("v", kind)])
        sent = pa.RecordBatch.from_arrays(
            [pa.array(range(len(values) + 1), pa.int32()), array_of([*values, None], kind)], schema=schema
        )
        with bench.destination.begin(bench.plan(MERGE, schema, primary_key=("n",))) as load:
            load.stage(sent)
            load.commit(None)
        found = bench.destination.read(bench.table()).read_all()
        assert found.schema.equals(schema)
        assert found.sort_by("n").combine_chunks().to_batches()[0].equals(sent)

    @pytest.mark.parametrize("kind_name", list(EXTREMES))
    def test_a_value_that_did_not_change_is_no_update(self, bench: Bench, kind_name: str) -> None:
        kind, values = EXTREMES[kind_name]
        schema = pa.schema([("n", pa.int32()), ("v", kind)])
        numbers = pa.array(range(len(values) + 1), pa.int32())
        sent = pa.RecordBatch.from_arrays([numbers, array_of([*values, None], kind)], schema=schema)
        for _ in range(2):
            with bench.destination.begin(bench.plan(MERGE, schema, primary_key=("n",))) as load:
                load.stage(sent)
                assert load.commit(None).updated == 0

    def test_any_name_will_do(self, bench: Bench) -> None:
        columns = pa.schema([(name, pa.int64()) for name in bench.can.names])
        row = tuple(range(len(bench.can.names)))
        for name in bench.can.names:
            key: dict[str, Any] = {"primary_key": (name,), "cursor_field": name, "table": name}
            bench.load(MERGE, [row], columns=columns, **key)
            assert bench.load(MERGE, [row], columns=columns, **key).table_rows == 1
            assert bench.rows(name, columns=[name]) == [(bench.can.names.index(name),)]
        assert {s.table.name for s in bench.destination.states(bench.schema)} == set(bench.can.names)

    def test_a_schema_of_any_name_will_do(self, bench: Bench) -> None:
        table = TableRef(f'{bench.schema} "ö" select', "t")
        plan = LoadPlan(table=table, columns=ROWS, mode=APPEND, binding_id="b", load_id="l", run_id="r")
        with bench.destination.begin(plan) as load:
            load.stage(batch_of([(1, "a", 1)]))
            load.commit(None)
        assert bench.destination.count(table) == 1
        assert bench.destination.state(table.schema, "b") is not None

    def test_many_columns(self, bench: Bench) -> None:
        columns = pa.schema([("id", pa.int64()), *((f"c{n}", pa.int32()) for n in range(bench.can.many_columns - 1))])
        row = tuple(range(bench.can.many_columns))
        bench.load(MERGE, [row], columns=columns, primary_key=("id",))
        assert bench.load(MERGE, [row], columns=columns, primary_key=("id",)).table_rows == 1
        assert bench.rows() == [row]

    def test_many_columns_that_did_not_change_are_no_update(self, bench: Bench) -> None:
        columns = pa.schema([("id", pa.int64()), *((f"c{n}", pa.int32()) for n in range(bench.can.many_columns - 1))])
        row = tuple(range(bench.can.many_columns))
        for _ in range(2):
            assert bench.load(MERGE, [row], columns=columns, primary_key=("id",)).updated == 0

    def test_descriptions_become_comments(self, bench: Bench) -> None:
        for mode, text in ((APPEND, "first"), (APPEND, 'it\'s "second"'), (REPLACE, "third")):
            columns = pa.schema([column("id", pa.int64(), description=text), column("plain", pa.int64())])
            bench.load(mode, columns=columns, description=f"table: {text}")
            found = bench.destination.columns(bench.table())
            assert found is not None
            assert [description_of(f) for f in found] == [text, ""]

    # --- other people's tables

    def test_a_table_of_another_stream_is_refused_at_once(self, bench: Bench) -> None:
        bench.load(APPEND, [(1, "a", 1)])
        with pytest.raises(DestinationError, match="binding-orders"):
            bench.destination.begin(bench.plan(REPLACE, binding_id="another"))

    def test_a_table_taken_meanwhile_is_refused_at_commit(self, bench: Bench) -> None:
        with bench.destination.begin(bench.plan(REPLACE, binding_id="slow")) as load:
            bench.load(APPEND, [(1, "a", 1)])
            with pytest.raises(DestinationError, match="binding-orders"):
                load.commit(None)
        assert bench.rows() == [(1, "a", 1)]

    @pytest.mark.parametrize("mode", list(LoadMode))
    def test_a_strangers_table_is_refused_with_its_differences(self, bench: Bench, mode: LoadMode) -> None:
        bench.run_sql(f'CREATE SCHEMA "{bench.schema}"')
        bench.run_sql(f'CREATE TABLE "{bench.schema}"."orders" ("id" BIGINT, "total" INTEGER)')
        bench.run_sql(f'INSERT INTO "{bench.schema}"."orders" VALUES (1, 2)')
        with pytest.raises(DestinationError) as refused:
            bench.destination.begin(bench.plan(mode, primary_key=("id",)))
        for word in ("name", "at", "total", "table"):
            assert word in str(refused.value)
        assert bench.rows() == [(1, 2)]

    def test_a_strangers_table_with_the_same_columns_is_adopted(self, bench: Bench) -> None:
        bench.run_sql(f'CREATE SCHEMA "{bench.schema}"')
        bench.run_sql(f'CREATE TABLE "{bench.schema}"."orders" ("at" BIGINT, "name" VARCHAR, "id" BIGINT)')
        bench.run_sql(f'INSERT INTO "{bench.schema}"."orders" VALUES (1, \'a\', 1)')
        assert bench.load(APPEND, [(2, "b", 2)]).table_rows == 2
        assert bench.rows(columns=["id", "name", "at"]) == [(1, "a", 1), (2, "b", 2)]

    def test_a_view_is_refused(self, bench: Bench) -> None:
        bench.load(APPEND, [(1, "a", 1)], table="base")
        bench.run_sql(f'CREATE VIEW "{bench.schema}"."orders" AS SELECT * FROM "{bench.schema}"."base"')
        with pytest.raises(DestinationError, match="view"):
            bench.destination.begin(bench.plan(REPLACE))

    # --- reading

    def test_reading_takes_columns_and_half_open_ranges(self, bench: Bench) -> None:
        bench.load(APPEND, [(n, f"n{n}", n * 10) for n in range(10)])
        read = bench.destination.read
        assert rows_of(read(bench.table(), ["name", "id"], {"at": (20, 40)}).read_all()) == [("n2", 2), ("n3", 3)]
        assert rows_of(read(bench.table(), ["id"], {"at": (80, None)}).read_all()) == [(8,), (9,)]
        assert rows_of(read(bench.table(), ["id"], {"at": (None, 50), "id": (3, None)}).read_all()) == [(3,), (4,)]
        assert rows_of(read(bench.table(), ["id"], {"name": ("n1", "n3")}).read_all()) == [(1,), (2,)]
        for columns, where in ((["nme"], None), (None, {"nme": (1, 2)})):
            with pytest.raises(NotFoundError, match="name"):
                read(bench.table(), columns, where)

    def test_reading_by_time_is_exact(self, bench: Bench) -> None:
        start = datetime(2026, 1, 1, tzinfo=UTC)
        columns = pa.schema([("n", pa.int64()), ("at", TIMESTAMP_UTC)])
        bench.load(APPEND, [(0, start.replace(year=2025)), (1, start), (2, start.replace(day=2))], columns=columns)
        found = bench.destination.read(bench.table(), ["n"], {"at": (start, start.replace(day=2))})
        assert rows_of(found.read_all()) == [(1,)]

    def test_a_reader_that_nobody_finishes_stands_in_nobodys_way(self, bench: Bench) -> None:
        bench.load(REPLACE, [(1, "a", 1), (2, "b", 2)])
        reader = bench.destination.read(bench.table())
        bench.load(REPLACE, [(3, "c", 3)])
        assert rows_of(reader.read_all()) == [(1, "a", 1), (2, "b", 2)]

    def test_readers_never_see_fewer_rows_while_a_replace_runs(self, bench: Bench) -> None:
        rows = [(n, "x", n) for n in range(2_000)]
        bench.load(REPLACE, rows)
        seen: list[int] = []
        done = threading.Event()

        def watch() -> None:
            while not done.is_set():
                seen.append(bench.destination.count(bench.table()))

        with ThreadPoolExecutor(1) as pool:
            watching = pool.submit(watch)
            for _ in range(4):
                bench.load(REPLACE, rows)
            done.set()
            watching.result()
        assert set(seen) == {2_000}

    # --- several at once, and sudden death

    def test_threads_load_side_by_side(self, bench: Bench) -> None:
        def work(number: int) -> None:
            for turn in range(3):
                bench.load(APPEND, [(turn, "x", turn)], table=f"t{number}")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert [bench.destination.count(bench.table(f"t{n}")) for n in range(4)] == [3, 3, 3, 3]
        assert len(bench.destination.states(bench.schema)) == 4

    def test_processes_load_side_by_side(self, bench: Bench) -> None:
        if not bench.can.processes:
            pytest.skip("one process at a time")
        arguments = [(bench.destination.name, dict(bench.config), bench.schema, f"t{n}") for n in range(2)]
        workers = [process(load_in_process, *a) for a in arguments]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert [w.exitcode for w in workers] == [0, 0]
        assert [bench.destination.count(bench.table(f"t{n}")) for n in range(2)] == [5, 5]

    def test_a_killed_load_leaves_nothing_and_is_cleaned_up(self, bench: Bench, tmp_path: Path) -> None:
        if not bench.can.processes:
            pytest.skip("one process at a time")
        bench.load(APPEND, [(1, "a", 1)], table="killed")
        before = leftovers(tmp_path)
        staged = tmp_path / "staged"
        arguments = (bench.destination.name, dict(bench.config), bench.schema, "killed", str(staged))
        worker = process(stage_and_wait, *arguments)
        worker.start()
        while not staged.exists():
            assert worker.is_alive()
            time.sleep(0.02)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        staged.unlink()
        assert bench.rows("killed") == [(1, "a", 1)]
        bench.load(APPEND, [(2, "b", 2)], table="killed")
        assert bench.rows("killed") == [(1, "a", 1), (2, "b", 2)]
        assert leftovers(tmp_path) == before


def leftovers(folder: Path) -> set[str]:
    """Every file below ``folder``."""
    return {str(p) for p in folder.rglob("*")}


def load_in_process(name: str, config: Mapping[str, Any], schema: str, table: str) -> None:
    """Five small loads; runs in a process of its own."""
    bench = _bench_in_process(name, config, schema)
    for turn in range(5):
        bench.load(APPEND, [(turn, "x", turn)], table=table)


def stage_and_wait(name: str, config: Mapping[str, Any], schema: str, table: str, staged: str) -> None:
    """Stage enough to need files, say so, and wait to be killed."""
    bench = _bench_in_process(name, config, schema)
    with bench.destination.begin(bench.plan(APPEND, table=table)) as load:
        for number in range(12):
            load.stage(batch_of([(number, "x" * 1_000_000, number)] * 2))
        Path(staged).touch()
        time.sleep(60)


def _bench_in_process(name: str, config: Mapping[str, Any], schema: str) -> Bench:
    from elt_dagster.testing._destination_bench import Capabilities

    destination = load_destination(name).configured(config)
    return Bench(
        destination=destination, config=config, schema=schema, can=Capabilities(), run_sql=lambda _: None
    )  # fmt: skip
