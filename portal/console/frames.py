"""WebSocket framing (RFC 6455) as far as a relay needs it: the client's frames in, our headers out. No I/O here.

A stream has no use for whole messages, so the payload of a long frame comes out in the pieces in which it arrives, and
nothing of it is kept: a connection never holds more than an incomplete header or control frame, 131 bytes at most.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from websockets.speedups import apply_mask

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10
_KINDS: Final = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})

PROTOCOL_ERROR: Final = 1002
TOO_BIG: Final = 1009
MAX_CONTROL: Final = 125
HEADROOM: Final = 10  # The longest header that a server sends.
_FIN: Final = 0x80
_MASKED: Final = 0x80
_WHOLE_BINARY: Final = _FIN | BINARY
_put_medium: Final = struct.Struct(">BBH").pack_into
_put_long: Final = struct.Struct(">BBQ").pack_into

Frame = tuple[int, bytes]


class FrameError(Exception):
    """The client broke the protocol. `code` is the WebSocket close code to answer with."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.code = code


@dataclass(frozen=True, slots=True)
class _Header:
    kind: int
    fin: bool
    mask: bytes
    size: int
    length: int
    """Bytes of the payload, after the `size` bytes of the header."""


@dataclass(slots=True)
class Frames:
    """Takes a client's bytes in any chunking and gives pieces of binary payload, and whole control frames.

    `max_message` is in bytes, for one frame and for all fragments of a message together; what goes beyond is refused
    when its header is there. Text has no meaning in a screen's stream and is passed over.
    """

    max_message: int
    _held: bytes = b""
    _kind: int = 0
    """What the fragments of the running message are; 0 between messages."""
    _total: int = 0
    _left: int = 0
    """Bytes of the running data frame's payload that have not come yet."""
    _mask: bytes = b""
    _fin: bool = True
    _over: bool = field(default=False)

    def feed(self, data: bytes) -> list[Frame]:
        """Raises FrameError; the connection must be closed then. After a close frame everything is passed over."""
        # Nearly everything that a browser sends is one short whole frame at a time.
        size = len(data)
        if size > 6 and data[0] == _WHOLE_BINARY and data[1] - _MASKED == size - 6 < 126 and self._at_rest():
            return [(BINARY, apply_mask(data[6:], data[2:6]))]
        return self._feed(data)

    def _at_rest(self) -> bool:
        return not (self._held or self._kind or self._left or self._over)

    def _feed(self, data: bytes) -> list[Frame]:
        if self._held:
            data, self._held = self._held + data, b""
        found: list[Frame] = []
        at = 0
        while at < len(data) and not self._over:
            if self._left:
                at += self._take(data, at, found)
                continue
            header = _header(data, at)
            if header is None or (header.kind >= CLOSE and len(data) < at + header.size + header.length):
                self._held = data[at:]
                break
            at += header.size
            if header.kind >= CLOSE:
                found.append((header.kind, apply_mask(data[at : at + header.length], header.mask)))
                at += header.length
                self._over = header.kind == CLOSE
            else:
                self._begin(header)
        return found

    def _begin(self, header: _Header) -> None:
        if (header.kind == CONTINUATION) != bool(self._kind):
            raise FrameError(PROTOCOL_ERROR, "fragments out of order")
        self._total = header.length + (self._total if header.kind == CONTINUATION else 0)
        if self._total > self.max_message:
            raise FrameError(TOO_BIG, f"{self._total} bytes")
        self._kind = header.kind or self._kind
        self._left, self._mask, self._fin = header.length, header.mask, header.fin
        self._finish()

    def _take(self, data: bytes, at: int, found: list[Frame]) -> int:
        piece = data[at : at + self._left]
        if self._kind == BINARY:
            found.append((BINARY, apply_mask(piece, self._mask)))
        turn = len(piece) % 4
        self._mask = self._mask[turn:] + self._mask[:turn]
        self._left -= len(piece)
        self._finish()
        return len(piece)

    def _finish(self) -> None:
        if not self._left and self._fin:
            self._kind = 0


def _header(data: bytes, at: int) -> _Header | None:
    """The header that starts at `at`, or None while it is incomplete. What is wrong is told as early as it shows."""
    if len(data) < at + 2:
        return None
    first, second = data[at], data[at + 1]
    kind, fin, short = first & 0x0F, bool(first & _FIN), second & 0x7F
    if first & 0x70 or kind not in _KINDS:
        raise FrameError(PROTOCOL_ERROR, f"first byte {first:#x}")
    if not second & _MASKED:
        raise FrameError(PROTOCOL_ERROR, "not masked")
    if kind >= CLOSE and (not fin or short > MAX_CONTROL):
        raise FrameError(PROTOCOL_ERROR, "control frame that is long or in fragments")
    wide = {126: 2, 127: 8}.get(short, 0)
    size = 2 + wide + 4
    if len(data) < at + size:
        return None
    length = int.from_bytes(data[at + 2 : at + 2 + wide]) if wide else short
    return _Header(kind, fin, data[at + size - 4 : at + size], size, length)


class InPlace:
    """Room for one binary frame of up to `size` bytes: what is read into `payload` is sent without being copied."""

    __slots__ = ("_buffer", "_length", "_whole", "payload")

    def __init__(self, size: int) -> None:
        self._buffer = memoryview(bytearray(HEADROOM + size))
        self.payload = self._buffer[HEADROOM:]
        self._length = -1
        self._whole = self._buffer

    def whole(self, length: int) -> memoryview:
        """The frame whose payload is the first `length` bytes. In a stream most pieces are as long as the last one."""
        if length != self._length:
            self._whole = self._buffer[_put_header(self._buffer, length) : HEADROOM + length]
            self._length = length
        return self._whole


def _put_header(buffer: memoryview, length: int) -> int:
    """Write a header in front of the payload that begins at HEADROOM; gives where the frame begins."""
    if length < 126:
        buffer[HEADROOM - 2] = _WHOLE_BINARY
        buffer[HEADROOM - 1] = length
        return HEADROOM - 2
    if length < 65536:
        _put_medium(buffer, HEADROOM - 4, _WHOLE_BINARY, 126, length)
        return HEADROOM - 4
    _put_long(buffer, 0, _WHOLE_BINARY, 127, length)
    return 0


def frame(kind: int, payload: bytes) -> bytes:
    """A whole frame of the server's. A control frame's payload must have at most 125 bytes."""
    length = len(payload)
    if length < 126:
        return bytes([_FIN | kind, length]) + payload
    if length < 65536:
        return struct.pack(">BBH", _FIN | kind, 126, length) + payload
    return struct.pack(">BBQ", _FIN | kind, 127, length) + payload
