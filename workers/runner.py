"""A job's life: take the lease, run the steps that are not done, finish or fail, and report on the way.

Killed at any line, the job's lease runs out and another worker goes on from the first step that is not done.
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

from django.db import connection
from django.utils.translation import gettext as _

from portal.errors import PortalError
from portal.jobs import services as jobs
from portal.jobs.models import Job, JobStep
from portal.jobs.names import JobName, JobStatus, StepName, StepStatus
from workers.hypervisor.errors import HypervisorError
from workers.workflows import WORKFLOWS
from workers.workflows.base import Again, CancelledError, Context, Step, WorkFailedError, Workflow

logger = logging.getLogger(__name__)

HEARTBEAT_S = 10.0


def run(job_id: UUID) -> None:
    """Work on the job if nobody else does. Never raises for what a job may run into: the row says what happened."""
    job = jobs.take_lease(job_id, owner=f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}")
    if job is None:
        return
    logger.info("job %s %s of %s %s: attempt %s", job.pk, job.name, job.target_type, job.target_id, job.attempts)
    try:
        with heartbeat(job):
            _run_held(job)
    except jobs.LeaseLostError:
        logger.warning("job %s was taken over by another worker", job.pk)


@contextmanager
def heartbeat(job: Job) -> Iterator[None]:
    """Renew the lease from a thread of its own while the job's steps run."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_S):
            try:
                jobs.renew_lease(job)
            except jobs.LeaseLostError:
                return
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
        jobs.finish(job, JobStatus.FAILED, code=error.code, message=str(error.message))
        return
    try:
        _run_steps(workflow, context)
    except Again as again:
        jobs.put_back(job, after_s=again.after_s)
    except CancelledError:
        _cancel(workflow, context)
    except (HypervisorError, WorkFailedError, PortalError) as error:
        _fail_or_retry(workflow, context, error)
    except jobs.LeaseLostError:
        raise
    except Exception:
        # Whatever a bug throws, the person must get an answer and the host be cleaned.
        logger.exception("job %s %s failed by a fault of Casement's own", job.pk, job.name)
        message = _("Casement made a mistake here. An operator finds the details in the worker's log under %(job)s.")
        _fail(workflow, context, WorkFailedError(message % {"job": job.pk}, code="internal"))


def _run_steps(workflow: Workflow[Any], context: Context[Any]) -> None:
    done = set(JobStep.objects.filter(job=context.job, status=StepStatus.DONE).values_list("name", flat=True))
    for step in workflow.steps:
        if step.name not in done:
            _run_step(workflow, context, step)
    workflow.on_done(context.target)
    jobs.finish(context.job, JobStatus.DONE)
    logger.info("job %s %s done", context.job.pk, context.job.name)


def _run_step(workflow: Workflow[Any], context: Context[Any], step: Step[Any]) -> None:
    if workflow.cancellable:
        context.check_cancelled()
    context.step = jobs.start_step(context.job, step.name)
    step.run(context)
    jobs.end_step(context.step, StepStatus.DONE)


def _fail_or_retry(
    workflow: Workflow[Any], context: Context[Any], error: HypervisorError | WorkFailedError | PortalError
) -> None:
    """Retry with back-off what may pass by itself; give up on the rest with a message a person understands."""
    retryable = isinstance(error, HypervisorError) and error.retryable
    if retryable and context.job.retries < workflow.max_retries:
        logger.warning("job %s: %s; trying again", context.job.pk, error, exc_info=error.__cause__)
        if context.step is not None:
            jobs.report_step(context.step, progress=0, detail=str(error))
        jobs.put_back(context.job, after_s=min(2.0**context.job.retries, 30), retry=True)
        return
    logger.warning("job %s failed: %s", context.job.pk, error, exc_info=error.__cause__)
    _fail(workflow, context, error)


def _fail(
    workflow: Workflow[Any], context: Context[Any], error: HypervisorError | WorkFailedError | PortalError
) -> None:
    message = str(error.message)
    if context.step is not None:
        jobs.end_step(context.step, StepStatus.FAILED, detail=message)
    _undo(workflow, context)
    workflow.on_failed(context.target, message)
    jobs.finish(context.job, JobStatus.FAILED, code=error.code, message=message)


def _cancel(workflow: Workflow[Any], context: Context[Any]) -> None:
    logger.info("job %s cancelled", context.job.pk)
    _undo(workflow, context)
    workflow.on_cancelled(context.target)
    jobs.finish(context.job, JobStatus.CANCELLED, code="cancelled", message=_("Stopped on request."))


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
        try:
            step.undo(context)
        except HypervisorError as error:
            logger.warning("job %s: step %s could not be taken back: %s", context.job.pk, step.name, error)
            continue
        row = JobStep.objects.get(pk=started[step.name])
        if row.status == StepStatus.DONE:
            jobs.end_step(row, StepStatus.UNDONE)
