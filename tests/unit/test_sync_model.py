"""A sync says what is wrong with it when it is written."""

from typing import Any

import dagster as dg
import pydantic
import pytest

from elt_dagster.errors import ConfigError
from elt_dagster.model import Project, SyncSpec, TriggerMode
from elt_dagster.model.secret import MASK, mask, resolve


def spec(**changes: Any) -> SyncSpec:
    base: dict[str, Any] = {
        "slug": "shop", "connection": "shop-db", "destination": "warehouse", "schema": "raw_shop",
        "streams": [{"name": "public.orders"}],
    }  # fmt: skip
    return SyncSpec.model_validate({**base, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": {"cron": "30 2 31 2 *"}}, "a day that never comes"),
        ({"schedule": {"cron": "every day"}}, "not a cron expression"),
        ({"schedule": {"cron": "61 * * * *"}}, "not a valid cron"),
        ({"schedule": {"cron": "* * * * *", "timezone": "Europe/Copenhagn"}}, "Europe/Copenhagen"),
        ({"trigger_mode": "scheduled"}, "needs a schedule"),
        ({"freshness_sla_seconds": 30}, "greater than or equal to 60"),
        ({"streams": [{"name": "a.orders"}, {"name": "b.orders"}]}, "would both load the table 'orders'"),
        ({"streams": [{"name": "o", "excluded_columns": ["id"], "primary_key": ["id"]}]}, "are excluded"),
        ({"streams": [{"name": "o", "cursor_field": "at", "hashed_columns": ["at"]}]}, "hashes do not grow"),
        ({"streams": [{"name": "o", "protected_from_full_sync": True, "full_sync_always": True}]}, "contradicts"),
        ({"streams": [{"name": "o", "table": "My Table"}]}, "use 'my_table'"),
        ({"streams": [{"name": "o"}, {"name": "o", "table": "p"}]}, "stream 'o' is there twice"),
        ({"streams": [{"name": "o", "table": "_elt_state"}]}, "those that hold our state"),
        ({"streams": [{"name": "public._elt_state"}]}, "those that hold our state"),
        ({"streams": [{"name": "o", "primary_key": ["id", "id"]}]}, "'id' is there twice"),
        ({"schema": "information_schema"}, "belongs to the warehouse"),
        ({"schema": "PG_CATALOG"}, "belongs to the warehouse"),
        ({"owners": ["a@example.com", "bob"]}, "'bob' is no owner"),
        ({"owners": ["team:"]}, "'team:' is no owner"),
        ({"tags": {"a b": "c"}}, "'a b' is no tag"),
        ({"tags": {"a": "b c"}}, "the value of a tag"),
        ({"no_such": 1}, "Extra inputs"),
        ({"slug": "Not a slug"}, "pattern"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        spec(**changes)


def test_owners_and_tags_that_pass_are_those_that_dagster_takes() -> None:
    passing = spec(owners=["a.b@example.com", "team:data"], tags={"domain": "sales", "acme/tier-1": ""})
    dg.AssetSpec("orders", owners=list(passing.owners), tags=passing.tags)


def test_an_error_never_repeats_a_secret() -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        Project.model_validate({"connections": [{"name": "a", "connector": 7, "config": {"password": "CANARY"}}]})
    assert "CANARY" not in str(caught.value)


def test_defaults_follow_from_what_is_there() -> None:
    assert spec().trigger is TriggerMode.MANUAL
    assert spec(schedule={"cron": "@hourly"}).trigger is TriggerMode.SCHEDULED
    assert spec().streams[0].table_name == "orders"
    assert spec().title == "shop"


def test_every_field_has_a_description() -> None:
    for name, schema in Project.model_json_schema()["$defs"].items():
        for field, definition in schema.get("properties", {}).items():
            assert definition.get("description"), f"{name}.{field} needs a docstring"


def test_references_are_resolved_and_named_when_missing(tmp_path: Any) -> None:
    (tmp_path / "key").write_text("from file\n")
    config = {"password": {"env": "PW"}, "nested": [{"key": {"file": str(tmp_path / "key")}}], "port": 1}
    assert resolve(config, {"PW": "x"}) == {"password": "x", "nested": [{"key": "from file"}], "port": 1}
    with pytest.raises(Exception, match=r"config\.password refers to the environment variable PW, which is not set"):
        resolve(config, {})
    (tmp_path / "key").write_bytes(b"\xff\xfecanary")
    with pytest.raises(
        ConfigError, match=r"config\.nested\[0\]\.key refers to the file .*/key, which is not UTF-8 text"
    ):
        resolve(config, {"PW": "x"})


def test_masks_hide_literals_and_keep_references() -> None:
    masked = mask({"password": "x", "token": {"env": "T"}, "host": "h"}, frozenset({"password", "token"}))
    assert masked == {"password": MASK, "token": {"env": "T"}, "host": "h"}
