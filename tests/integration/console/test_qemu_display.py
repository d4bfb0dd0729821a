"""The relay in front of a real QEMU, with a small RFB client that asks for one whole picture."""

import asyncio
import struct
import time
from collections.abc import Callable

import pytest

from portal.console.relay import relay
from portal.console.rfb import ClientStream, DisplayError, open_display
from tests.integration.console.qemu import firmware_asks, running_qemu
from tests.portal.console.displays import MemoryBrowser

pytestmark = pytest.mark.real

SECRET = "s3cr3tpw"
GREETING = 12 + 2 + 4


async def first_picture(browser: MemoryBrowser) -> bytes:
    """The pixels of one framebuffer update in raw encoding."""
    browser.greet()
    head = await browser.until(GREETING + 24)
    width, height = struct.unpack_from(">HH", head, GREETING)
    (name,) = struct.unpack_from(">I", head, GREETING + 20)
    start = GREETING + 24 + name
    browser.say(struct.pack(">BxHi", 2, 1, 0) + struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
    size = start + 4 + 12 + width * height * 4
    return (await browser.until(size))[start + 16 : size]


async def test_the_screen_of_a_real_qemu_comes_through_the_relay(
    socket_path: str, record_property: Callable[[str, object], None]
) -> None:
    with running_qemu(socket_path, SECRET):
        await firmware_asks(socket_path)
        started = time.monotonic()
        display = await open_display(socket_path, SECRET)
        opened = time.monotonic()
        browser = MemoryBrowser()
        session = asyncio.ensure_future(relay(browser, display, ClientStream(True), name="box"))
        pixels = await first_picture(browser)
        seen = time.monotonic()
        browser.leave()
        ended = await session
    record_property("handshake_ms", round(1000 * (opened - started), 1))
    record_property("first_picture_ms", round(1000 * (seen - started), 1))
    assert any(pixels), "a picture that is all black is none"
    assert ended.bytes_down > len(pixels)


async def test_a_real_qemu_refuses_the_wrong_password(socket_path: str) -> None:
    with running_qemu(socket_path, SECRET):
        with pytest.raises(DisplayError) as caught:
            await open_display(socket_path, "wrong")
        assert caught.value.reason == "password"
        await (await open_display(socket_path, SECRET)).close()


async def test_two_real_viewers_share_the_screen_though_one_wants_it_alone(socket_path: str) -> None:
    with running_qemu(socket_path, SECRET):
        await firmware_asks(socket_path)
        browsers = [MemoryBrowser(), MemoryBrowser()]
        displays = [await open_display(socket_path, SECRET) for _ in browsers]
        sessions = [
            asyncio.ensure_future(relay(browser, display, ClientStream(False), name="box"))
            for browser, display in zip(browsers, displays, strict=True)
        ]
        browsers[0].greet(shared=0)
        await browsers[0].until(GREETING + 24)
        await first_picture(browsers[1])
        assert not any(session.done() for session in sessions)
        for browser in browsers:
            browser.leave()
        await asyncio.gather(*sessions)
