"""What a warehouse declares it cannot do is held against it, and the table in the docs says no more than the tests show."""

import uuid
from pathlib import Path
from typing import Any

import pytest

from elt_dagster.destinations.duckdb import DuckDB
from elt_dagster.errors import ContractError
from elt_dagster.testing.destination import TESTS, Capabilities, DestinationContract
from scripts import capabilities
from scripts.capabilities import Notes, cell, parameters, sections

SIGNED = """
import pytest
from elt_dagster.destinations.duckdb import DuckDB
from elt_dagster.testing.destination import Capabilities, DestinationContract

class TestIt(DestinationContract):
    warehouse = DuckDB
    can = Capabilities(unsupported={unsupported!r}, missing_types={missing_types!r})

    @pytest.fixture
    def config(self, tmp_path):
        return {{"path": str(tmp_path / "w.duckdb"), "memory_limit": {memory_limit!r}}}
"""
APPEND = "test_append_adds_to_what_is_there"
EMPTY = "test_a_load_of_nothing_makes_an_empty_table_with_a_state"
TYPES = "test_every_canonical_type_comes_back_exactly"


class Outcomes:
    """A plugin of pytest that notes what became of each test."""

    def __init__(self) -> None:
        self.seen: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call":
            self.seen[report.nodeid.rpartition("::")[2]] = "xfailed" if hasattr(report, "wasxfail") else report.outcome


def outcomes(folder: Path, chosen: str, *, memory_limit: str | None = None, **declared: Any) -> dict[str, str]:
    """Run the chosen tests of a DuckDB that declares things of itself."""
    declared = {"unsupported": {}, "missing_types": {}, **declared}
    file = folder / f"test_it_{uuid.uuid4().hex}.py"  # a module is imported once
    file.write_text(SIGNED.format(memory_limit=memory_limit, **declared))
    noted = Outcomes()
    pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--noconftest", "--rootdir", str(folder), "-c", "/dev/null",
                 str(file), "-k", chosen], plugins=[noted])  # fmt: skip
    return noted.seen


def test_a_test_that_passes_although_it_is_declared_unsupported_is_an_error(tmp_path: Path) -> None:
    assert outcomes(tmp_path, APPEND, unsupported={APPEND: "because"}) == {APPEND: "failed"}


def test_a_test_that_fails_as_declared_is_an_expected_failure(tmp_path: Path) -> None:
    limits = {"memory_limit": "1KB"}  # with which a load is refused by an error of ours
    assert outcomes(tmp_path, APPEND, unsupported={APPEND: "because"}, **limits) == {APPEND: "xfailed"}
    assert outcomes(tmp_path, APPEND, **limits) == {APPEND: "failed"}


def test_one_parameter_can_be_declared_and_a_type_that_is_kept_is_an_error(tmp_path: Path) -> None:
    found = outcomes(tmp_path, EMPTY, unsupported={f"{EMPTY}[merge]": "because"})
    assert found == {f"{EMPTY}[append]": "passed", f"{EMPTY}[merge]": "failed", f"{EMPTY}[replace]": "passed"}
    assert outcomes(tmp_path, f"{TYPES} and date", missing_types={"date": "because"})[f"{TYPES}[date]"] == "failed"


def test_a_name_that_no_test_has_is_refused() -> None:
    with pytest.raises(TypeError, match="test_that_is_not_there"):

        class _Signed(DestinationContract):
            warehouse = DuckDB
            can = Capabilities(unsupported={"test_that_is_not_there[x]": "because"})


def test_a_test_of_the_contract_cannot_be_overridden() -> None:
    with pytest.raises(TypeError, match=APPEND):

        class _Signed(DestinationContract):
            warehouse = DuckDB

            def test_append_adds_to_what_is_there(self) -> None:  # type: ignore[override] # what is refused
                pass


# --- the table


def signed_as(**declared: Any) -> type[DestinationContract]:
    """DuckDB with other declarations."""
    return type("TestOther", (DestinationContract,), {"warehouse": DuckDB, "can": Capabilities(**declared)})


def test_every_test_of_the_contract_is_a_line_of_the_table() -> None:
    assert sorted(test for _, tests in sections() for test in tests) == sorted(TESTS)


def test_a_cell_says_what_is_declared() -> None:
    notes = Notes()
    assert cell(signed_as(), APPEND, notes) == "yes"
    assert cell(signed_as(unsupported={APPEND: "Because."}), APPEND, notes) == "no [1]"
    assert cell(signed_as(unsupported={f"{EMPTY}[merge]": "No."}), EMPTY, notes) == "yes, not merge [2]"
    assert cell(signed_as(missing_types={"uuid": "Because."}), TYPES, notes) == "yes, not uuid [1]"
    assert cell(signed_as(stand_in="a toy"), APPEND, notes) == "*emulated* [3]"
    assert cell(signed_as(comments=False), "test_descriptions_become_comments", notes).startswith("no")
    assert list(notes.texts)[:2] == ["Because.", "No."]


def test_what_is_passed_over_is_not_called_a_yes() -> None:
    assert cell(signed_as(processes=False), "test_processes_load_side_by_side", Notes()).startswith("not tested")


def test_a_vendors_warehouse_is_never_called_a_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "VENDORS", {"duckdb"})
    assert cell(signed_as(), APPEND, Notes()).startswith("*emulated*")


def test_a_parameter_that_its_test_does_not_have_is_refused() -> None:
    with pytest.raises(ContractError, match=r"\[upsert\]"):
        capabilities._check(signed_as(unsupported={f"{EMPTY}[upsert]": "Because."}))


def test_a_class_that_is_skipped_is_refused() -> None:
    skipped = pytest.mark.skipif(True, reason="not today")(signed_as())
    with pytest.raises(ContractError, match="skipif"):
        capabilities._check(skipped)


def test_parameters_are_called_as_pytest_calls_them() -> None:
    assert parameters(EMPTY) == ["append", "replace", "merge"]
    assert parameters(APPEND) == [""]
