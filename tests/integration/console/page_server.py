"""The screen's own page, ticket and WebSocket under a real uvicorn, without the rest of the portal and its database.

A test says what the ticket's door answers, so that it can play a machine that is off, a lost role, or no portal.
"""

from __future__ import annotations

import json
import mimetypes
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import uvicorn
from django.conf import settings
from django.template.loader import render_to_string
from django.test import RequestFactory

from portal.console.relay import Ended, Step, relay
from portal.console.rfb import ClientStream, open_display
from portal.console.stream import open_browser
from portal.console.tickets import from_subprotocols
from portal.console.websocket import Receive, Send

MACHINE = UUID("6c1c1a52-0a0e-4c5e-9a53-7b5f1d3c2a10")
TICKET = "a-ticket-that-must-not-be-in-an-address"
SECURITY = "; ".join(
    f"{name} {' '.join(values)}" for name, values in settings.CONTENT_SECURITY_POLICY["DIRECTIVES"].items()
)
Answer = tuple[int, dict[str, str]]


@dataclass
class FakeMachine:
    """What the page's template reads of a machine."""

    pk: UUID = MACHINE
    name: str = "beacon"


@dataclass
class PageServer:
    """`refusal` is what the ticket's door answers instead of a ticket; `mode` is what it grants."""

    socket_path: str
    secret: str
    url: str = ""
    refusal: Answer | None = None
    mode: str = "control"
    verdict: Ended | None = None
    targets: list[str] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        self.targets.append(f"{scope['path']}?{scope['query_string'].decode()}")
        if scope["type"] == "websocket":
            await self._screen(scope, receive, send)
        elif scope["path"].endswith("/console/ticket"):
            grant = {"ticket": TICKET, "path": "/ws/console/", "mode": self.mode}
            status, body = self.refusal or (200, grant)
            await _answer(send, status, "application/json", json.dumps(body).encode())
        elif scope["path"].endswith("/start"):
            self.refusal = None
            await _answer(send, 200, "text/plain", b"")
        else:
            await _answer(send, *self._file(scope["path"]))

    async def _screen(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        browser = await open_browser(scope, receive, send, "binary")
        if from_subprotocols(scope["subprotocols"]) != TICKET:
            await browser.close(Ended(Step.TICKET, "unknown"))
            return
        try:
            display = await open_display(self.socket_path, self.secret)
        except OSError:
            await browser.close(Ended(Step.HOST, "unreachable"))
            return
        ended = await relay(browser, display, ClientStream(self.mode == "view"), name="beacon")
        self.ended.append(ended)
        await browser.close(self.verdict or ended)

    def _file(self, path: str) -> tuple[int, str, bytes]:
        if path == "/":
            return 200, "text/html; charset=utf-8", _page().encode()
        file = settings.BASE_DIR / "static" / "dist" / path.removeprefix("/static/")
        if not path.startswith("/static/") or not file.is_file():
            return 404, "text/plain", b""
        return 200, mimetypes.guess_type(file.name)[0] or "application/octet-stream", file.read_bytes()


def _page() -> str:
    context = {"machine": FakeMachine(), "start_url": "/start"}
    return render_to_string("console/screen.html", context, RequestFactory().get("/"))


async def _answer(send: Send, status: int, kind: str, body: bytes) -> None:
    headers = [(b"content-type", kind.encode()), (b"content-security-policy", SECURITY.encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def served(page: PageServer) -> Iterator[PageServer]:
    """Serve in a thread with the settings that the portal's own web server has."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        page,
        ws="portal.console.stream:StreamProtocol",
        ws_per_message_deflate=False,
        ws_ping_interval=20,
        ws_ping_timeout=120,
        lifespan="off",
        log_level="warning",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    page.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    try:
        yield page
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        listener.close()
