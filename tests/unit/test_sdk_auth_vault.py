"""Single-use refresh tokens: of everybody who needs an access token at once, nobody spends one twice, and none is lost."""

import fcntl
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import httpx
import pytest
from pydantic import SecretStr

from elt_dagster.errors import AuthError, TransientError
from elt_dagster.registry import load_connector
from elt_dagster.sdk import OAuth2, OAuthClient, Runtime
from elt_dagster.sdk.tokens import MOST_TOKENS, Token, Tokens

SETTING = "refresh_token"


class FileVault:
    """Secrets in a file, with a lock that processes share."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broken = False

    @contextmanager
    def exclusive(self) -> Iterator["FileVault"]:
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self

    def current(self, setting: str) -> SecretStr | None:
        found = json.loads(self.path.read_text()).get(setting)
        return SecretStr(found) if found is not None else None

    def keep(self, setting: str, secret: SecretStr) -> None:
        if self.broken:
            raise TransientError("The store is out of reach.")
        self.path.write_text(json.dumps({setting: secret.get_secret_value()}))


class Strict:
    """A token endpoint whose refresh tokens are good for one use; an old one used again takes everything with it."""

    def __init__(self) -> None:
        self.current, self.count, self.revoked = "r0", 0, False
        self.spent: list[str] = []
        self.valid: set[str] = set()
        self.lock = threading.Lock()

    def answer(self, form: dict[str, str]) -> tuple[int, dict[str, str]]:
        with self.lock:
            self.revoked = self.revoked or form.get("refresh_token") != self.current
            if self.revoked:
                return 400, {"error": "invalid_grant"}
            self.spent.append(self.current)
            self.count += 1
            self.current = f"r{self.count}"
            self.valid = {f"a{self.count}"}  # the old session ends with the new one
            return 200, {
                "access_token": f"a{self.count}",
                "refresh_token": self.current,
                "instance_url": "https://org.test",
            }

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/token":
            status, body = self.answer({k: v[0] for k, v in parse_qs(request.content.decode()).items()})
            return httpx.Response(status, json=body)
        known = request.headers.get("authorization", "").removeprefix("Bearer ") in self.valid
        return httpx.Response(200 if known else 401)


@pytest.fixture
def vault(tmp_path: Path) -> FileVault:
    path = tmp_path / "secrets.json"
    path.write_text(json.dumps({SETTING: "r0"}))
    return FileVault(path)


def auth(vault: FileVault, host: str, held: str = "r0") -> OAuth2:
    client = OAuthClient(token_url=f"https://{host}/token", client_id="app")
    return OAuth2(client, "refresh_token", refresh_token=SecretStr(held), vault=vault)


def get(endpoint: Strict, proof: OAuth2, host: str) -> int:
    with httpx.Client(transport=httpx.MockTransport(endpoint)) as client:
        return client.get(f"https://{host}/x", auth=proof).status_code


def test_the_token_the_vault_holds_is_used_and_its_successor_is_kept(vault: FileVault) -> None:
    endpoint = Strict()
    endpoint.current = "r7"
    vault.keep(SETTING, SecretStr("r7"))
    assert get(endpoint, auth(vault, "one.test", "an old one from the settings"), "one.test") == 200
    assert endpoint.spent == ["r7"]
    assert json.loads(vault.path.read_text()) == {SETTING: "r1"}


def test_ten_readers_at_once_ask_for_one_token(vault: FileVault) -> None:
    endpoint = Strict()
    with ThreadPoolExecutor(10) as pool:
        codes = list(pool.map(lambda _: get(endpoint, auth(vault, "ten.test"), "ten.test"), range(10)))
    assert codes == [200] * 10
    assert endpoint.spent == ["r0"], "the others use the token that came with the one the vault holds"


def test_a_session_that_ended_is_renewed_once_for_all(vault: FileVault) -> None:
    endpoint = Strict()
    proofs = [auth(vault, "end.test") for _ in range(6)]
    assert {get(endpoint, p, "end.test") for p in proofs} == {200}
    endpoint.valid = set()
    with ThreadPoolExecutor(6) as pool:
        codes = list(pool.map(lambda p: get(endpoint, p, "end.test"), proofs))
    assert codes == [200] * 6
    assert endpoint.spent == ["r0", "r1"]


def test_a_successor_that_could_not_be_kept_is_not_used_and_not_forgotten(vault: FileVault) -> None:
    endpoint, vault.broken = Strict(), True
    proof = auth(vault, "broken.test")
    with pytest.raises(TransientError):
        get(endpoint, proof, "broken.test")
    vault.broken = False
    assert get(endpoint, proof, "broken.test") == 200
    assert endpoint.spent == ["r0", "r1"], "the spent one is not sent again"
    assert json.loads(vault.path.read_text()) == {SETTING: "r2"}


def test_without_a_vault_the_successor_is_handed_on() -> None:
    endpoint, kept = Strict(), list[str]()
    client = OAuthClient(token_url="https://none.test/token", client_id="app")
    proof = OAuth2(
        client, "refresh_token", refresh_token=SecretStr("r0"), on_rotated=lambda s: kept.append(s.get_secret_value())
    )
    assert get(endpoint, proof, "none.test") == 200
    assert kept == ["r1"]


def test_a_grant_that_is_gone_says_what_to_do(vault: FileVault) -> None:
    endpoint = Strict()
    endpoint.revoked = True
    with pytest.raises(AuthError, match=r"invalid_grant.*authorise the connection again"):
        get(endpoint, auth(vault, "gone.test"), "gone.test")


def test_signing_in_ahead_tells_what_came_with_the_token_and_no_secret(vault: FileVault) -> None:
    endpoint = Strict()
    proof = auth(vault, "ahead.test")
    with httpx.Client(transport=httpx.MockTransport(endpoint)) as client:
        assert proof.sign_in(client) == {"instance_url": "https://org.test"}
        assert proof.sign_in(client) == {"instance_url": "https://org.test"}
    assert endpoint.count == 1


def test_http_api_uses_the_vault_too(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    path.write_text(json.dumps({"auth.refresh_token": "r0"}))
    endpoint = Strict()

    def answer(request: httpx.Request) -> httpx.Response:
        found = endpoint(request)
        return httpx.Response(200, json=[{"id": 1}]) if request.url.path == "/things" and found.is_success else found

    settings = {
        "base_url": "https://api.test", "streams": [{"name": "things", "path": "things"}],
        "auth": {"type": "oauth2", "grant": "refresh_token", "token_url": "https://api.test/token", "refresh_token": "stale"},
    }  # fmt: skip
    connector = load_connector("http_api").configured(
        settings, Runtime(transport=httpx.MockTransport(answer), vault=FileVault(path), sleep=lambda _: None)
    )
    assert connector.check().ok
    assert json.loads(path.read_text()) == {"auth.refresh_token": "r1"}


def test_tokens_are_bounded_and_their_keys_are_no_secrets() -> None:
    tokens = Tokens()
    for n in range(MOST_TOKENS + 5):
        tokens.put(("url", "id", f"secret-{n}"), Token(f"t{n}", 1.0, {}))
    assert tokens.get(("url", "id", "secret-0")) is None
    found = tokens.get(("url", "id", f"secret-{MOST_TOKENS}"))
    assert found is not None
    assert found.value == f"t{MOST_TOKENS}"
    assert "secret" not in repr(vars(tokens))
    assert "t1" not in repr(Token("t1", 1.0, {}))


READER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import httpx
from pydantic import SecretStr
from elt_dagster.sdk.auth_oauth import OAuth2, OAuthClient
from tests.unit.test_sdk_auth_vault import FileVault

url, path = sys.argv[1:]
def read(_):
    client = OAuthClient(token_url=url + "/token", client_id="app")
    proof = OAuth2(client, "refresh_token", refresh_token=SecretStr("r0"), vault=FileVault(Path(path)))
    with httpx.Client() as http:
        return [http.get(url + "/x", auth=proof).status_code for _ in range(2)]
with ThreadPoolExecutor(10) as pool:
    print([code for codes in pool.map(read, range(10)) for code in codes])
"""


def test_two_processes_of_ten_threads_spend_each_refresh_token_once(vault: FileVault) -> None:
    endpoint = Strict()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self.reply(*endpoint.answer({k: v[0] for k, v in parse_qs(form).items()}))

        def do_GET(self) -> None:
            known = self.headers["Authorization"].removeprefix("Bearer ") in {
                f"a{n}" for n in range(1, endpoint.count + 1)
            }
            self.reply(200 if known else 401, {})

        def reply(self, status: int, body: dict[str, str]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        readers = [
            subprocess.Popen(
                [sys.executable, "-c", READER, url, str(vault.path)], stdout=subprocess.PIPE, text=True,
                cwd=Path(__file__).parents[2],
            )
            for _ in range(2)
        ]  # fmt: skip
        told = [r.communicate(timeout=60)[0].strip() for r in readers]
        server.shutdown()
    assert told == [str([200] * 20)] * 2
    assert not endpoint.revoked
    assert len(endpoint.spent) == len(set(endpoint.spent)) == 2, "one refresh for each process"
