"""What does not agree is shown and left alone until an operator says what is to be done."""

import dataclasses
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from portal.accounts.models import Project, User
from portal.errors import ConflictError, ForbiddenError, InvalidError, QuotaExceededError
from portal.hosts.models import Difference, DifferenceKind, Host
from portal.images.models import ImageVersion
from portal.jobs.models import Job
from portal.jobs.names import JobName, JobStatus
from portal.machines import drift, services
from portal.machines.models import Machine
from portal.machines.states import PowerState, Status, Task
from tests.workers.support import fake_of, left_on, work_on, write_image
from workers import reconcile
from workers.hosts import driver_of
from workers.hypervisor.errors import HypervisorError
from workers.hypervisor.fake import FakeHost
from workers.hypervisor.types import Firmware, MachineSpec
from workers.hypervisor.types import PowerState as HostPowerState

Built = Callable[[], Machine]


def foreign(fake: FakeHost, *, vcpus: int = 2) -> UUID:
    spec = MachineSpec(uuid4(), "Old Build Server_2", "", vcpus, 512, Firmware.BIOS, uuid4(), "secret")
    fake.add_foreign_domain(spec)
    return spec.uuid


def stray_disk(host: Host, version: ImageVersion) -> UUID:
    machine, driver = uuid4(), driver_of(host)
    driver.put_image(version.pk, write_image(version), progress=lambda _percent: None)
    driver.create_disk(machine, image=version.pk, size_bytes=7 << 30)
    return machine


def found(host: Host, kind: DifferenceKind) -> Difference:
    reconcile.reconcile_host(host.pk)
    return Difference.objects.get(kind=kind)


def adopt(difference: Difference, operator: User, project: Project, name: str = "found") -> tuple[Machine, Job]:
    machine = drift.request_adoption(difference, actor=operator, project=project, name=name)
    job = work_on(Job.objects.get(target_id=machine.pk, name=JobName.MACHINE_ADOPT))
    return Machine.objects.get(pk=machine.pk), job


def test_when_all_agrees_there_is_no_difference(built: Built) -> None:
    reconcile.reconcile_host(built().host_id)
    assert not Difference.objects.exists()


def test_a_machine_that_vanished_is_missing_and_not_merely_silent(built: Built, fake: FakeHost, operator: User) -> None:
    machine = built()
    fake.vanish(machine.pk)
    difference = found(machine.host, DifferenceKind.MISSING)
    machine.refresh_from_db()
    assert (difference.object_id, difference.detail) == (machine.pk, {"has_disk": True})
    assert machine.missing_since is not None
    assert machine.power_state == PowerState.UNKNOWN
    assert work_on(drift.request_repair(machine, actor=operator)).status == JobStatus.DONE
    reconcile.reconcile_host(machine.host_id)
    machine.refresh_from_db()
    back = Machine.objects.get(pk=machine.pk)
    assert (back.missing_since, back.power_state) == (None, PowerState.SHUT_OFF)
    assert not Difference.objects.exists()
    assert work_on(services.request_start(machine, actor=operator)).status == JobStatus.DONE


def test_a_machine_that_comes_back_by_itself_is_no_longer_missing(built: Built, fake: FakeHost) -> None:
    machine = built()
    domain = fake.domains[machine.pk]
    fake.vanish(machine.pk)
    found(machine.host, DifferenceKind.MISSING)
    fake.domains[machine.pk] = domain
    reconcile.reconcile_host(machine.host_id)
    machine.refresh_from_db()
    assert (machine.missing_since, machine.power_state) == (None, PowerState.RUNNING)
    assert not Difference.objects.exists()


def test_a_list_that_was_read_too_early_makes_nothing_missing(
    built: Built, fake: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine was started between the list and the look at the rows."""
    machine = built()
    monkeypatch.setattr("workers.hypervisor.fake.FakeDriver.list", lambda self: [])
    reconcile.reconcile_host(machine.host_id)
    machine.refresh_from_db()
    assert machine.missing_since is None
    assert not Difference.objects.exists()


def test_without_its_disk_there_is_nothing_to_define_again(built: Built, fake: FakeHost) -> None:
    machine = built()
    fake.vanish(machine.pk)
    fake.disks.pop(machine.pk)
    assert found(machine.host, DifferenceKind.MISSING).detail == {"has_disk": False}


def test_a_lost_disk_is_told(built: Built, fake: FakeHost) -> None:
    machine = built()
    fake.disks.pop(machine.pk)
    assert found(machine.host, DifferenceKind.NO_DISK).object_id == machine.pk


def test_another_size_on_the_host_is_told_and_mended_by_defining_it_again(
    built: Built, fake: FakeHost, alice: User
) -> None:
    machine = built()
    work_on(services.request_force_off(machine, actor=alice))
    machine.refresh_from_db()
    domain = fake.domains[machine.pk]
    domain.spec = dataclasses.replace(domain.spec, vcpus=7)
    difference = found(machine.host, DifferenceKind.SIZE)
    assert difference.detail == {"vcpus": 7, "memory_mib": machine.memory_mib}
    work_on(drift.request_repair(machine, actor=alice))
    reconcile.reconcile_host(machine.host_id)
    assert fake.domains[machine.pk].spec.vcpus == machine.vcpus
    assert not Difference.objects.exists()


def test_a_strange_domain_is_left_alone_until_it_is_taken_over(
    host: Host, project: Project, operator: User, fake: FakeHost
) -> None:
    uuid = foreign(fake)
    fake.set_power(uuid, HostPowerState.RUNNING)
    before = dataclasses.replace(fake.domains[uuid])
    difference = found(host, DifferenceKind.FOREIGN)
    assert fake.domains[uuid] == before
    assert drift.suggest_name(difference) == "old-build-server-2"
    machine, job = adopt(difference, operator, project)
    assert job.status == JobStatus.DONE, job.error_message
    assert (machine.status, machine.task, machine.power_state) == (Status.READY, Task.NONE, PowerState.RUNNING)
    assert (machine.vcpus, machine.memory_mib, machine.image_version, machine.flavour) == (2, 512, None, None)
    assert machine.has_screen
    assert fake.domains[uuid].spec == before.spec, "its definition is its own"
    reconcile.reconcile_host(host.pk)
    assert not Difference.objects.exists()
    project.refresh_from_db()
    assert (project.used_machines, project.used_vcpus) == (1, 2)


def test_a_machine_that_was_taken_over_lives_like_others_and_keeps_its_definition(
    host: Host, project: Project, operator: User, fake: FakeHost
) -> None:
    uuid = foreign(fake)
    machine, _job = adopt(found(host, DifferenceKind.FOREIGN), operator, project)
    spec = fake.domains[uuid].spec
    assert work_on(services.request_start(machine, actor=operator)).status == JobStatus.DONE
    machine.refresh_from_db()
    assert machine.has_screen
    assert fake.domains[uuid].spec == spec
    work_on(services.request_stop(machine, actor=operator))
    machine.refresh_from_db()
    with pytest.raises(ConflictError):
        drift.request_repair(machine, actor=operator)
    work_on(services.request_delete(machine, actor=operator))
    assert left_on(fake, uuid) == []
    project.refresh_from_db()
    assert project.used_machines == 0


def test_a_stray_disk_becomes_a_machine_with_a_new_user_inside(
    host: Host, project: Project, operator: User, image_version: ImageVersion, fake: FakeHost
) -> None:
    uuid = stray_disk(host, image_version)
    disk = fake.disks[uuid]
    machine, job = adopt(found(host, DifferenceKind.STRAY), operator, project)
    assert job.status == JobStatus.DONE, job.error_message
    assert (machine.pk, machine.image_version, machine.disk_gib) == (uuid, image_version, 7)
    assert (machine.power_state, machine.login_user) == (PowerState.SHUT_OFF, "admin")
    assert fake.disks[uuid] == disk
    assert f"instance-id: {machine.genid}" in fake.seeds[uuid].meta_data
    assert work_on(services.request_start(machine, actor=operator)).status == JobStatus.DONE


@pytest.mark.parametrize("kind", [DifferenceKind.FOREIGN, DifferenceKind.STRAY])
def test_what_could_not_be_taken_over_is_left_as_it_was(
    host: Host, project: Project, operator: User, image_version: ImageVersion, fake: FakeHost, kind: DifferenceKind
) -> None:
    uuid = foreign(fake) if kind == DifferenceKind.FOREIGN else stray_disk(host, image_version)
    fake.fail_next("adopt" if kind == DifferenceKind.FOREIGN else "define", HypervisorError("It cannot be done."))
    machine = drift.request_adoption(found(host, kind), actor=operator, project=project, name="found")
    assert work_on(Job.objects.get(target_id=machine.pk)).status == JobStatus.FAILED
    assert not Machine.objects.exists()
    assert found(host, kind).object_id == uuid
    project.refresh_from_db()
    host.refresh_from_db()
    assert (project.used_machines, host.reserved_vcpus) == (0, 0)


def test_taking_over_counts_against_the_quota(host: Host, project: Project, operator: User, fake: FakeHost) -> None:
    foreign(fake, vcpus=64)
    with pytest.raises(QuotaExceededError):
        drift.request_adoption(found(host, DifferenceKind.FOREIGN), actor=operator, project=project, name="found")
    assert not Machine.objects.exists()
    assert not Job.objects.exists()


def test_taking_over_twice_makes_one_machine(host: Host, project: Project, operator: User, fake: FakeHost) -> None:
    foreign(fake)
    difference = found(host, DifferenceKind.FOREIGN)
    first = drift.request_adoption(difference, actor=operator, project=project, name="found")
    assert drift.request_adoption(difference, actor=operator, project=project, name="found") == first
    assert Job.objects.count() == 1
    project.refresh_from_db()
    assert project.used_machines == 1


@pytest.mark.parametrize("name", ["", "UPPER", "a b", "<b>x</b>", "x" * 64, "a\nb"])
def test_a_name_that_no_machine_can_have_is_refused(
    host: Host, project: Project, operator: User, fake: FakeHost, name: str
) -> None:
    foreign(fake)
    with pytest.raises(InvalidError):
        drift.request_adoption(found(host, DifferenceKind.FOREIGN), actor=operator, project=project, name=name)


def test_a_copy_on_another_host_is_removed_only_when_told_to(built: Built, operator: User, alice: User) -> None:
    machine = built()
    other = Host.objects.create(name="other", uri=f"fake://{uuid4().hex}", pool_dir="/nowhere")
    copy = fake_of(other)
    copy.domains[machine.pk] = dataclasses.replace(fake_of(machine.host).domains[machine.pk])
    difference = found(other, DifferenceKind.ELSEWHERE)
    assert left_on(copy, machine.pk) == ["domain"]
    with pytest.raises(ForbiddenError):
        drift.request_copy_removal(difference, actor=alice)
    job = drift.request_copy_removal(difference, actor=operator)
    assert drift.request_copy_removal(difference, actor=operator) == job
    assert work_on(job).status == JobStatus.DONE
    assert left_on(copy, machine.pk) == []
    assert left_on(fake_of(machine.host), machine.pk) == ["domain", "disk", "seed"]


def test_a_copy_is_not_removed_when_the_machine_came_to_live_there(built: Built, operator: User) -> None:
    machine = built()
    other = Host.objects.create(name="other", uri=f"fake://{uuid4().hex}", pool_dir="/nowhere")
    copy = fake_of(other)
    copy.domains[machine.pk] = dataclasses.replace(fake_of(machine.host).domains[machine.pk])
    job = drift.request_copy_removal(found(other, DifferenceKind.ELSEWHERE), actor=operator)
    Machine.objects.update(host=other)
    work_on(job)
    assert left_on(copy, machine.pk) == ["domain"]


def test_a_base_image_that_the_portal_does_not_know_is_shown_and_left(host: Host, image_version: ImageVersion) -> None:
    driver, version = driver_of(host), uuid4()
    driver.put_image(version, write_image(image_version), progress=lambda _percent: None)
    assert found(host, DifferenceKind.IMAGE).object_id == version
    assert driver.has_image(version)


def test_the_number_of_queries_does_not_grow_with_machines(built: Built, project: Project, host: Host) -> None:
    Project.objects.update(max_machines=99, max_vcpus=99, max_memory_mib=999_999, max_disk_gib=999)

    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as asked:
            reconcile.reconcile_host(host.pk)
        return len(asked)

    built()
    few = queries()
    for _ in range(6):
        built()
    assert queries() == few


def test_reconciling_a_host_asks_it_once_for_all(built: Built, fake: FakeHost) -> None:
    machines = [built() for _ in range(3)]
    fake.calls.clear()
    reconcile.reconcile_host(machines[0].host_id)
    assert dict(fake.calls) == {"prepare_host": 1, "host_usage": 1, "list": 1, "list_volumes": 1, "parents": 1}
