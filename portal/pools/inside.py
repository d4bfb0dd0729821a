"""Who is signed in inside a desktop, as its guest says: signing out there ends the session here."""

from __future__ import annotations

import datetime as dt
from typing import Final
from uuid import UUID

from django.utils import timezone

from portal.hosts.models import Host
from portal.machines.states import PowerState, Task
from portal.pools import broker
from portal.pools.models import Session
from portal.pools.states import EndReason

# A desktop that has just been handed out may still be giving its session the person's name.
SETTLED: Final = dt.timedelta(seconds=10)


def hosts_to_ask() -> list[UUID]:
    """Where somebody is on a desktop."""
    live = Session.objects.live().filter(machine__isnull=False).order_by()
    return list(live.values_list("machine__host", flat=True).distinct())


def to_ask_on(host: Host) -> list[Session]:
    settled = timezone.now() - SETTLED
    there = Session.objects.live().filter(
        machine__host=host,
        machine__power_state=PowerState.RUNNING,
        machine__task=Task.NONE,
        machine__image_version__image__has_agent=True,
        started_at__lt=settled,
    )
    return list(there.select_related("pool", "desktop__pool", "person"))


def record_seen(session: Session, at_screen: str) -> bool:
    """`at_screen` names who is signed in at its screen; empty for nobody. True if the session has ended by that.

    A guest in which nobody was ever seen (an image that asks for a password first, or none that tells) ends nothing.
    """
    before = session.seen_inside
    if at_screen == before:
        return False
    if not before:
        Session.objects.live().filter(pk=session.pk, seen_inside="").update(seen_inside=at_screen)
        return False
    return broker.sign_out(session, EndReason.SIGNED_OUT_INSIDE)
