"""A browser that reads nothing for ten seconds, while its display sends without end: in a web process of its own."""

from __future__ import annotations

import shutil
import socket
import struct
import time

import pytest

from portal.console.frames import BINARY
from tests.bench.screens.doors import Door, door_one, stage
from tests.portal.console.test_frames import said
from tests.support.product import wait_for

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("cc") is None and shutil.which("gcc") is None, reason="no C compiler here"),
]

PAUSE_S = 10
GREETING = b"RFB 003.008\n\x01\x01"
HANDSHAKE = 12 + 2 + 4 + 24 + len("bench")
BULK, ECHO = 1, 0


def ask(what: int, size: int, amount: int = 0) -> bytes:
    """An update request as the benchmark's display reads it: `amount` MiB in writes of `size` KiB, or an echo."""
    return said(BINARY, struct.pack(">BBHHHH", 3, 1, what, size, amount, 0))


def opened(door: Door) -> socket.socket:
    assert door.lines is not None
    connected = socket.create_connection(("127.0.0.1", door.port), timeout=60)
    request = "GET /ws/console/ HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    request += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
    connected.sendall(f"{request}{door.lines(1)[0]}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connected.recv(1)
    assert head.startswith(b"HTTP/1.1 101")
    connected.sendall(said(BINARY, GREETING))
    told = 0
    while told < HANDSHAKE:  # In short frames, of which the relay may send one or several.
        length = connected.recv(2, socket.MSG_WAITALL)[1]
        read(connected, length)
        told += length
    return connected


def read(connected: socket.socket, size: int) -> None:
    while size:
        got = len(connected.recv(min(size, 1 << 20)))
        assert got, "the session has ended"
        size -= got


def rests(door: Door) -> bool:
    before = door.cpu_seconds()
    time.sleep(1)
    return door.cpu_seconds() - before < 0.1


def test_memory_stays_flat_the_display_is_stopped_and_others_go_on() -> None:
    with stage() as place, door_one(place) as door, opened(door) as slow, opened(door) as other:
        slow.sendall(ask(BULK, 64, 8192))
        read(slow, 50_000_000)
        wait_for("all that lies between the two is full", lambda: rests(door), seconds=60, every=0.1)
        memory, worked = door.memory(), door.cpu_seconds()
        deadline, echoes = time.monotonic() + PAUSE_S, 0
        while time.monotonic() < deadline:
            other.sendall(ask(ECHO, 1024))
            read(other, 1024 + 4)
            echoes += 1
            time.sleep(0.05)
        assert door.memory() - memory < 2 * 1024 * 1024
        assert door.cpu_seconds() - worked < PAUSE_S / 4, "a stopped display must cost nothing"
        assert echoes > 10
        # It goes on where it stopped.
        read(slow, 200_000_000)
