"""The relay between one browser and one display: both directions, bounded memory, one typed outcome. No Django here.

What the display says is passed on as it comes, in large pieces; what the browser says is parsed and filtered first.
Nothing is read from a side before the other one has taken the last piece, so a side that stops reading stops the other
and memory stays at the size of one piece (256 KiB; nothing at all in a silent session). A silent session is fine for
hours: only the handshake and a piece that nobody takes have deadlines.

A `DirectBrowser` is served by callbacks (`_Bridge`): one read, one write, no task that must be woken in between. Any
other `Browser` is served by two loops, with the same promises.
"""

from __future__ import annotations

import asyncio
import enum
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast, runtime_checkable

from portal.console.frames import InPlace
from portal.console.rfb import (
    MAX_CUT_TEXT,
    READ_SIZE,
    ClientError,
    Connection,
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


class InputFilter(Protocol):
    """What stands between a browser and its machine: gives of what the browser says that which may go through.

    `let_go` is called with what the machine must be sent when its person may not type any more. `inputs` counts what
    was let through.
    """

    view_only: bool
    inputs: int
    let_go: Callable[[bytes], object] | None

    def feed(self, data: bytes) -> bytes:
        """Raises ClientError; the session is over then."""

    def set_view_only(self, view_only: bool) -> None: ...

    def release(self) -> bytes:
        """The last words, when the session ends."""


class Browser(Protocol):
    """The browser's side of a session: binary messages of any size, in order."""

    async def receive(self) -> bytes | None:
        """The next piece, or None when the browser has gone."""

    async def send(self, data: bytes) -> None:
        """Hand over one piece and wait until there is room for more. Raises BrowserGone."""


class Listener(Protocol):
    """What a `DirectBrowser` calls, always from the event loop."""

    is_full: bool
    """The display takes nothing at the moment, so nothing should be read from the browser."""

    def browser_said(self, data: bytes) -> None: ...

    def browser_full(self) -> None:
        """What was sent last is still here, because the browser does not take it."""

    def browser_ready(self) -> None:
        """It has been taken."""

    def browser_ended(self, reason: str) -> None:
        """Nothing more will come, and nothing can be said but goodbye."""


@runtime_checkable
class DirectBrowser(Browser, Protocol):
    """A browser whose connection may be used without waiting. `attach` ends the use of `receive` and `send`."""

    def attach(self, listener: Listener | None) -> None: ...

    def send_in_place(self, piece: InPlace, size: int) -> None:
        """Send the first `size` bytes of the piece, which is free again when this returns."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


@dataclass(slots=True)
class _Traffic:
    up: int = 0
    down: int = 0


async def relay(
    browser: Browser, display: Connection, stream: InputFilter, *, name: str, stop: Awaitable[Ended] | None = None
) -> Ended:
    """Run one session until a side ends it or `stop` gives a verdict. Closes the display, never the browser.

    A Display's browser is greeted first; any other connection is passed on as it is.

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


async def _converse(browser: Browser, display: Connection, stream: InputFilter, name: str, traffic: _Traffic) -> Ended:
    said = b""
    if isinstance(display, Display):
        reader = HandshakeReader(browser.receive)
        failed = await _greet(reader, browser, display, name)
        if failed is not None:
            return failed
        said = reader.rest()
    if isinstance(browser, DirectBrowser):
        return await _bridged(browser, display, stream, said, traffic)
    return await _first_of(
        [
            asyncio.ensure_future(_upstream(browser, display, stream, said, traffic)),
            asyncio.ensure_future(_downstream(browser, display, traffic)),
        ]
    )


async def _greet(reader: HandshakeReader, browser: Browser, display: Display, name: str) -> Ended | None:
    try:
        async with asyncio.timeout(HANDSHAKE_DEADLINE):
            await greet_browser(reader, browser.send, display.init, name)
    except TimeoutError:
        return Ended(Step.ENDED, "browser-silent")
    except ClientError as error:
        return Ended(Step.ENDED, f"browser-{error.reason}")
    except BrowserGone:
        return Ended(Step.ENDED, "browser-gone")
    return None


async def _upstream(
    browser: Browser, display: Connection, stream: InputFilter, data: bytes | None, traffic: _Traffic
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


async def _downstream(browser: Browser, display: Connection, traffic: _Traffic) -> Ended:
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


# --- a browser whose connection we may use ---------------------------------------------------------------------------

# Filled and emptied within one call of the event loop, which is one thread's; so all its sessions share it.
_piece = InPlace(READ_SIZE)


async def _bridged(
    browser: DirectBrowser, display: Connection, stream: InputFilter, data: bytes, traffic: _Traffic
) -> Ended:
    bridge = _Bridge(browser, stream, traffic)
    early = display.hand_over(bridge)
    try:
        bridge.begin(early, data)
        return await bridge.done
    finally:
        bridge.end()


def descriptor(transport: asyncio.Transport) -> int:
    """The socket's number, for writing to it at once and without a copy; -1 where TLS is in between."""
    if transport.get_extra_info("ssl_object") is not None:
        return -1
    number: int = transport.get_extra_info("socket").fileno()
    return number


class _Bridge(asyncio.BufferedProtocol):
    """The display's protocol and the browser's listener in one."""

    __slots__ = ("_browser", "_display", "_fd", "_stall", "_stalls", "_stream", "_traffic", "done", "is_full")

    def __init__(self, browser: DirectBrowser, stream: InputFilter, traffic: _Traffic) -> None:
        self._browser, self._stream, self._traffic = browser, stream, traffic
        self._display: asyncio.Transport | None = None
        self._fd = -1
        self.done: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self.is_full = False
        self._stalls: dict[Step, float] = {}
        self._stall: asyncio.TimerHandle | None = None

    def begin(self, early: bytes, data: bytes) -> None:
        """Pass on what was read together with the handshakes, then listen."""
        assert self._display is not None  # noqa: S101 - hand_over calls connection_made
        for start in range(0, len(early), READ_SIZE):
            piece = early[start : start + READ_SIZE]
            _piece.payload[: len(piece)] = piece
            self.buffer_updated(len(piece))
        if data:
            self.browser_said(data)
        if not self.done.done():
            self._browser.attach(self)

    def end(self) -> None:
        self._browser.attach(None)
        if self._stall is not None:
            self._stall.cancel()

    # --- from the display ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._display = cast(asyncio.Transport, transport)
        self._fd = descriptor(self._display)

    def get_buffer(self, _size: int) -> memoryview:
        return _piece.payload

    def buffer_updated(self, size: int) -> None:
        self._traffic.down += size
        self._browser.send_in_place(_piece, size)

    def connection_lost(self, _error: Exception | None) -> None:
        self._fd = -1
        self._finish(Ended(Step.ENDED, "display-closed"))

    def pause_writing(self) -> None:
        self.is_full = True
        self._browser.pause_reading()
        self._stalled(Step.DISPLAY)

    def resume_writing(self) -> None:
        self.is_full = False
        self._stalls.pop(Step.DISPLAY, None)
        self._browser.resume_reading()

    # --- from the browser ---

    def browser_said(self, data: bytes) -> None:
        self._traffic.up += len(data)
        try:
            allowed = self._stream.feed(data)
        except ClientError as error:
            self._finish(Ended(Step.ENDED, f"browser-{error.reason}"))
            return
        if allowed and self._display is not None:
            self._tell(self._display, allowed)

    def _tell(self, display: asyncio.Transport, data: bytes) -> None:
        """At once, where nothing waits already: the transport would do it at the end of the event loop's turn."""
        if self._fd >= 0 and not display.get_write_buffer_size() and not display.is_closing():
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                pass
            except OSError:
                display.abort()
                return
        if data:
            display.write(data)

    def browser_full(self) -> None:
        if self._display is not None and not self._display.is_closing():
            self._display.pause_reading()
        self._stalled(Step.ENDED)

    def browser_ready(self) -> None:
        self._stalls.pop(Step.ENDED, None)
        if self._display is not None and not self._display.is_closing():
            self._display.resume_reading()

    def browser_ended(self, reason: str) -> None:
        self._finish(Ended(Step.ENDED, reason))

    # --- both ---

    def _finish(self, ended: Ended) -> None:
        if not self.done.done():
            self.done.set_result(ended)

    def _stalled(self, side: Step) -> None:
        """A big picture stops and starts a side thousands of times, so one timer looks after all of them."""
        loop = self.done.get_loop()
        self._stalls[side] = loop.time()
        if self._stall is None:
            self._stall = loop.call_later(STALL_DEADLINE, self._check_stalls)

    def _check_stalls(self) -> None:
        self._stall = None
        if not self._stalls:
            return
        side, since = min(self._stalls.items(), key=lambda stall: stall[1])
        loop = self.done.get_loop()
        left = since + STALL_DEADLINE - loop.time()
        if left > 0:
            self._stall = loop.call_later(left, self._check_stalls)
        elif side is Step.DISPLAY:
            self._finish(Ended(Step.DISPLAY, "stalled"))
        else:
            self._finish(Ended(Step.ENDED, "browser-stalled"))
