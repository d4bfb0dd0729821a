"""Writes about the disc drives of machines: what people ask for, and what workers found out.

Every machine that Casement defines has DRIVES of them. As with disks, the machine's task is the lock: one drive changes
at a time, and its row says what is being done to it.
"""

from __future__ import annotations

from uuid import UUID

from django.db import transaction
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import require
from portal.audit import services as audit
from portal.errors import ConflictError, InvalidError, NotFoundError
from portal.isos import services as isos
from portal.isos.models import Iso
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.machines import events, plugging
from portal.machines.devices import Plug
from portal.machines.models import Disc, Machine
from portal.machines.services import record_task_ended
from portal.machines.states import Task

DRIVES = 2

# --- what people ask for ------------------------------------------------------------------------------------------


@transaction.atomic
def request_insert(
    machine: Machine, *, actor: User, iso: Iso, slot: int | None = None, request_ip: str | None = None
) -> Job:
    """Have an ISO put into a drive that is empty, at once if the machine runs; without a slot, into the first such."""
    if iso.project_id not in (None, machine.project_id):
        raise NotFoundError
    _own_definition_only(machine)
    if slot is not None and not 0 <= slot < DRIVES:
        raise InvalidError(_("A machine has no such drive."), field="slot")
    if not plugging.claim(machine, Task.INSERTING, actor=actor):
        same = Disc.objects.filter(machine=machine, iso=iso, task=Plug.ADDING).exists()
        return plugging.again(machine, JobName.DISC_INSERT, same=same)
    isos.hold_ready(iso.pk)
    taken = set(Disc.objects.filter(machine=machine).values_list("slot", flat=True))
    free = [one for one in range(DRIVES) if one not in taken and slot in (None, one)]
    if not free:
        raise ConflictError(_("There is a disc in the drive already. Eject it first."))
    Disc.objects.create(machine=machine, slot=free[0], iso=iso, task=Plug.ADDING)
    return plugging.enqueue(
        machine, JobName.DISC_INSERT, actor=actor, detail={"iso": iso.name, "drive": free[0]}, request_ip=request_ip
    )


@transaction.atomic
def request_eject(
    machine: Machine, *, actor: User, disc: UUID, force: bool = False, request_ip: str | None = None
) -> Job:
    """Have a disc taken out. A running guest is asked to open the drive, unless it is to be forced."""
    found = Disc.objects.select_related("iso").filter(machine=machine, pk=disc).first()
    if found is None:
        raise NotFoundError
    if not plugging.claim(machine, Task.EJECTING, actor=actor):
        return plugging.again(machine, JobName.DISC_EJECT, same=found.task == Plug.REMOVING)
    Disc.objects.filter(pk=found.pk).update(task=Plug.REMOVING, force=force)
    detail = {"iso": found.iso.name, "drive": found.slot, **({"force": True} if force else {})}
    return plugging.enqueue(machine, JobName.DISC_EJECT, actor=actor, detail=detail, request_ip=request_ip)


@transaction.atomic
def set_boot_disc(machine: Machine, *, actor: User, first: bool, request_ip: str | None = None) -> None:
    """Whether the next start tries the first drive before the disks, or after them."""
    require(actor, machine.project_id, Permission.MACHINE_OPERATE)
    _own_definition_only(machine)
    if Machine.objects.filter(pk=machine.pk, boot_disc=not first).update(boot_disc=first) == 1:
        audit.record(actor, "disc.first", machine, detail={"disc": first}, request_ip=request_ip)
        events.record_changed(machine, ["boot_disc"], actor=actor)
        events.machine_changed(machine)


def _own_definition_only(machine: Machine) -> None:
    if machine.keeps_definition:
        raise ConflictError(_("The machine was defined by somebody else: only they can change its drives."))


# --- what workers found out ---------------------------------------------------------------------------------------


def in_change(machine: Machine, *, task: Plug | None = None) -> Disc | None:
    """The disc that is being put in or taken out; None if that is over."""
    changing = Disc.objects.filter(machine=machine).exclude(task=Plug.NONE)
    return (changing if task is None else changing.filter(task=task)).select_related("iso").first()


@transaction.atomic
def record_inserted(machine: Machine, *, message: str = "") -> None:
    """With a message, it failed and the host has not said that the drive is empty: so the disc counts as in it."""
    Disc.objects.filter(machine=machine, task=Plug.ADDING).update(task=Plug.NONE)
    record_task_ended(machine, Task.INSERTING, message=message)


@transaction.atomic
def record_gone(disc: Disc) -> None:
    """The host says that the drive is empty."""
    Disc.objects.filter(pk=disc.pk).delete()


@transaction.atomic
def record_ejected(machine: Machine) -> None:
    disc = in_change(machine, task=Plug.REMOVING)
    if disc is not None:
        record_gone(disc)
    record_task_ended(machine, Task.EJECTING)


@transaction.atomic
def record_not_ejected(machine: Machine, *, message: str = "") -> None:
    """Still in the drive."""
    Disc.objects.filter(machine=machine, task=Plug.REMOVING).update(task=Plug.NONE, force=False)
    record_task_ended(machine, Task.EJECTING, message=message)


@transaction.atomic
def forget(machine: Machine) -> None:
    """The machine is gone from its host, and its drives with it."""
    Disc.objects.filter(machine=machine).delete()


def end_orphan(machine: Machine) -> None:
    """The machine's task was ended without its job."""
    Disc.objects.filter(machine=machine).update(task=Plug.NONE, force=False)
