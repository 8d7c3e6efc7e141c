"""A process that asks for access tokens again and again, as a run does: ``STORE_URL TOKEN_URL TIMES HELD_SECONDS``."""

import sys

import httpx
from pydantic import SecretStr

from elt_dagster.control import vault
from elt_dagster.sdk import OAuth2, OAuthClient
from elt_dagster.sdk.tokens import TOKENS
from elt_dagster.store import Store, open_store


def refresh(store: Store, token_url: str, times: int) -> None:
    """Sign in so often, each time as if this process had no token yet."""
    mine = vault.StoreVault(store, "default", "api")
    with httpx.Client(trust_env=False, timeout=30) as http:
        for _ in range(times):
            TOKENS._known.clear()
            client = OAuthClient(token_url=token_url, client_id="c")
            # what a process was started with is old by the time it is used
            OAuth2(client, "refresh_token", refresh_token=SecretStr("stale"), vault=mine).sign_in(http)


def main() -> None:
    """As the arguments say."""
    store_url, token_url, times, held = sys.argv[1:]
    vault.HELD_SECONDS = float(held)
    refresh(open_store(store_url), token_url, int(times))


if __name__ == "__main__":
    main()
