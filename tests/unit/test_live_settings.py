"""Settings of a sync against the schema that a connector gives: in its draft, with sentences, and without fetching anything."""

from typing import Any

import pytest

from elt_dagster.control.live_settings import complaints
from elt_dagster.errors import ContractError

NEW, OLD = "https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#"
OPTIONS = [{"const": "123456", "title": "One"}, {"const": "987654", "title": "Two"}]


def told(settings: dict[str, Any], properties: dict[str, Any], **schema: Any) -> list[tuple[Any, ...]]:
    return complaints(settings, {"type": "object", "properties": properties, **schema}, connector="x")


@pytest.mark.parametrize("draft", [NEW, OLD])
@pytest.mark.parametrize("word", ["anyOf", "oneOf"])
def test_options_beside_a_list_are_those_of_its_items(draft: str, word: str) -> None:
    accounts = {"accounts": {"type": "array", word: OPTIONS}}
    assert told({"accounts": ["123456", "987654"]}, accounts, **{"$schema": draft}) == []
    found = told({"accounts": ["123456", "98765"]}, accounts, **{"$schema": draft})
    assert found == [(("accounts", 1), "found '98765'; allowed: 123456, 987654. Did you mean '987654'?")]


def test_the_draft_that_is_named_decides_what_a_word_means() -> None:
    pair = {"pair": {"items": [{"type": "string"}, {"type": "integer"}]}}
    assert told({"pair": ["a", "b"]}, pair, **{"$schema": OLD}) == [(("pair", 1), "found 'b'; expected integer.")]
    with pytest.raises(ContractError, match="is no JSON Schema"):
        told({"pair": ["a", "b"]}, pair, **{"$schema": NEW})


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, (("region",), "is missing. allowed: north, south.")),
        ({"region": "nort"}, (("region",), "found 'nort'; allowed: north, south. Did you mean 'north'?")),
        ({"region": 7}, (("region",), "found 7; allowed: north, south.")),
        ({"region": "north", "regoin": 1}, (("regoin",), "unknown setting. Did you mean 'region'?")),
        ({"region": "north", "day": "soon"}, (("day",), "'soon' is not a 'date'.")),
        ({"region": "north", "deep": {"down": []}}, (("deep", "down"), "found list; expected string.")),
    ],
)  # fmt: skip
def test_a_complaint_names_the_place_and_what_is_allowed(settings: dict[str, Any], complaint: Any) -> None:
    properties = {
        "region": {"enum": ["north", "south"]},
        "day": {"type": "string", "format": "date"},
        "deep": {"type": "object", "properties": {"down": {"type": "string"}}},
    }
    assert told(settings, properties, required=["region"], additionalProperties=False) == [complaint]


def test_every_missing_setting_is_told_once() -> None:
    found = told({}, {}, required=["a", "ab", "b"])
    assert found == [(("a",), "is missing."), (("ab",), "is missing."), (("b",), "is missing.")]


@pytest.mark.parametrize(
    "schema", [{"$ref": "http://127.0.0.1:9/never"}, {"type": 3}, {"$schema": "https://example.com/ours"}], ids=str
)
def test_what_is_no_schema_is_the_connectors_fault_and_nothing_is_fetched(schema: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match="connector 'x'"):
        complaints({"a": 1}, schema, connector="x")
