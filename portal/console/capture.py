"""One picture of a display, small: what a thumbnail is made of. No Django here.

The display is asked for its whole screen once, in the plainest encoding, and what comes is scaled down strip by strip:
a screen of 4K is 33 MB on its way, and never more than a strip and the small picture are held of it. No input is sent
and no size is asked for. The display is the guest's, so everything that it says is checked against a cap.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from PIL import Image

from portal.console.rfb import MAX_CUT_TEXT, Display, DisplayError, ServerInit

WIDEST: Final = 480  # Pixels of the longer side: a card's width on a screen with two pixels for one.
MAX_SIDE: Final = 8192
MAX_PIXELS: Final = 16 * 1024 * 1024  # More than a 5K screen has.
# A screen is one rectangle or a few. What is painted twice is paid twice, so that has an end, too.
MAX_RECTANGLES: Final = 4096
MAX_COVERS: Final = 2
MAX_MESSAGES: Final = 64
MAX_RESIZES: Final = 4
STRIP_BYTES: Final = 256 * 1024
QUALITY: Final = 70

_UPDATE, _BELL, _CUT_TEXT = 0, 2, 3
_RAW, _DESKTOP_SIZE = 0, -223
_BYTES_PER_PIXEL = 4
# 32 bits, little endian, true colour, eight bits each: blue, green, red and one byte of nothing. QEMU keeps its screens
# like this, so that it only copies.
_PIXELS = struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
_SET_PIXELS = struct.pack(">Bxxx", 0) + _PIXELS
_SET_ENCODINGS = struct.pack(">BxHii", 2, 2, _RAW, _DESKTOP_SIZE)


@dataclass(frozen=True, slots=True)
class Picture:
    """A WebP, and its size in pixels."""

    data: bytes
    width: int
    height: int


async def take_picture(display: Display, *, deadline: float = 3.0) -> Picture:
    """The display's screen, its longer side at most WIDEST, within `deadline` seconds. The connection is used up then.

    Raises DisplayError when the display breaks the protocol, is too large, leaves, or takes too long.
    """
    try:
        async with asyncio.timeout(deadline):
            return await _Camera(display).take()
    except TimeoutError as error:
        raise DisplayError("timeout") from error
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        raise DisplayError("closed-early") from error


class _Canvas:
    """The small picture while it comes together. `factor` pixels of the screen are one of it, each way."""

    def __init__(self, width: int, height: int) -> None:
        if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
            raise DisplayError("screen-size", f"{width}x{height}")
        self.width, self.height = width, height
        self.factor = max(1, max(width, height) // WIDEST)
        self.covered = 0
        self._image = Image.new("RGB", (-(-width // self.factor), -(-height // self.factor)))

    def lines_of(self, width: int) -> int:
        """How many lines of a rectangle make a strip: whole lines of the small picture."""
        return max(STRIP_BYTES // (width * _BYTES_PER_PIXEL) // self.factor, 1) * self.factor

    def paint(self, data: bytes, x: int, y: int, width: int, height: int) -> None:
        """Where a rectangle begins between two pixels of the small picture, it is moved by less than one of those."""
        strip = Image.frombuffer("RGB", (width, height), data, "raw", "BGRX", 0, 1)
        self._image.paste(strip.reduce(self.factor), (x // self.factor, y // self.factor))
        self.covered += width * height

    def picture(self) -> Picture:
        self._image.thumbnail((WIDEST, WIDEST), Image.Resampling.BILINEAR)
        out = BytesIO()
        # The quicker of WebP's methods: the picture is looked at for some seconds.
        self._image.save(out, "WEBP", quality=QUALITY, method=1)
        return Picture(out.getvalue(), self._image.width, self._image.height)


class _Camera:
    def __init__(self, display: Display) -> None:
        self._reader, self._writer = display.reader, display.writer
        self._canvas = _canvas_for(display.init)
        self._rectangles = self._resizes = 0

    async def take(self) -> Picture:
        self._writer.write(_SET_PIXELS + _SET_ENCODINGS)
        self._ask()
        for _ in range(MAX_MESSAGES):
            await self._message()
            if self._canvas.covered:
                return self._canvas.picture()
        raise DisplayError("no-picture")

    def _ask(self) -> None:
        """For all of it, as it is now."""
        self._writer.write(struct.pack(">BBHHHH", 3, 0, 0, 0, self._canvas.width, self._canvas.height))

    async def _message(self) -> None:
        (kind,) = await self._reader.readexactly(1)
        if kind == _UPDATE:
            await self._update()
        elif kind == _CUT_TEXT:
            await self._skip_text()
        elif kind != _BELL:
            raise DisplayError("unknown-message", str(kind))

    async def _skip_text(self) -> None:
        (length,) = struct.unpack(">xxxi", await self._reader.readexactly(7))
        left = abs(length)  # The extended clipboard has a length below nothing.
        if left > MAX_CUT_TEXT:
            raise DisplayError("clipboard-too-big", str(left))
        while left:
            left -= len(await self._reader.readexactly(min(left, STRIP_BYTES)))

    async def _update(self) -> None:
        (count,) = struct.unpack(">xH", await self._reader.readexactly(3))
        self._rectangles += count
        if self._rectangles > MAX_RECTANGLES:
            raise DisplayError("too-many-rectangles", str(self._rectangles))
        for _ in range(count):
            x, y, width, height, encoding = struct.unpack(">HHHHi", await self._reader.readexactly(12))
            if encoding == _DESKTOP_SIZE:
                self._resized(width, height)
            elif encoding == _RAW:
                await self._rectangle(x, y, width, height)
            else:
                raise DisplayError("encoding", str(encoding))

    def _resized(self, width: int, height: int) -> None:
        """A guest that starts changes its size; the picture begins anew. That may not go on for ever."""
        self._resizes += 1
        if self._resizes > MAX_RESIZES:
            raise DisplayError("too-many-sizes")
        self._canvas = _Canvas(width, height)
        self._ask()

    async def _rectangle(self, x: int, y: int, width: int, height: int) -> None:
        canvas = self._canvas
        if x + width > canvas.width or y + height > canvas.height:
            raise DisplayError("outside", f"{width}x{height} at {x},{y}")
        if canvas.covered + width * height > MAX_COVERS * canvas.width * canvas.height:
            raise DisplayError("painted-too-often")
        if not width or not height:
            return
        lines = canvas.lines_of(width)
        for top in range(0, height, lines):
            here = min(lines, height - top)
            data = await self._reader.readexactly(width * here * _BYTES_PER_PIXEL)
            canvas.paint(data, x, y + top, width, here)


def _canvas_for(init: ServerInit) -> _Canvas:
    return _Canvas(init.width, init.height)
