"""A line over the picture of a screen, for whoever is at it: “We go on in five minutes.”

It stands with the people of the screen, so it comes by the same way as they do and reaches who opens the screen later.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import Final

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.console.events import people_changed
from portal.console.models import ScreenNotice
from portal.errors import InvalidError
from portal.machines.models import Machine

MOST: Final = 500
LASTS: Final = dt.timedelta(hours=1)


@transaction.atomic
def post(machines: Collection[Machine], *, actor: User, text: str) -> None:
    """In place of what stood there; an empty text takes it away. The caller has asked about permission."""
    text = text.strip()
    if len(text) > MOST:
        raise InvalidError(_("A message has at most %(most)s characters.") % {"most": MOST}, field="text")
    ScreenNotice.objects.filter(machine__in=machines).delete()
    if text:
        name, now = actor.get_username(), timezone.now()
        ScreenNotice.objects.bulk_create(
            ScreenNotice(machine=machine, text=text, by_name=name, posted_at=now) for machine in machines
        )
    for machine in machines:
        people_changed(machine.pk, machine.project_id)


def notice_on(machine: Machine) -> ScreenNotice | None:
    return ScreenNotice.objects.filter(machine=machine, posted_at__gt=timezone.now() - LASTS).first()


def forget_old() -> int:
    """Nobody sees them any more."""
    return ScreenNotice.objects.filter(posted_at__lte=timezone.now() - LASTS).delete()[0]
