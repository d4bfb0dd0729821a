"""Displays for tests that wait: each lives in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from tests.portal.console.displays import Talk, display_at, greet, server_init

SECRET = "s3cr3t"
TICK = b"!"


@contextmanager
def display(path: str, talk: Talk) -> Iterator[None]:
    """Every visitor of this UNIX socket gets `talk`."""
    up, over = threading.Event(), threading.Event()

    async def live() -> None:
        async with display_at(path, talk):
            up.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    try:
        assert up.wait(60)
        yield
    finally:
        over.set()
        thread.join()


class Heard(bytearray):
    """What the visitors of a display have said after the handshake, and how many there were."""

    visitors = 0
    shared: bytes = b""


@contextmanager
def qemu(
    path: str, after: Callable[[asyncio.StreamWriter], Coroutine[Any, Any, None]] | None = None
) -> Iterator[Heard]:
    """A display that answers each piece with one byte; `after` is done once its handshake is over."""
    heard = Heard()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.shared += await greet(reader, writer, secret=SECRET)
        writer.write(server_init(b"<b>guest</b>"))
        heard.visitors += 1
        if after is not None:
            await after(writer)
        while data := await reader.read(65536):
            heard.extend(data)
            writer.write(TICK)

    with display(path, talk):
        yield heard


async def flood(writer: asyncio.StreamWriter) -> None:
    """Pictures without end, as fast as they are taken."""
    piece = bytes(range(256)) * 256
    while True:
        writer.write(piece)
        await writer.drain()
