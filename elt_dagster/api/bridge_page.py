"""The pages of a connection bridge as HTML: a form, or one message. They work without JavaScript, which only makes them quicker.

Every text passes `escape`; secrets are never written into a page, not even the ones that were typed a moment ago.
"""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any
from urllib.parse import urlsplit

from elt_dagster.control.bridges import Ask
from elt_dagster.control.form_fields import Field, Kind
from elt_dagster.control.forms import Filled, item_count

CSRF_NAME = "csrf#"
ADD_NAME = "add#"
REMOVE_NAME = "remove#"
_ROWS = {Kind.BLOCK: 6, Kind.JSON: 6, Kind.LINES: 3, Kind.PAIRS: 3}
_HOW = {
    Kind.LINES: "One a line.",
    Kind.PAIRS: "One a line, as name: value.",
    Kind.JSON: "As JSON.",
}
SHORT = 4
"""So many fields are shown at once, whatever they are."""
_FORMATS = {"date": "YYYY-MM-DD", "date-time": "YYYY-MM-DDThh:mm:ssZ"}


def message_page(title: str, text: str) -> str:
    """A page that says one thing and leads nowhere."""
    return _page(title, f'<h1>{escape(title)}</h1><p class="lead">{escape(text)}</p>')


def form_page(ask: Ask, csrf: str) -> str:
    """The form of a bridge, with what was wrong beside the fields it was wrong with."""
    return _page(f"Connect to {ask.title}", "".join(_FormPage(ask, csrf).parts()))


def form_target(ask: Ask) -> str:
    """The origins that a form may lead to besides our own, as CSP sources: browsers follow the redirects after it with the same rule."""
    parts = urlsplit(ask.bridge.redirect_uri)
    # CSP has no words for the address of an IPv6 host
    back = f"{parts.scheme}:" if parts.netloc.startswith("[") else f"{parts.scheme}://{parts.netloc}"
    # a vendor's consent page may be reached by way of several hosts of the vendor's
    return f"https: {back}" if ask.before_consent else back


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="robots" content="noindex">'
        f'<title>{escape(title)}</title><link rel="stylesheet" href="assets/bridge.css">'
        '<script src="assets/bridge.js" defer></script></head>'
        f"<body><main>{body}</main></body></html>"
    )


class _FormPage:
    def __init__(self, ask: Ask, csrf: str) -> None:
        self.ask, self.csrf = ask, csrf
        self.problems, self.filled = ask.problems, ask.filled
        self.focused = next(iter(self._wrong(ask.fields)), "")

    def parts(self) -> Iterator[str]:
        ask = self.ask
        back = f"<strong>{escape(urlsplit(ask.bridge.redirect_uri).netloc)}</strong>"
        again = "again " if ask.bridge.connection_id else ""
        lead = (
            f"{escape(ask.title)} asks for your consent next; then you go back to {back}."
            if ask.before_consent
            else f"These settings are tried before anything is kept; then you go back to {back}."
        )
        yield f'<p class="label">{escape(ask.bridge.label)}</p><h1>Connect {again}to {escape(ask.title)}</h1><p class="lead">{lead}</p>'
        yield from self._summary()
        # the first button is what the Enter key presses: it must not be one that adds something
        yield (
            f'<form method="post" novalidate autocomplete="off"><input type="hidden" name="{CSRF_NAME}" value="{escape(self.csrf)}">'
            '<button class="hidden" tabindex="-1" aria-hidden="true">Connect</button>'
        )
        if any(self._is_needed(f.name, f) or _asks(f) for f in self._all(ask.fields)):
            yield '<p class="hint legend"><span class="needed" aria-hidden="true">*</span><span class="hidden">The star</span> marks what is required.</p>'
        yield self._some(ask.fields)
        word = "Continue" if ask.before_consent else "Check and connect"
        yield f'<p class="actions"><button class="main" data-busy="Checking&#8230;">{word}</button><span class="hidden" role="status" id="status"></span></p></form>'
        if ask.docs_url.startswith("https://"):
            yield f'<p class="foot"><a href="{escape(ask.docs_url)}" target="_blank" rel="noopener noreferrer">About {escape(ask.title)}</a></p>'

    def _summary(self) -> Iterator[str]:
        beside = {name: text for name, text in self.problems.items() if name in self._names}
        general = [text for name, text in self.problems.items() if name not in beside]
        if not self.problems:
            return
        focus = "" if self.focused else " autofocus"
        yield f'<div class="alert" role="alert" tabindex="-1"{focus}><h2>That did not work</h2>'
        yield from (f"<p>{escape(line)}</p>" for text in general for line in text.split("\n"))
        if beside:
            yield "<ul>"
            for name, text in beside.items():
                yield f'<li><a href="#{escape(_id(name))}">{escape(self._names[name])}</a>: {escape(text)}</li>'
            yield "</ul>"
        yield "</div>"

    @property
    def _names(self) -> dict[str, str]:
        return {f.choice_name if f.kind is Kind.VARIANTS else f.name: f.label for f in self._all(self.ask.fields)}

    def _all(self, fields: tuple[Field, ...]) -> Iterator[Field]:
        for it in fields:
            yield it
            if it.kind is Kind.ITEMS:
                for one in self._items(it):
                    yield from self._all((one,))
            else:
                yield from self._all(it.fields)

    def _wrong(self, fields: tuple[Field, ...]) -> list[str]:
        found = [f.choice_name if f.kind is Kind.VARIANTS else f.name for f in self._all(fields)]
        return [name for name in found if name in self.problems]

    def _items(self, it: Field) -> list[Field]:
        every = [it.item(index) for index in range(item_count(it, self.filled.data))]
        return [one for one in every if one.name in self.filled.data]

    # -- fields -----------------------------------------------------------------------------------------------------------

    def field(self, it: Field) -> str:
        if it.kind is Kind.GROUP:
            return self._group(it)
        if it.kind is Kind.VARIANTS:
            return self._variants(it)
        return self._list(it) if it.kind is Kind.ITEMS else self._plain(it)

    def _group(self, it: Field) -> str:
        return f'<fieldset class="group"><legend>{escape(it.label)}</legend>{_hint(it.name, it.hint)}{self._error(it.name)}{self._inner(it)}</fieldset>'

    def _inner(self, it: Field) -> str:
        return self._some(it.fields)

    def _some(self, fields: tuple[Field, ...]) -> str:
        """What has to be seen, and what may be opened; a short list is shown whole."""
        first = [f for f in fields if f.first] if len(fields) > SHORT else list(fields)
        first = first or list(fields[:SHORT])
        more = [f for f in fields if f not in first]
        shown = "".join(map(self.field, first))
        if not more:
            return shown
        opened = " open" if self._wrong(tuple(more)) else ""
        return f'{shown}<details{opened}><summary>More settings</summary><div class="inside">{"".join(map(self.field, more))}</div></details>'

    def _variants(self, it: Field) -> str:
        name, chosen = it.choice_name, self._value(it.choice_name)
        none = "" if it.required or it.default is not None else _option("", "None", chosen)
        options = none + "".join(_option(v.name, v.label, chosen) for v in it.fields)
        picker = f"<select {self._attributes(name, it)} data-variants>{options}</select>"
        shapes = "".join(
            f'<fieldset class="group" data-variant="{escape(v.name)}"><legend>{escape(v.label)}</legend>{_hint(v.name, v.hint)}{self._inner(v)}</fieldset>'
            for v in it.fields
            if v.fields
        )
        plain = '<noscript><p class="hint">Of these, only what is chosen above counts.</p></noscript>' if shapes else ""
        return f"{self._labelled(name, it, picker)}{plain}{shapes}"

    def _list(self, it: Field) -> str:
        items = "".join(self._item(one) for one in self._items(it))
        count = item_count(it, self.filled.data)
        template = it.fields[0]
        return (
            f'<fieldset class="group items" id="{escape(_id(it.name))}" tabindex="-1"><legend>{_legend(it)}</legend>'
            f"{_hint(it.name, it.hint)}{self._error(it.name)}"
            f'<input type="hidden" name="{escape(it.count_name)}" value="{count}" data-count data-depth="{it.depth}">'
            f"<div data-items>{items}</div><template>{_Template(self.ask, '').item(template)}</template>"
            f'<button class="quiet" name="{ADD_NAME}" value="{escape(it.name)}" data-add>Add {escape(template.label.lower())}</button></fieldset>'
        )

    def _item(self, one: Field) -> str:
        name = escape(one.name)
        return (
            f'<fieldset class="group item" data-item><legend>{escape(one.label)}</legend><input type="hidden" name="{name}" value="1">'
            f'{self._error(one.name)}{self._inner(one)}<button class="quiet" name="{REMOVE_NAME}" value="{name}" data-remove>Remove</button></fieldset>'
        )

    def _plain(self, it: Field) -> str:
        attributes = self._attributes(it.name, it)
        if it.kind is Kind.FLAG:
            checked = " checked" if self._value(it.name) else ""
            shown = f'<input type="hidden" name="{escape(it.shown_name)}" value="1">'
            control = f'{shown}<input type="checkbox" value="1" {attributes}{checked}>'
            return f'<div class="field flag">{control}<div><label for="{escape(_id(it.name))}">{escape(it.label)}</label>{_hint(it.name, it.hint)}{self._error(it.name)}</div></div>'
        if it.kind is Kind.CHOICE:
            chosen = self._value(it.name)
            known = any(text == chosen for text, _ in it.options)
            none = "" if it.required and known else _option("", "Choose" if it.required else "Default", chosen)
            options = "".join(_option(text, text, chosen) for text, _ in it.options)
            return self._labelled(
                it.name, it, f"<select {attributes}>{none if it.default is None or not known else ''}{options}</select>"
            )
        if it.kind in _ROWS:
            shown = "" if it.secret else escape(self._value(it.name).replace("\r\n", "\n"))
            # the first line end after the tag is not part of the value
            return self._labelled(
                it.name, it, f'<textarea rows="{_ROWS[it.kind]}" spellcheck="false" {attributes}>\n{shown}</textarea>'
            )
        return self._labelled(it.name, it, f"<input {_input_type(it)} {attributes}{self._shown(it)}>")

    def _shown(self, it: Field) -> str:
        return "" if it.secret else f' value="{escape(self._value(it.name))}"'

    def _labelled(self, name: str, it: Field, control: str) -> str:
        mark = ' <span class="kept">kept</span>' if name in self.filled.kept else ""
        # a screen reader says the control's own aria-required
        mark = '<span class="needed" aria-hidden="true">*</span>' if self._is_needed(name, it) else mark
        return (
            f'<div class="field"><label for="{escape(_id(name))}">{escape(it.label)}{mark}</label>'
            f"{_hint(name, self._help(name, it))}{control}{self._error(name)}</div>"
        )

    def _help(self, name: str, it: Field) -> str:
        keep = "Leave it empty to keep what is there." if name in self.filled.kept else ""
        return " ".join(filter(None, (it.hint, _HOW.get(it.kind, ""), keep)))

    def _is_needed(self, name: str, it: Field) -> bool:
        return it.required and name not in self.filled.kept and it.kind is not Kind.FLAG

    def _attributes(self, name: str, it: Field) -> str:
        wrong = name in self.problems
        described = f"{_id(name)}-hint {_id(name)}-error" if self._help(name, it) else f"{_id(name)}-error"
        given: dict[str, Any] = {
            "id": _id(name), "name": name, "aria-describedby": described,
            **({"required": "", "aria-required": "true"} if self._is_needed(name, it) else {}),
            **({"aria-invalid": "true"} if wrong else {}),
            **({"class": "secret"} if it.secret and it.kind in _ROWS else {}),
            **({"autofocus": ""} if name == self.focused else {}),
            **_limits(it),
        }  # fmt: skip
        return " ".join(f'{key}="{escape(str(value))}"' if value != "" else key for key, value in given.items())

    def _error(self, name: str) -> str:
        return f'<p class="error" aria-live="polite" id="{escape(_id(name))}-error">{escape(self.problems.get(name, ""))}</p>'

    def _value(self, name: str) -> str:
        return (self.filled.data.get(name) or [""])[-1]


class _Template(_FormPage):
    """An item that is not there yet, at its defaults; the number in its names is filled in by who adds it."""

    def item(self, template: Field) -> str:
        from elt_dagster.control.forms import fill_form

        filled = fill_form(template.fields, {})
        self.problems, self.filled = {}, Filled(filled.data, {})
        return self._item(template)


def _legend(it: Field) -> str:
    """A group cannot be `aria-required`, so its legend has the word for who does not see the mark."""
    mark = '<span class="needed" aria-hidden="true">*</span><span class="hidden">, required</span>' if _asks(it) else ""
    return f"{escape(it.label)}{mark}"


def _asks(it: Field) -> bool:
    return it.kind is Kind.ITEMS and it.required


def _id(name: str) -> str:
    return f"f-{name}"


def _hint(name: str, text: str) -> str:
    return f'<p class="hint" id="{escape(_id(name))}-hint">{escape(text)}</p>' if text else ""


def _option(value: str, label: str, chosen: str) -> str:
    return f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>{escape(label)}</option>'


def _input_type(it: Field) -> str:
    if it.secret:
        return 'type="password" autocomplete="off" spellcheck="false"'
    if it.kind is Kind.NUMBER:
        return f'type="number" inputmode="{"numeric" if it.limits.get("type") == "integer" else "decimal"}"'
    shape = _FORMATS.get(str(it.limits.get("format", "")))
    return 'type="text" spellcheck="false" autocapitalize="off"' + (f' placeholder="{shape}"' if shape else "")


def _limits(it: Field) -> Mapping[str, Any]:
    limits = it.limits
    if it.kind is Kind.NUMBER:
        names = {"minimum": "min", "maximum": "max"}
        step = "1" if limits.get("type") == "integer" else "any"
        return {"step": step, **{html: limits[name] for name, html in names.items() if name in limits}}
    if it.kind is Kind.JSON:
        return {"data-json": "1"}
    if it.kind is not Kind.TEXT:
        return {}
    pattern = {"data-pattern": limits["pattern"]} if "pattern" in limits else {}
    return {**pattern, **({"maxlength": limits["maxLength"]} if "maxLength" in limits and not it.secret else {})}
