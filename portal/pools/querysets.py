"""Named sets of sessions and places."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from django.db import models
from django.utils import timezone

from portal.pools.states import LIVE_SESSION, PlaceState

if TYPE_CHECKING:
    # For annotations only: models imports this module. (ruff does not see the quoted name in the base class.)
    from portal.pools.models import Place, Session  # noqa: F401

# A waiting tab says every ten seconds that it is there, and when it is closed that it is not. Browsers let a tab that
# lies behind others speak once a minute only: it must not lose its place by that.
SEEN_FOR: Final = dt.timedelta(seconds=90)


class SessionQuerySet(models.QuerySet["Session"]):
    def live(self) -> SessionQuerySet:
        return self.filter(state__in=LIVE_SESSION)


class PlaceQuerySet(models.QuerySet["Place"]):
    def waiting(self) -> PlaceQuerySet:
        """In line, and still there."""
        return self.filter(state=PlaceState.WAITING, seen_at__gt=timezone.now() - SEEN_FOR)

    def lost(self) -> PlaceQuerySet:
        """In line, and not heard of any more."""
        return self.filter(state=PlaceState.WAITING, seen_at__lte=timezone.now() - SEEN_FOR)
