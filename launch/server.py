"""Prefect's server as it is, with one header more: its pages may load nothing from other hosts.

The settings in prefect.toml keep every page from asking an outside host but the one for new work pools, whose pictures lie at
Prefect's. A Content-Security-Policy has the browser refuse these, and whatever a later version may think of.
"""

import argparse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


def policy(port: int) -> str:
    """The header's value: this server under its two names for this computer, and what a page holds itself."""
    own = " ".join(f"{scheme}://{host}:{port}" for scheme in ("http", "ws") for host in ("127.0.0.1", "localhost"))
    return f"default-src 'self' {own} data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'self'"


def with_policy(app: App, port: int) -> App:
    """The same ASGI application, with the header on every answer."""
    header = (b"content-security-policy", policy(port).encode())

    async def wrapped(scope: Message, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), header]}
            await send(message)

        await app(scope, receive, sending if scope["type"] == "http" else send)

    return wrapped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4200)
    options = parser.parse_args()
    from prefect.server.api.server import create_app

    app = with_policy(create_app(final=True), options.port)
    uvicorn.run(app, host=options.host, port=options.port, timeout_keep_alive=5, log_level="warning")


if __name__ == "__main__":
    main()
