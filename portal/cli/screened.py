"""What a guest prints, as far as a person's own terminal may be given it.

A terminal is driven by what it is shown. Most of that is what a console is for (colours, moving about, clearing), and
passes. What reaches beyond the screen does not: titles, the clipboard, printing, colours of the whole terminal and
whatever else comes as a text for the terminal itself; and what makes it say its title, which it would type. What was
printed before anybody looked must not make it say anything at all: it was asked long ago.
"""

from __future__ import annotations

from typing import Final

_ESC, _BEL, _ENQ, _CAN, _SUB = 0x1B, 0x07, 0x05, 0x18, 0x1A
# Of the characters of UTF-8 that it begins, the first 32 are controls: U+009B is ESC [.
_C1_IN_UTF8: Final = 0xC2
# A sequence that is longer is none; whoever begins a text and never ends it does not hide the rest for ever.
LONGEST: Final = 4096
# After ESC: texts for the terminal itself (DCS, SOS, OSC, PM, APC).
_TEXTS: Final = frozenset(b"PX]^_")
# After ESC [ … : moving windows and telling of them, printing.
_NEVER: Final = frozenset(b"ti")
# … : questions, to which the terminal would type the answer.
_QUESTIONS: Final = frozenset(b"cnx")
_QUESTIONS_IF_PRIVATE: Final = frozenset(b"pqu")
_PRIVATE: Final = frozenset(b"<=>?$")


class Screened:
    """`feed` takes what was printed, in whatever pieces, and gives what may be shown. `old`: was printed before."""

    def __init__(self, *, old: bool = False) -> None:
        self._old = old
        self._held = bytearray()
        # How many bytes of a character of UTF-8 are still to come: they look like controls, and are none.
        self._of_character = 0

    def feed(self, data: bytes) -> bytes:
        return b"".join(self._further(byte) if self._held else self._first(byte) for byte in data)

    def _first(self, byte: int) -> bytes:
        if self._of_character and 0x80 <= byte <= 0xBF:
            self._of_character -= 1
            return bytes([byte])
        self._of_character = 3 if byte >= 0xF0 else 2 if byte >= 0xE0 else 1 if byte >= 0xC3 else 0
        if byte in {_ESC, _C1_IN_UTF8}:
            self._held.append(byte)
            return b""
        return b"" if byte in {0, _ENQ} or 0x80 <= byte <= 0x9F else bytes([byte])

    def _further(self, byte: int) -> bytes:
        """One more byte of something that has begun; what of it may be shown, now that this much is known."""
        held = self._held
        if byte in {_CAN, _SUB} or len(held) >= LONGEST:
            held.clear()
            return b""
        held.append(byte)
        if held[0] == _C1_IN_UTF8:
            return self._second_of_utf8()
        if len(held) == 2:
            return self._after_escape()
        if held[1] in _TEXTS:
            return self._in_text()
        if held[1] == 0x5B:  # [
            return self._in_control()
        return self._in_between()

    def _in_between(self) -> bytes:
        """ESC with something in between, as in choosing a set of characters: ends with any printable byte above it."""
        held, last = self._held, self._held[-1]
        if 0x30 <= last <= 0x7E:
            return self._whole()
        if last == _ESC:  # Something else begins.
            held[:] = [_ESC]
        elif not 0x20 <= last <= 0x2F:
            held.clear()
            return self._first(last)
        return b""

    def _second_of_utf8(self) -> bytes:
        """U+0080 to U+009F are controls, ESC and a letter in one; the rest of what this byte begins are characters."""
        second = self._held[1]
        if 0xA0 <= second <= 0xBF:
            return self._whole()
        if 0x80 <= second <= 0x9F:
            self._held[:] = [_ESC, second - 0x40]
            return self._after_escape()
        self._held.clear()
        return self._first(second)

    def _after_escape(self) -> bytes:
        second = self._held[1]
        if second == _ESC:
            self._held.pop()
            return b""
        if second in _TEXTS or second == 0x5B or 0x20 <= second <= 0x2F:
            return b""
        if second == 0x5A or not 0x30 <= second <= 0x7E:  # Z asks what it is.
            self._held.clear()
            return b""
        return self._whole()

    def _in_text(self) -> bytes:
        held = self._held
        if held[-1] == _BEL or bytes(held[-2:]) in {b"\x1b\\", b"\xc2\x9c"}:
            held.clear()
        elif held[-2] == _ESC:  # Something else begins, which ends the text for a terminal, too.
            del held[:-2]
            return self._after_escape()
        return b""

    def _in_control(self) -> bytes:
        held, final = self._held, self._held[-1]
        if final == _ESC:
            held[:] = [_ESC]
            return b""
        if 0x20 <= final <= 0x3F:
            return b""
        is_private = not _PRIVATE.isdisjoint(held[2:-1])
        asks = final in _QUESTIONS or (is_private and final in _QUESTIONS_IF_PRIVATE)
        if not 0x40 <= final <= 0x7E or final in _NEVER or (self._old and asks):
            held.clear()
            return b""
        return self._whole()

    def _whole(self) -> bytes:
        whole = bytes(self._held)
        self._held.clear()
        return whole
