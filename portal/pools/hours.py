"""How many desktops a pool is to have free now: by weekday and hour, in the pool's own time zone."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

from portal.pools.models import Pool, SpareHours

DAY_MINUTES = 24 * 60


def spare_at(pool: Pool, moment: dt.datetime) -> int:
    """What the hours say, else the pool's own number."""
    local = moment.astimezone(ZoneInfo(pool.time_zone))
    minute = local.hour * 60 + local.minute
    hours = SpareHours.objects.filter(
        pool=pool, weekday=local.weekday(), from_minute__lte=minute, to_minute__gt=minute
    ).order_by("-from_minute")
    planned = hours.values_list("spare", flat=True).first()
    return pool.spare if planned is None else planned
