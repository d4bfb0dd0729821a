"""Portal, worker and real guests: machines of the micro guest, which has what it takes to keep files."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.hosts.models import Host
from portal.images.models import Image, ImageVersion, Kind, Source, VersionStatus
from portal.jobs.models import Job
from portal.jobs.names import JobStatus
from portal.machines import services
from portal.machines.models import Flavour, Machine
from tests.support.libvirtd import Libvirtd, alone, run_name, running_libvirtd, temporary_pool, unavailable
from tests.support.microguest import build_microguest
from workers import runner
from workers.hosts import driver_of
from workers.hypervisor import registry
from workers.hypervisor.driver import HypervisorDriver

IMAGES = Path(__file__).parents[3] / "var" / "images-dev"


@pytest.fixture(scope="session")
def libvirtd() -> Iterator[Libvirtd]:
    reason = unavailable()
    if reason:
        pytest.skip(reason)
    with running_libvirtd() as daemon:
        yield daemon


@pytest.fixture(scope="session")
def microguest() -> Path:
    return build_microguest(IMAGES)


def work_on(job: Job | None, *, seconds: float = 900) -> Job:
    """As workers do, until it has ended."""
    assert job is not None
    deadline = time.monotonic() + seconds
    while True:
        runner.run(job.pk)
        job.refresh_from_db()
        if job.is_final:
            return job
        assert time.monotonic() < deadline, f"{job} did not end: {[*job.steps.values_list('name', 'status', 'detail')]}"
        time.sleep(0.2)


def done(job: Job | None) -> Job:
    ended = work_on(job)
    assert ended.status == JobStatus.DONE, ended.error_message
    return ended


class Guest:
    """What is typed in a machine's guest as root."""

    def __init__(self, machine: Machine, driver: HypervisorDriver) -> None:
        self.machine, self.driver = machine, driver

    def says(self, command: str) -> str:
        result = self.driver.run_in_guest(self.machine.pk, ("/bin/sh", "-c", command), timeout_s=240)
        assert result.exit_code == 0, (command, result.stdout, result.stderr)
        return result.stdout.decode().strip()


@pytest.fixture
def desk(
    libvirtd: Libvirtd,
    microguest: Path,
    project: Project,
    alice: User,
    host: Host,
    settings: pytest.FixtureRequest,
) -> Iterator[Callable[[], Guest]]:
    """Machines that are up, with the user "alice" inside."""
    image = Image.objects.create(slug="micro", title="Micro", kind=Kind.SERVER, source=Source.UPLOAD)
    facts = {"size_bytes": microguest.stat().st_size, "virtual_size_bytes": 128 << 20, "sha256": "0" * 64}
    version = ImageVersion.objects.create(image=image, number=1, status=VersionStatus.READY, **facts)
    version.path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(microguest, version.path)
    flavour = Flavour.objects.create(name="tiny", title="Tiny", vcpus=1, memory_mib=256, disk_gib=1)
    with temporary_pool() as pool:
        real = {"uri": libvirtd.uri, "pool_dir": str(pool), "network": run_name(), "network_mode": "nat"}
        Host.objects.filter(pk=host.pk).update(accelerator="tcg", last_seen_at=timezone.now(), **real)
        driver = driver_of(Host.objects.get(pk=host.pk))
        with alone():
            driver.prepare_host()

        def make() -> Guest:
            machine = services.request_machine(
                project,
                actor=alice,
                image_version=version,
                flavour=flavour,
                name=f"desk-{uuid4().hex[:8]}",
                login_user="alice",
            )
            done(Job.objects.get(target_id=machine.pk))
            return Guest(Machine.objects.select_related("host", "project").get(pk=machine.pk), driver)

        try:
            yield make
        finally:
            for pk in Machine.objects.values_list("pk", flat=True):
                driver.undefine(pk)
                driver.delete_storage(pk)
            registry.close_all()
