"""A desktop is launched by a fork: real QEMU, the real image, the real workflows; at the end nothing is left of it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.utils import timezone
from pytest_django.fixtures import Settings

from portal.accounts.models import Project, User
from portal.hosts.models import Host
from portal.images.models import Image, ImageVersion, Kind, Source, VersionStatus
from portal.jobs.models import Job
from portal.jobs.names import JobName, JobStatus, StepName
from portal.machines import services
from portal.machines.models import Flavour, Machine
from portal.machines.states import PowerState, Status
from portal.parents import services as parents
from portal.parents import tending
from portal.parents.models import Parent
from portal.parents.states import State
from tests.support.agreement import disagreements
from tests.support.desktop_image import build_desktop_image
from tests.support.libvirtd import Libvirtd, alone, run_name, running_libvirtd, temporary_pool, unavailable
from workers import reconcile, runner
from workers.hosts import driver_of
from workers.hypervisor import registry
from workers.workflows.parents import is_black

pytestmark = [pytest.mark.real, pytest.mark.timeout(2400), pytest.mark.django_db(transaction=True)]

IMAGES = Path(__file__).parents[3] / "var" / "images-dev"
POLL_S = 0.2


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[Libvirtd]:
    if reason := unavailable():
        pytest.skip(reason)
    with running_libvirtd() as daemon:
        yield daemon


@pytest.fixture
def real_host(libvirtd: Libvirtd) -> Iterator[Host]:
    with temporary_pool() as pool:
        host = Host.objects.create(
            name="local", uri=libvirtd.uri, pool_dir=str(pool), network=run_name(), memory_overcommit=100
        )
        with alone():
            driver_of(host).prepare_host()
        reconcile.reconcile_host(host.pk)
        host.refresh_from_db()
        assert host.hypervisor_version, host.last_error
        try:
            yield host
        finally:
            driver = driver_of(host)
            for uuid in Machine.objects.values_list("pk", flat=True):
                driver.undefine(uuid)
                driver.delete_storage(uuid)
            for uuid in Parent.objects.values_list("pk", flat=True):
                driver.delete_parent(uuid)
            registry.close_all()


@pytest.fixture
def desktop(settings: Settings) -> ImageVersion:
    settings.GUEST_BOOT_TIMEOUT_S = 1500
    image = Image.objects.create(slug="desktop", title="Desktop", kind=Kind.DESKTOP, source=Source.UPLOAD)
    sizes = {"size_bytes": 1, "virtual_size_bytes": 4 << 30, "sha256": "0" * 64}
    version = ImageVersion.objects.create(image=image, number=1, status=VersionStatus.READY, **sizes)
    version.path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(build_desktop_image(IMAGES), version.path)
    return version


@pytest.fixture
def size() -> Flavour:
    return Flavour.objects.create(name="desk", title="Desk", vcpus=2, memory_mib=1024, disk_gib=10)


def work_on(job: Job, *, seconds: float = 1800) -> Job:
    """What workers do, in the time that it takes."""
    deadline = time.monotonic() + seconds
    while not job.is_final:
        assert time.monotonic() < deadline, [*job.steps.values_list("name", "status", "detail")]
        runner.run(job.pk)
        job.refresh_from_db()
        if job.due_at is not None:
            time.sleep(max(min((job.due_at - timezone.now()).total_seconds(), 5), 0))
    return job


def launch(project: Project, alice: User, version: ImageVersion, size: Flavour, name: str) -> tuple[Machine, Job]:
    machine = services.request_machine(
        project, actor=alice, image_version=version, flavour=size, name=name, login_user="alice"
    )
    job = work_on(Job.objects.get(target_id=machine.pk))
    machine.refresh_from_db()
    assert machine.status == Status.READY, job.error_message
    return machine, job


def test_a_desktop_is_forked_in_a_moment_is_its_own_and_leaves_nothing(
    real_host: Host, desktop: ImageVersion, size: Flavour, project: Project, alice: User
) -> None:
    driver = driver_of(real_host)
    columns = {"vcpus": size.vcpus, "memory_mib": size.memory_mib, "disk_gib": size.disk_gib}
    parent = parents.want(desktop, real_host, **columns)
    assert parent is not None
    job = work_on(Job.objects.get(target_id=parent.pk))
    parent.refresh_from_db()
    assert parent.state == State.READY, job.error_message

    for name in ("first-desk", "second-desk"):
        machine, job = launch(project, alice, desktop, size, name)
        assert (machine.made_by, machine.made_by_reason, machine.parent) == ("fork", "", parent)
        assert machine.power_state == PowerState.RUNNING
        taken = {step.name: step.seconds for step in job.steps.all() if step.seconds is not None}
        print(f"{name}: {taken}")  # noqa: T201 - for who looks at how long it took
        assert {StepName.FORK, StepName.FORK_IDENTITY} <= taken.keys()
        said = driver.run_in_guest(machine.pk, ("/bin/sh", "-c", "hostname; id -un 1000; cat /etc/machine-id"))
        assert said.stdout.decode().split() == [name, "alice", machine.pk.hex]
        assert not is_black(driver.screenshot(machine.pk))
        deadline = time.monotonic() + 120
        while not driver.addresses(machine.pk):
            assert time.monotonic() < deadline, "it has no address"
            time.sleep(1)
    reconcile.reconcile_host(real_host.pk)
    assert disagreements() == []

    tending.tend()
    parents.retire(parent)
    assert not Job.objects.filter(name=JobName.PARENT_DELETE).exists()
    for machine in Machine.objects.all():
        assert work_on(services.delete_for_good(machine, actor=alice, request_ip=None)).status == JobStatus.DONE
    tending.tend()
    assert work_on(Job.objects.get(name=JobName.PARENT_DELETE)).status == JobStatus.DONE
    assert driver.parents() == []
    assert not [info for info in driver.list() if info.owned and info.name.startswith("casement")]
    assert disagreements() == []
    assert not (Path(real_host.pool_dir) / "parents" / str(parent.pk)).exists()
    assert os.listdir(Path(real_host.pool_dir) / "machines") == []  # noqa: PTH208 - names are enough
