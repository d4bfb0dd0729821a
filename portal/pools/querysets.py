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
    def waiting(self, *, seen_after: dt.datetime | None = None) -> PlaceQuerySet:
        """In line, and still there: heard of lately, or `seen_after`."""
        return self.filter(state=PlaceState.WAITING, seen_at__gt=seen_after or timezone.now() - SEEN_FOR)

    def lost(self, *, seen_until: dt.datetime | None = None) -> PlaceQuerySet:
        """In line, and not heard of any more: for long, or since `seen_until`."""
        return self.filter(state=PlaceState.WAITING, seen_at__lte=seen_until or timezone.now() - SEEN_FOR)
