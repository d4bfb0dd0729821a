"""Which ISOs a person can see, and which of them can be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.db.models import Q

from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission

if TYPE_CHECKING:
    # For annotations only: models imports this module. (ruff does not see the quoted name in the base class.)
    from portal.isos.models import Iso  # noqa: F401


class IsoQuerySet(models.QuerySet["Iso"]):
    def visible_to(self, user: User | AnonymousUser) -> IsoQuerySet:
        """ISOs for everyone, and those of the person's projects."""
        if not user.is_active:
            return self.none()
        projects = Project.objects.with_permission(user, Permission.IMAGE_VIEW)
        return self.filter(Q(project=None) | Q(project__in=projects))

    def usable_in(self, project: Project) -> IsoQuerySet:
        """Ready, and everyone's or the project's."""
        return self.filter(Q(project=None) | Q(project=project), status="ready")
