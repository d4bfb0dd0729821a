"""Machines to ask things of at the same moment."""

from collections.abc import Callable

import pytest

from portal.accounts.models import Project, User
from portal.hosts.models import Host
from portal.images.models import ImageVersion
from portal.jobs.models import Job
from portal.machines import services
from portal.machines.models import Flavour, Machine
from tests.workers.support import work_on, write_image

Make = Callable[[str], Machine]


@pytest.fixture
def make(project: Project, alice: User, image_version: ImageVersion, flavour: Flavour, host: Host) -> Make:
    """A machine that was really built, on its host in memory."""
    write_image(image_version)

    def build(name: str) -> Machine:
        machine = services.request_machine(
            project, actor=alice, image_version=image_version, flavour=flavour, name=name, login_user="alice"
        )
        work_on(Job.objects.get(target_id=machine.pk))
        machine.refresh_from_db()
        return machine

    return build
