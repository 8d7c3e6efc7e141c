"""A source that a person has to let us into: OAuth 2 with consent, single-use refresh tokens, and one address that answers who we are."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, SecretStr

from elt_dagster.sdk import (
    Batch,
    Call,
    Catalog,
    CheckResult,
    Config,
    Connector,
    Consent,
    EltError,
    Http,
    OAuth2,
    OAuthClient,
    ReadRequest,
)
from tests.dagster_connectors.scripted import STREAMS, Scripted, ScriptedConfig

VENDOR = "https://vendor.example"


class ConsentedConfig(Config):
    """Whose account it is."""

    issuer: str = Field(default=VENDOR, pattern=r"^https?://[^\s/?#@]+$")
    """The vendor's server."""
    client_id: str
    """Our name there."""
    client_secret: SecretStr | None = None
    """Our password there."""
    refresh_token: SecretStr
    """What the consent brought."""
    region: Literal["eu", "us"] = "eu"
    """Where the account is."""


class Consented(Connector[ConsentedConfig]):
    """A source for tests."""

    name: ClassVar[str] = "consented"
    title: ClassVar[str] = "Consented"
    docs_url: ClassVar[str] = "https://example.com/consented"

    @classmethod
    def consent(cls, settings: Mapping[str, Any]) -> Consent:
        """The vendor's pages; a person chooses the region first."""
        issuer = settings.get("issuer", VENDOR)
        return Consent(
            authorize_url=f"{issuer}/auth", token_url=f"{issuer}/token", scopes=("openid", "offline_access"),
            authorize_extra={"prompt": "consent"}, ask=("region",), hosts=("*.vendor.example",), client_auth="basic",
        )  # fmt: skip

    def check(self) -> CheckResult:
        """Asks who we are."""
        config = self.config
        client = OAuthClient(
            token_url=f"{config.issuer}/token",
            client_id=config.client_id,
            client_secret=config.client_secret,
            client_auth="basic",
        )
        auth = OAuth2(client, "refresh_token", refresh_token=config.refresh_token, vault=self.runtime.vault)
        try:
            with Http(config.issuer, title=self.title, runtime=self.runtime, auth=auth, retries=0) as http:
                http.fetch(Call(url="me"))
        except EltError as error:
            return CheckResult(False, str(error))
        return CheckResult(True, "It is you.")

    def discover(self, settings: Mapping[str, Any] | None = None) -> Catalog:
        """Three streams."""
        return Catalog(STREAMS)

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        """Some rows, after asking who we are."""
        self.check()
        yield from Scripted(ScriptedConfig()).read(request)


connector = Consented
