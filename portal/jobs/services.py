"""Writes about jobs: enqueueing, the lease, steps, and the end. Each is one conditional UPDATE."""

import datetime as dt
from collections.abc import Collection, Sequence
from uuid import UUID

from django.db import models, transaction
from django.db.models import Case, F, Q, When
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import Project, User
from portal.audit import services as audit
from portal.errors import ConflictError, ForbiddenError
from portal.events import services as events
from portal.events.kinds import Kind
from portal.jobs.models import Job, JobStep
from portal.jobs.names import ACTIVE, LIMIT_OF_OTHERS_S, LIMIT_S, STEPS, JobName, JobStatus, StepName, StepStatus
from portal.jobs.selectors import may_cancel
from portal.lib import bus, live

LEASE = dt.timedelta(seconds=45)
# A message that was sent and not taken for so long is sent again.
UNTAKEN_AFTER = dt.timedelta(seconds=30)
# No job is put back for longer than this: a due time further ahead was written before the clock was set back.
LONGEST_WAIT = dt.timedelta(seconds=60)


class LeaseLostError(Exception):
    """Another worker took the job over: whoever catches this stops at once and writes nothing."""


@transaction.atomic
def enqueue(
    name: JobName, target: models.Model, *, queue: str, actor: User | None, project: Project | None = None
) -> Job:
    """Create the job with its steps, and wake a worker once the transaction has committed."""
    job = _job(name, target, queue=queue, actor=actor, project=project)
    job.save(force_insert=True)
    JobStep.objects.bulk_create(_steps(job))
    _record(job, JobStatus.QUEUED)
    wake(job)
    _tell(job)
    return job


@transaction.atomic
def enqueue_many(name: JobName, targets: Sequence[tuple[models.Model, str]], *, project: Project) -> list[Job]:
    """As `enqueue`, the clock's: a job for each target, which comes with its queue. All targets are of one project."""
    made = [_job(name, target, queue=queue, actor=None, project=project) for target, queue in targets]
    Job.objects.bulk_create(made)
    JobStep.objects.bulk_create([step for job in made for step in _steps(job)])
    events.record_many(Kind.JOB_QUEUED, [(job, _told(job)) for job in made], project=project.pk)
    topics = ["jobs"]
    for job in made:
        wake(job)
        topics += [f"job:{job.pk}", f"{job.target_type}:{job.target_id}"]
    live.publish_on_commit([live.OPERATORS, live.project_group(project.pk)], topics)
    return made


def _job(name: JobName, target: models.Model, *, queue: str, actor: User | None, project: Project | None) -> Job:
    return Job(
        name=name,
        target_type=target._meta.model_name or "",
        target_id=target.pk,
        target_name=str(target)[:150],
        queue=queue,
        actor=actor,
        project=project if project is not None else getattr(target, "project", None),
    )


def _steps(job: Job) -> list[JobStep]:
    return [JobStep(job=job, position=position, name=step) for position, step in enumerate(STEPS[JobName(job.name)])]


def wake(job: Job, *, after_s: float = 0) -> None:
    transaction.on_commit(lambda: bus.wake(job.name, job.pk, queue=job.queue, countdown_s=after_s))


def take_lease(job_id: UUID, *, owner: str) -> Job | None:
    """Become the one who works on the job; None if it has ended or another one does."""
    now = timezone.now()
    taken = (
        Job.objects.filter(pk=job_id, status__in=ACTIVE)
        .filter(Q(lease_until=None) | Q(lease_until__lt=now))
        .update(
            status=JobStatus.RUNNING,
            lease_owner=owner,
            lease_until=now + LEASE,
            attempts=F("attempts") + 1,
            # A lease that ran out, rather than being given back, is a worker that died or lost its host.
            crashes=F("crashes") + Case(When(lease_until__isnull=False, then=1), default=0),
            due_at=None,
        )
    )
    if taken != 1:
        return None
    Job.objects.filter(pk=job_id, started_at=None).update(started_at=now)
    job = Job.objects.select_related("project", "actor").get(pk=job_id)
    _tell(job)
    return job


def renew_lease(job: Job) -> None:
    """Say that the worker lives. LeaseLostError if another one has the job."""
    _held(job, lease_until=timezone.now() + LEASE)


def put_back(job: Job, *, after_s: float, retry: bool = False) -> None:
    """Let go of the job and have it looked at again after a while. `retry` counts it as a retry after an error."""
    due = timezone.now() + dt.timedelta(seconds=after_s)
    with transaction.atomic():
        _held(
            job,
            status=JobStatus.WAITING,
            lease_owner="",
            lease_until=None,
            due_at=due,
            retries=F("retries") + (1 if retry else 0),
        )
        wake(job, after_s=after_s)
    _tell(job)


def decide(job: Job, outcome: JobStatus, *, code: str, message: str) -> None:
    """Say how the job will end, before anything is taken back. What was decided first stays."""
    if not job.outcome:
        _held(job, outcome=outcome, error_code=code, error_message=message)
        job.outcome, job.error_code, job.error_message = outcome, code, message
        _tell(job)


def finish(job: Job, status: JobStatus) -> None:
    """End the job as `status`. LeaseLostError if another worker has it."""
    with transaction.atomic():
        _held(job, status=status, lease_owner="", lease_until=None, due_at=None, finished_at=timezone.now())
        _record(job, status)
    _tell(job)


def seconds_left(job: Job) -> float:
    """Until the job counts as stuck. A clock that was set back gives it no more than its whole limit."""
    limit_s = LIMIT_S.get(JobName(job.name), LIMIT_OF_OTHERS_S)
    started = job.started_at or timezone.now()
    return min(limit_s - (timezone.now() - started).total_seconds(), limit_s)


def request_cancel(job: Job) -> bool:
    """Ask the worker to stop at the next chance. False if the job has ended already."""
    return Job.objects.filter(pk=job.pk, status__in=ACTIVE).update(cancel_requested=True) == 1


def cancel_job(job: Job, *, actor: User, request_ip: str | None = None) -> None:
    """Have a job stopped and taken back, for those who may. Asking twice is no fault."""
    job.refresh_from_db()
    if job.is_active and job.cancel_requested:
        return
    if job.is_final:
        raise ConflictError(_("This job has ended already: %(status)s.") % {"status": job.get_status_display()})
    if not may_cancel(actor, job):
        raise ForbiddenError(_("This job cannot be cancelled, or not by you."))
    with transaction.atomic():
        if not request_cancel(job):
            raise ConflictError(_("This job has just ended."))
        audit.record(actor, "job.cancelled", job, detail={"kind": job.name}, request_ip=request_ip)
        wake(job)  # One that waits would otherwise learn of it only when its wait is over.
        _tell(job)


def is_cancel_requested(job: Job) -> bool:
    return Job.objects.filter(pk=job.pk, cancel_requested=True).exists()


def start_step(job: Job, name: StepName) -> JobStep:
    """Mark the step as running; it keeps its first start when it is run again after a wait or a crash."""
    renew_lease(job)
    first = Coalesce(F("started_at"), timezone.now(), output_field=models.DateTimeField())
    JobStep.objects.filter(job=job, name=name).update(status=StepStatus.RUNNING, started_at=first)
    _tell(job)
    step = JobStep.objects.get(job=job, name=name)
    step.job = job
    return step


def skip_steps(job: Job, names: Collection[StepName]) -> None:
    """These are not needed. Only who holds the job says so; whoever starts or ends the next step tells of it."""
    steps = JobStep.objects.filter(job=job, job__lease_owner=job.lease_owner, name__in=names)
    steps.filter(status=StepStatus.PENDING).update(status=StepStatus.SKIPPED, progress=100)


def report_step(step: JobStep, *, progress: int, detail: str = "") -> None:
    changed = (
        JobStep.objects.filter(pk=step.pk)
        .exclude(progress=progress, detail=detail)
        .update(progress=progress, detail=detail[:200])
    )
    if changed:
        _tell(step.job)


def forget_detail(step: JobStep) -> None:
    """What an earlier attempt at the step ran into is not true any more; what was reported since stays."""
    JobStep.objects.filter(pk=step.pk, detail=step.detail).update(detail="")


def end_step(step: JobStep, status: StepStatus, *, detail: str = "") -> None:
    values: dict[str, object] = {"status": status, "finished_at": timezone.now()}
    if status == StepStatus.DONE:
        values["progress"] = 100
    if detail:
        values["detail"] = detail[:200]
    JobStep.objects.filter(pk=step.pk).update(**values)
    if status == StepStatus.DONE and step.job.crashes:
        Job.objects.filter(pk=step.job_id).update(crashes=0)
        step.job.crashes = 0
    _tell(step.job)


def send_again() -> int:
    """Wake a worker for every job that should be worked on and is not: the clock's part. Returns how many."""
    now = timezone.now()
    _mend_times_ahead(now)
    never_taken = Q(created_at__lt=now - UNTAKEN_AFTER) | Q(created_at__gt=now)
    forgotten = Job.objects.filter(
        Q(never_taken, status=JobStatus.QUEUED, due_at=None)
        | Q(status=JobStatus.QUEUED, due_at__lt=now)
        | Q(status=JobStatus.WAITING, due_at__lt=now - dt.timedelta(seconds=5))
        | Q(status=JobStatus.RUNNING, lease_until__lt=now)
    )
    jobs = list(forgotten[:500])
    # A queue that is only long must not grow by its own reminders.
    untaken = [job.pk for job in jobs if job.status == JobStatus.QUEUED]
    Job.objects.filter(pk__in=untaken, status=JobStatus.QUEUED).update(due_at=now + UNTAKEN_AFTER)
    for job in jobs:
        wake(job)
    return len(jobs)


def put_back_all() -> int:
    """For a database that was brought back: whoever held a lease is gone. Returns how many did.

    Every job's time begins anew, and what was decided about it is decided again: one of last week would be taken back
    at once, together with the machine that stands there since, by a later try of the same.
    """
    decided_anew = {"outcome": "", "cancel_requested": False, "error_code": "", "error_message": ""}
    Job.objects.filter(status__in=ACTIVE).update(started_at=None, crashes=0, **decided_anew)
    running = Job.objects.filter(status=JobStatus.RUNNING)
    return running.update(status=JobStatus.WAITING, lease_owner="", lease_until=None, due_at=timezone.now())


def _mend_times_ahead(now: dt.datetime) -> None:
    """After the clock was set back, leases and waits would end hours from now. A worker that lives renews its own."""
    Job.objects.filter(lease_until__gt=now + LEASE + dt.timedelta(seconds=5)).update(lease_until=now + LEASE)
    Job.objects.filter(due_at__gt=now + LONGEST_WAIT).update(due_at=now)


def _held(job: Job, **values: object) -> None:
    """Update the job if this worker still holds it."""
    changed = Job.objects.filter(pk=job.pk, lease_owner=job.lease_owner, status=JobStatus.RUNNING).update(**values)
    if changed != 1:
        raise LeaseLostError


_KINDS = {
    JobStatus.QUEUED: Kind.JOB_QUEUED,
    JobStatus.DONE: Kind.JOB_DONE,
    JobStatus.FAILED: Kind.JOB_FAILED,
    JobStatus.CANCELLED: Kind.JOB_CANCELLED,
}


def _record(job: Job, status: JobStatus) -> None:
    """The event of a job that came to be or ended."""
    data = _told(job)
    if status == JobStatus.FAILED:
        data |= {"error": {"code": job.error_code, "message": job.error_message}}
    events.record(_KINDS[status], job, project=job.project_id, actor=job.actor, data=data)


def _told(job: Job) -> dict[str, object]:
    return {"name": job.name, "target": {"type": job.target_type, "id": str(job.target_id), "name": job.target_name}}


def _tell(job: Job) -> None:
    groups = [live.OPERATORS]
    if job.project_id:
        groups.append(live.project_group(job.project_id))
    elif job.target_type == "imageversion":
        groups.append(live.EVERYONE)  # Images without a project are everyone's to see, and so is their building.
    topics = [f"job:{job.pk}", "jobs", f"{job.target_type}:{job.target_id}"]
    live.publish_on_commit(groups, topics)
