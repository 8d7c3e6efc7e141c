"""The contract is worth what it catches: each mutant breaks the shop's connector in one place, and one named test must notice."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar

import httpx
import pyarrow as pa
import pytest
from pydantic import SecretStr

from elt_dagster.errors import EltError, TransientError
from elt_dagster.model import Batch, Catalog, Checkpoint, CheckResult, ReadRequest
from elt_dagster.sdk import ApiKey, Config, Connector, Cursor, Endpoint, Http, NextUrl, Offset, PageSize, Stop
from elt_dagster.sdk.http import Answer
from elt_dagster.sdk.pages import Call
from elt_dagster.testing import HttpConnectorContract
from tests.contract.shop import KEY, Shop, ShopSource


class TestShop(HttpConnectorContract):
    """The unbroken connector keeps the contract."""

    connector = Shop
    settings = {"api_key": KEY}
    source = ShopSource


def altered(name: str, **changes: Any) -> tuple[Endpoint, ...]:
    """The shop's endpoints with one of them changed."""
    return tuple(replace(e, **changes) if e.name == name else e for e in Shop.endpoints)


MUTANTS: list[tuple[type[Connector[Any]], str]] = []


def caught_by(test: str, config: type[Config] | None = None) -> Callable[[type[Connector[Any]]], type[Connector[Any]]]:
    """Register a mutant and the test that has to fail on it."""

    def register(mutant: type[Connector[Any]]) -> type[Connector[Any]]:
        if config is not None:  # a base class that names its settings would set them again for its heirs
            mutant.config_type = config
        MUTANTS.append((mutant, test))
        return mutant

    return register


@caught_by("test_it_has_a_name_a_title_and_a_link")
class NoName(Shop):
    """Its name is no identifier."""

    name = "My Shop"


class OpenConfig(Config):
    """A key that is no secret."""

    api_key: str
    """The key."""


@caught_by("test_secrets_are_declared_secret", config=OpenConfig)
class OpenSecret(Shop):
    """The key would be shown in forms."""


class WordlessConfig(Config):
    """A setting without words."""

    api_key: SecretStr


@caught_by("test_every_setting_is_described", config=WordlessConfig)
class Wordless(Shop):
    """Nobody knows what to enter."""


class LaxConfig(Config):
    """Takes anything."""

    model_config = {"extra": "ignore"}
    api_key: SecretStr
    """The key."""


@caught_by("test_an_unknown_setting_is_refused", config=LaxConfig)
class Lax(Shop):
    """A typo stays unnoticed."""


@caught_by("test_making_one_asks_nothing")
class Eager(Shop):
    """Asks in its constructor."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.check()


@caught_by("test_check_says_yes")
class CheckFails(Shop):
    """Checks a path that is not there."""

    endpoints = (Endpoint(name="ghosts", path="ghosts"), *Shop.endpoints)


@caught_by("test_check_says_no_in_words")
class CheckShowsTheKey(Shop):
    """Puts the key into its message."""

    def check(self) -> CheckResult:
        result = super().check()
        return CheckResult(result.ok, f"{result.message} (key {self.config.api_key.get_secret_value()})")


@caught_by("test_check_says_no_in_words")
class CheckAlwaysYes(Shop):
    """Says yes to a wrong key."""

    def check(self) -> CheckResult:
        return CheckResult(True, "fine")


@caught_by("test_discover_is_stable")
class Shuffled(Shop):
    """Lists its streams in another order each time."""

    turns: ClassVar[list[int]] = []

    def discover(self, settings: Any = None) -> Catalog:
        self.turns.append(1)
        streams = tuple(super().discover())
        return Catalog(streams if len(self.turns) % 2 else streams[::-1])


@caught_by("test_every_known_stream_is_discovered")
class Forgetful(Shop):
    """Does not list the customers."""

    endpoints = Shop.endpoints[:2]


@caught_by("test_discovered_types_are_canonical")
class Exotic(Shop):
    """Declares a type no warehouse is told about."""

    endpoints = altered(
        "customers", schema=pa.schema([("id", pa.int64()), ("name", pa.large_string()), ("joined", pa.string())])
    )


@caught_by("test_cursors_and_keys_are_columns")
class WrongKey(Shop):
    """Names a key that is not there, behind the back of discover."""

    def discover(self, settings: Any = None) -> Catalog:
        return Catalog(tuple(replace(s, primary_key=("uuid",)) for s in super().discover()))


@caught_by("test_cursors_and_keys_are_columns")
class UnorderableCursor(Shop):
    """Offers true and false as a cursor."""

    def discover(self, settings: Any = None) -> Catalog:
        return Catalog(
            tuple(replace(s, cursor_fields=("paid",)) if s.name == "orders" else s for s in super().discover())
        )


@caught_by("test_every_row_is_read_once")
class FirstPageOnly(Shop):
    """Never asks for a second page."""

    endpoints = altered("orders", pagination=NextUrl(at="nowhere"))


@caught_by("test_every_row_is_read_once")
class StopsEarly(Shop):
    """Takes a page that is shorter than it asked for as the last one, though the source caps its pages."""

    endpoints = altered("customers", pagination=Offset(size=PageSize(size=100), stop=Stop(short_page=True)))


@caught_by("test_every_row_is_read_once")
class Twice(Shop):
    """Yields everything twice."""

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        for batch in super().read(request):
            yield batch
            yield Batch(batch.data)


@caught_by("test_every_row_is_read_once")
class DropsTheLast(Shop):
    """Loses the last row of each batch."""

    def transform(self, endpoint: Endpoint, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.slice(0, max(0, batch.num_rows - 1))


@caught_by("test_values_arrive_as_they_are")
class Rounds(Shop):
    """Reads large integers as floats."""

    endpoints = altered(
        "orders",
        schema=pa.schema([("id", pa.string()), ("updated_at", pa.timestamp("us", "UTC")), ("big", pa.float64())]),
    )


@caught_by("test_reading_is_lazy")
class Impatient(Shop):
    """Reads everything before it is asked for the first batch."""

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        return iter(list(super().read(request)))


@caught_by("test_one_page_is_enough_for_the_first_batch")
class Collector(Shop):
    """Collects all pages before the first batch."""

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        yield from list(super().read(request))


@caught_by("test_batches_have_the_declared_schema")
class OtherOrder(Shop):
    """Yields its columns backwards."""

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        for batch in super().read(request):
            yield replace(batch, data=batch.data.select(batch.data.schema.names[::-1]))


@caught_by("test_only_the_columns_asked_for_come")
class AllColumns(Shop):
    """Ignores which columns are wanted."""

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        return super().read(replace(request, columns=None))


@caught_by("test_batches_are_bounded")
class OneBigBatch(Shop):
    """Ignores how large a batch may be."""

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        table = pa.Table.from_batches([b.data for b in super().read(replace(request, columns=None))])
        repeated = pa.concat_tables([table] * 5).combine_chunks()
        yield Batch(repeated.to_batches()[0])


@caught_by("test_a_checkpoint_never_runs_ahead_of_the_rows")
class AheadOfTheRows(Shop):
    """Saves the last position with the first batch."""

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        batches = list(super().read(request))
        last = batches[-1].checkpoint
        yield from (replace(b, checkpoint=last) for b in batches)


@caught_by("test_resuming_loses_nothing")
class SavesUnsorted(Shop):
    """Saves on the way through a list without order."""

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        field, high = request.cursor_field, None
        for batch in super().read(request):
            if field and batch.data.num_rows:
                high = max([v for v in (high, *batch.data.column(field).to_pylist()) if v is not None])
                batch = replace(batch, checkpoint=Checkpoint(high))  # noqa: PLW2901
            yield batch


@caught_by("test_the_last_batch_carries_a_checkpoint")
class NeverSaves(Shop):
    """Has no checkpoints."""

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        return (replace(b, checkpoint=None) for b in super().read(request))


@caught_by("test_ties_at_the_checkpoint_are_read_again")
class StrictlyLater(Shop):
    """Asks for what is later than the checkpoint, not for what is as late."""

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        since = request.since.cursor if request.since else None
        for batch in super().read(request):
            keep = [v != since for v in batch.data.column(request.cursor_field or "").to_pylist()] if since else None
            yield batch if keep is None else replace(batch, data=batch.data.filter(pa.array(keep, pa.bool_())))


@caught_by("test_incremental_reads_less")
class ForgetsTheParameter(Shop):
    """Never sends the start, and does not filter."""

    endpoints = altered("orders", cursor=Cursor(field="updated_at", start_param="sinse"))


@caught_by("test_an_unknown_stream_is_refused")
class Obliging(Shop):
    """Reads nothing from a stream that does not exist."""

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        return super().read(request) if request.stream.name in ("orders", "events", "customers") else iter(())


class Hasty(Http):
    """Sends each request once."""

    def fetch(self, call: Call, rules: Any = ()) -> Answer:
        return self._once(call, rules)


@caught_by("test_a_busy_source_is_waited_for")
class NoPatience(Shop):
    """Gives up at the first 503."""

    def http(self) -> Http:
        return Hasty(self.base_url, title=self.title, runtime=self.runtime, auth=self.auth())


@caught_by("test_a_lost_connection_is_tried_again")
class NoSecondTry(NoPatience):
    """Gives up at the first lost connection."""


class Deaf(Http):
    """Does not listen to Retry-After."""

    def _asked_to_wait(self, response: httpx.Response) -> float | None:
        return None


class DeafShop(Shop):
    def http(self) -> Http:
        return Deaf(self.base_url, title=self.title, runtime=self.runtime, auth=self.auth())


@caught_by("test_a_busy_source_is_waited_for")
class ComesBackTooEarly(DeafShop):
    """Waits as long as it likes."""


@caught_by("test_a_long_wait_is_handed_to_the_scheduler")
class SleepsOn(DeafShop):
    """Does not tell anybody when to come back."""


class Stubborn(Http):
    """Tries for ever."""

    def fetch(self, call: Call, rules: Any = ()) -> Answer:
        while True:
            try:
                return self._once(call, rules)
            except TransientError:
                continue


@caught_by("test_a_dead_source_is_given_up")
class NeverGivesUp(Shop):
    """Keeps a worker busy for ever."""

    def http(self) -> Http:
        return Stubborn(self.base_url, title=self.title, runtime=self.runtime, auth=self.auth())


@caught_by("test_refusal_while_reading_is_an_error_without_secrets")
class SwallowsErrors(Shop):
    """Takes a refusal for the end of the list."""

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        try:
            yield from super().read(request)
        except EltError:
            return


@caught_by("test_a_login_page_is_not_data")
class TakesAnything(SwallowsErrors):
    """Takes a login page for an empty table."""


@caught_by("test_something_that_is_not_json_is_an_error")
class TakesHalf(SwallowsErrors):
    """Takes half a page for an empty table."""


@caught_by("test_pagination_never_goes_round_in_circles")
class EndlessRounds(SwallowsErrors):
    """Stops at the first sign of trouble instead of saying so."""


class Trusting(Http):
    """Goes wherever it is sent."""

    def same_host(self, url: httpx.URL) -> httpx.URL:
        return url


class TrustingShop(Shop):
    def http(self) -> Http:
        return Trusting(self.base_url, title=self.title, runtime=self.runtime, auth=self.auth())


@caught_by("test_a_link_to_another_host_is_not_followed")
class FollowsLinks(TrustingShop):
    """Takes the key to another host."""


@caught_by("test_a_redirect_to_another_host_is_not_followed")
class FollowsRedirects(TrustingShop):
    """Takes the key to another host, by redirect."""


@caught_by("test_no_secret_reaches_a_log")
class Talkative(Shop):
    """Logs its headers."""

    def auth(self) -> httpx.Auth:
        logging.getLogger("shop").debug("using key %s", self.config.api_key.get_secret_value())
        return ApiKey("X-Api-Key", self.config.api_key)


def fails(mutant: type[Connector[Any]], test: str) -> bool:
    """Whether ``test`` of the contract fails on ``mutant``."""

    class Suite(HttpConnectorContract):
        connector = mutant
        settings = {"api_key": KEY}
        source = ShopSource

    try:
        getattr(Suite(), test)()
    except pytest.skip.Exception:
        return False
    except (Exception, pytest.fail.Exception):
        return True
    return False


@pytest.mark.parametrize(("mutant", "test"), MUTANTS, ids=[m.__name__ for m, _ in MUTANTS])
def test_a_mutant_is_caught(mutant: type[Connector[Any]], test: str) -> None:
    assert fails(mutant, test), f"{mutant.__name__} ({mutant.__doc__}) passes {test}"


def test_there_are_enough_mutants() -> None:
    assert len(MUTANTS) >= 20
