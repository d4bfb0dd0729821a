"""Going back to a snapshot: the machine has again the disks, the size and, with its memory, the cards that it had.

Everything that this takes is claimed with the request: volumes that come back or go, disks that get larger, the larger
of both sizes. So nothing can be missing half-way, and what cannot be had is refused in words before anything is done.
"""

from __future__ import annotations

from uuid import UUID, uuid4

from django.db import transaction
from django.db.models import Q
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.errors import ConflictError
from portal.events.kinds import Kind
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.machines import disks
from portal.machines import services as machines
from portal.machines.devices import Plug
from portal.machines.models import Attachment, Machine, NetworkCard
from portal.machines.states import IS_KNOWN
from portal.machines.states import Task as MachineTask
from portal.snapshots import events, services
from portal.snapshots.models import Snapshot
from portal.snapshots.states import Task
from portal.volumes import services as volumes
from portal.volumes.models import Volume
from portal.volumes.states import CAN_ATTACH, CAN_DETACH
from portal.volumes.states import Status as VolumeStatus
from portal.volumes.states import Task as VolumeTask

# --- what people ask for ------------------------------------------------------------------------------------------


def request_restore(snapshot: Snapshot, *, actor: User, take_first: bool = False, request_ip: str | None = None) -> Job:
    """Have the machine be what it was then. What it did since is lost, unless a snapshot of that is taken first.

    Volumes that were attached later are detached and keep their data. A volume of the snapshot that another machine has
    by now, or that is gone, is a ConflictError that names it.
    """
    machine = snapshot.machine
    if take_first and machine.is_hibernated:
        raise ConflictError(
            _("%(name)s is hibernated, so no snapshot can be taken of it first. Wake it, or restore without one.")
            % {"name": machine.name}
        )
    job = machines.claim(
        machine,
        JobName.SNAPSHOT_RESTORE,
        MachineTask.RESTORING,
        IS_KNOWN,
        actor=actor,
        request_ip=request_ip,
        where=Q(missing_since=None, keeps_definition=False),
        then=lambda _machine: _prepare(snapshot, actor=actor, take_first=take_first),
        detail={"name": snapshot.name, "take_first": take_first},
    )
    if not Snapshot.objects.filter(pk=snapshot.pk, task=Task.RESTORING).exists():
        raise ConflictError(machines.why_not(machine))
    return job


def _prepare(snapshot: Snapshot, *, actor: User, take_first: bool) -> None:
    services.begin(snapshot, Task.RESTORING)
    machine = snapshot.machine
    if take_first:
        name = services.free_name(machine, _("before restoring %(name)s") % {"name": snapshot.name})
        services.add(machine.pk, actor=actor, name=name)
    then = dict(snapshot.volumes.values_list("volume_id", "size_gib"))
    growth = sum(max(gib - now, 0) for now, gib in _sizes(snapshot, then))
    _claim_volumes(machine, snapshot, set(then))
    if snapshot.with_memory:
        _refuse_lost_cards(machine, snapshot)
    if growth:
        volumes.reserve_growth(machine.project, machine.host, growth)
        Snapshot.objects.filter(pk=snapshot.pk).update(growth_gib=growth)
    values = {
        "wanted_vcpus": snapshot.vcpus,
        "wanted_memory_mib": snapshot.memory_mib,
        "wanted_flavour_id": snapshot.flavour_id,
    }
    machines.change_held(machine.pk, Q(task=MachineTask.RESTORING), lambda _row: dict(values))


def _sizes(snapshot: Snapshot, then: dict[UUID, int]) -> list[tuple[int, int]]:
    """Of every disk of the snapshot what it has now and what it had, in GiB."""
    now = dict(Volume.objects.filter(pk__in=then).values_list("pk", "size_gib"))
    root = Machine.objects.values_list("disk_gib", flat=True).get(pk=snapshot.machine_id)
    return [(root, snapshot.disk_gib), *((now.get(pk, 0), gib) for pk, gib in then.items())]


def _claim_volumes(machine: Machine, snapshot: Snapshot, wanted: set[UUID]) -> None:
    """The rows say from now on what is coming and what is going; the host is told when the machine is off."""
    rows = Attachment.objects.filter(machine=machine, volume__isnull=False).select_related("volume")
    attached = {row.volume.pk: (row, row.volume) for row in rows if row.volume is not None}
    for volume in Volume.objects.filter(pk__in=wanted - set(attached)).select_related("attachment__machine"):
        _refuse_if_away(volume, snapshot)
        volumes.claim_or_refuse(volume, VolumeTask.ATTACHING, CAN_ATTACH)
        Attachment.objects.create(machine=machine, volume=volume, task=Plug.ADDING)
    for pk, (row, volume) in attached.items():
        if pk not in wanted:
            volumes.claim_or_refuse(volume, VolumeTask.DETACHING, CAN_DETACH)
            Attachment.objects.filter(pk=row.pk).update(task=Plug.REMOVING)


def _refuse_if_away(volume: Volume, snapshot: Snapshot) -> None:
    if volume.status in {VolumeStatus.DELETED, VolumeStatus.ERROR}:
        raise ConflictError(
            _("The volume %(volume)s is in the snapshot %(name)s and has been deleted, so it cannot be restored.")
            % {"volume": volume.name, "name": snapshot.name}
        )
    holder = getattr(volume, "attachment", None)
    if holder is not None:
        raise ConflictError(
            _("The volume %(volume)s is in the snapshot and is with %(machine)s by now. Detach it there first.")
            % {"volume": volume.name, "machine": holder.machine.name}
        )


def _refuse_lost_cards(machine: Machine, snapshot: Snapshot) -> None:
    """Addresses are given out at random, so this is a matter of years; two machines with one would be worse."""
    missing = set(snapshot.cards) - set(NetworkCard.objects.filter(machine=machine).values_list("mac", flat=True))
    elsewhere = NetworkCard.objects.filter(mac__in=missing).exists() or Machine.objects.filter(mac__in=missing).exists()
    if elsewhere:
        raise ConflictError(_("A network card of the snapshot has an address that another machine has by now."))


# --- what workers found out -----------------------------------------------------------------------------------------


@transaction.atomic
def record_restored(machine: Machine) -> None:
    """Its host has it all. What is smaller now is given back."""
    snapshot = services.in_change(machine, Task.RESTORING)
    if snapshot is not None:
        _settle_volumes(machine)
        _settle_sizes(snapshot)
        if snapshot.with_memory:
            _settle_cards(machine, snapshot)
        services.move_to(machine, snapshot)
        _end(snapshot)
        events.record(Kind.SNAPSHOT_RESTORED, snapshot)
    machines.record_task_ended(machine, MachineTask.RESTORING)


@transaction.atomic
def record_not_restored(machine: Machine, *, message: str = "") -> None:
    """It keeps the rows that it had, and what was reserved besides is given back. A volume that was to come is free:
    its host was told so, or reconciliation tells it.
    """
    services.forget_untaken(machine)
    snapshot = services.in_change(machine, Task.RESTORING)
    if snapshot is not None:
        _put_volumes_back(machine)
        if snapshot.growth_gib:
            volumes.release_growth(snapshot.machine.project, snapshot.machine.host, snapshot.growth_gib)
        machines.change_held(machine.pk, Q(wanted_vcpus__isnull=False), lambda _row: dict(machines.NO_SIZE_WANTED))
        _end(snapshot)
    machines.record_task_ended(machine, MachineTask.RESTORING, message=message)


def end_orphan(machine: Machine) -> None:
    """The machine's task was ended without its job."""
    if machine.task == MachineTask.RESTORING:
        record_not_restored(machine)


def _end(snapshot: Snapshot) -> None:
    Snapshot.objects.filter(pk=snapshot.pk).update(task=Task.NONE, task_since=None, growth_gib=0)


def _changing(machine: Machine, task: Plug) -> list[tuple[Attachment, Volume]]:
    rows = Attachment.objects.filter(machine=machine, task=task, volume__isnull=False).select_related("volume")
    return [(row, row.volume) for row in rows if row.volume is not None]


def _settle_volumes(machine: Machine) -> None:
    """A device that its guest had not let go of is there again, or was for the last time."""
    for model in (Attachment, NetworkCard):
        model._default_manager.filter(machine=machine).update(leaving_since=None)
    for attachment, volume in _changing(machine, Plug.ADDING):
        Attachment.objects.filter(pk=attachment.pk).update(task=Plug.NONE)
        volumes.record_task_ended(volume, VolumeTask.ATTACHING, status=VolumeStatus.IN_USE)
    for attachment, _volume in _changing(machine, Plug.REMOVING):
        disks.record_gone(attachment)


def _put_volumes_back(machine: Machine) -> None:
    for attachment, _volume in _changing(machine, Plug.ADDING):
        disks.record_gone(attachment)
    for attachment, volume in _changing(machine, Plug.REMOVING):
        Attachment.objects.filter(pk=attachment.pk).update(task=Plug.NONE)
        volumes.record_task_ended(volume, VolumeTask.DETACHING)


def _settle_sizes(snapshot: Snapshot) -> None:
    """Disks that got larger were reserved with the request; of those that got smaller the rest is free."""
    machine = snapshot.machine
    then = dict(snapshot.volumes.values_list("volume_id", "size_gib"))
    less = sum(max(now - gib, 0) for now, gib in _sizes(snapshot, then))
    for pk, gib in then.items():
        Volume.objects.filter(pk=pk).update(size_gib=gib)
    Machine.objects.filter(pk=machine.pk).update(disk_gib=snapshot.disk_gib, genid=uuid4())
    if less:
        volumes.release_growth(machine.project, machine.host, less)
    size: dict[str, object] = {
        "vcpus": snapshot.vcpus,
        "memory_mib": snapshot.memory_mib,
        "flavour_id": snapshot.flavour_id,
        **machines.NO_SIZE_WANTED,
    }
    if snapshot.with_memory:
        size |= {"room_vcpus": snapshot.room_vcpus, "room_memory_mib": snapshot.room_memory_mib}
    machines.change_held(machine.pk, Q(task=MachineTask.RESTORING), lambda _row: dict(size))


def _settle_cards(machine: Machine, snapshot: Snapshot) -> None:
    """The guest goes on with the cards that it had."""
    NetworkCard.objects.filter(machine=machine).exclude(mac__in=snapshot.cards).delete()
    known = set(NetworkCard.objects.filter(machine=machine).values_list("mac", flat=True))
    network = snapshot.machine.host.network
    NetworkCard.objects.bulk_create(
        NetworkCard(machine=machine, mac=mac, network=network) for mac in snapshot.cards if mac not in known
    )
