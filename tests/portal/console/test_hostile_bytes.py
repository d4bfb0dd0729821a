"""Whatever bytes come, in whatever pieces: hypothesis tries the properties that the fuzzer of tests/fuzz looks for."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.console.rfb import ClientStream
from tests.fuzz import properties
from tests.fuzz.decoder import decode
from tests.portal.console.displays import server_init
from tests.portal.console.test_client_stream import TOUCHING, WATCHING, XVP_REBOOT

# Pieces of talk that lead deep into the parsers, and numbers that lie about what follows.
LENGTHS = st.sampled_from(
    [0, 1, 3, 4, 64, 65, 1024, 1025, 1 << 20, (1 << 20) + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]
)
NUMBERS = st.one_of(
    LENGTHS.map(lambda number: struct.pack(">I", number)), st.integers(0, 65535).map(lambda n: n.to_bytes(2))
)
MESSAGES = st.sampled_from([*WATCHING, *TOUCHING, XVP_REBOOT])
HEADS = st.sampled_from([bytes([kind]) for kind in (0, 2, 3, 4, 5, 6, 150, 248, 250, 251, 255)])
GREETINGS = [b"RFB 003.003\n", b"RFB 003.007\n", b"RFB 003.008\n", b"RFB 003.889\n"]
SECURITY = [b"\1\1", b"\2\1\2", b"\1\x13\0\2\0", b"\1\0\0\1\4", b"\1\0\0\1\5", b"\1", b"c" * 16]
ENDS = [b"\0\0\0\0", b"\0\0\0\1", server_init(), server_init(b"", length=1 << 16)]
OF_DISPLAYS = st.sampled_from([*GREETINGS, *SECURITY, *ENDS])
OF_BROWSERS = st.sampled_from([b"RFB 003.008\n", b"\1", b"\1\1", b"\0"])
CUTS = st.binary(max_size=40).map(lambda cuts: bytes([len(cuts)]) + cuts)
FLAGS = st.integers(0, 3).map(lambda flags: bytes([flags]))


def talk(*parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.lists(st.one_of(*parts, st.binary(max_size=30)), max_size=25).map(b"".join)


@given(CUTS, talk(MESSAGES, HEADS, NUMBERS))
def test_a_browser_can_say_nothing_that_harms(cuts: bytes, said: bytes) -> None:
    properties.client_stream(cuts + said)


@given(FLAGS, CUTS, talk(OF_DISPLAYS, NUMBERS))
def test_a_display_can_say_nothing_that_harms(flags: bytes, cuts: bytes, said: bytes) -> None:
    properties.display(flags + cuts + said)


@given(CUTS, talk(OF_BROWSERS))
def test_a_browser_can_greet_in_no_way_that_harms(cuts: bytes, said: bytes) -> None:
    properties.browser(cuts + said)


@pytest.mark.parametrize("message", [*WATCHING, *TOUCHING], ids=lambda message: message[:2].hex())
def test_the_decoder_that_judges_knows_every_message_and_refuses_half_of_it(message: bytes) -> None:
    assert len(decode(message + message)) == 2
    with pytest.raises(AssertionError):
        decode(message[:-1])


def test_the_properties_find_a_parser_that_lets_a_watcher_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that cannot fail is none: the same input, with the parser's filter gone."""
    said = bytes([1, 1 << 5 | 31]) + TOUCHING[0]
    properties.client_stream(said)
    monkeypatch.setattr(ClientStream, "_filter", lambda _self, message: message)
    with pytest.raises(AssertionError, match="watcher"):
        properties.client_stream(said)
