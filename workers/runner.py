"""A job's life: take the lease, run the steps that are not done, finish or take back, and report on the way.

Killed at any line, the job's lease runs out and another worker goes on: forward from the first step that is not done,
or, once the job's outcome is decided, backward until everything is taken back.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

from django.db import InterfaceError, OperationalError, connection, transaction
from django.utils.translation import gettext as _

from portal.errors import PortalError
from portal.jobs import services as jobs
from portal.jobs.models import Job, JobStep
from portal.jobs.names import JobName, JobStatus, StepName, StepStatus
from portal.lib import log
from workers.hypervisor.errors import HypervisorError
from workers.workflows import WORKFLOWS
from workers.workflows.base import Again, CancelledError, Context, Step, WorkFailedError, Workflow

logger = logging.getLogger(__name__)

HEARTBEAT_S = 10.0
# Workers that die one after the other in the same step die of the job, or of the machine that they run on.
MOST_CRASHES = 8

DATABASE_IS_AWAY = (OperationalError, InterfaceError)


def run(job_id: UUID) -> None:
    """Work on the job if nobody else does. Never raises for what a job may run into: the row says what happened."""
    try:
        job = jobs.take_lease(job_id, owner=f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}")
        if job is None:
            return
        logger.info("job %s %s of %s %s: attempt %s", job.pk, job.name, job.target_type, job.target_id, job.attempts)
        target, host_name = {job.target_type: job.target_id}, job.queue.partition("host.")[2]
        with log.bound(job=job.pk, actor=job.actor_id, host=host_name, **target), heartbeat(job):
            _run_held(job)
    except jobs.LeaseLostError:
        logger.warning("job %s was taken over by another worker", job_id)
    except DATABASE_IS_AWAY as error:
        # Nothing can be written down, so nothing is concluded: the lease runs out and the clock sends the job again.
        logger.warning("job %s is left for later, the database is away: %s", job_id, error)
        connection.close()


@contextmanager
def heartbeat(job: Job) -> Iterator[None]:
    """Renew the lease from a thread of its own while the job's steps run; past the job's limit no more.

    So a step that hangs for ever loses the job to another worker, which ends it.
    """
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_S):
            try:
                if jobs.seconds_left(job) < 0 and not job.outcome:
                    logger.error("job %s hangs: its lease is not renewed any more", job.pk)
                    return
                jobs.renew_lease(job)
            except jobs.LeaseLostError:
                return
            except DATABASE_IS_AWAY as error:
                logger.warning("job %s: its lease could not be renewed: %s", job.pk, error)
            finally:
                connection.close()

    thread = threading.Thread(target=beat, name=f"lease-{job.pk}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=30)


def _run_held(job: Job) -> None:
    workflow: Workflow[Any] = WORKFLOWS[JobName(job.name)]
    try:
        context: Context[Any] = Context(job, workflow.load(str(job.target_id)))
    except PortalError as error:
        jobs.decide(job, JobStatus.FAILED, code=error.code, message=str(error.message))
        jobs.finish(job, JobStatus.FAILED)
        return
    try:
        if not job.outcome:
            _give_up_if_hopeless(job)
            _run_steps(workflow, context)
    except Again as again:
        jobs.put_back(job, after_s=again.after_s)
        return
    except CancelledError:
        jobs.decide(job, JobStatus.CANCELLED, code="cancelled", message=_("Stopped on request."))
    except (HypervisorError, WorkFailedError, PortalError) as error:
        if _is_tried_again(workflow, context, error):
            return
        logger.warning("job %s failed: %s", job.pk, error, exc_info=error.__cause__)
        _decide_failed(context, error)
    except (jobs.LeaseLostError, *DATABASE_IS_AWAY):
        raise
    except Exception:
        # Whatever a bug throws, the person must get an answer and the host be cleaned.
        logger.exception("job %s %s failed by a fault of Casement's own", job.pk, job.name)
        message = _("Casement made a mistake here. An operator finds the details in the worker's log under %(job)s.")
        _decide_failed(context, WorkFailedError(message % {"job": job.pk}, code="internal"))
    if job.outcome:
        _take_back(workflow, context)


def _give_up_if_hopeless(job: Job) -> None:
    if job.crashes > MOST_CRASHES:
        message = _("The worker died %(times)s times while doing this. An operator finds out why in the worker's log.")
        raise WorkFailedError(message % {"times": job.crashes}, code="worker-dies")
    if jobs.seconds_left(job) < 0:
        raise WorkFailedError(_("This took far longer than it ever should, so it was given up."), code="stuck")


def _run_steps(workflow: Workflow[Any], context: Context[Any]) -> None:
    over = (StepStatus.DONE, StepStatus.SKIPPED)
    done = set(JobStep.objects.filter(job=context.job, status__in=over).values_list("name", flat=True))
    skipped: list[StepName] = []
    for step in workflow.steps:
        if step.name in done:
            continue
        if step.needed is not None and not step.needed(context.target):
            skipped.append(step.name)
            continue
        _skip(context.job, skipped)
        _run_step(workflow, context, step)
    _skip(context.job, skipped)
    with transaction.atomic():  # A worker that died in between would record the outcome again, perhaps much later.
        workflow.on_done(context.target)
        jobs.finish(context.job, JobStatus.DONE)
    logger.info("job %s %s done", context.job.pk, context.job.name)


def _skip(job: Job, names: list[StepName]) -> None:
    """Several in a row are one write."""
    if names:
        jobs.skip_steps(job, names)
        names.clear()


def _run_step(workflow: Workflow[Any], context: Context[Any], step: Step[Any]) -> None:
    if workflow.cancellable:
        context.check_cancelled()
    context.step = jobs.start_step(context.job, step.name)
    step.run(context)
    if context.step.detail:
        jobs.forget_detail(context.step)
    jobs.end_step(context.step, StepStatus.DONE)


def _is_tried_again(
    workflow: Workflow[Any], context: Context[Any], error: HypervisorError | WorkFailedError | PortalError
) -> bool:
    """Retry with back-off what may pass by itself, a few times."""
    job = context.job
    if isinstance(error, PortalError) or not error.retryable or job.retries >= workflow.max_retries:
        return False
    logger.warning("job %s: %s; trying again", job.pk, error, exc_info=error.__cause__)
    if context.step is not None:
        jobs.report_step(context.step, progress=0, detail=_("%(problem)s Trying again.") % {"problem": error})
    jobs.put_back(job, after_s=min(2.0**job.retries, 30), retry=True)
    return True


def _decide_failed(context: Context[Any], error: HypervisorError | WorkFailedError | PortalError) -> None:
    message = str(error.message)
    jobs.decide(context.job, JobStatus.FAILED, code=error.code, message=message)
    if context.step is not None:
        jobs.end_step(context.step, StepStatus.FAILED, detail=message)


def _take_back(workflow: Workflow[Any], context: Context[Any]) -> None:
    """End a job whose outcome is decided. Killed in here, the next worker begins here again."""
    job = context.job
    _undo(workflow, context)
    with transaction.atomic():
        if job.outcome == JobStatus.CANCELLED:
            workflow.on_cancelled(context.target)
        else:
            workflow.on_failed(context.target, job.error_message)
        jobs.finish(job, JobStatus(job.outcome))
    logger.info("job %s %s", job.pk, job.outcome)


def _undo(workflow: Workflow[Any], context: Context[Any]) -> None:
    """Take back every step that had started, last first. A step that cannot be undone does not stop the others.

    What could not be taken back (the host is away) is found by reconciliation: it removes what no live machine owns.
    """
    started = {
        StepName(name): pk
        for name, pk in JobStep.objects.filter(job=context.job, started_at__isnull=False).values_list("name", "pk")
    }
    for step in reversed(workflow.steps):
        if step.undo is None or step.name not in started:
            continue
        jobs.renew_lease(context.job)  # Whoever lost the job in the meantime must not undo what another one does.
        try:
            step.undo(context)
        except (jobs.LeaseLostError, *DATABASE_IS_AWAY):
            raise
        except Exception as error:  # A fault in one undo must not keep the others from running.
            known = isinstance(error, HypervisorError)
            logger.warning(
                "job %s: %s could not be taken back: %s", context.job.pk, step.name, error, exc_info=not known
            )
            continue
        row = JobStep.objects.get(pk=started[step.name])
        if row.status == StepStatus.DONE:
            jobs.end_step(row, StepStatus.UNDONE)
