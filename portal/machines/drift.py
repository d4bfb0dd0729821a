"""What an operator does about a difference between a host and the rows, and what workers record of it."""

import re
from uuid import UUID, uuid4

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts import quota
from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import require
from portal.audit import services as audit
from portal.errors import ConflictError, ForbiddenError, InvalidError
from portal.events.kinds import Kind as EventKind
from portal.hosts import services as hosts
from portal.hosts.models import Difference, DifferenceKind
from portal.images.models import ImageVersion, Kind
from portal.jobs import services as jobs
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.jobs.selectors import active_job_of
from portal.lib.secrets import new_password, seal
from portal.machines import events
from portal.machines.models import Machine
from portal.machines.services import new_mac, release_resources
from portal.machines.states import LIVE, PowerState, Status, Task
from portal.machines.validators import validate_machine_name

ADOPTABLE = (DifferenceKind.FOREIGN, DifferenceKind.STRAY)
REPAIRABLE = (DifferenceKind.MISSING, DifferenceKind.SIZE)


def suggest_name(difference: Difference) -> str:
    """The host's name for it as far as it can be a machine's."""
    words = re.sub(r"[^a-z0-9]+", "-", difference.name.lower()).strip("-")[:63].strip("-")
    return words or f"found-{str(difference.object_id)[:8]}"


def request_adoption(
    difference: Difference, *, actor: User, project: Project, name: str, request_ip: str | None = None
) -> Machine:
    """Make what was found on a host a machine of a project. Asked twice, the same machine is given.

    It counts against the project's quota. The host's capacity is taken without asking: the machine is there already.
    """
    _operators_only(actor)
    if difference.kind not in ADOPTABLE:
        raise InvalidError(_("Only machines and disks that no project knows can be taken over."))
    try:
        validate_machine_name(name)
    except ValidationError as error:
        raise InvalidError(error.messages[0], field="name") from error
    try:
        with transaction.atomic():
            machine = _adopt(difference, actor=actor, project=project, name=name)
            audit.record(actor, "machine.adopted", machine, detail={"name": difference.name}, request_ip=request_ip)
            jobs.enqueue(JobName.MACHINE_ADOPT, machine, queue=machine.host.queue, actor=actor)
            events.machine_changed(machine)
            return machine
    except IntegrityError as error:
        earlier = Machine.objects.live().filter(pk=difference.object_id, project=project).first()
        if earlier is not None:
            return earlier
        raise ConflictError(
            _("There is a machine named %(name)s in this project, or this one was taken over already.")
            % {"name": name},
            field="name",
        ) from error


def _adopt(difference: Difference, *, actor: User, project: Project, name: str) -> Machine:
    detail = difference.detail
    is_stray = difference.kind == DifferenceKind.STRAY
    version = ImageVersion.objects.filter(pk=detail.get("image")).select_related("image").first() if is_stray else None
    machine = Machine.objects.create(
        id=difference.object_id,
        project=project,
        owner=actor,
        name=name,
        kind=version.image.kind if version else Kind.SERVER,
        image_version=version,
        vcpus=int(detail.get("vcpus") or 1),
        memory_mib=int(detail.get("memory_mib") or 1024),
        disk_gib=int(detail.get("disk_gib") or 0),
        host=difference.host,
        keeps_definition=not is_stray,
        login_user="admin" if is_stray else "",
        login_password=seal(new_password()) if is_stray else "",
        # A domain that keeps its definition keeps its own address as well; this one is only never anyone else's.
        mac=new_mac(),
        genid=uuid4(),
        status=Status.READY,
        task=Task.ADOPTING,
        task_since=timezone.now(),
        power_state=PowerState(detail.get("power_state") or PowerState.SHUT_OFF),
    )
    quota.reserve(project.pk, machine.amount)
    hosts.take_capacity(difference.host, machine.amount)
    return machine


@transaction.atomic
def request_repair(machine: Machine, *, actor: User, request_ip: str | None = None) -> Job:
    """Have the machine's definition written to its host anew, from what the portal knows. Its disk is kept."""
    require(actor, machine.project_id, Permission.MACHINE_OPERATE)
    claimed = Machine.objects.filter(pk=machine.pk, status=Status.READY, task=Task.NONE, keeps_definition=False).update(
        task=Task.REPAIRING, task_since=timezone.now()
    )
    if claimed != 1:
        under_way = active_job_of(machine)
        if under_way is not None and under_way.name == JobName.MACHINE_REPAIR:
            return under_way
        raise ConflictError(
            _("%(name)s is busy, or was defined by somebody else: only they can define it again.")
            % {"name": machine.name}
        )
    audit.record(actor, "machine.repair", machine, request_ip=request_ip)
    job = jobs.enqueue(JobName.MACHINE_REPAIR, machine, queue=machine.host.queue, actor=actor)
    events.machine_changed(machine)
    return job


@transaction.atomic
def request_copy_removal(difference: Difference, *, actor: User, request_ip: str | None = None) -> Job:
    """Remove from a host what an earlier life of a machine left there, the machine being on another host now."""
    _operators_only(actor)
    if difference.kind != DifferenceKind.ELSEWHERE:
        raise InvalidError(_("Only copies of a machine that belongs on another host are removed."))
    under_way = active_job_of(difference)
    if under_way is not None:
        return under_way
    audit.record(actor, "host.copy_removed", difference.host, detail={"name": difference.name}, request_ip=request_ip)
    return jobs.enqueue(JobName.COPY_REMOVE, difference, queue=difference.host.queue, actor=actor)


def is_copy(difference: Difference) -> bool:
    """True while the machine is another host's: what is here may go."""
    return Machine.objects.live().filter(pk=difference.object_id).exclude(host=difference.host_id).exists()


# --- what workers found out ---------------------------------------------------------------------------------------


@transaction.atomic
def record_adopted(machine: Machine) -> None:
    """It is a machine like any other now."""
    changed = Machine.objects.filter(pk=machine.pk, task=Task.ADOPTING).update(
        task=Task.NONE, task_since=None, ready_at=timezone.now(), error_message=""
    )
    if changed:
        Difference.objects.filter(host=machine.host, object_id=machine.pk, kind__in=ADOPTABLE).delete()
        hosts.tell(machine.host)
        events.record(EventKind.MACHINE_ADOPTED, machine)
        events.machine_changed(machine)


@transaction.atomic
def record_adoption_failed(machine: Machine) -> None:
    """What is on the host is left as it was found. The row goes: a deleted one would have the host cleaned of it."""
    release_resources(machine)
    Machine.objects.filter(pk=machine.pk, task=Task.ADOPTING).delete()
    events.machine_changed(machine)


@transaction.atomic
def record_missing(machine_id: UUID) -> None:
    """Its host answers, and has no such domain. Nothing is given up: the row and whatever is on the host stay."""
    changed = Machine.objects.filter(pk=machine_id, status__in=LIVE, missing_since=None).update(
        missing_since=timezone.now(), power_state=PowerState.UNKNOWN, power_state_at=timezone.now(), console_socket=""
    )
    if changed:
        events.record_power(Machine.objects.get(pk=machine_id), PowerState.UNKNOWN)
    _tell_if(changed, machine_id)


def record_found(machine_id: UUID) -> None:
    """Its host has it (again)."""
    changed = Machine.objects.filter(pk=machine_id, missing_since__isnull=False).update(missing_since=None)
    _tell_if(changed, machine_id)


def _tell_if(changed: int, machine_id: UUID) -> None:
    if changed:
        events.machine_changed(Machine.objects.get(pk=machine_id))


def _operators_only(actor: User) -> None:
    if not (actor.is_active and actor.is_staff):
        raise ForbiddenError(_("Only operators may do this."))
