"""A stand-in for Snowflake: fakesnow (Snowflake's HTTP interface over DuckDB) as a process of its own, with what it lacks made up for.

What a stand-in emulates proves nothing about Snowflake; tests that lean on one of these carry the mark ``emulated``:

- Locks. DuckDB lets two transactions run on the same rows until one fails; Snowflake makes the second wait. Here transactions run one after another.
- Precision. fakesnow keeps microseconds and calls them (9); here they are called (6), which is what we ask for.
- MERGE. Done by DuckDB's own, for fakesnow's takes plain names and columns only.
- DROP DATABASE; comments of columns; `CURRENT_WAREHOUSE`; `SHOW GRANTS ON DATABASE`; COPY into a temporary table.

``python -m tests.snowflake_server PORT`` serves until the process that started it is gone.
"""

import logging
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

LOG_VARIABLE = "ELT_DAGSTER_TEST_SNOWFLAKE_LOG"
"""A file for what the stand-in has to say, for whoever looks for a mistake in it."""
WAREHOUSE, ROLE = "LOADING", "LOADER"


@contextmanager
def running() -> Iterator[int]:
    """Port of a fresh server, ended afterwards."""
    port = _free_port()
    with open(os.environ.get(LOG_VARIABLE, os.devnull), "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.snowflake_server", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _wait(port, process)
        yield port
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError("the Snowflake stand-in ended; run `python -m tests.snowflake_server 8085` to see why")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/nothing", timeout=5)
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("the Snowflake stand-in did not answer")


# --- inside the server


class Turns:
    """Who is in a transaction: one session at a time, until it commits, rolls back, or is gone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holder: Callable[[], object] = lambda: None

    def take(self, session: object) -> None:
        deadline = time.monotonic() + 30
        with self._changed:
            while self._holder() not in (None, session):
                if time.monotonic() > deadline:
                    raise refusal(
                        "Statement has locked table '_elt_state' and this lock has not yet been released", 625
                    )
                self._changed.wait(0.05)
            self._holder = weakref.ref(session)

    def give_back(self, session: object) -> None:
        with self._changed:
            if self._holder() is session:
                self._holder = lambda: None
                self._changed.notify_all()


class Sessions(dict[str, Any]):
    """Sessions by token; one that logs out is rolled back, as Snowflake does."""

    def __delitem__(self, token: str) -> None:
        session = self.pop(token)
        session._duck_conn.close()
        TURNS.give_back(session)


TURNS = Turns()


def refusal(text: str, number: int) -> Exception:
    from snowflake.connector.errors import ProgrammingError

    return ProgrammingError(msg=text, errno=number, sqlstate="57014")


def _fakesnow(module: str) -> Any:
    """One of its modules, which we change as it suits us."""
    return import_module(f"fakesnow.{module}")


def patch() -> None:
    """Teach fakesnow what the module's first page says."""
    _patch_catalog()
    _patch_statements()
    _patch_copy()
    _patch_functions()
    _patch_passes()


_DESCRIBE = """
    SELECT c.column_name AS "name",
           CASE WHEN starts_with(data_type, 'DECIMAL') THEN replace(data_type, 'DECIMAL', 'NUMBER')
                WHEN data_type = 'BIGINT' THEN 'NUMBER(38,0)'
                WHEN data_type = 'VARCHAR' THEN 'VARCHAR(' || coalesce(e.ext_character_maximum_length, 16777216) || ')'
                WHEN data_type = 'TIMESTAMP WITH TIME ZONE' THEN 'TIMESTAMP_TZ(6)'
                WHEN data_type = 'TIMESTAMP' THEN 'TIMESTAMP_NTZ(6)'
                WHEN data_type = 'TIME' THEN 'TIME(6)'
                WHEN data_type = 'DOUBLE' THEN 'FLOAT'
                WHEN data_type = 'BLOB' THEN 'BINARY(8388608)'
                WHEN data_type = 'JSON' THEN 'VARIANT'
                ELSE data_type END AS "type",
           'COLUMN' AS "kind", comment AS "comment"
    FROM duckdb_columns() AS c
    LEFT JOIN _fs_global._fs_information_schema._fs_columns_ext AS e
      ON e.ext_table_catalog = c.database_name AND e.ext_table_schema = c.schema_name AND e.ext_table_name = c.table_name
     AND e.ext_column_name = c.column_name
    WHERE c.database_name = '${catalog}' AND c.schema_name = '${schema}' AND c.table_name = '${table}'
    ORDER BY c.column_index
"""


def _patch_catalog() -> None:
    from string import Template

    info_schema, show, transforms = map(_fakesnow, ("info_schema", "transforms.show", "transforms.transforms"))

    transforms.SQL_DESCRIBE_TABLE = Template(_DESCRIBE)
    show.SQL_CREATE_VIEW_SHOW_OBJECTS = """
        CREATE VIEW IF NOT EXISTS _fs_global._fs_information_schema._fs_show_objects AS
        SELECT to_timestamp(0)::TIMESTAMPTZ AS created_on, table_name AS name, database_name, schema_name, 'TABLE' AS kind,
               coalesce(comment, '') AS comment FROM duckdb_tables() WHERE NOT internal AND NOT temporary
        UNION ALL
        SELECT to_timestamp(0)::TIMESTAMPTZ, view_name, database_name, schema_name, 'VIEW', coalesce(comment, '')
        FROM duckdb_views() WHERE NOT internal AND schema_name <> '_fs_information_schema'
    """
    original = info_schema.insert_table_comment_sql

    def insert_table_comment_sql(catalog: str, schema: str, table: str, comment: str | None) -> str:
        if not comment:
            return "SELECT 1"
        text = comment.replace("'", "''")
        return f"COMMENT ON TABLE {_name(catalog, schema, table)} IS '{text}'; {original(catalog, schema, table, text)}"

    info_schema.insert_table_comment_sql = insert_table_comment_sql


def _name(*parts: str) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def _patch_statements() -> None:
    """Turns, MERGE, column comments and SHOW GRANTS, all around one statement."""
    import duckdb
    from fakesnow.dialect import parse_one
    from sqlglot import exp

    cursors = _fakesnow("cursor").FakeSnowflakeCursor
    plain = cursors.execute

    def execute(cursor: Any, command: str, *arguments: Any, **named: Any) -> Any:
        word = command.lstrip().split(None, 1)[0].upper()
        session = cursor._conn
        command = _spelled_out(command)
        if command.startswith("DROP DATABASE"):
            session._duck_conn.execute(command.replace("DROP", "DETACH", 1))
            command = "SELECT 'dropped'"
        if word == "BEGIN":
            TURNS.take(session)
        try:
            for attempt in range(50):
                try:
                    if word == "MERGE":
                        return _merge(cursor, command)
                    result = plain(cursor, command, *arguments, **named)
                    break
                except (
                    duckdb.TransactionException,
                    duckdb.ConstraintException,
                ):  # a catalog change met another; Snowflake's do not mind each other
                    if session._duck_conn is None or attempt == 49:
                        raise
                    time.sleep(0.02)
                except (duckdb.OutOfRangeException, duckdb.InvalidInputException, duckdb.ConversionException):
                    raise refusal("Numeric value 'SECRET' is out of range", 100039) from None
            if word in ("CREATE", "ALTER"):
                _keep_comments(cursor, parse_one(command), exp)
            return result
        except duckdb.Error as error:  # an HTTP status of 500 would be tried again and again
            logging.getLogger("fakesnow.server").exception("%s", command)
            raise refusal(str(error), 9999) from None
        finally:
            if word in ("COMMIT", "ROLLBACK"):
                TURNS.give_back(session)

    cursors.execute = execute


def _spelled_out(command: str) -> str:
    """``command`` with an answer in the place of what fakesnow cannot be asked."""
    if command.startswith("SHOW GRANTS ON DATABASE"):
        return f"SELECT 'CREATE SCHEMA' AS \"privilege\", '{ROLE}' AS \"grantee_name\""
    functions = {
        "CURRENT_WAREHOUSE": f"'{WAREHOUSE}'", "CURRENT_ROLE": f"'{ROLE}'", "CURRENT_USER": "'LOADER'",
        "CURRENT_AVAILABLE_ROLES": f"'[\"{ROLE}\"]'",
    }  # fmt: skip
    for function, value in functions.items():
        command = command.replace(f"{function}()", value)
    return command


def _merge(cursor: Any, command: str) -> Any:
    """MERGE by DuckDB itself, with the counts that Snowflake gives."""
    from fakesnow.dialect import parse_one

    expression = parse_one(command)
    sql = cursor._transform(expression, None).sql(dialect="duckdb")
    rows = cursor._duck_conn.execute(f"{sql} RETURNING merge_action").fetchall()
    done = [row[0] for row in rows]
    counts = ", ".join(
        f'{done.count(w.upper()[:6])} AS "number of rows {w}"' for w in ("inserted", "updated", "deleted")
    )
    result = f"SELECT {counts}"
    cursor._duck_conn.execute(result)
    cursor._arrow_table = cursor._duck_conn.to_arrow_table()
    cursor._rowcount = len(done)
    cursor._last_sql, cursor._last_params, cursor._last_transformed = result, None, parse_one(result)
    cursor._sfqid = "merge"
    return cursor


def _keep_comments(cursor: Any, expression: Any, exp: Any) -> None:
    table = expression.find(exp.Table)
    found = [
        (column.name, constraint.this.this)
        for column in expression.find_all(exp.ColumnDef)
        for constraint in column.find_all(exp.CommentColumnConstraint)
    ]
    found += [(a.name, a.args["comment"].this) for a in expression.find_all(exp.AlterColumn) if a.args.get("comment")]
    for column, text in found:
        name = _name(table.catalog or cursor._conn.database, table.db or cursor._conn.schema, table.name, column)
        cursor._duck_conn.execute(f"COMMENT ON COLUMN {name} IS '{text.replace(chr(39), chr(39) * 2)}'")


def _patch_copy() -> None:
    copy_into, stage = map(_fakesnow, ("copy_into", "transforms.stage"))

    def describe(table: Any, connection: Any, database: str | None, schema: str | None) -> list[tuple[str, str]]:
        name = _name(table.db, table.name) if table.db else _name(table.name)
        return [(row[0], row[1]) for row in connection.execute(f"DESCRIBE {name}").fetchall()]

    copy_into._describe_table = describe
    parts = stage.parts_from_var

    def parts_from_var(var: str, current_database: str | None, current_schema: str | None) -> tuple[str, str, str]:
        # the current names are names already, and not to be folded to upper case
        found: tuple[str, str, str] = parts(
            var, current_database and f'"{current_database}"', current_schema and f'"{current_schema}"'
        )
        return found

    stage.parts_from_var = parts_from_var


def _patch_functions() -> None:
    import sqlglot
    from sqlglot import exp

    transforms = _fakesnow("transforms")

    plain, instants = transforms.to_timestamp, ("TO_TIMESTAMP_NTZ", "TO_TIMESTAMP_TZ")

    def to_timestamp(expression: Any) -> Any:
        if isinstance(expression, exp.UnixToTime):
            value, scale = expression.this, expression.args.get("scale")
        elif isinstance(expression, exp.Anonymous) and expression.name.upper() in instants:
            value, scale = expression.expressions
        else:
            value, scale = None, None
        if value is not None and scale is not None:  # fakesnow's own goes through a double
            micros = f"({value.sql('duckdb')} // {10 ** (int(scale.this) - 6)})::BIGINT"
            return sqlglot.parse_one(f"make_timestamp({micros})", read="duckdb")
        if isinstance(expression, exp.Cast) and expression.to.this == exp.DataType.Type.TIMESTAMPNTZ:
            return expression
        return plain(expression)

    transforms.to_timestamp = to_timestamp
    use = transforms.set_schema

    def set_schema(expression: Any, current_database: str | None) -> Any:
        found = use(expression, current_database)
        if found is not expression and (schema := found.args.get("set_schema")):
            path = _name(found.args.get("set_database") or current_database or "", schema).replace("'", "''")
            found.set("expression", exp.Literal.string(f"schema = '{path}'"))
        return found

    transforms.set_schema = set_schema


_PASSES = (
    "upper_case_unquoted_identifiers", "set_schema", "create_database", "extract_comment_on_table", "extract_comment_on_columns",
    "information_schema_fs", "semi_structured_types", "try_parse_json", "to_timestamp", "to_variant", "object_construct",
    "timestamp_ntz", "float_to_double", "integer_precision", "extract_text_length", "show_tables_etc", "create_stage", "put_stage",
    "create_table_as",
)  # fmt: skip


def _patch_passes() -> None:
    """fakesnow walks every statement seventy times, for one peculiarity of Snowflake each; we use these, and the tests have a minute."""
    transforms, cursors = _fakesnow("transforms"), _fakesnow("cursor").FakeSnowflakeCursor

    def transform(cursor: Any, expression: Any, params: Any) -> Any:
        session = cursor._conn
        where = (session.database, session.schema)
        more: dict[str, tuple[Any, ...]] = {
            "set_schema": (session.database,), "create_database": (session.db_path,), "show_tables_etc": where, "create_stage": where,
            "put_stage": (*where, params, session.table_stages), "create_table_as": (cursor._duck_conn,),
        }  # fmt: skip
        for name in _PASSES:
            expression = expression.transform(getattr(transforms, name), *more.get(name, ()), copy=False)
        return expression

    cursors._transform = transform


def _patch_sessions() -> None:
    """Let clients log out: the driver does not try unless it was given a master token."""
    server = _fakesnow("server")
    plain = server.JSONResponse

    def response(content: dict[str, Any], **more: Any) -> Any:
        data = content.get("data")
        if isinstance(data, dict) and "token" in data:
            data["masterToken"] = data["token"]
        return plain(content, **more)

    server.JSONResponse, server.sessions = response, Sessions()


def main(port: int) -> None:
    patch()
    import uvicorn

    if LOG_VARIABLE not in os.environ:
        logging.getLogger("fakesnow.server").setLevel(logging.CRITICAL)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    _patch_sessions()
    uvicorn.run(_fakesnow("server").app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]))
