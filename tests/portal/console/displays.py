"""Displays that say what a test wants, and a browser without a WebSocket."""

import asyncio
import secrets
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from portal.console.relay import BrowserGone
from portal.console.rfb import vnc_response

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

PIXEL_FORMAT = bytes.fromhex("20180001") + b"\x00\xff\x00\xff\x00\xff\x10\x08\x00" + b"\0\0\0"


@asynccontextmanager
async def display_at(path: str, talk: Talk) -> AsyncIterator[None]:
    """A UNIX socket on which every visitor gets `talk`; a visitor who leaves early is no fault of the test."""
    tasks: set[asyncio.Task[None]] = set()

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
            tasks.discard(task)

    server = await asyncio.start_unix_server(visit, path)
    try:
        yield
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def server_init(name: bytes = b"QEMU", *, width: int = 640, height: int = 480, length: int | None = None) -> bytes:
    return struct.pack(">HH", width, height) + PIXEL_FORMAT + struct.pack(">I", length or len(name)) + name


async def greet(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, secret: str | None, version: bytes = b"003.008"
) -> bytes:
    """A server's handshake up to ClientInit, which is returned. `secret` None asks for no password."""
    writer.write(b"RFB %s\n" % version)
    await reader.readexactly(12)
    old = version == b"003.003"
    kind = 1 if secret is None else 2
    writer.write(struct.pack(">I", kind) if old else bytes([1, kind]))
    if not old:
        assert await reader.readexactly(1) == bytes([kind])
    if secret is not None:
        challenge = secrets.token_bytes(16)
        writer.write(challenge)
        if await reader.readexactly(16) != vnc_response(secret, challenge):
            reason = b"Authentication failed"
            writer.write(b"\0\0\0\1" + (struct.pack(">I", len(reason)) + reason if version == b"003.008" else b""))
            return b""
    if secret is not None or version == b"003.008":
        writer.write(b"\0\0\0\0")
    return await reader.readexactly(1)


class MemoryBrowser:
    """Holds what it was sent; gives what was put into `inbox` (None ends it). A held `gate` makes it stop reading."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.received = bytearray()
        self.gate = asyncio.Event()
        self.gate.set()
        self.gone = False

    async def receive(self) -> bytes | None:
        return await self.inbox.get()

    async def send(self, data: bytes) -> None:
        await self.gate.wait()
        if self.gone:
            raise BrowserGone
        self.received += data

    def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.inbox.put_nowait(piece)

    def greet(self, shared: int = 1) -> None:
        """The client's whole handshake at once: nothing says that a browser must wait."""
        self.say(b"RFB 003.008\n" + b"\x01" + bytes([shared]))

    def leave(self) -> None:
        self.inbox.put_nowait(None)

    async def until(self, size: int) -> bytes:
        while len(self.received) < size:  # noqa: ASYNC110 - the relay under test signals nobody
            await asyncio.sleep(0.005)
        return bytes(self.received)
