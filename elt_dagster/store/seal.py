"""Secrets at rest: which keys there are, and what they seal.

A sealed value stands in a configuration as ``{"sealed": "<token>"}``, where the token is a Fernet token of the value as JSON.
References (``{env: NAME}``, ``{file: PATH}``) hide nothing and stay as they are.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elt_dagster.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

KEY_VARIABLE = "ELT_DAGSTER_SECRET_KEY"
SEALED = "sealed"
_MAKE_KEY = 'python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"'


class SealedToken(str):
    """A token that does not show in reprs, and so in no log or assertion."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'...'"


class Keys:
    """The keys of ``$ELT_DAGSTER_SECRET_KEY`` (comma separated: the first seals, all open), else of a file beside a SQLite store.

    Looked up anew each time, so that a changed environment counts at once. Values never enter a message.
    """

    def __init__(self, file: Path | None, environ: Mapping[str, str] = os.environ) -> None:
        self._file = file
        self._environ = environ

    def seal(self, value: Any) -> dict[str, str]:
        """``value``, any JSON, sealed with the first key; a SQLite store makes its key when it first needs one.

        Raises ConfigError when there is no key and no place to keep one.
        """
        token = self._fernets(create=True)[0].encrypt(json.dumps(value).encode())
        return {SEALED: SealedToken(token.decode())}

    def open(self, token: str, *, what: str) -> Any:
        """The value in ``token``. Raises ConfigError, naming ``what``, when no key fits."""
        value, _ = self._open(token, what)
        return value

    def is_latest(self, token: str, *, what: str) -> bool:
        """Whether the first key sealed ``token``. Raises ConfigError, naming ``what``, when no key did."""
        _, number = self._open(token, what)
        return number == 0

    def _open(self, token: str, what: str) -> tuple[Any, int]:
        from cryptography.fernet import InvalidToken

        for number, key in enumerate(self._fernets(create=False)):
            try:
                return json.loads(key.decrypt(token.encode())), number
            except InvalidToken:
                continue
        raise ConfigError(f"No key opens {what}.", fix=self._hint())

    def _hint(self) -> str:
        if self._from_environ() and self._file is not None and self._file.exists():
            return f"Append the key in {self._file} to {KEY_VARIABLE}, after a comma; or store the secret again."
        return f"Append the key it was sealed with to {KEY_VARIABLE}, after a comma; or store the secret again."

    def _from_environ(self) -> list[str]:
        return [part.strip() for part in self._environ.get(KEY_VARIABLE, "").split(",") if part.strip()]

    def _fernets(self, *, create: bool) -> "list[Fernet]":
        from cryptography.fernet import Fernet

        texts = self._from_environ()
        where = KEY_VARIABLE if texts else str(self._file)
        try:
            return [Fernet(text) for text in texts or [self._from_file(create)]]
        except ValueError:
            raise ConfigError(f"{where} does not hold a valid key.", fix=f"Make one: {_MAKE_KEY}") from None

    def _from_file(self, create: bool) -> str:
        if self._file is None:
            raise ConfigError(
                f"A store in Postgres needs {KEY_VARIABLE} to keep secrets.", fix=f"Make a key and set it: {_MAKE_KEY}"
            )
        try:
            if create and not self._file.exists():
                _make_key(self._file)
            return self._file.read_text().strip()
        except FileNotFoundError:
            raise ConfigError(f"The key of the store is missing: {self._file}.",
                              fix=f"Restore the file or set {KEY_VARIABLE}.") from None  # fmt: skip
        except OSError as error:
            raise ConfigError(f"The key of the store cannot be used: {self._file} ({error.strerror}).",
                              fix=f"Correct its rights or set {KEY_VARIABLE}.") from None  # fmt: skip


def _make_key(file: Path) -> None:
    """A new key, readable by its owner only. When two processes make one at once, both end with the same."""
    from cryptography.fernet import Fernet

    handle, name = tempfile.mkstemp(dir=file.parent, prefix=".secret")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(Fernet.generate_key() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.link(name, file)  # unlike a rename, refuses to replace
    except FileExistsError:
        return
    finally:
        Path(name).unlink()
