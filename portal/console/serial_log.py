"""What a guest printed on its serial port, for people to read: brought from its host while somebody looks.

The log is kept on the host, with the machine's files. Who asks gets the copy that Redis has, at once; if it is old, a
worker of the host is asked for another, once for everybody who looks. A copy is a guest's secret as its screen is, so
it is gone soon after the last one looked.

A log is text and nothing else. What would move a terminal's cursor or colour its letters is left out, every other
control character is shown as a sign for it, so neither a browser nor a terminal that prints a downloaded log obeys it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, cast
from uuid import UUID

from django.utils.translation import gettext as _
from redis.exceptions import RedisError

from portal.lib import bus
from portal.lib.store import store
from portal.machines.models import Machine

logger = logging.getLogger(__name__)

TASK: Final = "console.read_log"
EVERY_S: Final = 3
KEEP_S: Final = 120
# A worker that was busy for so long need not bring what was asked for then: who still looks has asked again.
PATIENCE_S: Final = 15
SHOWN_LINES: Final = 1000
SHOWN_CHARACTERS: Final = 2000

# Of terminals: colours, the cursor's moves, erasing; the choice of a character set and the like.
_CURSOR_AND_COLOUR: Final = re.compile(r"\x1b(?:\[[0-?]{0,64}[ -/]{0,4}[@-~]|[()*+][ -~]|[=>78cDEHM])")
_LINE_END: Final = re.compile(r"\r+\n|\r")
_SIGNS: Final = (
    {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"}
    | {0x7F: 0x2421}
    # Control characters of eight bits, what ends lines elsewhere, and what turns the reading direction.
    | dict.fromkeys([*range(0x80, 0xA0), 0x2028, 0x2029, 0x200E, 0x200F, 0x061C, 0xFEFF], 0xFFFD)
    | dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD)
)


@dataclass(frozen=True, slots=True)
class Look:
    """What there is now. `text` is None until the first copy has come; `problem` says why none could be brought."""

    text: str | None = field(repr=False)
    etag: str = ""
    read_at: dt.datetime | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A line as it is shown: pieces of text, each with whether it is what was searched for. `more`: characters cut."""

    number: int
    pieces: tuple[tuple[str, bool], ...]
    more: int = 0


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The newest SHOWN_LINES of a log's lines, or of those with the words; `matching` of `total` would be there."""

    lines: tuple[Line, ...]
    matching: int
    total: int

    @property
    def is_cut(self) -> bool:
        return self.matching > len(self.lines)


def look_at(machine: Machine) -> Look:
    """The copy, at once; another is asked for if it is time to. Permission is the caller's."""
    copy, asked = _keys(machine.pk)
    try:
        if store().set(asked, b"1", nx=True, ex=EVERY_S):
            bus.ask(TASK, machine.pk, queue=machine.host.queue, expires_s=PATIENCE_S)
        found = cast("list[bytes | None]", store().hmget(copy, ["text", "etag", "at", "problem"]))
    except RedisError:
        logger.warning("console log: Redis does not answer")
        return Look(None, problem=_("The portal is short of a part that it needs. Try again in a while."))
    text, etag, at, problem = found
    return Look(
        zlib.decompress(text).decode() if text is not None else None,
        (etag or b"").decode(),
        dt.datetime.fromtimestamp(int(at), dt.UTC) if at else None,
        (problem or b"").decode(),
    )


def keep(machine_id: UUID, data: bytes) -> None:
    """A worker brings the log as the host has it."""
    copy, _asked = _keys(machine_id)
    client = store()
    etag = hashlib.sha256(data).hexdigest()[:20]
    seconds, _microseconds = client.time()
    known = client.hget(copy, "etag") == etag.encode()
    fresh: dict[Any, Any] = {"at": seconds, "problem": b""}
    if not known:
        fresh |= {"etag": etag, "text": zlib.compress(as_text(data).encode(), 1)}
    with client.pipeline() as pipe:
        pipe.hset(copy, mapping=fresh)
        pipe.expire(copy, KEEP_S)
        pipe.execute()


def keep_problem(machine_id: UUID, problem: str) -> None:
    """The host did not give it; what was there before stays for as long as it would have."""
    copy, _asked = _keys(machine_id)
    with store().pipeline() as pipe:
        pipe.hset(copy, "problem", problem)
        pipe.expire(copy, KEEP_S)
        pipe.execute()


def as_text(data: bytes) -> str:
    """Lines of text in which nothing is obeyed by whatever shows them. Every byte string has one."""
    text = _CURSOR_AND_COLOUR.sub("", data.decode("utf-8", "replace"))
    return _LINE_END.sub("\n", text).translate(_SIGNS)


def excerpt(text: str, words: str = "") -> Excerpt:
    """What of it is shown. `words` is searched for as it stands, in any case."""
    lines = text.removesuffix("\n").split("\n") if text else []
    needle = words.casefold()
    numbers = [number for number, line in enumerate(lines) if not needle or needle in line.casefold()]
    shown = tuple(_line(number + 1, lines[number], words) for number in numbers[-SHOWN_LINES:])
    return Excerpt(shown, len(numbers), len(lines))


def _line(number: int, line: str, words: str) -> Line:
    shown = line[:SHOWN_CHARACTERS]
    return Line(number, tuple(_pieces(shown, words)), len(line) - len(shown))


def _pieces(line: str, words: str) -> Iterator[tuple[str, bool]]:
    if not words:
        yield line, False
        return
    for count, piece in enumerate(re.split(f"({re.escape(words)})", line, flags=re.IGNORECASE)):
        if piece:
            yield piece, count % 2 == 1


def _keys(machine_id: UUID) -> tuple[str, str]:
    return f"casement:console-log:{machine_id}", f"casement:console-log:{machine_id}:asked"
