"""The bin: what was deleted and can be taken back."""

import datetime as dt
from typing import Final, Literal, Self
from uuid import UUID

from django.http import HttpRequest
from ninja import Query
from pydantic import BaseModel

from portal.accounts.http import client_ip, person
from portal.accounts.permissions import Permission
from portal.api.core import Guard, operation
from portal.api.operations.machines import show_machine
from portal.api.paging import Listed, PageQuery, page_of
from portal.api.schemas import JobOut, MachineOut, Named, Text
from portal.jobs.models import Job
from portal.machines import binning, services
from portal.machines.models import Machine

TAG: Final = "Bin"


class BinnedOut(BaseModel):
    """A machine in the bin. On `purge_at` it is deleted for good. Its disk still counts against the quota."""

    id: UUID
    name: str
    project: Named
    owner: str | None
    disk_gib: int
    task: str | None
    protected: bool
    binned_at: dt.datetime | None
    purge_at: dt.datetime | None

    @classmethod
    def of(cls, machine: Machine) -> Self:
        return cls(
            id=machine.pk,
            name=machine.name,
            project=Named(id=machine.project_id, name=machine.project.name),
            owner=machine.owner.get_username() if machine.owner else None,
            disk_gib=machine.disk_gib,
            task=machine.task or None,
            protected=machine.protected,
            binned_at=machine.binned_at,
            purge_at=machine.purge_at,
        )


@operation(
    "GET",
    "bin",
    tag=TAG,
    answers=Listed[BinnedOut],
    pages=("machines:bin",),
    links={"show_binned": {"pk": "items/0/id"}, "restore_machine": {"pk": "items/0/id"}},
)
def list_bin(
    request: HttpRequest,
    *,
    page: Query[PageQuery],
    q: Text = "",
    name: Text = "",
    project: UUID | None = None,
    sort: Literal["name", "-name"] = "name",
) -> Listed[BinnedOut]:
    """What lies in the bins of your projects. `q` looks in names, `name` is one whole name."""
    machines = binning.binned_for(person(request))
    if q:
        machines = machines.filter(name__contains=q.lower())
    if name:
        machines = machines.filter(name=name)
    if project:
        machines = machines.filter(project=project)
    return page_of(machines, page, sort).shown(BinnedOut.of)


@operation("GET", "bin/{uuid:pk}", tag=TAG, answers=BinnedOut, pages=("machines:bin",))
def show_binned(request: HttpRequest, pk: UUID) -> BinnedOut:
    """One machine in the bin."""
    return BinnedOut.of(binning.binned_machine_for(person(request), pk, Permission.MACHINE_VIEW))


GUARD: Final = Guard(Machine, show_binned)


@operation("POST", "bin/{uuid:pk}/restore", tag=TAG, answers=MachineOut, pages=("machines:bin-restore",), guards=GUARD)
def restore_machine(request: HttpRequest, pk: UUID) -> MachineOut:
    """Take a machine out of the bin, switched off, if there is room for it."""
    machine = binning.binned_machine_for(person(request), pk, Permission.MACHINE_DELETE)
    binning.request_restore(machine, actor=person(request), request_ip=client_ip(request))
    return show_machine(request, pk)


@operation(
    "DELETE",
    "bin/{uuid:pk}",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("machines:bin-purge",),
    guards=GUARD,
    links={"show_job": {"pk": "id"}},
)
def purge_machine(request: HttpRequest, pk: UUID) -> Job:
    """Delete what lies in the bin for good. For the project's owners and for operators."""
    machine = binning.binned_machine_for(person(request), pk, Permission.MACHINE_PURGE)
    return services.request_delete(machine, actor=person(request), request_ip=client_ip(request))
