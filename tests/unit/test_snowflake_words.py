"""What Snowflake says to us and we to it: types, settings, errors. No server is asked."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from snowflake.connector import errors

from elt_dagster.destinations import _snowflake_session
from elt_dagster.destinations._snowflake_check import answer
from elt_dagster.destinations._snowflake_errors import explained
from elt_dagster.destinations._snowflake_session import Session
from elt_dagster.destinations._snowflake_settings import SnowflakeConfig
from elt_dagster.destinations._snowflake_stage import Staging
from elt_dagster.destinations._snowflake_types import (
    DIALECT,
    bound_text,
    canonical_type,
    grows_in_place,
    literal,
    representable,
    text_limit,
)
from elt_dagster.destinations.snowflake import Snowflake
from elt_dagster.errors import AuthError, ConfigError, DestinationError, EltError, TransientError
from elt_dagster.model.types import JSON, UUID, parse_type

SETTINGS: dict[str, Any] = {
    "account": "acme-main",
    "database": "RAW",
    "user": "loader",
    "password": "SECRET",
    "role": "LOADER",
}
PLAIN = ("bool", "int8", "int16", "int32", "int64", "double", "string", "json", "binary", "date", "time", "timestamp",
         "timestamp_utc", "timestamp_ns", "timestamp_ns_utc", "decimal(38,0)", "decimal(38,9)", "decimal(4,0)", "decimal(5,2)")  # fmt: skip


# --- types


@pytest.mark.parametrize("name", PLAIN)
def test_a_column_that_we_make_has_the_type_that_we_meant(name: str) -> None:
    kind = parse_type(name)
    assert representable(kind) == kind
    assert canonical_type(DIALECT.column_type(kind)) == kind


@pytest.mark.parametrize("precision", [3, 5, 10, 19])
def test_a_decimal_is_never_taken_for_an_integer(precision: int) -> None:
    kind = representable(pa.decimal128(precision, 0))
    assert pa.types.is_decimal(canonical_type(DIALECT.column_type(kind)))


@pytest.mark.parametrize(
    ("kind", "becomes"),
    [
        (pa.uint8(), pa.int16()), (pa.uint64(), pa.decimal128(20, 0)), (pa.float32(), pa.float64()), (UUID, pa.string()),
        (pa.month_day_nano_interval(), pa.string()), (pa.list_(pa.int64()), JSON),
    ],
)  # fmt: skip
def test_what_snowflake_lacks_becomes_the_next_larger_type(kind: pa.DataType, becomes: pa.DataType) -> None:
    assert representable(kind) == becomes


@pytest.mark.parametrize(
    ("before", "after", "grows"),
    [
        ("NUMBER(5,0)", "int32", True), ("NUMBER(5,0)", "int64", True), ("NUMBER(10,0)", "decimal(20,0)", True),
        ("NUMBER(10,2)", "decimal(12,2)", True), ("NUMBER(10,0)", "decimal(12,2)", False), ("NUMBER(10,0)", "double", False),
        ("NUMBER(10,0)", "string", False), ("VARCHAR(10)", "string", True), ("VARCHAR(16777216)", "json", False),
        ("TIMESTAMP_NTZ(6)", "timestamp_ns", False), ("DATE", "timestamp", False), ("FLOAT", "string", False),
    ],
)  # fmt: skip
def test_only_digits_and_characters_can_be_added_in_place(before: str, after: str, grows: bool) -> None:
    assert grows_in_place(before, parse_type(after)) is grows


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NUMBER(38,0)", "decimal(38,0)"), ("TIMESTAMP_LTZ(9)", "timestamp_ns_utc"), ("TIMESTAMP_LTZ(3)", "timestamp_utc"),
        ("OBJECT", "json"), ("ARRAY", "json"), ("GEOGRAPHY", "string"), ("VARCHAR(10)", "string"), ("TIME(9)", "time"),
    ],
)  # fmt: skip
def test_the_types_of_other_peoples_tables_are_known(name: str, kind: str) -> None:
    assert canonical_type(name) == parse_type(kind)


def test_only_a_column_of_its_own_length_has_a_limit() -> None:
    assert [text_limit(n) for n in ("VARCHAR(10)", "VARCHAR(16777216)", "VARCHAR(134217728)", "NUMBER(5,0)")] == [
        10, None, None, None
    ]  # fmt: skip


def test_a_backslash_in_a_literal_stays_one() -> None:
    assert literal("it's a \\n") == "'it''s a \\\\n'"


def test_a_bound_is_text_that_casts_to_the_column() -> None:
    noon = datetime(2026, 7, 1, 14, tzinfo=timezone(timedelta(hours=2)))
    assert bound_text(noon, pa.timestamp("us")) == "2026-07-01T12:00:00+00:00"
    assert bound_text(noon, pa.date32()) == "2026-07-01"
    assert bound_text(date(2026, 7, 1), pa.date32()) == "2026-07-01"
    assert bound_text(20, pa.int64()) == "20"


# --- settings


def key_pair(passphrase: str | None = None) -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    sealed = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed).decode()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"password": None}, "needs one of"),
        ({"access_token": "SECRET"}, "not password and access_token"),
        ({"user": None}, "needs user"),
        ({"password": None, "private_key": "SECRET"}, "PEM"),
        ({"password": None, "oauth_client_id": "me"}, "oauth_token_url"),
        ({"passwort": "SECRET"}, "password"),
    ],
)
def test_a_wrong_login_is_told_without_the_secret(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word) as error:
        Snowflake.configured({**SETTINGS, **change})
    assert "SECRET" not in str(error.value)


def test_each_way_to_log_in_becomes_the_drivers() -> None:
    def options(**login: Any) -> dict[str, Any]:
        return _snowflake_session._options(SnowflakeConfig.model_validate({**SETTINGS, "password": None, **login}))

    assert options(password="p")["password"] == "p"
    assert options(access_token="t")["authenticator"] == "PROGRAMMATIC_ACCESS_TOKEN"
    assert options(oauth_token="t", user=None)["authenticator"] == "OAUTH"
    flow = options(oauth_client_id="i", oauth_client_secret="s", oauth_token_url="https://idp.example/token", user=None)
    assert (flow["authenticator"], flow["oauth_token_request_url"]) == (
        "OAUTH_CLIENT_CREDENTIALS",
        "https://idp.example/token",
    )
    assert options(private_key=key_pair())["authenticator"] == "SNOWFLAKE_JWT"
    assert isinstance(options(private_key=key_pair("pass"), private_key_passphrase="pass")["private_key"], bytes)


@pytest.mark.parametrize("passphrase", [None, "wrong"])
def test_a_key_that_cannot_be_opened_is_told_without_a_word_of_it(passphrase: str | None) -> None:
    pem = key_pair("right")
    config = SnowflakeConfig.model_validate(
        {**SETTINGS, "password": None, "private_key": pem, "private_key_passphrase": passphrase}
    )
    with pytest.raises(ConfigError, match="passphrase") as error:
        Session(config)
    assert pem.splitlines()[1] not in str(error.value)
    assert error.value.__cause__ is None


def test_no_setting_shows_its_secret() -> None:
    config = SnowflakeConfig.model_validate({**SETTINGS, "password": "SECRET"})
    assert "SECRET" not in repr(config)


# --- errors


def told(
    number: int, text: str = "SECRET row", *, kind: type[errors.Error] = errors.ProgrammingError, **more: Any
) -> EltError:
    error = kind(msg=text, errno=number, sqlstate="XXXXX")
    found = explained(error, "loading raw.orders", SnowflakeConfig.model_validate({**SETTINGS, **more}))
    assert isinstance(found, EltError)
    assert "SECRET" not in str(found)
    assert "raw.orders" in str(found)
    assert found.fix
    return found


@pytest.mark.parametrize(
    ("number", "text", "kind", "words"),
    [
        (390100, "Incorrect username or password was specified: SECRET", AuthError, ("password",)),
        (390144, "JWT token is invalid. [SECRET]", AuthError, ("RSA_PUBLIC_KEY",)),
        (390318, "OAuth access token expired SECRET", AuthError, ("expired",)),
        (390189, "Role 'LOADER' specified in the connect string does not exist", ConfigError, ("GRANT ROLE", '"LOADER"', "loader")),
        (390201, "The requested database does not exist", ConfigError, ("GRANT USAGE ON DATABASE", "RAW")),
        (606, "No active warehouse selected in the current session.", ConfigError, ("warehouse",)),
        (90073, "Warehouse 'W' cannot be resumed because resource monitor 'M' has exceeded its quota.", DestinationError, ("quota",)),
        (625, "Statement 'x' has locked table 'SECRET' in transaction 1", TransientError, ("lock_timeout_seconds",)),
        (630, "Statement reached its statement or warehouse timeout of 5 second(s)", TransientError, ("timeout",)),
        (100038, "Numeric value 'SECRET' is not recognized", DestinationError, ("does not fit",)),
        (100078, "String 'SECRET' is too long and would be truncated", DestinationError, ("does not fit",)),
        (1003, "SQL compilation error: syntax error line 1 at position 7 unexpected 'SECRET'", DestinationError, ("001003",)),
        (2003, "SQL compilation error:\nObject 'RAW.\"s\".\"t\"' does not exist or not authorized.", DestinationError, ('"t"', "USAGE")),
        (3001, "SQL access control error:\nInsufficient privileges to operate on schema 'RAW'", AuthError, ("CREATE TABLE, CREATE STAGE ON SCHEMA RAW", '"LOADER"')),
        (3001, "SQL access control error:\nInsufficient privileges to operate on table 'ORDERS'", AuthError, ("ON TABLE ORDERS", "OWNERSHIP")),
        (290503, "HTTP 503: Service Unavailable", TransientError, ("reached",)),
        (250001, "Could not connect to Snowflake backend after 2 attempt(s).", TransientError, ("reached",)),
    ],
)  # fmt: skip
def test_every_refusal_says_who_has_to_act(
    number: int, text: str, kind: type[EltError], words: tuple[str, ...]
) -> None:
    found = told(number, text)
    assert type(found) is kind
    for word in words:
        assert word in str(found)


def test_a_warehouse_that_is_set_but_not_granted_is_told_with_the_grant() -> None:
    assert 'GRANT USAGE, OPERATE ON WAREHOUSE LOADING TO ROLE "LOADER"' in str(told(606, warehouse="LOADING"))


def test_a_lost_network_is_transient_and_a_bug_of_ours_stays_itself() -> None:
    assert isinstance(told(0, kind=errors.OperationalError), TransientError)
    config = SnowflakeConfig.model_validate(SETTINGS)
    assert isinstance(explained(ConnectionResetError("SECRET"), "x", config), TransientError)
    bug = KeyError("ours")
    assert explained(bug, "x", config) is bug


# --- what is asked of a session


class Answers:
    """A session that answers from a table."""

    def __init__(self, who: tuple[Any, ...], grants: list[dict[str, Any]]) -> None:
        self.who, self.grants = who, grants

    def rows(self, _: str) -> list[tuple[Any, ...]]:
        return [self.who]

    def named(self, _: str) -> list[dict[str, Any]]:
        return self.grants


GRANTED = [{"privilege": "CREATE SCHEMA", "grantee_name": "PARENT"}]


@pytest.mark.parametrize(
    ("who", "grants", "ok", "words"),
    [
        (("9.1", None, "W", "LOADER", "U", "[]"), [], False, "GRANT USAGE ON DATABASE RAW"),
        (("9.1", "RAW", None, "LOADER", "U", "[]"), [], False, "Set `warehouse`"),
        (("9.1", "RAW", "W", "LOADER", "U", '["PUBLIC"]'), GRANTED, True, "GRANT CREATE SCHEMA ON DATABASE"),
        (("9.1", "RAW", "W", "LOADER", "U", '["PARENT"]'), GRANTED, True, "Snowflake 9.1"),
    ],
)
def test_a_check_tells_the_grant_that_is_missing(
    who: tuple[Any, ...], grants: list[dict[str, Any]], ok: bool, words: str
) -> None:
    session: Any = Answers(who, grants)
    found = answer(session, SnowflakeConfig.model_validate(SETTINGS))
    assert found.ok is ok
    assert words in found.message


class Uploads:
    """A session that keeps what is put, and counts rows as COPY would."""

    def __init__(self, lost: int = 0) -> None:
        self.files: list[int] = []
        self.rows, self.lost = 0, lost

    def run(self, _: str) -> int:
        return 0

    def put(self, stage: str, name: str, content: Any) -> None:
        import pyarrow.parquet as pq

        table = pq.read_table(content)
        self.files.append(content.getbuffer().nbytes)
        self.rows += table.num_rows

    def named(self, _: str) -> list[dict[str, Any]]:
        return [{"rows_loaded": self.rows - self.lost}]


@contextmanager
def staging(session: Any) -> Iterator[Staging]:
    found = Staging(session)
    try:
        yield found
    finally:
        found.close()


def test_a_large_load_goes_out_in_several_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elt_dagster.destinations._snowflake_stage._FILE_BYTES", 100_000)
    session = Uploads()
    with staging(session) as found:
        for n in range(8):
            numbers = pa.array(range(n * 20_000, (n + 1) * 20_000), pa.int64())
            found.add(pa.RecordBatch.from_arrays([numbers], names=["id"]))
        (part,) = found.parts()
    assert (part.rows, session.rows) == (160_000, 160_000)
    assert len(session.files) == 8, "a file is uploaded as soon as it is full"


def test_rows_that_copy_did_not_take_fail_the_commit() -> None:
    with staging(Uploads(lost=1)) as found:
        found.add(pa.RecordBatch.from_arrays([pa.array([1, 2], pa.int64())], names=["id"]))
        with pytest.raises(TransientError, match="1 of 2"):
            found.parts()


def test_intervals_and_uuids_leave_as_text_and_bytes() -> None:
    kind = pa.month_day_nano_interval()
    values = pa.array([(14, -3, 1_000), (0, 0, -1_500_000_000), None], kind)
    from elt_dagster.destinations._snowflake_stage import _staged

    batch = pa.RecordBatch.from_arrays([values], schema=pa.schema([("v", kind)]))
    assert _staged(batch, batch.schema).column(0).to_pylist() == ["P14M-3DT0.000001S", "P0M0DT-1.500000S", None]


def test_importing_the_module_imports_no_driver() -> None:
    code = (
        "import sys, elt_dagster.destinations.snowflake; "
        "print([m for m in ('snowflake.connector', 'cryptography', 'boto3') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
