"""Prefect's pages in a real browser: every request that they make stays on this computer."""

import itertools
import json
import time
import urllib.parse
from collections.abc import Iterator

import pytest
from websockets.sync.client import ClientConnection

from tests.launch import browser

PAGES = [
    "/dashboard",
    "/runs",
    "/flows",
    "/deployments",
    "/work-pools",
    "/work-pools/create",
    "/work-pools/work-pool/linac-flows",
]
PAGES += ["/work-pools/work-pool/linac-flows/edit", "/blocks", "/blocks/catalog", "/blocks/catalog/linac/create", "/variables"]
PAGES += ["/automations", "/automations/create", "/artifacts", "/events", "/concurrency-limits", "/settings"]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientConnection]:
    """A tab of a headless Chromium, over its DevTools protocol."""
    if browser.CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian and Ubuntu: apt install chromium)")
    with browser.opened(tmp_path_factory.mktemp("chromium")) as connection:
        yield connection


class Tab:
    """The few commands needed, and every request that was seen on the way."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection, self.numbers, self.urls = connection, itertools.count(1), dict[str, str]()
        for domain in ("Network", "Page", "Runtime"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: object) -> dict[str, object]:
        number = next(self.numbers)
        self.connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = self._next(30)
            if message.get("id") == number:
                return dict(message.get("result", {}))

    def _next(self, seconds: float) -> dict[str, dict[str, object]]:
        message = json.loads(self.connection.recv(timeout=seconds))
        if message.get("method") == "Network.requestWillBeSent":
            self.urls[message["params"]["requestId"]] = message["params"]["request"]["url"]
        if message.get("method") == "Network.loadingFailed" and message["params"].get("blockedReason") == "csp":
            self.urls.pop(message["params"]["requestId"], None)  # the browser did not send it
        if message.get("method") == "Network.webSocketCreated":
            self.urls[message["params"]["requestId"]] = message["params"]["url"]
        return dict(message)

    def visit(self, url: str, seconds: float = 2.5) -> str:
        """The page's visible text after its scripts have had some time."""
        self.ask("Page.navigate", url=url)
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                self._next(left)
            except TimeoutError:
                break
        result = self.ask("Runtime.evaluate", expression="document.body.innerText")
        return str(dict(result["result"])["value"])  # type: ignore[call-overload]


def test_no_page_of_the_ui_calls_an_outside_host(tab: ClientConnection, prefect_server: str) -> None:
    seen = Tab(tab)
    ui = prefect_server.removesuffix("/api")
    texts = {page: seen.visit(ui + page) for page in PAGES}
    assert "add-linac" in texts["/deployments"]
    assert "Linac" in texts["/blocks/catalog"]
    assert len(seen.urls) > 50
    schemes = ("http", "https", "ws", "wss")
    hosts = {urllib.parse.urlsplit(url).netloc for url in seen.urls.values() if urllib.parse.urlsplit(url).scheme in schemes}
    assert hosts == {ui.removeprefix("http://")}


def test_the_form_of_add_linac_asks_in_full_sentences(tab: ClientConnection, prefect_server: str) -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("add-linac/add-linac")
    text = Tab(tab).visit(f"{prefect_server.removesuffix('/api')}/deployments/deployment/{deployment.id}/run", 5)
    for words in ("Serial number or unique name", "Hospital DNS IP address that the linac's NSS was given", "change nothing"):
        assert words in text
