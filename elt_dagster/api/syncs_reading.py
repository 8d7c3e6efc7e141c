"""From the words of the Syncs dialect to ours: what is sent. A body changes a sync as plain data and its envelope, in place."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic.alias_generators import to_camel

from elt_dagster.api import syncs_models as shown
from elt_dagster.api.syncs_configs import PARTS, merged, shown_execution, write_destination, write_execution
from elt_dagster.api.syncs_words import BINDINGS, LOAD_MODES
from elt_dagster.control.secrets import REFERENCES_VARIABLE
from elt_dagster.errors import ConfigError, EltError

_PLAIN = ("name", "slug", "status", "trigger_mode", "execution_mode", "execution_backend")
"""Fields that are ours as they are; null leaves them alone."""
_TABLE_FIELDS = {
    "name": "entityKey",
    "table": "tableName",
    "load_mode": "loadMode",
    "primary_key": "primaryKeyColumns",
    "cursor_field": "cursorField",
}
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "connection": ("connectionId",),
    "destination": ("destinationConfig", "connectionId"),
    "schema": ("destinationConfig", "schema"),
    "dataset": ("destinationConfig", "schema"),
    "schema_drift": ("destinationConfig", "schemaDrift"),
    "add_metadata_columns": ("destinationConfig", "addMetadataColumns"),
    "settings": ("sourceConfig",),
    **{part.field: ("executionConfig",) for part in PARTS},
}
_KEY = "apiKey"
_KEY_GOES_TO = ("apiUrl", "address", "tls")
_WRITTEN = {part.field: {name: written for written, name in part.names.items()} for part in PARTS}


@dataclass
class Reading:
    """One body on its way into a sync. ``destination`` is the name of the warehouse's connection that it asks for."""

    body: shown.SyncWanted | shown.SyncChange
    destination: str | None = None
    may_refer: bool = False
    """Whether it may hold references to the environment and the files of the server."""
    order: list[str] = field(default_factory=list[str])
    """The streams of the sync as it was last read."""

    def apply(self, data: dict[str, Any], envelope: dict[str, Any]) -> None:
        """Change the sync. Raises ConfigError with the way to the field in the body."""
        sent = self._sent
        execution = shown_execution(data, envelope)
        data |= {name: getattr(self.body, name) for name in _PLAIN if sent.get(name) is not None}
        if "freshness_sla_seconds" in sent:
            _put(data, "freshness_sla_seconds", sent["freshness_sla_seconds"])
        if "schedule" in sent:
            _put(data, "schedule", _schedule(data, self.body.schedule))
        if "source_config" in sent:
            data["settings"] = _merged(data.get("settings"), sent["source_config"])
        write_destination(data, envelope, sent.get("destination_config") or {}, self.destination)
        if sent.keys() & {"execution_config", "execution_mode", "execution_backend"}:
            changed = execution if "execution_config" not in sent else _merged(execution, sent["execution_config"])
            self._refuse_reference(changed, execution)
            write_execution(data, envelope, changed)
        if self.body.entities is not None or self.body.table_bindings is not None:
            self._write_streams(data, envelope)
        self.order = [s["name"] for s in data.get("streams", ())]

    @property
    def _sent(self) -> dict[str, Any]:
        if isinstance(self.body, shown.SyncWanted):
            return {name: getattr(self.body, name) for name in shown.SyncWanted.model_fields}
        return {name: getattr(self.body, name) for name in self.body.model_fields_set}

    def _refuse_reference(self, changed: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
        """A key goes where the server's operator sends it: neither may it be another one's, nor may it go elsewhere."""
        if changed.get(_KEY) is None or self.may_refer:
            return
        if changed[_KEY] != kept.get(_KEY):
            text = f"A reference to the environment or a file of the server may not be sent. Set {REFERENCES_VARIABLE}=1 there."
            raise _wrong(text, "executionConfig", _KEY)
        moved = next((name for name in _KEY_GOES_TO if changed.get(name) != kept.get(name)), None)
        if moved is not None:
            text = f"The key is kept as it is, and {moved} changed. Send null for {_KEY}, or set {REFERENCES_VARIABLE}=1 on the server."
            raise _wrong(text, "executionConfig", moved)

    @property
    def _bindings(self) -> Sequence[shown.TableBindingWanted]:
        return self.body.table_bindings or ()

    def _write_streams(self, data: dict[str, Any], envelope: dict[str, Any]) -> None:
        known = {s["name"]: s for s in data.get("streams", ())}
        refined = self._refined()
        chosen = self.body.entities
        if chosen is None or (not chosen and refined):
            names = [*known, *(n for n in refined if n not in known)]
        else:
            names = list(chosen)
            self._refuse_outside(names)
        kept = dict(envelope.get(BINDINGS) or {})
        for name, at in refined.items():
            binding, beside = _binding(self._bindings[at], at)
            known[name] = merged(known.get(name) or {"name": name}, binding)
            kept[name] = merged(kept.get(name) or {}, beside)
        data["streams"] = [known.get(name) or {"name": name} for name in names]
        left = {name: beside for name, beside in kept.items() if beside and name in names}
        envelope.update({BINDINGS: left})
        if not left:
            del envelope[BINDINGS]

    def _refined(self) -> dict[str, int]:
        """The streams of ``tableBindings``, and where they are in it."""
        found: dict[str, int] = {}
        for at, binding in enumerate(self._bindings):
            if binding.entity_key in found:
                raise _wrong(
                    f"The stream {binding.entity_key[:60]!r} is there twice.", "tableBindings", at, "entityKey"
                )
            found[binding.entity_key] = at
        return found

    def _refuse_outside(self, names: Sequence[str]) -> None:
        for at, binding in enumerate(self._bindings):
            if binding.entity_key not in names:
                text = f"The stream {binding.entity_key[:60]!r} is not among the entities."
                raise _wrong(text, "tableBindings", at, "entityKey")

    # --- what is wrong, in the words of the body ---------------------------------------------------------------------------------

    @contextmanager
    def told(self) -> Iterator[None]:
        """What is wrong inside is told with the fields of the body."""
        try:
            yield
        except EltError as error:
            error.details = [(self._written(path), text) for path, text in error.details]
            raise

    def _written(self, path: tuple[str | int, ...]) -> tuple[str | int, ...]:
        match path:
            case ("streams", int(at), *inner) if at < len(self.order):
                return self._of_stream(at, inner)
            case (str(part), str(name), *inner) if part in _WRITTEN:
                return ("executionConfig", _WRITTEN[part].get(name, name), *inner)
            case (str(first), *inner) if first in _FIELDS:
                return (*_FIELDS[first], *inner)
            case (str(first), *inner):
                return (to_camel(first) if "_" in first else first, *inner)
        return path

    def _of_stream(self, at: int, inner: Sequence[str | int]) -> tuple[str | int, ...]:
        name = self.order[at]
        sent = {binding.entity_key: i for i, binding in enumerate(self._bindings)}
        if name in sent:
            words = [_TABLE_FIELDS.get(p, to_camel(p)) if isinstance(p, str) else p for p in inner]
            return ("tableBindings", sent[name], *words)
        if name in (self.body.entities or ()):
            # the same name may be there twice, and then it is the second that is wrong
            return ("entities", at)
        return ("tableBindings",) if self._bindings else ("entities",)


def _binding(sent: shown.TableBindingWanted, at: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A stream in our words and what the envelope keeps of it; what was not sent is in neither."""
    given = {name: getattr(sent, name) for name in sent.model_fields_set}
    found: dict[str, Any] = {}
    if "load_mode" in given:
        try:
            found["load_mode"] = LOAD_MODES.read(given["load_mode"]) if given["load_mode"] is not None else None
        except ConfigError as error:
            raise _wrong(str(error), "tableBindings", at, "loadMode") from None
    if "primary_key_columns" in given:
        found["primary_key"] = given["primary_key_columns"]
    if "cursor_field" in given:
        found["cursor_field"] = given["cursor_field"]
    tables = {name: given[name] for name in ("table_name", "physical_table_name") if name in given}
    if len(set(tables.values())) > 1 and None not in tables.values():
        raise _wrong("tableName and physicalTableName are not the same.", "tableBindings", at, "physicalTableName")
    if tables:
        found["table"] = next((table for table in tables.values() if table is not None), None)
    beside = ("logical_table_name", "table_naming_version", "source_instance_key")
    return found, {name: given[name] for name in beside if name in given}


def _schedule(data: Mapping[str, Any], sent: shown.ScheduleWanted | None) -> dict[str, Any] | None:
    if sent is None:
        return None
    named = {name: getattr(sent, name) for name in sent.model_fields_set}
    return merged(data.get("schedule") or {}, named) or None


def _merged(before: Any, sent: Mapping[str, Any] | None) -> dict[str, Any]:
    return {} if sent is None else merged(before or {}, sent)


def _put(data: dict[str, Any], name: str, value: Any) -> None:
    if value is None:
        data.pop(name, None)
    else:
        data[name] = value


def _wrong(text: str, *path: str | int) -> ConfigError:
    error = ConfigError(text)
    error.details = [(path, text)]
    return error
