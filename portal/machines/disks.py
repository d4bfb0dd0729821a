"""Writes about the disks of machines: what people ask for, and what workers found out. None calls a hypervisor."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import require
from portal.audit import services as audit
from portal.errors import ConflictError, InvalidError, NotFoundError
from portal.events.kinds import Kind
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.machines import events, plugging, services
from portal.machines.devices import Plug
from portal.machines.models import Attachment, Machine
from portal.machines.services import record_task_ended
from portal.machines.states import KEPT, Status, Task
from portal.volumes import events as volume_events
from portal.volumes import services as volumes
from portal.volumes.models import Volume
from portal.volumes.states import CAN_ATTACH, CAN_DETACH, HAS_FILE
from portal.volumes.states import Status as VolumeStatus
from portal.volumes.states import Task as VolumeTask
from portal.volumes.validators import check_size

MOST_VOLUMES = 12
ROOT = "root"
MIB = 1024**2

# --- what people ask for ------------------------------------------------------------------------------------------


@transaction.atomic
def request_attach(
    machine: Machine,
    *,
    actor: User,
    volume: Volume,
    delete_with_machine: bool = False,
    request_ip: str | None = None,
) -> Job:
    """Have a free volume of the machine's project and host attached, at once if the machine runs."""
    if volume.project_id != machine.project_id or volume.personal:
        raise NotFoundError
    if volume.host_id != machine.host_id:
        raise ConflictError(_("This volume lies on another host than the machine, so it cannot be attached to it."))
    if not plugging.claim(machine, Task.ATTACHING, actor=actor):
        return plugging.again(machine, JobName.DISK_ATTACH, same=_is_adding(machine, volume=volume))
    volumes.claim_or_refuse(volume, VolumeTask.ATTACHING, CAN_ATTACH)
    return _attach(machine, volume, actor=actor, delete_with_machine=delete_with_machine, request_ip=request_ip)


def request_new_disk(
    machine: Machine,
    *,
    actor: User,
    name: str,
    size_gib: int,
    delete_with_machine: bool = False,
    request_ip: str | None = None,
) -> Job:
    """Have a volume made beside the machine and attached to it: one job."""
    try:
        with transaction.atomic():
            if not plugging.claim(machine, Task.ATTACHING, actor=actor):
                same = _is_adding(machine, volume__name=name.strip(), volume__size_gib=size_gib)
                return plugging.again(machine, JobName.DISK_ATTACH, same=same)
            volume = volumes.create(
                machine.project,
                actor=actor,
                name=name,
                size_gib=size_gib,
                host=machine.host,
                task=VolumeTask.ATTACHING,
            )
            audit.record(
                actor, JobName.VOLUME_CREATE.value, volume, detail={"size_gib": size_gib}, request_ip=request_ip
            )
            return _attach(machine, volume, actor=actor, delete_with_machine=delete_with_machine, request_ip=request_ip)
    except IntegrityError as error:
        raise volumes.name_is_taken(name) from error


def _attach(machine: Machine, volume: Volume, *, actor: User, delete_with_machine: bool, request_ip: str | None) -> Job:
    if Attachment.objects.filter(machine=machine, volume__isnull=False).count() >= MOST_VOLUMES:
        raise ConflictError(_("A machine has at most %(most)s volumes.") % {"most": MOST_VOLUMES})
    Attachment.objects.create(machine=machine, volume=volume, task=Plug.ADDING, delete_with_machine=delete_with_machine)
    return plugging.enqueue(
        machine, JobName.DISK_ATTACH, actor=actor, detail={"volume": volume.name}, request_ip=request_ip
    )


@transaction.atomic
def request_detach(machine: Machine, *, actor: User, disk: str, request_ip: str | None = None) -> Job:
    """Have a volume detached. Until the host says that it is gone, the machine has it."""
    attachment = _attachment(machine, disk)
    if attachment.volume is None:
        raise InvalidError(_("The root disk belongs to the machine and cannot be detached."))
    _refuse_personal(attachment)
    if not plugging.claim(machine, Task.DETACHING, actor=actor):
        return plugging.again(machine, JobName.DISK_DETACH, same=attachment.task == Plug.REMOVING)
    volumes.claim_or_refuse(attachment.volume, VolumeTask.DETACHING, CAN_DETACH)
    _begin(attachment, Plug.REMOVING)
    detail = {"volume": attachment.volume.name}
    return plugging.enqueue(machine, JobName.DISK_DETACH, actor=actor, detail=detail, request_ip=request_ip)


@transaction.atomic
def request_grow(machine: Machine, *, actor: User, disk: str, size_gib: int, request_ip: str | None = None) -> Job:
    """Have a disk made larger, while the machine runs or not. The guest sees it at once."""
    attachment = _attachment(machine, disk)
    _refuse_personal(attachment)
    if not plugging.claim(machine, Task.GROWING, actor=actor):
        return plugging.again(machine, JobName.DISK_GROW, same=attachment.wanted_gib == size_gib)
    now = _size_of(machine, attachment)
    check_size(size_gib, more_than=now)
    if attachment.volume is not None:
        volumes.claim_or_refuse(attachment.volume, VolumeTask.GROWING, CAN_DETACH)
    elif machine.keeps_definition:
        raise ConflictError(_("Its root disk was made by somebody else: only they can make it larger."))
    volumes.reserve_growth(machine.project, machine.host, size_gib - now)
    _begin(attachment, Plug.GROWING, wanted_gib=size_gib)
    detail = {"disk": str(attachment), "size_gib": size_gib}
    return plugging.enqueue(machine, JobName.DISK_GROW, actor=actor, detail=detail, request_ip=request_ip)


@transaction.atomic
def request_limits(
    machine: Machine, *, actor: User, disk: str, iops: int, mib_per_s: int, request_ip: str | None = None
) -> Job:
    """Limit a disk's operations and MiB a second, reading and writing together; 0 is no limit. At once if it runs."""
    if not (0 <= iops <= MOST_IOPS and 0 <= mib_per_s <= MOST_MIB_PER_S):
        raise InvalidError(_("A limit is a whole number that is not below zero, and not beyond what disks can do."))
    attachment, limits = _attachment(machine, disk), {"iops": iops, "bytes_per_s": mib_per_s * MIB}
    _refuse_personal(attachment)
    if not plugging.claim(machine, Task.LIMITING, actor=actor):
        now = {"iops": attachment.iops, "bytes_per_s": attachment.bytes_per_s}
        same = attachment.task == Plug.LIMITING and limits == now
        return plugging.again(machine, JobName.DISK_LIMITS, same=same)
    if attachment.volume is None and machine.keeps_definition:
        raise ConflictError(_("Its root disk was made by somebody else: only they can limit it."))
    _begin(attachment, Plug.LIMITING, **limits)
    detail = {"disk": str(attachment), "iops": iops, "mib_per_s": mib_per_s}
    return plugging.enqueue(machine, JobName.DISK_LIMITS, actor=actor, detail=detail, request_ip=request_ip)


MOST_IOPS = 10_000_000
MOST_MIB_PER_S = 1_000_000


@transaction.atomic
def set_first_at_start(machine: Machine, *, actor: User, disk: str, request_ip: str | None = None) -> None:
    """Which disk is tried first at the next start; the root disk comes after it."""
    require(actor, machine.project_id, Permission.MACHINE_OPERATE)
    if machine.keeps_definition:
        raise ConflictError(_("The machine was defined by somebody else: only they can change what it starts from."))
    first = _attachment(machine, disk)
    _refuse_personal(first)
    root = _attachment(machine, ROOT)
    Attachment.objects.filter(machine=machine).exclude(boot=0).update(boot=0)
    if first.volume is not None:
        Attachment.objects.filter(pk=first.pk).update(boot=1)
        Attachment.objects.filter(pk=root.pk).update(boot=2)
    audit.record(actor, "disk.first", machine, detail={"disk": str(first)}, request_ip=request_ip)
    events.record_changed(machine, ["first_disk"], actor=actor)
    events.machine_changed(machine)


@transaction.atomic
def set_kept(machine: Machine, *, actor: User, disk: str, keep: bool, request_ip: str | None = None) -> None:
    """What becomes of a volume when its machine is deleted, unless it is said then."""
    require(actor, machine.project_id, Permission.MACHINE_OPERATE)
    attachment = _attachment(machine, disk)
    if attachment.volume is None:
        raise InvalidError(_("The root disk is deleted with its machine."))
    _refuse_personal(attachment)
    changed = Attachment.objects.filter(pk=attachment.pk, delete_with_machine=keep)
    if changed.update(delete_with_machine=not keep):
        detail = {"volume": attachment.volume.name, "keep": keep}
        audit.record(actor, "disk.kept", machine, detail=detail, request_ip=request_ip)
        events.record_changed(machine, ["kept_disks"], actor=actor)
        events.machine_changed(machine)


# --- what the portal does by itself -------------------------------------------------------------------------------


def begin_attach(machine: Machine, volume: Volume) -> bool:
    """Inside the caller's transaction: the machine becomes busy with getting this volume, which the caller has claimed
    or made. False if it is in no state for that now.
    """
    idle = Machine.objects.filter(pk=machine.pk, status=Status.READY, task=Task.NONE, missing_since=None, saved_at=None)
    idle = idle.filter(**services.NOT_IN_RESCUE)
    if idle.update(task=Task.ATTACHING, task_since=timezone.now()) != 1:
        return False
    Attachment.objects.create(machine=machine, volume=volume, task=Plug.ADDING)
    events.machine_changed(machine)
    return True


@transaction.atomic
def begin_detach(machine: Machine, volume: Volume) -> bool:
    """The machine, on or off, lost or in the bin, becomes busy with letting this volume go. Again and again the same.

    True also if it does not have it, and beside a job that deletes the machine: that waits for other work, and has the
    machine's task. False while the machine is busy with something else, or hibernated: its memory knows the volume.
    """
    attachment = Attachment.objects.filter(machine=machine, volume=volume).first()
    if attachment is None or attachment.task == Plug.REMOVING:
        return True
    kept = Machine.objects.filter(pk=machine.pk, status__in=KEPT)
    idle = kept.filter(task=Task.NONE, saved_at=None)
    others = kept.exclude(task__in=[Task.DELETING, Task.BINNING])
    if idle.update(task=Task.DETACHING, task_since=timezone.now()) != 1 and others.exists():
        return False
    if not volumes.claim(volume, VolumeTask.DETACHING, CAN_DETACH):
        transaction.set_rollback(True)
        return False
    _begin(attachment, Plug.REMOVING)
    events.machine_changed(machine)
    return True


# --- what workers found out ---------------------------------------------------------------------------------------


def in_change(machine: Machine, *, task: Plug | None = None) -> Attachment | None:
    """The disk that is being changed; None if that is over."""
    changing = Attachment.objects.filter(machine=machine).exclude(task=Plug.NONE)
    rows = changing if task is None else changing.filter(task=task)
    return rows.select_related("volume").first()


@transaction.atomic
def record_attached(machine: Machine) -> None:
    """The host says that the machine has it."""
    attachment = in_change(machine, task=Plug.ADDING)
    if attachment is not None and attachment.volume is not None:
        _end(attachment)
        _record_in_use(machine, attachment.volume)
    record_task_ended(machine, Task.ATTACHING)


@transaction.atomic
def record_attach_failed(machine: Machine, *, message: str) -> None:
    """A volume that was never made is none. Of another one the host has not said that the machine is without it, or
    `record_detached` had been here: so it counts as attached, and nobody else gets it.
    """
    attachment = in_change(machine, task=Plug.ADDING)
    if attachment is not None and attachment.volume is not None:
        if attachment.volume.status == VolumeStatus.CREATING:
            attachment.delete()
            volumes.record_create_failed(attachment.volume, message=message)
        else:
            _end(attachment)
            _record_in_use(machine, attachment.volume, message=message)
    record_task_ended(machine, Task.ATTACHING, message=message)


@transaction.atomic
def record_gone(attachment: Attachment) -> None:
    """The host says that the machine is without it: another one may have it from now on."""
    volume = attachment.volume
    assert volume is not None  # noqa: S101 - the root disk never goes
    gone, _rows = Attachment.objects.filter(pk=attachment.pk).delete()
    if not gone:
        return  # Somebody has said so already; by now it may be another machine's.
    freed = Volume.objects.filter(pk=volume.pk, status__in=HAS_FILE)
    freed.update(status=VolumeStatus.AVAILABLE, task=VolumeTask.NONE, task_since=None)
    volume_events.record(Kind.VOLUME_DETACHED, volume, machine=_named(attachment.machine))
    volume_events.volume_changed(volume)


@transaction.atomic
def record_detached(machine: Machine) -> None:
    attachment = in_change(machine, task=Plug.REMOVING)
    if attachment is not None:
        record_gone(attachment)
    record_task_ended(machine, Task.DETACHING)


@transaction.atomic
def record_not_detached(machine: Machine, *, message: str) -> None:
    """Still attached. The guest has been asked, and may let go later: `leaving` finds it."""
    attachment = in_change(machine, task=Plug.REMOVING)
    if attachment is not None and attachment.volume is not None:
        _end(attachment)
        Attachment.objects.filter(pk=attachment.pk).update(leaving_since=timezone.now())
        volumes.record_task_ended(attachment.volume, VolumeTask.DETACHING, message=message)
    record_task_ended(machine, Task.DETACHING, message=message)


@transaction.atomic
def record_grown(machine: Machine) -> None:
    """The host has given the disk its size."""
    attachment = in_change(machine, task=Plug.GROWING)
    if attachment is not None and attachment.wanted_gib and _end(attachment):
        wanted = attachment.wanted_gib
        if attachment.volume is not None:
            volumes.record_size(attachment.volume, wanted)
        else:
            Machine.objects.filter(pk=machine.pk).update(disk_gib=wanted)
    record_task_ended(machine, Task.GROWING)


@transaction.atomic
def record_not_grown(machine: Machine, *, message: str) -> None:
    """It has the size that it had. What was reserved for more is given back."""
    attachment = in_change(machine, task=Plug.GROWING)
    if attachment is not None and attachment.wanted_gib and _end(attachment):
        now = Machine.objects.select_related("project", "host").get(pk=machine.pk)
        volumes.release_growth(now.project, now.host, attachment.wanted_gib - _size_of(now, attachment))
        if attachment.volume is not None:
            volumes.record_task_ended(attachment.volume, VolumeTask.GROWING, message=message)
    record_task_ended(machine, Task.GROWING, message=message)


@transaction.atomic
def record_limited(machine: Machine, *, message: str = "") -> None:
    """What was asked for stays, also if the host did not take it: it holds from the machine's next start on."""
    attachment = in_change(machine, task=Plug.LIMITING)
    if attachment is not None:
        _end(attachment)
    record_task_ended(machine, Task.LIMITING, message=message)


@transaction.atomic
def record_deleted_with(attachment: Attachment) -> None:
    """The volume went with its machine."""
    assert attachment.volume is not None  # noqa: S101 - the root disk goes with the machine's own files
    Attachment.objects.filter(pk=attachment.pk).delete()
    volumes.record_deleted(attachment.volume)


def end_orphan(machine: Machine) -> None:
    """The machine's task was ended without its job: what its device was in is settled as if the job had failed."""
    ends: dict[Plug, Callable[..., None]] = {
        Plug.ADDING: record_attach_failed,
        Plug.REMOVING: record_not_detached,
        Plug.GROWING: record_not_grown,
        Plug.LIMITING: record_limited,
    }
    attachment = in_change(machine)
    if attachment is not None:
        ends[Plug(attachment.task)](machine, message="")


# --- helpers --------------------------------------------------------------------------------------------------------


def _attachment(machine: Machine, disk: str) -> Attachment:
    """By its id, or the word "root". NotFoundError for another machine's."""
    if disk == ROOT:
        return Attachment.objects.get_or_create(machine=machine, volume=None)[0]
    try:
        wanted = UUID(disk)
    except ValueError as error:
        raise NotFoundError from error
    found = Attachment.objects.filter(pk=wanted, machine=machine).select_related("volume").first()
    if found is None:
        raise NotFoundError
    return found


def _refuse_personal(attachment: Attachment) -> None:
    if attachment.volume is not None and attachment.volume.personal:
        raise ConflictError(_("These are somebody's own files: they come and go with that person."))


def _is_adding(machine: Machine, **which: object) -> bool:
    return Attachment.objects.filter(machine=machine, task=Plug.ADDING, **which).exists()


def _begin(attachment: Attachment, task: Plug, **values: object) -> None:
    """The machine and the volume are claimed: nobody else changes this disk."""
    Attachment.objects.filter(pk=attachment.pk).update(task=task, **values)


def _end(attachment: Attachment) -> bool:
    """What was being done to it is over. True if it is so just now: of two who say it, one gives back what was held."""
    changing = Attachment.objects.filter(pk=attachment.pk, task=attachment.task)
    return changing.update(task=Plug.NONE, wanted_gib=None) == 1


def _record_in_use(machine: Machine, volume: Volume, *, message: str = "") -> None:
    ended = {"message": message, "status": VolumeStatus.IN_USE}
    if volumes.record_task_ended(volume, VolumeTask.ATTACHING, **ended):
        volume_events.record(Kind.VOLUME_ATTACHED, volume, machine=_named(machine))


def _named(machine: Machine) -> dict[str, str]:
    return {"id": str(machine.pk), "name": machine.name}


def _size_of(machine: Machine, attachment: Attachment) -> int:
    """In GiB, as it is now."""
    if attachment.volume is not None:
        return Volume.objects.values_list("size_gib", flat=True).get(pk=attachment.volume.pk)
    return Machine.objects.values_list("disk_gib", flat=True).get(pk=machine.pk)
