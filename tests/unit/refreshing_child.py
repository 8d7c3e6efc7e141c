"""A process that asks for access tokens again and again, as a run does: ``STORE_URL TOKEN_URL TIMES HELD_SECONDS``."""

import sys

import httpx
from pydantic import SecretStr

from elt_dagster.control import vault
from elt_dagster.sdk import OAuth2, OAuthClient
from elt_dagster.sdk.tokens import TOKENS
from elt_dagster.store import open_store


def main() -> None:
    """Sign in ``TIMES`` times; each time as if no process had a token yet."""
    store_url, token_url, times, held = sys.argv[1:]
    vault.HELD_SECONDS = float(held)
    mine = vault.StoreVault(open_store(store_url), "default", "api")
    with httpx.Client(trust_env=False, timeout=30) as http:
        for _ in range(int(times)):
            TOKENS._known.clear()
            # what a process was started with is old by the time it is used
            auth = OAuth2(
                OAuthClient(token_url=token_url, client_id="c"),
                "refresh_token",
                refresh_token=SecretStr("stale"),
                vault=mine,
            )
            auth.sign_in(http)


if __name__ == "__main__":
    main()
