"""Secrets that change while we use them: single-use refresh tokens, kept for the next process before they are used."""

from contextlib import AbstractContextManager
from typing import Protocol

from pydantic import SecretStr


class Drawer(Protocol):
    """The secrets of one connection while nobody else may replace them."""

    def current(self, setting: str) -> SecretStr | None:
        """The secret as it is kept now, by the name of its setting; another process may have replaced the one we were opened with."""
        ...

    def keep(self, setting: str, secret: SecretStr) -> None:
        """Replace it, at once and for everybody. Raises TransientError when it cannot be kept: do not use the new one then."""
        ...


class Vault(Protocol):
    """The secrets of one connection, wherever they are kept (`Runtime.vault`)."""

    def exclusive(self) -> AbstractContextManager[Drawer]:
        """Hold the drawer while a token is fetched, so that of two processes only one spends the refresh token.

        Waits for whoever has it. Raises TransientError when it does not come free, or when the store is out of reach.
        """
        ...
