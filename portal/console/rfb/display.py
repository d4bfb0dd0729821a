"""Opens displays: `open_display` and `connect_display` for asyncio, `open_display_blocking` for a thread or process.

A display is on a UNIX socket of this machine, or on another host behind TLS with a certificate on both sides.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, cast

from portal.console.rfb.errors import DisplayError
from portal.console.rfb.handshake import Handshake, ServerInit, display_handshake

READ_SIZE: Final = 256 * 1024
HANDSHAKE_READ_SIZE: Final = 16 * 1024
GOODBYE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class RemoteDisplay:
    """A display on another host. Its certificate must be signed by `ca` and name `name`; it gets to see ours.

    `ca`, `certificate` and `key` are paths of PEM files.
    """

    host: str
    port: int
    name: str
    ca: str
    certificate: str
    key: str


# A plain string is the path of a UNIX socket.
DisplayAddress = str | RemoteDisplay


@dataclass(slots=True)
class Connection:
    """An open connection to something of a machine's: the next byte read is for whoever looks at it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    _handed_over: bool = field(default=False, init=False)

    def hand_over(self, protocol: asyncio.BaseProtocol) -> bytes:
        """Let the protocol hear everything from now on; gives what has come already. Still closed by `close`."""
        self._handed_over = True
        transport = cast(asyncio.Transport, self.writer.transport)  # It reads as well.
        protocol.connection_made(transport)
        # asyncio has no public way to ask a reader for no more than what is there.
        buffer: bytearray = self.reader._buffer  # type: ignore[attr-defined]
        early = bytes(buffer)
        buffer.clear()
        if self.reader.at_eof() or transport.is_closing():
            asyncio.get_running_loop().call_soon(protocol.connection_lost, None)
            return early
        transport.pause_reading()
        transport.set_protocol(protocol)
        transport.resume_reading()
        return early

    async def close(self, last_words: bytes = b"") -> None:
        """Send the last words, which a display that takes nothing cannot hold up for longer than GOODBYE_S, and go.

        Without any, what is still unsent is dropped: it is for a display that nobody looks at any more.
        """
        transport = cast(asyncio.Transport, self.writer.transport)
        if last_words and not transport.is_closing():
            await _say_last(transport, last_words)
            return
        transport.abort()
        if self._handed_over:
            return
        try:
            await self.writer.wait_closed()
        except OSError:
            return


@dataclass(slots=True)
class Display(Connection):
    """An open connection to a display, past its ServerInit: the next byte read is the first server message."""

    init: ServerInit


async def _say_last(transport: asyncio.Transport, words: bytes) -> None:
    """End our side only, and wait for the display to end its own: QEMU reads nothing more of who is gone altogether."""
    farewell = _Farewell()
    transport.set_protocol(farewell)
    with suppress(RuntimeError):  # What was not paused cannot be resumed.
        transport.resume_reading()
    transport.write(words)
    if transport.can_write_eof():
        transport.write_eof()
    else:
        transport.close()
    with suppress(TimeoutError):
        async with asyncio.timeout(GOODBYE_S):
            await farewell.gone
    transport.abort()


class _Farewell(asyncio.Protocol):
    """Hears nothing but the end."""

    def __init__(self) -> None:
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.gone.done():
            self.gone.set_result(None)


@dataclass(slots=True)
class Connected:
    """A display past its ServerInit, for a protocol of one's own. Reading is paused; nothing is lost meanwhile.

    Take it over without an `await` in between: `set_protocol`, feed it `rest`, `resume_reading`.
    """

    transport: asyncio.Transport
    init: ServerInit
    rest: bytes


# --- asyncio -------------------------------------------------------------------------------------------------------


async def open_display(address: DisplayAddress, secret: str | None, *, deadline: float = 5.0) -> Display:
    """Connect to a display and complete the handshake within `deadline` seconds; `secret` as in `display_handshake`.

    Raises OSError when nothing listens, DisplayError for everything after that. On failure no connection is left.
    """
    connected = await connect_display(address, secret, deadline=deadline)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=READ_SIZE, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    connected.transport.set_protocol(protocol)
    protocol.connection_made(connected.transport)
    reader.feed_data(connected.rest)
    connected.transport.resume_reading()
    return Display(reader, asyncio.StreamWriter(connected.transport, protocol, reader, loop), connected.init)


async def connect_display(address: DisplayAddress, secret: str | None, *, deadline: float = 5.0) -> Connected:
    """As `open_display`, but gives the bare transport and what the display has said since."""
    handshake = display_handshake(secret, tls=isinstance(address, RemoteDisplay))
    context = _tls_context(address)
    try:
        async with asyncio.timeout(deadline):
            return await _connect(address, handshake, context)
    except TimeoutError as error:
        raise DisplayError("timeout") from error


async def _connect(
    address: DisplayAddress, handshake: Handshake[ServerInit], context: ssl.SSLContext | None
) -> Connected:
    loop = asyncio.get_running_loop()
    driver = _Driver(handshake)
    if isinstance(address, RemoteDisplay):
        transport, _ = await loop.create_connection(lambda: driver, address.host, address.port)
    else:
        transport, _ = await loop.create_unix_connection(lambda: driver, address)
    try:
        await driver.settled()
        if isinstance(address, RemoteDisplay) and context is not None:
            driver.is_upgrading = True
            with _faults():
                secure = await loop.start_tls(transport, driver, context, server_hostname=address.name)
            driver.secured(secure)
            await driver.settled()
        return driver.connected()
    except BaseException:
        driver.transport.abort()
        raise


class _Driver(asyncio.Protocol):
    """Feeds a handshake from a transport, and stops reading wherever somebody else must go on."""

    transport: asyncio.Transport

    def __init__(self, handshake: Handshake[ServerInit]) -> None:
        self.is_upgrading = False
        self._handshake = handshake
        self._early = bytearray()  # What came while somebody else was about to go on.
        self._settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # A stream's; uvloop's are of no class of asyncio's.

    def secured(self, transport: asyncio.Transport | None) -> None:
        """The upgrade is through: the rest of the handshake goes by this transport. None: it was closed meanwhile."""
        if transport is None:
            raise DisplayError("closed-early")
        self.transport = transport
        self._settled = asyncio.get_running_loop().create_future()
        self.is_upgrading = False
        early = bytes(self._early)
        self._early.clear()
        self._go_on(self._handshake.tls_started())
        if early:
            self.data_received(early)

    async def settled(self) -> None:
        """Wait until the handshake is through or wants TLS. Raises DisplayError when it fails."""
        await self._settled

    def connected(self) -> Connected:
        if self.transport.is_closing() or self._handshake.outcome is None:
            raise DisplayError("closed-early")
        return Connected(self.transport, self._handshake.outcome, self._handshake.rest() + bytes(self._early))

    def data_received(self, data: bytes) -> None:
        if self.is_upgrading or self._handshake.outcome is not None:
            self._early += data
            return
        if self._settled.done():
            return  # It failed, or what is said here would be neither before TLS nor in it: nobody may build on that.
        try:
            self._go_on(self._handshake.feed(data))
        except DisplayError as error:
            self._fail(error)

    def _go_on(self, answer: bytes) -> None:
        if answer:
            self.transport.write(answer)
        if self._handshake.wants_tls or self._handshake.outcome is not None:
            self.transport.pause_reading()
            self._settled.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(DisplayError("tls") if isinstance(exc, ssl.SSLError) else DisplayError("closed-early"))

    def _fail(self, error: DisplayError) -> None:
        if not self._settled.done():
            self._settled.set_exception(error)


# --- blocking ------------------------------------------------------------------------------------------------------


def open_display_blocking(
    address: DisplayAddress, secret: str | None, *, deadline: float = 5.0
) -> tuple[socket.socket, ServerInit, bytes]:
    """As `open_display`, for a thread or process: a blocking socket, and what the display has said since.

    Whoever waits with `select` on the socket of a RemoteDisplay asks its `pending()` first: TLS may hold whole pieces
    that the kernel knows nothing of any more.
    """
    handshake = display_handshake(secret, tls=isinstance(address, RemoteDisplay))
    context = _tls_context(address)
    until = time.monotonic() + deadline
    try:
        connection = _dial(address, until)
        try:
            _talk(connection, handshake, until)
            if isinstance(address, RemoteDisplay) and context is not None:
                connection = _secure(connection, context, address.name, until)
                _talk(connection, handshake, until, handshake.tls_started())
            connection.settimeout(None)
        except BaseException:
            connection.close()
            raise
    except TimeoutError as error:
        raise DisplayError("timeout") from error
    if handshake.outcome is None:
        raise AssertionError("A handshake that wants nothing more is through.")
    return connection, handshake.outcome, handshake.rest()


def _dial(address: DisplayAddress, until: float) -> socket.socket:
    if isinstance(address, RemoteDisplay):
        return socket.create_connection((address.host, address.port), timeout=_left(until))
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(_left(until))
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def _talk(connection: socket.socket, handshake: Handshake[ServerInit], until: float, answer: bytes = b"") -> None:
    """Read and write until the handshake is through or wants TLS."""
    with _faults():
        while True:
            connection.settimeout(_left(until))
            if answer:
                connection.sendall(answer)
            if handshake.wants_tls or handshake.outcome is not None:
                return
            data = connection.recv(HANDSHAKE_READ_SIZE)
            if not data:
                raise DisplayError("closed-early")
            answer = handshake.feed(data)


def _secure(connection: socket.socket, context: ssl.SSLContext, name: str, until: float) -> ssl.SSLSocket:
    with _faults():
        connection.settimeout(_left(until))
        return context.wrap_socket(connection, server_hostname=name)


def _left(until: float) -> float:
    """Seconds until then. A socket takes 0 for "do not wait at all", so that is a time-out of our own."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


# --- TLS -----------------------------------------------------------------------------------------------------------


def _tls_context(address: DisplayAddress) -> ssl.SSLContext | None:
    """Both sides prove who they are; what cannot be proven is no display of ours. Raises DisplayError."""
    if not isinstance(address, RemoteDisplay):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # Asks for a certificate, and checks its name.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(address.ca)
        context.load_cert_chain(address.certificate, address.key)
    except OSError as error:
        raise DisplayError("tls-files", str(error)) from error
    return context


@contextmanager
def _faults() -> Iterator[None]:
    """What an open connection may do to us, in slugs. A time-out goes through."""
    try:
        yield
    except TimeoutError:
        raise
    except ssl.SSLCertVerificationError as error:
        raise DisplayError("certificate", error.verify_message) from error
    except ssl.SSLError as error:
        raise DisplayError("tls", error.reason or "") from error
    except OSError as error:
        raise DisplayError("closed-early") from error
