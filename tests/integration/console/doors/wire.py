"""A WebSocket of the tests' own, down to the bytes: half frames, huge ones, unmasked ones, and a reader that stops."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Final

BINARY: Final = 0x2
TEXT: Final = 0x1
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
GREETING: Final = b"RFB 003.008\n\x01\x01"
PATIENCE_S: Final = 60.0


def frame(
    data: bytes, opcode: int = BINARY, *, fin: bool = True, masked: bool = True, length: int | None = None
) -> bytes:
    """One frame. `length` is what its header says, when that is not the truth."""
    size = len(data) if length is None else length
    bit = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | opcode])
    if size <= 125:
        head += bytes([bit | size])
    elif size < 65536:
        head += struct.pack(">BH", bit | 126, size)
    else:
        head += struct.pack(">BQ", bit | 127, size)
    if not masked:
        return head + data
    mask = os.urandom(4)
    key = int.from_bytes((mask * (len(data) // 4 + 1))[: len(data)])
    return head + mask + (int.from_bytes(data) ^ key).to_bytes(len(data))


@dataclass(frozen=True, slots=True)
class Closed:
    """How the other side said goodbye. An end without a word has the code 1006, as in browsers."""

    code: int
    step: str = ""
    reason: str = ""


@dataclass
class Wire:
    """One connection. `status` and `headers` are the answer to its request; `received` is what came as messages."""

    port: int
    received: bytearray = field(default_factory=bytearray)
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    _buffer: bytes = b""
    pongs: int = 0

    def __post_init__(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, target: str, headers: list[tuple[str, str]], *, method: str = "GET", behind: bytes = b"") -> int:
        """Send one request, with `behind` in the same packet; the answer's status."""
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + behind)
        while b"\r\n\r\n" not in self._buffer:
            piece = self.socket.recv(65536)
            assert piece, "the connection ended without an answer"
            self._buffer += piece
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        return self.status

    def send(self, *pieces: bytes) -> None:
        """Whole messages."""
        for piece in pieces:
            self.socket.sendall(frame(piece))

    def until(self, size: int) -> bytes:
        """Read on until this much has come in all."""
        deadline = time.monotonic() + 2 * PATIENCE_S
        while len(self.received) < size:
            assert time.monotonic() < deadline, f"only {len(self.received)} bytes of {size} have come"
            closed = self._take()
            assert closed is None, f"{closed} after {bytes(self.received[-80:])!r}"
        return bytes(self.received)

    def closed(self, patience: float = PATIENCE_S) -> Closed:
        """The goodbye, which must come; whatever comes before is kept."""
        deadline = time.monotonic() + patience
        while True:
            self.socket.settimeout(max(deadline - time.monotonic(), 0.01))
            closed = self._take()
            if closed is not None:
                return closed

    def leave(self) -> None:
        """As a tab does that is closed."""
        self.socket.sendall(frame(struct.pack(">H", 1000), CLOSE))
        self.closed()
        self.socket.close()

    def _take(self) -> Closed | None:
        """One frame from the other side."""
        try:
            opcode, data = self._frame()
        except (ConnectionError, EOFError):
            return Closed(1006)
        if opcode == CLOSE:
            return _goodbye(data)
        if opcode == BINARY:
            self.received += data
        if opcode == PING:
            self.socket.sendall(frame(data, PONG))
        self.pongs += opcode == PONG
        return None

    def _frame(self) -> tuple[int, bytes]:
        head = self._exactly(2)
        assert head[0] & 0x80, "the doors send whole messages"
        assert not head[1] & 0x80, "a server does not mask"
        size = head[1]
        if size == 126:
            size = int.from_bytes(self._exactly(2))
        elif size == 127:
            size = int.from_bytes(self._exactly(8))
        return head[0] & 0x0F, self._exactly(size)

    def _exactly(self, count: int) -> bytes:
        pieces = [self._buffer]
        have = len(self._buffer)
        while have < count:
            piece = self.socket.recv(262144)
            if not piece:
                raise EOFError
            pieces.append(piece)
            have += len(piece)
        whole = b"".join(pieces)
        self._buffer = whole[count:]
        return whole[:count]


def _goodbye(data: bytes) -> Closed:
    assert len(data) <= 125
    code = int.from_bytes(data[:2]) if data else 1005
    if not 4000 <= code < 5000:
        return Closed(code)
    words = json.loads(data[2:])
    return Closed(code, words["step"], words["reason"])
