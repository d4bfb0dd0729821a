"""The gateway's stream: a WebSocket of websockify with bounds, and the loop between it and a display. No Django here.

websockify's own loop reads the display whether or not the browser takes anything, and buffers whatever a browser
announces. This one reads a side only while nothing waits for the other, sends at once what it has read, and bounds
every message, so a session stays within about 2 MiB whatever its two sides do.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any, Final

from websockify.websocket import WebSocketWantReadError
from websockify.websockifyserver import CompatibleWebSocket

from portal.console.frames import InPlace
from portal.console.relay import MAX_FRAME, STALL_DEADLINE, BrowserGone, Ended, InputFilter, Step
from portal.console.rfb import ClientError, ServerInit, greet_browser_blocking
from portal.console.rfb.display import GOODBYE_S
from portal.console.websocket import CLOSE_CODES, CLOSE_DEADLINE

SUBPROTOCOL: Final = "binary"
# websockify copies the rest of a piece for every message in it, so small messages by the thousand want small pieces.
RECEIVE_SIZE: Final = 16 * 1024
# As websockify has it. Four times as much was measured to cost twice the CPU time.
DISPLAY_SIZE: Final = 64 * 1024
PING_S: Final = 20.0
PING_DEADLINE: Final = 140.0  # 20 s until the ping goes out and 120 s for its answer, as at the other door.
LOOK_S: Final = 1.0
MAX_CONTROL: Final = 125
_NOT_NOW: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_TEXT: Final = 0x1
_BINARY: Final = 0x2
_CLOSE: Final = 0x8
_PING: Final = 0x9
_PONG: Final = 0xA

# A process has one session, so one piece is enough; it goes from socket to socket without being copied in between.
_piece = InPlace(DISPLAY_SIZE)


class BrowserSocket(CompatibleWebSocket):  # type: ignore[misc]  # websockify has no annotations
    """The browser's end after its upgrade: never blocks, never holds more than one message and its company."""

    _recv_buffer: bytes  # The base class's.
    early: bytes = b""  # What came in one packet with the request.
    has_left: bool = False
    _waiting: memoryview = memoryview(b"")

    def select_subprotocol(self, protocols: list[str]) -> str:
        """As offered, so that websockify finds it in its list. The ticket is never among what we may choose."""
        return next((name for name in protocols if name.strip() == SUBPROTOCOL), "")

    @property
    def is_waiting(self) -> bool:
        """Whether something waits for room on the way to the browser."""
        return bool(self._waiting)

    def pieces(self) -> list[bytes]:
        """The whole messages that have come, after which it may have left. ClientError for what is no protocol."""
        found: list[bytes] = []
        try:
            self.has_left = not self._recv()
            self._take_frames()
            while self._recv_queue:
                found.append(self._recvmsg())
        except (BlockingIOError, WebSocketWantReadError):
            pass
        except (BrowserGone, OSError):
            self.has_left = True
        return found

    def offer(self, data: bytes) -> None:
        """Send one message as far as there is room; the rest waits for `push`."""
        self._put(_BINARY, data)

    def offer_in_place(self, piece: InPlace, size: int) -> None:
        """The same for the first `size` bytes of the piece, when nothing waits; it is free again on return."""
        whole = piece.whole(size)
        try:
            sent = self.socket.send(whole)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise BrowserGone from error
        if sent < len(whole):
            self._waiting = memoryview(bytes(whole[sent:]))

    def push(self) -> None:
        """Send what waits, as far as there is room."""
        try:
            self._waiting = self._waiting[self.socket.send(self._waiting) :]
        except BlockingIOError:
            return
        except OSError as error:
            raise BrowserGone from error

    def ping_if_idle(self) -> None:
        if not self.is_waiting:
            self._put(_PING, b"")

    def goodbye(self, ended: Ended) -> None:
        """Say the step and the reason, if the browser takes it within a second, and wait as long for its consent."""
        reason = json.dumps({"step": ended.step, "reason": ended.reason[:60]}, separators=(",", ":"))
        deadline = time.monotonic() + CLOSE_DEADLINE
        try:
            self._put(_CLOSE, struct.pack(">H", CLOSE_CODES[ended.step]) + reason.encode())
            while self.is_waiting and _ready(self.socket, deadline, writing=True):
                self.push()
            # A socket that is closed with something unread is reset, and the browser would lose what we said.
            self.socket.shutdown(socket.SHUT_WR)
            while _ready(self.socket, deadline, writing=False) and self.socket.recv(RECEIVE_SIZE):
                pass
        except (BrowserGone, OSError):
            return

    # --- what websockify calls or leaves open ---

    def handle_ping(self, data: bytes) -> None:
        """Its own way of answering fails while something waits. A browser that takes nothing gets no answers either."""
        if len(self._waiting) <= RECEIVE_SIZE:
            self._put(_PONG, data)

    def shutdown(self, how: int | None, code: int = 1000, reason: str | None = None) -> None:
        """Called for the browser's close, and for every breach of the protocol; the session decides what follows."""
        if how is None:
            raise BrowserGone
        raise ClientError("malformed", f"{code} {reason}")

    def _recv(self) -> bool:
        data = self.early or self.socket.recv(RECEIVE_SIZE)
        self.early = b""
        self._recv_buffer += data
        return bool(data)

    def _take_frames(self) -> None:
        while (frame := self._decode_hybi(self._recv_buffer)) is not None:
            self._recv_buffer = self._recv_buffer[frame["length"] :]
            self._recv_queue.append(frame)

    def _decode_hybi(self, buf: bytes) -> dict[str, Any] | None:
        """The size is checked before it has come."""
        length = announced(buf)
        limit = MAX_CONTROL if buf and buf[0] & 0x8 else MAX_FRAME - len(self._partial_msg)
        if length > limit:
            raise ClientError("frame-too-big", str(length))
        frame: dict[str, Any] | None = super()._decode_hybi(buf)
        if frame and frame["opcode"] == _TEXT:
            # RFB is binary. Text has no meaning here and is passed over, as an unasked pong is.
            frame["opcode"] = _PONG
        return frame

    def _put(self, opcode: int, data: bytes) -> None:
        """Behind what waits. A view of it is cut, not the bytes: websockify copies the rest of a piece at each turn."""
        frame = self._encode_hybi(opcode, data)
        self._waiting = memoryview(b"".join((self._waiting, frame)) if self._waiting else frame)
        self.push()


def announced(buf: bytes) -> int:
    """The payload's length as the frame at the start of `buf` says it; 0 while that has not come."""
    if len(buf) < 2:
        return 0
    length = buf[1] & 0x7F
    if length == 126:
        return int.from_bytes(buf[2:4]) if len(buf) >= 4 else 0
    if length == 127:
        return int.from_bytes(buf[2:10]) if len(buf) >= 10 else 0
    return length


def _ready(one: socket.socket, deadline: float, *, writing: bool) -> bool:
    patience = max(deadline - time.monotonic(), 0)
    ins, outs, _ = select.select([] if writing else [one], [one] if writing else [], [], patience)
    return bool(ins or outs)


class Conversation:
    """One session after its display is open. `wake` becomes readable when `verdict` may have changed its mind."""

    def __init__(
        self, browser: BrowserSocket, stream: InputFilter, wake: socket.socket, verdict: Callable[[], Ended | None]
    ) -> None:
        self._browser = browser
        self._stream = stream
        self._wake = wake
        self._verdict = verdict
        self._heard_at = self._moved_at = time.monotonic()
        self._ping_at = self._moved_at + PING_S
        self._deadline = 0.0
        self._early = b""
        self._for_display = b""
        # TLS holds bytes that the kernel knows nothing of any more.
        self._held: Callable[[], int] | None = None
        self._browser_fd = self._display_fd = self._wake_fd = -1
        self.up = 0
        self.down = 0

    # --- the handshake ---

    def greet(self, init: ServerInit, name: str, *, deadline_s: float) -> Ended | None:
        """Play the server's part; an Ended when the browser fails in its own, or is too slow."""
        self._deadline = time.monotonic() + deadline_s
        try:
            self._early = greet_browser_blocking(self._receive, self._send, init, name)
        except _CutOff as cut:
            return cut.ended
        except ClientError as error:
            return Ended(Step.ENDED, f"browser-{error.reason}")
        except BrowserGone:
            return Ended(Step.ENDED, "browser-gone")
        return None

    def _receive(self) -> bytes | None:
        while True:
            if not self._browser.early:
                self._await_browser(writing=False)
            pieces = self._browser.pieces()
            if pieces:
                return b"".join(pieces)
            if self._browser.has_left:
                return None

    def _send(self, data: bytes) -> None:
        self._browser.offer(data)
        while self._browser.is_waiting:
            self._await_browser(writing=True)
            self._browser.push()

    def _await_browser(self, *, writing: bool) -> None:
        patience = self._deadline - time.monotonic()
        if patience <= 0:
            raise _CutOff(Ended(Step.ENDED, "browser-silent"))
        reads: list[Any] = [self._wake] if writing else [self._wake, self._browser]
        ins, _, _ = select.select(reads, [self._browser] if writing else [], [], patience)
        if self._wake in ins and (ended := self._woken()) is not None:
            raise _CutOff(ended)

    def _woken(self) -> Ended | None:
        self._wake.recv(4096)
        return self._verdict()

    # --- the stream ---

    def stream(self, display: socket.socket, said: bytes) -> Ended:
        """Both directions until one ends. `said` is what the display has said behind its handshake."""
        display.setblocking(False)
        self._stream.let_go = self._let_go
        self._held = getattr(display, "pending", None)
        # Numbers, because `select` asks an object for its own each time.
        self._browser_fd, self._display_fd = self._browser.socket.fileno(), display.fileno()
        self._wake_fd = self._wake.fileno()
        try:
            if said:
                self._to_browser(said)
            self._towards_display(display, self._early)
            while True:
                ended = self._turn(display)
                if ended is not None:
                    return ended
        except ClientError as error:
            return Ended(Step.ENDED, f"browser-{error.reason}")
        except BrowserGone:
            return Ended(Step.ENDED, "browser-gone")
        except OSError:
            return Ended(Step.ENDED, "display-closed")
        finally:
            # What is held down is let go; behind a message that is half sent, or a display that takes nothing, as far
            # as there is room.
            with contextlib.suppress(OSError):
                _say_last(display, self._for_display + self._stream.release())

    def _let_go(self, held: bytes) -> None:
        self._for_display += held

    def _turn(self, display: socket.socket) -> Ended | None:
        """Wait once, and do what can be done without waiting."""
        browser, browser_fd, display_fd = self._browser, self._browser_fd, self._display_fd
        reads: list[int] = [self._wake_fd]
        writes: list[int] = []
        # A side is read only while nothing waits for the other one: that is the back-pressure.
        (writes if browser.is_waiting else reads).append(browser_fd if browser.is_waiting else display_fd)
        (writes if self._for_display else reads).append(display_fd if self._for_display else browser_fd)
        held = self._held is not None and self._held() > 0
        ins, outs, _ = select.select(reads, writes, (), 0 if held else LOOK_S)
        if (display_fd in ins or (held and display_fd in reads)) and not self._towards_browser(display):
            return Ended(Step.ENDED, "display-closed")
        if browser_fd in outs:
            browser.push()
            self._moved_at = time.monotonic()
        if browser_fd in ins:
            self._heard_at = time.monotonic()
            self._towards_display(display, b"".join(browser.pieces()))
            if browser.has_left:
                return Ended(Step.ENDED, "browser-gone")
        if display_fd in outs:
            self._towards_display(display, b"")
            self._moved_at = time.monotonic()
        if self._wake_fd in ins and (ended := self._woken()) is not None:
            return ended
        return self._overdue()

    def _towards_browser(self, display: socket.socket) -> bool:
        """Untouched, as much as has come, one message for each read. False when there will be no more."""
        try:
            size = display.recv_into(_piece.payload)
        except _NOT_NOW:
            return True
        if size:
            self.down += size
            self._browser.offer_in_place(_piece, size)
        return size > 0

    def _to_browser(self, data: bytes) -> None:
        self.down += len(data)
        self._browser.offer(data)

    def _towards_display(self, display: socket.socket, data: bytes) -> None:
        """Filter what the browser said; send as much as there is room for."""
        self.up += len(data)
        self._for_display += self._stream.feed(data)
        if self._for_display:
            try:
                sent = display.send(self._for_display)
            except _NOT_NOW:
                return
            self._for_display = self._for_display[sent:]

    def _overdue(self) -> Ended | None:
        """What nobody takes, and who does not answer, ends the session after two minutes; silence alone does not."""
        now = time.monotonic()
        if now > self._ping_at:
            self._ping_at = now + PING_S
            self._browser.ping_if_idle()
        if not (self._browser.is_waiting or self._for_display):
            self._moved_at = now
        if now - self._moved_at > STALL_DEADLINE:
            return Ended(*((Step.DISPLAY, "stalled") if self._for_display else (Step.ENDED, "browser-stalled")))
        if now - self._heard_at > PING_DEADLINE:
            return Ended(Step.ENDED, "browser-gone")
        return None


def _say_last(display: socket.socket, words: bytes) -> None:
    """End our side only, and wait for the display to end its own: QEMU reads nothing more of who is gone altogether."""
    if not words:
        return
    display.send(words)
    display.shutdown(socket.SHUT_WR)
    deadline = time.monotonic() + GOODBYE_S
    while _ready(display, deadline, writing=False) and display.recv(DISPLAY_SIZE):
        pass


class _CutOff(Exception):
    def __init__(self, ended: Ended) -> None:
        super().__init__(ended.reason)
        self.ended = ended
