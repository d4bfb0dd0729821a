"""Disks and cards of machines that are hibernated, paused, resized, or lie in the bin."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest

from portal.accounts.models import Project, User
from portal.errors import ConflictError
from portal.hosts.models import Difference, Host
from portal.jobs.models import Job
from portal.jobs.names import JobName, JobStatus
from portal.machines import binning, cards, disks, hibernation, resizing, services
from portal.machines.models import Attachment, Flavour, Machine
from portal.machines.states import Status, Task
from portal.volumes import services as volumes
from portal.volumes.models import Volume
from portal.volumes.states import Status as VolumeStatus
from tests.support.agreement import disagreements
from tests.workers.support import work_on
from workers import reconcile
from workers.hypervisor.errors import HypervisorError
from workers.hypervisor.fake import FakeHost

Built = Callable[[], Machine]


def fresh(machine: Machine) -> Machine:
    return Machine.objects.select_related("project", "host").get(pk=machine.pk)


def done(job: Job) -> None:
    work_on(job)
    job.refresh_from_db()
    assert job.status == JobStatus.DONE, job.error_message
    assert disagreements() == []


@pytest.fixture
def machine(built: Built, alice: User) -> Machine:
    """It has a volume that stays and one that goes with it."""
    machine = built()
    for name in ("stays", "goes"):
        goes = name == "goes"
        done(disks.request_new_disk(fresh(machine), actor=alice, name=name, size_gib=2, delete_with_machine=goes))
    return fresh(machine)


def used(project: Project) -> tuple[int, int, int, int]:
    project.refresh_from_db()
    return project.used_machines, project.used_vcpus, project.used_memory_mib, project.used_disk_gib


def states() -> dict[str, str]:
    return dict(Volume.objects.values_list("name", "status"))


def into_the_bin(machine: Machine, actor: User) -> Machine:
    Project.objects.filter(pk=machine.project_id).update(bin_days=7)
    done(binning.request_removal(fresh(machine), actor=actor))
    assert fresh(machine).status == Status.BINNED
    return fresh(machine)


def asks(machine: Machine, actor: User, free: Volume) -> tuple[Callable[[], object], ...]:
    disk = str(Attachment.objects.get(volume__name="stays").pk)
    return (
        lambda: disks.request_attach(machine, actor=actor, volume=free),
        lambda: disks.request_new_disk(machine, actor=actor, name="more", size_gib=1),
        lambda: disks.request_detach(machine, actor=actor, disk=disk),
        lambda: disks.request_grow(machine, actor=actor, disk=disk, size_gib=5),
        lambda: disks.request_grow(machine, actor=actor, disk="root", size_gib=machine.disk_gib + 1),
        lambda: disks.request_limits(machine, actor=actor, disk=disk, iops=1, mib_per_s=0),
        lambda: cards.request_card(machine, actor=actor),
    )


@pytest.mark.parametrize(
    ("ask_for", "word"),
    [(hibernation.request_hibernate, "is hibernated"), (services.request_pause, "is paused")],
    ids=["hibernated", "paused"],
)
def test_what_is_hibernated_or_paused_keeps_its_devices_and_it_is_said_why(
    machine: Machine, alice: User, project: Project, host: Host, ask_for: Callable[..., Job], word: str
) -> None:
    free = volumes.request_volume(project, actor=alice, name="free", size_gib=1, host=host)
    done(Job.objects.get(target_id=free.pk))
    done(ask_for(machine, actor=alice))
    before, number = used(project), Job.objects.count()
    for ask in asks(fresh(machine), alice, free):
        with pytest.raises(ConflictError, match=word):
            ask()
    assert (used(project), Job.objects.count(), fresh(machine).task) == (before, number, Task.NONE)
    done(services.request_start(fresh(machine), actor=alice))
    done(disks.request_attach(fresh(machine), actor=alice, volume=Volume.objects.get(pk=free.pk)))


def test_in_the_bin_it_keeps_its_volumes_which_count_and_are_nobody_elses(
    machine: Machine, built: Built, alice: User, project: Project
) -> None:
    disk = used(project)[3]
    binned = into_the_bin(machine, alice)
    assert used(project) == (0, 0, 0, disk)
    assert states() == {"stays": VolumeStatus.IN_USE, "goes": VolumeStatus.IN_USE}
    reconcile.reconcile_host(machine.host_id)
    assert not Difference.objects.exists()
    other = built()
    volume = Volume.objects.get(name="stays")
    refused: tuple[Callable[[], object], ...] = (
        lambda: disks.request_attach(other, actor=alice, volume=volume),
        lambda: volumes.request_delete(volume, actor=alice),
        lambda: disks.request_new_disk(binned, actor=alice, name="more", size_gib=1),
    )
    for ask in refused:
        with pytest.raises(ConflictError):
            ask()
    binning.request_restore(binned, actor=alice)
    assert used(project)[3] == disk + other.disk_gib
    done(services.request_start(fresh(machine), actor=alice))
    done(disks.request_detach(fresh(machine), actor=alice, disk=str(volume.attachment.pk)))


def test_from_the_bin_for_good_each_volume_goes_as_it_was_attached(
    machine: Machine, alice: User, project: Project
) -> None:
    done(services.request_delete(into_the_bin(machine, alice), actor=alice))
    assert states() == {"stays": VolumeStatus.AVAILABLE, "goes": VolumeStatus.DELETED}
    assert used(project) == (0, 0, 0, 2)


def test_past_the_bin_it_is_chosen_which_volumes_go(machine: Machine, alice: User, project: Project) -> None:
    Project.objects.update(bin_days=7)
    chosen = [Volume.objects.get(name="stays").pk]
    done(services.request_delete(fresh(machine), actor=alice, delete_volumes=chosen))
    assert states() == {"stays": VolumeStatus.DELETED, "goes": VolumeStatus.AVAILABLE}
    assert used(project) == (0, 0, 0, 2)


def test_put_into_the_bin_while_a_disk_grows_that_is_settled_first(
    machine: Machine, alice: User, project: Project, fake: FakeHost
) -> None:
    before = used(project)[3]
    growing = disks.request_grow(machine, actor=alice, disk="root", size_gib=machine.disk_gib + 5)
    assert used(project)[3] == before + 5
    Project.objects.update(bin_days=7)
    binning_it = binning.request_removal(fresh(machine), actor=alice)
    work_on(growing)
    done(binning_it)
    assert used(project) == (0, 0, 0, before)
    assert fresh(machine).disk_gib == machine.disk_gib


def test_another_size_and_a_larger_disk_are_each_held_and_given_back_once(
    machine: Machine, alice: User, project: Project, flavour: Flavour, fake: FakeHost
) -> None:
    size = {"vcpus": machine.vcpus + 1, "memory_mib": machine.memory_mib + 64, "disk_gib": machine.disk_gib}
    larger = Flavour.objects.create(name="larger", title="Larger", **size)
    disk = used(project)[3]
    resizing_it = resizing.request_resize(machine, actor=alice, flavour=larger)
    with pytest.raises(ConflictError):
        disks.request_grow(fresh(machine), actor=alice, disk="root", size_gib=machine.disk_gib + 5)
    done(resizing_it)
    assert fresh(machine).waits_for_restart  # Its memory comes with the next start.
    held = (1, larger.vcpus, larger.memory_mib)
    done(disks.request_grow(fresh(machine), actor=alice, disk="root", size_gib=machine.disk_gib + 5))
    assert used(project) == (*held, disk + 5)
    fake.fail_next("grow_disk", HypervisorError("The host's storage is full.", code="storage-full"))
    work_on(disks.request_grow(fresh(machine), actor=alice, disk="root", size_gib=machine.disk_gib + 9))
    assert disagreements() == []
    assert used(project) == (*held, disk + 5)
    done(services.request_force_off(fresh(machine), actor=alice))
    assert not fresh(machine).waits_for_restart
    assert used(project) == (*held, disk + 5)
    done(services.request_delete(fresh(machine), actor=alice, delete_volumes=_volume_ids()))
    assert used(project) == (0, 0, 0, 0)


def test_of_two_workers_who_end_a_growth_one_gives_back(
    machine: Machine, alice: User, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have read that it grows before either wrote that it does not."""
    before = used(project)
    disks.request_grow(machine, actor=alice, disk="root", size_gib=machine.disk_gib + 5)
    both = [disks.in_change(machine), disks.in_change(machine)]
    monkeypatch.setattr(disks, "in_change", lambda *_args, **_kwargs: both.pop())
    disks.record_not_grown(machine, message="")
    disks.record_not_grown(machine, message="")
    assert both == []
    assert used(project) == before


def _volume_ids() -> list[UUID]:
    return list(Volume.objects.values_list("pk", flat=True))


def test_the_clock_takes_the_volumes_that_were_to_go(machine: Machine, alice: User) -> None:
    into_the_bin(machine, alice)
    Machine.objects.update(purge_at=fresh(machine).binned_at)
    assert binning.purge_due() == 1
    done(Job.objects.get(name=JobName.MACHINE_DELETE))
    assert states() == {"stays": VolumeStatus.AVAILABLE, "goes": VolumeStatus.DELETED}
