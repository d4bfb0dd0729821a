"""Running jobs as workers do, on a host in memory, and looking at what is left."""

import struct
from collections.abc import Container
from pathlib import Path
from uuid import UUID

from portal.accounts.models import Project
from portal.hosts.models import Host
from portal.images.models import ImageVersion
from portal.jobs.models import Job
from portal.machines.models import Machine
from workers import runner
from workers.hypervisor.fake import FakeHost, fake_host

GIB = 1024**3


class Killed(BaseException):
    """A SIGKILL, as far as a test in one process can have one: no handler of the code under test catches it."""


def fake_of(host: Host) -> FakeHost:
    return fake_host(host.uri.removeprefix("fake://"))


def write_image(version: ImageVersion) -> Path:
    """A file that begins like a qcow2 image of 4 GiB."""
    version.path.parent.mkdir(parents=True, exist_ok=True)
    version.path.write_bytes(b"QFI\xfb" + struct.pack(">IQIIQ", 3, 0, 0, 16, 4 * GIB) + b"\0" * 64)
    return version.path


def work_on(job: Job, *, rounds: int = 200) -> Job:
    """Let workers come back to the job until it has ended, without waiting for the time in between."""
    for _ in range(rounds):
        runner.run(job.pk)
        job.refresh_from_db()
        if job.is_final:
            return job
    raise AssertionError(f"{job} did not end: {[(step.name, step.status) for step in job.steps.all()]}")


def left_on(fake: FakeHost, machine_id: UUID) -> list[str]:
    """Everything of the machine that is on the host."""
    places: dict[str, Container[UUID]] = {"domain": fake.domains, "disk": fake.disks, "seed": fake.seeds}
    return [what for what, holder in places.items() if machine_id in holder]


def assert_nothing_left(machine: Machine) -> None:
    """No domain, disk, seed, quota or promised capacity is left of it."""
    assert left_on(fake_of(machine.host), machine.pk) == []
    project = Project.objects.get(pk=machine.project_id)
    assert (project.used_machines, project.used_vcpus, project.used_memory_mib, project.used_disk_gib) == (0, 0, 0, 0)
    host = Host.objects.get(pk=machine.host_id)
    assert (host.reserved_vcpus, host.reserved_memory_mib, host.reserved_disk_gib) == (0, 0, 0)
