"""Row 13: what a guest prints cannot drive the terminal of whoever looks, beyond drawing on its screen."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.cli.console import escape_of
from portal.cli.screened import LONGEST, Screened

PASSES = (
    b"\x1b[1;31mred\x1b[0m \x1b[2J\x1b[10;4H\x1b[?1049h\x1b[?25l\x1b(0lqk\x1b(B\x1b7\x1b8\x1bM\r\n\t\x08",
    "Łódź ┌─┐ 🙂 \xa0é".encode(),
    b"\x1b[>4;1m\x1b[2 q\x1b[u",
)
REACHES_BEYOND = (
    b"\x1b]0;owned\x07",  # the window's title
    b"\x1b]52;c;cm0gLXJmIH4=\x1b\\",  # the clipboard
    b"\x1bP+q544e\x1b\\",  # a string for the terminal, answered
    b"\x1bX..\x1b\\",
    b"\x1b^..\x1b\\",
    b"\x1b_Gf=24;AAAA\x1b\\",
    b"\x9d0;owned\x07"[:1],
    b"\xc2\x9d0;owned\x07",  # the same in UTF-8
    b"\xc2\x9d0;owned\xc2\x9c",
    b"\xc2\xc2\x9d0;owned\x07",
    b"\x1b[21t",  # "say your title"
    b"\x1b[5i",  # print
    b"\xc2\x9b21t",
    b"\x1bZ",
    b"\x05",
    b"\x1b\x1b]0;x\x07",
    b"\x1b[1\x1b]0;x\x07",
    b"\x1b \x1b]0;x\x07",
    b"\x1b(\x1b[21t",
    b"\x1b(\xc2\x9d0;x\x07",
)
QUESTIONS = (b"\x1b[6n", b"\x1b[c", b"\x1b[>c", b"\x1b[>q", b"\x1b[?25$p", b"\x1b[?u", b"\x1b[x", b"\xc2\x9bc")


@pytest.mark.parametrize("printed", PASSES)
def test_what_draws_passes_as_it_is(printed: bytes) -> None:
    assert Screened().feed(printed) == printed
    assert Screened(old=True).feed(printed) == printed


@pytest.mark.parametrize("printed", REACHES_BEYOND)
def test_what_reaches_beyond_the_screen_does_not(printed: bytes) -> None:
    assert Screened().feed(b"a" + printed + b"b") == b"ab"


@pytest.mark.parametrize("printed", QUESTIONS)
def test_what_was_asked_before_is_not_answered(printed: bytes) -> None:
    """What is asked now is: programs in the guest learn by it where the cursor is."""
    assert Screened(old=True).feed(printed + b"b") == b"b"
    assert Screened().feed(printed + b"b").endswith(b"b") and len(Screened().feed(printed)) > 1


def test_a_text_that_never_ends_hides_no_more_than_its_share() -> None:
    shown = Screened().feed(b"\x1b]0;" + b"x" * LONGEST + b"login: ")
    assert shown.endswith(b"login: ")
    assert Screened().feed(b"\x1b]0;x\x1b[31mred") == b"\x1b[31mred", "another sequence ends it, as for a terminal"


@given(st.lists(st.one_of(st.binary(max_size=8), st.sampled_from((*PASSES, *REACHES_BEYOND, *QUESTIONS)))))
def test_whatever_is_printed_in_whatever_pieces(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    screened = Screened()
    shown = b"".join(screened.feed(piece) for piece in pieces)
    assert shown == Screened().feed(whole)
    assert not re.search(rb"\x1b[PX\]^_Z]|\x1b\[[\x20-\x3f]*[ti]|\xc2[\x80-\x9f]|\x05|\0", shown), shown
    assert Screened().feed(shown) == shown, "what was screened needs it no more"


def test_the_key_that_leaves_is_one_with_ctrl() -> None:
    assert (escape_of("^]"), escape_of("^q"), escape_of("^@"), escape_of("none")) == (0x1D, 0x11, 0, None)
    for wrong in ("q", "^", "^^^", "^1", "~."):
        with pytest.raises(ValueError, match=re.escape(wrong)):
            escape_of(wrong)
