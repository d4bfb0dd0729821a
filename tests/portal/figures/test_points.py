"""Points and rings: whatever comes in whichever order, they stay small, ordered and true. Most of it by hypothesis."""

from __future__ import annotations

import math
from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from portal.figures.points import (
    COARSER,
    GAP,
    POINT_BYTES,
    SHAPES,
    Level,
    Point,
    Ring,
    composed,
    downsampled,
    fed,
    mean,
    pack,
    unpack,
    window,
)

NOW = 1_900_000_000 // 7200 * 7200
LIVE = SHAPES[Level.LIVE]
# In slots of 10 s: a sample that is missing, and absences of minutes, half an hour, an hour, a day and a month.
GAPS = [2, 7, 29, 59, 61, 179, 361, 8641, 9000, 267_840]
numbers = st.none() | st.floats(0, 6e10)
shares = st.none() | st.floats(0, 1)
points = st.builds(Point, shares, numbers, numbers, numbers, numbers, numbers, numbers)


def of(cpu: float) -> Point:
    return Point(cpu=cpu)


@given(points)
def test_a_point_comes_back_nearly_as_it_was(point: Point) -> None:
    again = unpack(pack(point))
    assert len(pack(point)) == POINT_BYTES == 14
    for before, after in zip(point, again, strict=True):
        assert (before is None) == (after is None)
        if before is not None and after is not None:
            assert math.isclose(before, after, rel_tol=1 / 2048, abs_tol=64)
    assert unpack(pack(again)) == again


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_no_number_is_too_strange_to_pack(value: float) -> None:
    again = unpack(pack(Point(cpu=value, disk_read=value)))
    if not value >= 0:
        assert (again.cpu, again.disk_read) == (None, None)
    else:
        assert again.disk_read is not None and 0 <= again.disk_read <= 65504 * 1024**2


@given(st.lists(st.tuples(st.integers(0, 400), st.floats(0, 1)), max_size=200))
def test_a_ring_is_bounded_and_knows_only_what_came_last(moves: list[tuple[int, float]]) -> None:
    """Slots jump forward and back as the clock likes; a slot that is over again is known by its last time."""
    ring, expected = Ring(Level.LIVE), dict[int, bytes]()
    for slot, cpu in moves:
        ring = ring.put(slot, pack(of(cpu)))
        expected = {old: point for old, point in expected.items() if slot - LIVE.size < old < slot}
        expected[slot] = pack(of(cpu))
        assert len(ring) <= LIVE.size
        assert dict(ring.items()) == expected


@given(st.lists(st.tuples(st.integers(0, 59), points), max_size=60))
def test_a_mean_lies_between_what_it_is_of(values: list[tuple[int, Point]]) -> None:
    ring, groups = Ring(Level.LIVE), defaultdict[int, list[Point]](list)
    for slot, point in sorted(dict(values).items()):
        packed = pack(point)
        ring = ring.put(slot, packed)
        if packed != GAP:
            groups[slot // 6].append(unpack(packed))
    found = {slot: unpack(packed) for slot, packed in downsampled(ring.items(), Level.LIVE)}
    assert list(found) == sorted(groups)
    for slot, point in found.items():
        for name, value in zip(Point._fields, point, strict=True):
            known = [getattr(one, name) for one in groups[slot] if getattr(one, name) is not None]
            assert (value is None) == (not known)
            if value is not None:
                wanted = sum(known) / len(known)
                assert min(known) <= value <= max(known)
                assert math.isclose(value, wanted, rel_tol=1 / 2000, abs_tol=64)


def test_a_mean_is_of_those_that_tell_it() -> None:
    told = [Point(cpu=0.25, net_sent=0.0), Point(cpu=0.5, disk_read=2.0**20), Point()]
    assert unpack(mean(b"".join(map(pack, told)))) == Point(cpu=0.375, disk_read=2.0**20, net_sent=0.0)


def story(gaps: list[int], put_by_every: int) -> tuple[dict[Level, Ring], int]:
    """Samples at NOW and after each gap (in slots), put by after so many of them: all rings, and the last slot."""
    stored, live, slot = dict[Level, Ring](), Ring(Level.LIVE), NOW // LIVE.step_s
    for place, gap in enumerate(gaps):
        slot += gap
        live = live.put(slot, pack(of(place % 7 / 8)))
        if place % put_by_every == 0:
            changed = fed(stored, live, slot * LIVE.step_s)
            assert fed({**stored, **changed}, live, slot * LIVE.step_s) == {}, "putting by twice changed something"
            stored |= changed
            for level, ring in stored.items():
                assert len(ring) <= SHAPES[level].size
                assert ring.end_s <= slot * LIVE.step_s
    return {**stored, Level.LIVE: live}, slot


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from([1] * 8 + GAPS), min_size=1, max_size=400), st.integers(1, 30))
def test_a_slot_of_each_level_is_known_where_a_sample_was_and_nowhere_else(gaps: list[int], put_by_every: int) -> None:
    """However often it is put by. What the live ring lets go of before that is lost, and nothing else."""
    rings, last = story(gaps, put_by_every)
    now_s = last * LIVE.step_s
    sampled, lost = _sampled_and_lost(gaps, put_by_every)
    for level in (Level.HOUR, Level.DAY, Level.MONTH):
        shape = SHAPES[level]
        first = shape.slot(now_s) + 1 - shape.size
        found = window(composed(rings, level, now_s), level, now_s)
        known = {place + first for place, point in enumerate(found) if point.cpu is not None}
        wanted = {shape.slot(moment) for moment in sampled if shape.slot(moment) >= first}
        assert known <= wanted
        assert wanted - known <= {shape.slot(moment) for moment in lost}


def _sampled_and_lost(gaps: list[int], put_by_every: int) -> tuple[list[int], list[int]]:
    """The moments of all samples, and of those that were pushed out of the live ring before they were put by."""
    sampled, lost, waiting, slot = list[int](), list[int](), list[int](), NOW // LIVE.step_s
    for place, gap in enumerate(gaps):
        slot += gap
        sampled.append(slot * LIVE.step_s)
        lost += [moment for moment in waiting if moment <= (slot - LIVE.size) * LIVE.step_s]
        waiting = [moment for moment in waiting if moment not in lost] + sampled[-1:]
        if place % put_by_every == 0:
            minute = slot * LIVE.step_s // 60 * 60
            waiting = [moment for moment in waiting if moment >= minute]
    return sampled, lost


def test_a_month_of_samples_is_small_and_right_at_every_level() -> None:
    """A day and a half is enough to fill all but the last ring: CPU is 0.25 in even hours and 0.75 in odd ones."""
    stored, live = dict[Level, Ring](), Ring(Level.LIVE)
    first = NOW // 10
    for slot in range(first, first + 36 * 360):
        live = live.put(slot, pack(of(0.25 if slot // 360 % 2 == 0 else 0.75)))
        if slot % 30 == 0:
            stored |= fed(stored, live, slot * 10)
    now_s = (first + 36 * 360 - 1) * 10
    rings = {**stored, Level.LIVE: live}
    hour, day, month = (
        window(composed(rings, level, now_s), level, now_s) for level in (Level.HOUR, Level.DAY, Level.MONTH)
    )
    assert {point.cpu for point in hour} == {0.75}
    assert sum(point.cpu == 0.25 for point in day) == sum(point.cpu == 0.75 for point in day) == 144
    assert [point.cpu for point in month[-18:]] == [0.5] * 18
    assert {point.cpu for point in month[:-18]} == {None}
    assert sum(len(ring.data) for ring in stored.values()) <= 14 * (60 + 288 + 372)


def test_the_clock_set_back_shows_nothing_of_a_time_to_come_and_goes_on() -> None:
    stored, live, slot = dict[Level, Ring](), Ring(Level.LIVE), NOW // 10
    year = 365 * 86400 // 10
    for step in [*range(200), *range(year, year + 200), *range(200, 400)]:
        live = live.put(slot + step, pack(of(0.5)))
        if step % 30 == 0:
            stored |= fed(stored, live, (slot + step) * 10)
        now_s = (slot + step) * 10
        for level in COARSER.values():
            assert max(composed({**stored, Level.LIVE: live}, level, now_s)) <= SHAPES[level].slot(now_s)
    hour = window(composed({**stored, Level.LIVE: live}, Level.HOUR, now_s), Level.HOUR, now_s)
    assert sum(point.cpu is not None for point in hour) >= 33


def test_a_gap_is_a_gap() -> None:
    ring = Ring(Level.LIVE).put(100, pack(of(0.5))).put(104, pack(of(0.5)))
    assert ring.data[POINT_BYTES:-POINT_BYTES] == GAP * 3
    assert [point.cpu for point in window(dict(ring.items()), Level.LIVE, 1049.0)[-6:]] == [
        None,
        0.5,
        None,
        None,
        None,
        0.5,
    ]
