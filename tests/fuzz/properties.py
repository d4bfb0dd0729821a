"""What must hold for whatever bytes come: one function for each parser, for hypothesis and for the fuzzer.

The first bytes of the input say how the rest is cut into pieces and what happens between them. A function returns
when all is well, and raises anything at all when it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from portal.console.rfb import (
    ClientError,
    ClientStream,
    DisplayError,
    Handshake,
    browser_handshake,
    display_handshake,
)
from portal.console.rfb.client_stream import MAX_PRESSED
from portal.console.rfb.errors import RfbError
from portal.console.rfb.handshake import MAX_SERVER_NAME
from tests.fuzz.decoder import LARGEST, PAINTING, Keyboard, decode

# Extensions that would change what the client's next messages look like, or pass the portal by.
NEVER_AGREED: Final = {-316, -309, -307, -305}
MOST_ENCODINGS: Final = 4 + 4 * 1024
T = TypeVar("T")


def _cut(data: bytes) -> Iterator[tuple[int, bytes]]:
    """A choice (three bits) with each piece. The first byte is how many pieces have a length of their own."""
    count = data[0] if data else 0
    at = 1 + count
    for control in data[1:at]:
        size = (control & 31) or 1000
        yield control >> 5, data[at : at + size]
        at += size
    yield 0, data[at:]


def client_stream(data: bytes) -> None:
    stream = ClientStream(view_only=False)
    display = Keyboard()
    for choice, piece in _cut(data):
        stream.view_only = bool(choice & 1)
        if choice & 2:
            _let_go(stream, display)
        try:
            allowed = stream.feed(piece)
        except ClientError:
            break
        messages = decode(allowed)
        if stream.view_only:
            assert {message.what for message in messages} <= PAINTING, "a watcher touched something"
        for message in messages:
            display.hear(message)
            if message.what == "encodings":
                assert NEVER_AGREED.isdisjoint(message.values)
        assert len(display.down) <= MAX_PRESSED
        _holds_no_more_than_one_message(stream)
    _let_go(stream, display)
    _is_the_same_in_one_piece(b"".join(piece for _choice, piece in _cut(data)))


def _let_go(stream: ClientStream, display: Keyboard) -> None:
    for message in decode(stream.release()):
        display.hear(message)
    assert not display.down
    assert not display.buttons
    assert stream.release() == b""


def _holds_no_more_than_one_message(stream: ClientStream) -> None:
    """Nor waits for more than one: a length beyond the cap is refused when it is read, not when it has come."""
    held = stream._pending
    assert len(held) < (8 + LARGEST if held[:1] == b"\x06" else MOST_ENCODINGS)
    if held[:1] == b"\x06" and len(held) >= 8:
        assert abs(int.from_bytes(held[4:8], signed=True)) <= LARGEST
    if held[:1] == b"\x02" and len(held) >= 4:
        assert 4 + 4 * int.from_bytes(held[2:4]) <= MOST_ENCODINGS


def _is_the_same_in_one_piece(data: bytes) -> None:
    """How the bytes are cut makes no difference, for those who type and for those who watch."""
    for view_only in (False, True):
        single = ClientStream(view_only)
        came, refused = bytearray(), ""
        for byte in data[:500]:
            try:
                came += single.feed(bytes([byte]))
            except ClientError as error:
                refused = error.reason
                break
        whole = ClientStream(view_only)
        try:
            assert whole.feed(data[:500]) == came
            assert not refused
        except ClientError as error:
            assert error.reason == refused


def display(data: bytes) -> None:
    """The first byte says what we want of it: TLS, a password."""
    flags = data[0] if data else 0
    tls, secret = bool(flags & 1), ("s3cr3t" if flags & 2 else None)
    handshake = display_handshake(secret, tls=tls)
    upgraded = False
    said = bytearray()
    for choice, piece in _cut(data[1:]):
        try:
            said += handshake.feed(piece)
            if handshake.wants_tls:
                assert tls
                assert not upgraded
                assert not handshake.rest(), "what came in the clear would be read as if it were secure"
                upgraded = True
                said += handshake.tls_started()
        except DisplayError:
            assert handshake.outcome is None
            return
        assert len(handshake._buffer) <= MAX_SERVER_NAME + len(piece)
        assert (handshake._wanted or 0) <= MAX_SERVER_NAME
        # Ours are the version, the types that were chosen, the answer to the challenge, and "shared".
        assert len(said) <= 12 + 1 + 2 + 4 + 16 + 1
        assert not tls or upgraded or len(said) <= 12 + 1 + 2 + 4, "more was said than may be said without TLS"
        if handshake.outcome is not None:
            assert said[-1:] == b"\x01"
            assert upgraded == tls
            assert secret is None or len(said) >= 12 + 16 + 1
            return
        if choice == 7:
            break
    if not tls:
        _is_the_same_byte_by_byte(lambda: display_handshake(secret), b"".join(piece for _, piece in _cut(data[1:])))


def browser(data: bytes) -> None:
    handshake = browser_handshake()
    said = bytearray(handshake.feed(b""))
    for _choice, piece in _cut(data):
        try:
            said += handshake.feed(piece)
        except ClientError:
            assert handshake.outcome is None
            break
        assert len(handshake._buffer) <= 12 + len(piece)
        assert (b"RFB 003.008\n\1\1\0\0\0\0").startswith(said)
        if handshake.outcome is not None:
            assert len(said) == 18
            break
    _is_the_same_byte_by_byte(browser_handshake, b"".join(piece for _choice, piece in _cut(data)))


def _is_the_same_byte_by_byte(begin: Callable[[], Handshake[T]], data: bytes) -> None:
    data = data[: 2 * MAX_SERVER_NAME]
    whole, single = begin(), begin()
    assert _fed(whole, [data]) == _fed(single, [data[at : at + 1] for at in range(len(data))])
    assert whole.outcome == single.outcome


def _fed(handshake: Handshake[T], pieces: list[bytes]) -> str | bytes:
    """What was answered, or why nothing more was taken."""
    said = bytearray(handshake.feed(b""))
    for piece in pieces:
        try:
            said += handshake.feed(piece)
        except RfbError as error:
            return error.reason
        if handshake.outcome is not None:
            break
    return bytes(said)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "client_stream": client_stream,
    "display": display,
    "browser": browser,
}
