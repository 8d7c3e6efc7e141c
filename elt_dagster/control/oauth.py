"""One round of OAuth 2 with a person's consent: authorization code, PKCE and state (RFC 6749, 7636, 9207, 9700).

What comes back from a browser is believed only as far as we sent it out ourselves; what comes back from a token endpoint is bounded in
size and time, and followed nowhere.
"""

import base64
import fnmatch
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import httpx

from elt_dagster.control.secrets import holds_reference
from elt_dagster.errors import (
    AuthError,
    ConfigError,
    EltError,
    LimitError,
    NotFoundError,
    SourceError,
    TransientError,
    nearest,
)
from elt_dagster.registry import load_connector
from elt_dagster.sdk.connector import Connector, Runtime
from elt_dagster.sdk.consent import Consent
from elt_dagster.sdk.egress import http_transport
from elt_dagster.store import OAuthClient, Store

PATIENCE_SECONDS = 30.0
"""For how long a token endpoint may take as a whole."""
MAX_ANSWER_BYTES = 1_000_000
MAX_TOKEN = 32_000
_TIMEOUT = httpx.Timeout(10.0, read=20.0)
_ERROR_CODE = re.compile(r"[a-z_.]{1,64}")


class RefusedError(AuthError):
    """The person, or the vendor in the person's place, said no; ``code`` is the vendor's word for it."""

    def __init__(self, what: str, *, code: str, fix: str | None = None) -> None:
        super().__init__(what, fix=fix)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What has to be remembered between the way out and the way back."""

    consent: Consent
    client: OAuthClient
    redirect_uri: str
    """Our own address, to which the vendor sends the person back."""
    verifier: str = field(repr=False)

    def address(self, state: str) -> str:
        """The vendor's consent page for this round."""
        challenge = base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).decode().rstrip("=")
        scopes = {"scope": " ".join(self.consent.scopes)} if self.consent.scopes else {}
        query = {
            "response_type": "code", "client_id": self.client.client_id, "redirect_uri": self.redirect_uri, **scopes, "state": state,
            "code_challenge": challenge, "code_challenge_method": "S256", **self.consent.authorize_extra,
        }  # fmt: skip
        return f"{self.consent.authorize_url}{'&' if '?' in self.consent.authorize_url else '?'}{urlencode(query, quote_via=quote)}"

    def exchange(self, code: str, runtime: Runtime) -> dict[str, Any]:
        """The settings that the code brings, by name.

        Raises RefusedError where the vendor refuses the code, TransientError where it is busy or slow, SourceError for an answer that is none.
        """
        consent, client = self.consent, self.client
        form = {
            "grant_type": "authorization_code", "code": code, "redirect_uri": self.redirect_uri, "code_verifier": self.verifier,
            **consent.token_extra,
        }  # fmt: skip
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if consent.client_auth == "basic":
            pair = f"{quote(client.client_id, safe='')}:{quote(client.client_secret or '', safe='')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": client.client_id}
            form |= {"client_secret": client.client_secret} if client.client_secret else {}
        status, body = _post(consent.token_url, form, headers, runtime)
        return _settings(consent, _understood(consent.token_url, status, body))


def new_secret() -> str:
    """An unguessable text of 43 characters, which is what a PKCE verifier needs."""
    return secrets.token_urlsafe(32)


def find_client(
    store: Store, workspace_id: str, connector: str, environ: Mapping[str, str] = os.environ
) -> OAuthClient | None:
    """The OAuth client to use for a connector: the workspace's own, else that of the environment (`client_variables`)."""
    own = store.bridges.oauth_client(workspace_id, connector)
    if own is not None:
        return own
    id_variable, secret_variable = client_variables(connector)
    client_id = environ.get(id_variable)
    return OAuthClient(connector, client_id, environ.get(secret_variable) or None, {}) if client_id else None


def put_client(store: Store, workspace: str, client: OAuthClient) -> OAuthClient:
    """Keep the client of a connector, by the connector's own name.

    Raises NotFoundError for an unknown connector or workspace, ConfigError for one whose vendor has no consent page, and for settings it does not have.
    """
    kind = load_connector(client.connector)
    if kind.consent({}) is None:
        raise ConfigError(
            f"{kind.title} has no consent page.", fix="Its connection bridges show a form, which needs no OAuth client."
        )
    known = list(kind.config_type.model_fields)
    for name, value in client.settings.items():
        if name not in known or holds_reference(value):
            raise ConfigError(f"{kind.name} has no setting {name!r} that could be kept here.", fix=nearest(name, known))
    kept = replace(client, connector=kind.name)
    ids = {w.name: w.id for w in store.workspaces()}
    if workspace not in ids:
        raise NotFoundError(f"There is no workspace {workspace!r}.", fix=nearest(workspace, list(ids)))
    store.bridges.put_oauth_client(ids[workspace], kept)
    return kept


def client_variables(connector: str) -> tuple[str, str]:
    """Names of the environment variables with a connector's client id and secret."""
    start = f"ELT_DAGSTER_OAUTH_{connector.upper()}"
    return f"{start}_CLIENT_ID", f"{start}_CLIENT_SECRET"


def consent_of(connector: type[Connector[Any]], client: OAuthClient, settings: Mapping[str, Any]) -> Consent:
    """The consent for ``settings``. Raises ConfigError where they lead to a host that is neither the vendor's nor the OAuth client's own.

    Whoever chooses the settings must not choose who is told our client's secret.
    """
    usual, found = connector.consent(client.settings), connector.consent({**settings, **client.settings})
    assert usual is not None  # noqa: S101 - asked of connectors that have one
    assert found is not None  # noqa: S101 - as above
    trusted = {_origin(usual.authorize_url), _origin(usual.token_url)}
    for url in (found.authorize_url, found.token_url):
        scheme, host, port = _origin(url)
        known = scheme == "https" and port in (None, 443) and any(fnmatch.fnmatch(host, p) for p in found.hosts)
        if not known and (scheme, host, port) not in trusted:
            raise ConfigError(f"{host} is no address of {connector.title}.", fix="Correct the settings.")
    return found


def check_issuer(consent: Consent, said: str | None) -> None:
    """Raises AuthError where the answer says that it is another server's (RFC 9207)."""
    hosts = {_origin(url)[1] for url in (consent.authorize_url, consent.token_url)}
    wrong = said != consent.issuer if consent.issuer else said is not None and _origin(said)[1] not in hosts
    if wrong:
        raise AuthError("The answer is not of the server that was asked.", fix="Begin again.")


def refusal(error: str, description: str | None) -> RefusedError:
    """What the vendor said instead of a code, in words that can be shown and passed on."""
    code = error if _ERROR_CODE.fullmatch(error) else "access_denied"
    said = "".join(c for c in (description or "")[:300] if c.isprintable())
    return RefusedError(said or "The access was not granted.", code=code)


def error_code(error: EltError) -> str:
    """The ``error`` that a caller's application is told."""
    return error.code if isinstance(error, RefusedError) else error.reason


def _origin(url: str) -> tuple[str, str, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme, (parts.hostname or "").lower(), parts.port
    except ValueError:
        return "", "", None


def _post(url: str, form: Mapping[str, str], headers: Mapping[str, str], runtime: Runtime) -> tuple[int, bytes]:
    """Status and body. Neither a redirect nor an endless or enormous answer is followed to its end."""
    host, until, body = _origin(url)[1], time.monotonic() + PATIENCE_SECONDS, bytearray()
    try:
        with (
            httpx.Client(
                transport=runtime.transport or http_transport(runtime.environ), timeout=_TIMEOUT, follow_redirects=False
            ) as http,
            http.stream("POST", url, data=form, headers=dict(headers)) as response,
        ):
            for part in response.iter_bytes():
                body += part
                if len(body) > MAX_ANSWER_BYTES:
                    raise SourceError(f"The token endpoint at {host} sent more than a token.")
                if time.monotonic() > until:
                    raise httpx.ReadTimeout("slow")
            return response.status_code, bytes(body)
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise TransientError(
            f"The token endpoint at {host} could not be asked ({type(error).__name__}).", fix="Try again."
        ) from None


def _understood(url: str, status: int, body: bytes) -> Mapping[str, Any]:
    where = f"The token endpoint at {_origin(url)[1]}"
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    said = answer.get("error") if isinstance(answer, dict) else None
    if status == 429:
        raise LimitError(f"{where} wants fewer requests.", fix="Try again later.")
    if status >= 500:
        raise TransientError(f"{where} answered {status}.", fix="Try again later.")
    if isinstance(said, str) and said:
        code = said if _ERROR_CODE.fullmatch(said) else "access_denied"
        raise RefusedError(f"{where} refused the code ({code}).", code=code, fix="Begin again.")
    if status >= 300 or not isinstance(answer, dict):
        what = f"answered {status}" if status >= 300 else "sent no JSON object"
        raise SourceError(f"{where} {what}.", fix="Check the OAuth client's settings.")
    return answer


def _settings(consent: Consent, answer: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, setting in consent.keep.items():
        value = answer.get(name)
        if isinstance(value, str) and 0 < len(value) <= MAX_TOKEN and value.isprintable():
            found[setting] = value
        elif name not in consent.may_lack:
            text = f"The token endpoint at {_origin(consent.token_url)[1]} answered without a usable {name}."
            raise SourceError(text, fix="Allow the OAuth client what it asks for, such as offline access.")
    return found
