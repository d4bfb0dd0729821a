"""QEMU's screen dump as a PNG."""

from __future__ import annotations

import re
import struct
import zlib

from workers.hypervisor.errors import HypervisorError

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# Width, height and depth in text, the last ended by exactly one white-space byte: pixels may look like white space too.
_PPM_HEAD = re.compile(rb"P6\s+(\d{1,5})\s+(\d{1,5})\s+255\s")
_RGB = 3


def to_png(dump: bytes) -> bytes:
    """PNGs pass as they are, PPMs (what libvirt asks QEMU for) are packed."""
    if dump.startswith(PNG_MAGIC):
        return dump
    width, height, pixels = _parse_ppm(dump)
    stride = width * _RGB
    # Each line begins with its filter's number: 0, none.
    lines = b"".join(b"\0" + pixels[row * stride : (row + 1) * stride] for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(lines, level=3)
    return PNG_MAGIC + _chunk(b"IHDR", header) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _parse_ppm(dump: bytes) -> tuple[int, int, memoryview]:
    head = _PPM_HEAD.match(dump)
    if head is None:
        raise HypervisorError("The host sent a screenshot that cannot be read.")
    width, height = int(head[1]), int(head[2])
    pixels = memoryview(dump)[head.end() :]
    if len(pixels) < width * height * _RGB:
        raise HypervisorError("The host sent a screenshot that is cut off.")
    return width, height, pixels


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
