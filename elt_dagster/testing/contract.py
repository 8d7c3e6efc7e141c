"""The contract of a connector, as tests. Subclass, name the class and how to reach a source; done.

`ConnectorContract` holds what every connector promises; override `fresh`, `truth` and `known_streams` for databases and files.
`elt_dagster.testing.http_contract` does so for HTTP, and adds what can go wrong there.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from elt_dagster.errors import ConfigError, EltError
from elt_dagster.model import Batch, Checkpoint, ReadRequest, Stream, SyncMode
from elt_dagster.model.types import canonical, is_orderable
from elt_dagster.sdk import Connector

SECRET = re.compile(
    r"(^|_)(password|secret|token|passphrase|api_key|private_key|secret_key|access_key)$", re.IGNORECASE
)
SMALL = 4 * 1024
Key = tuple[Any, ...]
Truth = Sequence[Mapping[str, Any]]


class ConnectorContract:
    """What every connector promises. A test is skipped when it is about something the connector does not have."""

    connector: ClassVar[type[Connector[Any]]]
    settings: ClassVar[dict[str, Any]]
    """Working settings, secrets included; a secret is a text that occurs nowhere else."""
    _discovered: ClassVar[tuple[Stream, ...]]

    # -- to be overridden -------------------------------------------------------------------------------------------------

    def fresh(self) -> Connector[Any]:
        """A connector to a healthy source with the rows of `truth`."""
        raise NotImplementedError("say how a connector reaches a source: override fresh")

    def unreachable(self) -> Connector[Any] | None:
        """A connector whose source refuses the credentials; None when there is no such thing."""
        return None

    def truth(self, stream: str) -> Truth:
        """Every row of ``stream``."""
        raise NotImplementedError("say what the source holds: override truth")

    def known_streams(self) -> set[str]:
        """The streams of which `truth` knows the rows."""
        raise NotImplementedError("say what the source holds: override known_streams")

    def touched(self) -> int:
        """How often the source of the last `fresh` connector was asked for rows; only compared with itself."""
        return 0

    # -- helpers ------------------------------------------------------------------------------------------------------------

    def read(
        self, stream: Stream, since: Checkpoint | None = None, connector: Connector[Any] | None = None, **more: Any
    ) -> list[Batch]:
        """Everything a read of ``stream`` yields."""
        return list((connector or self.fresh()).read(self.request(stream, since, **more)))

    @staticmethod
    def request(stream: Stream, since: Checkpoint | None = None, **more: Any) -> ReadRequest:
        """A request as the engine makes it: incremental where the stream can."""
        mode = SyncMode.INCREMENTAL if since else SyncMode.FULL_REFRESH
        return ReadRequest(
            **{"stream": stream, "mode": mode, "cursor_field": stream.cursor_field, "since": since, **more}
        )

    def streams(self) -> list[Stream]:
        """The discovered streams whose rows are known."""
        cls = type(self)
        if "_discovered" not in vars(cls):  # once for all tests: what discover answers has tests of its own
            cls._discovered = tuple(self.fresh().discover())
        known = self.known_streams()
        return [s for s in cls._discovered if s.name in known]

    def incremental(self) -> list[Stream]:
        """Those that can be read incrementally."""
        found = [s for s in self.streams() if s.cursor_field]
        if not found:
            pytest.skip("no incremental stream")
        return found

    def secrets(self) -> list[str]:
        """The values in the settings that must never be seen."""
        return list(_secret_values(self.settings))

    @staticmethod
    def keys(stream: Stream, batches: Sequence[Batch]) -> list[Key]:
        """The primary keys of all rows; whole rows when there is none."""
        found: list[Key] = []
        for batch in batches:
            names = stream.primary_key or tuple(batch.data.schema.names)
            columns = [batch.data.column(n).to_pylist() for n in names] if batch.data.num_columns else []
            found += list(zip(*columns, strict=True))
        return found

    @staticmethod
    def cursors(stream: Stream, batches: Sequence[Batch]) -> list[Any]:
        """The cursor values of all rows that have one."""
        return [v for b in batches for v in b.data.column(stream.cursor_field or "").to_pylist() if v is not None]

    def wanted_keys(self, stream: Stream) -> list[Key]:
        """The primary keys there are."""
        return [tuple(r[k] for k in stream.primary_key) for r in self.truth(stream.name)]

    # -- identity and settings: no source needed ----------------------------------------------------------------------------

    def test_it_has_a_name_a_title_and_a_link(self) -> None:
        """A person can tell what it is and where to read on."""
        assert re.fullmatch(r"[a-z][a-z0-9_]*", self.connector.name)
        assert self.connector.title
        assert self.connector.docs_url.startswith("https://")
        assert self.connector.description()

    def test_secrets_are_declared_secret(self) -> None:
        """Forms hide them, stores encrypt them."""
        for where, name, prop in _properties(self.connector.spec()):
            if SECRET.search(name):
                assert _is_secret(prop), f"setting {where}{name} looks secret; make it a SecretStr"

    def test_every_setting_is_described(self) -> None:
        """A form needs words."""
        for where, name, prop in _properties(self.connector.spec()):
            assert prop.get("description"), f"setting {where}{name} has no description; write a docstring below it"

    def test_an_unknown_setting_is_refused(self) -> None:
        """A typo is an answer, not a default."""
        with pytest.raises(ConfigError, match="no_such_setting"):
            self.connector.configured({**self.settings, "no_such_setting": 1})

    def test_a_wrong_setting_is_reported_without_its_value(self) -> None:
        """Messages travel further than settings."""
        for name in self.settings:
            broken = {**self.settings, name: {"wrong": [*self.secrets(), "VALUE-THAT-MUST-NOT-BE-SHOWN"]}}
            try:
                self.connector.configured(broken)
            except ConfigError as error:
                assert "MUST-NOT-BE-SHOWN" not in str(error), name
                self.assert_silent(str(error))

    def test_making_one_asks_nothing(self) -> None:
        """No network, no files, no threads."""
        self.fresh()
        assert self.touched() == 0

    # -- check and discover ---------------------------------------------------------------------------------------------------

    def test_check_says_yes(self) -> None:
        """In words."""
        result = self.fresh().check()
        assert result.ok, result.message
        assert result.message

    def test_check_says_no_in_words(self) -> None:
        """A refusal is an answer, without secrets in it."""
        connector = self.unreachable()
        if connector is None:
            pytest.skip("nothing to refuse")
        result = connector.check()
        assert not result.ok
        assert result.message
        self.assert_silent(result.message)

    def test_discover_is_stable(self) -> None:
        """The same streams with the same columns in the same order."""
        first, second = self.fresh().discover(), self.fresh().discover()
        assert [(s.name, s.schema, s.primary_key, s.cursor_field) for s in first] == [
            (s.name, s.schema, s.primary_key, s.cursor_field) for s in second
        ]
        assert len({s.name for s in first}) == len(first.streams)

    def test_every_known_stream_is_discovered(self) -> None:
        """Nothing that can be read is missing from the list."""
        assert {s.name for s in self.streams()} == self.known_streams()

    def test_discovered_types_are_canonical(self) -> None:
        """A warehouse understands every column."""
        for stream in self.streams():
            for field in stream.schema or ():
                assert canonical(field.type) == field.type, f"{stream.name}.{field.name} is {field.type}"

    def test_cursors_and_keys_are_columns(self) -> None:
        """And cursors can be ordered."""
        for stream in self.streams():
            names = stream.schema.names if stream.schema is not None else None
            cursors = set(stream.cursor_fields) | ({stream.cursor_field} if stream.cursor_field else set())
            for column in (*stream.primary_key, *cursors):
                assert names is None or column in names, f"{stream.name} has no column {column!r}"
            for column in cursors:
                if stream.schema is not None:
                    kind = stream.schema.field(column).type
                    assert is_orderable(kind), f"{stream.name}.{column} is {kind}, which cannot be ordered"

    # -- read ------------------------------------------------------------------------------------------------------------------

    def test_every_row_is_read_once(self) -> None:
        """No row is missing, none comes twice."""
        for stream in self.streams():
            if not stream.primary_key:
                assert sum(b.data.num_rows for b in self.read(stream)) == len(self.truth(stream.name)), stream.name
                continue
            keys = self.keys(stream, self.read(stream))
            assert None not in {v for k in keys for v in k}, stream.name
            assert len(keys) == len(set(keys)), f"{stream.name}: {stream.primary_key} is not unique, or rows come twice"
            assert set(keys) == set(self.wanted_keys(stream)), stream.name

    def test_values_arrive_as_they_are(self) -> None:
        """Every value of every row, whatever its type."""
        for stream in self.streams():
            if not stream.primary_key:
                continue
            found = dict(zip(self.keys(stream, batches := self.read(stream)), _rows(batches), strict=True))
            for row in self.truth(stream.name):
                got = found[tuple(row[k] for k in stream.primary_key)]
                for name, value in row.items():
                    assert name in got, f"{stream.name}: the column {name!r} is missing"
                    assert _same(got[name], value), f"{stream.name}: {name!r} of a row is not what the source holds"

    def test_reading_is_lazy(self) -> None:
        """Nothing is asked before the first batch is wanted."""
        for stream in self.streams():
            connector = self.fresh()
            before = self.touched()
            batches = connector.read(self.request(stream))
            assert self.touched() == before, f"{stream.name}: read() asks before it is iterated"
            next(iter(batches), None)

    def test_batches_have_the_declared_schema(self) -> None:
        """What discover said is what comes, in that order; only columns nobody has seen yet may come on top."""
        for stream in self.streams():
            for batch in self.read(stream):
                for field in batch.data.schema:
                    assert canonical(field.type) == field.type, f"{stream.name}.{field.name} is {field.type}"
                if stream.schema is not None:
                    assert batch.data.schema.names[: len(stream.schema)] == stream.schema.names, stream.name
                    for field in stream.schema:
                        got = batch.data.schema.field(field.name).type
                        assert got == field.type or pa.types.is_null(field.type), f"{stream.name}.{field.name} is {got}"

    def test_only_the_columns_asked_for_come(self) -> None:
        """An excluded column must not travel."""
        for stream in self.streams():
            if stream.schema is None:
                continue
            wanted = tuple(
                reversed([n for n in stream.schema.names if n in stream.primary_key or n == stream.cursor_field])
            )
            wanted = wanted or (stream.schema.names[0],)
            for batch in self.read(stream, columns=wanted):
                assert tuple(batch.data.schema.names) == wanted, stream.name

    def test_batches_are_bounded(self) -> None:
        """Memory is a few batches, whatever the table."""
        for stream in self.streams():
            for batch in self.read(stream, batch_bytes=SMALL):
                assert batch.data.nbytes <= 2 * SMALL or batch.data.num_rows == 1, (
                    f"{stream.name}: {batch.data.nbytes} bytes"
                )

    def test_a_checkpoint_never_runs_ahead_of_the_rows(self) -> None:
        """It promises that everything before it is out."""
        for stream in self.incremental():
            batches = self.read(stream)
            for i, batch in enumerate(batches):
                if batch.checkpoint and batch.checkpoint.cursor is not None:
                    out = self.cursors(stream, batches[: i + 1])
                    assert out, f"{stream.name}: a checkpoint before any row"
                    assert batch.checkpoint.cursor <= max(out), f"{stream.name}: the checkpoint of batch {i} is ahead"

    def test_the_last_batch_carries_a_checkpoint(self) -> None:
        """So that the next run need not read everything again."""
        for stream in self.incremental():
            assert self.read(stream)[-1].checkpoint, stream.name

    def test_a_checkpoint_survives_being_stored(self) -> None:
        """Exactly, as JSON."""
        for stream in self.incremental():
            last = self.read(stream)[-1].checkpoint
            assert last is not None
            assert Checkpoint.from_json(json.loads(json.dumps(last.to_json()))) == last, stream.name

    def test_resuming_loses_nothing(self) -> None:
        """From any checkpoint on the way, what is out and what follows make the whole."""
        for stream in self.incremental():
            batches = self.read(stream, batch_bytes=SMALL)
            for i in self._some([i for i, b in enumerate(batches) if b.checkpoint]):
                rest = self.read(stream, batches[i].checkpoint)
                got = set(self.keys(stream, batches[: i + 1])) | set(self.keys(stream, rest))
                assert got == set(self.keys(stream, batches)), f"{stream.name}: rows are lost after batch {i}"

    def test_ties_at_the_checkpoint_are_read_again(self) -> None:
        """A row written in the same instant as the last one must not be lost."""
        for stream in self.incremental():
            batches = self.read(stream)
            last = batches[-1].checkpoint
            assert last is not None
            again = set(self.keys(stream, self.read(stream, last)))
            pairs = zip(self.keys(stream, batches), (r[stream.cursor_field or ""] for r in _rows(batches)), strict=True)
            assert {k for k, v in pairs if v is not None and v == last.cursor} <= again, stream.name

    def test_incremental_reads_less(self) -> None:
        """Otherwise it is a full refresh by another name."""
        for stream in self.incremental():
            everything = self.read(stream)
            rest = self.read(stream, everything[-1].checkpoint)
            assert len(self.keys(stream, rest)) < len(self.keys(stream, everything)), stream.name

    def test_a_checkpoint_never_moves_back(self) -> None:
        """Reading on from the end ends there or later."""
        for stream in self.incremental():
            last = self.read(stream)[-1].checkpoint
            assert last is not None
            later: list[Any] = [b.checkpoint.cursor for b in self.read(stream, last) if b.checkpoint]
            assert all(c is not None and c >= last.cursor for c in later[-1:]), stream.name

    def test_an_unknown_stream_is_refused(self) -> None:
        """With words, before anything is asked."""
        with pytest.raises(EltError, match="no_such_stream"):
            self.read(Stream(name="no_such_stream"))

    # -- what is shared with other kinds of sources ------------------------------------------------------------------------------

    def assert_silent(self, text: str) -> None:
        """``text`` has no secret in it."""
        for secret in self.secrets():
            assert secret not in text, "a secret is shown"

    @staticmethod
    def _some(positions: list[int]) -> list[int]:
        """The first, the last and one in between: enough to find a lie, few enough to be quick."""
        return sorted({positions[0], positions[len(positions) // 2], positions[-1]}) if positions else []


def _properties(spec: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Every setting with where it is, in the schema itself and in its definitions."""
    for where, part in (("", spec), *((f"{n}.", d) for n, d in spec.get("$defs", {}).items())):
        for name, prop in part.get("properties", {}).items():
            yield where, name, prop


def _is_secret(prop: Mapping[str, Any]) -> bool:
    inner = [
        prop,
        *prop.get("anyOf", ()),
        *([prop["additionalProperties"]] if isinstance(prop.get("additionalProperties"), dict) else []),
    ]
    return any(p.get("writeOnly") or p.get("format") == "password" for p in inner)


def _secret_values(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _secret_values(inner, "secret" if name == "secret" else str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _secret_values(inner, name)
    elif isinstance(value, str) and value and SECRET.search(name):
        yield value


def _rows(batches: Sequence[Batch]) -> list[dict[str, Any]]:
    return [row for b in batches for row in b.data.to_pylist()]


def _same(got: Any, value: Any) -> bool:
    """Whether a value that came is the one of the source, which may write it as text or nested."""
    if isinstance(value, dict | list):
        return bool(json.loads(got) == value) if isinstance(got, str) else bool(got == value)
    if isinstance(got, datetime) and isinstance(value, str):
        wanted = datetime.fromisoformat(value)
        return got == wanted or got == (wanted if wanted.tzinfo else wanted.replace(tzinfo=UTC))
    if isinstance(got, date | Decimal) and isinstance(value, str):
        return str(got) == value
    if isinstance(got, str) and value is not None and not isinstance(value, str):
        return got == str(value) or got == json.dumps(value)
    return bool(got == value)
