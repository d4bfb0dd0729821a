"""Writes about snapshots: what people ask for, and what workers found out. Restoring is in `restoring`, which brings
more than the snapshot into motion; the clock's part is in `schedules`.

A snapshot's work is its machine's: the job's target is the machine, whose task is the lock. It goes on and off in the
same transactions as the snapshot's own, so a machine that is busy so has one snapshot that it is busy with.
"""

from __future__ import annotations

from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import require
from portal.audit import services as audit
from portal.errors import ConflictError, NotFoundError
from portal.events.kinds import Kind
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.machines import services as machines
from portal.machines.devices import Plug
from portal.machines.models import Attachment, Machine, NetworkCard
from portal.machines.states import CAN_HIBERNATE, CAN_PAUSE, IS_KNOWN, PowerState
from portal.machines.states import Task as MachineTask
from portal.snapshots import events
from portal.snapshots.models import Snapshot, SnapshotHold, SnapshotSchedule, SnapshotVolume
from portal.snapshots.states import LIVE, Status, Task
from portal.volumes import services as volumes
from portal.volumes.validators import clean_name

MOST_SNAPSHOTS = 100
CAN_KEEP_MEMORY = CAN_PAUSE
HAS_DISKS = Q(saved_at=None, missing_since=None, keeps_definition=False)
"""Machines whose disks are ours and still: the memory of a hibernated one belongs to its disks as they are."""

# --- what people ask for ------------------------------------------------------------------------------------------


def request_take(
    machine: Machine,
    *,
    actor: User | None,
    name: str = "",
    description: str = "",
    with_memory: bool = False,
    schedule: SnapshotSchedule | None = None,
    request_ip: str | None = None,
) -> Job:
    """Keep the machine's disks as they are, and with its memory what it is doing. Without a name one is chosen.

    While one of this name, or of any if none is said, is being taken, that one's job is given. Memory is counted as
    disk, against quota and host.
    """
    wanted = clean_name(name) if name.strip() else ""
    _refuse_if_it_cannot(machine, with_memory=with_memory)

    def begin(claimed: Machine) -> None:
        add(
            claimed.pk,
            actor=actor,
            name=wanted or suggest_name(claimed),
            description=description,
            with_memory=with_memory,
            schedule=schedule,
        )

    try:
        with transaction.atomic():
            job = machines.claim(
                machine,
                JobName.SNAPSHOT_TAKE,
                MachineTask.SNAPSHOTTING,
                CAN_KEEP_MEMORY if with_memory else IS_KNOWN,
                actor=actor,
                request_ip=request_ip,
                where=HAS_DISKS,
                then=begin,
                detail={"name": wanted, "with_memory": with_memory},
            )
    except IntegrityError as error:
        raise name_is_taken(wanted) from error
    _refuse_other(machine, Task.TAKING, Q(name=wanted) if wanted else Q())
    return job


def request_delete(snapshot: Snapshot, *, actor: User | None, request_ip: str | None = None) -> Job:
    """Have it removed; the machine and its other snapshots stay as they are. The clock asks without an actor."""
    job = machines.claim(
        snapshot.machine,
        JobName.SNAPSHOT_DELETE,
        MachineTask.DROPPING_SNAPSHOT,
        IS_KNOWN,
        actor=actor,
        request_ip=request_ip,
        permission=Permission.MACHINE_DELETE,
        then=lambda _machine: begin(snapshot, Task.DELETING),
        detail={"name": snapshot.name},
    )
    _refuse_other(snapshot.machine, Task.DELETING, Q(pk=snapshot.pk))
    return job


@transaction.atomic
def change(
    snapshot: Snapshot,
    *,
    actor: User,
    name: str | None = None,
    description: str | None = None,
    request_ip: str | None = None,
) -> None:
    """Another name or description. Whoever gives one to what a schedule took keeps it: it is not deleted by itself."""
    require(actor, snapshot.machine.project_id, Permission.MACHINE_OPERATE)
    values: dict[str, object] = {"schedule": None}
    if name is not None:
        values["name"] = clean_name(name)
    if description is not None:
        values["description"] = description.strip()
    now = Snapshot.objects.live().select_for_update().filter(pk=snapshot.pk).first()
    if now is None:
        raise NotFoundError
    if all(getattr(now, field) == value for field, value in values.items()):
        return
    try:
        with transaction.atomic():
            Snapshot.objects.filter(pk=now.pk).update(**values)
    except IntegrityError as error:
        raise name_is_taken(name or "") from error
    audit.record(actor, "snapshot.changed", snapshot, detail={"name": name or snapshot.name}, request_ip=request_ip)
    events.snapshots_changed(snapshot.machine)


# --- claims, for whoever works with a snapshot ----------------------------------------------------------------------


def add(
    machine_id: UUID,
    *,
    actor: User | None,
    name: str,
    description: str = "",
    with_memory: bool = False,
    schedule: SnapshotSchedule | None = None,
) -> Snapshot:
    """The row of one that is about to be taken, of a machine that the caller has claimed. IntegrityError if it has one
    of this name; QuotaExceededError or NoCapacityError without room for its memory.
    """
    machine = Machine.objects.select_related("project", "host").get(pk=machine_id)
    if Attachment.objects.filter(machine=machine, volume__personal=True).exists():
        # They belong to a person and not to this machine: they must not go back in time with it.
        raise ConflictError(
            _("%(name)s has a person's own files. A snapshot can be taken or restored when they have left.")
            % {"name": machine.name}
        )
    if Snapshot.objects.live().filter(machine=machine).count() >= MOST_SNAPSHOTS:
        raise ConflictError(_("A machine has at most %(most)s snapshots. Delete one first.") % {"most": MOST_SNAPSHOTS})
    held = -(-machine.memory_mib // 1024) if with_memory else 0
    if held:
        volumes.reserve_growth(machine.project, machine.host, held)
    snapshot = Snapshot.objects.create(
        machine=machine,
        parent=Snapshot.objects.filter(machine=machine, is_current=True).first(),
        name=name,
        description=description.strip(),
        with_memory=with_memory,
        was_running=machine.power_state in CAN_HIBERNATE,
        flavour_id=machine.flavour_id,
        vcpus=machine.vcpus,
        memory_mib=machine.memory_mib,
        disk_gib=machine.disk_gib,
        room_vcpus=machine.room_vcpus,
        room_memory_mib=machine.room_memory_mib,
        cards=sorted(NetworkCard.objects.filter(machine=machine).values_list("mac", flat=True)),
        held_gib=held,
        task_since=timezone.now(),
        schedule=schedule,
        created_by=actor,
    )
    attached = Attachment.objects.filter(machine=machine, volume__isnull=False).exclude(task=Plug.ADDING)
    SnapshotVolume.objects.bulk_create(
        SnapshotVolume(snapshot=snapshot, volume_id=pk, size_gib=size)
        for pk, size in attached.values_list("volume_id", "volume__size_gib")
    )
    return snapshot


def begin(snapshot: Snapshot, task: Task) -> None:
    """Become the one who does something with it. NotFoundError, or a ConflictError that says what is going on."""
    locked = Snapshot.objects.select_for_update().filter(pk=snapshot.pk).first()
    if locked is None or locked.status != Status.READY:
        raise NotFoundError
    if locked.task != Task.NONE:
        raise ConflictError(_("%(name)s is busy: %(task)s.") % _words(locked))
    if task == Task.DELETING and locked.holds.exists():
        raise ConflictError(
            _("%(name)s is being copied just now. It can be deleted when that has ended.") % {"name": locked.name}
        )
    Snapshot.objects.filter(pk=locked.pk).update(task=task, task_since=timezone.now())


@transaction.atomic
def hold(snapshot: Snapshot, *, holder: UUID) -> None:
    """Keep a snapshot from being deleted while `holder`, whatever that is, is made from it. Once for each holder.

    NotFoundError for one that is gone, ConflictError for one that is just being deleted.
    """
    locked = Snapshot.objects.select_for_update().filter(pk=snapshot.pk).first()
    if locked is None or locked.status != Status.READY:
        raise NotFoundError
    if locked.task == Task.DELETING:
        raise ConflictError(_("%(name)s is busy: %(task)s.") % _words(locked))
    SnapshotHold.objects.get_or_create(holder=holder, defaults={"snapshot": locked})


def let_go(*, holder: UUID) -> None:
    """What was made from it is made, or given up. No error if nothing was held."""
    SnapshotHold.objects.filter(holder=holder).delete()


def in_change(machine: Machine, task: Task) -> Snapshot | None:
    """The snapshot that its machine is busy with so; None if that is over."""
    rows = Snapshot.objects.filter(machine=machine, task=task, status__in=LIVE)
    return rows.select_related("machine__project", "machine__host").first()


def is_held(machine: Machine) -> bool:
    """Something is being made from one of its snapshots, so its disk must stay."""
    return SnapshotHold.objects.filter(snapshot__machine=machine).exists()


# --- what workers found out -----------------------------------------------------------------------------------------


def record_made(snapshot: Snapshot, *, quiesced: bool, memory_bytes: int) -> None:
    """It is whole on its host."""
    now = timezone.now()
    made = Snapshot.objects.filter(pk=snapshot.pk, status=Status.CREATING, taken_at=None)
    made.update(quiesced=quiesced, memory_bytes=memory_bytes, taken_at=now)


@transaction.atomic
def record_ready(snapshot: Snapshot) -> None:
    """It can be restored, and is where the machine is now."""
    ready = Snapshot.objects.filter(pk=snapshot.pk, status=Status.CREATING)
    if ready.update(status=Status.READY, task=Task.NONE, task_since=None):
        move_to(snapshot.machine, snapshot)
        snapshot.refresh_from_db()
        told = {"with_memory": snapshot.with_memory, "quiesced": snapshot.quiesced}
        events.record(Kind.SNAPSHOT_TAKEN, snapshot, actor=snapshot.created_by, **told)


@transaction.atomic
def record_taken(machine: Machine) -> None:
    snapshot = in_change(machine, Task.TAKING)
    if snapshot is not None:
        record_ready(snapshot)
    machines.record_task_ended(machine, MachineTask.SNAPSHOTTING)


@transaction.atomic
def record_not_taken(machine: Machine, *, message: str = "") -> None:
    """Nothing of it is left on the host, or reconciliation removes that."""
    forget_untaken(machine)
    machines.record_task_ended(machine, MachineTask.SNAPSHOTTING, message=message)


def forget_untaken(machine: Machine) -> None:
    snapshot = in_change(machine, Task.TAKING)
    if snapshot is not None:
        _end(snapshot)


@transaction.atomic
def record_deleted(machine: Machine) -> None:
    """What came after it now comes after what was before it."""
    snapshot = in_change(machine, Task.DELETING)
    if snapshot is not None and _end(snapshot):
        Snapshot.objects.filter(parent=snapshot.pk).update(parent=snapshot.parent_id)
        if snapshot.is_current:
            move_to(machine, snapshot.parent)
        events.record(Kind.SNAPSHOT_DELETED, snapshot)
    machines.record_task_ended(machine, MachineTask.DROPPING_SNAPSHOT)


@transaction.atomic
def record_not_deleted(machine: Machine, *, message: str = "") -> None:
    """It may be gone from some of the disks: it is asked for again, or not at all."""
    Snapshot.objects.filter(machine=machine, task=Task.DELETING).update(task=Task.NONE, task_since=None)
    machines.record_task_ended(machine, MachineTask.DROPPING_SNAPSHOT, message=message)


@transaction.atomic
def record_disks_gone(machine: Machine) -> None:
    """Its snapshots went with its root disk."""
    for snapshot in Snapshot.objects.live().filter(machine=machine).select_related("machine__project", "machine__host"):
        if _end(snapshot):
            events.record(Kind.SNAPSHOT_DELETED, snapshot)


@transaction.atomic
def record_machine_gone(machine: Machine) -> None:
    record_disks_gone(machine)
    SnapshotSchedule.objects.filter(machine=machine).delete()


def end_orphan(machine: Machine) -> None:
    """The machine's task was ended without its job: what its snapshot was in is settled as if the job had failed."""
    if machine.task == MachineTask.SNAPSHOTTING:
        record_not_taken(machine)
    elif machine.task == MachineTask.DROPPING_SNAPSHOT:
        record_not_deleted(machine)


# --- helpers --------------------------------------------------------------------------------------------------------


def move_to(machine: Machine, snapshot: Snapshot | None) -> None:
    """The machine goes on from there."""
    Snapshot.objects.filter(machine=machine, is_current=True).update(is_current=False)
    if snapshot is not None:
        Snapshot.objects.filter(pk=snapshot.pk).update(is_current=True)


def release_memory(snapshot: Snapshot) -> None:
    """Give back the disk for its memory, exactly once whoever calls how often."""
    held = Snapshot.objects.select_for_update().values_list("held_gib", flat=True).get(pk=snapshot.pk)
    if held and Snapshot.objects.filter(pk=snapshot.pk, held_gib=held).update(held_gib=0) == 1:
        volumes.release_growth(snapshot.machine.project, snapshot.machine.host, held)


def _end(snapshot: Snapshot) -> bool:
    """It is none any more. True if it was until now."""
    gone = {"status": Status.DELETED, "task": Task.NONE, "task_since": None, "deleted_at": timezone.now()}
    ended = Snapshot.objects.filter(pk=snapshot.pk, status__in=LIVE).update(**gone, is_current=False) == 1
    if ended:
        release_memory(snapshot)
    return ended


def suggest_name(machine: Machine) -> str:
    """A name that is free, such as snapshot-3."""
    alike = Snapshot.objects.live().filter(machine=machine, name__startswith="snapshot-")
    taken = set(alike.values_list("name", flat=True))
    return next(name for number in range(1, len(taken) + 2) if (name := f"snapshot-{number}") not in taken)


def free_name(machine: Machine, wanted: str) -> str:
    """`wanted`, or with a number behind it where that is taken."""
    taken = set(Snapshot.objects.live().filter(machine=machine).values_list("name", flat=True))
    names = (wanted[:63] if number == 1 else f"{wanted[:58]} {number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def name_is_taken(name: str) -> ConflictError:
    return ConflictError(_("The machine has a snapshot named %(name)s already.") % {"name": name}, field="name")


def _refuse_if_it_cannot(machine: Machine, *, with_memory: bool) -> None:
    """In words that say more than that it is in another state."""
    if machine.keeps_definition:
        raise ConflictError(_("Somebody else defined this machine: its disks are theirs."))
    if machine.is_hibernated:
        raise ConflictError(
            _("%(name)s is hibernated: its saved memory belongs to its disks. Wake it first.") % {"name": machine.name}
        )
    if machine.missing_since is not None:
        raise ConflictError(_("%(name)s is missing on its host.") % {"name": machine.name})
    if with_memory and machine.task == MachineTask.NONE and machine.power_state not in CAN_KEEP_MEMORY:
        raise ConflictError(_why_no_memory(machine) % {"name": machine.name}, field="with_memory")


def _why_no_memory(machine: Machine) -> str:
    if machine.power_state == PowerState.PAUSED:
        return _("%(name)s is paused: its memory can be kept when it goes on. Its disks can be kept now.")
    return _("%(name)s is off: there is no memory to keep. Take a snapshot of its disks.")


def _refuse_other(machine: Machine, task: Task, which: Q) -> None:
    """The job that was given is about another snapshot: that is not what was asked for."""
    if not Snapshot.objects.filter(which, machine=machine, task=task).exists():
        raise ConflictError(machines.why_not(machine))


def _words(snapshot: Snapshot) -> dict[str, str]:
    return {"name": snapshot.name, "task": str(snapshot.get_task_display())}
