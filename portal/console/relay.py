"""The relay between one browser and one display: two loops, bounded memory, one typed outcome. No Django here.

What the display says is passed on as it comes, in large pieces; what the browser says is parsed and filtered first.
Each loop waits for the other side to take a piece before it reads the next, so a side that stops reading stops the
other one and memory stays at the size of the buffers (about 1 MiB a session). A silent session is fine for hours:
only the handshake and a piece that nobody takes have deadlines.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from portal.console.rfb import (
    MAX_CUT_TEXT,
    READ_SIZE,
    ClientError,
    ClientStream,
    Display,
    HandshakeReader,
    greet_browser,
)

HANDSHAKE_DEADLINE: Final = 10.0
# Well above the 25 s that a suspended laptop or a throttled tab may take; shorter than for ever.
STALL_DEADLINE: Final = 120.0
MAX_FRAME: Final = MAX_CUT_TEXT + 4096  # One clipboard message and its company.


class Step(enum.StrEnum):
    """Where a session failed or ended; the browser explains each in words and names the remedy."""

    TICKET = "ticket"
    PERMISSION = "permission"
    MACHINE_OFF = "machine-off"
    HOST = "host"
    DISPLAY = "display"
    LIMIT = "limit"
    REVOKED = "revoked"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a session ended. `reason` is a slug of ours; seconds count from the accepted handshake's start."""

    step: Step
    reason: str
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0


class BrowserGone(Exception):
    """Raised by `Browser.send` when nobody is there to take the data."""


class Browser(Protocol):
    """The browser's side of a session: binary messages of any size, in order."""

    async def receive(self) -> bytes | None:
        """The next piece, or None when the browser has gone."""

    async def send(self, data: bytes) -> None:
        """Hand over one piece and wait until there is room for more. Raises BrowserGone."""


@dataclass(slots=True)
class _Traffic:
    up: int = 0
    down: int = 0


async def relay(
    browser: Browser, display: Display, stream: ClientStream, *, name: str, stop: Awaitable[Ended] | None = None
) -> Ended:
    """Run one session until a side ends it or `stop` gives a verdict. Closes the display, never the browser.

    `stream.view_only` may change at any time, and holds from the next message on.
    """
    started = time.monotonic()
    traffic = _Traffic()
    stream.let_go = display.writer.write
    runs: list[asyncio.Future[Ended]] = [asyncio.ensure_future(_converse(browser, display, stream, name, traffic))]
    if stop is not None:
        runs.append(asyncio.ensure_future(stop))
    try:
        verdict = await _first_of(runs)
    finally:
        # A display keeps a button down whose viewer has gone.
        await display.close(stream.release())
    return Ended(verdict.step, verdict.reason, traffic.up, traffic.down, time.monotonic() - started)


async def _first_of(runs: Sequence[asyncio.Future[Ended]]) -> Ended:
    """The outcome of the run that ends first; the others are cancelled and have stopped when this returns."""
    try:
        done, _ = await asyncio.wait(runs, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)
    return next(run for run in runs if run in done).result()


async def _converse(browser: Browser, display: Display, stream: ClientStream, name: str, traffic: _Traffic) -> Ended:
    reader = HandshakeReader(browser.receive)
    try:
        async with asyncio.timeout(HANDSHAKE_DEADLINE):
            await greet_browser(reader, browser.send, display.init, name)
    except TimeoutError:
        return Ended(Step.ENDED, "browser-silent")
    except ClientError as error:
        return Ended(Step.ENDED, f"browser-{error.reason}")
    except BrowserGone:
        return Ended(Step.ENDED, "browser-gone")
    return await _first_of(
        [
            asyncio.ensure_future(_upstream(browser, display, stream, reader.rest(), traffic)),
            asyncio.ensure_future(_downstream(browser, display, traffic)),
        ]
    )


async def _upstream(
    browser: Browser, display: Display, stream: ClientStream, data: bytes | None, traffic: _Traffic
) -> Ended:
    """Browser to display: parse, filter, write, wait for room."""
    try:
        while data is not None:
            traffic.up += len(data)
            allowed = stream.feed(data)
            if allowed:
                display.writer.write(allowed)
                async with asyncio.timeout(STALL_DEADLINE):
                    await display.writer.drain()
            data = await browser.receive()
            if data is not None and len(data) > MAX_FRAME:
                return Ended(Step.ENDED, "browser-frame-too-big")
    except ClientError as error:
        return Ended(Step.ENDED, f"browser-{error.reason}")
    except TimeoutError:
        return Ended(Step.DISPLAY, "stalled")
    except OSError:
        return Ended(Step.ENDED, "display-closed")
    return Ended(Step.ENDED, "browser-gone")


async def _downstream(browser: Browser, display: Display, traffic: _Traffic) -> Ended:
    """Display to browser: untouched, as much as has come, one message for each read."""
    try:
        while data := await display.reader.read(READ_SIZE):
            async with asyncio.timeout(STALL_DEADLINE):
                await browser.send(data)
            traffic.down += len(data)
    except BrowserGone:
        return Ended(Step.ENDED, "browser-gone")
    except TimeoutError:
        return Ended(Step.ENDED, "browser-stalled")
    except OSError:
        return Ended(Step.ENDED, "display-closed")
    return Ended(Step.ENDED, "display-closed")
