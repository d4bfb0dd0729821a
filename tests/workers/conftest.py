"""Machines on a host in memory."""

from collections.abc import Callable
from uuid import uuid4

import pytest

from portal.accounts.models import Project, User
from portal.hosts.models import Host
from portal.images.models import ImageVersion
from portal.jobs.models import Job
from portal.machines import services
from portal.machines.models import Flavour, Machine
from tests.workers.support import fake_of, work_on, write_image
from workers.hypervisor.fake import FakeHost


@pytest.fixture
def fake(host: Host) -> FakeHost:
    return fake_of(host)


@pytest.fixture
def asked(
    project: Project, alice: User, image_version: ImageVersion, flavour: Flavour, host: Host
) -> Callable[[], tuple[Machine, Job]]:
    """Alice asks for a server; no worker has touched it yet."""

    def ask() -> tuple[Machine, Job]:
        write_image(image_version)
        machine = services.request_machine(
            project,
            actor=alice,
            image_version=image_version,
            flavour=flavour,
            name=f"server-{uuid4().hex[:6]}",
            login_user="alice",
        )
        return machine, Job.objects.get(target_id=machine.pk)

    return ask


@pytest.fixture
def built(asked: Callable[[], tuple[Machine, Job]]) -> Callable[[], Machine]:
    """A machine that was really built, on the host in memory."""

    def build() -> Machine:
        machine, job = asked()
        work_on(job)
        machine.refresh_from_db()
        assert machine.status == "ready", job.error_message
        return machine

    return build
