"""One small picture of a display: what is on it, and what a hostile display can do. Row 11."""

import asyncio
import io
import struct
import tracemalloc
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from portal.console import capture
from portal.console.capture import Picture, take_picture
from portal.console.rfb import DisplayError, open_display
from tests.portal.console.displays import display_at, greet, server_init

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Paint = Callable[[Reader, Writer], Awaitable[None]]

RED, GREEN, BLUE, GREY = (200, 20, 30), (10, 180, 40), (30, 60, 220), (90, 90, 90)
ASKED = 20 + 12 + 10  # SetPixelFormat, SetEncodings with two, one FramebufferUpdateRequest.


def update(*rectangles: bytes) -> bytes:
    return struct.pack(">BxH", 0, len(rectangles)) + b"".join(rectangles)


def rectangle(x: int, y: int, width: int, height: int, colour: tuple[int, int, int], encoding: int = 0) -> bytes:
    red, green, blue = colour
    return struct.pack(">HHHHi", x, y, width, height, encoding) + bytes([blue, green, red, 0]) * (width * height)


def resized(width: int, height: int) -> bytes:
    return struct.pack(">HHHHi", 0, 0, width, height, -223)


def says(*pieces: bytes) -> Paint:
    """A display that answers the first request with these bytes, whatever is asked later."""

    async def paint(reader: Reader, writer: Writer) -> None:
        await reader.readexactly(ASKED)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        await reader.read(1000)
        await asyncio.sleep(60)

    return paint


async def picture_of(socket_path: str, paint: Paint, *, width: int = 640, height: int = 480, s: float = 120) -> Picture:
    async def talk(reader: Reader, writer: Writer) -> None:
        await greet(reader, writer, secret="s3cr3tpw")
        writer.write(server_init(width=width, height=height))
        await paint(reader, writer)

    async with display_at(socket_path, talk):
        display = await open_display(socket_path, "s3cr3tpw", deadline=120)
        try:
            return await take_picture(display, deadline=s)
        finally:
            await display.close()


def pixels(picture: Picture) -> Image.Image:
    image = Image.open(io.BytesIO(picture.data)).convert("RGB")
    assert image.size == (picture.width, picture.height)
    return image


def near(image: Image.Image, x: int, y: int, colour: tuple[int, int, int]) -> bool:
    found = image.getpixel((x, y))
    assert isinstance(found, tuple)
    return all(abs(one - other) < 12 for one, other in zip(found, colour, strict=True))


# --- what is on it -------------------------------------------------------------------------------------------------

QUARTERS = [(0, 0, RED), (1, 0, GREEN), (0, 1, BLUE), (1, 1, GREY)]


@pytest.mark.parametrize(
    ("width", "height", "small"),
    [
        (640, 480, (480, 360)),
        (320, 200, (320, 200)),
        (1280, 800, (480, 300)),
        (1920, 1080, (480, 270)),
        (1366, 768, (480, 270)),
        (1080, 1920, (270, 480)),
        (3840, 2160, (480, 270)),
        (5120, 2880, (480, 270)),
        (4000, 2, (480, 1)),
    ],
)
async def test_the_picture_is_the_screen_in_small(
    socket_path: str, width: int, height: int, small: tuple[int, int]
) -> None:
    half, middle = width // 2, height // 2
    parts = [rectangle(x * half, y * middle, half, middle, colour) for x, y, colour in QUARTERS]
    picture = await picture_of(socket_path, says(update(*parts)), width=width, height=height)
    assert (picture.width, picture.height) == small
    image = pixels(picture)
    for x, y, colour in QUARTERS:
        if small[1] > 1:
            assert near(image, small[0] * (2 * x + 1) // 4, small[1] * (2 * y + 1) // 4, colour)


async def test_rectangles_at_odd_places_come_out_where_they_are(socket_path: str) -> None:
    """No edge of it lies on an edge of the small picture's pixels."""
    parts = [rectangle(0, 0, 1920, 1080, BLUE), rectangle(333, 211, 807, 505, RED)]
    image = pixels(await picture_of(socket_path, says(update(*parts)), width=1920, height=1080))
    assert all(near(image, x, y, RED) for x, y in ((86, 55), (280, 55), (86, 175), (280, 175)))
    assert all(near(image, x, y, BLUE) for x, y in ((78, 55), (290, 55), (86, 48), (86, 184)))


async def test_it_is_asked_for_once_and_nothing_else_is_sent(socket_path: str) -> None:
    """No key, no pointer, no size: RFB's messages 4, 5 and 251 never leave, whatever the display does."""
    asked = bytearray()

    async def paint(reader: Reader, writer: Writer) -> None:
        asked.extend(await reader.readexactly(ASKED))
        writer.write(update(rectangle(0, 0, 640, 480, RED)))
        asked.extend(await reader.read(1000))

    await picture_of(socket_path, paint)
    assert asked[0] == 0 and asked[20] == 2 and asked[32] == 3
    assert asked[32:] == struct.pack(">BBHHHH", 3, 0, 0, 0, 640, 480)


async def test_what_the_display_says_besides_is_passed_over(socket_path: str) -> None:
    bell, text = b"\x02", struct.pack(">Bxxxi", 3, 5) + b"hello"
    extended = struct.pack(">Bxxxi", 3, -8) + bytes(8)
    answer = bell + text + extended + update() + update(rectangle(0, 0, 640, 480, RED))
    assert near(pixels(await picture_of(socket_path, says(answer))), 9, 9, RED)


async def test_a_screen_that_changes_its_size_is_taken_as_it_is_then(socket_path: str) -> None:
    async def paint(reader: Reader, writer: Writer) -> None:
        await reader.readexactly(ASKED)
        writer.write(update(rectangle(0, 0, 640, 480, RED), resized(800, 600)))
        assert await reader.readexactly(10) == struct.pack(">BBHHHH", 3, 0, 0, 0, 800, 600)
        writer.write(update(rectangle(0, 0, 800, 600, GREEN)))
        await reader.read(1)

    picture = await picture_of(socket_path, paint)
    assert (picture.width, picture.height) == (480, 360)
    assert near(pixels(picture), 9, 9, GREEN)


async def test_byte_by_byte_is_as_good(socket_path: str) -> None:
    answer = update(rectangle(0, 0, 20, 10, BLUE))
    picture = await picture_of(socket_path, says(*(bytes([one]) for one in answer)), width=20, height=10)
    assert near(pixels(picture), 3, 3, BLUE)


# --- what a hostile display can do ---------------------------------------------------------------------------------

ENDLESS = [struct.pack(">BxH", 0, 0)] * (capture.MAX_MESSAGES + 1)
MANY = update(*[rectangle(0, 0, 0, 0, RED)] * (capture.MAX_RECTANGLES + 1))
SIZES = [update(resized(640 + step, 480)) for step in range(capture.MAX_RESIZES + 1)]


@pytest.mark.parametrize(
    ("reason", "pieces"),
    [
        ("unknown-message", [b"\x01" + bytes(20)]),
        ("unknown-message", [b"\xff" * 100]),
        ("encoding", [update(rectangle(0, 0, 1, 1, RED, encoding=7))]),
        ("encoding", [update(rectangle(0, 0, 1, 1, RED, encoding=-224))]),
        ("outside", [update(rectangle(639, 0, 2, 1, RED))]),
        ("outside", [update(struct.pack(">HHHHi", 65535, 65535, 65535, 65535, 0))]),
        ("painted-too-often", [update(*[rectangle(0, 0, 640, 480, RED)] * 3)]),
        ("too-many-rectangles", [MANY]),
        ("too-many-sizes", SIZES),
        ("screen-size", [update(resized(0, 480))]),
        ("screen-size", [update(resized(65535, 65535))]),
        ("screen-size", [update(resized(8192, 8192))]),
        ("clipboard-too-big", [struct.pack(">Bxxxi", 3, 2**31 - 1)]),
        ("clipboard-too-big", [struct.pack(">Bxxxi", 3, -(2**31))]),
        ("no-picture", ENDLESS),
    ],
)
async def test_a_display_that_breaks_the_rules_is_left(socket_path: str, reason: str, pieces: list[bytes]) -> None:
    with pytest.raises(DisplayError) as caught:
        await picture_of(socket_path, says(*pieces))
    assert caught.value.reason == reason


@pytest.mark.parametrize(("width", "height"), [(0, 0), (0, 480), (65535, 1), (1, 65535), (8192, 8192)])
async def test_a_screen_of_no_size_or_too_large_is_never_asked_for(socket_path: str, width: int, height: int) -> None:
    asked = asyncio.Event()

    async def paint(reader: Reader, writer: Writer) -> None:
        if await reader.read(1):
            asked.set()

    with pytest.raises(DisplayError, match="screen-size"):
        await picture_of(socket_path, paint, width=width, height=height)
    assert not asked.is_set()


@pytest.mark.parametrize("answer", [b"", update(rectangle(0, 0, 640, 480, RED))[:-1], b"\x00", b"\x03\x00"])
async def test_a_display_that_stands_still_costs_the_deadline_and_no_more(socket_path: str, answer: bytes) -> None:
    with pytest.raises(DisplayError, match="timeout"):
        await picture_of(socket_path, says(answer), s=0.3)


async def test_a_display_that_leaves_in_the_middle_is_no_crash(socket_path: str) -> None:
    async def paint(reader: Reader, writer: Writer) -> None:
        await reader.readexactly(ASKED)
        writer.write(update(rectangle(0, 0, 640, 480, RED))[:5000])
        await writer.drain()
        writer.close()

    with pytest.raises(DisplayError, match="closed-early"):
        await picture_of(socket_path, paint)


async def test_a_screen_of_59_mb_takes_a_few_mb_of_memory(socket_path: str) -> None:
    """Measured in this process, which plays the display as well: it sends one line at a time."""
    width, height = 5120, 2880
    line = bytes([30, 20, 200, 0]) * width

    async def paint(reader: Reader, writer: Writer) -> None:
        await reader.readexactly(ASKED)
        writer.write(struct.pack(">BxH", 0, 1) + struct.pack(">HHHHi", 0, 0, width, height, 0))
        for _ in range(height):
            writer.write(line)
            await writer.drain()
        await reader.read(1)

    tracemalloc.start()
    try:
        await picture_of(socket_path, paint, width=width, height=height)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * 1024**2, peak


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(noise=st.binary(max_size=300), cut=st.integers(0, 300))
async def test_noise_gives_a_picture_or_a_reason(socket_path: str, noise: bytes, cut: int) -> None:
    """Noise alone, and noise after a beginning that is right: nothing but a DisplayError ever comes out."""
    for answer in (noise, update(rectangle(0, 0, 8, 8, RED))[:cut] + noise):

        async def paint(reader: Reader, writer: Writer, answer: bytes = answer) -> None:
            await reader.readexactly(ASKED)
            writer.write(answer)
            await writer.drain()
            writer.close()

        try:
            picture = await picture_of(socket_path, paint, width=8, height=8)
        except DisplayError:
            continue
        assert picture.width == 8
