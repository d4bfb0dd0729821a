"""A worker, as a process of its own, that kills itself with SIGKILL just before or just after one step."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import django

django.setup()  # In the fork server, where this module is imported for all the workers that come of it.

from django.conf import settings
from django.db import connection

from portal.jobs.models import Job
from portal.jobs.names import JobName, StepName
from tests.integration.crash.steps import step_replaced
from workers import runner
from workers.workflows.base import Context

# Forked from a process that has never spoken with libvirt or the database: both cannot be taken through a fork.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])
POLL_S = 0.2
# Settings that a test may have changed.
PASSED_ON = ("IMAGES_DIR", "UPLOADS_DIR", "ISOS_DIR", "GUEST_BOOT_TIMEOUT_S", "GUEST_SHUTDOWN_TIMEOUT_S")


def work_and_die(job: Job, step: StepName, *, after: bool, seconds: float) -> None:
    """Let such a worker work on the job; AssertionError unless it died of that."""
    ours = {name: getattr(settings, name) for name in PASSED_ON}
    database = str(connection.settings_dict["NAME"])
    worker = _processes.Process(target=_work, args=(job.pk, JobName(job.name), step, after, database, ours))
    worker.start()
    try:
        worker.join(seconds)
        assert worker.exitcode == -signal.SIGKILL, f"the worker ended with {worker.exitcode}"
    finally:
        if worker.is_alive():
            worker.kill()
            worker.join()
        worker.close()


def work_on(job: Job, *, seconds: float = 600) -> Job:
    """Let a worker in this process come back to the job until it has ended."""
    deadline = time.monotonic() + seconds
    while True:
        runner.run(job.pk)
        job.refresh_from_db()
        if job.is_final:
            return job
        assert time.monotonic() < deadline, f"{job} did not end: {[*job.steps.values_list('name', 'status')]}"
        time.sleep(POLL_S)


def _work(job_id: UUID, name: JobName, step: StepName, after: bool, database: str, ours: dict[str, Any]) -> None:
    connection.settings_dict["NAME"] = database
    for setting, value in ours.items():
        setattr(settings, setting, value)

    def killed(run: Callable[..., None]) -> Callable[[Context[Any]], None]:
        def dies(context: Context[Any]) -> None:
            if after:
                run(context)
            os.kill(os.getpid(), signal.SIGKILL)

        return dies

    with step_replaced(name, step, killed):
        work_on(Job.objects.get(pk=job_id))
