"""Reads a client's messages as a display would: written after the protocol's text, and apart from the portal's parser.

It takes messages whole or fails, so it tells whether what the relay lets through is a row of whole messages.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field

PAINTING = {"pixel-format", "encodings", "update", "continuous", "fence"}
LARGEST = 1 << 20


@dataclass(frozen=True)
class Said:
    what: str
    values: tuple[int, ...] = ()


class _Source(io.BytesIO):
    def numbers(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(f">{layout}", self.exactly(struct.calcsize(f">{layout}")))

    def exactly(self, count: int) -> bytes:
        taken = self.read(count)
        assert len(taken) == count, "half a message was let through"
        return taken


def decode(data: bytes) -> list[Said]:
    """AssertionError if it is anything but whole messages that QEMU knows or that a server may have agreed on."""
    source = _Source(data)
    said = []
    while source.tell() < len(data):
        said.append(_one(source))
    return said


def _one(source: _Source) -> Said:  # noqa: PLR0911 - a return for each message reads like the protocol's table
    (kind,) = source.numbers("B")
    match kind:
        case 0:
            source.exactly(19)
            return Said("pixel-format")
        case 2:
            (count,) = source.numbers("xH")
            return Said("encodings", source.numbers(f"{count}i"))
        case 3:
            return Said("update", source.numbers("BHHHH"))
        case 4:
            return Said("key", source.numbers("BxxI"))
        case 5:
            return Said("pointer", source.numbers("BHH"))
        case 6:
            return _clipboard(source)
        case 150:
            return Said("continuous", source.numbers("BHHHH"))
        case 248:
            (length,) = source.numbers("xxx4xB")
            assert length <= 64
            source.exactly(length)
            return Said("fence")
        case 251:
            width, height, screens = source.numbers("xHHBx")
            source.exactly(16 * screens)
            return Said("resize", (width, height))
        case 255:
            return _of_qemu(source)
    raise AssertionError(f"message {kind} was let through")


def _clipboard(source: _Source) -> Said:
    (length,) = source.numbers("xxxi")
    assert length >= 0 or length <= -4
    assert abs(length) <= LARGEST
    source.exactly(abs(length))
    return Said("clipboard")


def _of_qemu(source: _Source) -> Said:
    (kind,) = source.numbers("B")
    if kind == 0:
        return Said("qemu-key", source.numbers("HII"))
    assert kind == 1
    (operation,) = source.numbers("H")
    assert operation <= 2
    if operation == 2:
        source.exactly(6)
    return Said("audio")


@dataclass
class Keyboard:
    """What is down, as the display that hears all of this believes."""

    down: set[tuple[str, int]] = field(default_factory=set)
    buttons: int = 0

    def hear(self, said: Said) -> None:
        if said.what == "pointer":
            self.buttons = said.values[0]
        if said.what == "key":
            self._key(("symbol", said.values[1]), down=said.values[0] != 0)
        if said.what == "qemu-key":
            pressed, symbol, code = said.values
            self._key(("code", code) if code else ("symbol", symbol), down=pressed != 0)

    def _key(self, key: tuple[str, int], *, down: bool) -> None:
        if down:
            self.down.add(key)
        else:
            self.down.discard(key)
