"""Named sets of the console's rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import models
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from portal.accounts.models import Membership
from portal.accounts.permissions import Permission, roles_with

if TYPE_CHECKING:
    # For annotations only: models imports this module. (ruff does not see the quoted name in the base class.)
    from portal.console.models import ConsoleLink  # noqa: F401


class ConsoleLinkQuerySet(models.QuerySet["ConsoleLink"]):
    def alive(self) -> ConsoleLinkQuerySet:
        """Neither expired nor revoked, and their makers may still give what they gave."""
        makers = Membership.objects.filter(
            user=OuterRef("created_by"),
            project=OuterRef("machine__project"),
            role__in=roles_with(Permission.MACHINE_CONSOLE),
        )
        may_still = Q(Exists(makers)) | Q(created_by__is_staff=True)
        unspent = self.filter(revoked_at=None, expires_at__gt=timezone.now())
        return unspent.filter(may_still, created_by__is_active=True)
