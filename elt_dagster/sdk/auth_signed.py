"""Proofs that we sign ourselves: JSON web tokens and AWS signatures."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from elt_dagster.errors import ConfigError
from elt_dagster.sdk.auth import Flow, TokenAuth, answer_object, seconds_of, token_of, utc_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtClaims:
    """What a self-signed token says: claims, life in seconds, and further header fields (``kid``)."""

    issuer: str = ""
    subject: str = ""
    audience: str = ""
    scope: str = ""
    seconds: int = 600
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class JwtBearer(TokenAuth):
    """A token we sign ourselves, sent as it is, or exchanged for an access token when there is a ``token_url`` (RFC 7523).

    ``key`` is a PEM private key for RS256 and ES256, a shared secret for HS256 (base64 when ``key_is_base64``).
    """

    def __init__(
        self,
        key: SecretStr,
        claims: JwtClaims,
        *,
        algorithm: Literal["RS256", "RS384", "RS512", "ES256", "HS256", "HS384", "HS512"] = "RS256",
        key_is_base64: bool = False,
        token_url: str | None = None,
        clock: Callable[[], float] = utc_seconds,
    ) -> None:
        super().__init__(clock)
        self._key = key
        self._claims = claims
        self._algorithm = algorithm
        self._key_is_base64 = key_is_base64
        self._token_url = token_url

    def auth_flow(self, request: httpx.Request) -> Flow:
        """Sign and send, or sign, exchange and send."""
        if self._token_url:
            yield from super().auth_flow(request)
        else:
            yield self.use(request, self.signed())

    def ask(self) -> httpx.Request:
        """The exchange of the assertion."""
        data = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": self.signed()}
        return httpx.Request("POST", self._token_url or "", data=data, headers={"Accept": "application/json"})

    def take(self, response: httpx.Response) -> tuple[str, float]:
        """The access token of the answer."""
        answer = answer_object(response, self.title)
        return token_of(answer, "access_token", self.title), seconds_of(answer.get("expires_in"))

    def said(self, response: httpx.Response) -> Mapping[str, Any]:
        """The answer without its tokens."""
        answer = answer_object(response, self.title)
        return {k: v for k, v in answer.items() if k not in ("access_token", "id_token")}

    def use(self, request: httpx.Request, token: str) -> httpx.Request:
        """Add the header."""
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    def signed(self) -> str:
        """A new token. Raises ConfigError when the key cannot be used with the algorithm."""
        issued, c = int(self._clock()), self._claims
        said = {"iss": c.issuer, "sub": c.subject, "aud": c.audience, "scope": c.scope}
        payload = {k: v for k, v in said.items() if v} | {"iat": issued, "exp": issued + c.seconds} | dict(c.extra)
        head = {"alg": self._algorithm, "typ": "JWT", **c.headers}
        text = b".".join(_base64(json.dumps(part, separators=(",", ":")).encode()) for part in (head, payload))
        return b".".join((text, _base64(self._signature(text)))).decode()

    def _signature(self, text: bytes) -> bytes:
        key, hashed = (
            self._key.get_secret_value().encode(),
            {"256": "sha256", "384": "sha384", "512": "sha512"}[self._algorithm[2:]],
        )
        try:
            if self._algorithm.startswith("HS"):
                return hmac.new(base64.b64decode(key) if self._key_is_base64 else key, text, hashed).digest()
            return _signed_by_key(key, text, hashed, self._algorithm)
        except (ValueError, TypeError):
            raise ConfigError(
                f"The key of the JWT cannot be used with {self._algorithm}.", fix="Give a PEM private key of that kind."
            ) from None


def _signed_by_key(key: bytes, text: bytes, hashed: str, algorithm: str) -> bytes:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    kind = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}[hashed]
    private = load_pem_private_key(key, password=None)
    if algorithm.startswith("RS") and isinstance(private, rsa.RSAPrivateKey):
        return private.sign(text, padding.PKCS1v15(), kind)
    if algorithm.startswith("ES") and isinstance(private, ec.EllipticCurvePrivateKey):
        r, s = utils.decode_dss_signature(private.sign(text, ec.ECDSA(kind)))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    raise ValueError("another kind of key")


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


class SigV4(httpx.Auth):
    """AWS Signature Version 4, as API gateways and services behind IAM ask for it; a session token is for temporary keys."""

    requires_request_body = True

    def __init__(
        self,
        access_key: str,
        secret_key: SecretStr,
        *,
        region: str,
        service: str,
        session_token: SecretStr | None = None,
        clock: Callable[[], float] = utc_seconds,
    ) -> None:
        self._access_key = access_key
        self._secret_key = secret_key
        self._session_token = session_token
        self._region = region
        self._service = service
        self._clock = clock

    def auth_flow(self, request: httpx.Request) -> Flow:
        """Sign method, path, query, host, time and body."""
        stamp = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y%m%dT%H%M%SZ")
        request.headers["X-Amz-Date"] = stamp
        if self._session_token:
            request.headers["X-Amz-Security-Token"] = self._session_token.get_secret_value()
        signed = sorted(k for k in ("host", "x-amz-date", "x-amz-security-token") if k in request.headers)
        pairs = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in request.url.params.multi_items())
        path = (
            quote(request.url.path, safe="/-_.~")
            if self._service == "s3"
            else quote(request.url.raw_path.decode().partition("?")[0], safe="/-_.~")
        )
        canonical = "\n".join(
            [
                request.method, path or "/", "&".join(f"{k}={v}" for k, v in pairs),
                *(f"{k}:{request.headers[k].strip()}" for k in signed), "", ";".join(signed),
                hashlib.sha256(request.content).hexdigest(),
            ]
        )  # fmt: skip
        scope = f"{stamp[:8]}/{self._region}/{self._service}/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = ("AWS4" + self._secret_key.get_secret_value()).encode()
        for part in scope.split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        request.headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self._access_key}/{scope}, SignedHeaders={';'.join(signed)}, Signature={signature}"
        )
        yield request
