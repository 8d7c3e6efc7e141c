"""Where connectors may connect to. With ``ELT_DAGSTER_ALLOW_PRIVATE_HOSTS=0`` only to public addresses, for whoever may make a connection
chooses its host, and this server stands where he does not.

The address is checked that is then really connected to, so that a name cannot mean one thing when it is checked and another when it is
used; every way to write an address (decimal, octal, mapped into IPv6) is one to the system's resolver, and so to us. The server's own store
and warehouses are not concerned.
"""

import asyncio
import contextlib
import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx

from elt_dagster.errors import ConfigError

VARIABLE = "ELT_DAGSTER_ALLOW_PRIVATE_HOSTS"
_NO = frozenset({"0", "false", "no", "off"})
_FIX = f"Use a public one; whoever runs this server may allow it by {VARIABLE}=1."
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_METADATA = frozenset(map(ipaddress.ip_address, ("168.63.129.16",)))
"""Public by their number, and yet the cloud's own: Azure's. Those of the others are link-local or private."""
_VENDOR_STORAGE = {
    "s3": {"key", "secret", "token", "anon"},
    "gs": {"anon"},
    "az": {"account_name", "account_key", "sas_token", "anon"},
}
"""Storage whose hosts are the vendor's, and its options that lead nowhere else."""
_CREDENTIALS = {"s3": ({"key", "secret"},), "az": ({"account_name", "account_key"}, {"account_name", "sas_token"})}
"""What opens it; that of Google is a file."""


def allows_private_hosts(environ: Mapping[str, str]) -> bool:
    """Whether connectors may connect to private addresses; they may unless the environment says no."""
    return environ.get(VARIABLE, "1").strip().casefold() not in _NO


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet: not private, loopback, link-local, multicast, reserved or a cloud's metadata, also not
    when it is written inside an IPv6 address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in _NAT64 or int(ip) < 1 << 32:
            inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if any(v4 is not None and not is_public(str(v4)) for v4 in inner):
            return False
        if ip.ipv4_mapped is not None or ip in _NAT64:
            return True
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip in _METADATA)


def check_addresses(host: str, addresses: Iterable[str]) -> None:
    """Raise ConfigError where one of what ``host`` means is no public address. The address itself is not told: it is nobody's business."""
    if not all(is_public(address) for address in addresses):
        raise ConfigError(f"The host {host} is, or resolves to, a private address; this server does not go there.", fix=_FIX)  # fmt: skip


def http_transport(environ: Mapping[str, str], *, verify: bool = True) -> httpx.BaseTransport | None:
    """The guarded transport of an HTTP client; None, which is httpx's own, where private hosts are allowed.

    A proxy of the environment is not used then, for nobody could see where it connects to.
    """
    return None if allows_private_hosts(environ) else PublicTransport(verify=verify)


class PublicTransport(httpx.HTTPTransport):
    """httpx's transport, connecting to public addresses only."""

    def __init__(self, *, verify: bool = True) -> None:
        super().__init__(verify=verify, trust_env=False)
        # httpx hands no backend through; the pool is httpcore's public one, made once more
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(verify=verify, trust_env=False),
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=5.0,
            network_backend=PublicBackend(),
        )


class PublicBackend(httpcore.NetworkBackend):
    """Resolves by itself, checks every address, and connects to one of those."""

    def __init__(self, inner: httpcore.NetworkBackend | None = None) -> None:
        self._inner = inner or httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """As httpcore's. Raises ConfigError for a private address."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from None
        addresses = [str(info[4][0]) for info in found]
        check_addresses(host, addresses)
        for at, address in enumerate(addresses, 1):
            try:
                return self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.ConnectError:
                if at == len(addresses):
                    raise
        raise httpcore.ConnectError(f"{host} has no address")

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.NetworkStream:
        """Never: a socket of this machine is as private as can be."""
        raise ConfigError("A socket of this machine is no public host.", fix=_FIX)

    def sleep(self, seconds: float) -> None:
        """As httpcore's."""
        self._inner.sleep(seconds)


def guard_loop(loop: asyncio.AbstractEventLoop, host: str, environ: Mapping[str, str]) -> None:
    """Have an asyncio ``loop`` that serves one connector resolve public addresses only, for drivers that connect by its `create_connection`.

    Raises ConfigError for a ``host`` that needs no resolving and is private: an address, or the path of a socket.
    """
    if allows_private_hosts(environ):
        return
    if not host or "/" in host or host.startswith("@"):
        raise ConfigError("A socket of this machine is no public host.", fix=_FIX)
    with contextlib.suppress(ValueError):  # of a name, or of another spelling of an address: the loop has to resolve it
        check_addresses(host, [str(ipaddress.ip_address(host.strip("[]").partition("%")[0]))])
    resolve = loop.getaddrinfo

    async def resolved(name: Any, port: Any, **kwargs: Any) -> Any:
        found = await resolve(name, port, **kwargs)
        check_addresses(host, [str(info[4][0]) for info in found])
        return found

    loop.getaddrinfo = resolved  # type: ignore[method-assign,assignment]  # the loop is ours, and so is what it resolves


def is_vendor_storage(url: str) -> bool:
    """Whether ``url`` leads to S3, Google or Azure and nowhere else."""
    return "::" not in url and urlsplit(url).scheme in _VENDOR_STORAGE


def brings_credentials(url: str, options: Mapping[str, Any]) -> bool:
    """Whether a store of a vendor is opened with the credentials in ``options``, or as nobody: not as whoever this machine is there."""
    scheme = urlsplit(url).scheme
    known = _VENDOR_STORAGE.get(scheme, set()) | {"endpoint_url"}
    given = {name for name, value in options.items() if value}
    return set(options) <= known and any(way <= given for way in ({"anon"}, *_CREDENTIALS.get(scheme, ())))


def check_storage(url: str, options: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    """Raise ConfigError for files that are, or could be, on this machine or a private host: only the stores of S3, Google and Azure are not."""
    if allows_private_hosts(environ):
        return
    scheme = urlsplit(url).scheme
    if "::" in url or scheme not in _VENDOR_STORAGE:
        raise ConfigError(
            f"Files of {scheme or 'this machine'} are not read: this server goes to public hosts only.",
            fix=f"Use {', '.join(f'{s}://' for s in _VENDOR_STORAGE)}; whoever runs this server may allow more by {VARIABLE}=1.",
        )
    unknown = sorted(set(options) - _VENDOR_STORAGE[scheme])
    if unknown or not re.fullmatch(r"[a-z0-9]{0,24}", str(options.get("account_name", ""))):
        raise ConfigError(
            f"The storage option {(unknown or ['account_name'])[0]!r} could lead to a private host.",
            fix="Leave it out.",
        )
