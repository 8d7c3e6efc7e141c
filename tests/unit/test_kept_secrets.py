"""A secret that is kept by a mask or a reference goes where it went before, and what is on the server is told from what is elsewhere."""

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import Field, SecretStr

from elt_dagster.control.kept_secrets import Update, address_fields
from elt_dagster.control.secrets import fill_masks
from elt_dagster.control.validate import Kinds, find_kinds
from elt_dagster.model import Catalog, CheckResult
from elt_dagster.model.secret import MASK
from elt_dagster.sdk.connector import Config, Connector
from elt_dagster.sdk.places import ADDRESS, LOCAL, NO_ADDRESS, NOT_LOCAL

POSTGRES: dict[str, Any] = {"host": "db.example", "database": "shop", "user": "reader", "password": "s3cret"}
HTTP: dict[str, Any] = {
    "base_url": "https://api.example/v1",
    "auth": {"type": "api_key", "api_key": "s3cret"},
    "secret_headers": {"X-A": "s3cret"},
    "streams": [{"name": "things", "path": "things"}],
}
OWN = ["url", "storage_options"]
FILES: dict[str, Any] = {"url": "s3://bucket/x", "storage_options": {"key": "k", "secret": "s3cret"}}


def refused(
    kinds: Kinds | str, stored: Mapping[str, Any], sent: Mapping[str, Any], *, references: bool = True
) -> dict[tuple[str | int, ...], str]:
    """What is said about an update, by path."""
    kinds = find_kinds(kinds) if isinstance(kinds, str) else kinds
    filled = fill_masks(sent, stored, kinds.secrets, what="it")
    update = Update(kinds=kinds, sent=sent, filled=filled, stored=stored, references_too=references)
    return {problem.path: problem.text for problem in update.problems()}


# --- which settings are an address -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("connector", "fields"),
    [
        ("postgres", {"host", "port", "sslmode", "sslrootcert"}),
        ("salesforce", {"domain", "login_url"}),
        ("files", {"url", "storage_options"}),
        ("duckdb", set[str]()),
        ("snowflake", {"account", "oauth_token_url", "host", "port", "protocol"}),
        ("databricks", {"host"}),
        ("dlt", {"destination", "options"}),
    ],
)
def test_every_connector_says_where_it_goes(connector: str, fields: set[str]) -> None:
    assert set(address_fields(find_kinds(connector))) == fields


def test_addresses_deep_in_the_settings_are_found() -> None:
    found = set(address_fields(find_kinds("http_api")))
    assert {"base_url", "auth.token_url", "auth.login_url", "headers", "streams.headers", "verify_certificate"} <= found
    assert not found & {"streams.path", "streams.name", "auth.client_id", "timeout_seconds"}


class OddConfig(Config):
    """Names that say nothing, or the wrong thing."""

    where: str = Field(default="", json_schema_extra=ADDRESS)
    url_style: str = Field(default="", json_schema_extra=NO_ADDRESS)
    account_id: str = ""
    key: SecretStr | None = None
    drawer: str = Field(default="", json_schema_extra=LOCAL)
    path: str = Field(default="", json_schema_extra=NOT_LOCAL)
    log_file: str = ""
    note: str = ""


class Odd(Connector[OddConfig]):
    """A source for tests."""

    name, title, docs_url = "odd", "Odd", "https://example.com"

    def check(self) -> CheckResult:
        raise NotImplementedError

    def discover(self, settings: Mapping[str, Any] | None = None) -> Catalog:
        raise NotImplementedError

    def read(self, request: Any) -> Any:
        raise NotImplementedError


def test_a_field_may_say_itself_whether_it_is_an_address() -> None:
    odd = Kinds(Odd, None)
    assert set(address_fields(odd)) == {"where"}
    stored = {"where": "a", "key": "s3cret"}
    assert set(refused(odd, stored, {"where": "b", "key": MASK})) == {("key",)}
    assert not refused(odd, stored, {"where": "a", "url_style": "x", "account_id": "9", "key": MASK})


# --- masks -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [{"host": "evil.example"}, {"port": 6432}, {"sslmode": "disable"}], ids=["host", "port", "sslmode"]
)
def test_a_masked_secret_is_not_sent_to_another_place(change: dict[str, Any]) -> None:
    said = refused("postgres", POSTGRES, {**POSTGRES, "password": MASK, **change})
    assert set(said) == {("password",)}
    assert said["password",].startswith(f"/password is kept as it is, and {next(iter(change))} changed.")
    assert "again" in said["password",]
    assert not refused("postgres", POSTGRES, {**POSTGRES, "password": "typed", **change})


@pytest.mark.parametrize("change", [
    {}, {"database": "other"}, {"user": "other"}, {"port": 5432}, {"port": "5432"}, {"sslmode": "prefer"}, {"schemas": ["a"]}, {"sslrootcert": None},
], ids=["nothing", "database", "user", "default", "digits", "sslmode", "schemas", "null"])  # fmt: skip
def test_a_mask_goes_on_while_the_place_is_the_same(change: dict[str, Any]) -> None:
    assert not refused("postgres", POSTGRES, {**POSTGRES, "password": MASK, **change})


def test_a_place_that_is_left_out_is_another_place() -> None:
    assert refused("postgres", POSTGRES, {k: v for k, v in POSTGRES.items() if k != "host"} | {"password": MASK})


@pytest.mark.parametrize("change", [
    {"base_url": "https://evil.example/v1"}, {"headers": {"Host": "evil.example"}}, {"secret_headers": {"X-A": MASK, "Host": "evil.example"}},
    {"streams": [{"name": "things", "path": "things", "headers": {"host": "evil.example"}}]}, {"verify_certificate": False},
], ids=["base_url", "headers", "secret_headers", "streams", "certificate"])  # fmt: skip
def test_requests_of_http_apis_stay_with_the_host_that_their_secrets_are_for(change: dict[str, Any]) -> None:
    masked = {**HTTP, "auth": {"type": "api_key", "api_key": MASK}, "secret_headers": {"X-A": MASK}}
    assert not refused("http_api", HTTP, {**masked, "streams": [{"name": "other", "path": "others"}], "concurrency": 2})
    assert set(refused("http_api", HTTP, {**masked, **change})) == {("auth", "api_key"), ("secret_headers", "X-A")}


def test_the_address_of_a_token_counts_as_well() -> None:
    auth = {
        "type": "oauth2",
        "token_url": "https://id.example/token",
        "client_secret": "s3cret",
        "refresh_token": "s3cret",
    }
    stored = {**HTTP, "auth": auth}
    sent = {
        **stored,
        "auth": {**auth, "token_url": "https://evil.example", "client_secret": MASK},
        "secret_headers": {},
    }
    assert ("auth", "client_secret") in refused("http_api", stored, sent)


def test_nothing_is_put_beside_a_masked_secret_of_which_nobody_knows_what_it_does() -> None:
    options = {"key": "k", "secret": MASK}
    assert not refused("files", FILES, {**FILES, "storage_options": options})
    leading = {**options, "endpoint_url": "https://evil.example"}
    assert set(refused("files", FILES, {**FILES, "storage_options": leading})) == {("storage_options", "secret")}
    assert refused("files", FILES, {**FILES, "url": "s3://evil-bucket", "storage_options": options})


# --- references --------------------------------------------------------------------------------------------------------------


def test_a_reference_that_is_kept_is_a_secret_for_whoever_may_not_write_one() -> None:
    stored = {**POSTGRES, "password": {"env": "SHOP_PASSWORD"}}
    moved = {**stored, "host": "evil.example"}
    assert set(refused("postgres", stored, moved)) == {("password",)}
    assert not refused("postgres", stored, moved, references=False)
    assert not refused("postgres", stored, {**stored, "database": "other"})
    # what stands at the address is no secret that goes there
    assert not refused("postgres", {**stored, "host": {"env": "H"}}, {**stored, "host": {"env": "H"}, "user": "x"})
    assert refused("postgres", {**stored, "host": {"env": "H"}}, {**stored, "host": {"env": "OTHER"}})


# --- what is on this machine -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("connector", "settings", "local"), [
    ("files", {"url": "data"}, OWN),
    ("files", {"url": "file:///etc"}, OWN),
    ("files", {"url": "simplecache::s3://bucket"}, OWN),
    ("files", {"url": "reference://", "storage_options": {"fo": "/etc/passwd"}}, OWN),
    ("files", {"url": "s3://bucket"}, OWN),
    ("files", {"url": "s3://bucket", "storage_options": {"profile": "default"}}, OWN),
    ("files", {"url": "s3://b", "storage_options": {"key": "k", "secret": "s", "client_kwargs": {"verify": "/x"}}}, OWN),
    ("files", {"url": "az://c", "storage_options": {"account_name": "a"}}, OWN),
    ("files", {"url": "s3://b", "storage_options": {"key": "k", "secret": "s", "endpoint_url": "https://s3.example"}}, []),
    ("files", {"url": "s3://bucket", "storage_options": {"anon": True}}, []),
    ("files", {"url": "az://c", "storage_options": {"account_name": "a", "sas_token": "s"}}, []),
    ("duckdb", {"path": "w.duckdb"}, ["path"]),
    ("duckdb", {"path": "w.duckdb", "staging": "rows"}, ["path", "staging"]),
    ("postgres", {"host": "/var/run/postgresql", "sslkey": "key.pem"}, ["host", "sslkey"]),
    ("postgres", {"host": "db.example", "database": "a/b"}, []),
    ("databricks", {"host": "https://dbc.example", "profile": "DEFAULT"}, ["profile"]),
    ("dlt", {"destination": "sqlalchemy", "credentials": "sqlite:///x"}, ["destination"]),
    ("dlt", {"destination": "bigquery", "credentials": {"project_id": "p"}}, []),
    ("http_api", HTTP, []),
], ids=str)  # fmt: skip
def test_settings_that_lead_to_this_machine_are_told(
    connector: str, settings: dict[str, Any], local: list[str]
) -> None:
    kinds = find_kinds(connector)
    kind = kinds.source or kinds.warehouse
    assert kind is not None
    assert list(kind.config_type.local_settings(settings)) == local


@pytest.mark.parametrize("value", ["/etc", "~/x", "./x", "..", "../x", "\\\\host\\x", "C:\\x", "file:x", "@socket"])
def test_a_path_is_known_by_its_look_or_its_name(value: str) -> None:
    assert list(OddConfig.local_settings({"note": value})) == ["note"]
    assert list(OddConfig.local_settings({"drawer": "x", "log_file": "x", "path": value, "note": "x: y"})) == [
        "drawer", "log_file",
    ]  # fmt: skip
