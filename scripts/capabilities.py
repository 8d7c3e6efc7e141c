"""The table of what each warehouse can do, made from the contract that each has signed and from what it declared there.

Nobody writes a cell. "yes" stands where the contract's test has to pass for that warehouse, "no" where it has to fail, which is as strict: both are
red in `make test` when they are wrong. Where a test is passed over, the cell says so.
"""

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

from elt_dagster.errors import ContractError
from elt_dagster.testing._destination_bench import NASTY, Capabilities
from elt_dagster.testing._destination_loads import LoadTests
from elt_dagster.testing._destination_tables import TableTests
from elt_dagster.testing._destination_versions import VersionTests
from elt_dagster.testing.destination import TESTS, DestinationContract

CONTRACTS = Path(__file__).parent.parent / "tests" / "contract"
INTRODUCTION = """# What each warehouse can do

Every warehouse signs one contract, a class of tests (`elt_dagster.testing.destination`). This table is made from it: a line is a test, in its own words;
**yes** means that it has to pass for this warehouse, **no** that it has to fail (an unexpected success is an error), for the reason in the note.
*emulated* means that it passes on a stand-in, which proves what we send and not what the vendor answers.
"""
VENDORS = {"databricks", "snowflake"}
"""Warehouses that are nowhere but at their vendor's: our tests never reach them, whatever they declare."""
_SECTION = re.compile(r"\s*# --- (.*)")
_TEST = re.compile(r"\s*def (test_\w+)\(")
Signed = type[DestinationContract]


@dataclass
class Notes:
    """Footnotes, each told once."""

    texts: dict[str, int] = field(default_factory=dict[str, int])

    def __call__(self, text: str) -> str:
        """The mark of a note that says ``text``."""
        return f" [{self.texts.setdefault(text, len(self.texts) + 1)}]"


def page() -> str:
    """The text of ``docs/warehouses/index.md``."""
    signed = contracts()
    notes = Notes()
    lines = [INTRODUCTION]
    for section, tests in sections():
        lines += [
            f"## {section[0].upper()}{section[1:]}",
            "",
            f"| | {' | '.join(_heading(c, signed) for c in signed)} |",
            "|---" * (len(signed) + 1) + "|",
        ]
        lines += [f"| {_words(test)} | {' | '.join(cell(c, test, notes) for c in signed)} |" for test in tests] + [""]
    lines += ["## Notes", "", *(f"{number}. {text}" for text, number in notes.texts.items()), ""]
    return "\n".join(lines)


def contracts() -> list[Signed]:
    """The classes that have signed the contract, by the name of their warehouse.

    Raises ContractError for one whose tests would not all run, or that declares a parameter that its test does not have.
    """
    found: list[Signed] = []
    for path in sorted(CONTRACTS.glob("test_*.py")):
        if re.search(r"\(DestinationContract\b", path.read_text()):
            module = importlib.import_module(f"tests.contract.{path.stem}")
            found += [c for c in vars(module).values() if _has_signed(c, module)]
    for signed in found:
        _check(signed)
    return sorted(found, key=lambda c: (c.warehouse.name, c.__name__))


def _has_signed(kind: object, module: ModuleType) -> TypeGuard[Signed]:
    if not (isinstance(kind, type) and issubclass(kind, DestinationContract)):
        return False
    return kind.__module__ == module.__name__ and kind.__name__.startswith("Test")


def _check(signed: Signed) -> None:
    marks = [*getattr(signed, "pytestmark", ()), *_as_list(getattr(inspect.getmodule(signed), "pytestmark", ()))]
    if passed_over := [mark.name for mark in marks if mark.name in ("skip", "skipif", "xfail")]:
        raise ContractError(f"{signed.__name__} is marked {passed_over[0]}: what it does not run it cannot show.")
    for declared in signed.can.unsupported:
        test, _, parameter = declared.partition("[")
        if parameter and parameter.removesuffix("]") not in parameters(test):
            raise ContractError(f"{signed.__name__} declares {declared}, and {test} has no such parameter.")


def sections() -> Iterator[tuple[str, list[str]]]:
    """The contract's tests in the order they are written, by the headings they stand under."""
    for part in (LoadTests, TableTests, VersionTests):
        heading, tests = "", list[str]()
        for line in inspect.getsource(part).splitlines():
            if found := _SECTION.match(line):
                if tests:
                    yield heading, tests
                heading, tests = found[1], []
            elif found := _TEST.match(line):
                tests.append(found[1])
        yield heading, tests


def cell(signed: Signed, test: str, notes: Notes) -> str:
    """What the table says of one test in one warehouse."""
    can = signed.can
    stand_in = can.stand_in or ("see its tests" if signed.warehouse.name in VENDORS else "")
    if not can.processes and "pytest.skip(" in inspect.getsource(function(test)):
        return "not tested" + notes("A second process cannot reach the warehouse that this is tested with.")
    refused = {
        parameter: reason for parameter in parameters(test) if (reason := can.refusal(test, parameter)) is not None
    }
    if len(refused) == len(parameters(test)) and len(set(refused.values())) == 1:
        return "no" + notes(next(iter(refused.values())))
    does = "*emulated*" + notes(f"Tested with a stand-in: {stand_in}.") if stand_in else "yes"
    for reason in dict.fromkeys(refused.values()):
        does += f", not {', '.join(p for p, r in refused.items() if r == reason)}" + notes(reason)
    return does + _limits(can, test, notes)


def _limits(can: Capabilities, test: str, notes: Notes) -> str:
    if test == "test_any_name_will_do" and can.names != NASTY:
        return notes(f"Without these names: {', '.join(f'`{name}`' for name in NASTY if name not in can.names)}.")
    if "many_columns" in test:
        return f" ({can.many_columns})"
    return ""


def parameters(test: str) -> list[str]:
    """pytest's ids of the parameters of one of the contract's tests; one empty text when it has none."""
    for mark in getattr(function(test), "pytestmark", ()):
        if mark.name == "parametrize":
            return [str(value) for value in mark.args[1]]
    return [""]


def function(test: str) -> Any:
    """The contract's test of that name."""
    if test not in TESTS:
        raise ContractError(f"The contract has no test {test}.")
    return getattr(DestinationContract, test)


def _heading(signed: Signed, beside: list[Signed]) -> str:
    title = signed.warehouse.title.partition(" (")[0]
    alone = sum(other.warehouse is signed.warehouse for other in beside) == 1
    variant = signed.variant or ("" if alone else signed.__name__.removeprefix("Test"))
    return f"{title} ({variant})" if variant else title


def _words(test: str) -> str:
    return test.removeprefix("test_").replace("_", " ")


def _as_list(marks: Any) -> list[Any]:
    return list(marks) if isinstance(marks, (list, tuple)) else [marks]
