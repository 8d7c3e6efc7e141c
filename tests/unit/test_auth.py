"""Proofs, tried against a handler that plays token endpoint and API."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from pydantic import SecretStr

from elt_dagster.errors import AuthError, ConfigError, TransientError
from elt_dagster.sdk import (
    ApiKey,
    Basic,
    Bearer,
    JwtBearer,
    JwtClaims,
    Login,
    OAuth2,
    OAuthClient,
    SessionLogin,
    SigV4,
    TokenFields,
)  # fmt: skip

SECRET = SecretStr("s3cret")


class World:
    """A token endpoint that counts, and an API that only takes the newest token."""

    def __init__(self, answer: Callable[[int], Any] | None = None) -> None:
        self.answer = answer or (lambda n: {"access_token": f"t{n}", "expires_in": 3600})
        self.tokens: list[httpx.Request] = []
        self.calls: list[httpx.Request] = []
        self.valid: set[str] | None = None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/token":
            self.tokens.append(request)
            found = self.answer(len(self.tokens))
            return found if isinstance(found, httpx.Response) else httpx.Response(200, json=found)
        self.calls.append(request)
        refused = self.valid is not None and request.headers.get("authorization") not in self.valid
        return httpx.Response(401 if refused else 200)

    def get(self, auth: httpx.Auth, **more: Any) -> httpx.Request:
        """The request as the API saw it."""
        with httpx.Client(transport=httpx.MockTransport(self)) as client:
            client.request(more.pop("method", "GET"), "https://api.test/x?a=1", auth=auth, **more)
        return self.calls[-1]


CLIENT = OAuthClient(token_url="https://id.test/token", client_id="me", client_secret=SECRET, scopes=("a", "b"))


def form(request: httpx.Request) -> dict[str, str]:
    return {k: v[0] for k, v in parse_qs(request.content.decode()).items()}


def test_fixed_proofs() -> None:
    world = World()
    assert world.get(Bearer(SECRET, "Token")).headers["authorization"] == "Token s3cret"
    assert (
        world.get(Basic("me", SecretStr(""))).headers["authorization"] == "Basic " + base64.b64encode(b"me:").decode()
    )
    assert world.get(ApiKey("X-Key", SECRET, prefix="k ")).headers["x-key"] == "k s3cret"
    assert dict(world.get(ApiKey("key", SECRET, "query")).url.params) == {"a": "1", "key": "s3cret"}
    assert world.get(ApiKey("key", SECRET, "cookie"), headers={"Cookie": "b=2"}).headers["cookie"] == "b=2; key=s3cret"
    sent = world.get(ApiKey("key", SECRET, "body"), method="POST", json={"q": 1})
    assert json.loads(sent.content) == {"q": 1, "key": "s3cret"}
    assert form(world.get(ApiKey("key", SECRET, "body"), method="POST", data={"q": "1"})) == {"q": "1", "key": "s3cret"}


def test_a_key_cannot_be_put_into_a_list() -> None:
    with pytest.raises(ConfigError):
        World().get(ApiKey("key", SECRET, "body"), method="POST", json=[1])


def test_client_credentials_are_posted_and_the_token_is_kept() -> None:
    world, auth = World(), OAuth2(CLIENT)
    assert world.get(auth).headers["authorization"] == "Bearer t1"
    assert world.get(auth).headers["authorization"] == "Bearer t1"
    assert len(world.tokens) == 1
    assert form(world.tokens[0]) == {
        "grant_type": "client_credentials",
        "client_id": "me",
        "client_secret": "s3cret",
        "scope": "a b",
    }


def test_client_credentials_may_go_into_the_header() -> None:
    world = World()
    client = OAuthClient(
        token_url="https://id.test/token",
        client_id="me",
        client_secret=SECRET,
        client_auth="basic",
        extra={"audience": "x"},
    )
    world.get(OAuth2(client))
    assert world.tokens[0].headers["authorization"] == "Basic " + base64.b64encode(b"me:s3cret").decode()
    assert form(world.tokens[0]) == {"grant_type": "client_credentials", "audience": "x"}


def test_a_refused_token_is_fetched_anew_once() -> None:
    world, auth = World(), OAuth2(CLIENT)
    world.get(auth)
    world.valid = {"Bearer t2"}
    assert world.get(auth).headers["authorization"] == "Bearer t2"
    world.valid = set()
    world.get(auth)
    assert len(world.tokens) == 3


def test_a_token_is_replaced_before_it_ends() -> None:
    now = [1000.0]
    world, auth = World(), OAuth2(CLIENT, clock=lambda: now[0])
    world.get(auth)
    now[0] += 3500
    world.get(auth)
    assert len(world.tokens) == 1
    now[0] += 60
    assert world.get(auth).headers["authorization"] == "Bearer t2"


def test_many_threads_fetch_one_token() -> None:
    world, auth = World(), OAuth2(CLIENT)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: world.get(auth), range(16)))
    assert len(world.tokens) == 1


def test_a_rotated_refresh_token_is_handed_on_and_used() -> None:
    kept: list[str] = []
    world = World(lambda n: {"access_token": f"t{n}", "refresh_token": f"r{n}"})
    auth = OAuth2(
        CLIENT, "refresh_token", refresh_token=SecretStr("r0"), on_rotated=lambda s: kept.append(s.get_secret_value())
    )
    world.get(auth)
    world.valid = {"Bearer t2"}
    world.get(auth)
    assert [form(r)["refresh_token"] for r in world.tokens] == ["r0", "r1"]
    assert kept == ["r1", "r2"]


def test_the_password_grant_and_names_of_the_sources_own() -> None:
    world = World(lambda n: {"data": {"jwt": f"t{n}"}})
    client = OAuthClient(
        token_url="https://id.test/token", client_id="me", body="json",
        fields=TokenFields(client_id="app", username="user", access_token="data.jwt"), grant_type="pw",
    )  # fmt: skip
    assert world.get(OAuth2(client, "password", username="u", password=SECRET)).headers["authorization"] == "Bearer t1"
    assert json.loads(world.tokens[0].content) == {"grant_type": "pw", "user": "u", "password": "s3cret", "app": "me"}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(400, json={"error": "invalid_client", "secret": "s3cret"}), AuthError),
        (httpx.Response(200, json={"error": "s3cret"}), AuthError),
        (httpx.Response(200, text="<html>s3cret"), AuthError),
        (httpx.Response(503), TransientError),
        (httpx.Response(429, headers={"Retry-After": "9"}), TransientError),
    ],
)
def test_an_endpoint_without_a_token_is_the_right_error(answer: httpx.Response, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        World(lambda _: answer).get(OAuth2(CLIENT))
    assert "s3cret" not in str(caught.value)


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    head, body, _ = (base64.urlsafe_b64decode(p + "==") for p in token.split("."))
    return json.loads(head), json.loads(body)


def test_a_shared_secret_signs_a_token() -> None:
    auth = JwtBearer(
        SECRET, JwtClaims(issuer="me", seconds=60, headers={"kid": "1"}), algorithm="HS256", clock=lambda: 1000
    )
    token = World().get(auth).headers["authorization"].removeprefix("Bearer ")
    text, _, signature = token.rpartition(".")
    expected = (
        base64.urlsafe_b64encode(hmac.new(b"s3cret", text.encode(), hashlib.sha256).digest()).rstrip(b"=").decode()
    )
    assert signature == expected
    assert parts(token) == ({"alg": "HS256", "typ": "JWT", "kid": "1"}, {"iss": "me", "iat": 1000, "exp": 1060})


def test_a_private_key_signs_and_the_assertion_is_exchanged() -> None:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

    for key, algorithm in (
        (rsa.generate_private_key(65537, 2048), "RS256"),
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
    ):
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        world = World()
        auth = JwtBearer(SecretStr(pem), JwtClaims(issuer="me"), algorithm=algorithm, token_url="https://id.test/token")  # type: ignore[arg-type]
        assert world.get(auth).headers["authorization"] == "Bearer t1"
        text, _, signed = form(world.tokens[0])["assertion"].rpartition(".")
        raw = base64.urlsafe_b64decode(signed + "==")
        if isinstance(key, rsa.RSAPrivateKey):
            key.public_key().verify(raw, text.encode(), padding.PKCS1v15(), hashes.SHA256())
        else:
            der = utils.encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
            key.public_key().verify(der, text.encode(), ec.ECDSA(hashes.SHA256()))


def test_a_key_of_the_wrong_kind_is_explained_without_showing_it() -> None:
    with pytest.raises(ConfigError) as caught:
        JwtBearer(SECRET, JwtClaims(), algorithm="RS256").signed()
    assert "s3cret" not in str(caught.value)


def test_a_session_starts_with_a_login() -> None:
    world = World(lambda n: {"result": {"sid": f"s{n}"}})
    login = Login(url="https://id.test/token", body={"user": "u"}, secrets={"password": SECRET}, token_at="result.sid")
    auth = SessionLogin(login, name="X-Session", prefix="")
    assert world.get(auth).headers["x-session"] == "s1"
    assert world.get(auth).headers["x-session"] == "s1"
    assert json.loads(world.tokens[0].content) == {"user": "u", "password": "s3cret"}


def test_a_session_may_come_as_a_cookie() -> None:
    world = World(lambda n: httpx.Response(200, headers={"Set-Cookie": f"sid=c{n}; Path=/"}))
    auth = SessionLogin(Login(url="https://id.test/token", token_cookie="sid"), name="sid", into="cookie", prefix="")
    assert "sid=c1" in world.get(auth).headers["cookie"]
    with pytest.raises(AuthError):
        World(lambda _: httpx.Response(200)).get(SessionLogin(Login(url="https://id.test/token", token_cookie="sid")))


def test_the_aws_signature_is_the_one_of_their_example() -> None:
    # the example "GET ListUsers" of the AWS documentation on Signature Version 4
    auth = SigV4(
        "AKIDEXAMPLE", SecretStr("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"), region="us-east-1", service="service",
        clock=lambda: 1_440_938_160.0,
    )  # fmt: skip
    request = httpx.Request("GET", "https://example.amazonaws.com/")
    signed = next(auth.auth_flow(request)).headers["authorization"]
    assert signed.endswith("Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31")
