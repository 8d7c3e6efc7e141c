"""A YAML file that is wrong says where, what was found, what is allowed, and never a secret; one that is right comes back the same."""

import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elt_dagster.control.yaml_document import read_documents
from elt_dagster.control.yaml_file import load_project, parse_project, to_yaml
from elt_dagster.errors import ConfigError
from elt_dagster.model import ConnectionSpec, LoadMode, Project, SyncSpec

GOOD = """\
connections:
  - name: shop-db
    connector: postgres
    config: {host: 127.0.0.1, password: {env: SHOP_DB_PASSWORD}}
syncs:
  - slug: shop
    connection: shop-db
    destination: warehouse
    schema: raw_shop
    schedule: {cron: "*/10 * * * *", timezone: Europe/Copenhagen}
    streams:
      - {name: public.orders, load_mode: merge, primary_key: [id]}
      - name: public.customers
"""


def refusal(text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        parse_project(text, "shop.yaml")
    return str(raised.value).splitlines()


def sync(lines: str) -> str:
    body = "".join(f"    {line}\n" for line in lines.splitlines())
    return f"syncs:\n  - slug: a\n    connection: c\n    destination: d\n    schema: s\n{body}"


def test_a_good_file_becomes_a_project() -> None:
    project = parse_project(GOOD, "shop.yaml").project
    assert project.syncs[0].dataset == "raw_shop"
    assert project.syncs[0].streams[0].load_mode is LoadMode.MERGE
    assert project.connections[0].config["password"] == {"env": "SHOP_DB_PASSWORD"}


def test_a_wrong_word_is_answered_with_line_field_value_and_what_is_allowed() -> None:
    assert refusal(GOOD.replace("load_mode: merge", "load_mode: merg")) == [
        "shop.yaml:12:42: syncs[0].streams[0].load_mode: found 'merg'; allowed: append, replace, merge. Did you mean 'merge'?"
    ]


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    text = GOOD.replace("connector:", "conector:").replace("raw_shop", "5").replace("*/10", "99")
    lines = refusal(text)
    assert [line.split(": ")[0] for line in lines] == [
        "shop.yaml:2:5",
        "shop.yaml:3:5",
        "shop.yaml:9:13",
        "shop.yaml:10:22",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("syncs:\n\t- slug: a\n", "shop.yaml:2:1: YAML syntax"),
        ("syncs: [\n", "YAML syntax"),
        (sync("schedule: {cron: */5 * * * *}"), "Put quotes around text that begins with *"),
        (sync("schedule:\n  cron: *five"), "the alias *five has no anchor"),
        (sync("name: a\nname: b"), "shop.yaml:7:5: syncs[0].name: is there twice; the first is in line 6."),
        (sync("freshnes_sla_seconds: 60"), "syncs[0].freshnes_sla_seconds: unknown key. Did you mean 'freshness_sla_seconds'?"),
        (sync("streams: [{name: a, primry_key: [id]}]"), "syncs[0].streams[0].primry_key: unknown key. Did you mean 'primary_key'?"),
        (sync("streams: [{name: a, primary_key: id}]"), "found 'id'; expected a list. Write [id]."),
        (sync("streams: {name: a}"), "syncs[0].streams: found a mapping; expected a list."),
        (sync("name: 5"), "found 5; expected text. Put it in quotes."),
        (sync("schedule: hourly"), "found 'hourly'; expected a mapping"),
        (sync("execution: {max_concurrent: lots}"), "found 'lots'; expected a whole number."),
        (sync("execution: {max_concurrent: 0}"), "found 0; must be at least 1."),
        (sync("freshness_sla_seconds: 5"), "found 5; must be at least 60."),
        (sync("schedule: {cron: '61 * * * *'}"), "'61 * * * *' is not a valid cron expression"),
        (sync("schedule: {cron: '30 2 31 2 *'}"), "names a day that never comes"),
        (sync("schedule: {cron: '@daily', timezone: Europe/Copenhagn}"), "Did you mean 'Europe/Copenhagen'?"),
        (sync("schedule: {cron: '@daily', timezone: ../etc/passwd}"), "there is no time zone"),
        (sync("streams: [{name: a.orders}, {name: b.orders}]"),
         "shop.yaml:6:33: syncs[0].streams[1]: streams 'a.orders' and 'b.orders' would both load the table 'orders'"),
        (sync("streams: [{name: orders}, {name: orders, table: more}]"),
         "shop.yaml:6:38: syncs[0].streams[1].name: the stream 'orders' is there twice."),
        (sync("owners: [team:data, bob]"), "shop.yaml:6:25: syncs[0].owners[1]: 'bob' is no owner; allowed:"),
        ("syncs: [{slug: My Shop}]", "found 'My Shop'; allowed: lower-case letters and digits, joined by - or _. How about 'my-shop'?"),
        ("syncs: [{slug: a}]", "syncs[0].connection: is missing. It is: The source connection."),
        ("sync: []", "sync: unknown key. Did you mean 'syncs'?"),
        ("- a\n- b\n", "found a list; expected a mapping with connections and syncs."),
        ("syncs: 5", "syncs: found 5; expected a list."),
        ("syncs:\n- slug: a\n- slug: b\n- slug: a\n", "shop.yaml:4:9: syncs[2].slug: 'a' is there twice; the first is in line 2."),
        ("connections: [!!python/object/apply:os.system [ls]]", "the tag"),
        ("connections: [{name: !!python/name:os.system x}]", "is not allowed here"),
        ("? [a, b]\n: c\n", "a key must be plain text."),
        ("a: &x [*x]\n", "the alias *x contains itself"),
        ("connections: [{name: c, connector: x, config: {n: .inf}}]", "must be a finite number"),
        ("connections: [{name: c, connector: x, config: {n: !!int abc}}]", "is not of the type its tag"),
        ("connections: \x07", "control character"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_where_it_stands(text: str, expected: str) -> None:
    lines = refusal(text)
    assert any(expected in line for line in lines), lines
    assert all(line.startswith("shop.yaml:") for line in lines), lines


@pytest.mark.parametrize("text", ["", "\n# only a comment\n", "---\n---\n", "connections: []\n", "syncs:\n"])
def test_an_empty_file_says_so(text: str) -> None:
    assert "names no connections and no syncs" in refusal(text)[0]


@pytest.mark.parametrize(
    "config",
    [
        "hunter2",
        "[hunter2]",
        "{password: {env: 5, x: hunter2}}",
        "{a: 1, a: hunter2}",
        "{k: !!binary hunter2}",
        "{k: !x hunter2}",
    ],
)
def test_what_stands_below_config_is_never_shown(config: str) -> None:
    text = f"connections: [{{name: c, connector: 5, config: {config}}}]"
    assert "hunter2" not in "".join(refusal(text))


def test_a_secret_under_a_mistyped_key_is_not_shown() -> None:
    assert "hunter2" not in "".join(
        refusal("connections: [{name: c, connector: x, confg: {password: hunter2}, pasword: hunter2}]")
    )


def test_nesting_without_end_is_refused_and_not_a_crash() -> None:
    assert refusal("[" * 100_000)[0].startswith("shop.yaml:1:")
    assert "nested deeper" in refusal("syncs: " + "[" * 500 + "]" * 500)[0]


def test_aliases_that_multiply_are_refused_quickly() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
    )
    with pytest.raises(ConfigError, match="too many values"):
        parse_project(f"{bomb}syncs: *a11\n", "shop.yaml")


def test_several_documents_are_one_project() -> None:
    head, _, tail = GOOD.partition("syncs:")
    project = parse_project(f"---\n{head}---\nsyncs:{tail}---\n", "shop.yaml").project
    assert len(project.connections) == len(project.syncs) == 1


def test_a_problem_in_the_second_document_has_its_own_line() -> None:
    assert refusal(f"{GOOD}---\nsyncs:\n  - slug: shop\n")[0].startswith(
        "shop.yaml:16:5: syncs[1].connection: is missing"
    )


def test_anchors_and_merge_keys_work() -> None:
    text = "syncs:\n- &a {slug: a, connection: c, destination: d, schema: s}\n- {<<: *a, slug: b}\n"
    assert [s.slug for s in parse_project(text, "x").project.syncs] == ["a", "b"]


def test_dates_and_clock_times_stay_text() -> None:
    text = "connections: [{name: c, connector: x, config: {since: 2024-01-01, at: 12:30, on: yes, no: 0x10}}]"
    config = parse_project(text, "x").project.connections[0].config
    assert config == {"since": "2024-01-01", "at": "12:30", "on": True, "no": 16}


def test_a_file_that_is_not_utf8_says_where(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_bytes(b"syncs:\n  - name: Caf\xe9\n")
    with pytest.raises(ConfigError, match=r"shop\.yaml:2:14: the file is not UTF-8"):
        load_project(path)


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(GOOD, encoding="utf-8-sig")
    assert load_project(path).syncs[0].slug == "shop"


def test_a_missing_file_is_answered_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(GOOD)
    with pytest.raises(ConfigError, match=r"Did you mean 'shop\.yaml'\?"):
        load_project(tmp_path / "shp.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_project(tmp_path)


def test_a_dash_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(GOOD.encode())))
    assert load_project("-").syncs[0].slug == "shop"


def test_later_checks_can_point_into_the_file() -> None:
    file = parse_project(GOOD, "shop.yaml")
    assert file.locate(("syncs", 0, "streams", 1, "name")) == "shop.yaml:13:15"
    assert file.locate(("syncs", 0, "streams", 1, "cursor_field")) == "shop.yaml:13:9", (
        "what is around a field that was left out"
    )


_texts = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=20)
_plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_texts, _plain, max_size=4), st.lists(_texts.filter(bool), max_size=3, unique=True))
def test_a_project_written_as_yaml_is_read_back_the_same(config: dict[str, object], names: list[str]) -> None:
    streams = [{"name": name, "table": f"t{i}", "excluded_columns": [name]} for i, name in enumerate(names)]
    sync_spec = SyncSpec.model_validate(
        {"slug": "a", "connection": "c", "destination": "c", "schema": "s", "streams": streams}
    )
    project = Project(connections=(ConnectionSpec(name="c", connector="x", config=config),), syncs=(sync_spec,))
    assert parse_project(to_yaml(project), "x").project == project


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    documents, flaws = read_documents(text)
    assert isinstance(documents, list)
    assert all(flaw.mark.line >= 1 and flaw.mark.column >= 1 for flaw in flaws)
