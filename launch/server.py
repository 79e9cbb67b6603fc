"""Prefect's server as it is, with one header more: its pages may load nothing from other hosts.

The settings in prefect.toml keep every page from asking an outside host but the one for new work pools, whose pictures lie at
Prefect's. A Content-Security-Policy has the browser refuse these, and whatever a later version may think of.

    python -m launch.server                                                                          for this computer alone
    python -m launch.server --host 0.0.0.0 --name HUB --certificate HUB.crt --key HUB.key            for others, over TLS

Other computers are let in over TLS and with a login only (PREFECT_SERVER_API_AUTH_STRING): who reaches the API can start flows
and read every block with its secrets.
"""

import argparse
import ipaddress
import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

THIS_COMPUTER = ("127.0.0.1", "localhost")
LOGIN = "PREFECT_SERVER_API_AUTH_STRING"


def policy(port: int, names: tuple[str, ...] = THIS_COMPUTER, secure: bool = False) -> str:
    """The header's value: this server under its names, and what a page holds itself."""
    schemes = ("https", "wss") if secure else ("http", "ws")
    own = " ".join(f"{scheme}://{host}:{port}" for scheme in schemes for host in dict.fromkeys(names))
    return f"default-src 'self' {own} data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'self'"


def with_policy(app: App, value: str) -> App:
    """The same ASGI application, with the header on every answer."""
    header = (b"content-security-policy", value.encode())

    async def wrapped(scope: Message, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), header]}
            await send(message)

        await app(scope, receive, sending if scope["type"] == "http" else send)

    return wrapped


def unfit(options: argparse.Namespace, login: str) -> str:
    """Why the server is not to be started like this; empty where it may be."""
    if bool(options.certificate) != bool(options.key):
        return "TLS needs both --certificate and --key."
    for file in (options.certificate, options.key):
        if file and not file.is_file():
            return f"There is no file {file}. Give the server's certificate and its key as PEM files."
    if not _is_loopback(options.host):
        if not options.certificate or not options.name:
            return (
                f"On {options.host} other computers reach this server: give --name, the name that they know it by, and its "
                "--certificate and --key, so that passwords do not travel in clear."
            )
        if ":" not in login:
            return (
                f"On {options.host} other computers reach this server: set {LOGIN} to NAME:PASSWORD first. Without a login, "
                "everybody who reaches it can read the passwords in its blocks."
            )
    return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m launch.server", description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this computer alone)")
    parser.add_argument("--port", type=int, default=4200)
    parser.add_argument("--name", help="name that other computers know this one by, as its certificate says")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="TLS certificate, PEM")
    parser.add_argument("--key", type=Path, metavar="FILE", help="its private key, PEM")
    options = parser.parse_args()
    problem = unfit(options, os.environ.get(LOGIN, ""))
    if problem:
        parser.error(problem)
    secure = options.certificate is not None
    if options.name:
        scheme = "https" if secure else "http"
        os.environ.setdefault("PREFECT_SERVER_UI_API_URL", f"{scheme}://{options.name}:{options.port}/api")
    from prefect.server.api.server import create_app

    names = (*THIS_COMPUTER, options.name) if options.name else THIS_COMPUTER
    app = with_policy(create_app(final=True), policy(options.port, names, secure))
    uvicorn.run(
        app,
        host=options.host,
        port=options.port,
        timeout_keep_alive=5,
        log_level="warning",
        ssl_certfile=options.certificate,
        ssl_keyfile=options.key,
    )


if __name__ == "__main__":
    main()
