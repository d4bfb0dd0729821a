"""A machine's memory on the disk of its host: asking for it, waking, forgetting it, and what workers record.

While it lies there it counts as disk, against the project's quota and the host's capacity, in whole GiB.
"""

from __future__ import annotations

import datetime as dt
from uuid import UUID

from django.db import transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.errors import ConflictError
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.machines import services
from portal.machines.models import Machine
from portal.machines.states import CAN_HIBERNATE, LIVE, PowerState, Status, Task


def request_hibernate(machine: Machine, *, actor: User, request_ip: str | None = None) -> Job:
    return services.claim(
        machine,
        JobName.MACHINE_HIBERNATE,
        Task.HIBERNATING,
        CAN_HIBERNATE,
        actor=actor,
        request_ip=request_ip,
        then=_reserve_disk,
    )


def _reserve_disk(machine: Machine) -> None:
    services.change_held(machine.pk, Q(task=Task.HIBERNATING), lambda row: {"saved_gib": -(-row.memory_mib // 1024)})


def request_discard(machine: Machine, *, actor: User, request_ip: str | None = None) -> Job:
    """Have the saved memory forgotten: the machine's next start is a cold one, as after a power cut."""
    if machine.task == Task.NONE and not machine.is_hibernated:
        raise ConflictError(_("%(name)s is not hibernated.") % {"name": machine.name})
    return services.claim(
        machine,
        JobName.MACHINE_DISCARD,
        Task.DISCARDING,
        (PowerState.SHUT_OFF,),
        actor=actor,
        request_ip=request_ip,
        where=Q(saved_at__isnull=False),
    )


# --- what workers found out ---------------------------------------------------------------------------------------


@transaction.atomic
def record_hibernated(machine: Machine) -> None:
    Machine.objects.filter(pk=machine.pk, task=Task.HIBERNATING).update(
        saved_at=timezone.now(), power_state=PowerState.SHUT_OFF, power_state_at=timezone.now(), console_socket=""
    )
    services.record_task_ended(machine, Task.HIBERNATING)


@transaction.atomic
def record_not_hibernated(machine: Machine, *, message: str = "") -> None:
    """Its memory was not saved, or it was let go on; the disk for it is given back."""
    record_saved_gone(machine.pk)
    services.record_task_ended(machine, Task.HIBERNATING, message=message)


def record_saved_gone(machine_id: UUID, *, known_at: dt.datetime | None = None) -> bool:
    """The host has no saved memory of it (any more). `known_at`: when it was looked; later news is left alone."""
    saved = Q(saved_at__isnull=False) | Q(saved_gib__gt=0)
    if known_at is not None:
        saved = Q(task=Task.NONE, saved_at__lt=known_at)
    return services.change_held(machine_id, saved, lambda _row: {"saved_at": None, "saved_gib": 0})


def record_saved_found(machine_id: UUID, *, known_at: dt.datetime) -> None:
    """Somebody hibernated it past the portal: it can be woken, and the disk for it was asked of nobody."""
    rows = Machine.objects.filter(pk=machine_id, status=Status.READY, task=Task.NONE, saved_at=None)
    if rows.filter(power_state=PowerState.SHUT_OFF, power_state_at__lte=known_at).update(saved_at=known_at):
        services.tell(machine_id)


@transaction.atomic
def record_discarded(machine: Machine) -> None:
    record_saved_gone(machine.pk)
    services.record_task_ended(machine, Task.DISCARDING)
    services.settle_size(machine.pk)


def hibernated_on(host_id: UUID) -> set[UUID]:
    """Those that the portal thinks of as hibernated."""
    rows = Machine.objects.filter(host=host_id, status__in=LIVE, saved_at__isnull=False)
    return set(rows.values_list("pk", flat=True))
