"""What a browser may say: every message in every chunking, nothing unknown or oversized, nothing from a watcher."""

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.console.rfb import MAX_CUT_TEXT, ClientError, ClientStream

UPDATE = struct.pack(">BBHHHH", 3, 1, 0, 0, 640, 480)
PIXELS = b"\0" * 20
ENCODINGS = struct.pack(">BxH3i", 2, 3, 7, 0, -239)
CONTINUOUS = struct.pack(">BBHHHH", 150, 1, 0, 0, 640, 480)
FENCE = b"\xf8\0\0\0\0\0\0\1\3abc"
KEY = struct.pack(">BBxxI", 4, 1, 0x61)
POINTER = struct.pack(">BBHH", 5, 1, 10, 20)
CUT = struct.pack(">Bxxxi", 6, 5) + b"hello"
EXTENDED_CUT = struct.pack(">Bxxxi", 6, -8) + b"\x01\0\0\1abcd"
RESIZE = struct.pack(">BxHHBx", 251, 800, 600, 1) + b"\0" * 16
QEMU_KEY = struct.pack(">BBHII", 255, 0, 1, 0x61, 0x1E)
AUDIO_ON = b"\xff\1\0\0"
AUDIO_FORMAT = b"\xff\1\0\2\3\2\0\0\xac\x44"
XVP_REBOOT = b"\xfa\0\1\3"

WATCHING = [UPDATE, PIXELS, ENCODINGS, CONTINUOUS, FENCE]
TOUCHING = [KEY, POINTER, CUT, EXTENDED_CUT, RESIZE, QEMU_KEY, AUDIO_ON, AUDIO_FORMAT]


def chunked(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def fed(stream: ClientStream, pieces: list[bytes]) -> bytes:
    return b"".join(stream.feed(piece) for piece in pieces)


@given(st.lists(st.sampled_from([*WATCHING, *TOUCHING]), max_size=12), st.lists(st.integers(0, 10_000), max_size=30))
def test_whole_messages_come_out_as_they_went_in_however_they_are_cut(messages: list[bytes], cuts: list[int]) -> None:
    assert fed(ClientStream(view_only=False), chunked(b"".join(messages), cuts)) == b"".join(messages)


@pytest.mark.parametrize("message", [*WATCHING, *TOUCHING], ids=lambda message: message[:2].hex())
def test_every_message_may_come_byte_by_byte(message: bytes) -> None:
    stream = ClientStream(view_only=False)
    given_back = [stream.feed(bytes([byte])) for byte in message]
    assert given_back[-1] == message
    assert not any(given_back[:-1]), "half a message must not reach the display"


@given(st.lists(st.sampled_from([*WATCHING, *TOUCHING]), max_size=12), st.lists(st.integers(0, 10_000), max_size=30))
def test_a_watcher_can_ask_for_pictures_and_do_nothing_else(messages: list[bytes], cuts: list[int]) -> None:
    stream = ClientStream(view_only=True)
    allowed = b"".join(message for message in messages if message in WATCHING)
    assert fed(stream, chunked(b"".join(messages), cuts)) == allowed
    assert stream.inputs == 0


@given(st.binary(max_size=4000), st.lists(st.integers(0, 4000), max_size=20))
def test_garbage_ends_in_an_error_or_in_nothing_and_never_in_memory(garbage: bytes, cuts: list[int]) -> None:
    """Watch-only, so that whatever comes through must be of the five kinds that paint."""
    stream = ClientStream(view_only=True)
    try:
        allowed = fed(stream, chunked(garbage, cuts))
    except ClientError:
        return
    assert len(stream._pending) <= len(garbage)
    assert not allowed or allowed[0] in {0, 2, 3, 150, 248}


BROKEN = {
    "unknown type": (b"\x07", "unknown-message"),
    "gii, which nobody agreed on": (b"\xfd\0\0\0", "unknown-message"),
    "unknown QEMU message": (b"\xff\x09", "unknown-message"),
    "unknown audio operation": (b"\xff\1\0\3", "unknown-message"),
    "clipboard beyond the limit": (struct.pack(">Bxxxi", 6, MAX_CUT_TEXT + 1), "clipboard-too-big"),
    "extended clipboard beyond the limit": (struct.pack(">Bxxxi", 6, -MAX_CUT_TEXT - 1), "clipboard-too-big"),
    "the most negative length": (struct.pack(">Bxxxi", 6, -(2**31)), "clipboard-too-big"),
    "extended clipboard without flags": (struct.pack(">Bxxxi", 6, -3), "malformed"),
    "65535 encodings": (b"\2\0\xff\xff", "too-many-encodings"),
    "fence with too much in it": (b"\xf8\0\0\0\0\0\0\1\x41", "malformed"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_what_is_no_message_is_refused_as_soon_as_its_header_is_there(fault: str) -> None:
    said, reason = BROKEN[fault]
    with pytest.raises(ClientError) as caught:
        ClientStream(view_only=False).feed(said)
    assert caught.value.reason == reason


def test_the_largest_clipboard_passes_byte_exact_and_leaves_nothing_behind() -> None:
    stream = ClientStream(view_only=False)
    message = struct.pack(">Bxxxi", 6, MAX_CUT_TEXT) + b"x" * MAX_CUT_TEXT
    assert fed(stream, [message[start : start + 1000] for start in range(0, len(message), 1000)]) == message
    assert not stream._pending


def test_extensions_that_would_change_the_shape_of_messages_are_not_agreed_on() -> None:
    """-316 makes pointer events longer: the parser and the display would then read the same bytes differently."""
    offered = struct.pack(">BxH8i", 2, 8, 7, -316, -305, -307, -309, -258, -32, -1063131698)
    kept = ClientStream(view_only=False).feed(offered)
    assert kept == struct.pack(">BxH4i", 2, 4, 7, -258, -32, -1063131698)


def test_power_by_the_display_is_nobodys_it_would_pass_the_audit_by() -> None:
    assert ClientStream(view_only=False).feed(XVP_REBOOT) == b""


def test_input_is_counted_so_that_an_idle_session_can_be_told() -> None:
    stream = ClientStream(view_only=False)
    stream.feed(UPDATE + KEY + POINTER + QEMU_KEY + AUDIO_ON)
    assert stream.inputs == 3
