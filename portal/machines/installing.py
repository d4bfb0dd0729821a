"""A new machine with nothing on its disk, and an ISO in its drive to install from: any operating system."""

from __future__ import annotations

from uuid import UUID, uuid4

from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts import quota
from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.accounts.quota import Amount
from portal.accounts.selectors import require
from portal.audit import services as audit
from portal.errors import InvalidError, NotFoundError
from portal.events.kinds import Kind
from portal.hosts import services as hosts
from portal.images.models import Kind as MachineKind
from portal.isos import services as isos
from portal.isos.models import Iso
from portal.jobs import services as jobs
from portal.jobs.names import JobName
from portal.machines import events, services
from portal.machines.models import Disc, Firmware, Flavour, Machine
from portal.machines.states import Task
from portal.volumes.validators import check_size


def request_install(
    project: Project,
    *,
    actor: User,
    iso: Iso,
    drivers: Iso | None = None,
    flavour: Flavour,
    disk_gib: int,
    name: str,
    kind: MachineKind = MachineKind.DESKTOP,
    firmware: Firmware = Firmware.UEFI,
    tpm: bool = False,
    request_key: UUID | None = None,
    request_ip: str | None = None,
) -> Machine:
    """Reserve quota and a host, and have the machine made and started. `drivers` goes into its second drive.

    It starts from its disk, and while there is nothing to start from on that, from the first drive. The same
    `request_key` gives the same machine again.
    """
    require(actor, project.pk, Permission.MACHINE_CREATE)
    earlier = services.machine_of_request(project, request_key)
    if earlier is not None:
        return earlier
    services.check_name(name)
    _check(project, iso, drivers, flavour, disk_gib)
    try:
        with transaction.atomic():
            machine = _create(
                project,
                actor,
                flavour,
                disk_gib=disk_gib,
                name=name,
                kind=kind,
                firmware=firmware,
                tpm=tpm,
                iso_name=iso.name,
                request_key=request_key or uuid4(),
            )
            _insert(machine, iso, drivers)
            _tell(machine, iso, flavour, actor, request_ip)
            return machine
    except IntegrityError as error:
        earlier = services.machine_of_request(project, request_key)
        if earlier is not None:
            return earlier
        raise services.name_is_taken(name) from error


def _check(project: Project, iso: Iso, drivers: Iso | None, flavour: Flavour, disk_gib: int) -> None:
    for one in filter(None, (iso, drivers)):
        if one.project_id not in (None, project.pk):
            raise NotFoundError
    if not flavour.enabled:
        raise InvalidError(_("This size is no longer offered."), field="flavour")
    try:
        check_size(disk_gib)
    except InvalidError as error:
        raise InvalidError(str(error.message), field="disk_gib") from error


def _create(project: Project, actor: User, flavour: Flavour, *, disk_gib: int, **values: object) -> Machine:
    amount = Amount(machines=1, vcpus=flavour.vcpus, memory_mib=flavour.memory_mib, disk_gib=disk_gib)
    quota.reserve(project.pk, amount)
    return Machine.objects.create(
        project=project,
        owner=actor,
        flavour=flavour,
        vcpus=flavour.vcpus,
        memory_mib=flavour.memory_mib,
        disk_gib=disk_gib,
        host=hosts.reserve_capacity(amount),
        mac=services.new_mac(),
        task=Task.BUILDING,
        task_since=timezone.now(),
        **values,
    )


def _insert(machine: Machine, iso: Iso, drivers: Iso | None) -> None:
    for slot, one in enumerate(filter(None, (iso, drivers))):
        Disc.objects.create(machine=machine, slot=slot, iso=isos.hold_ready(one.pk))


def _tell(machine: Machine, iso: Iso, flavour: Flavour, actor: User, request_ip: str | None) -> None:
    detail = {"iso": iso.name, "flavour": flavour.name}
    audit.record(actor, "machine.requested", machine, detail=detail, request_ip=request_ip)
    events.record(Kind.MACHINE_REQUESTED, machine, actor=actor, image=iso.name, flavour=flavour.name)
    jobs.enqueue(JobName.MACHINE_INSTALL, machine, queue=machine.host.queue, actor=actor)
    events.machine_changed(machine)
