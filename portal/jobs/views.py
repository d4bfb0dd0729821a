"""Background work: what runs or ran, and one job's steps."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST, require_safe

from portal.accounts.http import client_ip, is_live, person
from portal.jobs import services
from portal.jobs.models import Job, JobStep
from portal.jobs.names import JobName, JobStatus, StepStatus
from portal.jobs.selectors import (
    deleted_machines,
    find_jobs,
    job_for,
    lines_of,
    may_cancel,
    steps_shown,
    taken_seconds,
    usual_seconds_of_steps,
)
from portal.lib.paging import page_of, text_of

STATES = {"active": gettext_lazy("Under way"), **dict(JobStatus.choices)}


@dataclass(frozen=True, slots=True)
class StepLine:
    """A step, and how long it usually takes when that is worth knowing: while it runs or is to come."""

    step: JobStep
    usual: float | None


@require_safe
def job_list(request: HttpRequest) -> HttpResponse:
    state, kind, search = text_of(request, "state"), text_of(request, "kind"), text_of(request, "q")
    page = page_of(request, find_jobs(request.user, state=state, kind=kind, search=search))
    context = {
        "page": page,
        "lines": lines_of(page),
        "gone": deleted_machines(job.target_id for job in page),
        "filtered": bool(state or kind or search),
        "states": STATES,
        "kinds": JobName.choices,
        "state": state,
        "kind": kind,
        "search": search,
    }
    return render(request, "jobs/_list.html" if is_live(request) else "jobs/list.html", context)


@require_safe
def job_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    job = job_for(request.user, pk)
    context = {
        "job": job,
        "lines": _lines(job),
        "seconds": taken_seconds(job),
        "target_is_gone": job.target_id in deleted_machines([job.target_id]),
        "may_cancel": may_cancel(request.user, job),
    }
    return render(request, "jobs/_detail.html" if is_live(request) else "jobs/detail.html", context)


@require_POST
def job_cancel(request: HttpRequest, pk: UUID) -> HttpResponse:
    job = job_for(request.user, pk)
    services.cancel_job(job, actor=person(request), request_ip=client_ip(request))
    messages.success(request, _("The job stops at its next step, and what it made is taken back."))
    return redirect("jobs:detail", pk=job.pk)


def _lines(job: Job) -> list[StepLine]:
    usual = usual_seconds_of_steps(JobName(job.name)) if job.is_active else {}
    to_come = (StepStatus.PENDING, StepStatus.RUNNING)
    return [StepLine(step, usual.get(step.name) if step.status in to_come else None) for step in steps_shown(job)]
