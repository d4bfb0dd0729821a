"""Reads about pools. Fetching and authorising are one call."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import quantiles
from typing import Final
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.db.models import Count, Q, QuerySet, Sum
from django.utils import timezone
from redis.exceptions import RedisError

from portal.accounts.models import User
from portal.errors import ForbiddenError, NotFoundError
from portal.figures.memory import memory_of
from portal.machines.models import Machine
from portal.pools.entitlement import entitled_pools
from portal.pools.hours import spare_at
from portal.pools.models import Desktop, Entitlement, Place, Pool, Session
from portal.pools.states import LIVE_DESKTOP, LIVE_SESSION, DesktopState

_RELATED = ("project", "image_version__image", "previous_version__image", "next_version__image", "flavour")
TIMES_LOOKED_AT: Final = 500
TIMES_OF: Final = dt.timedelta(hours=24)
FAILURES_SHOWN: Final = 20
MIB: Final = 1 << 20


# --- for everybody ------------------------------------------------------------------------------------------------


def pools_for(user: User | AnonymousUser) -> QuerySet[Pool]:
    """Pools that are offered and that the person may use."""
    return entitled_pools(user).filter(enabled=True).select_related("image_version__image").order_by("title")


def pool_for(user: User | AnonymousUser, name: str) -> Pool:
    """One of them, by its short name, or one that the person has a session of. NotFoundError if neither."""
    if not isinstance(user, User):
        raise NotFoundError
    on_it = Session.objects.live().filter(person=user).values("pool")
    theirs = Q(pk__in=pools_for(user).order_by().values("pk")) | Q(pk__in=on_it)
    pool = Pool.objects.filter(theirs, name=name).select_related(*_RELATED).first()
    if pool is None:
        raise NotFoundError
    return pool


def sessions_of(user: User | AnonymousUser) -> QuerySet[Session]:
    """The person's running sessions, newest first."""
    if not isinstance(user, User):
        return Session.objects.none()
    sessions = Session.objects.live().filter(person=user)
    if user.limited_to:
        sessions = sessions.filter(pool__project=user.limited_to)
    return sessions.select_related("pool", "desktop", "machine", "person").order_by("-started_at")


def session_for(user: User | AnonymousUser, pk: UUID | str) -> Session:
    """One's own session, or for operators anybody's, ended or not. NotFoundError for others."""
    sessions = Session.objects.select_related("pool__project", "desktop__pool", "machine", "person").filter(pk=pk)
    if not (user.is_active and user.is_staff):
        sessions = sessions.filter(person_id=user.pk)
    session = sessions.first() if user.is_active else None
    if session is None or _is_beyond(user, session.pool):
        raise NotFoundError
    return session


def place_for(user: User | AnonymousUser, pk: UUID | str) -> Place:
    """One's own place in a line. NotFoundError for others."""
    place = Place.objects.select_related("pool", "person").filter(pk=pk, person_id=user.pk).first()
    if place is None or _is_beyond(user, place.pool):
        raise NotFoundError
    return place


def places_of(user: User | AnonymousUser) -> QuerySet[Place]:
    """Where the person waits."""
    return Place.objects.waiting().filter(person_id=user.pk).select_related("pool")


def _is_beyond(user: User | AnonymousUser, pool: Pool) -> bool:
    """A token that is limited to one project reaches no other's pool."""
    return getattr(user, "limited_to", None) not in {None, pool.project_id}


# --- for operators ------------------------------------------------------------------------------------------------


def managed_pools(user: User | AnonymousUser) -> QuerySet[Pool]:
    """All pools, for operators. ForbiddenError for others."""
    if not (user.is_active and user.is_staff):
        raise ForbiddenError
    return Pool.objects.select_related(*_RELATED).order_by("title")


def managed_pool(user: User | AnonymousUser, pk: UUID | str) -> Pool:
    pool = managed_pools(user).filter(pk=pk).first()
    if pool is None:
        raise NotFoundError
    return pool


def desktop_for(user: User | AnonymousUser, pk: UUID | str) -> Desktop:
    """For operators."""
    managed_pools(user)
    desktop = Desktop.objects.select_related("pool__project", "machine", "person").filter(pk=pk).first()
    if desktop is None:
        raise NotFoundError
    return desktop


def entitlements_of(pool: Pool) -> QuerySet[Entitlement]:
    return Entitlement.objects.filter(pool=pool).select_related("user", "project", "group", "pool")


def entitlement_for(user: User | AnonymousUser, pk: int) -> Entitlement:
    """For operators."""
    managed_pools(user)
    found = Entitlement.objects.select_related("pool", "user", "project", "group").filter(pk=pk).first()
    if found is None:
        raise NotFoundError
    return found


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A line of the list of pools."""

    pool: Pool
    desktops: Mapping[str, int]
    sessions: int
    waiting: int

    @property
    def total(self) -> int:
        return sum(self.desktops.values())


def pool_rows(user: User | AnonymousUser) -> list[PoolRow]:
    """The number of queries does not depend on how many there are."""
    pools = list(managed_pools(user))
    desktops: dict[UUID, dict[str, int]] = {pool.pk: dict.fromkeys(map(str, LIVE_DESKTOP), 0) for pool in pools}
    live = Desktop.objects.filter(state__in=LIVE_DESKTOP).order_by()
    for pool_id, state, number in live.values_list("pool_id", "state").annotate(number=Count("*")):
        if pool_id in desktops:
            desktops[pool_id][state] = number
    sessions = _counted(Session.objects.live())
    waiting = _counted(Place.objects.waiting())
    return [PoolRow(pool, desktops[pool.pk], sessions.get(pool.pk, 0), waiting.get(pool.pk, 0)) for pool in pools]


def _counted(rows: QuerySet[Session] | QuerySet[Place]) -> dict[UUID, int]:
    return dict(rows.order_by().values_list("pool_id").annotate(number=Count("*")))


@dataclass(frozen=True, slots=True)
class Failure:
    desktop: str
    at: dt.datetime
    error: str
    retry_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class PoolPage:
    """The figures of one pool at this moment. Times to the screen are of the last day's sessions, in seconds.

    `spare_planned` is what the hours say for now, `spare` the free ones that are there; `old` desktops have another
    version than the pool's. `memory_mib` is what its machines may use. Of what they do use, as far as it was told
    in the last minute, `memory_own_mib` is each one's own, all of them together, and `memory_shared_mib` what those
    that were forked from the same parent have in common: the most that one of them has mapped of it. None if
    nothing was told.
    """

    pool: Pool
    desktops: dict[str, int]
    spare: int
    spare_planned: int
    old: int
    sessions: int
    disconnected: int
    waiting: int
    screen_p50_s: float | None
    screen_p95_s: float | None
    failures: list[Failure]
    memory_mib: int
    machines: int
    memory_own_mib: int | None
    memory_shared_mib: int | None
    memory_told: int

    @property
    def missing(self) -> int:
        """Free ones that the hours ask for and that are not there yet."""
        return max(self.spare_planned - self.spare, 0)

    @property
    def memory_each_mib(self) -> int | None:
        return None if self.memory_own_mib is None else round(self.memory_own_mib / self.memory_told)

    @property
    def total(self) -> int:
        return sum(self.desktops.values())


def pool_page(pool: Pool) -> PoolPage:
    """The same few queries for fifty desktops and for twenty thousand."""
    live = Desktop.objects.filter(pool=pool, state__in=LIVE_DESKTOP).order_by()
    desktops = dict.fromkeys(map(str, LIVE_DESKTOP), 0)
    desktops |= dict(live.values_list("state").annotate(number=Count("*")))
    sessions = dict(
        Session.objects.live().filter(pool=pool).order_by().values_list("state").annotate(number=Count("*"))
    )
    machines = Machine.objects.filter(desktop__pool=pool, holds_quota=True)
    held = machines.aggregate(number=Count("*"), memory=Sum("memory_mib"))
    times = times_to_screen(pool)
    return PoolPage(
        pool,
        desktops,
        live.filter(state=DesktopState.SPARE, person=None).count(),
        spare_at(pool, timezone.now()),
        live.exclude(image_version=pool.image_version_id).count(),
        sum(sessions.values()),
        sessions.get("disconnected", 0),
        Place.objects.waiting().filter(pool=pool).count(),
        _percentile(times, 50),
        _percentile(times, 95),
        failures_of(pool),
        held["memory"] or 0,
        held["number"],
        *_memory(machines),
    )


def _memory(machines: QuerySet[Machine]) -> tuple[int | None, int | None, int]:
    """Their own and the shared memory in MiB, and of how many of them it is told."""
    places = list(machines.order_by().values_list("pk", "host_id", "parent_id"))
    try:
        told = memory_of((host, pk) for pk, host, _parent in places)
    except RedisError:
        return None, None, 0
    if not told:
        return None, None, 0
    shared: dict[UUID, int] = {}
    for pk, _host, parent in places:
        if pk in told and parent is not None:
            shared[parent] = max(shared.get(parent, 0), told[pk].shared)
    own = sum(memory.own for memory in told.values())
    return round(own / MIB), round(sum(shared.values()) / MIB), len(told)


def times_to_screen(pool: Pool) -> list[float]:
    """Seconds from asking to the first picture, of the newest sessions."""
    since = timezone.now() - TIMES_OF
    seen = Session.objects.filter(pool=pool, started_at__gt=since, on_screen_at__isnull=False).order_by("-started_at")
    pairs = seen.values_list("asked_at", "on_screen_at")[:TIMES_LOOKED_AT]
    return [(shown - asked).total_seconds() for asked, shown in pairs if shown is not None]


def _percentile(values: list[float], percent: int) -> float | None:
    if len(values) < 2:
        return values[0] if values else None
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def failures_of(pool: Pool) -> list[Failure]:
    """What failed and has not been mended since, newest first."""
    failed = Desktop.objects.filter(pool=pool, state__in=LIVE_DESKTOP).exclude(error="").select_related("pool")
    return [
        Failure(str(desktop), desktop.state_since, desktop.error, desktop.retry_at)
        for desktop in failed.order_by("-state_since")[:FAILURES_SHOWN]
    ]


def desktops_of(pool: Pool, *, state: str = "") -> QuerySet[Desktop]:
    """For the operators' table, by number."""
    desktops = Desktop.objects.filter(pool=pool, state__in=LIVE_DESKTOP)
    if state in LIVE_DESKTOP:
        desktops = desktops.filter(state=state)
    return desktops.select_related("pool", "machine", "person", "image_version__image").order_by("number")


def sessions_in(pool: Pool) -> QuerySet[Session]:
    """Live ones, newest first."""
    sessions = Session.objects.filter(pool=pool, state__in=LIVE_SESSION)
    return sessions.select_related("pool", "desktop__pool", "machine", "person").order_by("-started_at")


def line_of(pool: Pool) -> QuerySet[Place]:
    """Who waits, in order."""
    return Place.objects.waiting().filter(pool=pool).select_related("person").order_by("asked_at", "pk")
