"""Drives the browser's handshake: `greet_browser` for a coroutine, `greet_browser_blocking` for a thread or process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from portal.console.rfb.errors import ClientError
from portal.console.rfb.handshake import ServerInit, browser_handshake, check_frame


class HandshakeReader:
    """A source that gives chunks of any size; what came with the handshake and is over stays in `rest`."""

    def __init__(self, receive: Callable[[], Awaitable[bytes | None]]) -> None:
        self._receive = receive
        self.over = b""

    async def piece(self) -> bytes:
        return _present(await self._receive())

    def rest(self) -> bytes:
        return self.over


async def greet_browser(
    reader: HandshakeReader, send: Callable[[bytes], Awaitable[None]], init: ServerInit, name: str
) -> None:
    """Play the server's part with our own name for the screen. Raises ClientError; the caller limits the time."""
    handshake = browser_handshake()
    await send(handshake.feed(b""))
    while handshake.outcome is None:
        answer = handshake.feed(await reader.piece())
        if answer:
            await send(answer)
    reader.over = handshake.rest()
    await send(init.encode(name))


def greet_browser_blocking(
    receive: Callable[[], bytes | None], send: Callable[[bytes], object], init: ServerInit, name: str
) -> bytes:
    """The same for blocking calls; gives back what came with the handshake and is the client's first messages."""
    handshake = browser_handshake()
    send(handshake.feed(b""))
    while handshake.outcome is None:
        answer = handshake.feed(_present(receive()))
        if answer:
            send(answer)
    send(init.encode(name))
    return handshake.rest()


def _present(piece: bytes | None) -> bytes:
    if piece is None:
        raise ClientError("gone")
    return check_frame(piece)
