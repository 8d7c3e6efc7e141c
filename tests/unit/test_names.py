"""Names become identifiers the same way for ever: tables would change theirs otherwise."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elt_dagster.errors import ConfigError
from elt_dagster.model.names import MAX_LENGTH, check_collisions, slugify, snake_case, table_name


@pytest.mark.parametrize(
    ("name", "identifier"),
    [
        ("OrderID", "order_id"),
        ("orderId2", "order_id2"),
        ("HTTPServer", "http_server"),
        ("Umsatz (€)", "umsatz"),
        ("naïve café", "naive_cafe"),
        ("a.b-c d", "a_b_c_d"),
        ("_private", "_private"),
        ("2nd", "_2nd"),
        ("already_snake", "already_snake"),
    ],
)
def test_known_names(name: str, identifier: str) -> None:
    assert snake_case(name) == identifier


@given(st.text(max_size=120))
def test_every_name_becomes_a_stable_identifier(name: str) -> None:
    identifier = snake_case(name)
    assert re.fullmatch(r"[a-z_][a-z0-9_]*", identifier)
    assert len(identifier) <= MAX_LENGTH
    assert snake_case(identifier) == identifier


def test_long_names_that_start_alike_stay_apart() -> None:
    assert snake_case("x" * 80 + "a") != snake_case("x" * 80 + "b")


def test_a_stream_names_its_table_after_its_last_part() -> None:
    assert table_name("public.Orders") == "orders"
    assert table_name("orders") == "orders"


def test_a_title_becomes_a_slug() -> None:
    assert slugify("Shop database #2") == "shop-database-2"


def test_columns_that_fall_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="'Order ID' and 'order_id' would both be called 'order_id'"):
        check_collisions(["Order ID", "order_id"], what="stream 'orders'")
