"""A machine's serial console in this terminal, by the same tickets and rules as on the page.

The terminal is raw: every key is the guest's, but the one that leaves. When the line breaks (the machine restarts, the
portal does, the network goes) it is opened again, with another ticket; whatever takes the right to it away ends the
command. Closing the command, however that comes about, closes the line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, WebSocketException

from portal.cli.client import Client, Json
from portal.cli.errors import UNREACHABLE, CliError
from portal.cli.line import Closed, closed, opened
from portal.cli.screened import Screened

PIECE: Final = 4096
WAITING_PIECES: Final = 16
# A silent line says something every 15 s: after this long without a word it is dead, though nobody has closed it.
SILENT_S: Final = 50.0
LONGEST_PAUSE_S: Final = 5.0
# How much of the last words is looked for in what a line begins with, so that they are not shown again.
TAIL: Final = 256
# What a guest may have switched on, and a shell has no use for: attributes, the second screen, mouse, pasting.
_AS_BEFORE: Final = b"\x1b[0m\x1b[?25h\x1b[?1l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b>"
_SECOND_SCREEN: Final = tuple(f"\x1b[?{mode}".encode() for mode in (47, 1047, 1049))
_PASSING_CODES: Final = frozenset({"machine-off", "host-silent", "unavailable"})

Note = Callable[[str], None]


def open_console(client: Client, machine: Json, *, watch: bool, escape: int | None, note: Note) -> None:
    """Until somebody leaves, or the right to it ends. `escape` is the byte that leaves. CliError says why it ended."""
    console = _Console(client, machine, watch, escape, note)
    with raw_terminal():
        asyncio.run(console.run())


def escape_of(text: str) -> int | None:
    """`^]` and the like as a byte; none for `none`. ValueError for what is no key with Ctrl."""
    if text == "none":
        return None
    if len(text) == 2 and text[0] == "^" and 0x40 <= ord(text[1].upper()) <= 0x5F:
        return ord(text[1].upper()) - 0x40
    raise ValueError(text)


@contextmanager
def raw_terminal() -> Iterator[None]:
    """Every key as it is, if this is a terminal; as it was before at the end."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setraw(sys.stdin, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSAFLUSH, before)


@dataclass
class _Console:
    client: Client
    machine: Json
    watch: bool
    escape: int | None
    note: Note
    # Whether there was a line at all, and whether the last try made one.
    _was_open: bool = False
    _is_open: bool = False
    _tail: bytes = b""
    _second_screen: bool = False
    _left: asyncio.Event = field(default_factory=asyncio.Event)
    _typed: asyncio.Queue[bytes] = field(default_factory=lambda: asyncio.Queue(WAITING_PIECES))

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._left.set)
        # It may wait for a key for ever, and is not waited for.
        threading.Thread(target=self._read_keys, args=(loop,), daemon=True).start()
        staying = asyncio.create_task(self._stay())
        leaving = asyncio.create_task(self._left.wait())
        try:
            await asyncio.wait({staying, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            is_over = staying.done()
            for task in (staying, leaving):
                task.cancel()
            await asyncio.gather(staying, leaving, return_exceptions=True)
            self._leave_as_it_was()
        if is_over:
            staying.result()

    async def _stay(self) -> None:
        """One line after another. CliError when no other one may follow."""
        attempt, told = 0, ""
        while True:
            broke = await self._tried()
            attempt, told = (0, "") if self._is_open else (attempt + 1, told)
            self._is_open = False
            if broke != told:
                self.note(f"{broke}. Connecting again …")
                told = broke
            await asyncio.sleep(min(0.5 * 2**attempt, LONGEST_PAUSE_S))

    async def _tried(self) -> str:
        """Why it ended, if that may pass; else it is a CliError. Before the first line nothing is expected to pass."""
        try:
            how = await self._one_line()
        except (OSError, WebSocketException) as error:
            if not self._was_open:
                raise CliError(f"The console: {error}") from error
            how = Closed("network", "lost")
        except CliError as error:
            if not self._was_open or (error.code not in _PASSING_CODES and error.exit_code != UNREACHABLE):
                raise
            return str(error).rstrip(".")
        if not how.may_pass:
            raise CliError(f"The console was closed: {how.words}")
        return how.words[0].upper() + how.words[1:]

    async def _one_line(self) -> Closed:
        body = {"kind": "serial", "mode": "view" if self.watch else "control"}
        ticket = await _in_thread(
            lambda: self.client.send("POST", f"machines/{self.machine['id']}/screen/ticket", body)
        )
        async with opened(self.client.portal, ticket) as line:
            if not self._was_open:
                self._greet(ticket)
            typing = asyncio.create_task(self._type(line))
            try:
                silent = await self._show(line)
            finally:
                typing.cancel()
                await asyncio.gather(typing, return_exceptions=True)
        return Closed("network", "silent") if silent else closed(line)

    def _greet(self, ticket: Json) -> None:
        may = "" if self.watch or ticket["mode"] == "control" else " You may only watch."
        how = f" {_name_of(self.escape)} leaves." if self.escape is not None and sys.stdin.isatty() else ""
        self.note(f"This is {self.machine['name']}.{may}{how}")

    # --- what the guest prints ---

    async def _show(self, line: ClientConnection) -> bool:
        """Until it is closed, or, which is then true, silent for too long. It begins with what was printed before."""
        beginning, live = _Beginning(), Screened()
        try:
            while True:
                async with asyncio.timeout(SILENT_S):
                    data = await line.recv()
                old, now = beginning.push(data if isinstance(data, bytes) else data.encode())
                self._was_open = self._is_open = True
                if old is not None:
                    self._print(Screened(old=True).feed(self._unseen(old)))
                    self._tail = old[-TAIL:] or self._tail
                self._print(live.feed(now))
                self._tail = (self._tail + now.replace(b"\0", b""))[-TAIL:]
        except TimeoutError:
            return True
        except ConnectionClosed:
            return False

    def _unseen(self, old: bytes) -> bytes:
        """What was printed since the last line broke; all of it, if that does not show."""
        at = old.rfind(self._tail) if self._tail else -1
        return old if at < 0 else old[at + len(self._tail) :]

    def _print(self, data: bytes) -> None:
        for begins in _SECOND_SCREEN:
            at = data.rfind(begins)
            if at >= 0:
                self._second_screen = data[at + len(begins) : at + len(begins) + 1] == b"h"
        if data:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

    def _leave_as_it_was(self) -> None:
        if self._was_open and sys.stdout.isatty():
            self._print((b"\x1b[?1049l" if self._second_screen else b"") + _AS_BEFORE + b"\r\n")

    # --- what the person types ---

    async def _type(self, line: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await line.send(await self._typed.get())

    def _read_keys(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread of its own. A person's keys are lost while nobody takes them; a pipe waits."""
        is_person = sys.stdin.isatty()
        escape = bytes([self.escape]) if is_person and self.escape is not None else None
        with contextlib.suppress(RuntimeError, OSError):  # The loop, or the terminal, has ended.
            while data := os.read(sys.stdin.fileno(), PIECE):
                before, found, _after = data.partition(escape) if escape else (data, b"", b"")
                if is_person:
                    loop.call_soon_threadsafe(self._key, before)
                else:
                    asyncio.run_coroutine_threadsafe(self._typed.put(before), loop).result()
                if found:
                    loop.call_soon_threadsafe(self._left.set)
                    return
            if is_person:  # Its window was closed.
                loop.call_soon_threadsafe(self._left.set)

    def _key(self, data: bytes) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            if data:
                self._typed.put_nowait(data)


class _Beginning:
    """Cuts a line in two: 4 bytes (big-endian) with a length, that much of what was printed before, and the rest."""

    def __init__(self) -> None:
        self._data = b""
        self._is_over = False

    def push(self, data: bytes) -> tuple[bytes | None, bytes]:
        """The first part once, when all of it is there, and what follows it."""
        if self._is_over:
            return None, data
        self._data += data
        end = 4 + int.from_bytes(self._data[:4])
        if len(self._data) < max(end, 4):
            return None, b""
        self._is_over = True
        old, now, self._data = self._data[4:end], self._data[end:], b""
        return old.replace(b"\0", b""), now


def _name_of(escape: int | None) -> str:
    return f"Ctrl-{chr((escape or 0) + 0x40)}"


async def _in_thread(work: Callable[[], Any]) -> Any:
    """As asyncio.to_thread, but nobody waits for it who leaves: the portal may not answer for a long while."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()

    def tell(result: Any, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)

    def run() -> None:
        try:
            result, error = work(), None
        except BaseException as caught:  # noqa: BLE001 - it is raised again where it is waited for
            result, error = None, caught
        with contextlib.suppress(RuntimeError):  # The loop has ended: they left.
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=run, daemon=True).start()
    return await answer
