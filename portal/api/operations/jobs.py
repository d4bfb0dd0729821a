"""Background work: what runs or ran, to be asked again and again or to be followed."""

from typing import Final, Literal
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from ninja import Query

from portal.accounts.http import client_ip, person
from portal.api import follow
from portal.api.auth import token_in
from portal.api.core import Guard, operation
from portal.api.paging import Listed, PageQuery, page_of
from portal.api.schemas import JobOut, Text
from portal.jobs import services
from portal.jobs.models import Job
from portal.jobs.names import JobName, JobStatus
from portal.jobs.selectors import find_jobs, job_for

TAG: Final = "Jobs"
Sort = Literal["-created_at", "created_at"]
State = Literal["", "active"] | JobStatus


@operation(
    "GET", "jobs", tag=TAG, answers=Listed[JobOut], pages=("jobs:list",), links={"show_job": {"pk": "items/0/id"}}
)
def list_jobs(
    request: HttpRequest,
    *,
    page: Query[PageQuery],
    state: State = "",
    kind: JobName | None = None,
    q: Text = "",
    target: UUID | None = None,
    sort: Sort = "-created_at",
) -> Listed[JobOut]:
    """Jobs of your projects; an operator's list holds all. `target` is the id of what they are about."""
    jobs = find_jobs(person(request), state=state, kind=kind or "", search=q)
    return page_of(jobs.filter(target_id=target) if target else jobs, page, sort).shown(JobOut.of)


@operation("GET", "jobs/{uuid:pk}", tag=TAG, answers=JobOut, pages=("jobs:detail",), links={"cancel_job": {"pk": "id"}})
def show_job(request: HttpRequest, pk: UUID) -> JobOut:
    """One job with its steps."""
    return JobOut.of(job_for(person(request), pk))


@operation(
    "POST",
    "jobs/{uuid:pk}/cancel",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("jobs:cancel",),
    guards=Guard(Job, show_job),
)
def cancel_job(request: HttpRequest, pk: UUID) -> JobOut:
    """Have a job stopped at its next step, and what it made taken back."""
    services.cancel_job(job_for(person(request), pk), actor=person(request), request_ip=client_ip(request))
    return show_job(request, pk)


@operation("GET", "jobs/{uuid:pk}/events", tag=TAG)
def follow_job(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Follow a job: server-sent events named `job`, each the whole job as it is then, until it has ended."""
    job = job_for(person(request), pk)
    return follow.stream(request, job, token_in(request))
