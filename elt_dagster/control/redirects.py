"""Addresses of applications to which a person's browser is sent back."""

import re
from urllib.parse import urlsplit

from elt_dagster.errors import ConfigError

MAX_ADDRESS = 2000
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def check_redirect_uri(uri: str) -> None:
    """Raises ConfigError for an address to which nobody's browser should be sent with an answer."""
    problem = _redirect_problem(uri)
    if problem:
        raise ConfigError(
            f"The redirect_uri {problem}.", fix="Give an https address, or http on localhost, without a query."
        )


def _redirect_problem(uri: str) -> str:
    if len(uri) > MAX_ADDRESS:
        return f"has more than {MAX_ADDRESS} characters"
    # browsers drop tabs and line ends, and read backslashes as slashes
    if not re.fullmatch(r"[\x21-\x7e]+", uri) or "\\" in uri:
        return "has characters that are not allowed in an address"
    if "?" in uri or "#" in uri:
        return "has a query or a fragment"
    match = re.fullmatch(r"(https?)://([^/@]+)(/.*)?", uri, re.IGNORECASE)
    host = (
        re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?", match[2])
        if match
        else None
    )
    if match is None or host is None:
        return "is no address of a web page"
    try:
        parts = urlsplit(uri)
        usable = parts.port != 0
    except ValueError:
        return "is no address of a web page"
    safe = parts.scheme == "https" or parts.hostname in LOOPBACK
    return "" if safe and usable else "is neither https nor http on localhost"
