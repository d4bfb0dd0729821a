"""Reads: the figures of a machine or host over a span, those of now for many machines, and who is busiest.

Permission is the caller's, who got the machine or host by `machine_for` or `host_for`. A Redis that is away takes the
newest minutes away, and nothing else.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from redis.exceptions import RedisError

from portal.accounts.models import User
from portal.figures import live
from portal.figures.models import Series
from portal.figures.points import FINER, SHAPES, Level, Point, Ring, composed, window
from portal.hosts.models import Host
from portal.machines.models import Machine

logger = logging.getLogger(__name__)

# A point of now that is older than this is no point of now any more.
FRESH_S = 45
SPARK_POINTS = 30


@dataclass(frozen=True, slots=True)
class Figures:
    """`points` are means over `step_s` seconds each, oldest first; the first begins at `start_s` (seconds since 1970).

    The last one is of now and may not be whole. A point of which nothing is known is a gap. `now` is the newest sample,
    if there is one of the last minute.
    """

    level: Level
    start_s: int
    step_s: int
    points: list[Point]
    now: Point

    @property
    def is_empty(self) -> bool:
        return all(point == Point() for point in self.points)

    def column(self, name: str) -> list[float | None]:
        return [getattr(point, name) for point in self.points]


def machine_figures(machine: Machine, level: Level) -> Figures:
    return _figures(machine.host_id, machine.pk, level)


def host_figures(host: Host, level: Level) -> Figures:
    """Disk and network of a host are those of its machines."""
    return _figures(host.pk, host.pk, level)


def _figures(host_id: UUID, subject: UUID, level: Level) -> Figures:
    now_s, (ring,) = _live_rings([(host_id, subject)])
    rings = {Level.LIVE: ring}
    needed = [one.value for one in _with_finer(level) if one is not Level.LIVE]
    if needed:
        rings |= {Level(row.level): row.ring for row in Series.objects.filter(subject=subject, level__in=needed)}
    shape = SHAPES[level]
    points = window(composed(rings, level, now_s), level, now_s)
    start = (shape.slot(now_s) + 1 - shape.size) * shape.step_s
    return Figures(level, start, shape.step_s, points, _now(ring, now_s))


def _now(live_ring: Ring, now_s: float) -> Point:
    last = window(dict(live_ring.items()), Level.LIVE, now_s, 1 + FRESH_S // live.STEP_S)
    return next((point for point in reversed(last) if point != Point()), Point())


def _with_finer(level: Level) -> list[Level]:
    return [level, *(_with_finer(FINER[level]) if level in FINER else [])]


def _live_rings(subjects: list[tuple[UUID, UUID]]) -> tuple[float, list[Ring]]:
    try:
        return live.rings_of(subjects)
    except RedisError:
        logger.warning("figures: Redis does not answer")
        return time.time(), [Ring(Level.LIVE)] * len(subjects)


@dataclass(frozen=True, slots=True)
class Latest:
    """A machine now, and its processors' share over the last minutes, oldest first, for a small picture."""

    now: Point
    spark: list[float | None]


def latest_of(machines: Iterable[Machine]) -> dict[UUID, Latest]:
    """Of those that told lately. One question to Redis, however many they are."""
    asked = list(machines)
    now_s, rings = _live_rings([(machine.host_id, machine.pk) for machine in asked])
    found = {}
    for machine, ring in zip(asked, rings, strict=True):
        now = _now(ring, now_s)
        if now != Point():
            points = window(dict(ring.items()), Level.LIVE, now_s, SPARK_POINTS)
            found[machine.pk] = Latest(now, [point.cpu for point in points])
    return found


@dataclass(frozen=True, slots=True)
class BusyMachine:
    """`cores`: whole processors kept busy; `share`: 0 to 1, of its own."""

    machine: Machine
    cores: float
    share: float


def busiest_machines(limit: int = 5, user: User | AnonymousUser | None = None) -> list[BusyMachine]:
    """Who computes most now, on all hosts; for a `user`, among what that one sees. Nobody without Redis.

    Of each host the few busiest are known: whoever sees a part of them only, sees those.
    """
    try:
        found = live.busiest(limit * 4)
    except RedisError:
        logger.warning("figures: Redis does not answer")
        return []
    machines = Machine.objects.live() if user is None else Machine.objects.live().visible_to(user)
    rows = machines.select_related("project", "host").in_bulk([busy.machine_id for busy in found])
    known = [BusyMachine(rows[one.machine_id], one.cores, one.share) for one in found if one.machine_id in rows]
    return known[:limit]
