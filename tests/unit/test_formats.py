"""Files as people really write them, decoded."""

import bz2
import gzip
import io
import zipfile
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elt_dagster.errors import SourceError, TransientError
from elt_dagster.model.types import JSON, TIMESTAMP, TIMESTAMP_UTC
from elt_dagster.sdk import lines
from elt_dagster.sdk.formats import CsvDialect, Decoding, File, FileFormat, decode, sample
from elt_dagster.sdk.text import cast, fits, infer, join, union


def file(name: str, content: bytes) -> File:
    return File(name, lambda: pa.BufferReader(content))


def batches(name: str, content: bytes | str, **wanted: Any) -> list[pa.RecordBatch]:
    data = content.encode() if isinstance(content, str) else content
    return list(decode(file(name, data), Decoding(**wanted)))


def rows(name: str, content: bytes | str, **wanted: Any) -> list[dict[str, Any]]:
    return [row for batch in batches(name, content, **wanted) for row in batch.to_pylist()]


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


class TestCsv:
    @pytest.mark.parametrize(
        "text",
        [
            "id,name\n1,a\n2,b\n", "id,name\n1,a\n2,b", "id,name\r\n1,a\r\n2,b\r\n", "\ufeffid,name\n1,a\n2,b\n",
            "id;name\n1;a\n2;b\n", "id\tname\n1\ta\n2\tb\n", '"id","name"\n"1","a"\n"2","b"\n', " id , name \n1,a\n\n2,b\n",
        ],
    )  # fmt: skip
    def test_is_read_however_it_is_written(self, text: str) -> None:
        assert rows("x.csv", text) == [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]

    def test_quotes_hold_delimiters_line_ends_and_quotes(self) -> None:
        assert rows("x.csv", 'a,b\n1,"x, ""y""\r\nz"\n') == [{"a": 1, "b": 'x, "y"\r\nz'}]

    @pytest.mark.parametrize("text", ["", "\ufeff", "\n\n", "a,b\n", "a,b", "a,b\r\n"])
    def test_without_rows_it_gives_none(self, text: str) -> None:
        assert batches("x.csv", text) == []

    def test_a_header_alone_still_names_the_columns(self) -> None:
        assert sample(file("x.csv", b"a,b\n"), Decoding()) == pa.schema([("a", pa.null()), ("b", pa.null())])

    def test_an_empty_field_is_null_and_so_is_what_the_user_says(self) -> None:
        dialect = CsvDialect(null_values=("", "NA"))
        assert rows("x.csv", 'a,b\n1,x\n,NA\n"",""\n', csv=dialect)[1:] == [{"a": None, "b": None}] * 2

    def test_na_is_text_unless_the_user_says_otherwise(self) -> None:
        assert rows("x.csv", "country\nNA\nDK\n") == [{"country": "NA"}, {"country": "DK"}]

    def test_without_a_header_columns_are_numbered(self) -> None:
        assert rows("x.csv", "1,a\n", csv=CsvDialect(header=False)) == [{"column_1": 1, "column_2": "a"}]

    def test_lines_before_the_header_can_be_skipped(self) -> None:
        assert rows("x.csv", "Report of May\n;;\na,b\n1,2\n", csv=CsvDialect(skip_rows=2)) == [{"a": 1, "b": 2}]

    def test_a_column_without_a_name_gets_one(self) -> None:
        assert rows("x.csv", ",b\n1,2\n") == [{"column_1": 1, "b": 2}]

    @pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-8"])
    def test_other_encodings_are_decoded(self, encoding: str) -> None:
        content = "næme,b\nÅse,1\n".encode(encoding)
        assert rows("x.csv", content, csv=CsvDialect(encoding=encoding)) == [{"næme": "Åse", "b": 1}]

    def test_the_wrong_encoding_is_named(self) -> None:
        with pytest.raises(SourceError, match=r"x\.csv is not text in the encoding .* csv\.encoding"):
            rows("x.csv", "a,b\n1,Åse\n".encode("latin-1"))

    def test_two_columns_of_one_name_are_refused(self) -> None:
        with pytest.raises(SourceError, match=r"x\.csv has two columns called 'a'"):
            rows("x.csv", "a,b,a\n1,2,3\n")

    def test_a_ragged_row_is_named_and_not_shown(self) -> None:
        with pytest.raises(SourceError, match=r"x\.csv .*row 3 has 3 columns instead of 2") as caught:
            rows("x.csv", "a,b\n1,2\n1,2,hidden\n")
        assert "hidden" not in str(caught.value)

    def test_only_the_columns_asked_for_are_parsed(self) -> None:
        assert rows("x.csv", "a,b,c\n1,2,3\n", columns=("c", "a", "gone")) == [{"c": 3, "a": 1}]

    def test_rows_are_counted_when_no_column_is_asked_for(self) -> None:
        assert sum(b.num_rows for b in batches("x.csv", "a\n1\n2\n", columns=())) == 2

    def test_a_row_longer_than_a_block_is_read_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lines, "BLOCK_BYTES", 100)
        text = "a,b\n" + "".join(f"{i},{'x' * (500 if i == 40 else 5)}\n" for i in range(80))
        assert [r["a"] for r in rows("x.csv", text)] == list(range(80))

    def test_a_text_in_a_number_column_widens_it_from_there_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lines, "BLOCK_BYTES", 200)
        found = batches("x.csv", "n\n" + "".join(f"{i}\n" for i in range(200)) + "007\n8\n")
        assert found[0].schema.field("n").type == pa.int64()
        assert found[-1].schema.field("n").type == pa.string()
        assert [str(v) for b in found for v in b.column("n").to_pylist()] == [*map(str, range(200)), "007", "8"]

    def test_a_fraction_in_an_integer_column_makes_it_double(self) -> None:
        found = batches("x.csv", "n\n1\n2.5\n", known={"n": pa.int64()})
        assert found[0].column("n").to_pylist() == [1.0, 2.5]

    def test_a_known_type_is_kept_where_the_values_fit(self) -> None:
        assert batches("x.csv", "n\n1\n", known={"n": pa.float64()})[0].schema.field("n").type == pa.float64()
        assert batches("x.csv", "n\n1\n", known={"n": pa.string()})[0].schema.field("n").type == pa.string()

    def test_a_declared_type_wins(self) -> None:
        declared = {"zip": pa.string(), "price": pa.decimal128(10, 2), "at": TIMESTAMP_UTC, "n": pa.int64()}
        text = "zip,price,at,n\n800,1.50,2024-01-01T00:00:00+01:00,007\n"
        assert rows("x.csv", text, declared=declared) == [
            {"zip": "800", "price": Decimal("1.50"), "at": datetime(2023, 12, 31, 23, tzinfo=UTC), "n": 7}
        ]

    def test_a_value_that_does_not_fit_the_declared_type_is_named_by_its_row(self) -> None:
        text = "n\n" + "1\n" * 60 + "secret\n" + "2\n" * 9
        with pytest.raises(
            SourceError, match=r"'n' of the file x\.csv has a value in row 61 that is no int64"
        ) as caught:
            rows("x.csv", text, declared={"n": pa.int64()})
        assert "secret" not in str(caught.value)


class TestTypesOfText:
    @pytest.mark.parametrize(
        ("texts", "kind"),
        [
            (["1", "-2"], pa.int64()), (["007"], pa.string()), (["+5"], pa.string()), (["0x1F"], pa.string()), (["-0"], pa.string()),
            (["9223372036854775808"], pa.decimal128(38, 0)), (["1" * 39], pa.string()), (["1", "2.5"], pa.float64()),
            (["0.1234567890123456789"], pa.string()), (["0.30000000000000004"], pa.float64()), (["1e400"], pa.string()),
            (["nan"], pa.string()), (["TRUE", "false"], pa.bool_()), (["true", "1"], pa.string()), ([" 5", "6 "], pa.int64()),
            (["2024-02-29"], pa.date32()), (["2023-02-29"], pa.string()), (["2024-01-01 10:00"], TIMESTAMP),
            (["2024-01-01T10:00:00Z", "2024-01-01T10:00:00.5+02:00"], TIMESTAMP_UTC),
            (["2024-01-01T10:00:00Z", "2024-01-01T10:00:00"], pa.string()),
            (["2024-01-01 10:00:00.123456789"], pa.timestamp("ns")), (["23:59:59.5"], pa.time64("us")), (["24:00:00"], pa.string()),
            ([None], pa.null()), (["a"], pa.string()),
        ],
    )  # fmt: skip
    def test_is_the_narrowest_that_loses_nothing(self, texts: list[str | None], kind: pa.DataType) -> None:
        assert infer(pa.array(texts, pa.string())) == kind

    @given(
        st.lists(
            st.one_of(st.none(), st.integers().map(str), st.floats().map(repr), st.text("0123456789.-eE+ ", max_size=6))
        )
    )
    @settings(max_examples=100, deadline=None)
    def test_a_number_can_be_had_back_from_its_column(self, texts: list[str | None]) -> None:
        column = pa.array(texts, pa.string())
        value = cast(column, infer(column))
        assert value is not None
        for text, found in zip(texts, value.to_pylist(), strict=True):
            if isinstance(found, int | float | Decimal) and text is not None:
                assert Decimal(text) == Decimal(repr(found) if isinstance(found, float) else found)

    def test_a_time_of_day_is_parsed(self) -> None:
        value = cast(pa.array(["01:02:03.5", None]), pa.time64("us"))
        assert value is not None
        assert value.to_pylist() == [time(1, 2, 3, 500000), None]

    @pytest.mark.parametrize(
        ("one", "two", "both"),
        [
            (pa.null(), pa.int64(), pa.int64()), (pa.int32(), pa.int64(), pa.int64()), (pa.int64(), pa.uint64(), pa.decimal128(38, 0)),
            (pa.int64(), pa.float64(), pa.float64()), (pa.int64(), pa.decimal128(38, 0), pa.decimal128(38, 0)),
            (pa.decimal128(10, 2), pa.decimal128(8, 4), pa.decimal128(12, 4)), (pa.decimal128(10, 2), pa.float64(), pa.string()),
            (pa.date32(), TIMESTAMP, TIMESTAMP), (TIMESTAMP, TIMESTAMP_UTC, pa.string()), (TIMESTAMP, pa.timestamp("ns"), pa.timestamp("ns")),
            (pa.bool_(), pa.int64(), pa.string()), (pa.string(), JSON, JSON), (pa.date32(), TIMESTAMP_UTC, pa.string()),
        ],
    )  # fmt: skip
    def test_two_types_meet_in_one_that_holds_both(self, one: pa.DataType, two: pa.DataType, both: pa.DataType) -> None:
        assert join(one, two) == both
        assert join(two, one) == both
        assert fits(one, both)

    def test_a_union_keeps_the_order_of_first_appearance(self) -> None:
        one, two = pa.schema([("b", pa.int64()), ("a", pa.null())]), pa.schema([("c", pa.string()), ("a", pa.date32())])
        assert union([one, two]) == pa.schema([("b", pa.int64()), ("a", pa.date32()), ("c", pa.string())])


class TestJsonLines:
    def test_nested_values_become_json_and_strings_stay_text(self) -> None:
        found = batches(
            "x.jsonl", '{"id":1,"zip":"0800","at":"2024-01-01","n":{"a":[1,null]},"ok":true}\n{"id":2,"n":[]}\n'
        )
        assert found[0].schema.types == [pa.int64(), pa.string(), pa.string(), JSON, pa.bool_()]
        assert found[0].to_pylist()[0] == {
            "id": 1,
            "zip": "0800",
            "at": "2024-01-01",
            "n": '{"a":[1,null]}',
            "ok": True,
        }
        assert found[0].to_pylist()[1] == {"id": 2, "zip": None, "at": None, "n": "[]", "ok": None}

    @pytest.mark.parametrize("text", ['{"a":1}\n{"a":2}', '\ufeff{"a":1}\r\n\r\n{"a":2}\r\n', '{"a":1}\n\n{"a":2}\n'])
    def test_is_read_however_its_lines_end(self, text: str) -> None:
        assert rows("x.jsonl", text) == [{"a": 1}, {"a": 2}]

    @pytest.mark.parametrize("text", ["", "\n", "\ufeff"])
    def test_without_rows_it_gives_none(self, text: str) -> None:
        assert batches("x.jsonl", text) == []

    def test_a_key_that_appears_late_is_a_column_from_there_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lines, "BLOCK_BYTES", 200)
        text = "".join(f'{{"a":{i}}}\n' for i in range(100)) + '{"a":100,"late":{"x":1}}\n{"a":101,"late":null}\n'
        found = batches("x.jsonl", text)
        assert found[0].schema.names == ["a"]
        assert found[-1].schema.field("late").type == JSON
        assert [r["a"] for b in found for r in b.to_pylist()] == list(range(102))

    @pytest.mark.parametrize(
        ("value", "kind"), [('"01"', pa.string()), ("1", pa.int64()), ('{"x":1}', JSON), ("true", pa.bool_())]
    )
    def test_a_key_that_was_null_gets_its_type_with_the_first_value(
        self, value: str, kind: pa.DataType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lines, "BLOCK_BYTES", 200)
        found = batches("x.jsonl", '{"a":null}\n' * 60 + f'{{"a":{value}}}\n')
        assert found[0].schema.field("a").type == pa.null()
        assert found[-1].schema.field("a").type == kind

    def test_numbers_and_text_under_one_key_are_text(self) -> None:
        assert rows("x.jsonl", '{"a":1}\n{"a":"x"}\n{"a":true}\n') == [{"a": "1"}, {"a": "x"}, {"a": "true"}]

    def test_scalars_and_objects_under_one_key_are_json(self) -> None:
        assert rows("x.jsonl", '{"a":"x"}\n{"a":{"b":1}}\n') == [{"a": '"x"'}, {"a": '{"b":1}'}]

    def test_a_wide_integer_keeps_its_digits(self) -> None:
        assert rows("x.jsonl", '{"a":12345678901234567890123}\n') == [{"a": Decimal("12345678901234567890123")}]

    def test_a_text_in_a_number_column_widens_it(self) -> None:
        assert rows("x.jsonl", '{"a":"x"}\n', known={"a": pa.int64()}) == [{"a": "x"}]

    def test_declared_types_win(self) -> None:
        declared = {"at": TIMESTAMP_UTC, "n": JSON, "p": pa.decimal128(6, 2), "s": pa.string()}
        found = rows("x.jsonl", '{"at":"2024-01-01T00:00:00Z","n":5,"p":1.5,"s":{"x":1}}\n', declared=declared)
        assert found == [{"at": datetime(2024, 1, 1, tzinfo=UTC), "n": "5", "p": Decimal("1.50"), "s": '{"x":1}'}]

    def test_odd_keys_are_columns(self) -> None:
        assert rows("x.jsonl", '{"it\'s":1,"a.b":2,"say \\"x\\"":3,"$":4}\n') == [
            {"it's": 1, "a.b": 2, 'say "x"': 3, "$": 4}
        ]

    @pytest.mark.parametrize(
        ("text", "row"),
        [
            ('{"a":1}\n{"a":\n', 2),
            ('[{"a":1}]\n', 1),
            ('{"a":1}\nhidden\n', 2),
            ('{"a":1}\n"hidden"\n', 2),
            ('{"a":1}\n[1]\n', 2),
        ],
    )
    def test_what_is_no_object_is_named_by_its_row(self, text: str, row: int) -> None:
        with pytest.raises(SourceError, match=rf"x\.jsonl is not JSON lines: row {row} ") as caught:
            rows("x.jsonl", text)
        assert "hidden" not in str(caught.value)

    @pytest.mark.parametrize("text", ['{"":1}\n', '{"id":1,"Id":2}\n'])
    def test_keys_that_cannot_be_columns_are_refused(self, text: str) -> None:
        with pytest.raises(SourceError, match=r"x\.jsonl has keys that are empty or differ only in case"):
            rows("x.jsonl", text)

    def test_only_the_columns_asked_for_are_parsed(self) -> None:
        assert rows("x.jsonl", '{"a":1,"b":2}\n', columns=("b",)) == [{"b": 2}]
        assert sum(b.num_rows for b in batches("x.jsonl", '{"a":1}\n{}\n', columns=())) == 2

    @given(st.lists(st.dictionaries(st.sampled_from("abc"), st.text(), min_size=1), min_size=1, max_size=8))
    @settings(max_examples=15, deadline=None)
    def test_every_text_survives(self, records: list[dict[str, str]]) -> None:
        import json

        text = "".join(json.dumps(r) + "\n" for r in records)
        found = rows("x.jsonl", text)
        assert [{k: v for k, v in r.items() if v is not None} for r in found] == records


class TestParquet:
    def test_types_become_canonical(self) -> None:
        table = pa.table(
            {
                "s": pa.array([{"x": 1, "y": [1.5]}, None]),
                "l": pa.array([[1, 2], []]),
                "d": pa.array(["a", None]).dictionary_encode(),
                "ms": pa.array([1_500, None], pa.timestamp("ms", "Europe/Copenhagen")),
                "t": pa.array([1, None], pa.time32("s")),
                "f": pa.array([1.5, None], pa.float16()),
                "big": pa.array([Decimal(10) ** 50, None], pa.decimal256(60, 0)),
                "dur": pa.array([timedelta(seconds=1), None], pa.duration("us")),
                "n": pa.nulls(2),
            }
        )
        (batch,) = batches("x.parquet", parquet(table))
        interval = pa.month_day_nano_interval()
        kinds = [
            JSON,
            JSON,
            pa.string(),
            TIMESTAMP_UTC,
            pa.time64("us"),
            pa.float32(),
            pa.string(),
            interval,
            pa.null(),
        ]
        assert batch.schema.types == kinds
        assert batch.schema == sample(file("x.parquet", parquet(table)), Decoding())
        first = batch.to_pylist()[0]
        assert first["s"] == '{"x":1,"y":[1.5]}'
        assert first["ms"] == datetime(1970, 1, 1, 0, 0, 1, 500000, tzinfo=UTC)
        assert first["big"] == "1" + "0" * 50
        assert first["dur"] == pa.MonthDayNano([0, 0, 10**9])
        assert set(batch.to_pylist()[1].values()) == {None, "[]"}

    def test_batches_are_bounded_whatever_the_row_group(self) -> None:
        table = pa.table({"a": pa.array(range(200_000)), "b": pa.repeat("x" * 50, 200_000)})
        found = batches("x.parquet", parquet(table, row_group_size=200_000), batch_bytes=1 << 20)
        assert max(b.nbytes for b in found) <= 1.5 * (1 << 20)
        assert pa.Table.from_batches(found).equals(table)

    def test_a_known_wider_number_type_is_kept_and_a_narrower_one_widened(self) -> None:
        content = parquet(pa.table({"a": pa.array([1], pa.int32())}))
        assert batches("x.parquet", content, known={"a": pa.int64()})[0].schema.field("a").type == pa.int64()
        assert batches("x.parquet", content, known={"a": pa.int16()})[0].schema.field("a").type == pa.int32()

    def test_a_declared_type_must_fit(self) -> None:
        content = parquet(pa.table({"a": ["x"]}))
        with pytest.raises(SourceError, match=r"'a' of the file x\.parquet holds string, which does not fit"):
            rows("x.parquet", content, declared={"a": pa.int64()})

    def test_columns_are_chosen_and_rows_counted_without_any(self) -> None:
        content = parquet(pa.table({"a": [1, 2], "b": [3, 4]}))
        assert rows("x.parquet", content, columns=("b",)) == [{"b": 3}, {"b": 4}]
        assert sum(b.num_rows for b in batches("x.parquet", content, columns=())) == 2

    def test_a_date_and_a_text_are_what_they_were(self) -> None:
        table = pa.table({"d": [date(2024, 1, 1)], "t": ["x"]})
        assert rows("x.pq", parquet(table)) == table.to_pylist()


class TestPacking:
    TEXT = b"a\n1\n2\n"
    ROWS = [{"a": 1}, {"a": 2}]

    @staticmethod
    def zipped(*members: str) -> bytes:
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w") as archive:
            for member in members:
                archive.writestr(member, TestPacking.TEXT)
        return sink.getvalue()

    def test_goes_by_suffix_or_first_bytes(self) -> None:
        for name, content in [
            ("x.csv.gz", gzip.compress(self.TEXT, mtime=0)), ("x.csv", gzip.compress(self.TEXT, mtime=0)), ("x.csv.bz2", bz2.compress(self.TEXT)),
            ("x.csv.zst", pa.compress(self.TEXT, "zstd", asbytes=True)), ("x.csv.zip", self.zipped("x.csv")),
            ("x.CSV.GZ", gzip.compress(self.TEXT, mtime=0)),
        ]:  # fmt: skip
            assert rows(name, content) == self.ROWS, name

    def test_every_member_of_a_gzip_file_is_read(self) -> None:
        assert rows("x.csv.gz", gzip.compress(b"a\n1\n") + gzip.compress(b"2\n")) == self.ROWS

    def test_an_empty_packed_file_has_no_rows(self) -> None:
        assert rows("x.csv.gz", b"") == rows("x.csv.gz", gzip.compress(b"")) == []

    def test_a_zip_file_holds_one_file(self) -> None:
        with pytest.raises(SourceError, match=r"x\.zip holds 2 files"):
            rows("x.zip", self.zipped("a.csv", "b.csv"))

    def test_rows_before_the_damage_come_out_and_then_the_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lines, "BLOCK_BYTES", 10_000)
        packed = gzip.compress(b"a\n" + b"".join(b"%d\n" % (i * i) for i in range(100_000)), 1)
        stream = decode(file("x.csv.gz", packed[:-20]), Decoding())
        assert next(stream).num_rows > 0
        with pytest.raises(SourceError, match=r"x\.csv\.gz is damaged"):
            list(stream)


class TestAFileThatIsNotWhatItsNameSays:
    @pytest.mark.parametrize(
        ("name", "content", "says"),
        [
            ("x.parquet", b"a,b\n1,2\n", "x.parquet is not a Parquet file"),
            ("x.parquet", b"", "x.parquet is not a Parquet file"),
            ("x.parquet", b"PAR1 but not really", "x.parquet cannot be read as parquet"),
            ("x.parquet.gz", gzip.compress(b"PAR1", mtime=0), "x.parquet.gz is packed Parquet"),
            ("x.csv.gz", b"a,b\n1,2\n", "x.csv.gz is not gzip"),
            ("x.csv", b"PAR1\x00\x01", "x.csv is not csv text: it looks like a Parquet file"),
            ("x.csv", b"\x7fELF\x00\x00", "x.csv is not csv text: it looks like binary data"),
            ("x.jsonl", b"%PDF-1.7", "x.jsonl is not jsonl text: it looks like a PDF"),
            ("x.csv.zip", b"PK\x03\x04 torn", "x.csv.zip is damaged"),
        ],
    )
    def test_is_a_source_error_with_its_name(self, name: str, content: bytes, says: str) -> None:
        with pytest.raises(SourceError) as caught:
            rows(name, content)
        assert str(caught.value).startswith(f"The file {says}")
        assert caught.value.fix

    def test_a_name_that_says_nothing_leaves_it_to_the_content(self) -> None:
        assert rows("part-0", parquet(pa.table({"a": [1]}))) == rows("part-1", '{"a":1}\n') == rows("part-2", "a\n1\n")

    def test_the_format_can_be_told(self) -> None:
        assert rows("x.dat", "a\n1\n", format=FileFormat.CSV) == [{"a": 1}]


class TestTrouble:
    @pytest.mark.parametrize(
        ("error", "kind"),
        [(FileNotFoundError(2, "gone"), TransientError), (PermissionError(13, "no"), SourceError), (ConnectionResetError(104, "reset"), TransientError)],
    )  # fmt: skip
    def test_is_sorted_by_who_has_to_act(self, error: OSError, kind: type[Exception]) -> None:
        def fail() -> pa.NativeFile:
            raise error

        with pytest.raises(kind, match=r"x\.csv"):
            list(decode(File("x.csv", fail), Decoding()))

    def test_reading_is_lazy(self) -> None:
        opened: list[str] = []

        def open_() -> pa.NativeFile:
            opened.append("x")
            return pa.BufferReader(b"a\n1\n")

        stream = decode(File("x.csv", open_), Decoding())
        assert opened == []
        assert next(stream).num_rows == 1
