"""The handshake with a display: every version, a wrong password, and displays that mean harm.

Each is tried by the ways in which the doors come: streams and a blocking socket.
"""

import asyncio
import struct
import tracemalloc
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from portal.console.rfb import (
    ClientError,
    DisplayError,
    HandshakeReader,
    ServerInit,
    browser_handshake,
    connect_display,
    display_handshake,
    greet_browser,
    greet_browser_blocking,
    open_display,
    open_display_blocking,
    vnc_response,
)
from portal.console.rfb.handshake import MAX_REASON, MAX_SERVER_NAME
from tests.portal.console.displays import PIXEL_FORMAT, Talk, display_at, greet, server_init

UNTIL_S = 60
Opens = Callable[[str, str | None, float], Awaitable[ServerInit]]


async def _by_streams(path: str, secret: str | None, deadline: float) -> ServerInit:
    display = await open_display(path, secret, deadline=deadline)
    await display.close()
    return display.init


async def _by_transport(path: str, secret: str | None, deadline: float) -> ServerInit:
    connected = await connect_display(path, secret, deadline=deadline)
    connected.transport.abort()
    return connected.init


async def _by_blocking(path: str, secret: str | None, deadline: float) -> ServerInit:
    def visit() -> ServerInit:
        connection, init, _rest = open_display_blocking(path, secret, deadline=deadline)
        connection.close()
        return init

    return await asyncio.to_thread(visit)


@pytest.fixture(params=[_by_streams, _by_transport, _by_blocking], ids=["streams", "transport", "blocking"])
def opens(request: pytest.FixtureRequest) -> Opens:
    way: Opens = request.param
    return way


def test_the_des_answer_is_the_one_that_vnc_expects() -> None:
    # From a capture of a real exchange: password "COW", as published with the protocol's analysers.
    challenge = bytes(range(16))
    answer = vnc_response("COW", challenge)
    assert len(answer) == 16
    assert answer != vnc_response("cow", challenge)
    assert vnc_response("longer than eight", challenge) == vnc_response("longer t", challenge)


@pytest.mark.parametrize("version", [b"003.003", b"003.007", b"003.008"])
@pytest.mark.parametrize("secret", [None, "s3cr3t"])
async def test_a_display_of_every_version_is_opened_shared(
    socket_path: str, version: bytes, secret: str | None, opens: Opens
) -> None:
    client_inits = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client_inits.append(await greet(reader, writer, secret=secret, version=version))
        writer.write(server_init())
        await reader.read()

    async with display_at(socket_path, talk):
        init = await opens(socket_path, secret, UNTIL_S)
    assert client_inits == [b"\x01"]
    assert init == ServerInit(640, 480, PIXEL_FORMAT)


async def test_a_newer_version_is_spoken_to_as_3_8(socket_path: str, opens: Opens) -> None:
    spoken = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"RFB 003.889\n")
        spoken.append(await reader.readexactly(12))

    await _expect("closed-early", socket_path, talk, opens)
    assert spoken == [b"RFB 003.008\n"]


async def test_a_wrong_password_is_told_apart(socket_path: str, opens: Opens) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, secret="right")

    await _expect("password", socket_path, talk, opens, secret="wrong")


async def test_an_empty_secret_is_refused_before_anything_is_opened(socket_path: str, opens: Opens) -> None:
    with pytest.raises(DisplayError, match="secret-empty"):
        await opens(socket_path, "", UNTIL_S)


async def test_a_display_that_asks_for_no_password_is_not_the_one_that_we_set_up(
    socket_path: str, opens: Opens
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, secret=None)

    await _expect("security-type", socket_path, talk, opens, secret="s3cr3t")


async def test_nobody_listening_is_an_os_error(socket_path: str, opens: Opens) -> None:
    with pytest.raises(OSError):
        await opens(socket_path, "s3cr3t", UNTIL_S)


async def test_a_display_that_says_nothing_has_a_deadline(socket_path: str, opens: Opens) -> None:
    async def talk(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with display_at(socket_path, talk):
        with pytest.raises(DisplayError, match="timeout"):
            await opens(socket_path, None, 0.1)


@pytest.mark.parametrize("drips", ["greeting", "reason", "name"])
async def test_a_display_that_drips_has_the_same_deadline_and_not_one_for_each_drop(
    socket_path: str, opens: Opens, drips: str
) -> None:
    said = {
        "greeting": b"",
        "reason": b"RFB 003.008\n\0" + MAX_REASON.to_bytes(4),
        "name": b"RFB 003.008\n\1\1\0\0\0\0" + server_init(b"", length=MAX_SERVER_NAME),
    }
    drops = 0

    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal drops
        writer.write(said[drips])
        for byte in (b"RFB 003.008\n" + b"x" * MAX_SERVER_NAME)[: 11 if drips == "greeting" else None]:
            writer.write(bytes([byte]))
            drops += 1
            await asyncio.sleep(0.05)
        await asyncio.sleep(60)

    for deadline in (0.4, 2, 10):  # On a busy machine there may be no time for a second drop.
        drops = 0
        async with display_at(socket_path, talk):
            with pytest.raises(DisplayError, match="timeout"):
                await opens(socket_path, None, deadline)
        if drops > 1:
            break
    assert 1 < drops < MAX_REASON


HOSTILE = {
    "no RFB at all": (b"HTTP/1.1 400 Bad\n", "version"),
    "version that is no number": (b"RFB 003.0x8\n", "version"),
    "another major version": (b"RFB 004.001\n", "version"),
    "half a version": (b"RFB 0", "closed-early"),
    "a refusal": (b"RFB 003.008\n\x00" + struct.pack(">I", 3) + b"no!", "refused"),
    "a refusal of 4 GiB": (b"RFB 003.008\n\x00\xff\xff\xff\xff", "reason-too-long"),
    "only types that we do not know": (b"RFB 003.008\n\x02\x10\x1e", "security-type"),
    "a name of 4 GiB": (b"RFB 003.008\n\x01\x01\0\0\0\0" + server_init(b"", length=0xFFFFFFFF), "name-too-long"),
    "half a ServerInit": (b"RFB 003.008\n\x01\x01\0\0\0\0" + server_init()[:11], "closed-early"),
    "fewer bytes of name than told": (b"RFB 003.008\n\x01\x01\0\0\0\0" + server_init(b"x", length=99), "closed-early"),
}


@pytest.mark.parametrize("speech", HOSTILE)
async def test_a_hostile_display_is_refused_with_the_reason(socket_path: str, speech: str, opens: Opens) -> None:
    said, reason = HOSTILE[speech]

    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    await _expect(reason, socket_path, talk, opens)


async def test_a_display_that_never_stops_talking_costs_no_memory(socket_path: str, opens: Opens) -> None:
    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"RFB 003.008\n\1\1\0\0\0\0" + server_init(b"", length=MAX_SERVER_NAME + 1))
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    tracemalloc.start()
    try:
        await _expect("name-too-long", socket_path, talk, opens)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 1024 * 1024


async def test_what_the_display_says_right_after_the_handshake_is_left_for_the_reader(socket_path: str) -> None:
    """Half of it with the ServerInit, half of it later: no byte is lost or doubled on the way."""
    picture = bytes(range(256)) * 1024

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, secret=None)
        writer.write(server_init() + picture[:70_000])
        await writer.drain()
        writer.write(picture[70_000:])
        writer.close()
        await writer.wait_closed()

    async with display_at(socket_path, talk):
        display = await open_display(socket_path, None)
        assert await display.reader.read(-1) == picture
        await display.close()
        assert await asyncio.to_thread(_read_blocking, socket_path) == picture
        assert await _read_by_protocol(socket_path) == picture
        assert await _read_by_hand_over(socket_path) == picture


def _read_blocking(path: str) -> bytes:
    connection, _init, rest = open_display_blocking(path, None)
    with connection:
        while piece := connection.recv(65536):
            rest += piece
    return rest


class _Collector(asyncio.Protocol):
    def __init__(self) -> None:
        self.heard = bytearray()
        self.ended = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(exc)


async def _read_by_protocol(path: str) -> bytes:
    connected = await connect_display(path, None)
    await asyncio.sleep(0)
    collector = _Collector()
    connected.transport.set_protocol(collector)
    collector.data_received(connected.rest)
    connected.transport.resume_reading()
    await asyncio.wait_for(collector.ended, UNTIL_S)
    return bytes(collector.heard)


async def _read_by_hand_over(path: str) -> bytes:
    """A part is in the reader's buffer already when the protocol takes over."""
    display = await open_display(path, None)
    heard = await display.reader.readexactly(10)
    collector = _Collector()
    early = display.hand_over(collector)
    await asyncio.wait_for(collector.ended, UNTIL_S)
    await display.close()
    return heard + early + bytes(collector.heard)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("handed_over", [False, True])
def test_the_last_words_reach_the_display(
    socket_path: str, new_loop: Callable[[], asyncio.AbstractEventLoop], handed_over: bool
) -> None:
    async def scene() -> bytes:
        heard = asyncio.get_running_loop().create_future()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await greet(reader, writer, secret=None)
            writer.write(server_init())
            heard.set_result(await reader.read(-1))

        async with display_at(socket_path, talk):
            display = await open_display(socket_path, None)
            if handed_over:
                display.hand_over(_Collector())
            await display.close(b"last words")
            return await asyncio.wait_for(heard, UNTIL_S)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(scene()) == b"last words"


async def test_a_display_that_takes_nothing_cannot_hold_up_the_end(socket_path: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, secret=None)
        writer.write(server_init())
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # It is a transport that reads.
        await asyncio.sleep(2 * UNTIL_S)

    async with display_at(socket_path, talk):
        display = await open_display(socket_path, None)
        display.writer.write(b"x" * (4 << 20))
        await asyncio.wait_for(display.close(b"last words"), UNTIL_S)


async def test_no_connection_is_left_behind_by_a_refusal(socket_path: str, opens: Opens) -> None:
    left = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"RFB 003.008\n\1\x10")
        try:
            await reader.read(-1)
        finally:
            left.set()

    async with display_at(socket_path, talk):
        with pytest.raises(DisplayError, match="security-type"):
            await opens(socket_path, None, UNTIL_S)
        await asyncio.wait_for(left.wait(), UNTIL_S)


def test_a_handshake_says_what_it_has_to_say_however_the_bytes_come() -> None:
    said = b"RFB 003.008\n\2\x10\x01\0\0\0\0" + server_init(b"name") + b"rest"
    whole, single = display_handshake(None), display_handshake(None)
    answer = whole.feed(said)
    answers = b"".join(single.feed(bytes([byte])) for byte in said[:-4])
    assert answer == answers == b"RFB 003.008\n\x01\x01"
    assert whole.outcome == single.outcome == ServerInit(640, 480, PIXEL_FORMAT)
    assert (whole.rest(), single.rest()) == (b"rest", b"")
    with pytest.raises(RuntimeError):
        whole.feed(b"more")


def test_a_handshake_that_failed_takes_nothing_more() -> None:
    handshake = display_handshake(None)
    with pytest.raises(DisplayError):
        handshake.feed(b"HTTP/1.1 400 Bad")
    with pytest.raises(RuntimeError):
        handshake.feed(b"RFB 003.008\n")
    assert handshake.outcome is None


# --- towards the browser ---


INIT = ServerInit(640, 480, PIXEL_FORMAT)
SERVER_SAYS = b"RFB 003.008\n" + b"\1\1" + b"\0\0\0\0" + server_init(b"box")
BROWSER_SAYS = b"RFB 003.008\n" + b"\1" + b"\0"


@pytest.mark.parametrize("size", [1, 5, 12, 100])
async def test_a_browser_is_greeted_alike_at_both_doors_however_it_cuts_what_it_says(size: int) -> None:
    said = BROWSER_SAYS + b"first message"
    pieces = [said[start : start + size] for start in range(0, len(said), size)]
    sent, sent_blocking = bytearray(), bytearray()

    async def receive() -> bytes | None:
        return pieces_left.pop(0)

    async def send(data: bytes) -> None:
        sent.extend(data)

    pieces_left = list(pieces)
    reader = HandshakeReader(receive)
    await greet_browser(reader, send, INIT, "box")
    assert reader.rest() + b"".join(pieces_left) == b"first message"
    pieces_left = list(pieces)
    rest = greet_browser_blocking(lambda: pieces_left.pop(0), sent_blocking.extend, INIT, "box")
    assert rest + b"".join(pieces_left) == b"first message"
    assert sent == sent_blocking == SERVER_SAYS


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ([None], "gone"),
        ([b"RFB 003.008\n", None], "gone"),
        ([b"RFB 003.003\n"], "version"),
        ([b"RFB 003.008\n\2"], "security-type"),
        ([b"x" * (1 << 21)], "frame-too-big"),
    ],
    ids=["gone", "gone in the middle", "version", "security type", "too much"],
)
def test_a_browser_that_breaks_the_handshake_is_told_why_at_the_blocking_door(
    said: list[bytes | None], reason: str
) -> None:
    with pytest.raises(ClientError) as caught:
        greet_browser_blocking(lambda: said.pop(0), lambda _data: None, INIT, "box")
    assert caught.value.reason == reason


def test_a_browser_may_be_greeted_before_the_display_is_open() -> None:
    handshake = browser_handshake()
    assert handshake.feed(b"") + handshake.feed(BROWSER_SAYS) + INIT.encode("box") == SERVER_SAYS
    assert handshake.outcome


def test_the_browser_gets_our_name_for_the_screen_cut_to_a_sane_length() -> None:
    message = ServerInit(800, 600, PIXEL_FORMAT).encode("häuschen" * 100)
    assert struct.unpack_from(">I", message, 20) == (255,)
    assert len(message) == 24 + 255


async def _expect(reason: str, socket_path: str, talk: Talk, opens: Opens, secret: str | None = None) -> None:
    async with display_at(socket_path, talk):
        with pytest.raises(DisplayError) as caught:
            await opens(socket_path, secret, UNTIL_S)
    assert caught.value.reason == reason
