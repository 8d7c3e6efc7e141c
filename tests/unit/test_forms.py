"""Settings into forms and back: what is written into a form and sent unchanged says what it said before."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elt_dagster.control.form_fields import DEEPEST, Kind, build_form
from elt_dagster.control.forms import MOST_ITEMS, fill_form, read_form, with_another_item, without_item
from elt_dagster.control.secrets import secret_fields
from elt_dagster.control.validate import find_kinds
from elt_dagster.model.secret import MASK
from elt_dagster.registry import connector_names, destination_names
from tests.unit.bridge_stage import FormedConfig, as_json

SECRETS = secret_fields(FormedConfig)
FORM = build_form(FormedConfig.model_json_schema(), SECRETS)
WORD = st.text("abc xyz:ü'\"<&", min_size=1, max_size=8).map(str.strip).filter(bool)
NAME = WORD.filter(lambda w: ":" not in w and w not in ("env", "file"))
PLAIN = st.none() | st.booleans() | st.integers(-9, 9) | WORD
CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "port": st.integers(1, 65535), "share": st.floats(allow_nan=False, allow_infinity=False), "mode": st.sampled_from(["fast", "slow"]),
        "safe": st.booleans(), "loud": st.booleans(), "names": st.lists(WORD, min_size=1, max_size=3), "prefix": st.text("ab ", min_size=1),
        "headers": st.dictionaries(NAME, WORD, min_size=1, max_size=3), "limits": st.fixed_dictionaries({"rows": st.integers(1, 9)}),
        "anything": st.dictionaries(NAME, PLAIN | st.lists(PLAIN), min_size=1, max_size=3),
        "auth": st.fixed_dictionaries({"kind": st.just("person"), "user": WORD}, optional={"level": st.integers(1, 9)}),
        "shelves": st.lists(
            st.fixed_dictionaries({"name": WORD}, optional={"tags": st.lists(WORD, min_size=1, max_size=2)}), min_size=1, max_size=3
        ),
    },
)  # fmt: skip


@given(CONFIGS)
def test_settings_survive_the_form(config: dict[str, Any]) -> None:
    answers = read_form(FORM, fill_form(FORM, config).data)
    assert set(answers.problems) == {"password"}
    given, read = ({"password": "x", **c} for c in (config, answers.config))
    assert as_json(FormedConfig(**read).model_dump(mode="json")) == as_json(
        FormedConfig(**given).model_dump(mode="json")
    )


@given(
    st.dictionaries(
        st.sampled_from(sorted(fill_form(FORM, {}).data)) | st.text(max_size=12), st.lists(st.text(), max_size=2)
    )
)
def test_whatever_is_sent_there_is_an_answer(data: dict[str, list[str]]) -> None:
    answers = read_form(FORM, data)
    assert not [name for name in answers.config if name not in FormedConfig.model_fields]


@pytest.mark.parametrize("name", sorted({*connector_names(), *destination_names()}))
def test_the_defaults_of_a_connector_are_left_out(name: str) -> None:
    kinds = find_kinds(name)
    kind = kinds.source or kinds.warehouse
    assert kind is not None
    form = build_form(kind.config_type.model_json_schema(), kinds.secrets)
    left = read_form(form, fill_form(form, {}).data).config
    assert set(left) <= {"pagination", "auth"}, left
    assert all(f.label and (f.hint or f.kind is Kind.GROUP) for f in form)


def test_secrets_and_references_are_kept_and_not_shown() -> None:
    config = {
        "password": MASK,
        "host": {"env": "HOST"},
        "auth": {"kind": "key", "key": {"file": "/k"}},
        "pem_private_key": MASK,
    }
    filled = fill_form(FORM, config)
    assert MASK not in str(filled.data)
    assert "HOST" not in str(filled.data)
    assert read_form(FORM, filled.data, filled.kept).config == config
    data = {**filled.data, "password": ["new"], "auth#kind": [""]}
    assert read_form(FORM, data, filled.kept).config == {
        "password": "new",
        "host": {"env": "HOST"},
        "pem_private_key": MASK,
    }


@pytest.mark.parametrize(("field", "text"), [
    ("port", "1e3"), ("port", "9" * 5000), ("share", "nan"), ("share", "inf"), ("share", "1e999"), ("anything", "{" * 100_000), ("anything", "[1,"),
    ("host", "a\x00b"), ("host", "a\ud800"), ("headers", ": x"), ("anything", '{"a": {"file": "/etc/passwd"}}'),
], ids=lambda value: value[:8].encode("unicode_escape").decode())  # fmt: skip
def test_what_cannot_be_read_is_a_problem_of_its_field(field: str, text: str) -> None:
    answers = read_form(FORM, {"password": ["x"], field: [text]})
    assert set(answers.problems) == {field}
    assert math.isfinite(len(answers.problems[field]))


def test_items_have_an_end() -> None:
    data = with_another_item({"shelves#count": ["1"], "shelves[0]": ["1"]}, "shelves")
    assert data == {"shelves#count": ["2"], "shelves[0]": ["1"], "shelves[1]": ["1"]}
    assert without_item({**data, "shelves[1].name": ["x"]}, "shelves[1]") == {
        "shelves#count": ["2"],
        "shelves[0]": ["1"],
    }
    for count in ("-1", "x", "", "9" * 400, "²"):
        assert read_form(FORM, {"password": ["x"], "shelves#count": [count], "shelves[0]": ["1"]}).config == {
            "password": "x"
        }
    many = {"password": ["x"], "shelves#count": ["99999"], **{f"shelves[{n}]": ["1"] for n in range(MOST_ITEMS + 50)}}
    assert len(read_form(FORM, many).config["shelves"]) == MOST_ITEMS


def test_a_schema_that_contains_itself_ends_in_json() -> None:
    node = {"type": "object", "properties": {"below": {"$ref": "#/$defs/Node"}}}
    form = build_form({"type": "object", "properties": {"tree": {"$ref": "#/$defs/Node"}}, "$defs": {"Node": node}}, ())
    depth, it = 0, form[0]
    while it.fields:
        depth, it = depth + 1, it.fields[0]
    assert (depth, it.kind) == (DEEPEST, Kind.JSON)
