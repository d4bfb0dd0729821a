"""Which volumes a person can see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib.auth.models import AnonymousUser
from django.db import models

from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.volumes.states import LIVE

if TYPE_CHECKING:
    # For annotations only: models imports this module. (ruff does not see the quoted name in the base class.)
    from portal.volumes.models import Volume  # noqa: F401


class VolumeQuerySet(models.QuerySet["Volume"]):
    def visible_to(self, user: User | AnonymousUser) -> VolumeQuerySet:
        """Who sees a project's machines sees its volumes, but for what is one person's own."""
        if not user.is_active:
            return self.none()
        if user.is_staff:
            return self
        seen = Project.objects.with_permission(user, Permission.MACHINE_VIEW)
        return self.filter(project__in=seen, personal=False)

    def live(self) -> VolumeQuerySet:
        """Not deleted."""
        return self.filter(status__in=LIVE)
