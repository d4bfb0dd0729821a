"""What people ask of a machine's snapshots at the same moment: every order ends well, and hosts and rows agree."""

from __future__ import annotations

import pytest

from portal.accounts.models import Project, User
from portal.machines import disks, resizing, services
from portal.machines.models import Attachment, Flavour, Machine
from portal.machines.states import Status
from portal.snapshots import restoring
from portal.snapshots import services as snapshots
from portal.snapshots.models import Snapshot
from portal.snapshots.states import Status as SnapshotStatus
from portal.volumes.models import Volume
from portal.volumes.states import Status as VolumeStatus
from tests.integration.races.test_devices import Make, told, work_off
from tests.support.agreement import disagreements
from tests.support.together import at_once

pytestmark = pytest.mark.django_db(transaction=True)

ROUNDS = range(3)


@pytest.fixture(autouse=True)
def _room(project: Project) -> None:
    Project.objects.update(max_disk_gib=200)


def again(machine: Machine) -> Machine:
    return Machine.objects.select_related("project", "host").get(pk=machine.pk)


def taken(machine: Machine, alice: User) -> Snapshot:
    snapshots.request_take(again(machine), actor=alice)
    work_off()
    return Snapshot.objects.select_related("machine__project", "machine__host").latest("taken_at")


@pytest.mark.parametrize("_round", ROUNDS)
def test_taken_while_it_gets_another_size_it_is_the_one_or_the_other(make: Make, alice: User, _round: int) -> None:
    machine = make("first")
    larger = Flavour.objects.create(name="larger", title="Larger", vcpus=2, memory_mib=2048, disk_gib=10)
    answers = at_once(
        [
            told(lambda: snapshots.request_take(again(machine), actor=alice, with_memory=True)),
            told(lambda: resizing.request_resize(again(machine), actor=alice, flavour=larger)),
        ]
    )
    assert sorted(answers) == ["conflict", "done"]
    work_off()
    assert Snapshot.objects.filter(status=SnapshotStatus.READY).count() == (answers[0] == "done")
    assert disagreements() == []


@pytest.mark.parametrize("_round", ROUNDS)
def test_restored_and_deleted_at_once_it_is_the_one_or_the_other(make: Make, alice: User, _round: int) -> None:
    machine = make("first")
    snapshot = taken(machine, alice)
    answers = at_once(
        [
            told(lambda: restoring.request_restore(snapshot, actor=alice)),
            told(lambda: snapshots.request_delete(snapshot, actor=alice)),
        ]
    )
    assert sorted(answers) == ["conflict", "done"]
    work_off()
    snapshot.refresh_from_db()
    assert snapshot.status == (SnapshotStatus.READY if answers[0] == "done" else SnapshotStatus.DELETED)
    assert disagreements() == []


@pytest.mark.parametrize("_round", ROUNDS)
def test_copied_and_deleted_at_once_it_is_the_one_or_the_other(make: Make, alice: User, _round: int) -> None:
    machine = make("first")
    snapshot = taken(machine, alice)
    answers = at_once(
        [
            told(lambda: snapshots.hold(snapshot, holder=machine.pk)),
            told(lambda: snapshots.request_delete(snapshot, actor=alice)),
        ]
    )
    assert answers.count("done") == 1, answers
    work_off()
    snapshot.refresh_from_db()
    assert (snapshot.status == SnapshotStatus.READY) == (answers[0] == "done")
    assert snapshot.holds.count() == (answers[0] == "done")


@pytest.mark.parametrize("_round", ROUNDS)
def test_a_volume_that_a_restore_wants_is_with_one_machine_only(make: Make, alice: User, _round: int) -> None:
    machine, other = make("first"), make("second")
    disks.request_new_disk(machine, actor=alice, name="data", size_gib=1)
    work_off()
    snapshot = taken(machine, alice)
    disk = Attachment.objects.get(volume__name="data")
    disks.request_detach(again(machine), actor=alice, disk=str(disk.pk))
    work_off()
    volume = Volume.objects.get(name="data")
    answers = at_once(
        [
            told(lambda: restoring.request_restore(snapshot, actor=alice)),
            told(lambda: disks.request_attach(again(other), actor=alice, volume=volume)),
        ]
    )
    assert sorted(answers) == ["conflict", "done"]
    work_off()
    volume.refresh_from_db()
    assert volume.status == VolumeStatus.IN_USE
    assert Attachment.objects.get(volume=volume).machine == (machine if answers[0] == "done" else other)
    assert disagreements() == []


@pytest.mark.parametrize("_round", ROUNDS)
def test_deleted_while_it_is_restored_nothing_of_the_machine_is_left(make: Make, alice: User, _round: int) -> None:
    machine = make("first")
    snapshot = taken(machine, alice)
    at_once(
        [
            told(lambda: restoring.request_restore(snapshot, actor=alice, take_first=True)),
            told(lambda: services.request_delete(again(machine), actor=alice)),
        ]
    )
    work_off()
    assert again(machine).status == Status.DELETED
    assert not Snapshot.objects.live().exists()
    assert disagreements() == []
