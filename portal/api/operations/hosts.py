"""Hosts, and what does not agree between them and the rows. All of it is for operators."""

from typing import Final, Literal
from uuid import UUID

from django.http import HttpRequest
from ninja import Query

from portal.accounts.http import client_ip, person
from portal.accounts.permissions import Permission
from portal.accounts.selectors import project_for
from portal.api.core import Guard, operation
from portal.api.operations.machines import job_of
from portal.api.operations.parts import operators_only
from portal.api.paging import Listed, PageQuery, page_of
from portal.api.schemas import AdoptIn, DifferenceOut, HostIn, HostOut, JobOut, OverviewOut, Text
from portal.console.selectors import open_sessions
from portal.errors import NotFoundError
from portal.hosts import services
from portal.hosts.differences import difference_for, differences_on
from portal.hosts.models import Difference, Host
from portal.hosts.problems import in_trouble
from portal.hosts.selectors import host_for, hosts_with_counts
from portal.jobs.models import Job
from portal.jobs.selectors import active_jobs, recent_failures, stuck_jobs
from portal.machines import drift
from portal.machines.selectors import counts_by_condition, machine_for

TAG: Final = "Hosts"
MOST_COUNTED: Final = 1000


@operation("GET", "overview", tag=TAG, answers=OverviewOut, pages=("hosts:overview",))
def show_overview(request: HttpRequest) -> OverviewOut:
    """Whether everything is all right, in numbers."""
    operators_only(request)
    return OverviewOut(
        hosts=Host.objects.count(),
        troubled_hosts=Host.objects.filter(in_trouble()).count(),
        machines=dict(counts_by_condition()),
        running_jobs=active_jobs().count(),
        stuck_jobs=len(stuck_jobs(limit=MOST_COUNTED)),
        failures_of_last_day=recent_failures().count(),
        open_sessions=len(open_sessions(limit=MOST_COUNTED)),
    )


@operation(
    "GET",
    "hosts",
    tag=TAG,
    answers=Listed[HostOut],
    pages=("hosts:list",),
    links={"show_host": {"pk": "items/0/id"}, "list_differences": {"pk": "items/0/id"}},
)
def list_hosts(
    request: HttpRequest,
    page: Query[PageQuery],
    q: Text = "",
    state: Literal["", "trouble"] = "",
    sort: Literal["name", "-name"] = "name",
) -> Listed[HostOut]:
    """Hosts. `q` looks in names; `state=trouble` are those of which something is wrong."""
    operators_only(request)
    hosts = hosts_with_counts()
    if q:
        hosts = hosts.filter(name__icontains=q)
    if state:
        hosts = hosts.filter(in_trouble())
    return page_of(hosts, page, sort).shown(HostOut.of)


@operation("GET", "hosts/{uuid:pk}", tag=TAG, answers=HostOut, pages=("hosts:detail",))
def show_host(request: HttpRequest, pk: UUID) -> HostOut:
    """One host."""
    operators_only(request)
    host = hosts_with_counts().filter(pk=pk).first()
    if host is None:
        raise NotFoundError
    return HostOut.of(host)


@operation("PATCH", "hosts/{uuid:pk}", tag=TAG, answers=HostOut, pages=("hosts:enable",), guards=Guard(Host, show_host))
def change_host(request: HttpRequest, pk: UUID, body: HostIn) -> HostOut:
    """Let a host take new machines, or not."""
    host = host_for(person(request), pk)
    services.set_enabled(host, actor=person(request), enabled=body.enabled, request_ip=client_ip(request))
    return show_host(request, pk)


@operation("GET", "hosts/{uuid:pk}/differences", tag=TAG, answers=Listed[DifferenceOut], pages=("hosts:detail",))
def list_differences(request: HttpRequest, pk: UUID, page: Query[PageQuery]) -> Listed[DifferenceOut]:
    """What does not agree between a host and the portal's rows."""
    return page_of(differences_on(host_for(person(request), pk)), page, "pk").shown(DifferenceOut.of)


def show_difference(request: HttpRequest, pk: UUID) -> DifferenceOut:
    return DifferenceOut.of(difference_for(person(request), pk))


DIFFERENCE: Final = Guard(Difference, show_difference)


@operation(
    "POST",
    "differences/{uuid:pk}/adopt",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("hosts:adopt",),
    guards=DIFFERENCE,
    links={"show_job": {"pk": "id"}},
)
def adopt_difference(request: HttpRequest, pk: UUID, body: AdoptIn) -> Job:
    """Make what was found on a host a machine of a project."""
    difference = difference_for(person(request), pk)
    project = project_for(person(request), body.project)
    machine = drift.request_adoption(
        difference, actor=person(request), project=project, name=body.name, request_ip=client_ip(request)
    )
    return job_of(machine)


@operation(
    "POST",
    "differences/{uuid:pk}/repair",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("hosts:repair",),
    guards=DIFFERENCE,
    links={"show_job": {"pk": "id"}},
)
def repair_difference(request: HttpRequest, pk: UUID) -> Job:
    """Have a machine defined on its host again."""
    difference = difference_for(person(request), pk)
    machine = machine_for(person(request), difference.object_id, Permission.MACHINE_OPERATE)
    return drift.request_repair(machine, actor=person(request), request_ip=client_ip(request))


@operation(
    "POST",
    "differences/{uuid:pk}/remove-copy",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("hosts:remove-copy",),
    guards=DIFFERENCE,
    links={"show_job": {"pk": "id"}},
)
def remove_copy(request: HttpRequest, pk: UUID) -> Job:
    """Remove from a host what an earlier life of a machine left there."""
    difference = difference_for(person(request), pk)
    return drift.request_copy_removal(difference, actor=person(request), request_ip=client_ip(request))
