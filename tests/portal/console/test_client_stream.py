"""What a browser may say: every message in every chunking, nothing unknown or oversized, nothing from a watcher."""

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.console.rfb import MAX_CUT_TEXT, ClientError, ClientStream
from portal.console.rfb.client_stream import MAX_PRESSED

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


# --- what real viewers say, byte for byte: noVNC 1.7 (core/rfb.js) and TigerVNC 1.13 (CMsgWriter, CConnection) ---


def encodings(*offered: int) -> bytes:
    return struct.pack(f">BxH{len(offered)}i", 2, len(offered), *offered)


EXTENDED_CLIPBOARD = -1063131698
VMWARE_CURSOR = 0x574D5664
NOVNC = {
    "encodings": encodings(
        *(1, 7, -260, 16, 50, 21, 5, 2, 6, 0, -26, -254, -223, -224, -258, -261, -308, -309, -312, -313, -307),
        *(EXTENDED_CLIPBOARD, -316, VMWARE_CURSOR, -239),
    ),
    "24 bits": struct.pack(">BxxxBBBBHHHBBBxxx", 0, 32, 24, 0, 1, 255, 255, 255, 0, 8, 16),
    "pointer with the marker bit off": struct.pack(">BBHH", 5, 0x7F, 0, 65535),
    "right ctrl": struct.pack(">BBHII", 255, 0, 1, 0xFFE4, 0x9D),
    "clipboard capabilities": struct.pack(">BxxxiII", 6, -8, 0x1F000001, 0),
    "clipboard notify": struct.pack(">BxxxiI", 6, -4, 0x08000001),
    "clipboard request": struct.pack(">BxxxiI", 6, -4, 0x02000001),
    "empty clipboard": struct.pack(">Bxxxi", 6, 0),
    "desktop size": struct.pack(">BxHHBxIHHHHI", 251, 800, 600, 1, 0, 0, 0, 800, 600, 0),
    "answer to a fence": struct.pack(">BxxxIB", 248, 3, 4) + b"data",
    "continuous updates off": struct.pack(">BBHHHH", 150, 0, 0, 0, 0, 0),
}
TIGERVNC = {
    "encodings": encodings(
        *(VMWARE_CURSOR, 0x574D5665, 0x574D5668, -239, -240, -314, -223, -308, -261, -307, -224, -312, -313, -258),
        *(EXTENDED_CLIPBOARD, -316, 7, 1, 16, 5, 2, 0, -254, -24),
    ),
    "8 bits": struct.pack(">BxxxBBBBHHHBBBxxx", 0, 8, 8, 0, 1, 7, 7, 3, 0, 3, 6),
    "key of no scan code": struct.pack(">BBHII", 255, 0, 1, 0x20AC, 0),
    "fence of a client": struct.pack(">BxxxIB", 248, 0x80000001, 1) + b"\0",
    "two screens": struct.pack(">BxHHBx", 251, 3840, 1080, 2) + struct.pack(">IHHHHI", 1, 0, 0, 1920, 1080, 0) * 2,
    "the largest fence": struct.pack(">BxxxIB", 248, 3, 64) + b"f" * 64,
}


@pytest.mark.parametrize("viewer", [NOVNC, TIGERVNC], ids=["noVNC", "TigerVNC"])
def test_nothing_that_a_real_viewer_says_is_refused_and_only_its_extensions_are_thinned(
    viewer: dict[str, bytes],
) -> None:
    stream = ClientStream(view_only=False)
    said = dict(viewer)
    kept = stream.feed(said.pop("encodings"))
    assert set(struct.unpack_from(f">{len(kept) // 4 - 1}i", kept, 4)).isdisjoint({-316, -309, -307})
    assert VMWARE_CURSOR in struct.unpack_from(f">{len(kept) // 4 - 1}i", kept, 4)
    for what, message in said.items():
        assert stream.feed(message) == message, what


# --- who may type changes while somebody types ---


@pytest.mark.parametrize("message", TOUCHING, ids=lambda message: message[:2].hex())
@pytest.mark.parametrize("cut", [1, -1])
def test_what_holds_for_a_message_is_who_may_type_when_its_last_byte_comes(message: bytes, cut: int) -> None:
    stream = ClientStream(view_only=False)
    assert stream.feed(message[:cut]) == b""
    stream.view_only = True
    assert stream.feed(message[cut:] + UPDATE) == UPDATE
    assert stream.feed(message[:cut]) == b""
    stream.view_only = False
    assert stream.feed(message[cut:] + UPDATE) == message + UPDATE


# --- letting go ---

KEY_UP = struct.pack(">BBxxI", 4, 0, 0x61)
QEMU_KEY_UP = struct.pack(">BBHII", 255, 0, 0, 0x61, 0x1E)
POINTER_UP = struct.pack(">BBHH", 5, 0, 10, 20)


def test_what_is_held_is_let_go_once_the_last_first_and_the_pointer_where_it_is() -> None:
    stream = ClientStream(view_only=False)
    stream.feed(KEY + QEMU_KEY + POINTER)
    assert stream.release() == QEMU_KEY_UP + KEY_UP + POINTER_UP
    assert stream.release() == b""


def test_what_the_client_let_go_itself_is_not_let_go_again() -> None:
    stream = ClientStream(view_only=False)
    # Held down, a key repeats; and shift may change its symbol before it comes up.
    stream.feed(KEY + KEY + KEY_UP + QEMU_KEY + struct.pack(">BBHII", 255, 0, 0, 0x41, 0x1E) + POINTER + POINTER_UP)
    assert stream.release() == b""


def test_what_a_watcher_presses_was_never_down() -> None:
    stream = ClientStream(view_only=True)
    stream.feed(KEY + QEMU_KEY + POINTER)
    assert stream.release() == b""


def test_a_key_that_was_down_when_control_was_lost_is_let_go_though_its_release_comes_after_that() -> None:
    stream = ClientStream(view_only=False)
    stream.feed(KEY)
    stream.view_only = True
    assert stream.feed(KEY_UP) == b""
    assert stream.release() == KEY_UP


def test_more_keys_than_anyone_has_fingers_are_not_pressed_since_they_could_not_be_let_go() -> None:
    stream = ClientStream(view_only=False)
    presses = [struct.pack(">BBxxI", 4, 1, symbol) for symbol in range(MAX_PRESSED + 10)]
    assert fed(stream, presses) == b"".join(presses[:MAX_PRESSED])
    assert stream.feed(presses[0]) == presses[0], "a key that is down may repeat"
    assert stream.feed(b"\4\0" + presses[0][2:] + presses[-1]) == b"\4\0" + presses[0][2:] + presses[-1]
    assert len(stream.release()) == 8 * MAX_PRESSED


def test_what_was_let_go_right_before_a_fault_is_let_go_though_the_fault_swallowed_it() -> None:
    """Found by fuzzing: the release was noted, and its message lost with the piece that ended in garbage."""
    stream = ClientStream(view_only=False)
    stream.feed(KEY + POINTER)
    with pytest.raises(ClientError):
        stream.feed(POINTER_UP + b"\x07")
    assert stream.release() == POINTER_UP + KEY_UP
    assert stream.release() == b""


def test_losing_control_lets_go_at_once_and_only_once() -> None:
    let_go: list[bytes] = []
    stream = ClientStream(view_only=False, let_go=let_go.append)
    stream.set_view_only(True)
    stream.set_view_only(False)
    stream.feed(KEY + POINTER)
    stream.set_view_only(False)
    assert not let_go
    stream.set_view_only(True)
    stream.set_view_only(True)
    assert let_go == [KEY_UP + POINTER_UP]
    assert stream.feed(KEY_UP) == b""
