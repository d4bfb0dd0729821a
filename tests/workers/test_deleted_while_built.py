"""F25: a machine that is deleted while it is built neither comes back nor leaves anything, at whichever step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from portal.accounts.models import User
from portal.hosts.models import Host
from portal.images.models import ImageVersion
from portal.jobs.models import Job
from portal.jobs.names import STEPS, JobName, JobStatus, StepName
from portal.machines import services
from portal.machines.models import Machine
from portal.machines.states import Status
from portal.parents import services as parents
from portal.parents import tending
from portal.parents.models import Parent
from tests.integration.crash.steps import step_replaced
from tests.support.agreement import disagreements
from tests.workers.support import assert_nothing_left, work_on, write_image
from workers import reconcile
from workers.workflows.base import Context

Asked = Callable[[], tuple[Machine, Job]]
Run = Callable[..., None]
FORKING = (StepName.FORK, StepName.FORK_IDENTITY)


@pytest.mark.parametrize("when", ["before", "in the middle of", "after"])
@pytest.mark.parametrize("step", STEPS[JobName.MACHINE_CREATE])
def test_nothing_of_it_is_left_and_the_job_says_cancelled(
    asked: Asked,
    alice: User,
    image_version: ImageVersion,
    host: Host,
    step: StepName,
    when: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = parent_on(image_version, host) if step in FORKING else None
    machine, job = asked()
    deleted: list[Job] = []

    def delete() -> None:
        if not deleted:
            deleted.append(services.request_delete(machine, actor=alice))

    def with_delete(run: Run) -> Callable[[Context[Any]], None]:
        def step_with_delete(context: Context[Any]) -> None:
            if when == "before":
                delete()
            elif when == "in the middle of":
                monkeypatch.setattr(Context, "progress", looked_at)
            run(context)
            delete()

        return step_with_delete

    told = Context.progress

    def looked_at(*values: Any) -> None:
        delete()
        told(*values)

    with step_replaced(JobName.MACHINE_CREATE, step, with_delete):
        ended = work_on(job)
    assert work_on(deleted[0]).status == JobStatus.DONE
    machine.refresh_from_db()
    assert machine.status == Status.DELETED
    assert ended.status in {JobStatus.CANCELLED, JobStatus.DONE}, ended.error_message
    assert ended.status == JobStatus.CANCELLED or step == STEPS[JobName.MACHINE_CREATE][-1], step
    if kept is not None:
        tending.tend()
        parents.retire(kept)
        assert work_on(Job.objects.get(name=JobName.PARENT_DELETE)).status == JobStatus.DONE
    assert_nothing_left(machine)
    assert disagreements() == []


def parent_on(version: ImageVersion, host: Host) -> Parent:
    """A running copy that the machine is to be forked from."""
    write_image(version)
    reconcile.reconcile_host(host.pk)
    parent = parents.want(version, host, vcpus=1, memory_mib=1024, disk_gib=10)
    assert parent is not None
    assert work_on(Job.objects.get(target_id=parent.pk)).status == JobStatus.DONE
    return parent
