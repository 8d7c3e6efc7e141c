"""What the stand-in does with a statement: hands it to Sail, or emulates what Sail lacks. See the package's docstring for what is emulated."""

import json
import re
import shutil
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.databricks_standin.sail import CATALOGS, Sail

IDENT = r"(?:`(?:[^`]|``)+`|\w+)"
NAME = rf"{IDENT}(?:\s*\.\s*{IDENT})*"
LITERAL = r"'(?:[^'\\]|\\.)*'"
_DML = re.compile(rf"(INSERT\s+(?:INTO|OVERWRITE)|MERGE\s+INTO|UPDATE|DELETE\s+FROM)\s+({NAME})", re.I)
_THREE = re.compile(rf"({IDENT})\.({IDENT})\.({IDENT})")
_FILES = re.compile(rf"read_files\(({LITERAL}), format => 'parquet', schema => ({LITERAL})\)")
_IF = re.compile(r"IF (.*) THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '(.*)'; END IF$", re.S)
_SPECIAL = re.compile(r"[ ,;{}()\n\t=]")
_WIDER = {"TINYINT": 1, "SMALLINT": 2, "INT": 3, "BIGINT": 4}
Key = tuple[str, str, str]


class RefusalError(Exception):
    """A statement failed, in the vendor's words."""


@dataclass
class Entry:
    """A table as the catalog knows it."""

    location: Path
    properties: dict[str, str] = field(default_factory=dict[str, str])
    comment: str = ""
    comments: dict[str, str] = field(default_factory=dict[str, str])


class Engine:
    """Executes statements, one at a time."""

    def __init__(self, root: Path) -> None:
        self.root, self.sail = root, Sail()
        self.tables: dict[Key, Entry] = {}
        self.schemas = {(c, "default") for c in CATALOGS}
        self.volumes = root / "volumes"
        self.lock = threading.RLock()

    def execute(self, sql: str, *, guest: bool = False) -> pa.Table:
        """The result of ``sql``. Raises RefusalError."""
        with self.lock:
            return self._execute(sql.strip().rstrip(";"), guest)

    def _execute(self, sql: str, guest: bool = False) -> pa.Table:
        if guest and not re.match(r"SELECT|SHOW|DESCRIBE", sql):
            raise RefusalError(_denial(sql))
        self._check_names(sql)
        emulated: list[tuple[str, Callable[..., Any]]] = [
            (r"BEGIN ATOMIC\s(.*)END$", self._atomic),
            (rf"CREATE SCHEMA (?:IF NOT EXISTS )?({NAME})$", self._create_schema),
            (rf"CREATE VOLUME IF NOT EXISTS ({NAME})$", self._create_volume),
            (rf"CREATE (OR REPLACE )?TABLE (IF NOT EXISTS )?({NAME})\s*(.*)$", self._create_table),
            (rf"DROP TABLE (?:IF EXISTS )?({NAME})$", self._drop),
            (rf"ALTER TABLE ({NAME}) SET TBLPROPERTIES \((.*)\)$", self._set_properties),
            (rf"ALTER TABLE ({NAME}) ADD COLUMNS \((.*)\)$", self._add_columns),
            (rf"ALTER TABLE ({NAME}) ALTER COLUMN ({IDENT}) TYPE (.*)$", self._retype),
            (rf"ALTER TABLE ({NAME}) ALTER COLUMN (.*)$", self._comment_columns),
            (rf"COMMENT ON TABLE ({NAME}) IS ({LITERAL})$", self._comment_table),
            (rf"DESCRIBE TABLE EXTENDED ({NAME}) AS JSON$", self._describe),
            (rf"SHOW TABLES IN ({NAME})$", self._show_tables),
            (rf"SHOW SCHEMAS IN ({NAME})$", self._show_schemas),
            (r"SELECT current_user\(\)$", lambda: pa.table({"current_user()": ["standin@example.com"]})),
        ]
        for pattern, handle in emulated:
            if found := re.match(pattern, sql, re.S | re.I):
                result = handle(*found.groups())
                return result if isinstance(result, pa.Table) else pa.table({"num_affected_rows": pa.array([0])})
        return self._native(sql)

    def _native(self, sql: str) -> pa.Table:
        sql = _FILES.sub(self._parquet, sql)
        try:
            return self.sail(sql)
        except pa.ArrowException as error:
            raise RefusalError(_translated(str(error))) from None

    def _parquet(self, found: re.Match[str]) -> str:
        folder = self.path(_unquoted(found[1]))
        names = [line.split()[0] for line in _split(_unquoted(found[2]), ",")]
        return f"(SELECT {', '.join(names)} FROM parquet.`{folder}`) AS files"

    def path(self, path: str) -> Path:
        """Where a path below ``/Volumes`` is on disk."""
        catalog, schema, *rest = path.removeprefix("/Volumes/").split("/")
        return self.volumes.joinpath(catalog.encode().hex(), schema.lower().encode().hex(), *rest)

    # --- catalog

    def _key(self, name: str) -> Key:
        parts = [_plain(part) for part in re.findall(IDENT, name)]
        catalog, schema, table = [*CATALOGS[:1], *parts][-3:] if len(parts) < 3 else parts
        return catalog, schema.lower(), table.lower()

    def _check_names(self, sql: str) -> None:
        for catalog, schema, _ in _THREE.findall(re.sub(LITERAL, "''", sql)):
            if _plain(catalog) not in CATALOGS:
                raise RefusalError(f"[NO_SUCH_CATALOG_EXCEPTION] Catalog '{_plain(catalog)}' was not found.")
            if (_plain(catalog), _plain(schema).lower()) not in self.schemas:
                raise RefusalError(f"[SCHEMA_NOT_FOUND] The schema {catalog}.{schema} cannot be found.")

    def _create_schema(self, name: str) -> None:
        parts = [_plain(part) for part in re.findall(IDENT, name)]
        catalog, schema = parts if len(parts) == 2 else (CATALOGS[0], parts[0])
        if catalog not in CATALOGS:
            raise RefusalError(f"[NO_SUCH_CATALOG_EXCEPTION] Catalog '{catalog}' was not found.")
        _check_object(schema)
        self.schemas.add((catalog, schema.lower()))
        self._native(f"CREATE SCHEMA IF NOT EXISTS {_quoted(catalog)}.{_quoted(schema)}")

    def _create_volume(self, name: str) -> None:
        catalog, schema, volume = (_plain(part) for part in re.findall(IDENT, name))
        self.path(f"/Volumes/{catalog}/{schema}/{volume}").mkdir(parents=True, exist_ok=True)

    def _show_tables(self, name: str) -> pa.Table:
        return self._native(f"SHOW TABLES IN {name}")

    def _show_schemas(self, name: str) -> pa.Table:
        if _plain(name) not in CATALOGS:
            raise RefusalError(f"[NO_SUCH_CATALOG_EXCEPTION] Catalog '{_plain(name)}' was not found.")
        return pa.table({"databaseName": sorted(s for c, s in self.schemas if c == _plain(name))})

    def _create_table(self, replace: str | None, if_missing: str | None, name: str, rest: str) -> Any:
        key = self._key(name)
        _check_object(key[2])
        if key in self.tables and not replace:
            if if_missing:
                return None
            raise RefusalError(f"[TABLE_OR_VIEW_ALREADY_EXISTS] Cannot create {name} because it already exists.")
        columns, rest = _balanced(rest) if rest.startswith("(") else ("", rest)
        head, _, query = re.match(r"(.*?)(?:(\bAS\s)(SELECT\s.*))?$", rest, re.S).groups() if rest else ("", "", "")  # type: ignore[union-attr]
        entry = Entry(self.root / "tables" / uuid.uuid4().hex)
        if found := re.search(r"TBLPROPERTIES (\(.*\))", head, re.S):
            entry.properties = _properties(_balanced(found[1])[0])
        if found := re.search(rf"COMMENT ({LITERAL})", head):
            entry.comment = _unquoted(found[1])
        if key[0] == "legacy" and "delta.feature.catalogManaged" in entry.properties:
            raise RefusalError(
                "[DELTA_UNSUPPORTED_CATALOG_MANAGED_TABLE_CREATION] Creating catalog-managed tables is not supported."
            )
        lines = []
        for line in _split(columns, ","):
            words = re.match(rf"\s*({IDENT}) (.*?)(?: COMMENT ({LITERAL}))?$", line, re.S)
            assert words, line
            _check_column(_plain(words[1]), entry)
            if words[3]:
                entry.comments[_plain(words[1])] = _unquoted(words[3])
            lines.append(f"{words[1]} {words[2]}")
        parts = " ".join(re.findall(r"PARTITIONED BY \(.*?\)", head))
        if query:
            self._fill(name, entry, query)
        else:
            self._register(name, entry, ", ".join(lines), parts)
        return None

    def _fill(self, name: str, entry: Entry, query: str) -> None:
        """Make a table, or make it anew, from a query that may read the old one."""
        beside = f"{_quoted(self._key(name)[0])}.`default`.`t{uuid.uuid4().hex}`"
        schema = self._native(f"SELECT * FROM ({query}) AS q LIMIT 0").schema
        for column in schema.names:
            _check_column(column, entry)
        columns = ", ".join(f"{_quoted(f.name)} {_sql_type(f.type)}" for f in schema)
        if self._key(name) not in self.tables:
            self._register(name, entry, columns, "")
            self._native(f"INSERT INTO {name} {query}")
            return
        # Sail cannot rename, and does not know its own VARIANT columns again in a table that is there: so the rows are copied twice
        self._native(f"CREATE TABLE {beside} ({columns}) USING DELTA LOCATION '{self.root}/beside/{uuid.uuid4().hex}'")
        self._native(f"INSERT INTO {beside} {query}")
        self._register(name, entry, columns, "")
        self._native(f"INSERT INTO {name} SELECT * FROM {beside}")
        self._native(f"DROP TABLE {beside}")

    def _register(self, name: str, entry: Entry, columns: str, parts: str) -> None:
        key = self._key(name)
        if key in self.tables:
            self._native(f"DROP TABLE {name}")
        self._native(f"CREATE TABLE {name} ({columns}) USING DELTA {parts} LOCATION '{entry.location}'")
        self.tables[key] = entry

    def _drop(self, name: str) -> None:
        if entry := self.tables.pop(self._key(name), None):
            self._native(f"DROP TABLE {name}")
            shutil.rmtree(entry.location, ignore_errors=True)

    def _entry(self, name: str) -> Entry:
        if self._key(name) not in self.tables:
            raise RefusalError(f"[TABLE_OR_VIEW_NOT_FOUND] The table or view {name} cannot be found.")
        return self.tables[self._key(name)]

    # --- ALTER, COMMENT, DESCRIBE

    def _set_properties(self, name: str, values: str) -> None:
        self._entry(name).properties |= _properties(values)

    def _add_columns(self, name: str, columns: str) -> None:
        entry, terms = self._entry(name), ["*"]
        for line in _split(columns, ","):
            words = re.match(rf"\s*({IDENT}) (.*?)(?: COMMENT ({LITERAL}))?$", line, re.S)
            assert words, line
            if words[3]:
                entry.comments[_plain(words[1])] = _unquoted(words[3])
            terms.append(f"CAST(NULL AS {words[2]}) AS {words[1]}")
        self._anew(name, entry, f"SELECT {', '.join(terms)} FROM {name}")

    def _retype(self, name: str, column: str, kind: str) -> None:
        entry = self._entry(name)
        if entry.properties.get("delta.enableTypeWidening") != "true":
            raise RefusalError("[DELTA_UNSUPPORTED_ALTER_TABLE_CHANGE_COL_OP] ALTER COLUMN TYPE needs type widening.")
        fields = self._native(f"SELECT * FROM {name} LIMIT 0").schema
        terms = [
            f"CAST({_quoted(f.name)} AS {kind}) AS {_quoted(f.name)}" if f.name == _plain(column) else _quoted(f.name)
            for f in fields
        ]
        before = _sql_type(fields.field(_plain(column)).type)
        if before in _WIDER and kind in _WIDER and _WIDER[kind] <= _WIDER[before]:
            raise RefusalError("[DELTA_UNSUPPORTED_ALTER_TABLE_CHANGE_COL_OP] Not a wider type.")
        self._anew(name, entry, f"SELECT {', '.join(terms)} FROM {name}")

    def _anew(self, name: str, entry: Entry, query: str) -> None:
        self._fill(
            name, Entry(self.root / "tables" / uuid.uuid4().hex, entry.properties, entry.comment, entry.comments), query
        )

    def _comment_columns(self, name: str, changes: str) -> None:
        for column, words in re.findall(rf"({IDENT}) COMMENT ({LITERAL})", changes):
            self._entry(name).comments[_plain(column)] = _unquoted(words)

    def _comment_table(self, name: str, words: str) -> None:
        self._entry(name).comment = _unquoted(words)

    def _describe(self, name: str) -> pa.Table:
        entry = self.tables.get(self._key(name))
        schema = self._native(f"SELECT * FROM {name} LIMIT 0").schema
        data = {
            "table_name": self._key(name)[2], "type": "MANAGED" if entry else "VIEW",
            "columns": [{"name": f.name, "type": _json_type(f.type), "nullable": f.nullable,
                         **({"comment": entry.comments[f.name]} if entry and f.name in entry.comments else {})} for f in schema],
            **({"comment": entry.comment, "table_properties": entry.properties} if entry else {}),
        }  # fmt: skip
        return pa.table({"json_metadata": [json.dumps(data)]})

    # --- transactions

    def _atomic(self, body: str) -> pa.Table:
        """Carry out a block; when a statement fails, the logs of the tables it wrote are cut back to where they were."""
        logs: dict[Path, set[str]] = {}
        try:
            for statement in parts_of(body):
                self._step(statement, logs)
        except RefusalError:
            for log, before in logs.items():
                for path in log.iterdir():
                    if path.name not in before:
                        path.unlink()
            raise
        return pa.table({"num_affected_rows": pa.array([0])})

    def _step(self, statement: str, logs: dict[Path, set[str]]) -> None:
        if found := _IF.match(statement):
            if self._native(f"SELECT ({found[1]}) AS stop").column(0)[0].as_py():
                raise RefusalError(f"[USER_DEFINED] {found[2]}")
            return
        found = _DML.match(statement)
        if not found:
            raise RefusalError(
                f"[TRANSACTION_NOT_SUPPORTED.COMMAND] Command {statement[:20]} is not supported in a transaction."
            )
        if "read_files" in statement:
            raise RefusalError("[TRANSACTION_NOT_SUPPORTED.ILLEGAL_DATA_SOURCE_FOR_NONTRANSACTIONAL_READ] parquet")
        entry = self._entry(found[2])
        if "delta.feature.catalogManaged" not in entry.properties:
            what = f"Table {found[2]} does not have catalog commits enabled"
            raise RefusalError(f"[TRANSACTION_NOT_SUPPORTED.WRITE_NON_CATALOG_OWNED_TABLE] {what}")
        log = entry.location / "_delta_log"
        logs.setdefault(log, {p.name for p in log.iterdir()})
        self._native(statement)


# --- text


def parts_of(body: str) -> list[str]:
    """The statements of a block; an IF with what it holds is one."""
    found, open_if = [], ""
    for part in _split(body, ";"):
        whole = f"{open_if}; {part.strip()}" if open_if else part.strip()
        open_if = whole if re.match(r"IF ", whole) and not whole.endswith("END IF") else ""
        if whole and not open_if:
            found.append(whole)
    return found


def _split(text: str, at: str) -> list[str]:
    """``text`` at each ``at`` that is outside of quotes and brackets."""
    parts, depth, start = [], 0, 0
    for found in re.finditer(rf"{LITERAL}|`(?:[^`]|``)+`|[(<)>]|{re.escape(at)}", text):
        token = found[0]
        depth += (token in "(<") - (token in ")>" and depth > 0)
        if token == at and (depth == 0 or at == ";"):
            parts.append(text[start : found.start()])
            start = found.end()
    return [part for part in (*parts, text[start:]) if part.strip()]


def _balanced(text: str) -> tuple[str, str]:
    """What is in the brackets that ``text`` begins with, and what follows."""
    depth = 0
    for found in re.finditer(rf"{LITERAL}|`(?:[^`]|``)+`|[()]", text):
        depth += (found[0] == "(") - (found[0] == ")")
        if depth == 0:
            return text[1 : found.start()], text[found.end() :].strip()
    raise RefusalError("[PARSE_SYNTAX_ERROR] Unbalanced brackets.")


def _properties(text: str) -> dict[str, str]:
    pairs = re.findall(rf"({LITERAL}) = ({LITERAL})", text)
    return {_unquoted(k): _unquoted(v) for k, v in pairs}


def _plain(name: str) -> str:
    return name[1:-1].replace("``", "`") if name.startswith("`") else name


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _unquoted(literal: str) -> str:
    known = {"n": "\n", "r": "\r", "t": "\t", "0": "\0"}
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), literal[1:-1])
    return re.sub(r"\\(.)", lambda m: known.get(m[1], m[1]), text, flags=re.S)


def _check_object(name: str) -> None:
    if re.search(r"[./ \x00-\x1f\x7f]", name):
        raise RefusalError(f"[INVALID_NAME] {name} is not a valid name.")


def _check_column(name: str, entry: Entry) -> None:
    if _SPECIAL.search(name) and entry.properties.get("delta.columnMapping.mode") != "name":
        raise RefusalError("[DELTA_INVALID_CHARACTERS_IN_COLUMN_NAME] Found invalid character(s) in a column name.")


def _translated(message: str) -> str:
    if found := re.search(r"\[(?:TABLE_OR_VIEW_NOT_FOUND)\][^.]*", message):
        return found[0]
    if "parse error" in message:
        return f"[PARSE_SYNTAX_ERROR] {message[:600]}"
    return f"[SAIL] {message[:600]}"


def _denial(sql: str) -> str:
    what = "CREATE SCHEMA on Catalog 'main'" if "SCHEMA" in sql or "VOLUME" in sql else "MODIFY on Table 'main.s.t'"
    return f"[INSUFFICIENT_PERMISSIONS] Insufficient privileges: User does not have permission {what}."


def _sql_type(kind: pa.DataType) -> str:
    described = _json_type(kind)
    if described["name"] == "decimal":
        return f"DECIMAL({described['precision']},{described['scale']})"
    if described["name"] == "struct":
        return f"STRUCT<{', '.join(f'{_quoted(f.name)}: {_sql_type(f.type)}' for f in kind)}>"
    name = str(described["name"])
    return {"timestamp_ltz": "TIMESTAMP"}.get(name, name.upper())


def _json_type(kind: pa.DataType) -> dict[str, Any]:
    t = pa.types
    names = {pa.bool_(): "boolean", pa.int8(): "tinyint", pa.int16(): "smallint", pa.int32(): "int", pa.int64(): "bigint",
             pa.float32(): "float", pa.float64(): "double", pa.date32(): "date"}  # fmt: skip
    if t.is_decimal(kind):
        return {"name": "decimal", "precision": kind.precision, "scale": kind.scale}
    if t.is_timestamp(kind):
        return {"name": "timestamp_ltz" if kind.tz else "timestamp_ntz"}
    if t.is_struct(kind):
        return {"name": "variant" if {f.name for f in kind} == {"value", "metadata"} else "struct"}
    if t.is_list(kind):
        return {"name": "array"}
    return {"name": names.get(kind) or ("binary" if t.is_binary(kind) or t.is_large_binary(kind) else "string")}
