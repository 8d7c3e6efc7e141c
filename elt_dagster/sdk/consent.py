"""What a connector says of OAuth 2 with a person's consent: authorization code with PKCE and state (RFC 6749, 7636).

The control plane leads the person there and back (`elt_dagster.control.bridges`); the connector only names addresses and where the
answer's fields go in its settings.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """One vendor's consent page and token endpoint."""

    authorize_url: str
    """Where the person is sent; without a query."""
    token_url: str
    """Where the code is exchanged."""
    scopes: tuple[str, ...] = ()
    authorize_extra: Mapping[str, str] = field(default_factory=dict[str, str])
    """Further parameters of the consent page, such as ``access_type=offline``."""
    token_extra: Mapping[str, str] = field(default_factory=dict[str, str])
    """Further fields of the token request."""
    client_auth: Literal["post", "basic"] = "post"
    """Whether client id and secret are sent in the form or in the header."""
    client_id_setting: str = "client_id"
    client_secret_setting: str = "client_secret"  # noqa: S105 - the name of a setting
    keep: Mapping[str, str] = field(default_factory=lambda: {"refresh_token": "refresh_token"})
    """Fields of the token answer and the settings they become; one that is missing in the answer is an error unless it is in ``may_lack``."""
    may_lack: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Settings that hold for every connection made this way, such as ``{"auth_type": "refresh_token"}``."""
    ask: tuple[str, ...] = ()
    """Settings that the person chooses before the consent page, such as a sandbox; those of the OAuth client make the question needless."""
    hosts: tuple[str, ...] = ()
    """Where pages and token endpoint may be besides where they are without anybody's settings, such as ``*.example.com``: our client's secret
    is sent to no other host, whatever a person's settings say."""
    issuer: str = ""
    """What the vendor says in ``iss`` (RFC 9207), when it always does; else an ``iss`` has to be of the host of one of the addresses."""
