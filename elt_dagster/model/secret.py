"""Secrets by reference: ``{env: NAME}``, ``{file: PATH}``, or a literal.

A configuration travels with its references unresolved; `resolve` opens them in the process that connects, and nowhere else.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elt_dagster.errors import ConfigError

MASK = "********"


def is_reference(value: object) -> bool:
    """Whether ``value`` is ``{env: NAME}`` or ``{file: PATH}``."""
    return (
        isinstance(value, Mapping)
        and len(value) == 1
        and next(iter(value)) in ("env", "file")
        and isinstance(next(iter(value.values())), str)
    )


def resolve(config: Any, environ: Mapping[str, str], *, where: str = "config") -> Any:
    """``config`` with every reference replaced by what it stands for.

    ``where`` is the path shown in messages. Raises ConfigError naming the variable or file that is missing, never its content.
    """
    if is_reference(config):
        ((kind, name),) = config.items()
        return _from_env(name, environ, where) if kind == "env" else _from_file(name, where)
    if isinstance(config, Mapping):
        return {k: resolve(v, environ, where=f"{where}.{k}") for k, v in config.items()}
    if isinstance(config, list):
        return [resolve(v, environ, where=f"{where}[{i}]") for i, v in enumerate(config)]
    return config


def _from_env(name: str, environ: Mapping[str, str], where: str) -> str:
    if name not in environ:
        raise ConfigError(
            f"{where} refers to the environment variable {name}, which is not set.",
            fix=f"Set {name} where the run executes (and where you called this command).",
        )
    return environ[name]


def _from_file(path: str, where: str) -> str:
    try:
        return Path(path).read_text().rstrip("\n")
    except OSError as error:
        raise ConfigError(
            f"{where} refers to the file {path}, which cannot be read ({error.strerror}).",
            fix="Mount the secret there or correct the path.",
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(
            f"{where} refers to the file {path}, which is not UTF-8 text.", fix="Correct the path."
        ) from None


def mask(config: Any, secret_fields: frozenset[str]) -> Any:
    """``config`` with literal secrets replaced by `MASK`; references stay, for they hide nothing."""
    if not isinstance(config, Mapping):
        return config
    return {k: MASK if k in secret_fields and not is_reference(v) and v is not None else v for k, v in config.items()}
