"""Which machines a person can see, and named sets of states."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from django.apps import apps
from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.db.models import Q
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.machines.states import KEPT, LIVE, PowerState, Status, Task

if TYPE_CHECKING:
    # For annotations only: models imports this module. (ruff does not see the quoted name in the base class.)
    from portal.machines.models import Grant, Machine  # noqa: F401


# Hosts' and portals' clocks may differ by this much; what lies further ahead was written before a clock was set back.
CLOCK_SLACK = dt.timedelta(seconds=5)


# What a Grant lets a person do, beside what their role does.
GRANTED = frozenset({Permission.MACHINE_VIEW, Permission.MACHINE_CONSOLE_VIEW, Permission.MACHINE_CONSOLE})


class GrantQuerySet(models.QuerySet["Grant"]):
    def alive(self, now: dt.datetime | None = None) -> GrantQuerySet:
        return self.filter(Q(until=None) | Q(until__gt=now or timezone.now()))


class MachineQuerySet(models.QuerySet["Machine"]):
    def with_permission(self, user: User | AnonymousUser, permission: Permission) -> MachineQuerySet:
        """By role in the machine's project alone."""
        if not user.is_active:
            return self.none()
        if user.is_staff:
            return self
        return self.filter(project__in=Project.objects.with_permission(user, permission))

    def visible_to(self, user: User | AnonymousUser) -> MachineQuerySet:
        """By role, or by a grant of the one machine."""
        if not user.is_active or user.is_staff:
            return self.with_permission(user, Permission.MACHINE_VIEW)
        by_role = Q(project__in=Project.objects.with_permission(user, Permission.MACHINE_VIEW))
        grants: GrantQuerySet = apps.get_model("machines", "Grant").objects.alive().filter(user_id=user.pk)
        limited_to = getattr(user, "limited_to", None)
        by_grant = Q(pk__in=grants.values("machine")) & (Q(project=limited_to) if limited_to else Q())
        return self.filter(by_role | by_grant)

    def live(self) -> MachineQuerySet:
        """Neither deleted nor in the bin."""
        return self.filter(status__in=LIVE)

    def known_before(self, moment: dt.datetime) -> MachineQuerySet:
        """Whose power state is older news than `moment`.

        A time to come is no news, for the clock was set back; nor is that a host was silent: what it had said before,
        and is heard only now, is more than nothing.
        """
        older = Q(power_state_at__lt=moment) | Q(power_state_at=None) | Q(power_state=PowerState.UNKNOWN)
        return self.filter(older | Q(power_state_at__gt=timezone.now() + CLOCK_SLACK))

    def in_state(self, *states: Status) -> MachineQuerySet:
        return self.filter(status__in=states)

    def stuck_since(self, moment: dt.datetime) -> MachineQuerySet:
        """Busy with a task since before `moment`, or, the clock having been set back, since a time to come."""
        long_ago = Q(task_since__lt=moment) | Q(task_since__gt=timezone.now() + CLOCK_SLACK)
        return self.filter(status__in=KEPT).exclude(task=Task.NONE).filter(long_ago)
