"""The handshake with a display: every version, a wrong password, and displays that mean harm."""

import asyncio
import struct

import pytest

from portal.console.rfb import DisplayError, ServerInit, open_display, vnc_response
from tests.portal.console.displays import PIXEL_FORMAT, Talk, display_at, greet, server_init


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
    socket_path: str, version: bytes, secret: str | None
) -> None:
    client_inits = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client_inits.append(await greet(reader, writer, secret=secret, version=version))
        writer.write(server_init())
        await reader.read()

    async with display_at(socket_path, talk):
        display = await open_display(socket_path, secret)
        await display.close()
    assert client_inits == [b"\x01"]
    assert display.init == ServerInit(640, 480, PIXEL_FORMAT)


async def test_a_newer_version_is_spoken_to_as_3_8(socket_path: str) -> None:
    spoken = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"RFB 003.889\n")
        spoken.append(await reader.readexactly(12))

    await _expect("closed-early", socket_path, talk)
    assert spoken == [b"RFB 003.008\n"]


async def test_a_wrong_password_is_told_apart(socket_path: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, secret="right")

    await _expect("password", socket_path, talk, secret="wrong")


async def test_an_empty_secret_is_refused_before_anything_is_opened(socket_path: str) -> None:
    with pytest.raises(DisplayError, match="secret-empty"):
        await open_display(socket_path, "")


async def test_a_display_that_asks_for_no_password_is_not_the_one_that_we_set_up(socket_path: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, secret=None)

    await _expect("security-type", socket_path, talk, secret="s3cr3t")


async def test_nobody_listening_is_an_os_error(socket_path: str) -> None:
    with pytest.raises(OSError):
        await open_display(socket_path, "s3cr3t")


async def test_a_display_that_says_nothing_has_a_deadline(socket_path: str) -> None:
    async def talk(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with display_at(socket_path, talk):
        with pytest.raises(DisplayError, match="timeout"):
            await open_display(socket_path, None, deadline=0.1)


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
async def test_a_hostile_display_is_refused_with_the_reason(socket_path: str, speech: str) -> None:
    said, reason = HOSTILE[speech]

    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    await _expect(reason, socket_path, talk)


def test_the_browser_gets_our_name_for_the_screen_cut_to_a_sane_length() -> None:
    message = ServerInit(800, 600, PIXEL_FORMAT).encode("häuschen" * 100)
    assert struct.unpack_from(">I", message, 20) == (255,)
    assert len(message) == 24 + 255


async def _expect(reason: str, socket_path: str, talk: Talk, secret: str | None = None) -> None:
    async with display_at(socket_path, talk):
        with pytest.raises(DisplayError) as caught:
            await open_display(socket_path, secret, deadline=5)
    assert caught.value.reason == reason
