"""What the server's environment holds goes to nobody who only names a host: PGPASSWORD is often that of the store."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from elt_dagster.registry import load_connector, load_destination

CANARY = "canary-of-the-store"


@contextmanager
def greedy() -> Iterator[tuple[int, list[bytes]]]:
    """The port of something that asks everybody for their password in the open, and what it was told."""
    told: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                client = listening.accept()[0]
            except OSError:
                return
            with client:
                message = client.recv(4096)
                if message[4:8] == struct.pack(">I", 80877103):  # may we use TLS?
                    client.sendall(b"N")
                    message = client.recv(4096)
                client.sendall(b"R" + struct.pack(">II", 8, 3))
                told.append(client.recv(4096))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1], told
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@pytest.mark.parametrize("role", ["source", "warehouse"])
def test_the_environments_password_is_not_told_to_a_host_without_one(
    role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", CANARY)
    kind = load_connector("postgres") if role == "source" else load_destination("postgres")
    with greedy() as (port, told):
        config = {"host": "127.0.0.1", "port": port, "user": "u", "database": "d", "sslmode": "disable"}
        assert not kind.configured(config).check().ok
    assert told == [b"p" + struct.pack(">I", 5) + b"\0"]


def test_a_server_that_wants_a_password_refuses_who_gives_none(
    postgres_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = urlsplit(postgres_server)
    monkeypatch.setenv("PGPASSWORD", str(parts.password))
    config = {"host": parts.hostname, "port": parts.port, "user": parts.username, "database": parts.path[1:]}
    result = load_connector("postgres").configured(config).check()
    assert not result.ok
    assert "refused the role or its password" in result.message
