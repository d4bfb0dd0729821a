"""Who may use which pool. Asked anew each time: a right that was taken away is gone with the next question."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.db.models import Q, QuerySet

from portal.accounts.models import Membership, User
from portal.lib import prepared
from portal.pools.models import Entitlement, Pool


def entitled_pools(user: User | AnonymousUser) -> QuerySet[Pool]:
    """Pools that are the person's to use: named themselves, by a project of theirs, or by a group of theirs.

    Operators run pools, and use those that they are entitled to like everybody else. A token that is limited to one
    project brings its person that project's pools.
    """
    if not isinstance(user, User) or not user.is_active:
        return Pool.objects.none()
    pools = Pool.objects.filter(pk__in=_entitlements(user.pk).values("pool"))
    return pools.filter(project=user.limited_to) if user.limited_to else pools


def is_entitled(user: User, pool: Pool) -> bool:
    """One query."""
    if not user.is_active or user.limited_to not in {None, pool.project_id}:
        return False
    return bool(_ways_in(user.pk, pool.pk))


@prepared.rows
def _ways_in(user: int, pool: UUID) -> QuerySet[Entitlement, int]:
    """One of them, if there is any."""
    return _entitlements(user).filter(pool=pool).order_by().values_list("pk", flat=True)[:1]


def _entitlements(user: int) -> QuerySet[Entitlement]:
    projects = Membership.objects.filter(user=user).values("project")
    groups = User.groups.through.objects.filter(user_id=user).values("group_id")
    return Entitlement.objects.filter(Q(user=user) | Q(project__in=projects) | Q(group__in=groups))


def people_entitled(pool: Pool) -> QuerySet[User]:
    """Everybody who may use it, in the order in which they came to the portal."""
    given = Entitlement.objects.filter(pool=pool)
    by_name = Q(pk__in=given.filter(user__isnull=False).values("user"))
    by_project = Q(memberships__project__in=given.filter(project__isnull=False).values("project"))
    by_group = Q(groups__in=given.filter(group__isnull=False).values("group"))
    return User.objects.filter(by_name | by_project | by_group, is_active=True).distinct().order_by("pk")


def still_entitled(pool: Pool, people: Collection[int]) -> set[int]:
    """Which of them still are."""
    return set(people_entitled(pool).filter(pk__in=people).values_list("pk", flat=True))
