"""Disks and network cards of machines on a host in memory: what the rows say is what the host said."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pytest
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.errors import ConflictError
from portal.events.models import Event
from portal.hosts.models import Difference, DifferenceKind, Host
from portal.jobs.models import Job
from portal.jobs.names import JobStatus
from portal.machines import cards, disks, services
from portal.machines.models import Attachment, Machine, NetworkCard
from portal.machines.states import PowerState, Task
from portal.volumes import services as volumes
from portal.volumes.models import Volume
from portal.volumes.states import Status
from portal.volumes.states import Task as VolumeTask
from tests.support.agreement import disagreements
from tests.workers.support import work_on
from workers import reconcile, watch
from workers.hosts import driver_of
from workers.hypervisor.errors import HostUnreachableError, HypervisorError, StorageFullError
from workers.hypervisor.fake import FakeHost
from workers.hypervisor.fake_devices import guest_lets_go
from workers.hypervisor.types import EventKind, IoLimits, MachineEvent
from workers.workflows import devices

Built = Callable[[], Machine]
GIB = 1024**3


@pytest.fixture
def machine(built: Built) -> Machine:
    return built()


@pytest.fixture
def volume(project: Project, alice: User, host: Host) -> Volume:
    made = volumes.request_volume(project, actor=alice, name="data", size_gib=2, host=host)
    work_on(Job.objects.get(target_id=made.pk))
    made.refresh_from_db()
    return made


@pytest.fixture
def attachment(machine: Machine, volume: Volume, alice: User) -> Attachment:
    job = work_on(disks.request_attach(machine, actor=alice, volume=volume))
    assert job.status == JobStatus.DONE, job.error_message
    machine.refresh_from_db()
    return Attachment.objects.get(volume=volume)


def state(volume: Volume) -> tuple[str, str]:
    volume.refresh_from_db()
    return volume.status, volume.task


# --- attach and detach --------------------------------------------------------------------------------------------


def test_attached_it_is_in_use_and_detached_it_is_free(
    machine: Machine, volume: Volume, attachment: Attachment, alice: User, fake: FakeHost
) -> None:
    assert state(volume) == (Status.IN_USE, VolumeTask.NONE)
    live = fake.domains[machine.pk].live
    assert live is not None and [disk.volume for disk in live.disks] == [volume.pk]
    work_on(disks.request_detach(machine, actor=alice, disk=str(attachment.pk)))
    assert state(volume) == (Status.AVAILABLE, VolumeTask.NONE)
    assert not Attachment.objects.filter(volume__isnull=False).exists()
    assert disagreements() == []


def test_a_new_start_carries_volumes_limits_turns_and_cards(
    machine: Machine, volume: Volume, attachment: Attachment, alice: User, fake: FakeHost
) -> None:
    work_on(disks.request_limits(machine, actor=alice, disk=str(attachment.pk), iops=300, mib_per_s=5))
    work_on(cards.request_card(machine, actor=alice))
    disks.set_first_at_start(machine, actor=alice, disk=str(attachment.pk))
    work_on(services.request_force_off(machine, actor=alice))
    machine.refresh_from_db()
    work_on(services.request_start(machine, actor=alice))
    live = fake.domains[machine.pk].live
    assert live is not None
    turns = {disk.volume: disk.boot for disk in live.disks}
    assert turns == {volume.pk: 1, None: 2}
    assert {disk.limits for disk in live.disks if disk.volume} == {IoLimits(300, 5 << 20)}
    assert [nic.mac for nic in live.nics] == [machine.mac, NetworkCard.objects.get().mac]
    assert disagreements() == []
    disks.set_first_at_start(machine, actor=alice, disk=disks.ROOT)
    assert set(Attachment.objects.values_list("boot", flat=True)) == {0}


def test_a_guest_that_clings_to_its_disk_keeps_it_and_nobody_else_gets_it(
    machine: Machine,
    volume: Volume,
    attachment: Attachment,
    alice: User,
    built: Built,
    fake: FakeHost,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another tenant must never see what a machine still writes to (OSSA-2023-003)."""
    monkeypatch.setattr(devices, "DETACH_WAIT_S", 0)
    fake.guest(machine.pk).keeps_devices = True
    job = work_on(disks.request_detach(machine, actor=alice, disk=str(attachment.pk)))
    assert job.status == JobStatus.FAILED
    assert "still attached" in job.error_message
    assert job.error_code == "guest-keeps-device"
    machine.refresh_from_db()
    assert (machine.task, machine.error_message) == (Task.NONE, job.error_message)
    assert state(volume) == (Status.IN_USE, VolumeTask.NONE)
    assert disagreements() == []
    other = built()
    with pytest.raises(ConflictError):
        disks.request_attach(other, actor=alice, volume=volume)
    with pytest.raises(ConflictError):
        volumes.request_delete(volume, actor=alice)
    fake.guest(machine.pk).keeps_devices = False
    work_on(disks.request_detach(machine, actor=alice, disk=str(attachment.pk)))
    assert state(volume) == (Status.AVAILABLE, VolumeTask.NONE)


@pytest.mark.parametrize("heard", ["by an event", "at the next look"])
def test_a_guest_that_lets_go_after_it_was_given_up_on_is_followed(
    machine: Machine,
    volume: Volume,
    attachment: Attachment,
    alice: User,
    host: Host,
    fake: FakeHost,
    monkeypatch: pytest.MonkeyPatch,
    heard: str,
) -> None:
    """Row 38: the volume is free when the host says so, and not before."""
    work_on(cards.request_card(machine, actor=alice))
    card = NetworkCard.objects.get()
    monkeypatch.setattr(devices, "DETACH_WAIT_S", 0)
    fake.guest(machine.pk).keeps_devices = True
    asked = work_on(disks.request_detach(machine, actor=alice, disk=str(attachment.pk)))
    machine.refresh_from_db()
    also_asked = work_on(cards.request_removal(machine, actor=alice, card=card.pk))
    assert (asked.error_code, also_asked.error_code) == ("guest-keeps-device", "guest-keeps-device")

    def look() -> None:
        driver = driver_of(host)
        if heard == "by an event":
            watch.handle(host, driver, MachineEvent(EventKind.DEVICE, at=timezone.now(), uuid=machine.pk))
        else:
            reconcile.reconcile_host(host.pk)

    look()
    assert state(volume) == (Status.IN_USE, VolumeTask.NONE), "it still has it"
    guest_lets_go(fake, machine.pk, volume=volume.pk)
    guest_lets_go(fake, machine.pk, mac=card.mac)
    look()
    assert state(volume) == (Status.AVAILABLE, VolumeTask.NONE)
    assert not NetworkCard.objects.exists()
    assert [disk.volume for disk in fake.domains[machine.pk].spec.disks if disk.volume] == []
    assert Event.objects.filter(kind="volume.detached", subject_id=volume.pk).count() == 1
    assert disagreements() == []
    look()
    assert Event.objects.filter(kind="volume.detached").count() == 1


def test_after_a_restart_nobody_is_asked_to_let_go_any_more(
    machine: Machine, volume: Volume, attachment: Attachment, alice: User, host: Host, fake: FakeHost
) -> None:
    Attachment.objects.filter(pk=attachment.pk).update(leaving_since=timezone.now())
    work_on(services.request_force_off(machine, actor=alice))
    reconcile.reconcile_host(host.pk)
    machine.refresh_from_db()
    work_on(services.request_start(machine, actor=alice))
    guest_lets_go(fake, machine.pk, volume=volume.pk)
    reconcile.reconcile_host(host.pk)
    assert state(volume) == (Status.IN_USE, VolumeTask.NONE), "nobody asked this guest: it is no detaching of ours"


def test_who_let_go_of_a_volume_first_frees_it_and_nobody_after_that(
    machine: Machine, volume: Volume, attachment: Attachment, alice: User, built: Built
) -> None:
    """By now it may be another machine's."""
    stale = Attachment.objects.select_related("machine", "volume").get(pk=attachment.pk)
    work_on(disks.request_detach(machine, actor=alice, disk=str(attachment.pk)))
    work_on(disks.request_attach(built(), actor=alice, volume=volume))
    disks.record_gone(stale)
    assert state(volume) == (Status.IN_USE, VolumeTask.NONE)


def test_a_guest_that_takes_its_time_is_waited_for(
    machine: Machine, volume: Volume, attachment: Attachment, alice: User, fake: FakeHost
) -> None:
    job = disks.request_detach(machine, actor=alice, disk=str(attachment.pk))
    guest = fake.guest(machine.pk)
    guest.keeps_devices = True
    with pytest.raises(AssertionError, match="did not end"):
        work_on(job, rounds=3)
    machine.refresh_from_db()
    assert machine.task == Task.DETACHING
    assert state(volume) == (Status.IN_USE, VolumeTask.DETACHING)
    guest.keeps_devices = False
    assert work_on(job).status == JobStatus.DONE


def test_of_a_host_that_fell_silent_nothing_is_concluded(
    machine: Machine, volume: Volume, alice: User, fake: FakeHost
) -> None:
    """It took the disk and was not heard again: the volume counts as attached, and can be detached later."""
    fake.fail_next("attach_disk", HostUnreachableError("Silent."), times=5, after=True)
    fake.fail_next("detach_disk", HostUnreachableError("Silent."), times=2)
    job = work_on(disks.request_attach(machine, actor=alice, volume=volume))
    assert job.status == JobStatus.FAILED
    assert state(volume) == (Status.IN_USE, VolumeTask.NONE)
    assert disagreements() == []
    machine.refresh_from_db()
    assert machine.task == Task.NONE
    work_on(disks.request_detach(machine, actor=alice, disk=str(Attachment.objects.get().pk)))
    assert state(volume) == (Status.AVAILABLE, VolumeTask.NONE)


def test_a_disk_that_cannot_be_made_costs_nothing(
    machine: Machine, alice: User, project: Project, fake: FakeHost
) -> None:
    before = Project.objects.values("used_disk_gib").get(pk=project.pk)
    fake.fail_next("create_volume", StorageFullError("The host's storage is full."))
    work_on(disks.request_new_disk(machine, actor=alice, name="scratch", size_gib=5))
    made = Volume.objects.get(name="scratch")
    assert (made.status, made.error_message) == (Status.ERROR, "The host's storage is full.")
    assert Project.objects.values("used_disk_gib").get(pk=project.pk) == before
    assert not Attachment.objects.exists()
    assert disagreements() == []


# --- growing and limits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["root", "volume"])
def test_a_disk_grows_and_so_does_what_the_project_uses(
    machine: Machine, attachment: Attachment, alice: User, project: Project, which: str
) -> None:
    disk = disks.ROOT if which == "root" else str(attachment.pk)
    now = 10 if which == "root" else 2
    project.refresh_from_db()
    before = project.used_disk_gib
    job = work_on(disks.request_grow(machine, actor=alice, disk=disk, size_gib=now + 3))
    assert job.status == JobStatus.DONE, job.error_message
    project.refresh_from_db()
    machine.refresh_from_db()
    assert project.used_disk_gib == before + 3
    assert (machine.disk_gib, Volume.objects.get().size_gib) == ((13, 2) if which == "root" else (10, 5))
    assert disagreements() == []
    work_on(services.request_delete(machine, actor=alice, delete_volumes=[Volume.objects.get().pk]))
    project.refresh_from_db()
    assert project.used_disk_gib == 0


def test_what_the_host_could_not_grow_is_given_back(
    machine: Machine, attachment: Attachment, alice: User, project: Project, fake: FakeHost
) -> None:
    fake.fail_next("grow_disk", HypervisorError("The host could not grow the disk."))
    job = work_on(disks.request_grow(machine, actor=alice, disk=str(attachment.pk), size_gib=4))
    assert job.status == JobStatus.FAILED
    assert Volume.objects.get().size_gib == 2
    assert disagreements() == []


def test_limits_that_the_host_did_not_take_hold_from_the_next_start_on(
    machine: Machine, alice: User, fake: FakeHost
) -> None:
    work_on(disks.request_limits(machine, actor=alice, disk=disks.ROOT, iops=100, mib_per_s=0))
    assert fake.limits[machine.pk, None] == IoLimits(iops=100)
    fake.fail_next("set_io_limits", HypervisorError("The host could not limit the disk."))
    machine.refresh_from_db()
    work_on(disks.request_limits(machine, actor=alice, disk=disks.ROOT, iops=200, mib_per_s=0))
    machine.refresh_from_db()
    assert machine.error_message == "The host could not limit the disk."
    assert Attachment.objects.get().iops == 200


# --- network cards ------------------------------------------------------------------------------------------------


def test_a_card_comes_and_goes(machine: Machine, alice: User, host: Host, fake: FakeHost) -> None:
    work_on(cards.request_card(machine, actor=alice))
    card = NetworkCard.objects.get()
    assert disagreements() == []
    fake.guest(machine.pk).further_addresses = {card.mac: ("10.213.0.77",)}
    reconcile.reconcile_host(host.pk)
    card.refresh_from_db()
    machine.refresh_from_db()
    assert (card.addresses, machine.addresses) == (["10.213.0.77"], ["10.213.0.10"])
    work_on(cards.request_removal(machine, actor=alice, card=card.pk))
    assert not NetworkCard.objects.exists()
    assert disagreements() == []


# --- what nobody asked for ----------------------------------------------------------------------------------------


def test_a_task_whose_job_is_lost_is_settled(
    machine: Machine, attachment: Attachment, volume: Volume, alice: User, host: Host
) -> None:
    disks.request_detach(machine, actor=alice, disk=str(attachment.pk))
    Job.objects.all().delete()
    Machine.objects.update(task_since=timezone.now() - dt.timedelta(minutes=5))
    reconcile.reconcile_host(host.pk)
    machine.refresh_from_db()
    assert machine.task == Task.NONE
    assert state(volume) == (Status.IN_USE, VolumeTask.NONE)
    assert disagreements() == []


def test_a_strange_volume_is_shown_and_left_alone_and_a_lost_one_told(
    volume: Volume, host: Host, fake: FakeHost
) -> None:
    strange = fake.volumes[volume.pk]
    fake.volumes.clear()
    other = Volume.objects.none().model().pk
    fake.volumes[other] = type(strange)(f"volumes/{other}.qcow2", None, 3 * GIB, 1)
    reconcile.reconcile_host(host.pk)
    kinds = {row.kind: row.object_id for row in Difference.objects.all()}
    assert kinds == {DifferenceKind.VOLUME: other, DifferenceKind.NO_VOLUME: volume.pk}
    assert other in fake.volumes
    assert state(volume) == (Status.AVAILABLE, VolumeTask.NONE)


def test_what_is_left_of_a_deleted_volume_is_removed(volume: Volume, alice: User, host: Host, fake: FakeHost) -> None:
    info = fake.volumes[volume.pk]
    work_on(volumes.request_delete(volume, actor=alice))
    fake.volumes[volume.pk] = info
    reconcile.reconcile_host(host.pk)
    assert volume.pk not in fake.volumes


def test_a_machine_that_is_off_takes_disks_for_its_next_start(
    machine: Machine, volume: Volume, alice: User, fake: FakeHost
) -> None:
    work_on(services.request_force_off(machine, actor=alice))
    machine.refresh_from_db()
    assert machine.power_state == PowerState.SHUT_OFF
    work_on(disks.request_attach(machine, actor=alice, volume=volume))
    assert [disk.volume for disk in fake.domains[machine.pk].spec.disks] == [volume.pk]
    assert disagreements() == []
