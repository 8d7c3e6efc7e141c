"""Reading PostgreSQL: which rows, in which columns, up to which checkpoint; what happens on early ends and errors."""

import gc
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elt_dagster.errors import AuthError, ConfigError, EltError, NotFoundError, SourceError, TransientError
from elt_dagster.model import Batch, Checkpoint, ReadRequest, SyncMode, Window
from elt_dagster.registry import load_connector
from tests import servers
from tests.integration.postgres_source import PostgresSource, counted

MODULE = sys.modules[load_connector("postgres").__module__]
DAY = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def source(postgres_database: str) -> Iterator[PostgresSource]:
    source = PostgresSource(postgres_database)
    yield source
    source.close()


@pytest.fixture(scope="module")
def shared(postgres_server: str) -> Iterator[PostgresSource]:
    """One database for tests that leave it as it was."""
    with servers.database() as url:
        source = PostgresSource(url)
        source.run("""
            CREATE TABLE events (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, updated_at timestamptz, day date,
                                 local timestamp, code text, amount numeric(10,2), flag bool);
            INSERT INTO events (updated_at, day, local, code, amount, flag)
            SELECT '2024-01-01 00:00+00'::timestamptz + n * interval '1 hour', date '2024-01-01' + n / 24,
                   timestamp '2024-01-01' + n * interval '1 hour', chr(64 + n % 60), n / 4.0, true
            FROM generate_series(0, 99) n;
            INSERT INTO events (code) VALUES ('none'), ('none');
        """)
        yield source
        source.close()


def incremental(source: PostgresSource, cursor: str, **changes: Any) -> list[Batch]:
    return source.batches("public.events", mode=SyncMode.INCREMENTAL, cursor_field=cursor, **changes)


def ids(batches: list[Batch]) -> set[int]:
    return {v for b in batches for v in b.data.column("id").to_pylist()}


def eventually(claim: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not (held := claim()) and time.monotonic() < end:
        time.sleep(0.02)
    return held


# --- catalog -----------------------------------------------------------------------------------------------------------


def test_the_catalog_lists_what_can_be_read(source: PostgresSource) -> None:
    source.run("""
        CREATE SCHEMA other; CREATE TABLE other.t (b int, a int, v text, PRIMARY KEY (a, b));
        CREATE TABLE parted (id int, at timestamptz) PARTITION BY RANGE (id);
        CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
        INSERT INTO parted VALUES (5, now());
        CREATE VIEW seen AS SELECT 1 AS one; CREATE MATERIALIZED VIEW kept AS SELECT 2 AS two;
        CREATE TABLE uniq (n int, code text NOT NULL, lax int UNIQUE, UNIQUE (code));
        CREATE TABLE generated (a int, b int GENERATED ALWAYS AS (a * 2) STORED, gone int);
        ALTER TABLE generated DROP COLUMN gone; INSERT INTO generated VALUES (21);
        COMMENT ON TABLE uniq IS 'Codes'; COMMENT ON COLUMN uniq.code IS 'What it says';
    """)
    catalog = source.connector().discover()
    assert [s.name for s in catalog] == [
        "other.t", "public.generated", "public.kept", "public.parted", "public.seen", "public.uniq",
    ]  # fmt: skip
    assert catalog["other.t"].primary_key == ("a", "b")
    assert catalog["public.uniq"].primary_key == ("code",)
    assert catalog["public.uniq"].description == "Codes"
    schema = catalog["public.uniq"].schema
    assert schema is not None
    assert schema.field("code").metadata == {b"description": b"What it says"}
    assert not schema.field("code").nullable
    assert source.table("public.generated").to_pylist() == [{"a": 21, "b": 42}]
    assert source.table("public.parted").column("id").to_pylist() == [5]
    assert source.table("public.kept").to_pylist() == [{"two": 2}]
    assert source.table("public.seen").to_pylist() == [{"one": 1}]
    only = source.connector(schemas=["public"], include_views=False).discover()
    assert [s.name for s in only] == ["public.generated", "public.parted", "public.uniq"]
    assert source.connector().discover() == catalog


@pytest.mark.parametrize(
    ("columns", "best"),
    [
        ("id serial PRIMARY KEY, created_at timestamptz, updated_at timestamptz", "updated_at"),
        ('id int, "lastModified" timestamp, created date', "lastModified"),
        ("id int, inserted_on date, born date", "inserted_on"),
        ("id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, born date", "id"),
        ("id int PRIMARY KEY, born date", None),
        ("updated_at text, id int", None),
    ],
)
def test_the_best_cursor_is_what_changes_with_every_write(
    source: PostgresSource, columns: str, best: str | None
) -> None:
    source.run(f"CREATE TABLE t ({columns})")
    assert source.connector().discover()["public.t"].cursor_field == best


def test_only_columns_that_compare_alike_here_and_there_are_cursors(source: PostgresSource) -> None:
    source.run("""CREATE TYPE mood AS ENUM ('b', 'a');
        CREATE TABLE t (i int, n numeric, d numeric(5,1), m mood, ip inet, t text, u uuid, j json, b bool, c char(3), ts timestamp)""")
    assert source.connector().discover()["public.t"].cursor_fields == ("i", "d", "t", "ts")


def test_odd_identifiers(source: PostgresSource) -> None:
    table, key = '"a.b"."T $1 ""x"""', '"$1 ""Q"""'
    source.run(f'CREATE SCHEMA "a.b"; CREATE TABLE {table} ({key} int PRIMARY KEY, "{{}}" text, "sélect" int)')
    source.run(f"INSERT INTO {table} VALUES (1, 'x', 3), (2, 'y', 4)")
    name = 'a.b.T $1 "x"'
    batches = source.batches(name, cursor_field='$1 "Q"', mode=SyncMode.INCREMENTAL, since=Checkpoint(2))
    assert batches[0].data.to_pylist() == [{'$1 "Q"': 2, "{}": "y", "sélect": 4}]


def test_names_that_meet_at_a_dot_are_told_apart(source: PostgresSource) -> None:
    source.run("""CREATE SCHEMA a; CREATE SCHEMA "a.b"; CREATE TABLE a."b.c" (x int); CREATE TABLE "a.b".c (y int);
        INSERT INTO a."b.c" VALUES (1); INSERT INTO "a.b".c VALUES (2)""")
    connector = source.connector()
    read = [b.data.to_pylist() for s in connector.discover() for b in connector.read(ReadRequest(stream=s))]
    assert read == [[{"x": 1}], [{"y": 2}]]


# --- which rows and columns --------------------------------------------------------------------------------------------


def test_an_empty_table_gives_no_batch(source: PostgresSource) -> None:
    source.run("CREATE TABLE t (id int)")
    assert source.batches("public.t", cursor_field="id", mode=SyncMode.INCREMENTAL) == []


def test_columns_that_were_not_asked_for_are_not_computed(source: PostgresSource) -> None:
    source.run("CREATE VIEW v AS SELECT n AS id, 1 / (n - n) AS boom FROM generate_series(1, 3) n")
    assert source.table("public.v", columns=("id",)).to_pylist() == [{"id": 1}, {"id": 2}, {"id": 3}]
    with pytest.raises(SourceError):
        source.table("public.v")


def test_columns_come_in_the_order_asked_for(shared: PostgresSource) -> None:
    assert shared.table("public.events", columns=("code", "id")).schema.names == ["code", "id"]


def test_the_cursor_is_followed_even_when_it_is_not_wanted(shared: PostgresSource) -> None:
    batches = incremental(shared, "day", columns=("id",))
    assert batches[-1].data.schema.names == ["id"]
    assert batches[-1].checkpoint == Checkpoint(date(2024, 1, 5))


@pytest.mark.parametrize(
    ("cursor", "last", "middle", "expected"),
    [
        ("id", 102, 100, 3),
        ("updated_at", DAY + timedelta(hours=99), DAY + timedelta(hours=90), 10),
        ("day", date(2024, 1, 5), date(2024, 1, 5), 4),
        ("local", datetime(2024, 1, 5, 3), datetime(2024, 1, 5), 4),
        ("amount", Decimal("24.75"), Decimal("24.00"), 4),
        ("code", "{", "v", 6),
    ],
)
def test_reading_on_is_inclusive_for_every_kind_of_cursor(
    shared: PostgresSource, cursor: str, last: Any, middle: Any, expected: int
) -> None:
    full = incremental(shared, cursor)
    assert full[-1].checkpoint == Checkpoint(last)
    assert len(ids(full)) == 102
    assert len(ids(incremental(shared, cursor, since=Checkpoint(middle)))) == expected


def test_rows_without_a_cursor_are_read_on_full_reads_and_counted(shared: PostgresSource) -> None:
    full = incremental(shared, "updated_at")
    assert counted(full, "null_cursor_rows") == 2
    assert {101, 102} <= ids(full)
    later = incremental(shared, "updated_at", since=Checkpoint(DAY))
    assert counted(later, "null_cursor_rows") == 0
    assert len(ids(later)) == 100


def test_a_whole_read_tells_how_many_rows_the_server_thinks_there_are(source: PostgresSource) -> None:
    source.run("CREATE TABLE things AS SELECT n AS id FROM generate_series(1, 50) n")
    read = {"mode": SyncMode.INCREMENTAL, "cursor_field": "id"}
    assert counted(source.batches("public.things", **read), "estimated_rows") == 0, "it has not looked yet"
    source.run("ANALYZE things")
    source.run("INSERT INTO things VALUES (51)")
    whole = source.batches("public.things", batch_bytes=100, **read)
    assert len(whole) > 1
    assert [batch.counts.get("estimated_rows") for batch in whole] == [50] + [None] * (len(whole) - 1)
    assert counted(source.batches("public.things", since=Checkpoint(40), **read), "estimated_rows") == 0


def test_lookback_reads_again(shared: PostgresSource) -> None:
    since = Checkpoint(DAY + timedelta(hours=99))
    assert len(ids(incremental(shared, "updated_at", since=since, lookback_seconds=3 * 3600))) == 4
    assert len(ids(incremental(shared, "day", since=Checkpoint(date(2024, 1, 5)), lookback_seconds=1))) == 28
    with pytest.raises(ConfigError, match="cursor_overlap"):
        incremental(shared, "id", since=Checkpoint(5), lookback_seconds=1)
    assert len(ids(incremental(shared, "id", since=Checkpoint(100), settings={"cursor_overlap": 10}))) == 13


def test_a_read_that_finds_nothing_new_keeps_the_checkpoint(shared: PostgresSource) -> None:
    assert incremental(shared, "updated_at", since=Checkpoint(DAY + timedelta(days=30))) == []


@pytest.mark.parametrize("cursor", ["updated_at", "local", "day"])
def test_a_window_is_half_open_and_leaves_no_checkpoint(shared: PostgresSource, cursor: str) -> None:
    batches = incremental(shared, cursor, window=Window(DAY + timedelta(days=1), DAY + timedelta(days=2)))
    assert ids(batches) == set(range(25, 49))
    assert [b.checkpoint for b in batches] == [None]


def test_text_compares_by_code_point(source: PostgresSource) -> None:
    source.run("""CREATE TABLE t (k text COLLATE "und-x-icu"); INSERT INTO t VALUES ('a'), ('B'), ('ä'), ('Z')""")
    batches = source.batches("public.t", cursor_field="k", mode=SyncMode.INCREMENTAL, since=Checkpoint("Z"))
    assert sorted(batches[0].data.column("k").to_pylist()) == ["Z", "a", "ä"]
    quoting = Checkpoint("'; DROP TABLE t; -- \\")
    assert source.batches("public.t", cursor_field="k", mode=SyncMode.INCREMENTAL, since=quoting)
    assert source.fetch("SELECT count(*) FROM t") == [(4,)]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.lists(st.none() | st.integers(0, 9), min_size=4, max_size=12),
    stop=st.integers(1, 6),
    ordered=st.booleans(),
)
def test_a_read_broken_anywhere_and_resumed_misses_nothing(
    shared: PostgresSource, keys: list[int | None], stop: int, ordered: bool
) -> None:
    shared.run("DROP TABLE IF EXISTS ties; CREATE TABLE ties (id int, k int)")
    shared.run("INSERT INTO ties SELECT * FROM unnest(%s, %s::int[])", list(range(len(keys))), keys)
    request = shared.request(
        "public.ties", mode=SyncMode.INCREMENTAL, cursor_field="k", batch_bytes=16, settings={"ordered": ordered}
    )
    stored: set[int] = set()
    pending: set[int] = set()
    saved: Checkpoint | None = None
    for number, batch in enumerate(shared.connector().read(request)):
        if number == stop:
            break
        pending |= ids([batch])
        if batch.checkpoint is not None:
            saved, stored, pending = batch.checkpoint, stored | pending, set()
    gc.collect()
    stored |= ids(list(shared.connector().read(replace(request, since=saved))))
    assert stored == set(range(len(keys)))


def test_an_unordered_read_saves_nothing_before_its_end(source: PostgresSource) -> None:
    source.run("CREATE TABLE t AS SELECT n AS id, 1000 - n AS k FROM generate_series(1, 999) n")
    batches = source.batches("public.t", mode=SyncMode.INCREMENTAL, cursor_field="k", batch_bytes=1000)
    assert len(batches) > 5
    assert [b.checkpoint for b in batches] == [None] * (len(batches) - 1) + [Checkpoint(999)]


def test_rows_without_a_cursor_are_out_before_the_first_checkpoint(source: PostgresSource) -> None:
    source.run("CREATE TABLE t AS SELECT n AS id, CASE WHEN n % 3 > 0 THEN n END AS k FROM generate_series(1, 999) n")
    batches = source.batches(
        "public.t", mode=SyncMode.INCREMENTAL, cursor_field="k", batch_bytes=1000, settings={"ordered": True}
    )
    first = next(i for i, b in enumerate(batches) if b.checkpoint is not None)
    assert first < len(batches) - 1
    assert sum(b.data.column("k").null_count for b in batches[: first + 1]) == 333


def test_an_ordered_read_gives_a_checkpoint_with_every_batch(shared: PostgresSource) -> None:
    batches = incremental(shared, "id", settings={"ordered": True}, batch_bytes=500)
    assert len(batches) > 5
    assert all(b.checkpoint == Checkpoint(max(b.data.column("id").to_pylist())) for b in batches)


# --- late commits ------------------------------------------------------------------------------------------------------

STAMPED = "CREATE TABLE stamped (id int, updated_at {} DEFAULT now())"


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date"])
def test_a_row_that_commits_late_is_found_by_the_next_read(source: PostgresSource, kind: str) -> None:
    source.run(STAMPED.format(kind))
    follow = {"mode": SyncMode.INCREMENTAL, "cursor_field": "updated_at"}
    with source.transaction() as slow:
        slow.execute("INSERT INTO stamped VALUES (1)")
        source.run("INSERT INTO stamped VALUES (2)")
        first = source.batches("public.stamped", **follow)
        assert ids(first) == {2}
    second = source.batches("public.stamped", since=first[-1].checkpoint, **follow)
    assert 1 in ids(second)
    newest = source.fetch("SELECT max(updated_at) FROM stamped")[0][0]
    if kind == "timestamptz":  # the others wait until the server's zone and UTC have both passed the row
        time.sleep(0.15)
        third = source.batches("public.stamped", since=second[-1].checkpoint, **follow)
        assert third[-1].checkpoint == Checkpoint(newest)


def test_a_late_row_stamped_in_another_zone_than_the_servers_is_found(source: PostgresSource) -> None:
    source.run(STAMPED.format("timestamp"))
    source.run("SET TimeZone = 'UTC'")
    follow = {"mode": SyncMode.INCREMENTAL, "cursor_field": "updated_at"}
    with source.transaction() as slow:
        slow.execute("SET TimeZone = 'UTC'; INSERT INTO stamped VALUES (1)")
        source.run("INSERT INTO stamped VALUES (2)")
        first = source.batches("public.stamped", **follow)
    assert 1 in ids(source.batches("public.stamped", since=first[-1].checkpoint, **follow))


def test_a_transaction_that_has_not_written_yet_holds_the_checkpoint_back(source: PostgresSource) -> None:
    source.run(STAMPED.format("timestamptz"))
    with source.transaction() as slow:
        slow.execute("SELECT now()")
        ((began,),) = slow.fetchall()
        source.run("INSERT INTO stamped VALUES (2)")
        batches = source.batches("public.stamped", mode=SyncMode.INCREMENTAL, cursor_field="updated_at")
    assert batches[-1].checkpoint is not None
    assert batches[-1].checkpoint.cursor <= began


def test_a_checkpoint_never_moves_backwards(source: PostgresSource) -> None:
    source.run(STAMPED.format("timestamptz"))
    ahead = datetime.now(UTC) + timedelta(days=1)
    source.run("INSERT INTO stamped VALUES (1, %s)", ahead + timedelta(days=1))
    follow = {"mode": SyncMode.INCREMENTAL, "cursor_field": "updated_at"}
    assert source.batches("public.stamped", since=Checkpoint(ahead), **follow)[-1].checkpoint == Checkpoint(ahead)


def test_a_role_that_cannot_see_transactions_is_told(source: PostgresSource, caplog: pytest.LogCaptureFixture) -> None:
    source.run(STAMPED.format("timestamptz"))
    source.run("INSERT INTO stamped VALUES (1)")
    with reader(source) as config:
        source.run(f"GRANT SELECT ON stamped TO {config['user']}")
        connector = source.connector(**config)
        assert "pg_read_all_stats" in connector.check().message
        request = source.request("public.stamped", mode=SyncMode.INCREMENTAL, cursor_field="updated_at")
        with caplog.at_level(logging.WARNING, "elt_dagster"):
            (batch,) = connector.read(request)
        assert "lookback_seconds" in caplog.text
        assert batch.checkpoint is not None
        source.run(f"GRANT pg_read_all_stats TO {config['user']}")
        assert "pg_read_all_stats" not in connector.check().message


# --- errors ------------------------------------------------------------------------------------------------------------


@contextmanager
def reader(source: PostgresSource) -> Iterator[dict[str, str]]:
    """A role of its own with a password, gone afterwards; gives the settings to connect as it."""
    role = f"reader_{secrets.token_hex(4)}"  # roles belong to the server, which other tests use too
    source.run(f"CREATE ROLE {role} LOGIN PASSWORD 'limited'")
    try:
        yield {"user": role, "password": "limited"}
    finally:
        source.run(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_check_says_what_was_reached(shared: PostgresSource) -> None:
    result = shared.connector().check()
    assert result.ok
    assert "PostgreSQL 1" in result.message
    assert "readable table" in result.message


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"password": "wrong-SECRET"}, AuthError),
        ({"user": "nobody_here"}, AuthError),
        ({"database": "no_such_database"}, ConfigError),
        ({"port": 1}, TransientError),
        ({"host": "no-such-host.invalid"}, TransientError),
        ({"sslmode": "verify-full", "sslrootcert": "/no/such/file.pem"}, ConfigError),
    ],
)
def test_a_refusal_is_sorted_and_keeps_the_secret(
    shared: PostgresSource, changes: dict[str, Any], kind: type[EltError]
) -> None:
    connector = shared.connector(**changes)
    with pytest.raises(kind) as caught:
        connector.discover()
    assert type(caught.value) is kind
    assert not connector.check().ok
    secret = changes.get("password", servers.PASSWORD)
    assert secret not in str(caught.value) + connector.check().message + repr(connector.config)


def test_tls_is_used_and_the_server_proven(shared: PostgresSource, tmp_path: Path) -> None:
    if servers.URL_VARIABLE in os.environ:
        pytest.skip("The server in use is not ours; its certificate is unknown.")
    ((own,),) = shared.fetch("SELECT current_setting('ssl_cert_file')")
    trusted, other = tmp_path / "trusted.crt", tmp_path / "other"
    trusted.write_text(Path(own).read_text())
    other.mkdir()
    servers.certificate(other)

    def answer(**changes: Any) -> str:
        return shared.connector(**changes).check().message

    assert answer(sslmode="require").startswith("Connected")
    assert answer(sslmode="verify-ca", sslrootcert=str(trusted)).startswith("Connected")
    assert answer(sslmode="verify-full", sslrootcert=str(trusted), host="localhost").startswith("Connected")
    # the certificate is for localhost only, and the other one was never the server's
    assert "certificate" in answer(sslmode="verify-full", sslrootcert=str(trusted))
    assert "certificate" in answer(sslmode="verify-ca", sslrootcert=str(other / servers.CERTIFICATE))


def test_a_server_without_tls_is_refused_when_tls_is_asked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def refuse() -> None:
            connection, _ = plain.accept()
            with connection:
                connection.recv(8)
                connection.sendall(b"N")
                connection.recv(8)

        thread = threading.Thread(target=refuse)
        thread.start()
        config = {
            "host": "127.0.0.1",
            "port": plain.getsockname()[1],
            "database": "d",
            "user": "u",
            "sslmode": "require",
        }
        result = load_connector("postgres").configured(config).check()
        thread.join()
    assert (result.ok, "offers no TLS" in result.message) == (False, True)


def test_a_column_or_table_that_is_not_there(shared: PostgresSource) -> None:
    with pytest.raises(NotFoundError, match="Did you mean 'updated_at'"):
        incremental(shared, "update_at")
    with pytest.raises(ConfigError, match="No column"):
        shared.batches("public.events", columns=())
    with pytest.raises(NotFoundError, match="amount"):
        shared.batches("public.events", columns=("amounts",))
    with pytest.raises(ConfigError, match="cannot be a cursor"):
        incremental(shared, "flag")
    with pytest.raises(ConfigError, match="full refresh"):
        incremental(shared, "updated_at", since=Checkpoint(5))
    with pytest.raises(ConfigError, match="point in time"):
        incremental(shared, "id", window=Window(DAY, DAY))
    with pytest.raises(ConfigError, match="cdc"):
        shared.batches("public.events", mode=SyncMode.CDC)
    with pytest.raises(ConfigError, match="Did you mean 'parallel_reads'"):
        shared.batches("public.events", settings={"paralel_reads": 2})


def test_a_table_dropped_since_discovery(source: PostgresSource) -> None:
    source.run("CREATE TABLE t (id int)")
    request = source.request("public.t")
    source.run("DROP TABLE t")
    with pytest.raises(NotFoundError, match=r"public\.t"):
        list(source.connector().read(request))


def test_a_column_added_since_discovery_is_read(source: PostgresSource) -> None:
    source.run("CREATE TABLE t (id int)")
    request = source.request("public.t")
    source.run("ALTER TABLE t ADD COLUMN more text DEFAULT 'x'; INSERT INTO t VALUES (1)")
    (batch,) = source.connector().read(request)
    assert batch.data.to_pylist() == [{"id": 1, "more": "x"}]


def test_a_role_sees_only_what_it_may_read(source: PostgresSource) -> None:
    source.run(
        "CREATE TABLE open (id int, secret text); CREATE TABLE closed (id int); INSERT INTO open VALUES (1, 's')"
    )
    with reader(source) as config:
        source.run(f"GRANT SELECT (id) ON open TO {config['user']}")
        connector = source.connector(**config)
        (stream,) = connector.discover()
        assert (stream.name, stream.schema.names if stream.schema else None) == ("public.open", ["id"])
        with pytest.raises(NotFoundError):
            list(connector.read(source.request("public.open", columns=("secret",))))


def test_row_level_security_is_announced(source: PostgresSource) -> None:
    source.run("CREATE TABLE t (id int); ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    with reader(source) as config:
        source.run(f"GRANT SELECT ON t TO {config['user']}")
        assert "Row-level security" in source.connector(**config).discover()["public.t"].description
    assert source.connector().discover()["public.t"].description == ""


# --- large tables, early ends ------------------------------------------------------------------------------------------

SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'elt%%'"
BIG = "CREATE TABLE big AS SELECT n AS id, repeat(md5(n::text), {}) AS filler FROM generate_series(1, {}) n"


def sessions(source: PostgresSource) -> int:
    return int(source.fetch(SESSIONS)[0][0])


def pump_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("copy-")]


def test_closing_early_ends_query_session_and_thread(source: PostgresSource) -> None:
    source.run(BIG.format(30, 50_000))
    batches = source.connector().read(source.request("public.big", batch_bytes=1 << 20))
    next(batches)
    assert sessions(source) == 1
    batches.close()  # type: ignore[attr-defined]
    assert eventually(lambda: sessions(source) == 0)
    assert pump_threads() == []


def test_an_abandoned_read_leaves_nothing_behind(source: PostgresSource) -> None:
    source.run(BIG.format(30, 50_000))
    batches = source.connector().read(source.request("public.big", batch_bytes=1 << 20))
    cycle: list[Any] = [batches]
    cycle.append(cycle)
    next(batches)
    time.sleep(0.2)  # until the queue is full and no socket is read
    del batches, cycle
    gc.collect()
    assert pump_threads() == []
    assert eventually(lambda: sessions(source) == 0)


def test_a_query_that_has_not_answered_yet_is_cancelled(source: PostgresSource) -> None:
    source.run("CREATE VIEW slow AS SELECT pg_sleep(60)::text AS s")
    connector = source.connector(statement_timeout_seconds=1)
    with pytest.raises(TransientError, match="statement_timeout"):
        list(connector.read(source.request("public.slow")))
    assert eventually(lambda: sessions(source) == 0)


def test_a_killed_session_is_worth_another_try(source: PostgresSource) -> None:
    source.run(BIG.format(30, 100_000))
    batches = source.connector().read(source.request("public.big", batch_bytes=1 << 20))
    next(batches)
    source.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'elt%%'"
    )
    with pytest.raises(TransientError):
        list(batches)
    assert pump_threads() == []


def test_a_slow_reader_stops_the_server(source: PostgresSource) -> None:
    source.run(BIG.format(30, 200_000))  # about 190 MB of text
    batches = source.connector().read(source.request("public.big", batch_bytes=1 << 20))
    next(batches)
    sent = "SELECT sum(bytes_processed) FROM pg_stat_progress_copy WHERE datname = current_database()"
    time.sleep(0.3)
    ((before,),) = source.fetch(sent)
    time.sleep(0.3)
    assert source.fetch(sent) == [(before,)]
    assert before < 40 << 20
    batches.close()  # type: ignore[attr-defined]


def test_memory_stays_bounded_however_many_rows(source: PostgresSource) -> None:
    source.run(BIG.format(1, 1_000_000))
    pa.default_memory_pool().release_unused()
    start, peak, rows = pa.total_allocated_bytes(), 0, 0
    for batch in source.connector().read(source.request("public.big", batch_bytes=8 << 20)):
        rows += batch.data.num_rows
        peak = max(peak, pa.total_allocated_bytes() - start)
        assert batch.data.nbytes <= 9 << 20
    assert rows == 1_000_000
    assert peak < 48 << 20


def test_connections_that_share_a_read_share_its_snapshot(
    source: PostgresSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.run(BIG.format(1, 100_000))
    share = MODULE.CopyConnections.share

    def share_late(connections: Any, count: int) -> int:
        source.run(
            "INSERT INTO big SELECT n, 'later' FROM generate_series(100001, 200000) n; DELETE FROM big WHERE id % 3 = 0"
        )
        return int(share(connections, count))

    monkeypatch.setattr(MODULE, "PARALLEL_FROM_BYTES", 1)
    monkeypatch.setattr(MODULE.CopyConnections, "share", share_late)
    request = source.request("public.big", batch_bytes=1 << 17, settings={"parallel_reads": 3})
    batches = source.connector().read(request)
    read = [next(batches)]
    assert sessions(source) == 3
    read += batches
    found = sorted(v for b in read for v in b.data.column("id").to_pylist())
    assert found == list(range(1, 100_001))


def test_without_room_for_more_connections_one_reads_all(
    source: PostgresSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "PARALLEL_FROM_BYTES", 1)
    source.run(BIG.format(1, 1000))
    with reader(source) as config:
        source.run(f"GRANT SELECT ON big TO {config['user']}; ALTER ROLE {config['user']} CONNECTION LIMIT 1")
        request = source.request("public.big", settings={"parallel_reads": 2})
        assert sum(b.data.num_rows for b in source.connector(**config).read(request)) == 1000


def test_making_a_connector_and_a_read_costs_nothing(shared: PostgresSource) -> None:
    request = shared.request("public.events")
    shared.connector(host="no-such-host.invalid").read(request)
    assert pump_threads() == []
