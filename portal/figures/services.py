"""Writes: a round of readings, and putting by what it adds up to. No actor and no audit row: nobody asked for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from operator import or_
from typing import Final
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from portal.figures import live
from portal.figures.models import Series
from portal.figures.points import COARSER, FINER, Level, Ring, fed, is_due
from portal.hosts.models import Host
from portal.machines.models import Machine

# The live ring holds twice as much, so that one time may fail.
PUT_BY_EVERY_S: Final = 300
FORGOTTEN_AT_ONCE: Final = 500


def record_round(host: Host, told: live.Round) -> None:
    """Keep what the host told; every few minutes put by what has come together. Raises redis.RedisError."""
    now_s = live.record(host.pk, told)
    if _period(host, now_s) != _period(host, live.put_by_at(host.pk)):
        put_by(host, now_s)
        live.set_put_by(host.pk, now_s)


def _period(host: Host, at_s: float) -> int:
    """Each host has a moment of its own, so that not all write at once."""
    return int((at_s + host.pk.int % PUT_BY_EVERY_S) // PUT_BY_EVERY_S)


def put_by(host: Host, now_s: float) -> None:
    """From Redis into the database: whole slots only, so that doing it again, or half of it, does no harm."""
    for some in live.batches_on(host.pk):
        known = _known(host, [subject for subject, _ring in some])
        _put_by_some({subject: ring for subject, ring in some if subject in known}, now_s)
        live.forget(host.pk, [subject for subject, ring in some if now_s - ring.end_s > ring.shape.span_s])


def _known(host: Host, subjects: list[UUID]) -> set[UUID]:
    """The host and its own live machines: of what else runs there, nothing is kept."""
    machines = Machine.objects.live().filter(pk__in=subjects, host=host).values_list("pk", flat=True)
    return {host.pk, *machines}


def _put_by_some(live_rings: Mapping[UUID, Ring], now_s: float) -> None:
    with transaction.atomic():
        stored = _stored(live_rings, now_s)
        changed = [
            Series(subject=subject, level=level.value, end=ring.end, data=ring.data)
            for subject, live_ring in live_rings.items()
            for level, ring in fed(stored.get(subject, {}), live_ring, now_s).items()
        ]
        Series.objects.bulk_create(
            changed, update_conflicts=True, unique_fields=["subject", "level"], update_fields=["end", "data"]
        )


def _stored(subjects: Iterable[UUID], now_s: float) -> dict[UUID, dict[Level, Ring]]:
    """Their rings. The long ones are read only where it is their turn, and are known by their ends alone elsewhere."""
    found: dict[UUID, dict[Level, Ring]] = {}
    rows = Series.objects.filter(subject__in=list(subjects))
    for subject, level, end in rows.values_list("subject", "level", "end"):
        found.setdefault(subject, {})[Level(level)] = Ring(Level(level), end)
    wanted = {
        level: [pk for pk, rings in found.items() if _is_needed(rings, level, now_s)] for level in COARSER.values()
    }
    chosen = [Q(level=level.value, subject__in=subjects) for level, subjects in wanted.items() if subjects]
    for row in Series.objects.filter(reduce(or_, chosen)) if chosen else ():
        found[row.subject][Level(row.level)] = row.ring
    return found


def _is_needed(rings: Mapping[Level, Ring], level: Level, now_s: float) -> bool:
    """Whether `fed` may come to write this ring: never oftener than this says."""
    finer = FINER[level]
    if finer is Level.LIVE:
        return True
    end_s = rings[level].end_s if level in rings else 0
    return _is_needed(rings, finer, now_s) and is_due(end_s, finer, int(now_s))


def forget() -> int:
    """Drop the figures of machines and hosts that are no more; how many rows. Raises redis.RedisError."""
    gone = Series.objects.exclude(subject__in=Machine.objects.live().values("pk"))
    gone = gone.exclude(subject__in=Host.objects.values("pk"))
    count = 0
    while some := list(gone.values_list("pk", flat=True)[:FORGOTTEN_AT_ONCE]):
        Series.objects.filter(pk__in=some).delete()
        count += len(some)
    live.forget_hosts(Host.objects.values_list("pk", flat=True))
    return count
