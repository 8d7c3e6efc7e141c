"""schemathesis over the whole OpenAPI document: whatever is sent, the answer is one that the document promises, and never a 5xx.

What was sent and answered is summed up in a file, by operation: `docs/api/schemathesis.md` is made of it with ELT_DAGSTER_SCHEMATHESIS_SUMMARY.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import checks as known_checks
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks as openapi_checks

from tests.unit import api_server
from tests.unit.api_server import Place

SUMMARY = "ELT_DAGSTER_SCHEMATHESIS_SUMMARY"
CHECKS = [
    known_checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
]
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large, HealthCheck.large_base_example]
FEW, MANY = 3, 40
Told = dict[str, Counter[int]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A workspace with a sync of every kind, and a run that ended."""
    folder = tmp_path_factory.mktemp("schemathesis")
    with pytest.MonkeyPatch.context() as patch, api_server.opened("sqlite", folder) as store:
        api_server.shelves(patch)
        server = api_server.serve(store)
        yield api_server.settle(server, folder)


@pytest.fixture(scope="module")
def ids(place: Place) -> dict[str, list[str]]:
    """What is really there, by the name of the parameter that may be it."""
    made = place.ask(
        "POST",
        "/elt_syncs",
        201,
        json={"connection_id": place.source, "destination_schema_name": "one", "sync_interval": "0 6 * * *"},
    )
    added = place.ask(
        "POST",
        f"/elt_syncs/{made['id']}/source_streams",
        201,
        json={"source_streams": [{"name": "orders"}, {"name": "customers"}]},
    )
    streams = [s["id"] for s in added["source_streams"]]
    place.ask("POST", f"/elt_syncs/{made['id']}/start", 204)
    run = place.runs.views[0].id
    return {
        "/connections": [place.source, place.warehouse], "/elt_syncs": [made["id"]], "/elt_streams": streams,
        "/elt_stream_runs": [f"{run}.{streams[0]}"], "sync_id": [made["id"]], "run_id": [run], "loaderId": [made["id"]], "runId": [run],
        "/api/v1/workspaces": [place.id], "provider": ["shelf"],
    }  # fmt: skip


@dataclass
class Stage:
    """The document of the running application, what is there, and how often each operation answered what."""

    schema: Any
    place: Place
    ids: dict[str, list[str]]
    told: Told = field(default_factory=dict[str, Counter[int]])


@pytest.fixture(scope="module")
def stage(place: Place, ids: dict[str, list[str]]) -> Iterator[Stage]:
    """Everything, and the summary when all is done."""
    made = Stage(schemathesis.openapi.from_asgi("/openapi.json", place.server.app), place, ids)
    yield made
    if path := os.environ.get(SUMMARY):
        Path(path).write_text(_summary(made.told))


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("dialect", ["connect", "syncs", "loaders"])
def test_every_answer_is_one_that_the_document_promises(stage: Stage, dialect: str, mode: GenerationMode) -> None:
    _send(stage, dialect, mode, FEW)


@pytest.mark.again("many more requests")
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("dialect", ["connect", "syncs", "loaders"])
def test_every_answer_of_many_is_one_that_the_document_promises(
    stage: Stage, dialect: str, mode: GenerationMode
) -> None:
    _send(stage, dialect, mode, MANY)


def _send(stage: Stage, dialect: str, mode: GenerationMode, examples: int) -> None:
    failures: list[str] = []
    for result in stage.schema.get_all_operations():
        operation = result.ok()
        if _dialect(operation.path) != dialect:
            continue
        try:
            _exercise(stage, operation, mode, examples)
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE, operation.label  # what takes nothing cannot be sent anything wrong
        except (Exception, BaseExceptionGroup) as error:
            failures.append(f"{operation.label}: {_told(error)}")
    assert not failures, "\n\n".join(failures)


def _exercise(stage: Stage, operation: Any, mode: GenerationMode, examples: int) -> None:
    place, ids = stage.place, stage.ids
    counted = stage.told.setdefault(operation.label, Counter())
    real = mode is GenerationMode.POSITIVE

    @seed(5)
    @settings(
        max_examples=examples, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=SLOW,
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
    def sent(case: Any, data: st.DataObject) -> None:
        if real:
            _name_what_is_there(case.body, ids)
            # what is really there stays there, or nothing could be found in the end
            for name in list(case.path_parameters or {}) if operation.method != "delete" else []:
                known = ids.get(name) or ids.get(_first(operation.path), [])
                mostly: int = data.draw(st.integers(0, 4))
                if known and mostly:
                    case.path_parameters[name] = data.draw(st.sampled_from(known))
        response = case.call(headers={"x-api-key": place.key})
        counted[response.status_code] += 1
        assert place.token not in response.text
        case.validate_response(response, checks=CHECKS)

    sent()


def _name_what_is_there(body: Any, ids: dict[str, list[str]]) -> None:
    """Connections of a body are ones that are there, or every answer would be that they are not."""
    if isinstance(body, dict):
        source, warehouse = ids["/connections"]
        for name, value in (("connection_id", source), ("connectionId", source), ("source_id", warehouse)):
            if name in body:
                body[name] = value
        body.pop("destination_connection_id", None)


def test_sequences_of_requests_are_answered_as_the_document_promises(stage: Stage) -> None:
    _walk(stage, examples=6, steps=6)


@pytest.mark.again("longer sequences, and more of them")
def test_long_sequences_of_requests_are_answered_as_the_document_promises(stage: Stage) -> None:
    _walk(stage, examples=100, steps=20)


def _walk(stage: Stage, *, examples: int, steps: int) -> None:
    # without its connections a workspace has nothing to tell
    machine = stage.schema.exclude(method="DELETE", path="/connections/{id}").as_state_machine()
    place, told = stage.place, stage.told

    class Walk(machine):  # type: ignore[misc,valid-type]  # made of the document
        """What one answer names the next request may use."""

        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            _name_what_is_there(case.body, stage.ids)
            return {"headers": {"x-api-key": place.key}}

        def validate_response(self, response: Any, case: Any, **kwargs: Any) -> None:
            told.setdefault(case.operation.label, Counter())[response.status_code] += 1
            case.validate_response(response, checks=CHECKS)

    Walk.run(
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, database=None, derandomize=True,
            phases=[Phase.generate], suppress_health_check=SLOW,
        )
    )  # fmt: skip


def test_nothing_is_answered_without_a_key(stage: Stage) -> None:
    open_paths = (
        "/healthz",
        "/readyz",
        "/connection_bridges/authorize",
        "/connection_bridges/callback",
        "/connection_bridges/static",
    )
    asked = 0
    for result in stage.schema.get_all_operations():
        operation = result.ok()
        if operation.path.startswith(open_paths):
            continue
        path = operation.path.replace("{", "").replace("}", "")
        for headers in ({}, {"x-api-key": "wrong-key-0123456789"}, {"authorization": "Basic YTpi"}):
            answer = stage.place.client.request(operation.method, path, headers={"x-api-key": "", **headers})
            assert answer.status_code == 401, (operation.label, answer.text)
        asked += 1
    assert asked > 30


def _dialect(path: str) -> str:
    if path.startswith("/api/v1/workspaces"):
        return "loaders"
    return "syncs" if path.startswith("/api/v1/") else "connect"


def _first(path: str) -> str:
    if path.startswith("/api/v1/workspaces"):
        return "/api/v1/workspaces"
    return "/" + path.strip("/").partition("/")[0]


def _told(error: BaseException) -> str:
    inner = getattr(error, "exceptions", None)
    text = "\n".join(_told(e) for e in inner) if inner else str(error)
    return f"{type(error).__name__}: {text[:1500]}"


def _summary(told: Told) -> str:
    rows = [
        f"| `{label}` | {sum(counts.values())} | {', '.join(f'{s}: {n}' for s, n in sorted(counts.items()))} |"
        for label, counts in sorted(told.items())
    ]
    total = sum(sum(c.values()) for c in told.values())
    broken = sum(n for c in told.values() for s, n in c.items() if s >= 500)
    head = [
        "# What schemathesis says", "",
        f"{total:,} requests to {len(told)} operations, single and in sequences; {broken} answers of 5xx, none that the document does not promise.",
        "", "| operation | requests | answers |", "|---|---|---|",
    ]  # fmt: skip
    return "\n".join([*head, *rows, ""])
