"""Figures over time, packed small: points, the rings that keep the newest of them, and how a ring feeds a coarser one.

Pure Python: no model, no I/O. Times are whole slots, `int(seconds since 1970 // step)`; a slot's point is the mean over
it. A number that is not known is None, or NaN where it is packed; a slot of which nothing is known is a gap.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby
from typing import Final, NamedTuple

GIB: Final = 1024**3
MIB: Final = 1024**2


class Point(NamedTuple):
    """`cpu` is a share, 0 to 1, of all its processors; memory is in bytes, the others in bytes a second.

    `memory_used` is what the guest (or the host) says is in use, `memory_taken` what the machine (or all the host's
    machines) has of the host's memory.
    """

    cpu: float | None = None
    memory_used: float | None = None
    memory_taken: float | None = None
    disk_read: float | None = None
    disk_written: float | None = None
    net_received: float | None = None
    net_sent: float | None = None


NAMES: Final = Point._fields

# Numbers of 16 bits: a relative error of 1/2048 at most, from 64 bytes (a second) to 64 TiB. What is smaller is 0 or
# nearly so, on any chart.
_FORMAT: Final = struct.Struct(f"<{len(NAMES)}e")
_UNITS: Final = Point(1.0, GIB, GIB, MIB, MIB, MIB, MIB)
_MOST: Final = 65504.0
POINT_BYTES: Final = _FORMAT.size
GAP: Final = _FORMAT.pack(*[math.nan] * len(NAMES))
_NOTHING: Final = Point()


def pack(point: Point) -> bytes:
    """14 bytes. A negative number is none at all, one that is too large is the largest."""
    return _FORMAT.pack(*map(_scaled, point, _UNITS))


def _scaled(value: float | None, unit: float | None) -> float:
    if value is None or unit is None or not value >= 0:
        return math.nan
    scaled = value / unit
    return min(scaled, _MOST)


def unpack(packed: bytes) -> Point:
    # A NaN is the only number that is not itself.
    return Point(*[value * unit if value == value else None for value, unit in zip(_FORMAT.unpack(packed), _UNITS)])  # noqa: PLR0124, B905 - both are seven, and a million of these are read


class Level(StrEnum):
    """How fine. Each ring but the last feeds the next."""

    LIVE = "live"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


class Shape(NamedTuple):
    step_s: int
    size: int

    @property
    def span_s(self) -> int:
        return self.step_s * self.size

    def slot(self, at_s: float) -> int:
        return int(at_s // self.step_s)


# Ten minutes, an hour, a day, 31 days.
SHAPES: Final[Mapping[Level, Shape]] = {
    Level.LIVE: Shape(10, 60),
    Level.HOUR: Shape(60, 60),
    Level.DAY: Shape(300, 288),
    Level.MONTH: Shape(7200, 372),
}
COARSER: Final[Mapping[Level, Level]] = {Level.LIVE: Level.HOUR, Level.HOUR: Level.DAY, Level.DAY: Level.MONTH}
FINER: Final[Mapping[Level, Level]] = {coarse: fine for fine, coarse in COARSER.items()}


@dataclass(frozen=True, slots=True)
class Ring:
    """The newest points of a level, oldest first; the last is of slot `end`. Never more than the level's size."""

    level: Level
    end: int = -1
    data: bytes = b""

    @property
    def shape(self) -> Shape:
        return SHAPES[self.level]

    @property
    def end_s(self) -> int:
        """When its last slot ends."""
        return (self.end + 1) * self.shape.step_s

    def __len__(self) -> int:
        return len(self.data) // POINT_BYTES

    def items(self, first: int = 0) -> Iterator[tuple[int, bytes]]:
        """Slots from `first` on of which something is known, with their points as they are packed, oldest first."""
        slot = max(self.end + 1 - len(self), first)
        for place in range(len(self.data) - (self.end + 1 - slot) * POINT_BYTES, len(self.data), POINT_BYTES):
            packed = self.data[place : place + POINT_BYTES]
            if packed != GAP:
                yield slot, packed
            slot += 1

    def put(self, slot: int, packed: bytes) -> Ring:
        """With a point at `slot`, and gaps between. What was of that slot or later goes: the clock was set back."""
        return replace(self, end=slot, data=appended(self.data, self.end, slot, packed, self.shape.size))

    def cut_after(self, slot: int) -> Ring:
        """Without anything later than `slot`."""
        back = self.end - slot
        if back <= 0:
            return self
        data = self.data[: -back * POINT_BYTES]
        return replace(self, end=slot, data=data) if data else Ring(self.level)


def appended(data: bytes, end: int, slot: int, packed: bytes, size: int) -> bytes:
    """`Ring.put` without a ring, for those who do it for thousands: the points as they are with one more, at `slot`."""
    back = end + 1 - slot
    if back:
        data = data[: -back * POINT_BYTES] if back > 0 else data + GAP * min(-back, size) if data else data
    return (data + packed)[-size * POINT_BYTES :]


Slots = dict[int, bytes]
Rings = Mapping[Level, Ring]


def mean(packed: bytes) -> bytes:
    """Of one point after another: each figure's mean over those that tell it."""
    values = struct.unpack(f"<{len(packed) // 2}e", packed)
    return _FORMAT.pack(*[_mean_of(values[place :: len(NAMES)]) for place in range(len(NAMES))])


def _mean_of(values: Sequence[float]) -> float:
    """NaN if none of them is a number."""
    total = sum(values)
    if total == total:  # noqa: PLR0124 - a NaN is not itself, and what it is added to becomes one
        return total / len(values)
    known = [value for value in values if value == value]  # noqa: PLR0124 - as above
    return sum(known) / len(known) if known else math.nan


def downsampled(items: Iterable[tuple[int, bytes]], fine: Level) -> Iterator[tuple[int, bytes]]:
    """Points of a level, oldest first, as those of the next coarser one."""
    ratio = SHAPES[COARSER[fine]].step_s // SHAPES[fine].step_s
    for slot, group in groupby(items, lambda item: item[0] // ratio):
        yield slot, mean(b"".join([packed for _slot, packed in group]))


def composed(rings: Rings, level: Level, now_s: float) -> Slots:
    """Everything that is known at that level: what its ring holds, and after it what only finer ones know yet."""
    ring = rings.get(level, Ring(level)).cut_after(SHAPES[level].slot(now_s))
    slots = dict(ring.items())
    if level in FINER:
        newer = downsampled(sorted(composed(rings, FINER[level], now_s).items()), FINER[level])
        slots |= {slot: packed for slot, packed in newer if slot > ring.end}
    return slots


def window(slots: Slots, level: Level, now_s: float, size: int | None = None) -> list[Point]:
    """The last `size` slots, or as many as the level has, oldest first; the last is of now and may not be whole yet."""
    last = SHAPES[level].slot(now_s)
    return [unpack(slots.get(slot, GAP)) for slot in range(last + 1 - (size or SHAPES[level].size), last + 1)]


# --- feeding ------------------------------------------------------------------------------------------------------


def is_due(coarse_end_s: int, fine: Level, fine_end_s: int) -> bool:
    """Half of what the finer ring holds is not in the coarser one yet. The other half is there in case of a delay."""
    return coarse_end_s + SHAPES[fine].span_s // 2 <= fine_end_s


def fed(rings: Rings, live: Ring, now_s: float) -> dict[Level, Ring]:
    """The stored rings that change when `live` is put by, as they are then. The same again changes nothing.

    A coarser ring is fed from a finer one before that lets go of anything; and by whole slots: those that are over, to
    which nothing more can come.
    """
    changed: dict[Level, Ring] = {}
    _feed(dict(rings), changed, live, now_s)
    return changed


def _feed(rings: dict[Level, Ring], changed: dict[Level, Ring], fine: Ring, until_s: float) -> None:
    """Put what `fine` holds, up to `until_s`, into the next level."""
    level = COARSER[fine.level]
    shape = SHAPES[level]
    over = shape.slot(until_s)
    # Points of a time to come are of a clock that was set back since.
    ring = rings.get(level, Ring(level)).cut_after(over - 1)
    first = (ring.end + 1) * shape.step_s // fine.shape.step_s
    new = [(slot, packed) for slot, packed in downsampled(fine.items(first), fine.level) if slot < over]
    if not new:
        return
    first_s, end_s = new[0][0] * shape.step_s, (new[-1][0] + 1) * shape.step_s
    if level in COARSER and is_due(_end_of(rings, COARSER[level]), level, end_s):
        _feed(rings, changed, ring, first_s)
    for slot, packed in new:
        ring = ring.put(slot, packed)
    rings[level] = changed[level] = ring


def _end_of(rings: Rings, level: Level) -> int:
    return rings[level].end_s if level in rings else 0
