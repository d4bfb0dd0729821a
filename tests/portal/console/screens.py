"""A display in a thread of its own, for tests that ask from other threads and processes."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.portal.console.displays import display_at, greet, server_init
from tests.support.product import wait_for

SECRET = "s3cr3tpw"
UNTIL_S = 60
WIDTH, HEIGHT = 160, 100
RED, GREEN = (200, 20, 30), (10, 180, 40)
_REQUEST, _SIZES = 3, {0: 20, 2: 12, 3: 10}


@dataclass
class Screen:
    """Paints itself in one colour when asked. What it counts is written by its own thread alone.

    `is_silent` takes visitors and says nothing to them; `paint_s` is how long it takes to paint.
    """

    path: str
    colour: tuple[int, int, int] = RED
    is_silent: bool = False
    paint_s: float = 0.0
    opened: int = 0
    open_now: int = 0
    painted: int = 0
    painting: int = 0
    most_painting: int = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self.open_now += 1
        try:
            if self.is_silent:
                await reader.read(1)
                return
            await greet(reader, writer, secret=SECRET)
            writer.write(server_init(width=WIDTH, height=HEIGHT))
            while True:
                await self._answer(reader, writer)
        except asyncio.CancelledError:
            return  # The test has ended; a stream's own callback would make a noise of it.
        finally:
            self.open_now -= 1

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (kind,) = await reader.readexactly(1)
        await reader.readexactly(_SIZES[kind] - 1)
        if kind == _REQUEST:
            self.painting += 1
            self.most_painting = max(self.most_painting, self.painting)
            await asyncio.sleep(self.paint_s)
            self.painting -= 1
            self.painted += 1  # Before it is seen: whoever sees it may look at this at once.
            red, green, blue = self.colour
            head = struct.pack(">BxHHHHHi", 0, 1, 0, 0, WIDTH, HEIGHT, 0)
            writer.write(head + bytes([blue, green, red, 0]) * (WIDTH * HEIGHT))


@contextmanager
def shown(*screens: Screen) -> Iterator[None]:
    """They are there when this is entered."""
    started = threading.Event()
    state: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        end = asyncio.Event()
        state.append((asyncio.get_running_loop(), end))
        places = [display_at(screen.path, screen.talk) for screen in screens]
        for place in places:
            await place.__aenter__()
        started.set()
        await end.wait()
        for place in places:
            await place.__aexit__(None, None, None)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(UNTIL_S)
        yield
    finally:
        loop, end = state[0]
        loop.call_soon_threadsafe(end.set)
        thread.join()


def until(what: str, condition: Callable[[], object]) -> None:
    wait_for(what, condition, seconds=UNTIL_S, every=0.01)
