"""From two readings of counters to what was used between them. Pure Python.

Whatever happens to a counter or a clock, no figure is negative or more than there can be: then it is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from portal.figures.points import Point

# Longer ago than this, the mean says nothing about what happened; the time between is a gap.
LONGEST_S: Final = 60.0
# Counters of processors tick in hundredths of a second, and no two are read at the same moment.
CPU_SLACK: Final = 0.15
# No disk or card moves more; what seems to is a counter that began anew somewhere else.
MOST_BYTES_S: Final = 1e12


class Reading(NamedTuple):
    """Counters since the start number `run`, and sizes as they are. None is what is not told."""

    run: int
    processors: int
    cpu_ns: float | None = None
    disk_read: float | None = None
    disk_written: float | None = None
    net_received: float | None = None
    net_sent: float | None = None
    memory_used: float | None = None
    memory_taken: float | None = None


def point_between(before: Reading | None, now: Reading, seconds: float | None) -> Point:
    """The sizes of now, and rates over the `seconds` between. Without a reading before of this run, the sizes alone."""
    if before is None or before.run != now.run or seconds is None or not 0 < seconds <= LONGEST_S:
        return Point(memory_used=now.memory_used, memory_taken=now.memory_taken)
    return Point(
        cpu=_share(before, now, seconds),
        memory_used=now.memory_used,
        memory_taken=now.memory_taken,
        disk_read=_rate(before.disk_read, now.disk_read, seconds),
        disk_written=_rate(before.disk_written, now.disk_written, seconds),
        net_received=_rate(before.net_received, now.net_received, seconds),
        net_sent=_rate(before.net_sent, now.net_sent, seconds),
    )


def _rate(before: float | None, now: float | None, seconds: float) -> float | None:
    if before is None or now is None:
        return None
    rate = (now - before) / seconds
    return rate if 0 <= rate <= MOST_BYTES_S else None


def _share(before: Reading, now: Reading, seconds: float) -> float | None:
    """Of all its processors. A little more than all is all; much more is a mistake of somebody's."""
    if now.processors <= 0:
        return None
    rate = _rate(before.cpu_ns, now.cpu_ns, seconds * 1e9 * now.processors)
    return None if rate is None or rate > 1 + CPU_SLACK else min(rate, 1.0)


def of_host(own: Point, machines: Sequence[Point]) -> Point:
    """A host tells its processors and memory; what its disks and cards do is what its machines do with them."""
    return own._replace(**{name: _sum([getattr(one, name) for one in machines]) for name in _SUMMED})


_SUMMED: Final = ("memory_taken", "disk_read", "disk_written", "net_received", "net_sent")


def _sum(values: Sequence[float | None]) -> float | None:
    """Of those that are known; None if none is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
