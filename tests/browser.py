"""Headless Chromium for tests, driven over its DevTools protocol: what a person does with keyboard and eyes, and nothing more."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

PROGRAM_VARIABLE = "ELT_DAGSTER_TEST_CHROMIUM"
START_SECONDS = 60.0
PATIENCE_SECONDS = 30.0
DESKTOP = (1100, 900)
PHONE = (390, 844)
_KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowDown": 40, "ArrowUp": 38}
_ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0", "about:blank",
)  # fmt: skip


@contextmanager
def chromium(folder: Path) -> Iterator["Tab"]:
    """One tab of a browser with a profile in ``folder``. Skips the test, or fails it under ``CI``, where there is no Chromium."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    program = os.environ.get(PROGRAM_VARIABLE) or next(filter(None, found), None) or _no_browser()
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [program, f"--user-data-dir={folder / 'profile'}", *_ARGUMENTS],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        port = _port(folder / "profile" / "DevToolsActivePort")
        tabs = httpx.get(f"http://127.0.0.1:{port}/json", trust_env=False).json()
        address = next(t["webSocketDebuggerUrl"] for t in tabs if t["type"] == "page")
        with connect(address, max_size=2**26, proxy=None) as socket:
            tab = Tab(socket)
            for domain in ("Page", "Runtime", "Log", "Network"):
                tab.call(f"{domain}.enable")
            tab.resize(DESKTOP)
            yield tab
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def _port(file: Path) -> int:
    end = time.monotonic() + START_SECONDS
    while not (file.exists() and file.read_text().strip()):
        assert time.monotonic() < end, (file.parents[1] / "chromium.log").read_text()[-2000:]
        time.sleep(0.05)
    return int(file.read_text().split()[0])


def _no_browser() -> NoReturn:
    reason = f"No Chromium: run `make servers`, or set {PROGRAM_VARIABLE}."
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass
class Tab:
    """A page, and the person in front of it."""

    socket: ClientConnection
    complaints: list[str] = field(default_factory=list[str])
    """What the browser itself had to say: violations of a policy, exceptions of a script."""
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol."""
        number = next(self._ids)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(PATIENCE_SECONDS))
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            if message.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                entry = message["params"].get("entry", {"level": "error"})
                # a refused form is answered with a status that the browser tells as a failed request
                if entry["level"] in ("error", "warning") and entry.get("source") != "network":
                    self.complaints.append(json.dumps(message["params"]))

    def open(self, address: str) -> None:
        """Type an address."""
        self.call("Page.navigate", url=address)

    def evaluate(self, expression: str) -> Any:
        """What a script would see."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str) -> Any:
        """What ``expression`` is, as soon as it is something; pages may come and go meanwhile."""
        return self._until(lambda: self.evaluate(expression), expression)

    def wait_for_text(self, text: str) -> None:
        """Until the page says so, and has been read whole."""
        self.wait(f"document.readyState === 'complete' && document.body.innerText.includes({json.dumps(text)})")

    @property
    def address(self) -> str:
        """What the address bar shows, also where nobody answers."""
        history = self.call("Page.getNavigationHistory")
        found: str = history["entries"][history["currentIndex"]]["url"]
        return found

    def arrive(self, start: str) -> str:
        """The address, as soon as it begins with ``start``."""
        return str(self._until(lambda: self.address.startswith(start) and self.address, start))

    def _until(self, look: Callable[[], Any], what: str) -> Any:
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if found := look():
                    return found
            except AssertionError:
                # a page that is just being left answers nothing
                if time.monotonic() > end:
                    raise
            assert time.monotonic() < end, f"{what}: {self.address}: {self.evaluate('document.body.innerText')}"
            time.sleep(0.05)

    @property
    def focus(self) -> str:
        """The id, else the name, of what the keyboard writes into."""
        return str(
            self.evaluate(
                "document.activeElement.id || document.activeElement.name || document.activeElement.className"
            )
        )

    @property
    def spoken(self) -> dict[str, bool]:
        """What a screen reader says of each field that is not hidden: its name, and whether it is required."""
        found: dict[str, bool] = {}
        for node in self.call("Accessibility.getFullAXTree")["nodes"]:
            if node.get("role", {}).get("value") in ("textbox", "spinbutton", "combobox", "checkbox"):
                states = {it["name"]: it["value"].get("value") for it in node.get("properties", ())}
                found[node["name"]["value"]] = bool(states.get("required"))
        return found

    def press(self, key: str, times: int = 1, *, shift: bool = False) -> None:
        """Press a key that writes nothing."""
        text = {"text": "\r"} if key == "Enter" else {"text": " "} if key == " " else {}
        for _ in range(times):
            named = {
                "key": key,
                "code": {" ": "Space"}.get(key, key),
                "windowsVirtualKeyCode": _KEYS[key],
                "modifiers": 8 * shift,
            }
            self.call("Input.dispatchKeyEvent", type="keyDown", **named, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def write(self, text: str) -> None:
        """Write into whatever has the focus, in place of what is selected there."""
        self.call("Input.insertText", text=text)

    def tab_to(self, target: str, most: int = 40) -> None:
        """Press Tab until the focus is there."""
        for _ in range(most):
            if self.focus == target:
                return
            self.press("Tab")
        raise AssertionError(f"Tab never leads to {target}; it is at {self.focus}")

    def resize(self, size: tuple[int, int]) -> None:
        """Make the window as large as that; narrow ones are phones."""
        width, height = size
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def dark(self, dark: bool = True) -> None:
        """Let the person prefer dark pages."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)

    def scripts(self, on: bool) -> None:
        """Allow scripts on pages that are opened from now on, or do not."""
        self.call("Emulation.setScriptExecutionDisabled", value=not on)

    def screenshot(self, file: Path) -> None:
        """The whole page, also what is below the edge of the window."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))
