"""The two handshakes without any I/O: towards a display (we are the client), towards a browser (we are the server).

A script is a generator that yields what it needs next: so many bytes, so many bytes written, an upgrade to TLS.
`Handshake` runs it on whatever bytes have come, so that every kind of door can drive it: an asyncio protocol from its
`data_received`, a blocking socket in a loop, a test byte by byte.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.modes import ECB

from portal.console.rfb.client_stream import MAX_CUT_TEXT
from portal.console.rfb.errors import ClientError, DisplayError

SECURITY_NONE: Final = 1
SECURITY_VNC: Final = 2
SECURITY_VENCRYPT: Final = 19
VENCRYPT_VERSION: Final = b"\x00\x02"
X509_NONE: Final = 260
X509_VNC: Final = 261
MAX_REASON: Final = 4 * 1024
MAX_SERVER_NAME: Final = 64 * 1024


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


@dataclass(frozen=True, slots=True)
class Read:
    """Exactly `count` bytes are needed; they are sent into the generator."""

    count: int


@dataclass(frozen=True, slots=True)
class Write:
    data: bytes


@dataclass(frozen=True, slots=True)
class StartTls:
    """The connection must become TLS before anything else is read or written."""


Outcome = TypeVar("Outcome")
Script = Generator[Read | Write | StartTls, bytes, Outcome]


class Handshake(Generic[Outcome]):
    """Runs one script. `outcome` is None until it is through; then `rest()` is what came after the handshake.

    Holds what has come and is not used yet: less than the longest thing that a script asks for (64 KiB) and the last
    piece that was fed. Whoever drives it limits its time.
    """

    def __init__(self, script: Script[Outcome]) -> None:
        self.outcome: Outcome | None = None
        self.wants_tls = False
        self._script = script
        self._buffer = bytearray()
        self._wanted: int | None = None
        self._failed = False

    def feed(self, data: bytes) -> bytes:
        """Take what has come (nothing at all, to begin) and give back what must be written now.

        Raises DisplayError or ClientError, depending on whom we speak to. When `wants_tls` is set afterwards, write the
        answer, upgrade the connection and call `tls_started`.
        """
        if self.outcome is not None or self.wants_tls or self._failed:
            raise RuntimeError("This handshake takes nothing now.")
        self._buffer += data
        return self._run()

    def tls_started(self) -> bytes:
        """The connection is TLS from here on; gives back what must be written now."""
        self.wants_tls = False
        return self._run()

    def rest(self) -> bytes:
        return bytes(self._buffer)

    def _run(self) -> bytes:
        output = bytearray()
        try:
            while self._wanted is None or len(self._buffer) >= self._wanted:
                wish = self._script.send(self._taken()) if self._wanted is not None else next(self._script)
                self._wanted = wish.count if isinstance(wish, Read) else None
                if isinstance(wish, Write):
                    output += wish.data
                if isinstance(wish, StartTls):
                    self._start_tls()
                    break
        except StopIteration as end:
            self.outcome = end.value
        except BaseException:
            self._failed = True
            raise
        return bytes(output)

    def _taken(self) -> bytes:
        taken = bytes(self._buffer[: self._wanted])
        del self._buffer[: self._wanted]
        return taken

    def _start_tls(self) -> None:
        # The side that is to become TLS waits for us to begin. What it (or somebody in between) has said already would
        # otherwise be read as if it had come through the secure channel.
        if self._buffer:
            raise DisplayError("tls-injected", str(len(self._buffer)))
        self.wants_tls = True


# --- towards the display -------------------------------------------------------------------------------------------


def display_handshake(secret: str | None, *, tls: bool = False) -> Handshake[ServerInit]:
    """Towards a display, up to its ServerInit.

    `secret` is the VNC password. An empty one is refused, because QEMU takes it for "no password"; None says that the
    display is known to ask for none. With a secret, a display that offers no password check is refused too: it cannot
    be the one that we set up. With `tls`, only VeNCrypt 0.2 with certificates (X509None, X509Vnc) will do.
    """
    if secret == "":
        raise DisplayError("secret-empty")
    return Handshake(_greet_display(secret, tls))


def vnc_response(secret: str, challenge: bytes) -> bytes:
    """Encrypt the 16-byte challenge with DES. VNC takes eight bytes of password and mirrors the bits of each."""
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in secret.encode()[:8].ljust(8, b"\0"))
    # Single DES is triple DES with one key three times; the library offers no other. ECB is what the protocol says.
    encryptor = Cipher(TripleDES(key * 3), ECB()).encryptor()  # noqa: S305
    return encryptor.update(challenge) + encryptor.finalize()


def _greet_display(secret: str | None, tls: bool) -> Script[ServerInit]:
    minor = _display_version((yield Read(12)))
    if tls and minor < 8:
        # What answers a VeNCrypt display gives was settled with 3.8; QEMU has always spoken it.
        raise DisplayError("version", "too old for TLS")
    yield Write(b"RFB 003.%03d\n" % minor)
    wanted = SECURITY_NONE if secret is None else SECURITY_VNC
    yield from _choose_security(minor, SECURITY_VENCRYPT if tls else wanted)
    if tls:
        yield from _start_vencrypt(X509_NONE if secret is None else X509_VNC)
    if secret is not None:
        yield Write(vnc_response(secret, (yield Read(16))))
    # Before 3.8 a display that asks for nothing answers nothing.
    if secret is not None or minor >= 8:
        yield from _security_result(minor)
    # Shared, always: a second viewer must never throw out the first.
    yield Write(b"\x01")
    return (yield from _server_init())


def _display_version(greeting: bytes) -> int:
    """The minor version to speak: 3, 7 or 8. Anything newer than 3.8 (Apple says 3.889) is spoken to as 3.8."""
    if not (greeting.startswith(b"RFB 003.") and greeting[8:11].isdigit() and greeting.endswith(b"\n")):
        raise DisplayError("version")
    offered = int(greeting[8:11])
    return max(known for known in (3, 7, 8) if known <= max(offered, 3))


def _choose_security(minor: int, wanted: int) -> Script[None]:
    """Nothing but what we want is taken, so nobody in between can talk us into less."""
    if minor == 3:
        offered = {(yield from _u32())}
    else:
        count = (yield Read(1))[0]
        offered = set((yield Read(count))) or {0}
    if 0 in offered:
        yield from _skip_reason()
        raise DisplayError("refused")
    if wanted not in offered:
        raise DisplayError("security-type", f"offered {sorted(offered)}")
    if minor > 3:
        yield Write(bytes([wanted]))


def _start_vencrypt(wanted: int) -> Script[None]:
    """VeNCrypt 0.2: agree on one subtype, then TLS. Subtypes without certificates prove nothing and are refused."""
    if (yield Read(2)) < VENCRYPT_VERSION:
        raise DisplayError("vencrypt-version")
    yield Write(VENCRYPT_VERSION)
    if (yield Read(1)) != b"\0":
        raise DisplayError("vencrypt-version")
    count = (yield Read(1))[0]
    offered = struct.unpack(f">{count}I", (yield Read(4 * count)))
    if wanted not in offered:
        raise DisplayError("security-type", f"offered {sorted(offered)} in VeNCrypt")
    yield Write(wanted.to_bytes(4))
    if (yield Read(1)) != b"\x01":
        raise DisplayError("refused", "VeNCrypt")
    yield StartTls()


def _security_result(minor: int) -> Script[None]:
    if (yield from _u32()) == 0:
        return
    if minor >= 8:
        yield from _skip_reason()
    raise DisplayError("password")


def _server_init() -> Script[ServerInit]:
    width, height, pixel_format, length = struct.unpack(">HH16sI", (yield Read(24)))
    if length > MAX_SERVER_NAME:
        raise DisplayError("name-too-long", str(length))
    yield Read(length)
    return ServerInit(width, height, pixel_format)


def _skip_reason() -> Script[None]:
    """Read past a display's own words; they are never shown or logged, since the guest's host may not be ours."""
    length = yield from _u32()
    if length > MAX_REASON:
        raise DisplayError("reason-too-long", str(length))
    yield Read(length)


def _u32() -> Script[int]:
    return int.from_bytes((yield Read(4)))


# --- towards the browser -------------------------------------------------------------------------------------------


def browser_handshake() -> Handshake[bool]:
    """Towards a browser, up to its ClientInit: RFB 3.8, security None (the ticket was the check).

    It needs no display, so it may run while one is being opened. `ServerInit.encode` is what to send when both are
    through. The outcome is always True: the client's wish to be alone is read and not heeded, since the display was
    told "shared".
    """
    return Handshake(_greet_browser())


def check_frame(data: bytes) -> bytes:
    """A piece from a browser, if it is no longer than any message of its may be."""
    if len(data) > MAX_CUT_TEXT:
        raise ClientError("frame-too-big", str(len(data)))
    return data


def _greet_browser() -> Script[bool]:
    yield Write(b"RFB 003.008\n")
    if (yield Read(12)) != b"RFB 003.008\n":
        raise ClientError("version")
    yield Write(bytes([1, SECURITY_NONE]))
    if (yield Read(1)) != bytes([SECURITY_NONE]):
        raise ClientError("security-type")
    yield Write(b"\0\0\0\0")
    yield Read(1)
    return True
