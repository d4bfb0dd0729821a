"""Devices that guests were asked to let go of, and had not when they were given up on: they may still do so.

The rows say what the host says. So such devices are looked at again, for as long as it can be meant.
"""

from __future__ import annotations

import datetime as dt
from typing import Final
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from portal.hosts.models import Host
from portal.machines import cards, disks, events
from portal.machines.devices import Plug
from portal.machines.models import Attachment, Machine, NetworkCard
from portal.machines.states import PowerState, Task

# A guest that did not let go for so long will not; most were restarted since, which puts the device back.
LOOKED_AT_FOR: Final = dt.timedelta(hours=1)


def machines_that_may_let_go(host: Host) -> QuerySet[Machine]:
    """Running ones with nothing else under way. Of those that went off, or kept it for long, it is forgotten here."""
    asked: set[UUID] = set()
    for model in (Attachment, NetworkCard):
        rows = model._default_manager.filter(leaving_since__isnull=False, machine__host=host)
        machines = set(rows.values_list("machine_id", flat=True))
        if machines:
            over = Q(machine__power_state=PowerState.SHUT_OFF) | Q(leaving_since__lt=timezone.now() - LOOKED_AT_FOR)
            rows.filter(over).update(leaving_since=None)
        asked |= machines
    return Machine.objects.filter(pk__in=asked, power_state=PowerState.RUNNING, task=Task.NONE)


def leaving_disks(machine: Machine) -> list[Attachment]:
    found = Attachment.objects.filter(machine=machine, leaving_since__isnull=False, task=Plug.NONE)
    return list(found.exclude(volume=None).select_related("machine", "volume"))


def leaving_cards(machine: Machine) -> list[NetworkCard]:
    found = NetworkCard.objects.filter(machine=machine, leaving_since__isnull=False, task=Plug.NONE)
    return list(found.select_related("machine"))


@transaction.atomic
def record_let_go(device: Attachment | NetworkCard) -> None:
    """The host says that the machine has it no more. What is being done to it just now is somebody else's to end."""
    idle = type(device)._default_manager.select_for_update().filter(pk=device.pk, task=Plug.NONE)
    if not idle.exists():
        return
    if isinstance(device, Attachment):
        disks.record_gone(device)
    else:
        cards.record_gone(device)
    events.machine_changed(device.machine)
