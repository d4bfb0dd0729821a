"""A pool on a host in memory, whose machines are built by workers in this process."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from portal.accounts.models import Project, User
from portal.hosts.models import Host
from portal.images.models import ImageVersion
from portal.jobs.models import Job
from portal.jobs.names import ACTIVE
from portal.machines.models import Flavour
from portal.pools import filling, services
from portal.pools.models import Pool
from tests.workers.support import fake_of, work_on, write_image

GIB = 1024**3
MANY = 1_000_000

Look = Callable[..., Pool]


@pytest.fixture
def roomy(project: Project, host: Host) -> Project:
    """A project and a host with room for more than any pool has."""
    Project.objects.update(max_machines=MANY, max_vcpus=MANY, max_memory_mib=MANY * 1024, max_disk_gib=MANY)
    Host.objects.update(
        cpus=MANY, memory_mib=MANY * 1024, storage_total_bytes=MANY << 30, storage_free_bytes=MANY << 30
    )
    fake = fake_of(host)
    fake.cpus, fake.memory_mib, fake.storage_bytes = MANY, MANY * 1024, MANY << 30
    project.refresh_from_db()
    return project


@pytest.fixture
def make_pool(roomy: Project, operator: User, image_version: ImageVersion, flavour: Flavour) -> Callable[..., Pool]:
    write_image(image_version)

    def make(name: str = "lab", *, entitled: tuple[User, ...] = (), **values: Any) -> Pool:
        pool = services.create_pool(
            name,
            actor=operator,
            project=roomy,
            image_version=image_version,
            flavour=flavour,
            **{"spare": 2, "maximum": 5, **values},
        )
        for person in entitled:
            services.entitle(pool, actor=operator, user=person)
        return pool

    return make


@pytest.fixture(autouse=True)
def _nobodys_screen_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody here has a browser; the test of that rule sets its own time."""
    monkeypatch.setattr(filling, "PEOPLE_COME_IN", dt.timedelta())


def work_off() -> None:
    """What workers do with every job that waits."""
    for job in Job.objects.filter(status__in=ACTIVE).order_by("created_at"):
        work_on(job)


@pytest.fixture
def look() -> Look:
    """Tend the pool and let workers build and remove, until nothing is to be done."""

    def tended(pool: Pool, rounds: int = 4) -> Pool:
        for _ in range(rounds):
            filling.tend(pool.pk)
            work_off()
        pool.refresh_from_db()
        return pool

    return tended
