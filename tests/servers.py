"""Throw-away servers for tests: a real PostgreSQL from the system's binaries, one per test session, whatever number of workers it has.

`postgres_url` answers with a superuser's URL. A server that already runs can be used instead: ``ELT_DAGSTER_TEST_POSTGRES_URL``.
The server belongs to the process that started the tests: a small watchdog ends it and removes its files when that process is gone, so that
neither a crash nor the order in which parallel workers finish leaves anything behind.
"""

import fcntl
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import psycopg2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

URL_VARIABLE = "ELT_DAGSTER_TEST_POSTGRES_URL"
PASSWORD = "elt-dagster-test"
CERTIFICATE = "server.crt"
_NOBODY = 65534
_OPTIONS = {
    "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "100",
    "max_prepared_transactions": "5", "wal_level": "logical", "unix_socket_directories": "", "timezone": "Europe/Copenhagen",
    # roles that tests make sign in by SCRAM; the superuser, who signs in thousands of times, does not, for that takes longer than a query
    "password_encryption": "scram-sha-256",
}  # fmt: skip
_WATCHDOG = 'while kill -0 "$1" 2>/dev/null; do sleep 1; done; rest="$2 $3"; shift 3; "$@"; rm -rf $rest'


def postgres_url() -> str:
    """URL of a superuser on a server for tests, started on first use. Skips the test, or fails it under ``CI``, when there is none."""
    if url := os.environ.get(URL_VARIABLE):
        return url
    binaries = _binaries() or _no_server()
    owner = _session_process()
    note = Path(tempfile.gettempdir()) / f"elt-dagster-test-postgres-{os.getuid()}-{owner}"
    with open(f"{note}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not note.exists():
            note.write_text(_start(binaries, owner, note))
        return note.read_text()


@contextmanager
def database(prefix: str = "elt") -> Iterator[str]:
    """URL of an empty database that nobody else has, under a name that no database had before.

    Afterwards whoever is still connected is thrown out. It is emptied and used again, for to make one costs several times as much."""
    server = postgres_url()
    name = f"{prefix}_{secrets.token_hex(6)}"
    if not _renamed(server, name):
        _execute(server, f"CREATE DATABASE {name} TEMPLATE template0")
    url = urlsplit(server)._replace(path=f"/{name}").geturl()
    try:
        yield url
    finally:
        # a server that was there before us is left as it was
        if not os.environ.get(URL_VARIABLE) and _emptied(url):
            _spare.append(name)
        else:
            _execute(server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


_spare: list[str] = []
"""Databases of this process that are empty again."""
_EMPTY = """
SET lock_timeout = '5s';
DO $$
DECLARE
    found name;
BEGIN
    PERFORM pg_terminate_backend(pid, 5000) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid();
    FOR found IN SELECT nspname FROM pg_namespace WHERE oid >= 16384 OR nspname = 'public' LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', found);
    END LOOP;
    CREATE SCHEMA public AUTHORIZATION pg_database_owner;
    GRANT USAGE ON SCHEMA public TO PUBLIC;
END $$;
"""
# What a schema does not take with it; PostgreSQL's own has lower numbers.
_LEFT = " UNION ALL ".join(
    [
        *(
            f"SELECT 1 FROM {catalog} WHERE oid >= 16384"
            for catalog in (
                "pg_cast", "pg_class", "pg_collation", "pg_default_acl", "pg_event_trigger", "pg_extension",
                "pg_foreign_data_wrapper", "pg_foreign_server", "pg_language", "pg_largeobject_metadata", "pg_proc",
                "pg_publication", "pg_type",
            )
        ),
        "SELECT 1 FROM pg_namespace WHERE oid >= 16384 AND nspname <> 'public'",
        "SELECT 1 FROM pg_database WHERE datname = current_database() AND NOT (datacl IS NULL AND datconnlimit = -1 AND datallowconn)",
        "SELECT 1 FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE datname = current_database()",
        "SELECT 1 FROM pg_replication_slots WHERE database = current_database()",
        "SELECT 1 FROM pg_prepared_xacts WHERE database = current_database()",
        "SELECT 1 WHERE current_setting('server_version_num')::integer < 150000",  # `public` is another there
    ]
)  # fmt: skip


def _renamed(server: str, name: str) -> bool:
    """Whether there was a database to use again, which is called ``name`` now: whoever knew it does not find it any more."""
    while _spare:
        with suppress(psycopg2.Error):  # somebody is in it again
            _execute(server, f"ALTER DATABASE {_spare.pop()} RENAME TO {name}")
            return True
    return False


def _emptied(url: str) -> bool:
    """Whether nothing is left in a database, of the server's own kind or of its users'."""
    try:
        return not _execute(url, f"{_EMPTY}; {_LEFT}")
    except psycopg2.Error:
        return False


@dataclass(frozen=True, slots=True)
class OwnServer:
    """A server for one test, which may do to it what others would not survive."""

    url: str
    _binaries: Path
    _folder: Path

    def restart(self) -> None:
        """End it as a power cut would, and start it again: what was committed is there, who was connected is not."""
        self._control("-l", str(self._folder / "log"), "-m", "immediate", "-w", "-t", "60", "restart")

    def _control(self, *arguments: str) -> None:
        _run(self._folder, self._binaries / "pg_ctl", "-D", self._folder / "data", *arguments)


@contextmanager
def own_server() -> Iterator[OwnServer]:
    """A server that nobody else uses. Skips the test, or fails it under ``CI``, where there are no server programs."""
    binaries = _binaries() or _no_server()
    folder = Path(tempfile.mkdtemp(prefix="elt-dagster-pg-"))
    # unlike the shared one, it has to keep what it said was committed
    server = OwnServer(_launch(binaries, folder, {**_OPTIONS, "synchronous_commit": "on"}), binaries, folder)
    _watch(binaries, os.getpid(), folder, "")
    try:
        yield server
    finally:
        server._control("-m", "immediate", "stop")
        shutil.rmtree(folder)


def _execute(url: str, sql: str) -> list[tuple[Any, ...]]:
    """The rows of the last of some statements."""
    connection = psycopg2.connect(url, sslmode="allow")  # TLS, which takes twice as long, only where it has to be
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def _no_server() -> NoReturn:
    reason = f"No PostgreSQL server: install the package postgresql, or set {URL_VARIABLE}."
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _binaries() -> Path | None:
    newest = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[-3]))
    if newest:
        return newest[-1].parent
    found = shutil.which("initdb")
    return Path(found).parent if found else None


def _session_process() -> int:
    """The process all workers of this test session descend from."""
    return os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()


def _start(binaries: Path, owner: int, note: Path) -> str:
    folder = Path(tempfile.mkdtemp(prefix="elt-dagster-pg-"))
    url = _launch(binaries, folder, _OPTIONS)
    _watch(binaries, owner, folder, f"{note} {note}.lock")
    return url


def _launch(binaries: Path, folder: Path, settings: Mapping[str, str]) -> str:
    """Make a server in ``folder`` and start it; its superuser's URL."""
    data, password = folder / "data", folder / "password"
    password.write_text(PASSWORD)
    certificate(folder)
    if os.getuid() == 0:
        for path in (folder, *folder.iterdir()):
            os.chown(path, _NOBODY, _NOBODY)
    port = _free_port()
    tls = {"ssl": "on", "ssl_cert_file": folder / CERTIFICATE, "ssl_key_file": folder / "server.key"}
    options = " ".join(f"-c {key}='{value}'" for key, value in {**settings, **tls}.items())
    _run(folder, binaries / "initdb", "-D", data, "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync",
         "--auth=md5", f"--pwfile={password}")  # fmt: skip
    _run(folder, binaries / "pg_ctl", "-D", data, "-l", folder / "log", "-w", "-t", "60", "-o",
         f"-h 127.0.0.1 -p {port} {options}", "start")  # fmt: skip
    return f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/postgres"


def _watch(binaries: Path, owner: int, folder: Path, notes: str) -> None:
    """Stop the server in ``folder`` and remove ``notes`` when the process ``owner`` is gone."""
    stop = _as_nobody([str(binaries / "pg_ctl"), "-D", str(folder / "data"), "-m", "immediate", "stop"])
    subprocess.Popen(
        ["sh", "-c", _WATCHDOG, "watchdog", str(owner), str(folder), notes, *stop],
        start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
    )  # fmt: skip


def certificate(folder: Path) -> None:
    """A self-signed certificate for localhost and its key, as ``server.crt`` and ``server.key`` in ``folder``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / CERTIFICATE).write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.key").write_bytes(secret)
    (folder / "server.key").chmod(0o600)


def _run(folder: Path, *command: str | Path) -> None:
    # a file, not a pipe: the server inherits it and would keep a pipe open
    with open(folder / "output", "w+") as output:
        done = subprocess.run(
            _as_nobody([str(part) for part in command]),
            check=False, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if done.returncode:
            output.seek(0)
            pytest.fail(f"{command[0]} failed: {output.read()}")


def _as_nobody(command: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return command
    return ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", *command]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
