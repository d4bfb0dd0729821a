"""The relay: what passes, how it ends, and that no side can make it hold more than its buffers."""

import asyncio
import socket
import struct
import time
import tracemalloc

import pytest

from portal.console import relay as relay_module
from portal.console.relay import Ended, Step, relay
from portal.console.rfb import READ_SIZE, ClientStream, Connection, open_display
from portal.console.serial_line import SerialInput
from tests.portal.console.displays import MemoryBrowser, display_at, greet, server_init
from tests.portal.console.test_client_stream import KEY, KEY_UP, POINTER, POINTER_UP, UPDATE

HANDSHAKE = 12 + 2 + 4
NAMED_INIT = 24 + len("box")
UNTIL_S = 60


async def test_both_directions_pass_and_the_name_is_ours(socket_path: str) -> None:
    heard = asyncio.Queue[bytes]()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, secret="s3cr3t")
        writer.write(server_init(b"<script>evil</script>"))
        heard.put_nowait(await reader.readexactly(len(UPDATE + KEY)))
        writer.write(b"picture")
        await reader.read()

    browser = MemoryBrowser()
    async with display_at(socket_path, talk):
        display = await open_display(socket_path, "s3cr3t")
        began = time.monotonic()
        session = asyncio.ensure_future(relay(browser, display, ClientStream(False), name="box"))
        browser.greet(shared=0)
        browser.say(UPDATE[:3], UPDATE[3:] + KEY)
        everything = await browser.until(HANDSHAKE + NAMED_INIT + 7)
        browser.leave()
        ended = await session
        took = time.monotonic() - began
    assert await heard.get() == UPDATE + KEY
    assert everything.endswith(b"\0\0\0\x03boxpicture")
    assert b"evil" not in everything
    assert (ended.step, ended.reason) == (Step.ENDED, "browser-gone")
    assert (ended.bytes_up, ended.bytes_down) == (len(UPDATE + KEY), 7)
    assert 0 < ended.seconds <= took


async def test_a_line_that_is_no_display_passes_as_it_is() -> None:
    """A serial line greets nobody. Its filter may change its mind at any time."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    browser, typed = MemoryBrowser(), SerialInput(view_only=False)
    line = Connection(*await asyncio.open_unix_connection(sock=ours))
    session = asyncio.ensure_future(relay(browser, line, typed, name="box"))
    browser.say(b"\x03ls\r")
    assert await loop.sock_recv(theirs, 100) == b"\x03ls\r"
    typed.set_view_only(True)
    browser.say(b"rm\r")
    await loop.sock_sendall(theirs, b"\0\xff<b>")
    assert await browser.until(5) == b"\0\xff<b>"
    theirs.shutdown(socket.SHUT_WR)
    ended = await session
    assert (ended.step, ended.reason) == (Step.ENDED, "display-closed")
    assert (ended.bytes_up, ended.bytes_down) == (7, 5)
    assert await loop.sock_recv(theirs, 100) == b""
    theirs.close()


async def test_a_watchers_keys_never_reach_the_display(socket_path: str) -> None:
    heard = bytearray()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, secret="s3cr3t")
        writer.write(server_init())
        heard.extend(await reader.readexactly(len(UPDATE)))
        writer.write(b"seen")
        heard.extend(await reader.read())

    browser = MemoryBrowser()
    async with display_at(socket_path, talk):
        display = await open_display(socket_path, "s3cr3t")
        session = asyncio.ensure_future(relay(browser, display, ClientStream(True), name="box"))
        browser.greet()
        browser.say(KEY * 50 + UPDATE + KEY * 50)
        await browser.until(HANDSHAKE + NAMED_INIT + 4)
        browser.leave()
        await session
    assert bytes(heard) == UPDATE


@pytest.mark.parametrize("loses", ["control", "the session"])
async def test_what_is_held_down_is_let_go_when_control_or_the_session_is_lost(socket_path: str, loses: str) -> None:
    heard = asyncio.get_running_loop().create_future()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, secret=None)
        writer.write(server_init())
        pressed = await reader.readexactly(len(KEY + POINTER))
        writer.write(b"seen")
        heard.set_result(pressed + await reader.readexactly(len(KEY_UP + POINTER_UP)))
        await reader.read()

    browser = MemoryBrowser()
    stream = ClientStream(False)
    async with display_at(socket_path, talk):
        display = await open_display(socket_path, None)
        session = asyncio.ensure_future(relay(browser, display, stream, name="box"))
        browser.greet()
        browser.say(KEY + POINTER)
        await browser.until(HANDSHAKE + NAMED_INIT + 4)
        if loses == "control":
            stream.set_view_only(True)
            assert await asyncio.wait_for(heard, UNTIL_S) == KEY + POINTER + KEY_UP + POINTER_UP
        browser.leave()
        await session
        assert await asyncio.wait_for(heard, UNTIL_S) == KEY + POINTER + KEY_UP + POINTER_UP


async def test_a_browser_that_stops_reading_stops_the_display_and_not_the_memory(socket_path: str) -> None:
    sent = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await greet(reader, writer, secret="s3cr3t")
        writer.write(server_init())
        piece = b"p" * 65536
        for _ in range(1600):
            writer.write(piece)
            await writer.drain()
            sent += len(piece)
        writer.close()
        await writer.wait_closed()

    browser = MemoryBrowser()
    async with display_at(socket_path, talk):
        display = await open_display(socket_path, "s3cr3t")
        session = asyncio.ensure_future(relay(browser, display, ClientStream(False), name="box"))
        browser.greet()
        await browser.until(HANDSHAKE + NAMED_INIT)
        browser.gate.clear()
        tracemalloc.start()
        stalled_at = -1
        while sent != stalled_at:
            stalled_at = sent
            await asyncio.sleep(0.3)
        (_, peak) = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert sent < 1600 * 65536, "the display must be held up while the browser does not read"
        assert sent - len(browser.received) < 8 * READ_SIZE
        assert peak < 8 * READ_SIZE
        browser.gate.set()
        ended = await session
    assert ended.reason == "display-closed"
    assert ended.bytes_down == 1600 * 65536, "nothing may be lost by waiting"


async def test_a_piece_that_nobody_takes_ends_the_session_in_the_end(
    socket_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "STALL_DEADLINE", 0.1)
    nobody_reads = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, secret=None)
        writer.write(server_init())
        await nobody_reads.wait()
        writer.write(b"picture")
        await reader.read()

    browser = MemoryBrowser()
    async with display_at(socket_path, talk):
        display = await open_display(socket_path, None)
        session = asyncio.ensure_future(relay(browser, display, ClientStream(False), name="box"))
        browser.greet()
        await browser.until(HANDSHAKE + NAMED_INIT)
        browser.gate.clear()
        nobody_reads.set()
        assert (await session).reason == "browser-stalled"


async def test_a_display_that_takes_no_input_ends_the_session_in_the_end(
    socket_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "STALL_DEADLINE", 0.1)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, secret=None)
        writer.write(server_init())
        await asyncio.sleep(60)

    browser = MemoryBrowser()
    async with display_at(socket_path, talk):
        display = await open_display(socket_path, None)
        session = asyncio.ensure_future(relay(browser, display, ClientStream(False), name="box"))
        browser.greet()
        browser.say(*[KEY * 10_000] * 60)
        ended = await session
    assert (ended.step, ended.reason) == (Step.DISPLAY, "stalled")


async def test_the_verdict_from_outside_ends_the_session_at_once(socket_path: str) -> None:
    verdict = asyncio.get_running_loop().create_future()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, secret=None)
        writer.write(server_init())
        await reader.read()

    browser = MemoryBrowser()
    async with display_at(socket_path, talk):
        display = await open_display(socket_path, None)
        session = asyncio.ensure_future(relay(browser, display, ClientStream(False), name="box", stop=verdict))
        browser.greet()
        await browser.until(HANDSHAKE + NAMED_INIT)
        verdict.set_result(Ended(Step.REVOKED, "signed-out"))
        ended = await asyncio.wait_for(session, 1)
    assert (ended.step, ended.reason) == (Step.REVOKED, "signed-out")


async def test_a_browser_that_never_answers_has_a_deadline(socket_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "HANDSHAKE_DEADLINE", 0.1)
    assert (await _browser_says(socket_path)).reason == "browser-silent"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"RFB 003.003\n", "browser-version"),
        (b"GET / HTTP/1.1\r\n\r\n", "browser-version"),
        (b"RFB 003.008\n\x02", "browser-security-type"),
        (b"x" * (2 << 20), "browser-frame-too-big"),
        (b"RFB 003.008\n\x01\x01\x07", "browser-unknown-message"),
        (b"RFB 003.008\n\x01\x01" + struct.pack(">Bxxxi", 6, 2**30), "browser-clipboard-too-big"),
    ],
)
async def test_a_hostile_browser_is_put_out_with_the_reason(socket_path: str, said: bytes, reason: str) -> None:
    assert (await _browser_says(socket_path, said)).reason == reason


async def _browser_says(socket_path: str, *said: bytes) -> Ended:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, secret=None)
        writer.write(server_init())
        await reader.read()

    browser = MemoryBrowser()
    async with display_at(socket_path, talk):
        display = await open_display(socket_path, None)
        browser.say(*said)
        return await relay(browser, display, ClientStream(False), name="box")
