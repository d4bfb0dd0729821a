"""Volumes: disks of their own. What machines do with them is in `disks`."""

import datetime as dt
from collections.abc import Iterable
from typing import Annotated, Final, Literal, Self
from uuid import UUID

from django.db.models import QuerySet
from django.http import HttpRequest
from ninja import Query
from pydantic import BaseModel, Field

from portal.accounts.http import client_ip, person
from portal.accounts.permissions import Permission
from portal.accounts.selectors import project_for
from portal.api.core import Guard, operation
from portal.api.paging import Listed, PageQuery, page_of
from portal.api.schemas import Input, JobOut, Named, Text, spelled_out
from portal.jobs.models import Job
from portal.jobs.selectors import active_job_of, active_jobs_of, jobs_of
from portal.machines.device_selectors import volumes_for_machine
from portal.machines.models import Attachment
from portal.machines.selectors import machine_for
from portal.volumes import services
from portal.volumes.models import Volume
from portal.volumes.selectors import suggest_name, volume_for, volumes_for
from portal.volumes.states import Status
from portal.volumes.validators import MOST_GIB

TAG: Final = "Volumes"
VolumeStatus = Annotated[Status, spelled_out(Status)]
Sort = Literal["-created_at", "created_at", "name", "-name"]


class HolderOut(BaseModel):
    """The machine that has it, and what its requests call the disk. It may lie in the bin."""

    machine: Named
    disk: UUID
    delete_with_machine: bool

    @classmethod
    def of(cls, attachment: Attachment | None) -> Self | None:
        if attachment is None:
            return None
        machine = attachment.machine
        return cls(
            machine=Named(id=machine.pk, name=machine.name),
            disk=attachment.pk,
            delete_with_machine=attachment.delete_with_machine,
        )


class VolumeOut(BaseModel):
    """`status` is stable, `task` what happens to it now."""

    id: UUID
    name: str
    project: Named
    size_gib: int
    wanted_gib: int | None = Field(description="The size that it grows to just now.")
    status: VolumeStatus
    task: str | None
    task_since: dt.datetime | None
    error: str
    attached: HolderOut | None
    serial: str = Field(description="A guest finds it at /dev/disk/by-id/virtio-<serial>.")
    host: Named | None = Field(description="For operators.")
    job: UUID | None = Field(
        description="The job that works on it now; a machine's disk is worked on by the machine's."
    )
    created_by: str | None
    created_at: dt.datetime

    @classmethod
    def of(cls, volume: Volume, job: Job | None, *, operator: bool) -> Self:
        return cls(
            id=volume.pk,
            name=volume.name,
            project=Named(id=volume.project_id, name=volume.project.name),
            size_gib=volume.size_gib,
            wanted_gib=volume.wanted_gib,
            status=Status(volume.status),
            task=volume.task or None,
            task_since=volume.task_since,
            error=volume.error_message,
            attached=HolderOut.of(getattr(volume, "attachment", None)),
            serial=volume.serial,
            host=Named(id=volume.host_id, name=volume.host.name) if operator else None,
            job=job.pk if job else None,
            created_by=volume.created_by.get_username() if volume.created_by else None,
            created_at=volume.created_at,
        )


def _shown(request: HttpRequest, volumes: Iterable[Volume]) -> list[VolumeOut]:
    listed = list(volumes)
    jobs = active_jobs_of("volume", [volume.pk for volume in listed])
    operator = person(request).is_staff
    return [VolumeOut.of(volume, jobs.get(volume.pk), operator=operator) for volume in listed]


@operation(
    "GET",
    "volumes",
    tag=TAG,
    answers=Listed[VolumeOut],
    pages=("volumes:list",),
    links={"show_volume": {"pk": "items/0/id"}},
)
def list_volumes(
    request: HttpRequest,
    *,
    page: Query[PageQuery],
    q: Text = "",
    status: VolumeStatus | None = None,
    project: UUID | None = None,
    name: Text = "",
    machine: UUID | None = None,
    free_for: UUID | None = None,
    sort: Sort = "-created_at",
) -> Listed[VolumeOut]:
    """Volumes that you see. `q` looks in names, `name` is one whole name; `machine` has them, in the bin too; those
    that are `free_for` a machine could be attached to it."""
    volumes = volumes_for(person(request), search=q, status=status or "")
    if project:
        volumes = volumes.filter(project=project)
    if name:
        volumes = volumes.filter(name=name)
    if machine:
        volumes = volumes.filter(attachment__machine=machine)
    if free_for:
        volumes = _free_for(request, volumes, free_for)
    found = page_of(volumes, page, sort)
    return Listed[VolumeOut](items=_shown(request, found.rows), next=found.next)


def _free_for(request: HttpRequest, volumes: QuerySet[Volume], machine: UUID) -> QuerySet[Volume]:
    here, _elsewhere = volumes_for_machine(machine_for(person(request), machine))
    return volumes.filter(pk__in=[volume.pk for volume in here])


@operation(
    "GET",
    "volumes/{uuid:pk}",
    tag=TAG,
    answers=VolumeOut,
    pages=("volumes:detail",),
    links={"grow_volume": {"pk": "id"}, "delete_volume": {"pk": "id"}},
)
def show_volume(request: HttpRequest, pk: UUID) -> VolumeOut:
    """One volume."""
    [shown] = _shown(request, [volume_for(person(request), pk)])
    return shown


GUARD: Final = Guard(Volume, show_volume)


class SizeIn(Input):
    """A disk only grows."""

    size_gib: int = Field(ge=1, le=MOST_GIB)


class VolumeIn(SizeIn):
    project: UUID
    name: Text | None = Field(default=None, max_length=63, description="Left out, a free one is chosen.")


@operation(
    "POST",
    "volumes",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("volumes:new",),
    links={"show_job": {"pk": "id"}, "show_volume": {"pk": "target/id"}, "delete_volume": {"pk": "target/id"}},
)
def create_volume(request: HttpRequest, body: VolumeIn) -> Job:
    """Have a volume made, which machines can have later. The job's target is the volume."""
    user = person(request)
    project = project_for(user, body.project, Permission.MACHINE_CREATE)
    name = suggest_name(project) if body.name is None else body.name
    volume = services.request_volume(
        project, actor=user, name=name, size_gib=body.size_gib, request_ip=client_ip(request)
    )
    return active_job_of(volume) or jobs_of(volume, limit=1)[0]


@operation(
    "POST",
    "volumes/{uuid:pk}/grow",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("volumes:grow",),
    guards=GUARD,
    links={"show_job": {"pk": "id"}},
)
def grow_volume(request: HttpRequest, pk: UUID, body: SizeIn) -> Job:
    """Make a volume larger that no machine has. One that a machine has grows as its disk."""
    volume = volume_for(person(request), pk, Permission.MACHINE_OPERATE)
    return services.request_grow(volume, actor=person(request), size_gib=body.size_gib, request_ip=client_ip(request))


@operation(
    "DELETE",
    "volumes/{uuid:pk}",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("volumes:delete",),
    guards=GUARD,
    links={"show_job": {"pk": "id"}},
)
def delete_volume(request: HttpRequest, pk: UUID) -> Job:
    """Delete a volume that no machine has, with all that is on it."""
    volume = volume_for(person(request), pk, Permission.MACHINE_DELETE)
    return services.request_delete(volume, actor=person(request), request_ip=client_ip(request))
