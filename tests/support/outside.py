"""The outside world, for tests: HTTPS servers on this machine's own addresses, with certificates of a test authority.

Linux has all of 127.0.0.0/8 on its loopback, so several hosts can have the same port.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path

from portal.lib.fetcher import Fetcher
from tests.support.certificates import Authority

NAME = "files.example"


@dataclass(frozen=True, slots=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Handler(BaseHTTPRequestHandler):
    """Has what was asked in `asked`; `respond` of the server answers."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self._take()

    def do_POST(self) -> None:
        self._take()

    def _take(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, self.path, headers, body)
        self.server.asked.append(asked)
        with contextlib.suppress(OSError):  # Who asked has gone: some of them are meant to.
            self.server.respond(self, asked)
        self.close_connection = True

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Tests have no use for an access log."""


Respond = Callable[[Handler, Asked], None]


def say(text: bytes) -> Respond:
    return lambda handler, _asked: handler.answer(200, text)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    respond: Respond

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext, respond: Respond) -> None:
        self.asked: list[Asked] = []
        self.respond = respond
        self.context = context
        super().__init__(address, Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def finish_request(self, request: object, client_address: object) -> None:
        """TLS begins in the connection's own thread, so that one who dawdles there holds up nobody else."""
        assert isinstance(request, socket.socket)
        request.settimeout(30)
        with contextlib.suppress(OSError), self.context.wrap_socket(request, server_side=True) as encrypted:
            super().finish_request(encrypted, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that breaks off is what many of these tests are about."""


def _everywhere(host: str, _port: int) -> list[str]:
    """Names mean 127.0.0.2; an address means itself."""
    return [host] if host[0].isdigit() or ":" in host else ["127.0.0.2"]


@dataclass
class Outside:
    """`fetcher` believes the authority and may go to 127.0.0.2 alone, which every name leads to."""

    folder: Path
    authority: Authority
    trust: ssl.SSLContext
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def serve(self, respond: Respond, *, name: str = NAME, address: str = "127.0.0.2", port: int = 0) -> Server:
        signed = self.authority.server(name)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(signed.certificate, signed.key)
        server = Server((address, port), context, respond)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join(10)

        self.stack.callback(stop)
        return server

    def fetcher(self, resolve: Callable[[str, int], Sequence[str]] | None = None) -> Fetcher:
        return Fetcher(
            private=[ip_network("127.0.0.2/32")],
            resolve=resolve or _everywhere,
            trust=self.trust,
        )


@contextlib.contextmanager
def outside_world(folder: Path) -> Iterator[Outside]:
    authority = Authority(folder / "authority")
    with contextlib.ExitStack() as stack:
        yield Outside(folder, authority, ssl.create_default_context(cafile=str(authority.ca)), stack)


def wait_for(condition: Callable[[], object], *, seconds: float = 60, what: str = "it") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about in {seconds} s"
        time.sleep(0.01)
