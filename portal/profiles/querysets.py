"""Whose files a person can see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib.auth.models import AnonymousUser
from django.db import models

from portal.accounts.models import User
from portal.profiles.states import HELD

if TYPE_CHECKING:
    # For annotations only: models imports this module. (ruff does not see the quoted name in the base class.)
    from portal.profiles.models import Profile  # noqa: F401


class ProfileQuerySet(models.QuerySet["Profile"]):
    def visible_to(self, user: User | AnonymousUser) -> ProfileQuerySet:
        """Their own alone, whatever their role in the project; to operators all."""
        if not user.is_active or user.pk is None:
            return self.none()
        return self if user.is_staff else self.filter(person=user.pk)

    def held(self) -> ProfileQuerySet:
        """Those that a machine has, or is about to, or has not been seen without."""
        return self.filter(state__in=HELD)
