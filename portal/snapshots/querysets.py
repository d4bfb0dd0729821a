"""Which snapshots a person can see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib.auth.models import AnonymousUser
from django.db import models

from portal.accounts.models import User
from portal.machines.models import Machine
from portal.snapshots.states import LIVE

if TYPE_CHECKING:
    # For annotations only: models imports this module. (ruff does not see the quoted name in the base class.)
    from portal.snapshots.models import Snapshot  # noqa: F401


class SnapshotQuerySet(models.QuerySet["Snapshot"]):
    def visible_to(self, user: User | AnonymousUser) -> SnapshotQuerySet:
        """Who sees a machine sees its snapshots; not those of one that lies in the bin."""
        return self.filter(machine__in=Machine.objects.visible_to(user).live())

    def live(self) -> SnapshotQuerySet:
        """Not deleted."""
        return self.filter(status__in=LIVE)
