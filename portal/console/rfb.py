"""RFB (VNC) as the relay needs it: the handshake towards a display, towards a browser, and the client's messages.

No Django and no WebSocket here. Sources: RFC 6143, the community "rfbproto" document, QEMU's docs/interop and ui/vnc.c.
Every length that comes from outside is checked against a cap before a byte of it is waited for.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.modes import ECB

SECURITY_NONE: Final = 1
SECURITY_VNC: Final = 2
READ_SIZE: Final = 256 * 1024
MAX_REASON: Final = 4 * 1024
MAX_SERVER_NAME: Final = 64 * 1024
MAX_CUT_TEXT: Final = 1024 * 1024  # QEMU's own limit; a client beyond it would be thrown out anyway.
MAX_ENCODINGS: Final = 1024
MAX_FENCE: Final = 64


class RfbError(Exception):
    """The other side broke the protocol or refused. `reason` is a slug of ours, never text of the other side."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class DisplayError(RfbError):
    """The display (QEMU's VNC) is at fault."""


class ClientError(RfbError):
    """The browser is at fault."""


@dataclass(frozen=True, slots=True)
class ServerInit:
    """The display's geometry and pixel format (16 bytes as sent). Its name is the guest's word and is dropped."""

    width: int
    height: int
    pixel_format: bytes

    def encode(self, name: str) -> bytes:
        """The message for the browser, carrying a name that we vouch for."""
        text = name.encode()[:255]
        return struct.pack(">HH16sI", self.width, self.height, self.pixel_format, len(text)) + text


@dataclass(slots=True)
class Display:
    """An open connection to a display, past its ServerInit: the next byte read is the first server message."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    init: ServerInit

    async def close(self) -> None:
        await _close(self.writer)


# --- towards the display -------------------------------------------------------------------------------------------


def vnc_response(secret: str, challenge: bytes) -> bytes:
    """Encrypt the 16-byte challenge with DES. VNC takes eight bytes of password and mirrors the bits of each."""
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in secret.encode()[:8].ljust(8, b"\0"))
    # Single DES is triple DES with one key three times; the library offers no other. ECB is what the protocol says.
    encryptor = Cipher(TripleDES(key * 3), ECB()).encryptor()  # noqa: S305
    return encryptor.update(challenge) + encryptor.finalize()


async def open_display(socket_path: str, secret: str | None, *, deadline: float = 5.0) -> Display:
    """Connect to a display on a UNIX socket and complete the handshake within `deadline` seconds.

    `secret` is the VNC password. An empty one is refused, because QEMU takes it for "no password"; None says that the
    display is known to ask for none. With a secret, a display that offers no password check is refused too: it cannot
    be the one that we set up. Raises OSError when nothing listens, DisplayError for everything after that. On failure
    no connection is left behind.
    """
    if secret == "":
        raise DisplayError("secret-empty")
    try:
        async with asyncio.timeout(deadline):
            reader, writer = await asyncio.open_unix_connection(socket_path, limit=READ_SIZE)
            try:
                init = await _greet_display(reader, writer, secret)
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                await _close(writer)
                raise DisplayError("closed-early") from error
            except BaseException:
                await _close(writer)
                raise
    except TimeoutError as error:
        raise DisplayError("timeout") from error
    return Display(reader, writer, init)


async def _greet_display(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: str | None) -> ServerInit:
    minor = _display_version(await reader.readexactly(12))
    writer.write(b"RFB 003.%03d\n" % minor)
    chosen = await _choose_security(reader, writer, minor, secret)
    await _SECURITY[chosen](reader, writer, secret)
    # Before 3.8 a display that asks for nothing answers nothing.
    if chosen != SECURITY_NONE or minor >= 8:
        await _security_result(reader, minor)
    # Shared, always: a second viewer must never throw out the first.
    writer.write(b"\x01")
    return await _server_init(reader)


def _display_version(greeting: bytes) -> int:
    """The minor version to speak: 3, 7 or 8. Anything newer than 3.8 (Apple says 3.889) is spoken to as 3.8."""
    if not (greeting.startswith(b"RFB 003.") and greeting[8:11].isdigit() and greeting.endswith(b"\n")):
        raise DisplayError("version")
    offered = int(greeting[8:11])
    return max(known for known in (3, 7, 8) if known <= max(offered, 3))


async def _choose_security(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, minor: int, secret: str | None
) -> int:
    wanted = SECURITY_NONE if secret is None else SECURITY_VNC
    if minor == 3:
        offered = {await _u32(reader)}
    else:
        (count,) = await reader.readexactly(1)
        offered = set(await reader.readexactly(count)) or {0}
    if 0 in offered:
        await _skip_reason(reader)
        raise DisplayError("refused")
    if wanted not in offered:
        raise DisplayError("security-type", f"offered {sorted(offered)}")
    if minor > 3:
        writer.write(bytes([wanted]))
    return wanted


async def _authenticate_none(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter, _secret: str | None) -> None:
    """Nothing is asked, nothing is answered."""


async def _authenticate_vnc(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: str | None) -> None:
    if not secret:
        raise DisplayError("secret-empty")
    writer.write(vnc_response(secret, await reader.readexactly(16)))


# The place where VeNCrypt (19) joins, for displays on other hosts: an upgrade to TLS, then one of these again.
_Authenticate = Callable[[asyncio.StreamReader, asyncio.StreamWriter, str | None], Awaitable[None]]
_SECURITY: Final[dict[int, _Authenticate]] = {SECURITY_NONE: _authenticate_none, SECURITY_VNC: _authenticate_vnc}


async def _security_result(reader: asyncio.StreamReader, minor: int) -> None:
    if await _u32(reader) == 0:
        return
    if minor >= 8:
        await _skip_reason(reader)
    raise DisplayError("password")


async def _server_init(reader: asyncio.StreamReader) -> ServerInit:
    width, height, pixel_format, length = struct.unpack(">HH16sI", await reader.readexactly(24))
    if length > MAX_SERVER_NAME:
        raise DisplayError("name-too-long", str(length))
    await reader.readexactly(length)
    return ServerInit(width, height, pixel_format)


async def _skip_reason(reader: asyncio.StreamReader) -> None:
    """Read past a display's own words; they are never shown or logged, since the guest's host may not be ours."""
    length = await _u32(reader)
    if length > MAX_REASON:
        raise DisplayError("reason-too-long", str(length))
    await reader.readexactly(length)


async def _u32(reader: asyncio.StreamReader) -> int:
    return int.from_bytes(await reader.readexactly(4))


async def _close(writer: asyncio.StreamWriter) -> None:
    # Abort rather than close: what is still unsent is for a display that nobody looks at any more.
    writer.transport.abort()
    try:
        await writer.wait_closed()
    except OSError:
        return


# --- towards the browser -------------------------------------------------------------------------------------------


class HandshakeReader:
    """Reads exact amounts from a source that gives chunks of any size; what is over stays for the next reader."""

    def __init__(self, receive: Callable[[], Awaitable[bytes | None]]) -> None:
        self._receive = receive
        self._buffer = bytearray()

    async def exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            chunk = await self._receive()
            if chunk is None:
                raise ClientError("gone")
            if len(chunk) > MAX_CUT_TEXT:
                raise ClientError("frame-too-big", str(len(chunk)))
            self._buffer += chunk
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def rest(self) -> bytes:
        return bytes(self._buffer)


async def greet_browser(
    reader: HandshakeReader, send: Callable[[bytes], Awaitable[None]], init: ServerInit, name: str
) -> None:
    """Play the server's part: RFB 3.8, security None (the ticket was the check), our own name for the screen."""
    await send(b"RFB 003.008\n")
    if await reader.exactly(12) != b"RFB 003.008\n":
        raise ClientError("version")
    await send(bytes([1, SECURITY_NONE]))
    if await reader.exactly(1) != bytes([SECURITY_NONE]):
        raise ClientError("security-type")
    await send(b"\0\0\0\0")
    # The client's wish to be alone is read and not heeded; the display was told "shared".
    await reader.exactly(1)
    await send(init.encode(name))


# --- the client's messages -----------------------------------------------------------------------------------------

SET_PIXEL_FORMAT: Final = 0
SET_ENCODINGS: Final = 2
UPDATE_REQUEST: Final = 3
KEY_EVENT: Final = 4
POINTER_EVENT: Final = 5
CUT_TEXT: Final = 6
CONTINUOUS_UPDATES: Final = 150
FENCE: Final = 248
XVP: Final = 250
SET_DESKTOP_SIZE: Final = 251
QEMU: Final = 255

_FIXED_SIZES: Final = {
    SET_PIXEL_FORMAT: 20,
    UPDATE_REQUEST: 10,
    KEY_EVENT: 8,
    POINTER_EVENT: 6,
    CONTINUOUS_UPDATES: 10,
    XVP: 4,
}
_INPUT: Final = frozenset({KEY_EVENT, POINTER_EVENT})
# What a watcher may send: how to paint, and that it is ready for more. Whatever is not named here is dropped.
_WATCHING: Final = frozenset({SET_PIXEL_FORMAT, SET_ENCODINGS, UPDATE_REQUEST, CONTINUOUS_UPDATES, FENCE})

# Pseudo-encodings whose consequences this parser knows. An extension that changes a client message's shape (extended
# mouse buttons, -316; gii, -305) must not be agreed behind our back, or the parser and the display would read the same
# bytes differently and view-only could be talked around. Desktop names (-307) are the guest's word. Power by xvp (-309)
# would pass the portal's own permission, job and audit by.
_PSEUDO_ENCODINGS: Final = frozenset(
    {-223, -224, -232, -239, -240, -257, -258, -259, -260, -261, -308, -312, -313}
    | set(range(-32, -22))  # JPEG quality
    | set(range(-256, -246))  # compression level
    | set(range(-512, -411))  # fine-grained JPEG quality
    | set(range(-768, -762))  # JPEG subsampling
    | {int.from_bytes(b"\xc0\xa1\xe5\xce", signed=True)}  # extended clipboard
)


def _set_encodings_size(buffer: bytearray, at: int) -> int | None:
    if len(buffer) < at + 4:
        return None
    count = int.from_bytes(buffer[at + 2 : at + 4])
    if count > MAX_ENCODINGS:
        raise ClientError("too-many-encodings", str(count))
    return 4 + 4 * count


def _cut_text_size(buffer: bytearray, at: int) -> int | None:
    """Plain text has a positive length; the extended clipboard says so by a negative one and starts with 4 of flags."""
    if len(buffer) < at + 8:
        return None
    length = int.from_bytes(buffer[at + 4 : at + 8], signed=True)
    if abs(length) > MAX_CUT_TEXT:
        raise ClientError("clipboard-too-big", str(abs(length)))
    if -4 < length < 0:
        raise ClientError("malformed", "extended clipboard without flags")
    return 8 + abs(length)


def _fence_size(buffer: bytearray, at: int) -> int | None:
    if len(buffer) < at + 9:
        return None
    if buffer[at + 8] > MAX_FENCE:
        raise ClientError("malformed", "fence")
    return 9 + buffer[at + 8]


def _desktop_size_size(buffer: bytearray, at: int) -> int | None:
    return 8 + 16 * buffer[at + 6] if len(buffer) >= at + 8 else None


def _qemu_size(buffer: bytearray, at: int) -> int | None:
    """Extended key event (0): 12 bytes. Audio (1): on and off are 4 bytes, the sample format is 10."""
    if len(buffer) < at + 2:
        return None
    if buffer[at + 1] == 0:
        return 12
    if buffer[at + 1] != 1:
        raise ClientError("unknown-message", f"255/{buffer[at + 1]}")
    if len(buffer) < at + 4:
        return None
    operation = int.from_bytes(buffer[at + 2 : at + 4])
    if operation > 2:
        raise ClientError("unknown-message", f"255/1/{operation}")
    return 10 if operation == 2 else 4


_VARIABLE_SIZES: Final[dict[int, Callable[[bytearray, int], int | None]]] = {
    SET_ENCODINGS: _set_encodings_size,
    CUT_TEXT: _cut_text_size,
    FENCE: _fence_size,
    SET_DESKTOP_SIZE: _desktop_size_size,
    QEMU: _qemu_size,
}


def message_size(buffer: bytearray, at: int) -> int | None:
    """Bytes of the message that starts at `at`, or None while its header is incomplete. ClientError if it is none."""
    kind = buffer[at]
    if kind in _FIXED_SIZES:
        return _FIXED_SIZES[kind]
    measure = _VARIABLE_SIZES.get(kind)
    if measure is None:
        raise ClientError("unknown-message", str(kind))
    return measure(buffer, at)


def _known_encodings(message: bytes) -> bytes:
    """SetEncodings without the pseudo-encodings that we do not know; real encodings (not negative) only paint."""
    (count,) = struct.unpack_from(">H", message, 2)
    offered = struct.unpack_from(f">{count}i", message, 4)
    kept = [encoding for encoding in offered if encoding >= 0 or encoding in _PSEUDO_ENCODINGS]
    return struct.pack(f">BxH{len(kept)}i", SET_ENCODINGS, len(kept), *kept)


@dataclass(slots=True)
class ClientStream:
    """Takes the client's bytes in any chunking and gives back whole messages that may go to the display.

    `inputs` counts key and pointer messages that were let through, so that an idle session can be told.
    """

    view_only: bool
    inputs: int = 0
    _pending: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> bytes:
        """The bytes to forward. Raises ClientError for a message that is unknown, malformed or too big."""
        self._pending += data
        allowed = bytearray()
        at = 0
        while at < len(self._pending):
            size = message_size(self._pending, at)
            if size is None or at + size > len(self._pending):
                break
            allowed += self._filter(bytes(self._pending[at : at + size]))
            at += size
        del self._pending[:at]
        return bytes(allowed)

    def _filter(self, message: bytes) -> bytes:
        kind = message[0]
        if kind == SET_ENCODINGS:
            return _known_encodings(message)
        if kind == XVP or (self.view_only and kind not in _WATCHING):
            return b""
        if kind in _INPUT or (kind == QEMU and message[1] == 0):
            self.inputs += 1
        return message
