"""Connection bridges: how somebody without an API key lets us read an account, and the application that asked for it hears of it.

`Bridges` is for the application: it makes a bridge and gets an address to send a person to. `Crossing` is for the person: a vendor's consent
page where the connector has one and we have a client for it, else a form; a connection that works, or no connection.
"""

import hmac
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from elt_dagster.control.accounts import Accounts
from elt_dagster.control.form_fields import Data, Field, build_form
from elt_dagster.control.forms import Answers, Filled, fill_form, read_form, without_secrets
from elt_dagster.control.local_places import chosen_places
from elt_dagster.control.oauth import Round, check_issuer, consent_of, error_code, find_client, new_secret, refusal
from elt_dagster.control.problems import parse, raise_problems
from elt_dagster.control.redirects import check_redirect_uri
from elt_dagster.control.secrets import holds_reference, with_stand_ins
from elt_dagster.control.validate import Kinds, find_kinds
from elt_dagster.control.workspace import Workspace
from elt_dagster.destinations.base import Destination
from elt_dagster.errors import AuthError, ConfigError, ConflictError, EltError, NotFoundError
from elt_dagster.registry import require_driver
from elt_dagster.sdk.connector import Connector, Runtime
from elt_dagster.sdk.consent import Consent
from elt_dagster.store import Bridge, OAuthClient, Store, StoredConnection, Transaction
from elt_dagster.store.api_keys import digest

AUTHORIZE_PATH = "/connection_bridges/authorize"
CALLBACK_PATH = "/connection_bridges/callback"
_RETYPE = "Type it again: other settings have changed."


class BridgeEndedError(ConflictError):
    """The bridge was crossed, or its day is over."""


class RoundError(AuthError):
    """An answer that belongs to no consent we have asked this browser for."""


# --- for the application -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bridges:
    """The bridges of one workspace. Methods raise EltError and nothing else on purpose."""

    workspace: Workspace
    base_url: str
    """How a browser reaches us."""

    def open_page(self, *, limit: int, after: str | None = None) -> tuple[list[Bridge], bool]:
        """Bridges that can still be crossed, newest first, and whether there are more. Raises NotFoundError for an unknown ``after``."""
        return self.workspace.store.bridges.open_page(self._id, limit=limit, after=after)

    def create(
        self,
        connector: str,
        *,
        label: str,
        redirect_uri: str,
        state: str | None = None,
        connection_id: str | None = None,
        settings: Mapping[str, Any] | None = None,
        by: str = "",
    ) -> tuple[Bridge, str]:
        """A bridge and the address of its page, which is kept nowhere.

        ``settings`` are some that are known already, ``connection_id`` is what to authorise anew. Raises ConfigError for an address that nobody
        should be sent to, for secrets among the settings, and for a connection of another connector; NotFoundError.
        """
        name = connector_name(connector)
        check_redirect_uri(redirect_uri)
        self.check_connection(connection_id, name)
        check_known(name, settings or {})
        token = new_secret()
        bridge = self.workspace.store.bridges.create(
            self._id, connector=name, label=label, redirect_uri=redirect_uri, token=token, caller_state=state,
            connection_id=connection_id, sealed={"settings": dict(settings)} if settings else None, created_by=by,
        )  # fmt: skip
        return bridge, f"{self.base_url}{AUTHORIZE_PATH}?token={token}"

    @property
    def _id(self) -> str:
        return next(w.id for w in self.workspace.store.workspaces() if w.name == self.workspace.name)

    def check_connection(self, connection_id: str | None, connector: str) -> None:
        """Raises ConfigError for a connection that cannot be authorised anew as one of ``connector``, NotFoundError."""
        if connection_id is None:
            return
        found = Accounts(self.workspace).get(connection_id)
        if connector_name(found.spec.connector) != connector:
            raise ConfigError(
                f"The connection {connection_id!r} is of {found.spec.connector!r}, not of {connector!r}.",
                fix="Leave connection_id out to make a new one.",
            )


def connector_name(connector: str) -> str:
    """Its own name, whichever of its names ``connector`` is. Raises NotFoundError."""
    return _kind(find_kinds(connector)).name


def check_known(connector: str, settings: Mapping[str, Any]) -> None:
    """Raises ConfigError for settings that the connector does not have, that are secrets, or that refer to our environment."""
    kinds = find_kinds(connector)
    names = [f.alias or name for name, f in _kind(kinds).config_type.model_fields.items()]
    secrets = {path.partition(".")[0] for path in kinds.secrets}
    for name, value in settings.items():
        if name not in names:
            raise ConfigError(f"{connector} has no setting {name!r}.", fix=f"Known: {', '.join(names)}.")
        # also one that lies deeper: it would be opened with the rest
        if name in secrets or holds_reference(value):
            raise ConfigError(f"The setting {name!r} is for the person who crosses the bridge.", fix="Leave it out.")


# --- for the person ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GoTo:
    """The browser goes on to ``address``; ``connection`` when that is because there is one now."""

    address: str
    connection: StoredConnection | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """The person has to fill in a form. ``problems`` is by name of the field, `""` for the form as a whole."""

    bridge: Bridge
    title: str
    """Of the connector."""
    fields: tuple[Field, ...]
    filled: Filled = field(repr=False)
    problems: Mapping[str, str] = field(default_factory=dict[str, str])
    before_consent: bool = False
    """Whether the vendor's page comes next."""
    docs_url: str = ""


Step = GoTo | Ask


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """The pages of all bridges. Methods raise EltError and nothing else on purpose; what they raise is for the person in front of the page."""

    store: Store
    base_url: str
    runtime: Runtime = field(default_factory=Runtime)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def bridge(self, token: str) -> Bridge:
        """The bridge whose address has ``token``. Raises NotFoundError, BridgeEndedError."""
        return _still_open(self.store.bridges.by_token(token))

    def open(self, bridge: Bridge, browser: str) -> Step:
        """The first page. ``browser`` is a secret of the browser that asks; only that one may bring the vendor's answer."""
        it = _Crossed(self, bridge)
        if it.client is None:
            return it.form()
        fields = it.before_consent()
        return it.ask(fields, fill_form(fields, it.known())) if fields else it.set_out({}, browser)

    def submit(self, bridge: Bridge, browser: str, data: Data) -> Step:
        """What the person has filled in: the settings, or those that are needed before the vendor's page."""
        it = _Crossed(self, bridge)
        return it.submitted_form(data) if it.client is None else it.submitted_before_consent(data, browser)

    def again(self, bridge: Bridge, data: Data) -> Ask:
        """The form once more, as it is filled in so far."""
        it = _Crossed(self, bridge)
        fields = it.fields() if it.client is None else it.before_consent()
        return it.ask(fields, Filled({k: list(v) for k, v in data.items()}, fill_form(fields, it.known()).kept))

    def expected(self, browser: str, state: str) -> Bridge:
        """The bridge to which an answer with ``state`` belongs. Raises RoundError, BridgeEndedError: then nothing is to happen at all."""
        try:
            bridge = _still_open(self.store.bridges.by_state(state))
        except NotFoundError:
            raise _nobody_asked() from None
        if not hmac.compare_digest(str(bridge.sealed.get("browser", "")), digest(browser)):
            raise RoundError("This answer belongs to another browser.", fix="Open the link that you were given here.")
        return bridge

    def returned(self, bridge: Bridge, answer: Mapping[str, str]) -> GoTo:
        """What the vendor's page sends back with a person to the `expected` bridge: ``state`` and ``code``, or ``state`` and ``error``.

        Raises RoundError for what was used already, BridgeEndedError, and AuthError for an answer of another server. Everything else that goes
        wrong is told to the application.
        """
        return _Crossed(self, bridge).returned(answer)


def _nobody_asked() -> RoundError:
    text = "This answer was used already, or nobody has asked for it."
    return RoundError(text, fix="Open the link that you were given again.")


def _still_open(bridge: Bridge) -> Bridge:
    if bridge.used_at is not None:
        raise _used()
    if not bridge.is_open:
        raise BridgeEndedError("This link has expired.", fix="Ask for another one where you got it.")
    return bridge


def _used() -> BridgeEndedError:
    return BridgeEndedError("This link was used already.", fix="Ask for another one where you got it.")


def _kind(kinds: Kinds) -> type[Connector[Any]] | type[Destination[Any]]:
    kind = kinds.source or kinds.warehouse
    assert kind is not None  # noqa: S101 - find_kinds found one of them
    return kind


class _Crossed:
    """One bridge while somebody is on it."""

    def __init__(self, crossing: Crossing, bridge: Bridge) -> None:
        self.crossing, self.bridge, self.store = crossing, bridge, crossing.store
        self.kinds = find_kinds(bridge.connector)
        self.accounts = Accounts(
            Workspace(store=self.store, name=bridge.workspace, runtime=crossing.runtime, environ=crossing.environ)
        )
        self.stored = self.accounts.get(bridge.connection_id) if bridge.connection_id is not None else None
        self.given: dict[str, Any] = dict(bridge.sealed.get("settings", {}))
        self.client = self._client()

    def _client(self) -> OAuthClient | None:
        source = self.kinds.source
        if source is None or source.consent({}) is None:
            return None
        return find_client(self.store, self.bridge.workspace_id, self.bridge.connector, self.crossing.environ)

    def known(self) -> dict[str, Any]:
        """Settings that are known already, with masks for stored secrets."""
        return {**(self.accounts.masked_config(self.stored) if self.stored is not None else {}), **self.given}

    # -- a form ---------------------------------------------------------------------------------------------------------------

    def fields(self) -> tuple[Field, ...]:
        return build_form(_kind(self.kinds).config_type.model_json_schema(), self.kinds.secrets)

    def form(self) -> Ask:
        fields = self.fields()
        return self.ask(fields, fill_form(fields, self.known()))

    def ask(self, fields: tuple[Field, ...], filled: Filled, problems: Mapping[str, str] | None = None) -> Ask:
        kind = _kind(self.kinds)
        docs = str(getattr(kind, "docs_url", ""))
        return Ask(self.bridge, kind.title, fields, filled, problems or {}, self.client is not None, docs)

    def submitted_form(self, data: Data) -> Step:
        fields = self.fields()
        before = fill_form(fields, self.known())
        answers = read_form(fields, data, before.kept)
        problems = dict(answers.problems)
        if problems:
            # everything at once, not one kind of mistake after the other
            found = parse(_kind(self.kinds).config_type, with_stand_ins(answers.config), show=False)[1]
            problems = {**_beside(answers, [(p.path, p.text) for p in found]), **problems}
            problems.pop("", None)
        problems = problems or self._to_be_retyped(answers, data, before)
        if not problems:
            try:
                return self._finish(answers.config)
            except BridgeEndedError:
                raise
            except EltError as error:
                problems = _beside(answers, error.details) if error.details else {"": str(error)}
        return self.ask(fields, Filled({k: list(v) for k, v in data.items()}, before.kept), problems)

    def _to_be_retyped(self, answers: Answers, data: Data, before: Filled) -> dict[str, str]:
        """Who crosses a bridge may not send a secret that somebody else has stored to a host of their own."""
        read = set(answers.places.values())
        left_out = [name for name in before.kept if name in read and not "".join(data.get(name, ())).strip()]
        fields = self.fields()
        same = not left_out or without_secrets(fields, data) == without_secrets(fields, before.data)
        return {} if same else dict.fromkeys(left_out, _RETYPE)

    def _finish(self, config: Mapping[str, Any]) -> GoTo:
        """Try the settings; then the connection and the end of the bridge are one write."""
        raise_problems(chosen_places(self.kinds, config, self.known(), self.crossing.environ))
        require_driver(_kind(self.kinds))

        def crossed(transaction: Transaction, connection: StoredConnection) -> None:
            try:
                transaction.cross_bridge(self.bridge.id, connection.id)
            except ConflictError:
                raise _used() from None

        bridge, by = self.bridge, self.bridge.created_by
        if self.stored is None:
            made = self.accounts.create(bridge.connector, config, label=bridge.label, by=by, also=crossed)
        else:
            made = self.accounts.update(self.stored.id, config, label=bridge.label, also=crossed)
        return GoTo(self._address(connection_id=made.id), made)

    # -- consent --------------------------------------------------------------------------------------------------------------

    def before_consent(self) -> tuple[Field, ...]:
        """What has to be asked before the vendor's page can be shown."""
        source, client = self.kinds.source, self.client
        assert source is not None  # noqa: S101 - only asked where there is a client
        assert client is not None  # noqa: S101 - as above
        known = {**self.known(), **client.settings}
        consent = consent_of(source, client, known)
        schema = source.config_type.model_json_schema()
        come = {
            consent.client_id_setting, consent.client_secret_setting, *consent.keep.values(), *consent.settings, *known
        }  # fmt: skip
        needed = {name for name in schema.get("required", ()) if name not in come}
        wished = set() if client.settings else {name for name in consent.ask if name not in come}
        decided = self.stored is not None or any(name in self.given for name in consent.ask)
        return build_form(schema, self.kinds.secrets, only=needed | (set() if decided else wished))

    def submitted_before_consent(self, data: Data, browser: str) -> Step:
        fields = self.before_consent()
        answers = read_form(fields, data)
        problems = dict(answers.problems)
        if not problems:
            try:
                return self.set_out(answers.config, browser)
            except BridgeEndedError:
                raise
            except ConfigError as error:
                problems = {"": str(error)}
        return self.ask(fields, Filled({k: list(v) for k, v in data.items()}), problems)

    def set_out(self, chosen: Mapping[str, Any], browser: str) -> GoTo:
        """On to the vendor's page, with a state that is good for one answer to this browser."""
        settings = {**self.given, **chosen}
        leg = self._round({**self.known(), **chosen}, new_secret())
        state = new_secret()
        kept = {"settings": settings, "verifier": leg.verifier, "browser": digest(browser)}
        try:
            self.store.bridges.start_round(self.bridge.id, state, kept)
        except ConflictError:
            raise _used() from None
        return GoTo(leg.address(state))

    def _round(self, settings: Mapping[str, Any], verifier: str) -> Round:
        source, client = self.kinds.source, self.client
        if source is None or client is None:
            raise ConfigError(
                f"There is no OAuth client for {self.bridge.connector} any more.",
                fix="Ask whoever runs this server to set one: elt-dagster oauth-clients set.",
            )
        consent = consent_of(source, client, settings)
        return Round(
            consent=consent, client=client, redirect_uri=f"{self.crossing.base_url}{CALLBACK_PATH}", verifier=verifier
        )

    def returned(self, answer: Mapping[str, str]) -> GoTo:
        settings = self.known()
        leg = self._round(settings, str(self.bridge.sealed.get("verifier", "")))
        check_issuer(leg.consent, answer.get("iss"))
        # before the code is spent: whoever comes second with this state has lost
        try:
            self.store.bridges.end_round(
                self.bridge.id, answer["state"], {"settings": self.given} if self.given else {}
            )
        except ConflictError:
            raise _nobody_asked() from None
        try:
            if "error" in answer or not answer.get("code"):
                raise refusal(answer.get("error", "access_denied"), answer.get("error_description"))
            brought = leg.exchange(answer["code"], self.crossing.runtime)
            return self._finish(self._config(leg.consent, leg.client, {**settings, **brought}))
        except BridgeEndedError:
            raise
        except EltError as error:
            return GoTo(self._address(error=error_code(error), error_description=str(error)))

    def _config(self, consent: Consent, client: OAuthClient, settings: Mapping[str, Any]) -> dict[str, Any]:
        config = {**settings, **consent.settings, **client.settings, consent.client_id_setting: client.client_id}
        config.pop(consent.client_secret_setting, None)
        return {**config, **({consent.client_secret_setting: client.client_secret} if client.client_secret else {})}

    def _address(self, **answer: str) -> str:
        """The application's, with an answer and its own state. Raises nothing: it was checked when the bridge was made."""
        state = {"state": self.bridge.caller_state} if self.bridge.caller_state is not None else {}
        return f"{self.bridge.redirect_uri}?{urlencode({**answer, **state})}"


def _beside(answers: Answers, details: Sequence[tuple[tuple[str | int, ...], str]]) -> dict[str, str]:
    """What is wrong, by the field that it is wrong with."""
    found: dict[str, str] = {}
    for path, text in details:
        found.setdefault(answers.place(path), f"{text[:1].upper()}{text[1:]}")
    return found
