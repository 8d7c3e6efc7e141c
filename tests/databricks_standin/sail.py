"""LakeSail behind Arrow Flight SQL: one statement in, one table out."""

import json
import os
from typing import Any

import pyarrow as pa
from pyarrow import flight

CATALOGS = ("main", "legacy")
_ANY = b"type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery"


class Sail:
    """A Sail server in this process, and a connection to it."""

    def __init__(self) -> None:
        catalogs = ", ".join(f'{{name={json.dumps(n)}, type="memory", initial_database=["default"]}}' for n in CATALOGS)
        os.environ["SAIL_CATALOG__LIST"] = f"[{catalogs}]"
        os.environ["SAIL_CATALOG__DEFAULT_CATALOG"] = CATALOGS[0]
        os.environ["SAIL_EXECUTION__DEFAULT_PARALLELISM"] = (
            "1"  # tests have few rows, and split work costs more than it saves
        )
        from pysail.flight import FlightSqlServer

        self._server = FlightSqlServer()
        self._server.start(background=True)
        address: Any = self._server.listening_address
        self._client = flight.connect(f"grpc://{address[0]}:{address[1]}")

    def __call__(self, sql: str) -> pa.Table:
        """The result of ``sql``. Raises pyarrow.lib.ArrowException."""
        command = _field(1, _ANY) + _field(2, _field(1, sql.encode()))
        info = self._client.get_flight_info(flight.FlightDescriptor.for_command(command))
        return pa.concat_tables([self._client.do_get(e.ticket).read_all() for e in info.endpoints])


def _field(tag: int, data: bytes) -> bytes:
    """A length-delimited protobuf field; the one message that Flight SQL needs is not worth a generated module."""
    size, head = len(data), bytes([tag << 3 | 2])
    while size > 127:
        head += bytes([size & 127 | 128])
        size >>= 7
    return head + bytes([size]) + data
