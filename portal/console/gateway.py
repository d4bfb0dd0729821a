"""Door 2: a gateway on websockify, for installations that keep consoles apart from the web process.

It asks the same as door 1 (admission.py) and says the same when it closes. websockify forks a process for each
connection, so the parent never touches the database or Redis, and a child opens its own. The stream runs in the child's
main thread; a second one asks now and then how the session stands.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import ipaddress
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from types import FrameType
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.db import DatabaseError, connections
from django.http import parse_cookie
from redis.exceptions import RedisError
from websockify.websocketproxy import ProxyRequestHandler, WebSocketProxy

from portal.console import limits, tickets
from portal.console.admission import Admitted, Refused, admit, depart, note_input, renew, standings
from portal.console.gateway_stream import BrowserSocket, Conversation
from portal.console.models import ConsoleSession
from portal.console.origins import is_ours
from portal.console.relay import HANDSHAKE_DEADLINE, Ended, InputFilter, Step
from portal.console.rfb import ClientStream, DisplayError, ServerInit, open_display_blocking
from portal.console.serial_line import LineError, SerialInput, open_line
from portal.console.tickets import Kind
from portal.console.watch import UNCHECKED
from portal.lib import log

REQUEST_DEADLINE_S: Final = 10.0
# Connections beside the sessions: requests that are still coming in, and refusals that are being said.
SPARE_CONNECTIONS: Final = 200
# Not as often as the web process, which asks for all of its sessions at once.
WATCH_S: Final = 0.7
Listener = socket.socket
PORTAL_STOPPED: Final = Ended(Step.ENDED, "portal-stopped")

logger = logging.getLogger(__name__)


def serve(listener: socket.socket) -> None:
    """Answer on this socket until SIGTERM; then every session is ended, and the children have written their rows."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Its lines about each request hold the path and more; what matters is logged here.
    logging.getLogger("websocket").setLevel(logging.ERROR)
    # What is loaded by now stays for good and is shared by all children, as long as no collection touches it.
    gc.collect()
    gc.freeze()
    logger.info("the console gateway listens on %s", listener.getsockname())
    Gateway(listener).start_server()


def console_path() -> str:
    """The one path that is answered: CONSOLE_GATEWAY_URL's, or the portal's own for a proxy that sends it here."""
    if settings.CONSOLE_GATEWAY_URL:
        return urlsplit(settings.CONSOLE_GATEWAY_URL).path or "/"
    return f"{settings.FORCE_SCRIPT_NAME or ''}/ws/console/"


class Slots:
    """Places for the sessions of all children. Each is a lock on a byte of a file: however a child ends, it is free."""

    def __init__(self, count: int) -> None:
        self._file = os.memfd_create("console-slots")
        self._count = count

    def take(self) -> bool:
        """A place for this process, for as long as it lives."""
        for slot in range(self._count):
            with contextlib.suppress(BlockingIOError):
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
                return True
        return False


class Gateway(WebSocketProxy):  # type: ignore[misc]  # websockify has no annotations
    """The parent: it accepts, forks, and counts its children."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.parent = os.getpid()
        self.path = console_path()
        self.slots = Slots(settings.CONSOLE_MAX_SESSIONS_PER_PROCESS)
        self.connections = 0
        # TLS is a proxy's matter, so there is no certificate; websockify looks for the file by name.
        super().__init__(RequestHandlerClass=Door, cert=os.devnull + "/none")

    def socket(self, *_args: object, **_options: object) -> Listener:
        """websockify asks for a socket to listen on."""
        return self.listener

    def poll(self) -> None:
        """Called before each accept. Those who ended are not counted, however they did."""
        self.connections = len(multiprocessing.active_children())

    def top_new_client(self, startsock: Listener, address: tuple[Any, ...]) -> None:
        """The whole life of a child."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Ctrl-C goes to everyone in the terminal; the parent tells us.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.listener.close()
        if self.connections >= settings.CONSOLE_MAX_SESSIONS_PER_PROCESS + SPARE_CONNECTIONS:
            return
        # Who is slow with the request is cut off by the kernel; there is nothing yet that would have to be put away.
        signal.setitimer(signal.ITIMER_REAL, REQUEST_DEADLINE_S)
        super().top_new_client(startsock, address)


class Door(ProxyRequestHandler):  # type: ignore[misc]  # websockify has no annotations
    """One connection. Whatever is no WebSocket request for the console gets a bare 404: no files, no redirects."""

    SocketClass = BrowserSocket
    disable_nagle_algorithm = True
    server: Gateway

    def do_GET(self) -> None:
        self.send_error(404)

    do_HEAD = do_GET

    def handle_upgrade(self) -> None:
        if self.path != self.server.path:
            self.send_error(404)
        elif not is_ours(self._all("Origin"), self._all("Host"), secure=self._is_secure()):
            logger.warning("console refused: the request comes from another site")
            self.send_error(403)
        else:
            super().handle_upgrade()

    def handle_websocket(self) -> None:
        """After the upgrade, which has put the WebSocket in the request's place."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        browser: BrowserSocket = self.request
        browser.setblocking(False)
        browser.early = self.rfile.read1(65536) or b""
        with log.bound():
            ended = Session(browser, self.server).run(
                tickets.from_subprotocols(self._subprotocols()), self._session_key(), request_ip=self._client_ip()
            )
            logger.info("console ended: step=%s reason=%s", ended.step, ended.reason)
        browser.goodbye(ended)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Nothing of the request is given back, and nothing of ourselves."""
        self.close_connection = True
        self.send_response_only(code if code in {400, 403} else 404)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged: their lines and headers hold what must not stay."""

    def _all(self, name: str) -> list[str]:
        return list(self.headers.get_all(name, []))

    def _subprotocols(self) -> list[str]:
        return [name.strip() for line in self._all("Sec-WebSocket-Protocol") for name in line.split(",")]

    def _session_key(self) -> str | None:
        """A program's API token, or a browser's session."""
        cookies = parse_cookie("; ".join(self._all("Cookie")))
        return tickets.credential_in(self._all("Authorization")) or cookies.get(settings.SESSION_COOKIE_NAME)

    def _is_secure(self) -> bool:
        """Whether the browser's side of the proxy in front is TLS, if that proxy is to be believed."""
        return settings.TRUST_PROXY and self._all("X-Forwarded-Proto") == ["https"]

    def _client_ip(self) -> str | None:
        """The peer's; that of the browser behind it where the peer is a proxy whose word counts."""
        peer = str(self.client_address[0])
        seen = [part.strip() for line in self._all("X-Forwarded-For") for part in line.split(",")]
        for address in [peer, *reversed(seen)] if settings.TRUST_PROXY else [peer]:
            if not _is_proxy(address):
                return _address(address)
        return _address(peer)


def _address(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _is_proxy(address: str) -> bool:
    """Whether it is one of those that the settings name: addresses, networks, or "*" for whoever connects."""
    named = settings.FORWARDED_ALLOW_IPS
    try:
        one = ipaddress.ip_address(address)
        return "*" in named or any(one in ipaddress.ip_network(network, strict=False) for network in named)
    except ValueError:
        return False


class Session:
    """One session in its own process, from the ticket to the row's end."""

    def __init__(self, browser: BrowserSocket, server: Gateway) -> None:
        self._browser = browser
        self._server = server
        self._stopped = False
        self._watch: Watch | None = None
        self._wake, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        signal.signal(signal.SIGTERM, self._stop)
        signal.set_wakeup_fd(self._waker.fileno())

    def run(self, token: str | None, session_key: str | None, *, request_ip: str | None) -> Ended:
        """Whatever fails becomes an `Ended` that the browser can explain."""
        if not self._server.slots.take():
            return Ended(Step.LIMIT, "process")
        try:
            admitted = admit(token, session_key, request_ip=request_ip, door=ConsoleSession.Door.GATEWAY)
        except Refused as refusal:
            return refusal.ended
        # A session lasts for hours: the connection is the watching thread's, and this one makes one again at the end.
        connections.close_all()
        log.bind(actor=admitted.claim.user_id, machine=admitted.claim.machine_id)
        ended = PORTAL_STOPPED
        try:
            ended = self._relayed(admitted)
        except Refused as refusal:
            ended = refusal.ended
        except Exception:
            # websockify would swallow it.
            logger.exception("console: session %s failed", admitted.number)
            raise
        finally:
            depart(admitted, ended)
            connections.close_all()
        return ended

    def _relayed(self, admitted: Admitted) -> Ended:
        display, init, said, stream = _open(admitted)
        self._watch = Watch(admitted, stream, self._server.parent, self._waker)
        self._watch.start()
        started = time.monotonic()
        talk = Conversation(self._browser, stream, self._wake, self._verdict)
        try:
            failed = init and talk.greet(init, admitted.target.machine.name, deadline_s=HANDSHAKE_DEADLINE)
            ended = failed or talk.stream(display, said)
        finally:
            self._watch.stop()
            display.close()
        return Ended(ended.step, ended.reason, talk.up, talk.down, time.monotonic() - started)

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        """Only noted here: the signal may come in the middle of anything."""
        self._stopped = True

    def _verdict(self) -> Ended | None:
        if self._stopped:
            return PORTAL_STOPPED
        if self._watch is None:
            return None
        if self._watch.view_only != self._watch.stream.view_only:
            self._watch.stream.set_view_only(self._watch.view_only)
        return self._watch.ended


def _open(admitted: Admitted) -> tuple[Listener, ServerInit | None, bytes, InputFilter]:
    """What the ticket is for, what it says first, and what filters its input. A serial line greets nobody."""
    if admitted.claim.kind is Kind.SERIAL:
        try:
            return open_line(admitted.target), None, b"", SerialInput(admitted.view_only)
        except LineError as error:
            raise Refused(error.step, error.reason) from error
    return *_connect(admitted), ClientStream(admitted.view_only)


def _connect(admitted: Admitted) -> tuple[Listener, ServerInit, bytes]:
    try:
        return open_display_blocking(admitted.target.socket_path, admitted.target.secret)
    except DisplayError as error:
        logger.warning("console of machine %s: %s", admitted.claim.machine_id, error)
        raise Refused(Step.DISPLAY, error.reason) from error
    except OSError as error:
        logger.warning("console of machine %s: %s", admitted.claim.machine_id, error)
        raise Refused(Step.HOST, "unreachable") from error


class Watch(threading.Thread):
    """Asks every WATCH_S how the session stands, beside the stream, which must not wait for a database."""

    def __init__(self, admitted: Admitted, stream: InputFilter, parent: int, waker: socket.socket) -> None:
        super().__init__(daemon=True)
        self.ended: Ended | None = None
        self._admitted = admitted
        self.stream = stream
        self.view_only = stream.view_only
        self._parent = parent
        self._waker = waker
        self._over = threading.Event()
        self._renew_at = time.monotonic() + limits.RENEW_S
        self._inputs_told = 0

    def stop(self) -> None:
        self._over.set()
        self.join(WATCH_S)

    def run(self) -> None:
        try:
            while self.ended is None and not self._over.wait(WATCH_S):
                self._look()
        finally:
            # Whatever stops the watch stops the session: an unwatched one could never be revoked.
            self.ended = self.ended or UNCHECKED.ended
            with contextlib.suppress(OSError):
                self._waker.send(b"\0")
            connections.close_all()

    def _look(self) -> None:
        if os.getppid() != self._parent:
            self.ended = PORTAL_STOPPED
            return
        standing = UNCHECKED
        try:
            standing = standings([self._admitted])[self._admitted.number]
            if time.monotonic() >= self._renew_at:
                self._renew_at = time.monotonic() + limits.RENEW_S
                renew([self._admitted])
                if self.stream.inputs != self._inputs_told:
                    self._inputs_told = self.stream.inputs
                    note_input([self._admitted.number])
        except (DatabaseError, RedisError):
            # Nobody can say that this person may still see this, so they may not; the page comes back by itself.
            logger.exception("console: cannot check the session any more")
            standing = UNCHECKED
        self.ended = standing.ended
        if standing.view_only != self.view_only:
            # Applied by the thread that feeds the stream.
            self.view_only = standing.view_only
            with contextlib.suppress(OSError):
                self._waker.send(b"\0")
