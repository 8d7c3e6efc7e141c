"""The contract of a connector: what every source class promises."""

import inspect
import logging
import os
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from elt_dagster.errors import ConfigError, nearest
from elt_dagster.model import Batch, Catalog, CheckResult, ReadRequest
from elt_dagster.sdk.budget import Ledger
from elt_dagster.sdk.consent import Consent
from elt_dagster.sdk.places import local_names
from elt_dagster.sdk.vault import Vault

if TYPE_CHECKING:
    import httpx


class Config(BaseModel):
    """Base of every connector's settings: immutable, no unknown keys, and silent about its input in errors.

    A field's docstring is its description in forms. Secrets are `pydantic.SecretStr`. Which settings say where a connection leads is told by
    their names; see `elt_dagster.sdk.places` for how a field says it itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)

    @classmethod
    def local_settings(cls, settings: Mapping[str, Any]) -> Iterable[str]:
        """The names of those plain ``settings`` that lead to something on the machine that runs us, such as a file, or are opened as whoever
        that machine is; who crosses a connection bridge may not choose them. Secrets among them may be masks."""
        return local_names(cls.model_fields, settings)


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The outside world, handed in so that a test can replace it: network, clock, sleep, chance, environment."""

    transport: "httpx.BaseTransport | None" = None
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], datetime] = _utc_now
    jitter: Callable[[], float] = random.random
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("elt_dagster"))
    ledger: Ledger | None = None
    """The rate budget of the connection, shared with everybody who reads from it; None where nobody else does."""
    vault: Vault | None = None
    """Where secrets are kept that the source replaces while we use them; None where they come from a file and cannot be."""
    max_wait_seconds: float = 60.0
    """A longer wait asked for by the source becomes a TransientError instead of a sleeping worker."""
    max_answer_bytes: int = 1 << 30
    """Of one answer over HTTP, decoded: it is held as a whole. More is a SourceError."""
    max_answer_seconds: float = 3600.0
    """From the first byte of an answer to its last; longer is a TransientError."""


C = TypeVar("C", bound=Config)


class Connector(ABC, Generic[C]):
    """Reads one kind of source.

    Making one costs nothing: no network, no files, no threads. Only `check`, `discover`, `settings_schema` and `read` talk to the
    source. Every error they raise on purpose is an `elt_dagster.errors.EltError` without secrets, query strings or rows in it.
    """

    name: ClassVar[str]
    """Identifier: lower-case letters, digits, underscores."""
    title: ClassVar[str]
    """Name for people."""
    docs_url: ClassVar[str]
    """Where the vendor documents the interface that is read."""
    aliases: ClassVar[tuple[str, ...]] = ()
    """Other names this connector answers to (``rest_api`` for ``http_api``)."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Modules of its optional driver; the extra ``elt-dagster[<name>]`` installs them."""
    config_type: ClassVar[type[Config]]
    settings_type: ClassVar[type[Config] | None] = None
    """Settings that belong to a sync rather than to the account; None when there are none."""

    def __init__(self, config: C, runtime: Runtime | None = None) -> None:
        self.config = config
        self.runtime = runtime or Runtime()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__dict__.get("__orig_bases__", ()):
            for arg in get_args(base):
                if isinstance(arg, type) and issubclass(arg, Config):
                    cls.config_type = arg

    @classmethod
    def spec(cls) -> dict[str, Any]:
        """JSON Schema of the configuration, for forms and validation."""
        return cls.config_type.model_json_schema()

    @classmethod
    def description(cls) -> str:
        """The first paragraph of the class docstring."""
        return (inspect.getdoc(cls) or "").partition("\n\n")[0]

    @classmethod
    def configured(cls, config: Mapping[str, Any], runtime: Runtime | None = None) -> "Connector[C]":
        """A connector from plain settings with secrets already resolved. Raises ConfigError that names each wrong field."""
        return cls(parse_config(cls.config_type, config, what=f"connector {cls.name}"), runtime)  # type: ignore[arg-type]

    @classmethod
    def consent(cls, settings: Mapping[str, Any]) -> Consent | None:
        """How a person lets us read an account, given the ``settings`` known so far (such as a sandbox); None where there is no such way."""
        return None

    def settings_schema(self, partial: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """JSON Schema of a sync's own settings, with live options; ``partial`` is what was chosen so far."""
        if self.settings_type is None:
            return {"type": "object", "properties": {}, "additionalProperties": False}
        return self.settings_type.model_json_schema()

    @abstractmethod
    def check(self) -> CheckResult:
        """Try the credentials with one cheap call; a refusal is an answer, not an exception."""

    @abstractmethod
    def discover(self, settings: Mapping[str, Any] | None = None) -> Catalog:
        """List the streams this configuration can read: the same answer every time, in a stable order.

        Raises AuthError, TransientError or SourceError when the source cannot be asked.
        """

    @abstractmethod
    def read(self, request: ReadRequest) -> Iterator[Batch]:
        """Yield batches lazily, each checkpoint only after the rows it covers.

        The data has canonical types and the source's column names. An incremental read ends with a checkpoint if it saw any row.
        Raises TransientError for what time may mend, AuthError and SourceError for the rest.
        """


CT = TypeVar("CT", bound=Config)


def parse_config(kind: type[CT], config: Mapping[str, Any], *, what: str) -> CT:
    """``config`` as a ``kind``. Raises ConfigError with one line per wrong field: path, what was wrong, what is allowed."""
    try:
        return kind.model_validate(dict(config))
    except ValidationError as error:
        known = list(kind.model_fields)
        lines: list[str] = []
        for problem in error.errors(include_input=False, include_url=False):
            where = ".".join(str(p) for p in problem["loc"]) or "config"
            if problem["type"] == "extra_forbidden":
                lines.append(f"{where}: unknown setting. {nearest(str(problem['loc'][-1]), known)}")
            else:
                lines.append(f"{where}: {problem['msg']}")
        raise ConfigError(f"The settings of {what} are wrong: {'; '.join(lines)}.") from None
