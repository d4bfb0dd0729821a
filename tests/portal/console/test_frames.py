"""WebSocket frames from a browser: every cut, every fault, and never more in memory than a header."""

from __future__ import annotations

import itertools
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets import frames as reference

from portal.console.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    PROTOCOL_ERROR,
    TEXT,
    TOO_BIG,
    FrameError,
    Frames,
    InPlace,
    frame,
)

LIMIT = 100_000


def said(kind: int, payload: bytes, *, fin: bool = True) -> bytes:
    """A browser's frame, by another implementation than ours."""
    return reference.Frame(reference.Opcode(kind), payload, fin).serialize(mask=True)


def heard(pieces: list[bytes]) -> list[tuple[int, bytes]]:
    """What comes out, with the pieces of binary payload that follow each other put together."""
    frames = Frames(LIMIT)
    found = [one for piece in pieces for one in frames.feed(piece)]
    joined = itertools.groupby(found, key=lambda one: one[0])
    return [
        one
        for kind, group in joined
        for one in ([(kind, b"".join(data for _, data in group))] if kind == BINARY else list(group))
    ]


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(at % (len(data) + 1) for at in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


PAYLOADS = st.binary(max_size=300) | st.integers(60_000, 70_000).map(os.urandom)
MESSAGES = st.lists(st.tuples(PAYLOADS, st.integers(0, 3), st.booleans()), max_size=6)


@given(MESSAGES, st.lists(st.integers(0, 500_000), max_size=30))
def test_a_stream_comes_out_as_it_went_in_however_it_is_framed_and_cut(
    messages: list[tuple[bytes, int, bool]], cuts: list[int]
) -> None:
    wire = b""
    for payload, fragments, asks in messages:
        pieces = cut(payload, [len(payload) * part // (fragments + 1) for part in range(1, fragments + 1)])
        for number, piece in enumerate(pieces):
            wire += said(CONTINUATION if number else BINARY, piece, fin=number == len(pieces) - 1)
            # The protocol lets a control frame stand between the fragments of a message.
            wire += said(PING, b"?") if asks else b""
    found = heard(cut(wire, cuts))
    assert b"".join(data for kind, data in found if kind == BINARY) == b"".join(payload for payload, _, _ in messages)
    asked = sum(fragments + 1 for _, fragments, asks in messages if asks)
    assert [one for one in found if one[0] != BINARY] == [(PING, b"?")] * asked


@given(st.binary(max_size=2000), st.lists(st.integers(0, 2000), max_size=20))
def test_garbage_ends_in_an_error_or_in_bytes_and_never_in_memory(garbage: bytes, cuts: list[int]) -> None:
    frames = Frames(LIMIT)
    try:
        for piece in cut(garbage, cuts):
            frames.feed(piece)
            assert len(frames._held) <= 131
    except FrameError as error:
        assert error.code in {PROTOCOL_ERROR, TOO_BIG}


@given(st.binary(max_size=2000), st.lists(st.integers(0, 2000), max_size=20))
def test_how_it_is_cut_changes_nothing_also_for_garbage(garbage: bytes, cuts: list[int]) -> None:
    def outcome(pieces: list[bytes]) -> tuple[bytes, int]:
        frames, out = Frames(LIMIT), bytearray()
        try:
            for piece in pieces:
                for kind, data in frames.feed(piece):
                    out += data if kind == BINARY else bytes([kind]) + data
        except FrameError as error:
            return b"", error.code
        return bytes(out), 0

    assert outcome(cut(garbage, cuts)) == outcome([garbage]) == outcome([bytes([one]) for one in garbage])


@pytest.mark.parametrize("kind", [BINARY, PING, PONG, CLOSE])
@pytest.mark.parametrize("length", [0, 1, 125])
def test_every_frame_may_come_byte_by_byte(kind: int, length: int) -> None:
    payload = os.urandom(length)
    found = heard([bytes([one]) for one in said(kind, payload)])
    assert found == ([(kind, payload)] if length or kind != BINARY else [])


def test_text_is_passed_over_also_in_fragments() -> None:
    wire = said(TEXT, b"no", fin=False) + said(CONTINUATION, b"ise") + said(BINARY, b"picture") + said(TEXT, b"x" * 500)
    assert heard([wire]) == [(BINARY, b"picture")]


def test_nothing_counts_after_the_goodbye() -> None:
    assert heard([said(CLOSE, b"\3\xe8") + said(BINARY, b"more"), b"\xff\xff"]) == [(CLOSE, b"\3\xe8")]


FAULTS = {
    "not masked": (b"\x82\x01", PROTOCOL_ERROR),
    "a reserved bit": (b"\xc2\x81", PROTOCOL_ERROR),
    "an unknown kind": (b"\x83\x81", PROTOCOL_ERROR),
    "an unknown control frame": (b"\x8b\x80", PROTOCOL_ERROR),
    "a long control frame": (b"\x89\xfe", PROTOCOL_ERROR),
    "a control frame in fragments": (b"\x09\x80", PROTOCOL_ERROR),
    "a fragment of nothing": (said(CONTINUATION, b"x"), PROTOCOL_ERROR),
    "a message within another": (said(BINARY, b"x", fin=False) + said(BINARY, b"y"), PROTOCOL_ERROR),
    "one byte too much": (b"\x82\xff" + struct.pack(">Q", LIMIT + 1) + b"mask", TOO_BIG),
    "all that 64 bits can say": (b"\x82\xff" + b"\xff" * 8 + b"mask", TOO_BIG),
    "too much text": (b"\x81\xff" + struct.pack(">Q", LIMIT + 1) + b"mask", TOO_BIG),
    "fragments that are too much together": (
        said(BINARY, b"x" * LIMIT, fin=False) + said(CONTINUATION, b"x"),
        TOO_BIG,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_breaks_the_protocol_is_refused_as_soon_as_its_header_is_there(fault: str) -> None:
    wire, code = FAULTS[fault]
    with pytest.raises(FrameError) as caught:
        heard([wire])
    assert caught.value.code == code


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536, 200_000])
def test_our_frames_are_what_another_implementation_would_send(length: int) -> None:
    payload = os.urandom(length)
    expected = reference.Frame(reference.Opcode.BINARY, payload).serialize(mask=False)
    piece = InPlace(length)
    piece.payload[:] = payload
    assert frame(BINARY, payload) == expected
    assert bytes(piece.whole(length)) == expected


def test_a_piece_is_as_long_as_it_is_this_time() -> None:
    """The one before it may have left its header there, or its view of a shorter frame."""
    piece = InPlace(70_000)
    for length in (8192, 8192, 5, 70_000, 5, 8192, 0, 8192):
        payload = os.urandom(length)
        piece.payload[:length] = payload
        assert bytes(piece.whole(length)) == frame(BINARY, payload)
