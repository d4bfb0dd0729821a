"""A screen's WebSocket without ASGI messages in between: `--ws portal.console.stream:StreamProtocol`. No Django here.

uvicorn's own protocol does the HTTP handshake and carries every other WebSocket of the portal. After it has accepted a
screen, the application takes the connection out of it (`open_browser`): from then on the transport calls `Stream`,
which knows frames and back-pressure and nothing else, and the relay writes what the display says straight to the
socket. Under another server, or uvicorn's plain protocol, there is `AsgiBrowser` with the same promises.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import Callable
from typing import Any, Final, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from portal.console.frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TOO_BIG,
    FrameError,
    Frames,
    InPlace,
    frame,
)
from portal.console.relay import MAX_FRAME, BrowserGone, Ended, Listener, descriptor
from portal.console.rfb import ClientError
from portal.console.websocket import CLOSE_CODES, CLOSE_DEADLINE, AsgiBrowser, Receive, Send, reason_of

EXTENSION: Final = "casement.stream"
# One turn of the event loop takes no more than this of one browser's input, so that a flood of it is only the
# flooder's problem: the other sessions have their turn after each piece.
TURN_SIZE: Final = 16 * 1024
# How much of a handshake may wait to be read.
INBOX_SIZE: Final = 64 * 1024

# Filled and emptied within one call of the event loop, which is one thread's; so all its connections share it.
_input = memoryview(bytearray(TURN_SIZE))


class Stream(asyncio.BufferedProtocol):
    """An accepted WebSocket, from its first frame on: the relay's `DirectBrowser`."""

    __slots__ = (
        "_closing", "_fault", "_fd", "_forget", "_frames", "_heard", "_heard_at", "_inbox", "_listener", "_loop",
        "_lost", "_paused", "_ping_interval", "_ping_timeout", "_room", "_timer", "_transport", "_waiter",
    )  # fmt: skip

    def __init__(
        self,
        transport: asyncio.Transport,
        *,
        ping_interval: float | None,
        ping_timeout: float | None,
        forget: Callable[[Stream], None],
    ) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._frames = Frames(MAX_FRAME)
        self._listener: Listener | None = None
        self._inbox: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._fault: FrameError | None = None
        self._closing = False
        self._paused = False
        self._forget = forget
        self._ping_interval, self._ping_timeout = ping_interval, ping_timeout
        self._heard, self._heard_at = True, self._loop.time()
        self._timer = self._loop.call_later(ping_interval, self._tick) if ping_interval else None
        self._fd = descriptor(transport)
        # Anything that the kernel does not take at once stops the display, so nothing piles up in this process.
        transport.set_write_buffer_limits(high=0)

    # --- what the relay's handshake uses: pieces in, pieces out ---

    async def receive(self) -> bytes | None:
        while not self._inbox:
            if self._fault is not None:
                raise ClientError(_fault_reason(self._fault))
            if self._closing or self._lost.done():
                return None
            self.resume_reading()
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._inbox.pop(0)

    async def send(self, data: bytes) -> None:
        if self._closing or self._lost.done():
            raise BrowserGone
        self._transport.write(frame(BINARY, data))
        if self._room is not None:
            await self._room
            if self._lost.done():
                raise BrowserGone

    # --- what the relay uses after it: calls instead of waits ---

    def attach(self, listener: Listener | None) -> None:
        """`listener` hears everything from now on, and first what has come already."""
        self._listener = listener
        if listener is None:
            return
        early, self._inbox = self._inbox, []
        if not listener.is_full:
            self.resume_reading()
        if self._room is not None:
            listener.browser_full()
        for piece in early:
            listener.browser_said(piece)
        if self._fault is not None or self._closing or self._lost.done():
            listener.browser_ended(f"browser-{_fault_reason(self._fault)}")

    def send_in_place(self, piece: InPlace, size: int) -> None:
        """Send the first `size` bytes of the piece, which must stay as they are only until this returns."""
        whole = piece.whole(size)
        sent = 0
        # No room is waited for, so nothing lies in the transport that would have to go first.
        if self._room is None and self._fd >= 0:
            try:
                sent = os.write(self._fd, whole)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._fd = -1
                self._transport.abort()
                return
            if sent == len(whole):
                return
        if not self._closing and not self._transport.is_closing():
            self._transport.write(bytes(whole[sent:]))

    def pause_reading(self) -> None:
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    # --- the end ---

    async def close(self, ended: Ended) -> None:
        """Say goodbye with the step and the reason, and wait a moment for the browser to have heard it.

        Closing at once would throw the goodbye away wherever input is still unread, e.g. under a flood of it.
        """
        if not self._closing and not self._transport.is_closing():
            code = self._fault.code if self._fault is not None else CLOSE_CODES[ended.step]
            self._say_close(struct.pack(">H", code) + reason_of(ended).encode())
        self.resume_reading()
        try:
            async with asyncio.timeout(CLOSE_DEADLINE):
                await asyncio.shield(self._lost)
        except TimeoutError:
            self._transport.abort()

    def shutdown(self) -> None:
        """uvicorn stops. The application says so to the browser and comes to its end."""
        if self._listener is not None:
            self._listener.browser_ended("portal-stopped")
        else:
            self._closing = True
            self._wake()

    def _say_close(self, payload: bytes) -> None:
        self._closing, self._fd = True, -1
        with contextlib.suppress(OSError, RuntimeError):
            self._transport.write(frame(CLOSE, payload))

    # --- what the transport calls ---

    def get_buffer(self, _size: int) -> memoryview:
        return _input

    def buffer_updated(self, size: int) -> None:
        self._heard = True
        try:
            found = self._frames.feed(bytes(_input[:size]))
        except FrameError as error:
            self._break(error)
            return
        for kind, payload in found:
            if kind == BINARY:
                self._said(payload)
            elif kind == PING:
                self._pong(payload)
            elif kind == CLOSE:
                self._goodbye(payload)
        if size == TURN_SIZE and not self._paused:
            self.pause_reading()
            self._loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        # Whoever has no room in the meantime resumes it as well.
        full = self._listener.is_full if self._listener is not None else self._is_inbox_full()
        if not full:
            self.resume_reading()

    def _is_inbox_full(self) -> bool:
        return sum(map(len, self._inbox)) > INBOX_SIZE

    def _said(self, payload: bytes) -> None:
        if self._closing or self._fault is not None:
            return
        if self._listener is not None:
            self._listener.browser_said(payload)
            return
        self._inbox.append(payload)
        if self._is_inbox_full():
            self.pause_reading()
        self._wake()

    def _pong(self, payload: bytes) -> None:
        # One answer at a time, or who asks without listening would fill our memory with answers.
        if not self._closing and not self._transport.get_write_buffer_size():
            self._transport.write(frame(PONG, payload))

    def _goodbye(self, payload: bytes) -> None:
        if not self._closing:
            self._say_close(payload[:2])
        self._transport.close()
        self._over("browser-gone")

    def _break(self, error: FrameError) -> None:
        """Nothing after it can be understood, so nothing of it is read."""
        if self._closing or self._fault is not None:
            self._transport.abort()
            return
        self._fault = error
        self._frames = Frames(0, _over=True)
        self._over(f"browser-{_fault_reason(error)}")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, _error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fd = -1
        if not self._lost.done():
            self._lost.set_result(None)
        self._forget(self)
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._over("browser-gone")
        self._listener = None

    def pause_writing(self) -> None:
        if self._room is None:
            self._room = self._loop.create_future()
        if self._listener is not None:
            self._listener.browser_full()

    def resume_writing(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)
        if self._listener is not None:
            self._listener.browser_ready()

    def _over(self, reason: str) -> None:
        if self._listener is not None:
            self._listener.browser_ended(reason)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _tick(self) -> None:
        """Every ping interval: a sign of life for the proxies between, and an end for who gave none for too long."""
        assert self._ping_interval is not None  # noqa: S101 - else there is no timer
        now = self._loop.time()
        if self._heard or self._paused:
            self._heard, self._heard_at = False, now
        elif self._ping_timeout and now - self._heard_at > self._ping_timeout:
            self._transport.abort()
            return
        if not self._closing and not self._transport.get_write_buffer_size():
            self._transport.write(frame(PING, b""))
        self._timer = self._loop.call_later(self._ping_interval, self._tick)


def _fault_reason(fault: FrameError | None) -> str:
    if fault is None:
        return "gone"
    return "frame-too-big" if fault.code == TOO_BIG else "malformed"


class StreamProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, which an application may take over once it is accepted."""

    _early = False

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        if hasattr(self, "scope"):
            self.scope["extensions"] = {**(self.scope["extensions"] or {}), EXTENSION: {"take": self._take}}

    def data_received(self, data: bytes) -> None:
        # No browser speaks before it was answered; what another client says then is not ours to sort out.
        self._early = self._early or (self.handshake_initiated and not self.handshake_complete)
        super().data_received(data)

    def _take(self) -> Stream:
        """The connection, right after it was accepted. Raises BrowserGone when there is none to take."""
        if self._early or self.disconnected or self.transport.is_closing():
            raise BrowserGone
        self.stop_keepalive()
        # uvicorn's shutdown asks of a connection nothing but `shutdown()`.
        connections = cast(set[asyncio.BaseProtocol], self.connections)
        stream = Stream(
            self.transport,
            ping_interval=self.ping_interval,
            ping_timeout=self.ping_timeout,
            forget=connections.discard,
        )
        self.transport.set_protocol(stream)
        connections.discard(self)
        connections.add(stream)
        return stream


async def open_browser(scope: dict[str, Any], receive: Receive, send: Send, subprotocol: str | None) -> Door:
    """Accept the WebSocket after "websocket.connect" was received, and take its connection if the server lets us."""
    plain = AsgiBrowser(receive, send)
    await plain.accept(subprotocol)
    extension = (scope.get("extensions") or {}).get(EXTENSION)
    if extension is None:
        return plain
    # Not a step of the event loop lies between, so no frame can have gone to the old protocol.
    stream: Stream = extension["take"]()
    return stream


Door = AsgiBrowser | Stream
