"""Clones of machines: what people ask for, and what workers record. None calls a hypervisor.

A full clone has a disk of its own. A linked one reads from a base what it has not written itself: the original's disk
as of one moment, which stays on the host as long as a clone needs it. Quota and capacity count both alike, since a
linked clone may come to write all of its disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID, uuid4

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts import quota
from portal.accounts.models import User
from portal.accounts.permissions import Permission
from portal.accounts.quota import Amount
from portal.accounts.selectors import require
from portal.audit import services as audit
from portal.copies.models import DiskBase, DiskCopy
from portal.copies.states import BaseStatus, Identity
from portal.errors import ConflictError, InvalidError, NoCapacityError, NotFoundError
from portal.events.kinds import Kind
from portal.hosts import services as hosts
from portal.hosts.models import Host
from portal.jobs import services as jobs
from portal.jobs.names import JobName
from portal.jobs.selectors import active_job_of
from portal.lib.secrets import new_password, seal
from portal.machines import events, services
from portal.machines.models import Machine
from portal.machines.states import IS_KNOWN, PowerState, Status, Task
from portal.machines.validators import validate_machine_name
from portal.snapshots import services as snapshots
from portal.snapshots.models import Snapshot

# A disk that reads through more bases than this is read slowly: the next base is made to stand alone.
MOST_LINKS = 6


@dataclass(frozen=True, slots=True)
class CloneRequest:
    """`snapshot` is one of the original's; None is its disk as it is now."""

    name: str
    linked: bool = True
    identity: Identity = Identity.NEW
    snapshot: Snapshot | None = None


# --- what people ask for ------------------------------------------------------------------------------------------


def request_clone(
    machine: Machine,
    *,
    actor: User,
    wanted: CloneRequest,
    request_key: UUID | None = None,
    request_ip: str | None = None,
) -> Machine:
    """Reserve quota and room beside the original, and have a machine made of its disk. Volumes are not copied.

    The same `request_key` gives the same clone again.
    """
    require(actor, machine.project_id, Permission.MACHINE_CREATE)
    earlier = _clone_of_request(machine, request_key)
    if earlier is not None:
        return earlier
    _check_name(wanted.name)
    try:
        with transaction.atomic():
            return _create(machine, actor=actor, wanted=wanted, request_key=request_key, request_ip=request_ip)
    except IntegrityError as error:
        earlier = _clone_of_request(machine, request_key)
        if earlier is not None:
            return earlier
        raise ConflictError(
            _("There is a machine named %(name)s in this project already, or in its bin.") % {"name": wanted.name},
            field="name",
        ) from error


def _create(
    source: Machine, *, actor: User, wanted: CloneRequest, request_key: UUID | None, request_ip: str | None
) -> Machine:
    base = _ready_base(source, wanted) or _base_to_make(source, wanted)
    copy = begin(source, wanted.snapshot, wanted.identity, base)
    clone = _row(source, actor=actor, wanted=wanted, request_key=request_key)
    copy.machine = clone
    copy.save()
    how = {"linked": wanted.linked, "identity": str(wanted.identity), "snapshot": str(wanted.snapshot or "")}
    audit.record(actor, "machine.clone", clone, detail={"original": source.name, **how}, request_ip=request_ip)
    audit.record(actor, "machine.cloned", source, detail={"clone": clone.name, **how}, request_ip=request_ip)
    events.record(Kind.MACHINE_REQUESTED, clone, actor=actor, cloned_from=str(source.pk))
    jobs.enqueue(JobName.MACHINE_CLONE, clone, queue=clone.host.queue, actor=actor)
    events.machine_changed(clone)
    return clone


def _row(source: Machine, *, actor: User, wanted: CloneRequest, request_key: UUID | None) -> Machine:
    """With an identity of its own it gets a password of its own; else the one inside is the original's."""
    amount = Amount(machines=1, vcpus=source.vcpus, memory_mib=source.memory_mib, disk_gib=source.disk_gib)
    quota.reserve(source.project_id, amount)
    return Machine.objects.create(
        project=source.project,
        owner=actor,
        name=wanted.name,
        kind=source.kind,
        image_version=source.image_version,
        cloned_from=source,
        flavour=source.flavour,
        vcpus=source.vcpus,
        memory_mib=source.memory_mib,
        disk_gib=source.disk_gib,
        host=_reserve_beside(source, amount),
        request_key=request_key or uuid4(),
        login_user=source.login_user,
        login_password=seal(new_password()) if _is_told_anew(source, wanted) else source.login_password,
        ssh_key=source.ssh_key,
        mac=services.new_mac(),
        firmware=source.firmware,
        tpm=source.tpm,
        iso_name=source.iso_name,
        task=Task.BUILDING,
        task_since=timezone.now(),
    )


def _is_told_anew(source: Machine, wanted: CloneRequest) -> bool:
    """The system inside reads the clone's seed. One that was installed from a disc reads none."""
    return wanted.identity == Identity.NEW and not source.iso_name


def _reserve_beside(source: Machine, amount: Amount) -> Host:
    """A copy lies where its original does."""
    if not source.host.enabled:
        raise NoCapacityError(_("The machine's host takes no new machines just now, so nothing can be cloned there."))
    hosts.reserve_more(source.host, amount)
    return source.host


def begin(source: Machine, snapshot: Snapshot | None, identity: Identity, base: DiskBase | None = None) -> DiskCopy:
    """The copy's row, unsaved; what is to be read is kept from changing: a snapshot, or the whole machine.

    Of a base that is there already nothing is read any more. ConflictError if it cannot be copied now.
    """
    copy = DiskCopy(source=source, snapshot=snapshot.pk if snapshot else None, identity=identity, base=base)
    if base is not None and base.status == BaseStatus.READY:
        return copy
    if snapshot is None:
        claim_source(source)
    else:
        hold_snapshot(source, snapshot, copy.pk)
    copy.holds_source = True
    return copy


def hold_snapshot(source: Machine, snapshot: Snapshot, holder: UUID) -> None:
    """The machine may go on with whatever it does; only this snapshot must stay."""
    if snapshot.machine_id != source.pk:
        raise NotFoundError
    if source.status != Status.READY or source.missing_since is not None:
        raise ConflictError(_why_not(source))
    if snapshot.disk_gib > source.disk_gib:
        raise ConflictError(
            _("The disk was larger when %(snapshot)s was taken. Restore that first, then clone the machine.")
            % {"snapshot": snapshot.name}
        )
    snapshots.hold(snapshot, holder=holder)


def claim_source(source: Machine) -> None:
    """It stays as it is while its disk is read, whether it runs or not. ConflictError if it cannot be copied now."""
    ready = Machine.objects.filter(
        pk=source.pk,
        status=Status.READY,
        task=Task.NONE,
        power_state__in=IS_KNOWN,
        missing_since=None,
        keeps_definition=False,
        **services.NOT_IN_RESCUE,
    )
    if ready.update(task=Task.COPYING, task_since=timezone.now(), error_message="") != 1:
        raise ConflictError(_why_not(source))
    events.machine_changed(source)


def _why_not(source: Machine) -> str:
    source.refresh_from_db()
    if source.keeps_definition:
        return _("Somebody else defined %(name)s: where its disks lie is not known here.") % {"name": source.name}
    if source.missing_since is not None:
        return _("%(name)s is missing on its host.") % {"name": source.name}
    if source.power_state == PowerState.UNKNOWN and source.task == Task.NONE:
        return _("The host of %(name)s does not answer just now.") % {"name": source.name}
    return services.why_not(source, in_rescue=True)


def _ready_base(source: Machine, wanted: CloneRequest) -> DiskBase | None:
    """Of a snapshot, one that another clone was made of: it is taken before somebody may remove it."""
    if not wanted.linked or wanted.snapshot is None:
        return None
    ready = DiskBase.objects.filter(
        source=source,
        host=source.host_id,
        snapshot=wanted.snapshot.pk,
        identity=wanted.identity,
        status=BaseStatus.READY,
    )
    for base in ready:
        if ready.filter(pk=base.pk).update(used_at=timezone.now()):
            return base
    return None


def _base_to_make(source: Machine, wanted: CloneRequest) -> DiskBase | None:
    if not wanted.linked:
        return None
    parent = _base_under(source)
    is_flat = _links(parent) >= MOST_LINKS
    if parent is not None and not is_flat:
        DiskBase.objects.filter(pk=parent.pk).update(used_at=timezone.now())
    return DiskBase.objects.create(
        host=source.host,
        source=source,
        snapshot=wanted.snapshot.pk if wanted.snapshot else None,
        identity=wanted.identity,
        is_flat=is_flat,
        parent=None if is_flat else parent,
    )


def _base_under(machine: Machine) -> DiskBase | None:
    copy = DiskCopy.objects.filter(machine=machine).select_related("base").first()
    return copy.base if copy is not None else None


def _links(base: DiskBase | None) -> int:
    links = 0
    while base is not None:
        links, base = links + 1, base.parent
    return links


def _clone_of_request(source: Machine, request_key: UUID | None) -> Machine | None:
    if request_key is None:
        return None
    return Machine.objects.filter(project=source.project_id, request_key=request_key).first()


def _check_name(name: str) -> None:
    try:
        validate_machine_name(name)
    except ValidationError as error:
        raise InvalidError(error.messages[0], field="name") from error


# --- what workers found out ---------------------------------------------------------------------------------------


def copy_behind(target: Machine | object) -> DiskCopy:
    """How the disk of a clone, or of an image's version, came to be. NotFoundError if it is not known any more."""
    by = {"machine": target} if isinstance(target, Machine) else {"version": target}
    # There is one at most; putting it in order takes Django longer than all the rest.
    rows = DiskCopy.objects.order_by().select_related("source__host", "source__image_version", "base")
    try:
        return rows.get(**by)
    except DiskCopy.DoesNotExist as error:
        raise NotFoundError from error


def record_frozen(copy: DiskCopy, *, is_frozen: bool) -> None:
    """Written down before the snapshot is taken and after it is gone, so that none is ever forgotten."""
    DiskCopy.objects.filter(pk=copy.pk).update(is_frozen=is_frozen)
    copy.is_frozen = is_frozen


@transaction.atomic
def release_source(copy: DiskCopy) -> None:
    """Its disk is read no more: exactly once, whoever calls how often."""
    snapshots.let_go(holder=copy.pk)
    if DiskCopy.objects.filter(pk=copy.pk, holds_source=True).update(holds_source=False) == 1 and not copy.snapshot:
        services.record_task_ended(copy.source, Task.COPYING)


def record_base_ready(base: DiskBase) -> None:
    """It is whole, and has the identity that was asked for: clones may be made of it."""
    making = DiskBase.objects.filter(pk=base.pk, status=BaseStatus.MAKING)
    making.update(status=BaseStatus.READY, used_at=timezone.now())


@transaction.atomic
def record_cloned(clone: Machine) -> None:
    release_source(copy_behind(clone))
    services.record_ready(clone)


@transaction.atomic
def record_clone_failed(clone: Machine, *, message: str) -> None:
    release_source(copy_behind(clone))
    services.record_build_failed(clone, message=message)


@transaction.atomic
def forget_copy(machine: Machine) -> None:
    """Its disk was replaced: it is nobody's copy any more, and needs no base."""
    DiskCopy.objects.filter(machine=machine).delete()


def original_inside(machine: Machine) -> Machine:
    """Whose identity the system inside has: its own, unless it was cloned to keep everything as it was."""
    seen = {machine.pk}
    while (copy := _kept_copy(machine)) is not None and copy.source_id not in seen:
        machine = copy.source
        seen.add(machine.pk)
    return machine


def _kept_copy(machine: Machine) -> DiskCopy | None:
    kept = DiskCopy.objects.order_by().filter(machine=machine, identity=Identity.KEPT)
    return next(iter(kept.select_related("source")), None)


def is_being_copied(machine: Machine) -> bool:
    """A job is under way that reads its disk."""
    copies = DiskCopy.objects.filter(source=machine, holds_source=True, snapshot=None)
    copies = copies.select_related("machine", "version")
    return any(active_job_of(target) is not None for copy in copies if (target := copy.machine or copy.version))


def end_orphan(machine: Machine) -> None:
    """The original's task was ended without the job that reads its disk."""
    if machine.task == Task.COPYING:
        DiskCopy.objects.filter(source=machine, holds_source=True, snapshot=None).update(holds_source=False)


# --- what is left of copies ---------------------------------------------------------------------------------------


def left_frozen(host: Host) -> list[DiskCopy]:
    """Copies whose snapshot may be left in the original, since the job that took it has ended."""
    copies = DiskCopy.objects.filter(is_frozen=True, source__host=host)
    found = copies.select_related("source", "machine", "version")
    return [copy for copy in found if not ((target := copy.machine or copy.version) and active_job_of(target))]


@transaction.atomic
def unneeded_bases(host: Host) -> list[DiskBase]:
    """Those that nothing reads from any more. They are marked first: no clone is made of them from now on."""
    needing = DiskCopy.objects.filter(base=OuterRef("pk"), machine__holds_quota=True)
    children = DiskBase.objects.filter(parent=OuterRef("pk"))
    unneeded = DiskBase.objects.filter(~Exists(needing), ~Exists(children), host=host)
    for base in unneeded:
        # Whoever took it since it was looked at has changed when it was used.
        DiskBase.objects.filter(pk=base.pk, used_at=base.used_at).update(status=BaseStatus.DELETING)
    return list(unneeded.filter(status=BaseStatus.DELETING))


@transaction.atomic
def record_base_gone(base: DiskBase) -> None:
    """Its file is not on the host any more."""
    DiskCopy.objects.filter(base=base).update(base=None)
    base.delete()
