"""The screen's own page, ticket and WebSocket under a real uvicorn, without the rest of the portal and its database.

A test says what the ticket's door answers, so that it can play a machine that is off, a lost role, or no portal.
"""

from __future__ import annotations

import asyncio
import json
import mimetypes
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final
from uuid import UUID

import uvicorn
from django.conf import settings
from django.template.loader import render_to_string
from django.test import RequestFactory

from portal.console.relay import Browser, Ended, Step, relay
from portal.console.rfb import ClientStream, open_display
from portal.console.rfb.client_stream import message_size
from portal.console.stream import open_browser
from portal.console.tickets import from_subprotocols
from portal.console.websocket import Receive, Send

MACHINE = UUID("6c1c1a52-0a0e-4c5e-9a53-7b5f1d3c2a10")
TICKET = "a-ticket-that-must-not-be-in-an-address"
SECURITY = "; ".join(
    f"{name} {' '.join(values)}" for name, values in settings.CONTENT_SECURITY_POLICY["DIRECTIVES"].items()
)
Answer = tuple[int, dict[str, str]]


STEPS: Final = ["ticket", "permission", "machine-off", "limit", "display"]


@dataclass
class FakeMachine:
    """What the page's template reads of a machine."""

    pk: UUID = MACHINE
    name: str = "beacon"
    host: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(name="rack-7"))


@dataclass
class Line:
    """What lies between the browser and the relay: it can be slow or dead, and it remembers what the browser said."""

    frozen: bool = False
    bytes_per_second: int = 0
    said: bytearray = field(default_factory=bytearray)

    def messages(self) -> list[bytes]:
        """Whole messages of the browser since the last connection, without the handshake's 14 bytes."""
        # It goes on meanwhile, in the server's thread.
        said = bytearray(self.said)
        found, at = [], 14
        while at < len(said):
            size = message_size(said, at)
            if size is None or at + size > len(said):
                break
            found.append(bytes(said[at : at + size]))
            at += size
        return found


@dataclass
class LinedBrowser:
    """A browser behind a Line."""

    inner: Browser
    line: Line

    async def receive(self) -> bytes | None:
        data = await self.inner.receive()
        await self._thaw()
        self.line.said += data or b""
        return data

    async def send(self, data: bytes) -> None:
        await self._thaw()
        rate = self.line.bytes_per_second
        for at in range(0, len(data), 4096) if rate else ():
            piece = data[at : at + 4096]
            await asyncio.sleep(len(piece) / rate)
            await self.inner.send(piece)
        if not rate:
            await self.inner.send(data)

    async def _thaw(self) -> None:
        while self.line.frozen:  # noqa: ASYNC110 - set by the test's thread
            await asyncio.sleep(0.02)


@dataclass
class PageServer:
    """`refusal` is what the ticket's door answers instead of a ticket; `mode` is what it grants. The page brings the
    ticket `brings` by itself, if there is one.
    """

    socket_path: str
    secret: str
    url: str = ""
    refusal: Answer | None = None
    mode: str = "control"
    brings: str = ""
    verdict: Ended | None = None
    targets: list[str] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    operator: bool = False
    failing_step: tuple[str, str, str] | None = None
    line: Line = field(default_factory=Line)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        self.targets.append(f"{scope['path']}?{scope['query_string'].decode()}")
        if scope["type"] == "websocket":
            await self._screen(scope, receive, send)
        elif scope["path"].endswith("/console/ticket"):
            status, body = self.refusal or (200, self._grant(TICKET))
            await _answer(send, status, "application/json", json.dumps(body).encode())
        elif scope["path"].endswith("/screen/test/steps"):
            await _answer(send, 200, "application/json", json.dumps({"steps": self._steps()}).encode())
        elif scope["path"].endswith("/start"):
            self.refusal = None
            await _answer(send, 200, "text/plain", b"")
        else:
            await _answer(send, *self._file(scope["path"]))

    def _grant(self, ticket: str) -> dict[str, str]:
        return {"ticket": ticket, "path": "/ws/console/", "mode": self.mode, "session": "5e55"}

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
        self.line.said.clear()
        lined = LinedBrowser(browser, self.line)
        ended = await relay(lined, display, ClientStream(self.mode == "view"), name="beacon")
        self.ended.append(ended)
        await browser.close(self.verdict or ended)

    def _steps(self) -> list[dict[str, Any]]:
        steps: list[dict[str, Any]] = [{"name": name, "ok": True, "ms": 1.5} for name in STEPS]
        if self.failing_step:
            name, step, reason = self.failing_step
            at = STEPS.index(name)
            steps[at] |= {"ok": False, "step": step, "reason": reason, "detail": "rack-7" if self.operator else ""}
            for later in steps[at + 1 :]:
                later["ok"] = None
        return steps

    def _page(self, name: str) -> str:
        request = RequestFactory().get("/")
        # As the session middleware would: an operator or somebody else.
        vars(request)["user"] = SimpleNamespace(is_staff=self.operator)
        door = json.dumps(self._grant(self.brings) | {"machine": str(MACHINE)}) if self.brings else ""
        context = {"machine": FakeMachine(), "start_url": "/start", "door": door}
        return render_to_string(f"console/{name}.html", context, request)

    def _file(self, path: str) -> tuple[int, str, bytes]:
        if path == "/":
            return 200, "text/html; charset=utf-8", self._page("screen").encode()
        if path.endswith("/screen/test/"):
            return 200, "text/html; charset=utf-8", self._page("selftest").encode()
        file = settings.BASE_DIR / "static" / "dist" / path.removeprefix("/static/")
        if not path.startswith("/static/") or not file.is_file():
            return 404, "text/plain", b""
        return 200, mimetypes.guess_type(file.name)[0] or "application/octet-stream", file.read_bytes()


async def _answer(send: Send, status: int, kind: str, body: bytes) -> None:
    headers = [(b"content-type", kind.encode()), (b"content-security-policy", SECURITY.encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def served(page: PageServer, *, port: int = 0) -> Iterator[PageServer]:
    """Serve in a thread with the settings that the portal's own web server has."""
    listener = socket.create_server(("127.0.0.1", port))
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
        thread.join(timeout=60)
        listener.close()
