"""Snapshots by workers on a host in memory: what comes back, what is lost, and what is reserved meanwhile."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pytest
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.errors import ConflictError, NotFoundError, QuotaExceededError
from portal.events.models import Event
from portal.hosts.models import Host
from portal.isos.models import Iso
from portal.isos.models import Status as IsoStatus
from portal.jobs.models import Job
from portal.jobs.names import JobName, JobStatus
from portal.lib.secrets import unseal
from portal.machines import binning, cards, discs, disks, hibernation, resizing, services
from portal.machines.models import Attachment, Disc, Flavour, Machine, NetworkCard
from portal.machines.states import PowerState, Status, Task
from portal.snapshots import restoring, schedules
from portal.snapshots import services as snapshots
from portal.snapshots.models import Snapshot, SnapshotSchedule
from portal.snapshots.selectors import loss_of, tree_of
from portal.snapshots.states import Every
from portal.snapshots.states import Status as SnapshotStatus
from portal.volumes.models import Volume
from portal.volumes.states import Status as VolumeStatus
from tests.support.agreement import disagreements
from tests.workers.support import assert_nothing_left, work_on
from workers import reconcile
from workers.hosts import driver_of
from workers.hypervisor.errors import HypervisorError, StorageFullError
from workers.hypervisor.fake import FakeHost

Built = Callable[[], Machine]


@pytest.fixture(autouse=True)
def _room(project: Project) -> None:
    Project.objects.filter(pk=project.pk).update(max_disk_gib=200, max_memory_mib=32768)


def fresh(machine: Machine) -> Machine:
    return Machine.objects.select_related("project", "host").get(pk=machine.pk)


def take(machine: Machine, actor: User, name: str = "", *, with_memory: bool = False) -> Snapshot:
    job = work_on(snapshots.request_take(fresh(machine), actor=actor, name=name, with_memory=with_memory))
    assert job.status == JobStatus.DONE, job.error_message
    return again(Snapshot.objects.filter(machine=machine, status=SnapshotStatus.READY).latest("taken_at"))


def again(snapshot: Snapshot) -> Snapshot:
    return Snapshot.objects.select_related("machine__project", "machine__host").get(pk=snapshot.pk)


def restore(snapshot: Snapshot, actor: User, *, take_first: bool = False) -> Job:
    return work_on(restoring.request_restore(again(snapshot), actor=actor, take_first=take_first))


def delete(snapshot: Snapshot, actor: User) -> Job:
    return work_on(snapshots.request_delete(again(snapshot), actor=actor))


def give_disk(machine: Machine, actor: User, name: str) -> Volume:
    work_on(disks.request_new_disk(fresh(machine), actor=actor, name=name, size_gib=2))
    return Volume.objects.get(name=name)


# --- taking -----------------------------------------------------------------------------------------------------------


def test_it_is_whole_and_says_whether_the_file_systems_were_still(built: Built, alice: User, fake: FakeHost) -> None:
    machine = built()
    still = take(machine, alice)
    assert (still.name, still.quiesced, still.was_running, still.held_gib) == ("snapshot-1", True, True, 0)
    fake.guest(machine.pk).freezes = False
    assert take(machine, alice).quiesced is False
    assert fresh(machine).power_state == PowerState.RUNNING
    assert disagreements() == []
    event = Event.objects.filter(kind="snapshot.taken").latest("pk")
    assert event.data["machine"]["name"] == machine.name
    assert event.actor_name == "alice"


def test_its_memory_counts_as_disk_until_it_is_deleted(built: Built, alice: User, project: Project) -> None:
    machine = built()
    before = Project.objects.get().used_disk_gib
    snapshot = take(machine, alice, with_memory=True)
    assert (snapshot.quiesced, snapshot.memory_bytes) == (False, 1024 << 20)
    assert Project.objects.get().used_disk_gib == before + 1
    assert delete(snapshot, alice).status == JobStatus.DONE
    assert Project.objects.get().used_disk_gib == before
    assert disagreements() == []


def test_without_room_for_its_memory_it_is_refused_and_nothing_is_claimed(built: Built, alice: User) -> None:
    machine = built()
    Project.objects.update(max_disk_gib=10)
    with pytest.raises(QuotaExceededError):
        snapshots.request_take(fresh(machine), actor=alice, with_memory=True)
    assert fresh(machine).task == Task.NONE
    assert not Snapshot.objects.exists()


def test_what_cannot_be_taken_is_refused_in_words(built: Built, alice: User) -> None:
    machine = built()
    work_on(services.request_force_off(fresh(machine), actor=alice))
    with pytest.raises(ConflictError, match="no memory to keep"):
        snapshots.request_take(fresh(machine), actor=alice, with_memory=True)
    assert take(machine, alice).was_running is False
    work_on(services.request_start(fresh(machine), actor=alice))
    work_on(hibernation.request_hibernate(fresh(machine), actor=alice))
    with pytest.raises(ConflictError, match="hibernated"):
        snapshots.request_take(fresh(machine), actor=alice)
    Machine.objects.update(missing_since=timezone.now(), saved_at=None)
    with pytest.raises(ConflictError, match="missing"):
        snapshots.request_take(fresh(machine), actor=alice)
    Machine.objects.update(missing_since=None, keeps_definition=True)
    with pytest.raises(ConflictError, match="Somebody else"):
        snapshots.request_take(fresh(machine), actor=alice)


def test_asked_twice_it_is_taken_once_and_another_name_has_to_wait(built: Built, alice: User) -> None:
    machine = built()
    job = snapshots.request_take(fresh(machine), actor=alice, name="before")
    assert snapshots.request_take(fresh(machine), actor=alice, name="before") == job
    with pytest.raises(ConflictError, match="busy"):
        snapshots.request_take(fresh(machine), actor=alice, name="another")
    work_on(job)
    with pytest.raises(ConflictError, match="named before already"):
        snapshots.request_take(fresh(machine), actor=alice, name="before")
    assert fresh(machine).task == Task.NONE


def test_a_host_that_is_full_leaves_nothing_of_it(built: Built, alice: User, fake: FakeHost) -> None:
    machine = built()
    fake.fail_next("take_snapshot", StorageFullError("The host's storage is full."), after=True)
    job = work_on(snapshots.request_take(fresh(machine), actor=alice, with_memory=True))
    assert (job.status, job.error_code) == (JobStatus.FAILED, "storage-full")
    assert "full" in fresh(machine).error_message
    assert not Snapshot.objects.live().exists()
    assert disagreements() == []


def test_what_an_undo_could_not_remove_is_removed_when_hosts_are_compared(
    built: Built, alice: User, fake: FakeHost
) -> None:
    machine = built()
    fake.fail_next("take_snapshot", HypervisorError("It cannot be done."), after=True)
    fake.fail_next("delete_snapshot", HypervisorError("Nor this."))
    work_on(snapshots.request_take(fresh(machine), actor=alice))
    assert fake.snapshots[machine.pk]
    reconcile.reconcile_host(machine.host_id)
    assert not fake.snapshots[machine.pk]
    assert disagreements() == []


def test_a_task_without_its_job_ends(built: Built, alice: User) -> None:
    machine = built()
    kept = take(machine, alice)
    requests: tuple[Callable[[], Job], ...] = (
        lambda: snapshots.request_take(fresh(machine), actor=alice, with_memory=True),
        lambda: snapshots.request_delete(again(kept), actor=alice),
        lambda: restoring.request_restore(again(kept), actor=alice, take_first=True),
    )
    for ask in requests:
        ask().delete()
        Machine.objects.update(task_since=timezone.now() - dt.timedelta(hours=1))
        reconcile.reconcile_host(machine.host_id)
        assert fresh(machine).task == Task.NONE
        assert disagreements() == []
    assert list(Snapshot.objects.live()) == [kept]


# --- the tree -----------------------------------------------------------------------------------------------------


def test_the_tree_follows_where_the_machine_went(built: Built, alice: User) -> None:
    machine = built()
    first, second, third = (take(machine, alice, name) for name in ("first", "second", "third"))
    restore(first, alice)
    work_on(services.request_start(fresh(machine), actor=alice))
    other = take(machine, alice, "other")
    assert [one.parent_id for one in map(again, (first, second, third, other))] == [None, first.pk, second.pk, first.pk]
    shown = tree_of(fresh(machine), frozenset())
    assert [(b.snapshot.name, b.depth, b.is_here, b.on_the_way) for b in shown] == [
        ("first", 0, False, True),
        ("second", 1, False, False),
        ("third", 1, False, False),
        ("other", 0, True, True),
    ]
    delete(first, alice)
    delete(other, alice)
    assert [(b.snapshot.name, b.depth, b.is_here) for b in tree_of(fresh(machine), frozenset())] == [
        ("second", 0, False),
        ("third", 0, False),
    ]
    assert disagreements() == []


def test_deleted_in_any_order_the_others_can_be_restored(built: Built, alice: User) -> None:
    machine = built()
    kept = [take(machine, alice) for _ in range(4)]
    for gone in (kept[1], kept[3], kept[0]):
        assert delete(gone, alice).status == JobStatus.DONE
        assert disagreements() == []
    assert restore(kept[2], alice).status == JobStatus.DONE
    with pytest.raises(NotFoundError):
        restoring.request_restore(again(kept[0]), actor=alice)


# --- going back ---------------------------------------------------------------------------------------------------


def test_disks_and_size_are_what_they_were_and_the_rest_is_given_back(
    built: Built, alice: User, flavour: Flavour
) -> None:
    machine = built()
    volume = give_disk(machine, alice, "data")
    snapshot = take(machine, alice)
    before = Project.objects.get()
    genid = fresh(machine).genid
    work_on(disks.request_grow(fresh(machine), actor=alice, disk=disks.ROOT, size_gib=machine.disk_gib + 5))
    disk = str(Attachment.objects.get(volume=volume).pk)
    work_on(disks.request_grow(fresh(machine), actor=alice, disk=disk, size_gib=9))
    larger = Flavour.objects.create(name="large", title="Large", vcpus=2, memory_mib=2048, disk_gib=10)
    work_on(resizing.request_resize(fresh(machine), actor=alice, flavour=larger))
    assert restore(snapshot, alice).status == JobStatus.DONE
    row, volume = fresh(machine), Volume.objects.get(pk=volume.pk)
    assert (row.vcpus, row.memory_mib, row.disk_gib, row.flavour) == (1, 1024, 10, flavour)
    assert (row.wanted_vcpus, row.power_state, volume.size_gib) == (None, PowerState.SHUT_OFF, 2)
    assert row.genid != genid, "the guest would not notice that it was set back"
    now = Project.objects.get()
    assert (now.used_vcpus, now.used_memory_mib, now.used_disk_gib) == (
        before.used_vcpus,
        before.used_memory_mib,
        before.used_disk_gib,
    )
    assert disagreements() == []


def test_a_later_and_larger_one_is_asked_of_the_quota(built: Built, alice: User) -> None:
    machine = built()
    small = take(machine, alice)
    work_on(disks.request_grow(fresh(machine), actor=alice, disk=disks.ROOT, size_gib=30))
    large = take(machine, alice)
    restore(small, alice)
    Project.objects.update(max_disk_gib=20)
    with pytest.raises(QuotaExceededError):
        restoring.request_restore(again(large), actor=alice)
    assert fresh(machine).task == Task.NONE
    Project.objects.update(max_disk_gib=100)
    assert restore(large, alice).status == JobStatus.DONE
    assert fresh(machine).disk_gib == 30
    assert disagreements() == []


def test_with_memory_it_runs_on_with_its_screen_cards_and_size_of_then(
    built: Built, alice: User, fake: FakeHost
) -> None:
    machine = built()
    secret = unseal(fresh(machine).console_secret)
    work_on(cards.request_card(fresh(machine), actor=alice))
    mac = NetworkCard.objects.get().mac
    snapshot = take(machine, alice, with_memory=True)
    work_on(cards.request_removal(fresh(machine), actor=alice, card=NetworkCard.objects.get().pk))
    work_on(cards.request_card(fresh(machine), actor=alice))
    work_on(services.request_force_off(fresh(machine), actor=alice))
    work_on(services.request_start(fresh(machine), actor=alice))
    assert unseal(fresh(machine).console_secret) != secret
    starts = fake.domains[machine.pk].starts
    assert restore(snapshot, alice).status == JobStatus.DONE
    assert unseal(fresh(machine).console_secret) == secret
    assert NetworkCard.objects.get().mac == mac
    assert fresh(machine).power_state == PowerState.RUNNING
    assert fake.domains[machine.pk].starts == starts + 1
    assert disagreements() == []


def test_with_memory_its_drives_hold_what_they_hold_now(
    built: Built, alice: User, project: Project, host: Host
) -> None:
    machine = built()
    isos = [ready_iso(alice, project, name) for name in ("then", "now")]
    work_on(discs.request_insert(fresh(machine), actor=alice, iso=isos[0]))
    snapshot = take(machine, alice, with_memory=True)
    work_on(discs.request_eject(fresh(machine), actor=alice, disc=Disc.objects.get().pk))
    work_on(discs.request_insert(fresh(machine), actor=alice, iso=isos[1], slot=1))
    assert restore(snapshot, alice).status == JobStatus.DONE
    assert driver_of(host).devices(machine.pk).discs == (None, isos[1].pk)
    assert disagreements() == []


def ready_iso(alice: User, project: Project, name: str) -> Iso:
    iso = Iso.objects.create(project=project, name=name, created_by=alice, status=IsoStatus.READY, size_bytes=4)
    iso.path.parent.mkdir(parents=True, exist_ok=True)
    iso.path.write_bytes(b"disc")
    return iso


def test_what_is_now_is_kept_first_if_that_is_asked_for(built: Built, alice: User) -> None:
    machine = built()
    snapshot = take(machine, alice, "good")
    for _twice in range(2):
        assert restore(snapshot, alice, take_first=True).status == JobStatus.DONE
    names = {one.name: one.is_current for one in Snapshot.objects.live()}
    assert names == {"good": True, "before restoring good": False, "before restoring good 2": False}
    assert disagreements() == []


def test_hibernated_it_is_restored_and_wakes_cold(built: Built, alice: User) -> None:
    machine = built()
    snapshot = take(machine, alice)
    work_on(hibernation.request_hibernate(fresh(machine), actor=alice))
    with pytest.raises(ConflictError, match="hibernated"):
        restoring.request_restore(again(snapshot), actor=alice, take_first=True)
    assert "Its saved memory is forgotten." in loss_of(again(snapshot)).sentences
    assert restore(snapshot, alice).status == JobStatus.DONE
    assert not fresh(machine).is_hibernated
    assert disagreements() == []


def test_a_restore_that_fails_leaves_a_machine_that_is_off_and_whole(built: Built, alice: User, fake: FakeHost) -> None:
    machine = built()
    gone = give_disk(machine, alice, "then")
    snapshot = take(machine, alice)
    work_on(disks.request_detach(fresh(machine), actor=alice, disk=str(Attachment.objects.get(volume=gone).pk)))
    later = give_disk(machine, alice, "later")
    fake.fail_next("restore_snapshot", HypervisorError("It cannot be done."))
    job = restore(snapshot, alice, take_first=True)
    assert job.status == JobStatus.FAILED
    states = dict(Volume.objects.values_list("name", "status"))
    assert states == {"then": VolumeStatus.AVAILABLE, "later": VolumeStatus.IN_USE}
    assert (fresh(machine).power_state, fresh(machine).error_message) == (PowerState.SHUT_OFF, "It cannot be done.")
    assert Attachment.objects.get(volume=later).task == ""
    assert disagreements() == []
    assert restore(snapshot, alice).status == JobStatus.DONE
    assert dict(Volume.objects.values_list("name", "status")) == {
        "then": VolumeStatus.IN_USE,
        "later": VolumeStatus.AVAILABLE,
    }
    assert disagreements() == []


# --- volumes that moved -------------------------------------------------------------------------------------------


def test_a_volume_that_came_later_is_free_keeps_its_data_and_can_be_had_by_another_machine(
    built: Built, alice: User, host: Host
) -> None:
    """Both start afterwards: it is in one of them only."""
    machine, other = built(), built()
    snapshot = take(machine, alice)
    volume = give_disk(machine, alice, "later")
    assert any("later" in sentence for sentence in loss_of(again(snapshot)).sentences)
    assert restore(snapshot, alice).status == JobStatus.DONE
    volume.refresh_from_db()
    assert volume.status == VolumeStatus.AVAILABLE
    work_on(disks.request_attach(fresh(other), actor=alice, volume=volume))
    job = work_on(services.request_start(fresh(machine), actor=alice))
    assert job.status == JobStatus.DONE
    assert Attachment.objects.get(volume=volume).machine == other
    assert disagreements() == []


def test_a_volume_that_is_with_another_machine_or_gone_is_a_refusal_before_anything_is_done(
    built: Built, alice: User
) -> None:
    machine, other = built(), built()
    volume = give_disk(machine, alice, "shared")
    snapshot = take(machine, alice)
    give_disk(machine, alice, "later")
    disk = str(Attachment.objects.get(volume=volume).pk)
    work_on(disks.request_detach(fresh(machine), actor=alice, disk=disk))
    volume.refresh_from_db()
    work_on(disks.request_attach(fresh(other), actor=alice, volume=volume))
    with pytest.raises(ConflictError, match=other.name):
        restoring.request_restore(again(snapshot), actor=alice, take_first=True)
    assert other.name in loss_of(again(snapshot)).refusal
    assert fresh(machine).power_state == PowerState.RUNNING
    Volume.objects.filter(pk=volume.pk).update(status=VolumeStatus.DELETED)
    with pytest.raises(ConflictError, match="deleted"):
        restoring.request_restore(again(snapshot), actor=alice)
    assert "deleted" in loss_of(again(snapshot)).refusal
    Volume.objects.filter(pk=volume.pk).update(status=VolumeStatus.IN_USE)
    assert list(Snapshot.objects.live()) == [snapshot]
    assert disagreements() == []


# --- with its machine ---------------------------------------------------------------------------------------------


def test_they_go_with_their_machine_and_give_all_back(built: Built, alice: User) -> None:
    machine = built()
    take(machine, alice, with_memory=True)
    take(machine, alice)
    SnapshotSchedule.objects.create(machine=machine, every=Every.DAY, next_at=timezone.now())
    work_on(services.request_delete(fresh(machine), actor=alice))
    assert_nothing_left(machine)
    assert not Snapshot.objects.live().exists()
    assert not SnapshotSchedule.objects.exists()
    assert disagreements() == []


def test_in_the_bin_they_wait_and_come_back(built: Built, alice: User) -> None:
    machine = built()
    snapshot = take(machine, alice, with_memory=True)
    Project.objects.update(bin_days=7)
    work_on(binning.request_removal(fresh(machine), actor=alice))
    assert disagreements() == []
    binning.request_restore(fresh(machine), actor=alice)
    assert restore(snapshot, alice).status == JobStatus.DONE
    assert fresh(machine).power_state == PowerState.RUNNING
    assert disagreements() == []


def test_deleted_while_one_is_taken_both_end(built: Built, alice: User) -> None:
    machine = built()
    snapshots.request_take(fresh(machine), actor=alice, with_memory=True)
    job = services.request_delete(fresh(machine), actor=alice)
    for one in Job.objects.filter(name=JobName.SNAPSHOT_TAKE):
        work_on(one)
    work_on(job)
    assert fresh(machine).status == Status.DELETED
    assert_nothing_left(machine)
    assert disagreements() == []


def test_one_that_is_copied_just_now_is_not_deleted_nor_its_machine(built: Built, alice: User) -> None:
    machine, copy = built(), built()
    snapshot = take(machine, alice)
    for _twice in range(2):
        snapshots.hold(snapshot, holder=copy.pk)
    with pytest.raises(ConflictError, match="copied"):
        snapshots.request_delete(again(snapshot), actor=alice)
    assert fresh(machine).task == Task.NONE
    job = services.request_delete(fresh(machine), actor=alice)
    with pytest.raises(AssertionError, match="did not end"):
        work_on(job, rounds=3)
    snapshots.let_go(holder=copy.pk)
    snapshots.let_go(holder=copy.pk)
    assert work_on(job).status == JobStatus.DONE
    with pytest.raises(NotFoundError):
        snapshots.hold(again(snapshot), holder=copy.pk)


def test_one_that_is_being_deleted_is_not_copied(built: Built, alice: User) -> None:
    machine = built()
    snapshot = take(machine, alice)
    snapshots.request_delete(again(snapshot), actor=alice)
    with pytest.raises(ConflictError, match="deleted"):
        snapshots.hold(snapshot, holder=machine.pk)


# --- by the clock -------------------------------------------------------------------------------------------------


def work_off() -> None:
    for job in Job.objects.filter(status=JobStatus.QUEUED):
        work_on(job)


def test_the_newest_of_a_schedule_are_kept_and_what_people_took_stays(built: Built, alice: User) -> None:
    machine = built()
    mine = take(machine, alice, "mine")
    schedule = schedules.set_schedule(fresh(machine), actor=alice, every=Every.HOUR, keep=2)
    made = []
    for number in range(4):
        SnapshotSchedule.objects.update(next_at=timezone.now() - dt.timedelta(minutes=1))
        Snapshot.objects.filter(schedule=schedule, name__startswith="hourly").update(name=f"earlier {number}")
        assert schedules.take_due() == 1
        work_off()
        made.append(Snapshot.objects.filter(schedule=schedule).latest("created_at"))
    renamed = made[0]
    snapshots.change(again(renamed), actor=alice, name="kept by me")
    assert schedules.delete_surplus() == 1
    assert schedules.delete_surplus() == 0, "the machine is busy with the first"
    work_off()
    assert schedules.delete_surplus() == 0
    left = {str(one.pk) for one in Snapshot.objects.live()}
    assert left == {str(one.pk) for one in (mine, renamed, made[2], made[3])}
    deleted_by = Event.objects.filter(kind="snapshot.deleted").values_list("actor_name", flat=True)
    assert list(deleted_by) == [""]
    assert disagreements() == []


def test_a_busy_machine_is_tried_again_and_then_left_until_the_next_time(built: Built, alice: User) -> None:
    machine = built()
    schedules.set_schedule(fresh(machine), actor=alice, every=Every.DAY, keep=2)
    job = services.request_reboot(fresh(machine), actor=alice)
    due = timezone.now() - dt.timedelta(minutes=5)
    SnapshotSchedule.objects.update(next_at=due)
    assert schedules.take_due() == 0
    schedule = SnapshotSchedule.objects.get()
    assert schedule.next_at == due
    assert "busy" in schedule.problem
    SnapshotSchedule.objects.update(next_at=due - dt.timedelta(hours=1))
    assert schedules.take_due() == 0
    assert SnapshotSchedule.objects.get().next_at > timezone.now()
    work_on(job)
    SnapshotSchedule.objects.update(next_at=due)
    assert schedules.take_due() == 1
    assert SnapshotSchedule.objects.get().problem == ""


def test_a_machine_that_stayed_off_gets_no_second_one_of_the_same(built: Built, alice: User) -> None:
    machine = built()
    work_on(services.request_force_off(fresh(machine), actor=alice))
    schedules.set_schedule(fresh(machine), actor=alice, every=Every.DAY, keep=2)
    for expected in (1, 0):
        SnapshotSchedule.objects.update(next_at=timezone.now() - dt.timedelta(minutes=1))
        assert schedules.take_due() == expected
        work_off()
    work_on(services.request_start(fresh(machine), actor=alice))
    SnapshotSchedule.objects.update(next_at=timezone.now() - dt.timedelta(minutes=1))
    assert schedules.take_due() == 1
