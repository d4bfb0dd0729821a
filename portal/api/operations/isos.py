"""ISOs; what lies in the drives of machines; machines that are installed from one; rescue and back."""

import datetime as dt
from typing import Annotated, Final, Literal, Self
from uuid import UUID

from django.db import transaction
from django.http import HttpRequest
from django.utils.translation import gettext as _
from ninja import Field, Query, Schema
from pydantic import BaseModel

from portal.accounts.http import client_ip, person
from portal.accounts.permissions import Permission
from portal.accounts.selectors import project_for
from portal.api.core import Guard, operation
from portal.api.operations.machines import GUARD, flavour_named, job_of
from portal.api.operations.machines import TAG as MACHINES
from portal.api.paging import Listed, PageQuery, page_of
from portal.api.schemas import Input, JobOut, Named, SecretOut, Text, spelled_out
from portal.audit import services as audit
from portal.errors import ForbiddenError, InvalidError
from portal.images.models import Kind
from portal.isos import services
from portal.isos.models import Iso, Role, Status
from portal.isos.selectors import iso_for, isos_for, may_delete
from portal.jobs.models import Job
from portal.jobs.selectors import active_job_of, jobs_of
from portal.machines import discs, installing, rescue
from portal.machines.disc_selectors import DriveLine, drive_lines, rescue_images, rescue_isos
from portal.machines.models import Firmware, Machine
from portal.machines.selectors import machine_for, rescue_password_of
from portal.machines.services import suggest_name
from portal.volumes.validators import MOST_GIB

TAG: Final = "ISOs"
JOB: Final = {"show_job": {"pk": "id"}}
IsoRole = Annotated[Role, spelled_out(Role)]
IsoStatus = Annotated[Status, spelled_out(Status)]
MachineFirmware = Annotated[Firmware, spelled_out(Firmware)]
Sort = Literal["name", "-name", "-created_at", "created_at"]


class IsoOut(BaseModel):
    """`project` is null for one that is everyone's."""

    id: UUID
    name: str
    role: IsoRole
    status: IsoStatus
    project: Named | None
    size_bytes: int
    sha256: str
    upload_name: str
    error: str
    created_by: str | None
    created_at: dt.datetime

    @classmethod
    def of(cls, iso: Iso) -> Self:
        return cls(
            id=iso.pk,
            name=iso.name,
            role=Role(iso.role),
            status=Status(iso.status),
            project=Named(id=iso.project.pk, name=iso.project.name) if iso.project else None,
            size_bytes=iso.size_bytes,
            sha256=iso.sha256,
            upload_name=iso.upload_name,
            error=iso.error,
            created_by=iso.created_by.get_username() if iso.created_by else None,
            created_at=iso.created_at,
        )


@operation(
    "GET",
    "isos",
    tag=TAG,
    answers=Listed[IsoOut],
    pages=("isos:list",),
    links={"show_iso": {"pk": "items/0/id"}},
)
def list_isos(
    request: HttpRequest,
    *,
    page: Query[PageQuery],
    role: IsoRole | None = None,
    q: Text = "",
    name: Text = "",
    sort: Sort = "name",
) -> Listed[IsoOut]:
    """ISOs that you see. `q` looks in names, `name` is one whole name."""
    isos = isos_for(person(request))
    if role:
        isos = isos.filter(role=role)
    if q:
        isos = isos.filter(name__icontains=q)
    if name:
        isos = isos.filter(name=name)
    return page_of(isos, page, sort).shown(IsoOut.of)


@operation("GET", "isos/{uuid:pk}", tag=TAG, answers=IsoOut, pages=("isos:detail",))
def show_iso(request: HttpRequest, pk: UUID) -> IsoOut:
    """One ISO."""
    return IsoOut.of(iso_for(person(request), pk))


class IsoIn(Input):
    upload: UUID = Field(description="A whole upload of yours. The ISO takes over its id.")
    name: Text = Field(min_length=1, max_length=100, pattern=r"\S")
    role: IsoRole = Role.INSTALLER
    project: UUID | None = Field(default=None, description="Left out, it is for everyone; only operators may.")
    sha256: Text = Field(default="", max_length=80, description="What it is to have; compared with what arrived.")


@operation("POST", "isos", tag=TAG, answers=JobOut, status=202, pages=("isos:upload",), links=JOB)
def add_iso(request: HttpRequest, body: IsoIn) -> Job:
    """Make an ISO of an upload, and have it checked. The job's target is the ISO."""
    user = person(request)
    iso = services.request_iso(
        body.upload,
        actor=user,
        name=body.name,
        role=body.role,
        project=project_for(user, body.project, Permission.IMAGE_CREATE) if body.project else None,
        sha256=body.sha256,
        request_ip=client_ip(request),
    )
    return active_job_of(iso) or jobs_of(iso, limit=1)[0]


@operation(
    "DELETE",
    "isos/{uuid:pk}",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("isos:delete",),
    guards=Guard(Iso, show_iso),
    links=JOB,
)
def delete_iso(request: HttpRequest, pk: UUID) -> Job:
    """Delete an ISO that lies in no machine's drive."""
    user = person(request)
    iso = iso_for(user, pk)
    if not may_delete(user, iso):
        raise ForbiddenError
    return services.request_delete(iso, actor=user, request_ip=client_ip(request))


# --- a new machine ------------------------------------------------------------------------------------------------


class InstallIn(Input):
    project: UUID
    iso: UUID = Field(description="What it is installed from, in its first drive.")
    drivers: UUID | None = Field(default=None, description="A second disc, such as virtio drivers.")
    flavour: Text = Field(max_length=40, description="A size, by its name: processors and memory.")
    disk_gib: int | None = Field(default=None, ge=1, le=MOST_GIB, description="Left out, as the size says.")
    name: Text | None = Field(default=None, max_length=63, description="Left out, a free one is chosen.")
    kind: Kind = Kind.DESKTOP
    firmware: MachineFirmware = Firmware.UEFI
    tpm: bool = Field(default=False, description="A TPM 2.0.")


@operation(
    "POST",
    "machines/from-iso",
    tag=MACHINES,
    answers=JobOut,
    status=202,
    pages=("machines:new-iso",),
    links={"show_job": {"pk": "id"}, "show_machine": {"pk": "target/id"}},
)
def install_machine(request: HttpRequest, body: InstallIn) -> Job:
    """Have a machine made with an empty disk and an ISO in its drive, and started. The job's target is the machine."""
    user = person(request)
    project = project_for(user, body.project, Permission.MACHINE_CREATE)
    flavour = flavour_named(body.flavour)
    machine = installing.request_install(
        project,
        actor=user,
        iso=iso_for(user, body.iso),
        drivers=iso_for(user, body.drivers) if body.drivers else None,
        flavour=flavour,
        disk_gib=flavour.disk_gib if body.disk_gib is None else body.disk_gib,
        name=body.name or suggest_name(project, kind=body.kind),
        kind=body.kind,
        firmware=body.firmware,
        tpm=body.tpm,
        request_ip=client_ip(request),
    )
    return job_of(machine)


# --- what lies in its drives --------------------------------------------------------------------------------------


class DriveOut(BaseModel):
    """A disc drive. `id` is that of the disc in it, by which it is ejected; null if it is empty."""

    drive: int
    id: UUID | None
    iso: Named | None
    task: str | None

    @classmethod
    def of(cls, line: DriveLine) -> Self:
        disc = line.disc
        return cls(
            drive=line.slot,
            id=disc.pk if disc else None,
            iso=Named(id=disc.iso_id, name=disc.iso.name) if disc else None,
            task=(disc.task or None) if disc else None,
        )


@operation("GET", "machines/{uuid:pk}/discs", tag=MACHINES, answers=Listed[DriveOut], pages=("machines:detail",))
def list_machine_discs(request: HttpRequest, pk: UUID) -> Listed[DriveOut]:
    """A machine's disc drives and what lies in them. The ETag of this list is what changes of it take as If-Match."""
    lines = drive_lines(machine_for(person(request), pk))
    return Listed[DriveOut](items=[DriveOut.of(line) for line in lines], next=None)


DISCS: Final = Guard(Machine, list_machine_discs)


class DiscIn(Input):
    iso: UUID
    drive: int | None = Field(default=None, ge=0, lt=discs.DRIVES, description="Left out, the first that is empty.")


def _machine(request: HttpRequest, pk: UUID) -> Machine:
    return machine_for(person(request), pk, Permission.MACHINE_OPERATE)


@operation(
    "POST",
    "machines/{uuid:pk}/discs",
    tag=MACHINES,
    answers=JobOut,
    status=202,
    pages=("machines:disc-insert",),
    guards=DISCS,
    links=JOB,
)
def insert_disc(request: HttpRequest, pk: UUID, body: DiscIn) -> Job:
    """Put an ISO into an empty drive, at once if the machine runs."""
    machine, user = _machine(request, pk), person(request)
    iso = iso_for(user, body.iso)
    return discs.request_insert(machine, actor=user, iso=iso, slot=body.drive, request_ip=client_ip(request))


class EjectQuery(Schema):
    force: bool = Field(default=False, description="Without asking the guest to open the drive.")


@operation(
    "DELETE",
    "machines/{uuid:pk}/discs/{uuid:disc}",
    tag=MACHINES,
    answers=JobOut,
    status=202,
    pages=("machines:disc-eject",),
    guards=DISCS,
    links=JOB,
)
def eject_disc(request: HttpRequest, pk: UUID, disc: UUID, how: Query[EjectQuery]) -> Job:
    """Take a disc out. The job is done when the machine's host says that the drive is empty."""
    machine = _machine(request, pk)
    return discs.request_eject(
        machine, actor=person(request), disc=disc, force=how.force, request_ip=client_ip(request)
    )


class StartFromIn(Input):
    disc: bool = Field(description="Whether the first drive is tried before the disks.")


@operation("PUT", "machines/{uuid:pk}/boot", tag=MACHINES, status=204, pages=("machines:disc-boot",), guards=GUARD)
def start_from_disc(request: HttpRequest, pk: UUID, body: StartFromIn) -> None:
    """Say what it tries first at its next start: the disc in its first drive, or its disks."""
    machine = _machine(request, pk)
    discs.set_boot_disc(machine, actor=person(request), first=body.disc, request_ip=client_ip(request))


# --- rescue -------------------------------------------------------------------------------------------------------


class SystemOut(BaseModel):
    """What a machine could be started from instead: the newest version of an image, or an ISO. One of both is set."""

    image: UUID | None
    iso: UUID | None
    title: str


@operation("GET", "machines/{uuid:pk}/rescue", tag=MACHINES, answers=Listed[SystemOut], pages=("machines:rescue",))
def list_rescue_systems(request: HttpRequest, pk: UUID) -> Listed[SystemOut]:
    """What a machine could be rescued by."""
    user = person(request)
    machine = machine_for(user, pk, Permission.MACHINE_CREATE)
    items = [SystemOut(image=image.pk, iso=None, title=str(version)) for image, version in rescue_images(user, machine)]
    items += [SystemOut(image=None, iso=iso.pk, title=iso.name) for iso in rescue_isos(user, machine)]
    return Listed[SystemOut](items=items, next=None)


class RescueIn(Input):
    """One of both."""

    image: UUID | None = Field(default=None, description="An image; its newest version that is ready is taken.")
    iso: UUID | None = None


@operation(
    "POST",
    "machines/{uuid:pk}/rescue",
    tag=MACHINES,
    answers=JobOut,
    status=202,
    pages=("machines:rescue",),
    guards=GUARD,
    links=JOB,
)
def rescue_machine(request: HttpRequest, pk: UUID, body: RescueIn) -> Job:
    """Cut its power and start it from another system, with its own disk beside."""
    user, request_ip = person(request), client_ip(request)
    machine = machine_for(user, pk, Permission.MACHINE_CREATE)
    if (body.image is None) == (body.iso is None):
        raise InvalidError(_("Say an image or an ISO to start it from."), field="image")
    if body.iso is not None:
        iso = next((one for one in rescue_isos(user, machine) if one.pk == body.iso), None)
        if iso is None:
            raise InvalidError(_("The machine cannot be started from this."), field="iso")
        return rescue.request_rescue(machine, actor=user, iso=iso, request_ip=request_ip)
    version = next((one for image, one in rescue_images(user, machine) if image.pk == body.image), None)
    if version is None:
        raise InvalidError(_("The machine cannot be started from this."), field="image")
    return rescue.request_rescue(machine, actor=user, image_version=version, request_ip=request_ip)


@operation(
    "DELETE",
    "machines/{uuid:pk}/rescue",
    tag=MACHINES,
    answers=JobOut,
    status=202,
    pages=("machines:unrescue",),
    guards=GUARD,
    links=JOB,
)
def end_rescue(request: HttpRequest, pk: UUID) -> Job:
    """Cut its power and start it from its own disk again."""
    machine = machine_for(person(request), pk, Permission.MACHINE_CREATE)
    return rescue.request_unrescue(machine, actor=person(request), request_ip=client_ip(request))


@operation(
    "POST",
    "machines/{uuid:pk}/rescue/secret",
    tag=MACHINES,
    answers=SecretOut,
    pages=("machines:rescue-secret",),
    guards=GUARD,
)
def show_rescue_secret(request: HttpRequest, pk: UUID) -> SecretOut:
    """The password in the rescue system. That it was asked for is written down, so this is a POST."""
    with transaction.atomic():
        machine, password = rescue_password_of(person(request), pk)
        audit.record(person(request), "machine.rescue_secret", machine, request_ip=client_ip(request))
    return SecretOut(login_user=machine.rescue_user, password=password)
