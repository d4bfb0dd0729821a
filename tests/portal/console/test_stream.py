"""The screen's WebSocket on a real TCP connection, as uvicorn gives it, on both event loops; hostile at either end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from portal.console import relay as relay_module
from portal.console.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, PROTOCOL_ERROR, TEXT, TOO_BIG
from portal.console.relay import MAX_FRAME, Ended, relay
from portal.console.rfb import READ_SIZE, ClientStream, open_display
from portal.console.stream import INBOX_SIZE, Stream, open_browser
from portal.console.websocket import Receive, Send
from tests.portal.console.displays import display_at, greet, server_init
from tests.portal.console.test_client_stream import KEY, UPDATE
from tests.portal.console.test_frames import said

GREETING = b"RFB 003.008\n\x01\x01"
HANDSHAKE = 12 + 2 + 4 + 24 + len("box")
DEADLINE_S = 60


@dataclass
class House:
    """A web server with one screen, and what came of its sessions."""

    port: int
    state: ServerState
    streams: list[Stream] = field(default_factory=list)
    ended: asyncio.Queue[Ended] = field(default_factory=asyncio.Queue)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    may_accept: asyncio.Event = field(default_factory=asyncio.Event)

    async def outcome(self) -> str:
        return (await asyncio.wait_for(self.ended.get(), DEADLINE_S)).reason


@asynccontextmanager
async def house(socket_path: str, **options: Any) -> AsyncIterator[House]:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        home.asked.set()
        await home.may_accept.wait()
        browser = await open_browser(scope, receive, send, "binary")
        assert isinstance(browser, Stream)
        home.streams.append(browser)
        ended = await relay(browser, await open_display(socket_path, None), ClientStream(False), name="box")
        home.ended.put_nowait(ended)
        await browser.close(ended)

    async def echo(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["path"] != "/live/":
            await app(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})

    settings = {"ws_per_message_deflate": False, "log_level": "warning", **options}
    config = uvicorn.Config(echo, ws="portal.console.stream:StreamProtocol", lifespan="off", **settings)
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: HttpToolsProtocol(config, state, {}), "127.0.0.1", 0)
    home = House(server.sockets[0].getsockname()[1], state)
    home.may_accept.set()
    try:
        yield home
    finally:
        server.close()
        for stream in home.streams:
            stream._transport.abort()
        await asyncio.gather(*state.tasks, return_exceptions=True)


@dataclass
class Tab:
    """A browser's end that can be as unmannerly as it likes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def frame(self) -> tuple[int, bytes]:
        first, length = await asyncio.wait_for(self.reader.readexactly(2), DEADLINE_S)
        if length > 125:
            wide = await self.reader.readexactly(2 if length == 126 else 8)
            length = int.from_bytes(wide)
        return first & 15, await asyncio.wait_for(self.reader.readexactly(length), DEADLINE_S)

    async def bytes(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            kind, payload = await self.frame()
            if kind == BINARY:
                found += payload
            else:
                assert kind in {PING, PONG}, payload
        assert len(found) == size
        return found

    async def greet(self) -> None:
        self.writer.write(said(BINARY, GREETING))
        await self.bytes(HANDSHAKE)

    async def closed(self) -> tuple[int, str]:
        """The code and our reason; what came before it is passed over."""
        while (frame := await self.frame())[0] != CLOSE:
            pass
        reason = frame[1][2:]
        return struct.unpack_from(">H", frame[1])[0], json.loads(reason)["reason"] if reason else ""

    async def gone(self) -> None:
        with contextlib.suppress(ConnectionError):
            while await asyncio.wait_for(self.reader.read(65536), DEADLINE_S):
                pass


@asynccontextmanager
async def visit(home: House, path: str = "/ws/console/", *early: bytes) -> AsyncIterator[Tab]:
    reader, writer = await asyncio.open_connection("127.0.0.1", home.port)
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    request += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    writer.write(request.encode())
    for piece in early:
        await until(lambda: bool(home.state.connections) and home.asked.is_set())
        writer.write(piece)
        await until(lambda: any(getattr(one, "_early", False) for one in home.state.connections))
        home.may_accept.set()
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S)
        assert head.startswith(b"HTTP/1.1 101"), head
        yield Tab(reader, writer)
    finally:
        writer.transport.abort()


class Echo:
    """A display that says "!" for each piece that it hears."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.visits = 0
        self.left = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        try:
            await greet(reader, writer, secret=None)
            writer.write(server_init())
            while data := await reader.read(65536):
                self.heard += data
                writer.write(b"!")
                await writer.drain()
        finally:
            self.left += 1


class Clock:
    """An event loop with a time of its own, for who asks it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._real = loop
        self.now = loop.time()

    def time(self) -> float:
        return self.now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not true():  # noqa: ASYNC110 - the code under test signals nobody
            await asyncio.sleep(0.01)


async def test_bytes_that_come_one_at_a_time_are_a_session_like_any_other(socket_path: str) -> None:
    display = Echo()
    wire = said(BINARY, GREETING) + said(BINARY, UPDATE[:3], fin=False) + said(PING, b"now")
    wire += said(CONTINUATION, UPDATE[3:] + KEY) + said(TEXT, KEY * 3) + said(BINARY, b"") + said(BINARY, KEY)
    async with display_at(socket_path, display), house(socket_path) as home, visit(home) as tab:
        for one in wire:
            tab.writer.write(bytes([one]))
            await asyncio.sleep(0)
        await tab.bytes(HANDSHAKE)
        await until(lambda: bytes(display.heard) == UPDATE + KEY + KEY)
        tab.writer.write(said(CLOSE, struct.pack(">H", 1001)))
        assert await tab.closed() == (1001, "")
        assert await home.outcome() == "browser-gone"
        await until(lambda: display.left == 1)


async def test_whoever_leaves_in_the_middle_of_a_frame_leaves_nothing_behind(socket_path: str) -> None:
    display = Echo()
    async with display_at(socket_path, display), house(socket_path) as home:
        for wire in (b"", said(BINARY, GREETING)[:9], said(BINARY, GREETING) + b"\x82\xff\0\0"):
            async with visit(home) as tab:
                tab.writer.write(wire)
                await tab.writer.drain()
                await until(lambda: display.visits == display.left + 1)
            assert await home.outcome() == "browser-gone"
            await until(lambda: display.visits == display.left)
        assert not display.heard
        await until(lambda: not home.state.connections and not home.state.tasks)


FAULTS = {
    "a frame without end": (b"\x82\xff" + struct.pack(">Q", 2**40) + b"mask", (TOO_BIG, "browser-frame-too-big")),
    "fragments without end": (
        said(BINARY, UPDATE * 1000, fin=False) + said(CONTINUATION, UPDATE * 1000, fin=False) * (MAX_FRAME // 10_000),
        (TOO_BIG, "browser-frame-too-big"),
    ),
    "not masked": (b"\x82\x08" + KEY, (PROTOCOL_ERROR, "browser-malformed")),
    "an unknown kind": (b"\x83\x81mask!", (PROTOCOL_ERROR, "browser-malformed")),
    "no RFB message": (said(BINARY, b"\x07"), (4000, "browser-unknown-message")),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_breaks_a_protocol_is_answered_with_the_reason(socket_path: str, fault: str) -> None:
    wire, answer = FAULTS[fault]
    display = Echo()
    async with display_at(socket_path, display), house(socket_path) as home, visit(home) as tab:
        await tab.greet()
        # It is answered although more of it comes all the time.
        tab.writer.write(wire + said(BINARY, KEY * 1000) * 40)
        assert await tab.closed() == answer
        await tab.gone()
        assert await home.outcome() == answer[1]
        assert KEY not in display.heard


@pytest.mark.parametrize("fault", ["a frame without end", "not masked", "an unknown kind"])
async def test_a_protocol_may_be_broken_before_the_screen_is_there(socket_path: str, fault: str) -> None:
    wire, answer = FAULTS[fault]
    async with display_at(socket_path, Echo()), house(socket_path) as home, visit(home) as tab:
        tab.writer.write(wire + b"\xff" * 200_000)
        assert await tab.closed() == answer
        assert await home.outcome() == answer[1]


async def test_a_flood_of_input_is_the_flooders_own_problem(socket_path: str) -> None:
    """Its display takes nothing, or everything: the other session is served all the time, and nothing piles up."""
    display = Echo()
    flooding = said(BINARY, KEY * 4000) * 4
    async with display_at(socket_path, display), house(socket_path) as home:
        async with visit(home) as flooder, visit(home) as other:
            await flooder.greet()
            await other.greet()

            async def flood() -> None:
                while True:
                    flooder.writer.write(flooding)
                    await flooder.writer.drain()

            floods = asyncio.create_task(flood())
            listens = asyncio.create_task(flooder.gone())
            for _ in range(200):
                other.writer.write(said(BINARY, UPDATE))
                await other.bytes(1)
            assert not floods.done()
            floods.cancel()
            listens.cancel()
        assert display.heard.count(UPDATE) == 200


async def test_input_that_comes_before_the_screen_is_there_has_to_wait(socket_path: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with display_at(socket_path, talk), house(socket_path) as home, visit(home) as tab:
        await until(lambda: bool(home.streams))
        for _ in range(200):
            tab.writer.write(said(BINARY, KEY * 4000))
            await asyncio.sleep(0)
        await until(lambda: home.streams[0]._paused)
        assert sum(map(len, home.streams[0]._inbox)) < 2 * INBOX_SIZE


async def test_whoever_asks_for_pongs_and_reads_none_makes_no_memory_grow(socket_path: str) -> None:
    display = Echo()
    async with display_at(socket_path, display), house(socket_path) as home, visit(home) as tab:
        await tab.greet()
        for _ in range(300):
            tab.writer.write(said(PING, b"x" * 125) * 1000)
            await asyncio.sleep(0)
            # The most that may wait is the one answer that did not fit.
            assert home.streams[0]._transport.get_write_buffer_size() <= 127
        tab.writer.transport.abort()
        assert await home.outcome() == "browser-gone"


async def test_a_browser_that_stops_reading_stops_the_display_and_loses_nothing(socket_path: str) -> None:
    sent, pieces = 0, 800

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await greet(reader, writer, secret=None)
        writer.write(server_init())
        for number in range(pieces):
            writer.write(number.to_bytes(4) * 16384)
            await writer.drain()
            sent += 65536
        await reader.read()

    async with display_at(socket_path, talk), house(socket_path) as home, visit(home) as tab:
        await tab.greet()
        tracemalloc.start()
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.3)
        (_, peak) = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert sent < pieces * 65536, "the display must be held up while the browser does not read"
        # The test's own display and browser hold something too: a piece and a reader's buffer.
        assert peak < 8 * READ_SIZE
        everything = await tab.bytes(pieces * 65536)
        assert everything == b"".join(number.to_bytes(4) * 16384 for number in range(pieces))
        tab.writer.write(said(CLOSE, b""))
        assert await home.outcome() == "browser-gone"


async def test_a_browser_that_reads_nothing_for_ever_is_left(socket_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "STALL_DEADLINE", 0.2)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, secret=None)
        writer.write(server_init())
        while True:
            writer.write(b"p" * 65536)
            await writer.drain()

    async with display_at(socket_path, talk), house(socket_path) as home, visit(home) as tab:
        tab.reader._transport.pause_reading()  # type: ignore[attr-defined]
        tab.writer.write(said(BINARY, GREETING))
        assert await home.outcome() == "browser-stalled"
        await until(lambda: not home.state.connections and not home.state.tasks)


async def test_a_display_that_takes_nothing_stops_the_browser_and_is_left(
    socket_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "STALL_DEADLINE", 0.5)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, secret=None)
        writer.write(server_init())
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(DEADLINE_S)

    async with display_at(socket_path, talk), house(socket_path) as home, visit(home) as tab:
        await tab.greet()
        flooding = said(BINARY, KEY * 4000)

        async def flood() -> None:
            while True:
                tab.writer.write(flooding)
                await tab.writer.drain()

        floods = asyncio.create_task(flood())
        assert await home.outcome() == "stalled"
        floods.cancel()
        assert (await tab.closed()) == (4503, "stalled")


async def test_frames_before_the_answer_are_no_session(socket_path: str) -> None:
    display = Echo()
    async with display_at(socket_path, display), house(socket_path) as home:
        home.may_accept.clear()
        async with visit(home, "/ws/console/", said(BINARY, GREETING)) as tab:
            await tab.gone()
        assert not display.visits


async def test_a_portal_that_stops_says_so(socket_path: str) -> None:
    async with display_at(socket_path, Echo()), house(socket_path) as home, visit(home) as tab:
        await tab.greet()
        for connection in list(home.state.connections):
            connection.shutdown()
        assert await tab.closed() == (4000, "portal-stopped")
        tab.writer.write(said(CLOSE, b""))
        await until(lambda: not home.state.connections and not home.state.tasks)


async def test_a_still_screen_is_kept_alive_and_a_dead_browser_is_not(socket_path: str) -> None:
    alive = {"ws_ping_interval": 0.05, "ws_ping_timeout": 0.5}
    async with display_at(socket_path, Echo()), house(socket_path, **alive) as home, visit(home) as tab:
        # Its seconds pass when this test says so: after a pause of this process its answer could come too late.
        stream, clock = home.streams[0], Clock(asyncio.get_running_loop())
        stream._loop = clock  # type: ignore[assignment]
        await tab.greet()
        await until(lambda: not stream._heard)
        for _ in range(20):
            clock.now += 0.3
            assert await tab.frame() == (PING, b"")
            tab.writer.write(said(PONG, b""))
            await until(lambda: stream._heard_at == clock.now)
        assert home.ended.empty()
        clock.now += 0.6
        assert await home.outcome() == "browser-gone"


async def test_every_other_websocket_goes_through_uvicorn_as_ever(socket_path: str) -> None:
    async with house(socket_path) as home, visit(home, "/live/") as tab:
        for word in (b"one", b"two"):
            tab.writer.write(said(TEXT, word))
            assert await tab.frame() == (TEXT, word)
