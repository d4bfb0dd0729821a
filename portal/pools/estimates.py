"""How long somebody may have to wait, as far as what happened lately tells. Nothing is promised that is not known."""

from __future__ import annotations

import datetime as dt
from typing import Final

from django.db.models import Avg, F, Min
from django.utils import timezone

from portal.machines.models import Machine
from portal.pools.models import Desktop, Pool, Session
from portal.pools.states import DesktopState, SessionState

LOOKED_BACK: Final = dt.timedelta(hours=1)
BUILDS_LOOKED_AT: Final = 20
ON_THE_WAY: Final = (DesktopState.BUILDING, DesktopState.RECYCLING)


def seconds_until(pool: Pool, in_line: int) -> float | None:
    """For whoever is so far in line. None where nothing tells: no desktop is on its way, and none was given back."""
    if not pool.hands_out:
        return None
    coming = Desktop.objects.filter(pool=pool, person=None, state__in=ON_THE_WAY)
    number, since = coming.count(), coming.aggregate(since=Min("state_since"))["since"]
    build_s = typical_build_s(pool)
    if number >= in_line and build_s is not None:
        passed = (timezone.now() - since).total_seconds() if since else 0.0
        return max(build_s - passed, 1.0) if in_line == 1 else build_s
    every_s = seconds_between_ends(pool)
    if every_s is None:
        return None
    return (in_line - number) * every_s + (build_s or 0.0)


def typical_build_s(pool: Pool) -> float | None:
    """Of the newest machines of the pool that came to be."""
    newest = Desktop.objects.filter(pool=pool, machine__ready_at__isnull=False).order_by("-machine__ready_at")
    machines = Machine.objects.filter(pk__in=list(newest.values_list("machine_id", flat=True)[:BUILDS_LOOKED_AT]))
    took: dt.timedelta | None = machines.aggregate(took=Avg(F("ready_at") - F("created_at")))["took"]
    return took.total_seconds() if took is not None else None


def seconds_between_ends(pool: Pool) -> float | None:
    """On the average of the last hour."""
    since = max(timezone.now() - LOOKED_BACK, pool.created_at)
    ended = Session.objects.filter(pool=pool, state=SessionState.ENDED, ended_at__gt=since).count()
    return (timezone.now() - since).total_seconds() / ended if ended else None
