"""A headless Chromium, spoken to over its DevTools protocol: what the tests of Prefect's pages need of one."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextlib.contextmanager
def opened(profile: Path) -> Iterator[ClientConnection]:
    """A tab of a new browser, which is closed afterwards."""
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-port=0"]
    flags += ["--window-size=1280,1600", "--hide-scrollbars"]
    process = subprocess.Popen(
        [CHROMIUM, *flags, f"--user-data-dir={profile}", "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        port = _wait_for_port(profile / "DevToolsActivePort", process)
        with connect(_first_tab(port), max_size=None, proxy=None) as tab:
            yield tab
    finally:
        process.terminate()
        process.wait(20)


def _wait_for_port(file: Path, process: "subprocess.Popen[bytes]") -> int:
    until = time.monotonic() + 40
    while time.monotonic() < until and process.poll() is None:
        if file.exists() and file.read_text().strip():
            return int(file.read_text().splitlines()[0])
        time.sleep(0.2)
    raise AssertionError("Chromium did not open its debugging port")


def _first_tab(port: int) -> str:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=10) as answer:
            for target in json.load(answer):
                if target["type"] == "page":
                    return str(target["webSocketDebuggerUrl"])
        time.sleep(0.2)
    raise AssertionError("Chromium has no page")


class Page:
    """What a person does with a page: look, wait for words, fill in, press, take a picture."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection, self.numbers = connection, itertools.count(1)
        for domain in ("Page", "Runtime"):
            self.ask(f"{domain}.enable")
        self.ask("Page.addScriptToEvaluateOnNewDocument", source=_COUNT)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self.numbers)
        self.connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.connection.recv(timeout=60))
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])

    def run(self, program: str) -> Any:
        """The value of an expression in the page's own JavaScript."""
        answer = self.ask("Runtime.evaluate", expression=program, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def visit(self, url: str, words: str, seconds: float = 60.0) -> str:
        """Go there and wait until the words can be read; all the text that can."""
        self.ask("Page.navigate", url=url)
        return self.wait_for(words, seconds)

    def text(self) -> str:
        return str(self.run("document.body ? document.body.innerText : ''"))

    def wait_for(self, words: str, seconds: float = 60.0) -> str:
        until = time.monotonic() + seconds
        while words not in (text := self.text()):
            assert time.monotonic() < until, f"{words!r} did not appear within {seconds:.0f} s; the page says:\n{text[:3000]}"
            time.sleep(0.3)
        return text

    def fill(self, label: str, value: str, seconds: float = 20.0) -> None:
        """Type into the field under a label, as far as the page can tell; again, until the page has taken it over."""
        until = time.monotonic() + seconds
        while (done := self.run(_FILL % (json.dumps(label), json.dumps(value)))) != "filled":
            assert done == "gone again" and time.monotonic() < until, f"{label}: {done}"  # noqa: PT018 (one reason)
            time.sleep(0.3)

    def wait_until_quiet(self, seconds: float = 60.0) -> None:
        """Until none of the page's requests is under way: what it asked its server, a form's check for instance, is answered."""
        until, quiet = time.monotonic() + seconds, 0
        while quiet < 2:
            quiet = quiet + 1 if self.run("(window.requestsUnderWay || 0) === 0") else 0
            assert time.monotonic() < until, f"the page has been asking its server for {seconds:.0f} s"
            time.sleep(0.2)

    def press_until(self, words: str, done: Callable[[], object], seconds: float = 90.0, again_after: float = 10.0) -> None:
        """Press a button, and again, as a person does, where the page is the same as before and nothing has come of it."""
        until, place = time.monotonic() + seconds, self.run("location.href")
        while True:
            self.wait_until_quiet()
            if self.run("location.href") == place and not done():
                self.press(words)
            look_until = time.monotonic() + again_after
            while time.monotonic() < look_until:
                if done():
                    return
                time.sleep(0.3)
            assert time.monotonic() < until, (
                f"nothing has come of {words!r} within {seconds:.0f} s; the page says:\n{self.text()[:3000]}"
            )

    def press(self, words: str) -> None:
        """Press the button that says so."""
        done = self.run(_PRESS % json.dumps(words))
        assert done == "pressed", f"{words}: {done}"

    def picture(self, path: Path) -> None:
        """A screenshot of the whole page."""
        tall = "Math.max(600, ...[...document.querySelectorAll('*')].map(item => item.scrollHeight))"  # only a part of it scrolls
        before, height, until = 0, 1, time.monotonic() + 30
        while height != before and time.monotonic() < until:  # once it is taller, more of it may be shown
            self.wait_until_quiet()
            self.run(_DRAWN)
            before, height = height, min(int(self.run(tall)), 6000)
            self.ask("Emulation.setDeviceMetricsOverride", width=1280, height=height, deviceScaleFactor=1, mobile=False)
            time.sleep(1)
        data = self.ask("Page.captureScreenshot", format="png")["data"]
        self.ask("Emulation.clearDeviceMetricsOverride")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(data))


_COUNT = """(() => {
    window.requestsUnderWay = 0;
    const send = XMLHttpRequest.prototype.send, ask = window.fetch;
    XMLHttpRequest.prototype.send = function (...given) {
        window.requestsUnderWay++;
        this.addEventListener('loadend', () => window.requestsUnderWay--);
        return send.apply(this, given);
    };
    window.fetch = (...given) => {
        window.requestsUnderWay++;
        return ask(...given).finally(() => window.requestsUnderWay--);
    };
})()"""

_DRAWN = """(async () => {
    await document.fonts.ready;
    await Promise.all([...document.images].map(item => item.decode().catch(() => null)));
    for (let frames = 0; frames < 3; frames++) await new Promise(resolve => requestAnimationFrame(resolve));
    return true;
})()"""

_FILL = """(async () => {
    const label = %s, value = %s;
    const found = [...document.querySelectorAll('label')].filter(item => item.innerText.trim().split('\\n')[0].trim() === label);
    const titles = [...document.querySelectorAll('label')].map(item => item.innerText.trim().split('\\n')[0]);
    if (!found.length) return 'no label; there are: ' + titles.join(' | ');
    let field = null;
    for (let around = found[0]; around && !field; around = around.parentElement) field = around.querySelector('input, textarea');
    if (!field) return 'no field under it: ' + found[0].outerHTML.slice(0, 2000);
    const kind = field.tagName === 'TEXTAREA' ? HTMLTextAreaElement : HTMLInputElement;
    field.focus();
    Object.getOwnPropertyDescriptor(kind.prototype, 'value').set.call(field, value);
    field.dispatchEvent(new Event('input', {bubbles: true}));
    field.dispatchEvent(new Event('change', {bubbles: true}));
    field.blur();
    for (let frames = 0; frames < 3; frames++) await new Promise(resolve => requestAnimationFrame(resolve));
    return field.isConnected && field.value === value ? 'filled' : 'gone again';
})()"""

_PRESS = """(() => {
    const words = %s;
    const all = [...document.querySelectorAll('button, a')];
    const found = all.filter(item => item.innerText.trim() === words);
    if (!found.length) return 'no such button; there are: ' + all.map(item => item.innerText.trim()).join(' | ');
    found[found.length - 1].click();
    return 'pressed';
})()"""
