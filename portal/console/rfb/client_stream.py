"""The client's messages: cut into whole ones, and only those let through that the session may send.

Sources: RFC 6143, the community "rfbproto" document, QEMU's ui/vnc.c. Every length is checked against a cap before a
byte of it is waited for.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from portal.console.rfb.errors import ClientError

MAX_CUT_TEXT: Final = 1024 * 1024  # QEMU's own limit; a client beyond it would be thrown out anyway.
MAX_ENCODINGS: Final = 1024
MAX_FENCE: Final = 64
MAX_PRESSED: Final = 64  # Keys at once; nobody has that many fingers.

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
    {-223, -224, -232, -239, -240, -257, -258, -259, -260, -261, -308, -312, -313, -314}
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


class _Pressed:
    """The keys and buttons that the display believes to be down, in the order in which they went down.

    A key is known by what releases it: QEMU goes by the scan code where there is one, else by the symbol.
    """

    def __init__(self) -> None:
        self._keys: dict[tuple[str, int], bytes] = {}
        self._pointer = b""

    def admits(self, message: bytes) -> bool:
        """Take note of a key or pointer message. False for a press that could not be remembered: it must not go out."""
        if message[0] == POINTER_EVENT:
            self._pointer = message if message[1] else b""
            return True
        key, down = _key_of(message)
        if not down:
            self._keys.pop(key, None)
        elif key not in self._keys:
            if len(self._keys) >= MAX_PRESSED:
                return False
            self._keys[key] = message
        return True

    def release(self) -> bytes:
        """The messages that let go of all of them, the last one first; nothing is down afterwards."""
        keys = [_released(message) for message in reversed(self._keys.values())]
        pointer = self._pointer[:1] + b"\0" + self._pointer[2:] if self._pointer else b""
        self._keys.clear()
        self._pointer = b""
        return b"".join(keys) + pointer


def _key_of(message: bytes) -> tuple[tuple[str, int], bool]:
    if message[0] == KEY_EVENT:
        down, symbol = struct.unpack(">xBxxI", message)
        return ("symbol", symbol), down != 0
    down, symbol, code = struct.unpack(">xxHII", message)
    return (("code", code) if code else ("symbol", symbol)), down != 0


def _released(message: bytes) -> bytes:
    head = b"\x04\x00" if message[0] == KEY_EVENT else b"\xff\x00\x00\x00"
    return head + message[len(head) :]


@dataclass(slots=True)
class ClientStream:
    """Takes the client's bytes in any chunking and gives back whole messages that may go to the display.

    `view_only` may change at any time; what holds for a message is its value when the message's last byte comes. When
    it becomes true, or the session ends, the display must be sent what `release` gives: the client's own releases would
    come too late to be let through. `set_view_only` does so by `let_go`, if there is one. `inputs` counts key and
    pointer messages that were let through, so that an idle session can be told.
    """

    view_only: bool
    inputs: int = 0
    let_go: Callable[[bytes], object] | None = None
    _pending: bytearray = field(default_factory=bytearray)
    _pressed: _Pressed = field(default_factory=_Pressed)
    _unsent: bytes = b""

    def feed(self, data: bytes) -> bytes:
        """The bytes to forward. Raises ClientError for a message that is unknown, malformed or too big.

        After that the stream is over: what its next bytes would mean, nobody can tell.
        """
        if not self._pending and data and _FIXED_SIZES.get(data[0]) == len(data):
            return self._filter(data)  # Nearly everything that a browser says comes as one such message.
        self._pending += data
        allowed = bytearray()
        at = 0
        try:
            while at < len(self._pending):
                size = message_size(self._pending, at)
                if size is None or at + size > len(self._pending):
                    break
                allowed += self._filter(bytes(self._pending[at : at + size]))
                at += size
        except ClientError:
            self._unsent = bytes(allowed)
            raise
        finally:
            del self._pending[:at]
        return bytes(allowed)

    def set_view_only(self, view_only: bool) -> None:
        """Change who may type from the thread that feeds; what is held down then is let go at once."""
        self.view_only = view_only
        if view_only and self.let_go is not None:
            held = self.release()
            if held:
                self.let_go(held)

    def release(self) -> bytes:
        """Messages for the display that let go of every key and button that this client still holds down.

        What came right before a fault goes first: `feed` could not give it back, and it may let go of something itself.
        """
        unsent, self._unsent = self._unsent, b""
        return unsent + self._pressed.release()

    def _filter(self, message: bytes) -> bytes:
        kind = message[0]
        if kind == SET_ENCODINGS:
            return _known_encodings(message)
        if kind == XVP or (self.view_only and kind not in _WATCHING):
            return b""
        if kind in _INPUT or (kind == QEMU and message[1] == 0):
            if not self._pressed.admits(message):
                return b""
            self.inputs += 1
        return message
