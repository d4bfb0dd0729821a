"""Reads about jobs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.db.models import Prefetch, Q, QuerySet
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import permissions_in
from portal.errors import NotFoundError
from portal.jobs.models import Job, JobStep
from portal.jobs.names import ACTIVE, JobName, JobStatus, StepName, StepStatus

# Work that makes something can be stopped half-way and taken back; who may ask for that needs this permission.
CANCELLABLE = {
    JobName.MACHINE_CREATE: Permission.MACHINE_CREATE,
    JobName.MACHINE_CLONE: Permission.MACHINE_CREATE,
    JobName.IMAGE_CAPTURE: Permission.IMAGE_CREATE,
    JobName.MACHINE_INSTALL: Permission.MACHINE_CREATE,
    JobName.IMAGE_BUILD: Permission.IMAGE_CREATE,
    JobName.IMAGE_FETCH: Permission.IMAGE_CREATE,
}


def jobs_for(user: User | AnonymousUser) -> QuerySet[Job]:
    """Jobs of the person's projects; an operator's view holds all."""
    if not user.is_active:
        return Job.objects.none()
    jobs = Job.objects.select_related("actor", "project").prefetch_related("steps")
    if user.is_staff:
        return jobs
    return jobs.filter(project__in=Project.objects.with_permission(user, Permission.MACHINE_VIEW))


def job_for(user: User | AnonymousUser, pk: UUID | str) -> Job:
    job = jobs_for(user).filter(pk=pk).first()
    if job is None:
        raise NotFoundError
    return job


def jobs_of(target: models.Model, *, limit: int = 20) -> list[Job]:
    """The newest jobs of one object, with their steps."""
    jobs = Job.objects.filter(target_type=target._meta.model_name, target_id=target.pk).select_related("actor")
    return list(jobs.prefetch_related(Prefetch("steps", JobStep.objects.order_by("position")))[:limit])


def active_job_of(target: models.Model) -> Job | None:
    jobs = Job.objects.filter(target_type=target._meta.model_name, target_id=target.pk, status__in=ACTIVE)
    return jobs.prefetch_related("steps").first()


def active_jobs_of(target_type: str, target_ids: Iterable[UUID]) -> dict[UUID, Job]:
    """The active job of each of many objects, by the object's id, with its steps: two queries for all of them."""
    jobs = Job.objects.filter(target_type=target_type, target_id__in=list(target_ids), status__in=ACTIVE)
    # Oldest first, so that the newest one stays when a job replaces another that has not stopped yet.
    return {job.target_id: job for job in jobs.order_by("created_at").prefetch_related("steps")}


def current_step(job: Job) -> JobStep | None:
    """The step that runs, or the next one to run. The job's steps are fetched already."""
    steps = sorted(job.steps.all(), key=lambda step: step.position)
    running = [step for step in steps if step.status == StepStatus.RUNNING]
    return next(iter(running or [step for step in steps if step.status == StepStatus.PENDING]), None)


def steps_shown(job: Job) -> list[JobStep]:
    """In order, without those that turned out not to be needed. The job's steps are fetched already."""
    return sorted(
        (step for step in job.steps.all() if step.status != StepStatus.SKIPPED), key=lambda step: step.position
    )


def overall_progress(job: Job) -> int:
    """0 to 100 over all steps of a job."""
    steps = list(job.steps.all())
    return round(sum(step.progress for step in steps) / len(steps)) if steps else 0


def usual_seconds_of_steps(name: JobName, *, sample: int = 20) -> dict[str, float]:
    """How long each step of a kind of job usually takes: the median of the last jobs that were done, in two queries.

    By way of the jobs, because steps are many: seven for each machine that was ever made.
    """
    done = Job.objects.filter(name=name, status=JobStatus.DONE, finished_at__isnull=False).order_by("-finished_at")
    last = list(done.values_list("pk", flat=True)[:sample])
    taken: dict[str, list[float]] = {}
    for step in JobStep.objects.filter(job__in=last, status=StepStatus.DONE):
        if step.seconds is not None:
            taken.setdefault(step.name, []).append(step.seconds)
    return {step_name: median(seconds) for step_name, seconds in taken.items()}


def active_jobs() -> QuerySet[Job]:
    return Job.objects.filter(status__in=ACTIVE).select_related("actor", "project").prefetch_related("steps")


def recent_failures(*, hours: int = 24) -> QuerySet[Job]:
    since = timezone.now() - dt.timedelta(hours=hours)
    return Job.objects.filter(status=JobStatus.FAILED, finished_at__gte=since).select_related("actor", "project")


def stuck_jobs(*, limit: int, minutes: int = 30) -> list[Job]:
    """Active, and without a sign of life for longer than any wait should take; newest first."""
    since = timezone.now() - dt.timedelta(minutes=minutes)
    unheld = Q(lease_until=None) | Q(lease_until__lt=timezone.now())
    # Sorted here: databases would rather look through all jobs there ever were in this order, for the few that match.
    keys = (
        Job.objects.filter(unheld, status__in=ACTIVE, created_at__lt=since).order_by().values_list("created_at", "pk")
    )
    newest = [pk for _at, pk in sorted(keys, reverse=True)[:limit]]
    return list(active_jobs().filter(pk__in=newest)) if newest else []


def others_at_work(job: Job) -> bool:
    """True if another job on the same target may still touch it: one that runs, or that waits to go on."""
    others = Job.objects.filter(target_type=job.target_type, target_id=job.target_id, status__in=ACTIVE)
    return others.exclude(pk=job.pk).filter(created_at__lte=job.created_at).exists()


def usual_seconds(name: JobName, step: StepName, *, sample: int = 20) -> float | None:
    """How long a step usually takes: the median of its last runs. None without any."""
    done = JobStep.objects.filter(job__name=name, name=step, status=StepStatus.DONE, finished_at__isnull=False)
    seconds = [row.seconds for row in done.order_by("-finished_at")[:sample]]
    known = [value for value in seconds if value is not None]
    return median(known) if known else None


def find_jobs(user: User | AnonymousUser, *, state: str = "", kind: str = "", search: str = "") -> QuerySet[Job]:
    """Rows for the list page, newest first. `state` is a status or "active". Filters that mean nothing are ignored."""
    jobs = jobs_for(user)
    if state == "active":
        jobs = jobs.filter(status__in=ACTIVE)
    elif state in JobStatus.values:
        jobs = jobs.filter(status=state)
    if kind in JobName.values:
        jobs = jobs.filter(name=kind)
    if search:
        # People and projects are looked up once, rather than joined to each of the jobs.
        jobs = jobs.filter(
            Q(target_name__icontains=search)
            | Q(actor__in=User.objects.filter(username__icontains=search).values("pk"))
            | Q(project__in=Project.objects.filter(name__icontains=search).values("pk"))
            | Q(error_message__icontains=search)
        )
    return jobs


def newest_job_by_target(target_type: str, target_ids: Iterable[UUID]) -> dict[UUID, Job]:
    """The newest job of each of many objects, with its steps: two queries however many there are."""
    jobs = Job.objects.filter(target_type=target_type, target_id__in=list(target_ids)).order_by("created_at")
    return {job.target_id: job for job in jobs.prefetch_related("steps")}


def deleted_machines(target_ids: Iterable[UUID]) -> set[UUID]:
    """Which of these targets have no page any more, as the jobs that deleted them tell: no model above is asked."""
    deleted = Job.objects.filter(name=JobName.MACHINE_DELETE, status=JobStatus.DONE, target_id__in=list(target_ids))
    return set(deleted.values_list("target_id", flat=True))


@dataclass(frozen=True, slots=True)
class JobLine:
    """A job as lists show it."""

    job: Job
    step: JobStep | None
    progress: int
    seconds: float | None


def lines_of(jobs: Iterable[Job]) -> list[JobLine]:
    """Lines for jobs whose steps are fetched already."""
    return [JobLine(job, current_step(job), overall_progress(job), taken_seconds(job)) for job in jobs]


def taken_seconds(job: Job) -> float | None:
    """From the request to the end; None unless it has ended."""
    return (job.finished_at - job.created_at).total_seconds() if job.finished_at else None


def may_cancel(user: User | AnonymousUser, job: Job) -> bool:
    """Work that makes something can be stopped by operators, by the project's owners, and by who asked for it."""
    if job.name not in CANCELLABLE or not job.is_active or job.cancel_requested or job.is_taken_back:
        return False
    if user.is_active and user.is_staff:
        return True
    if job.project_id is None:
        return False
    granted = permissions_in(user, job.project_id)
    return Permission.PROJECT_MANAGE in granted or (
        job.actor_id == user.pk and CANCELLABLE[JobName(job.name)] in granted
    )
