"""dlt as a warehouse signs the destination contract on DuckDB; what it cannot do is declared, and fails as declared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest

from elt_dagster.destinations.dlt import Dlt
from elt_dagster.testing.destination import Capabilities, DestinationContract

_NO_HISTORY = "dlt knows no history tables that are kept in the commit of the table; refused at the start."
_NO_MARKS = "dlt removes deleted rows (hard_delete) and keeps no marked ones; refused at the start."
_NO_WINDOWS = "dlt merges by key and cannot replace the rows of a span of time; refused at the start."
_ALL_OR_NOTHING = "A value that does not fit fails the load, and nothing is committed: dlt has no place for rejected rows."
_TYPES_STAY = "dlt changes no column's type and removes no column."
_REWRITES = "dlt's merge rewrites rows that did not change, so they count as updated."
_NAMES = "Names with quotes, per cent signs and the like are changed by dlt or taken for parameters by its drivers; refused at the start."
_TEXT, _MICROSECONDS = "dlt has no such type; the column is text", "dlt's own timestamps count microseconds"
_WIDER = "dlt has no such type; the column is the next wider one, and the values are the same"
UNSUPPORTED = {
    **dict.fromkeys(
        (
            "test_history_has_every_version_once",
            "test_history_begins_with_the_table_as_it_is",
            "test_history_sees_a_value_come_and_go",
            "test_a_full_refresh_goes_on_with_the_history",
            "test_a_history_can_begin_anew",
            "test_a_deleted_row_has_no_current_version",
            "test_a_history_follows_the_columns",
            "test_a_history_commits_with_its_table_or_not_at_all",
            "test_a_strangers_table_is_no_history",
            "test_a_history_sees_what_a_window_changes",
        ),
        _NO_HISTORY,
    ),
    **dict.fromkeys(
        (
            "test_a_marked_row_keeps_its_values",
            "test_a_marked_row_comes_back_to_life",
            "test_a_full_refresh_marks_what_is_gone_once",
            "test_a_full_refresh_that_ignores_deletes_keeps_what_is_gone",
            "test_a_refresh_that_keeps_rows_keeps_their_columns",
        ),
        _NO_MARKS,
    ),
    **dict.fromkeys(
        (
            "test_a_window_is_replaced_and_the_rest_stays",
            "test_a_window_of_a_table_that_is_not_there_makes_it",
            "test_a_row_that_moved_into_a_window_is_there_once",
            "test_a_window_that_keeps_deleted_rows_marks_them",
        ),
        _NO_WINDOWS,
    ),
    **dict.fromkeys(
        (
            "test_a_value_out_of_range_is_set_aside_and_the_rest_is_loaded",
            "test_text_that_is_no_json_is_set_aside",
            "test_a_row_that_is_rejected_again_is_listed_once",
        ),
        _ALL_OR_NOTHING,
    ),
    **dict.fromkeys(
        ("test_evolve_widens_step_by_step_and_keeps_every_value", "test_a_replace_takes_the_columns_as_they_are_now"),
        _TYPES_STAY,
    ),
    **dict.fromkeys(
        (
            "test_merge_counts_inserted_updated_and_leaves_the_unchanged",
            "test_a_value_that_did_not_change_is_no_update",
            "test_many_columns_that_did_not_change_are_no_update",
        ),
        _REWRITES,
    ),
    **dict.fromkeys(("test_any_name_will_do", "test_a_schema_of_any_name_will_do"), _NAMES),
}


def settings(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {
        "destination": "duckdb",
        "credentials": str(tmp_path / "x.duckdb"),
        "working_directory": str(tmp_path / "work"),
        **more,
    }


class TestDltOnDuckDB(DestinationContract):
    warehouse = Dlt
    variant = "with DuckDB"
    can = Capabilities(
        unsupported=UNSUPPORTED,
        missing_types={
            **dict.fromkeys(("uint8", "uint16", "uint32", "uint64", "float"), _WIDER),
            **dict.fromkeys(("uuid", "interval"), _TEXT),
            **dict.fromkeys(("timestamp_ns", "timestamp_ns_utc"), _MICROSECONDS),
        },
        comments=False,
        processes=False,  # not of this DuckDB file; a warehouse with a server has no such limit
    )

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, Any]:
        return settings(tmp_path)

    def run_sql(self, config: Mapping[str, Any], statement: str) -> None:
        with duckdb.connect(config["credentials"]) as connection:
            connection.execute(statement)
