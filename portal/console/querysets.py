"""Named sets of the console's rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import models
from django.utils import timezone

if TYPE_CHECKING:
    # For annotations only: models imports this module. (ruff does not see the quoted name in the base class.)
    from portal.console.models import ConsoleLink  # noqa: F401


class ConsoleLinkQuerySet(models.QuerySet["ConsoleLink"]):
    def alive(self) -> ConsoleLinkQuerySet:
        """Neither expired nor revoked."""
        return self.filter(revoked_at=None, expires_at__gt=timezone.now())
