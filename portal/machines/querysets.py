"""Which machines a person can see, and named sets of states."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.db.models import Q
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.machines.states import KEPT, LIVE, PowerState, Status, Task

if TYPE_CHECKING:
    # For annotations only: models imports this module. (ruff does not see the quoted name in the base class.)
    from portal.machines.models import Machine  # noqa: F401


# Hosts' and portals' clocks may differ by this much; what lies further ahead was written before a clock was set back.
CLOCK_SLACK = dt.timedelta(seconds=5)


class MachineQuerySet(models.QuerySet["Machine"]):
    def with_permission(self, user: User | AnonymousUser, permission: Permission) -> MachineQuerySet:
        if not user.is_active:
            return self.none()
        if user.is_staff:
            return self
        return self.filter(project__in=Project.objects.with_permission(user, permission))

    def visible_to(self, user: User | AnonymousUser) -> MachineQuerySet:
        return self.with_permission(user, Permission.MACHINE_VIEW)

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
