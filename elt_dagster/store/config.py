"""A connection's configuration on its way in (secrets sealed, masks filled) and on its way out (opened, or masked).

A *secret field* is a name (``password``) or a dotted path (``auth.token``); lists on the way do not count. Everything below a secret
field is secret, each value sealed by itself. Whoever reads a connection and writes it back may send what it got: a mask or
a sealed value stands for the stored secret.
"""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from elt_dagster.errors import ConfigError
from elt_dagster.model.secret import MASK, is_reference
from elt_dagster.store.seal import SEALED, Keys, SealedToken

_NOTHING = object()


def seal_config(
    config: Mapping[str, Any], stored: Mapping[str, Any], secret_fields: frozenset[str], keys: Keys, *, what: str
) -> dict[str, Any]:
    """``config`` as it may be kept, given what is ``stored`` now; unchanged secrets keep their token.

    Raises ConfigError for a mask or a sealed value where the store has no such secret.
    """

    def walk(value: Any, kept: Any, path: str, secret: bool) -> Any:
        if _is_sealed(value):
            return kept if value == kept else _refuse_sealed(what, path)
        if secret and value == MASK:
            return kept if kept is not _NOTHING else _refuse_mask(what, path)
        if isinstance(value, Mapping) and not is_reference(value):
            return {
                key: walk(below, _below(kept, key), f"{path}.{key}", secret or f"{path}.{key}" in secret_fields)
                for key, below in value.items()
            }
        if isinstance(value, list):
            # in a list that grew or shrank, nobody can tell which secret a mask stands for
            same = kept if isinstance(kept, list) and len(kept) == len(value) else [_NOTHING] * len(value)
            return [walk(below, before, path, secret) for below, before in zip(value, same, strict=True)]
        return _sealed(value, kept, keys) if secret else value

    return {k: walk(v, stored.get(k, _NOTHING), k, k in secret_fields) for k, v in config.items()}


def open_sealed(config: Any, keys: Keys, *, what: str) -> Any:
    """``config`` with every sealed value opened. Raises ConfigError naming ``what`` and the path when no key fits."""
    return _map_sealed(config, lambda token, path: keys.open(token, what=f"the secret {path!r} of {what}"))


def mask_sealed(config: Any) -> Any:
    """``config`` with `MASK` for every sealed value."""
    return _map_sealed(config, lambda _token, _path: MASK)


def hide_tokens(config: Any) -> Any:
    """``config``, fresh from JSON, with tokens that do not show in reprs."""
    return _map_sealed(config, lambda token, _path: {SEALED: SealedToken(token)})


def reseal_config(config: Any, keys: Keys, *, what: str) -> tuple[Any, int]:
    """``config`` with every secret under the first key, and how many were not."""
    changed = 0

    def again(token: str, path: str) -> Any:
        nonlocal changed
        name = f"the secret {path!r} of {what}"
        if keys.is_latest(token, what=name):
            return {SEALED: SealedToken(token)}
        changed += 1
        return keys.seal(keys.open(token, what=name))

    return _map_sealed(config, again), changed


def value_at(config: Any, setting: str) -> Any:
    """What stands at the dotted path ``setting``; None where there is nothing."""
    for step in setting.split("."):
        config = config.get(step) if isinstance(config, Mapping) else None
    return config


def with_secret(config: Mapping[str, Any], setting: str, sealed: Mapping[str, str] | str) -> dict[str, Any]:
    """``config`` with ``sealed``, or a secret that will be, at the dotted path ``setting``."""
    head, _, rest = setting.partition(".")
    below = config.get(head)
    inner = below if isinstance(below, Mapping) and not _is_sealed(below) else {}
    return {**config, head: with_secret(inner, rest, sealed) if rest else sealed}


def _map_sealed(value: Any, change: Callable[[str, str], Any], path: str = "") -> Any:
    if _is_sealed(value):
        return change(value[SEALED], path)
    if isinstance(value, Mapping):
        return {k: _map_sealed(v, change, _join(path, k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_map_sealed(v, change, path) for v in value]
    return value


def _is_sealed(value: object) -> bool:
    return isinstance(value, Mapping) and len(value) == 1 and isinstance(value.get(SEALED), str)


def _sealed(value: Any, kept: Any, keys: Keys) -> Any:
    if value is None or is_reference(value):
        return value
    return kept if _is_sealed(kept) and _holds(kept, value, keys) else keys.seal(value)


def _holds(sealed: Mapping[str, str], value: Any, keys: Keys) -> bool:
    try:
        # the type counts: 1 and True are equal in Python and differ in JSON
        stored = keys.open(sealed[SEALED], what="the stored secret")
        return type(stored) is type(value) and bool(stored == value)
    except ConfigError:
        return False  # its key is lost; the new value takes its place


def _below(stored: Any, key: str) -> Any:
    return stored.get(key, _NOTHING) if isinstance(stored, Mapping) else _NOTHING


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _refuse_sealed(what: str, path: str) -> NoReturn:
    raise ConfigError(
        f"{what}: {path} is a sealed value that is not the stored one.", fix="Send the secret itself, or a reference."
    )


def _refuse_mask(what: str, path: str) -> NoReturn:
    raise ConfigError(f"{what}: {path} is the mask {MASK}, but no secret is stored.", fix="Send the secret itself.")
