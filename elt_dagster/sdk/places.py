"""Which settings say where a connection leads: to which server, and to what on the machine that runs us.

Both are told by name unless the field says it itself: ``Field(json_schema_extra=ADDRESS)``, `NO_ADDRESS`, `LOCAL` or `NOT_LOCAL`. What leads to a
server decides who gets the secrets; what leads to the machine is nothing for people who are no users of it.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

ADDRESS: JsonDict = {"x-address": True}
"""Of a field that says where requests go, or how well they are protected on the way."""
NO_ADDRESS: JsonDict = {"x-address": False}
LOCAL: JsonDict = {"x-local": True}
"""Of a field that names something on the machine: a file, a folder, a profile of its user."""
NOT_LOCAL: JsonDict = {"x-local": False}
_ADDRESS_WORDS = frozenset({
    "account", "address", "addresses", "args", "authority", "bastion", "bootstrap", "broker", "brokers",
    "certificate", "cluster", "dc", "domain", "dsn", "endpoint", "endpoints", "extra", "gateway", "headers", "host",
    "hostname", "hosts", "instance", "issuer", "kwargs", "options", "port", "protocol", "proxy", "region", "scheme",
    "server", "servers", "shop", "site", "socket", "ssl", "sslmode", "sslrootcert", "subdomain", "tenant", "tls", "tunnel",
    "uri", "url", "urls", "verify", "workspace",
})  # fmt: skip
"""``headers``: Host chooses among those who share one address. ``options``, ``args``, ``extra``: nobody knows what is in them."""
_LOCAL_WORDS = frozenset({"dir", "directory", "file", "filename", "folder", "path", "socket"})
_ON_DISK = re.compile(r"^(/|~|\.{1,2}(/|$)|\\|@|[A-Za-z]:[\\/]|file:|local:)", re.IGNORECASE)
"""How a path begins, or the name of a socket."""


def is_address(name: str, field: FieldInfo) -> bool:
    """Whether the setting is a part of where the connection goes."""
    declared = _declared(field, "x-address")
    if declared is not None:
        return declared
    words = _words(name)
    # an id is sent to the server, and does not choose it
    return bool(words & _ADDRESS_WORDS) and not words & {"id", "ids"}


def local_names(fields: Mapping[str, FieldInfo], settings: Mapping[str, Any]) -> Iterator[str]:
    """Those of the ``settings``, by name, that lead to something on this machine."""
    for key, field in fields.items():
        name = field.alias or key
        value = settings.get(name)
        declared = _declared(field, "x-local")
        if declared is False or value in (None, "") or not (declared or isinstance(value, str)):
            continue
        if declared or _words(name) & _LOCAL_WORDS or _ON_DISK.match(str(value).strip()):
            yield name


def _declared(field: FieldInfo, key: str) -> bool | None:
    extra = field.json_schema_extra
    found = extra.get(key) if isinstance(extra, dict) else None
    return found if isinstance(found, bool) else None


def _words(name: str) -> frozenset[str]:
    return frozenset(re.split(r"[_\W]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()))
