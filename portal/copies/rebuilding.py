"""A machine made anew from an image: name, MAC and address, size and volumes stay; what its disk held is lost."""

from __future__ import annotations

from django.db import transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import require
from portal.copies import cloning
from portal.errors import ConflictError, InvalidError
from portal.events.kinds import Kind
from portal.images.models import ImageVersion, VersionStatus
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.lib.secrets import new_password, seal
from portal.lib.units import format_mib
from portal.machines import events, services
from portal.machines.launch import login_user_for
from portal.machines.models import Machine
from portal.machines.states import IS_KNOWN, Task
from portal.snapshots import services as snapshots


def request_rebuild(
    machine: Machine, *, actor: User, version: ImageVersion, confirmed: str, request_ip: str | None = None
) -> Job:
    """Have its root disk replaced by a new one of this version, and start it. `confirmed` is its name, typed."""
    require(actor, machine.project_id, Permission.MACHINE_DELETE)
    _check(machine, version)
    if confirmed.strip() != machine.name:
        raise InvalidError(
            _("Type the machine's name, %(name)s: what its disk holds will be lost.") % {"name": machine.name},
            field="confirm",
        )
    return services.claim(
        machine,
        JobName.MACHINE_REBUILD,
        Task.REBUILDING,
        IS_KNOWN,
        actor=actor,
        request_ip=request_ip,
        permission=Permission.MACHINE_DELETE,
        where=Q(keeps_definition=False, protected=False, missing_since=None),
        then=lambda claimed: _want(claimed, version, actor),
        detail={"image": str(version)},
    )


def _check(machine: Machine, version: ImageVersion) -> None:
    if machine.keeps_definition:
        raise ConflictError(_("Somebody else defined this machine: it cannot be rebuilt here."))
    if machine.missing_since is not None:
        raise ConflictError(_("%(name)s is missing on its host.") % {"name": machine.name})
    services.refuse_protected(machine)
    if snapshots.is_held(machine):
        raise ConflictError(_("One of its snapshots is being copied just now. It can be rebuilt when that has ended."))
    if version.image.project_id not in (None, machine.project_id) or version.status != VersionStatus.READY:
        raise InvalidError(_("This image cannot be used in this project, or not now."), field="image")
    if reason := why_not(machine, version):
        raise InvalidError(reason, field="image")


def why_not(machine: Machine, version: ImageVersion) -> str:
    """Why the machine is too small for this version; empty if it is not."""
    if version.image.min_memory_mib > machine.memory_mib:
        return _("%(image)s needs at least %(memory)s of memory: give the machine another size first.") % {
            "image": version.image.title,
            "memory": format_mib(version.image.min_memory_mib),
        }
    if version.virtual_size_bytes > machine.disk_gib * 1024**3:
        return _("%(image)s needs a disk of at least %(disk)s GiB: grow the machine's disk first.") % {
            "image": version.image.title,
            "disk": -(-version.virtual_size_bytes // 1024**3),
        }
    return ""


def _want(machine: Machine, version: ImageVersion, actor: User) -> None:
    values: dict[str, object] = {"next_version": version}
    if not machine.login_user:  # It was installed from a disc, or found.
        values |= {"login_user": login_user_for(actor), "login_password": seal(new_password())}
    Machine.objects.filter(pk=machine.pk, task=Task.REBUILDING).update(**values)
    events.record(Kind.MACHINE_REQUESTED, machine, actor=actor, image=str(version), rebuilt=True)


# --- what workers found out ---------------------------------------------------------------------------------------


@transaction.atomic
def record_renewed(machine: Machine) -> None:
    """Its disk is made of the new version. One that was a clone is none any more."""
    rows = Machine.objects.filter(pk=machine.pk, task=Task.REBUILDING, next_version__isnull=False)
    now = {"image_version_id": machine.next_version_id, "kind": _kind_of(machine), "cloned_from": None}
    # It starts as the image says, and reads its seed, whatever it was installed from before.
    if rows.update(**now, firmware="", iso_name="", boot_disc=False, **services.NOT_FORKED):
        cloning.forget_copy(machine)
        snapshots.record_disks_gone(machine)
        services.tell(machine.pk)


def _kind_of(machine: Machine) -> str:
    return machine.next_version.image.kind if machine.next_version else machine.kind


@transaction.atomic
def record_rebuilt(machine: Machine) -> None:
    ended = Machine.objects.filter(pk=machine.pk, task=Task.REBUILDING)
    if ended.update(next_version=None, boot_deadline=None, ready_at=timezone.now()):
        events.record(Kind.MACHINE_BUILT, machine, addresses=list(machine.addresses))
    services.record_task_ended(machine, Task.REBUILDING)


@transaction.atomic
def record_not_rebuilt(machine: Machine, *, message: str) -> None:
    """Whether its disk is the old one, the new one or none is shown by its row and its host."""
    Machine.objects.filter(pk=machine.pk).update(next_version=None)
    services.record_task_ended(machine, Task.REBUILDING, message=message)
