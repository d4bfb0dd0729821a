"""The clock's part of pools: which are to be looked after. Each look is a task of its own, so that none waits for
another.
"""

from __future__ import annotations

from uuid import UUID

from portal.pools import filling, keeping_time, services
from portal.pools.models import Pool


def pools_to_tend() -> list[UUID]:
    return list(Pool.objects.values_list("pk", flat=True))


def tend(pool_id: UUID) -> None:
    filling.tend(pool_id)


def keep_times() -> None:
    """Sessions of all pools: who is there, who was idle for too long, whose time is over."""
    keeping_time.keep()


def check_entitlements() -> None:
    """Who left a project or group has lost what came with it."""
    for pool in Pool.objects.select_related("project"):
        services.end_of_unentitled(pool)
