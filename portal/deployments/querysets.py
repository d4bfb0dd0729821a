"""Which deployments, and which seats of them, a person can see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.db.models import Q
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission

if TYPE_CHECKING:
    # For annotations only: models imports this module. (ruff does not see the quoted name in the base class.)
    from portal.deployments.models import Deployment, Seat  # noqa: F401


class DeploymentQuerySet(models.QuerySet["Deployment"]):
    def visible_to(self, user: User | AnonymousUser) -> DeploymentQuerySet:
        """Who may watch the screens of the project's machines; whose seat it is sees that alone."""
        if not user.is_active:
            return self.none()
        if user.is_staff:
            return self
        return self.filter(project__in=Project.objects.with_permission(user, Permission.MACHINE_CONSOLE_VIEW))


class SeatQuerySet(models.QuerySet["Seat"]):
    def of(self, user: User | AnonymousUser) -> SeatQuerySet:
        """The person's own; a guest's is the one that their link is for, as long as it is."""
        if not user.is_active:
            return self.none()
        limited_to = getattr(user, "limited_to", None)
        seats = self.filter(deployment__project=limited_to) if limited_to else self
        by_link = Q(guest=user.pk, token_hash__isnull=False, link_expires_at__gt=timezone.now())
        return seats.filter(Q(person=user.pk) | by_link)

    def with_open_link(self) -> SeatQuerySet:
        """Neither expired nor revoked."""
        return self.filter(token_hash__isnull=False, link_expires_at__gt=timezone.now(), guest__is_active=True)
