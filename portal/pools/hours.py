"""How many desktops a pool is to have free now: by weekday and hour, in the pool's own time zone."""

from __future__ import annotations

import datetime as dt
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db.models import QuerySet

from portal.lib import prepared
from portal.pools.models import Pool, SpareHours

DAY_MINUTES = 24 * 60


def spare_at(pool: Pool, moment: dt.datetime) -> int:
    """What the hours say, else the pool's own number."""
    local = moment.astimezone(ZoneInfo(pool.time_zone))
    minute = local.hour * 60 + local.minute
    planned = _planned(pool.pk, local.weekday(), minute)
    return planned[0] if planned else pool.spare


@prepared.rows
def _planned(pool: UUID, weekday: int, minute: int) -> QuerySet[SpareHours, int]:
    hours = SpareHours.objects.filter(pool=pool, weekday=weekday, from_minute__lte=minute, to_minute__gt=minute)
    return hours.order_by("-from_minute").values_list("spare", flat=True)[:1]
