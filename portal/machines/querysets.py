"""Which machines a person can see, and named sets of states."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from django.contrib.auth.models import AnonymousUser
from django.db import models

from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.machines.states import LIVE, Status, Task

if TYPE_CHECKING:
    # For annotations only: models imports this module. (ruff does not see the quoted name in the base class.)
    from portal.machines.models import Machine  # noqa: F401


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
        """Not deleted."""
        return self.filter(status__in=LIVE)

    def in_state(self, *states: Status) -> MachineQuerySet:
        return self.filter(status__in=states)

    def stuck_since(self, moment: dt.datetime) -> MachineQuerySet:
        """Busy with a task since before `moment`."""
        return self.live().exclude(task=Task.NONE).filter(task_since__lt=moment)
