"""A person's files, brought to machines of a host in memory and put away: never in two at once, never lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.errors import ConflictError, NotFoundError
from portal.hosts.models import Host
from portal.images.models import Image
from portal.jobs.models import Job
from portal.jobs.names import JobName, JobStatus
from portal.machines import binning, disks, hibernation, services
from portal.machines.models import Attachment, Machine
from portal.machines.states import PowerState, Task
from portal.machines.states import Status as MachineStatus
from portal.profiles import services as profiles
from portal.profiles.models import Profile
from portal.profiles.selectors import files_on, host_of, profile_of
from portal.profiles.states import State
from portal.snapshots import services as snapshots
from portal.volumes.models import Volume
from portal.volumes.states import Status as VolumeStatus
from tests.support.agreement import disagreements
from tests.support.files_guest import FilesGuests
from tests.workers.support import work_on
from workers import reconcile, runner
from workers.hosts import driver_of
from workers.hypervisor.errors import StorageFullError
from workers.hypervisor.fake import FakeHost
from workers.hypervisor.guest_files import Said
from workers.workflows import profiles as work

Desk = Callable[[], Machine]


@pytest.fixture(autouse=True)
def agents(image_version: object) -> None:
    Image.objects.update(has_agent=True)


@pytest.fixture
def guests(fake: FakeHost) -> FilesGuests:
    return FilesGuests(fake)


@pytest.fixture
def desk(built: Callable[[], Machine], guests: FilesGuests) -> Desk:
    def make() -> Machine:
        machine = built()
        guests.be(machine.pk)
        return machine

    return make


@pytest.fixture(autouse=True)
def whatever_happens_rows_and_host_agree(db: None) -> Iterator[None]:
    yield
    assert disagreements() == []


def bring(person: User, machine: Machine) -> Job:
    job = profiles.attach(person, machine)
    assert job is not None
    return work_on(job)


def put_away(machine: Machine) -> Job:
    job = profiles.release(machine)
    assert job is not None
    return work_on(job)


def state_of(person: User, project: Project) -> tuple[str, Machine | None]:
    profile = profile_of(person, project)
    assert profile is not None
    return profile.state, profile.machine


def force_off(machine: Machine, alice: User) -> None:
    machine.refresh_from_db()
    assert work_on(services.request_force_off(machine, actor=alice)).status == JobStatus.DONE


# --- the ordinary way -----------------------------------------------------------------------------------------------


def test_files_follow_their_person_from_desktop_to_desktop(
    desk: Desk, guests: FilesGuests, alice: User, project: Project
) -> None:
    first, second = desk(), desk()
    job = bring(alice, first)
    assert job.status == JobStatus.DONE, job.error_message
    assert state_of(alice, project) == (State.IN_USE, first)
    guests.write(first.pk, "a letter")
    assert put_away(first).status == JobStatus.DONE
    assert state_of(alice, project) == (State.FREE, None)
    assert bring(alice, second).status == JobStatus.DONE
    assert guests.read(second.pk) == ["a letter"]
    assert guests.unclean == set()
    assert list(guests.made.values()) == [1]
    assert set(guests.owners.values()) == {"alice"}
    first.refresh_from_db()
    assert (first.task, first.power_state) == (Task.NONE, PowerState.RUNNING)


def test_asked_twice_it_is_the_same_job_and_nothing_more_when_it_is_done(desk: Desk, alice: User) -> None:
    machine = desk()
    job = profiles.attach(alice, machine)
    assert job is not None
    assert profiles.attach(alice, machine) == job
    work_on(job)
    assert profiles.attach(alice, machine) is None
    away = profiles.release(machine)
    assert away is not None
    assert profiles.release(machine) == away
    work_on(away)
    assert profiles.release(machine) is None


def test_nobody_s_files_are_anywhere_and_that_is_no_fault(desk: Desk, alice: User, project: Project) -> None:
    machine = desk()
    assert profiles.release(machine) is None
    assert (profile_of(alice, project), files_on(machine), host_of(alice, project)) == (None, None, None)


def test_two_people_have_two_volumes(desk: Desk, guests: FilesGuests, alice: User, bob: User) -> None:
    first, second = desk(), desk()
    bring(alice, first)
    bring(bob, second)
    guests.write(first.pk, "hers")
    guests.write(second.pk, "his")
    assert (guests.read(first.pk), guests.read(second.pk)) == (["hers"], ["his"])


def test_somebody_else_s_files_come_when_those_before_have_gone(
    desk: Desk, guests: FilesGuests, alice: User, bob: User, project: Project
) -> None:
    machine = desk()
    bring(alice, machine)
    away, coming = profiles.release(machine), profiles.attach(bob, machine)
    assert away is not None
    assert coming is not None
    runner.run(coming.pk)
    assert state_of(alice, project) == (State.DETACHING, machine)
    work_on(away)
    assert work_on(coming).status == JobStatus.DONE
    assert (state_of(alice, project), state_of(bob, project)) == ((State.FREE, None), (State.IN_USE, machine))


def test_signed_out_and_in_again_the_files_wait_until_they_are_put_away(
    desk: Desk, guests: FilesGuests, alice: User
) -> None:
    """The desktop before is on its way to be deleted, as a floating one is."""
    first, second = desk(), desk()
    bring(alice, first)
    guests.write(first.pk, "a letter")
    away = profiles.release(first)
    gone = services.delete_for_good(first, actor=None)
    coming = profiles.attach(alice, second)
    assert away is not None
    assert coming is not None
    for _ in range(3):
        runner.run(coming.pk)
        runner.run(gone.pk)
    work_on(away)
    assert work_on(coming).status == JobStatus.DONE
    assert work_on(gone).status == JobStatus.DONE
    assert guests.read(second.pk) == ["a letter"]
    assert guests.unclean == set()


# --- never in two at once -------------------------------------------------------------------------------------------


def test_in_a_second_session_they_are_refused_and_it_is_said_where_they_are(
    desk: Desk, alice: User, project: Project
) -> None:
    first, second = desk(), desk()
    bring(alice, first)
    job = bring(alice, second)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "profile-in-use")
    assert first.name in job.error_message
    files = files_on(second)
    assert files is not None
    assert (files.are_here, files.message) == (False, job.error_message)
    assert state_of(alice, project) == (State.IN_USE, first)
    second.refresh_from_db()
    assert (second.task, second.status) == (Task.NONE, MachineStatus.READY)
    put_away(first)
    assert bring(alice, second).status == JobStatus.DONE


def test_of_two_sessions_at_the_same_moment_one_has_them(desk: Desk, alice: User) -> None:
    first, second = desk(), desk()
    job = profiles.attach(alice, first)
    with pytest.raises(ConflictError):
        profiles.attach(alice, second)
    assert job is not None
    work_on(job)
    assert Attachment.objects.filter(volume__personal=True).count() == 1


def test_while_they_are_being_brought_to_one_they_are_refused_to_another(
    desk: Desk, alice: User, fake: FakeHost
) -> None:
    first, second = desk(), desk()
    job = profiles.attach(alice, first)
    assert job is not None
    fake.guest(first.pk).has_agent = False
    runner.run(job.pk)  # It waits for the guest.
    refused = bring(alice, second)
    fake.guest(first.pk).has_agent = True
    assert refused.error_code == "profile-in-use"
    assert work_on(job).status == JobStatus.DONE


# --- machines that end otherwise --------------------------------------------------------------------------------------


def test_of_a_machine_that_was_killed_and_whose_row_says_it_runs_they_come_at_once(
    desk: Desk, guests: FilesGuests, fake: FakeHost, alice: User
) -> None:
    """Nobody has been told of its end: the host is asked."""
    first, second = desk(), desk()
    bring(alice, first)
    guests.write(first.pk, "a letter")
    driver_of(first.host).force_off(first.pk)  # Past the portal.
    first.refresh_from_db()
    assert first.power_state == PowerState.RUNNING
    coming = profiles.attach(alice, second)
    assert coming is not None
    runner.run(coming.pk)
    away = Job.objects.get(name=JobName.PROFILE_DETACH)
    work_on(away)
    assert work_on(coming).status == JobStatus.DONE, coming.error_message
    assert guests.read(second.pk) == ["a letter"]
    assert sum(guests.checked.values()) == 1
    assert sum(guests.made.values()) == 1
    reconcile.reconcile_host(first.host_id)


@pytest.mark.parametrize("how", ["off", "lost", "deleted", "binned", "past the portal"])
def test_whatever_became_of_the_machine_they_are_free_in_the_end(
    desk: Desk, guests: FilesGuests, fake: FakeHost, alice: User, host: Host, project: Project, how: str
) -> None:
    first, second = desk(), desk()
    bring(alice, first)
    guests.write(first.pk, "a letter")
    first = Machine.objects.get(pk=first.pk)
    if how == "off":
        force_off(first, alice)
        put_away(first)
    elif how == "lost":
        fake.vanish(first.pk)
        put_away(first)
        fake.disks.pop(first.pk)
        Machine.objects.filter(pk=first.pk).update(power_state=PowerState.SHUT_OFF)
        work_on(services.request_delete(first, actor=alice))
    elif how == "deleted":
        work_on(services.request_delete(first, actor=alice))
        reconcile.reconcile_host(host.pk)
    elif how == "binned":
        Project.objects.update(bin_days=7)
        work_on(binning.request_removal(Machine.objects.get(pk=first.pk), actor=alice))
        reconcile.reconcile_host(host.pk)
        work_on(Job.objects.get(name=JobName.PROFILE_DETACH))
    else:
        driver_of(first.host).force_off(first.pk)  # Past the portal.
        reconcile.reconcile_host(host.pk)
        assert state_of(alice, project) == (State.IN_USE, first)  # It may be started again, with its files.
        put_away(first)
    assert state_of(alice, project) == (State.FREE, None)
    assert bring(alice, second).status == JobStatus.DONE
    assert guests.read(second.pk) == ["a letter"]


def test_while_the_host_is_silent_nobody_else_gets_them(
    desk: Desk, guests: FilesGuests, fake: FakeHost, alice: User, host: Host, project: Project
) -> None:
    first, second = desk(), desk()
    bring(alice, first)
    fake.unreachable = True
    away = put_away(first)
    assert away.status == JobStatus.FAILED
    assert state_of(alice, project) == (State.DETACHING, first)
    profile = profile_of(alice, project)
    assert profile is not None
    assert profile.message == away.error_message
    reconcile.reconcile_host(host.pk)
    assert Job.objects.filter(name=JobName.PROFILE_DETACH).count() == 1
    fake.unreachable = False
    Job.objects.filter(pk=away.pk).update(finished_at=timezone.now() - profiles.TRY_AGAIN_AFTER)
    reconcile.reconcile_host(host.pk)
    again = Job.objects.exclude(pk=away.pk).get(name=JobName.PROFILE_DETACH)
    assert work_on(again).status == JobStatus.DONE
    assert state_of(alice, project) == (State.FREE, None)
    assert bring(alice, second).status == JobStatus.DONE


def test_programs_that_have_them_open_are_told_then_ended(
    desk: Desk, guests: FilesGuests, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = desk()
    bring(alice, machine)
    guests.holds[machine.pk] = ["soffice"]
    away = profiles.release(machine)
    assert away is not None
    monkeypatch.setattr(work, "TOLD_FOR_S", 600)
    runner.run(away.pk)
    step = away.steps.get(name="close_files")
    assert "soffice" in step.detail
    monkeypatch.setattr(work, "TOLD_FOR_S", -1)
    assert work_on(away).status == JobStatus.DONE
    machine.refresh_from_db()
    assert machine.power_state == PowerState.RUNNING
    assert guests.unclean == set()


@pytest.mark.parametrize("how", ["clings", "is dumb", "keeps the disk"])
def test_a_guest_that_does_not_let_them_go_is_switched_off(
    desk: Desk,
    guests: FilesGuests,
    fake: FakeHost,
    alice: User,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    machine = desk()
    bring(alice, machine)
    for name in ("CLOSE_WAIT_S", "LET_GO_WAIT_S"):
        monkeypatch.setattr(work, name, -1)
    if how == "clings":
        guests.clings.add(machine.pk)
    fake.guest(machine.pk).has_agent = how != "is dumb"
    fake.guest(machine.pk).keeps_devices = how == "keeps the disk"
    assert put_away(machine).status == JobStatus.DONE
    machine.refresh_from_db()
    assert machine.power_state == PowerState.SHUT_OFF
    assert state_of(alice, project) == (State.FREE, None)


def test_one_that_hibernates_keeps_them_until_it_has_been_woken(
    desk: Desk, alice: User, project: Project, host: Host
) -> None:
    machine = desk()
    bring(alice, machine)
    machine.refresh_from_db()
    work_on(hibernation.request_hibernate(machine, actor=alice))
    machine.refresh_from_db()
    away = put_away(machine)
    assert (away.status, away.error_code) == (JobStatus.FAILED, "profile-hibernated")
    reconcile.reconcile_host(host.pk)
    assert state_of(alice, project) == (State.DETACHING, machine)
    machine.refresh_from_db()
    work_on(services.request_start(machine, actor=alice))
    Job.objects.filter(pk=away.pk).update(finished_at=timezone.now() - profiles.TRY_AGAIN_AFTER)
    reconcile.reconcile_host(host.pk)
    work_on(Job.objects.exclude(pk=away.pk).get(name=JobName.PROFILE_DETACH))
    assert state_of(alice, project) == (State.FREE, None)


def test_released_while_they_are_being_brought(desk: Desk, alice: User, project: Project, fake: FakeHost) -> None:
    machine = desk()
    fake.guest(machine.pk).agent_after_pings = 10_000
    coming = profiles.attach(alice, machine)
    assert coming is not None
    runner.run(coming.pk)
    assert state_of(alice, project) == (State.ATTACHING, machine)
    away = profiles.release(machine)
    assert away is not None
    runner.run(away.pk)
    assert work_on(coming).status == JobStatus.CANCELLED
    assert work_on(away).status == JobStatus.DONE
    assert state_of(alice, project) == (State.FREE, None)
    machine.refresh_from_db()
    assert machine.task == Task.NONE


def test_a_machine_that_is_off_can_be_started_while_they_wait_for_it(desk: Desk, alice: User) -> None:
    machine = desk()
    force_off(machine, alice)
    coming = profiles.attach(alice, machine)
    assert coming is not None
    runner.run(coming.pk)
    machine.refresh_from_db()
    assert machine.task == Task.NONE
    work_on(services.request_start(machine, actor=alice))
    assert Job.objects.get(pk=coming.pk).cancel_requested  # As of all that is under way when power is asked for.
    work_on(coming)
    assert bring(alice, machine).status == JobStatus.DONE


def test_switched_off_while_they_are_being_brought_they_are_free(
    desk: Desk, alice: User, fake: FakeHost, project: Project, host: Host
) -> None:
    machine = desk()
    fake.guest(machine.pk).has_agent = False
    coming = profiles.attach(alice, machine)
    assert coming is not None
    runner.run(coming.pk)
    driver_of(host).force_off(machine.pk)
    assert work_on(coming).error_code == "profile-off"
    assert state_of(alice, project) == (State.FREE, None)
    reconcile.reconcile_host(host.pk)


def test_released_before_anything_was_done(desk: Desk, alice: User, project: Project) -> None:
    machine = desk()
    coming = profiles.attach(alice, machine)
    assert coming is not None
    assert profiles.release(machine) is None
    assert work_on(coming).status == JobStatus.CANCELLED
    assert state_of(alice, project) == (State.FREE, None)
    assert bring(alice, machine).status == JobStatus.DONE


# --- without files ----------------------------------------------------------------------------------------------------


def test_without_quota_the_session_has_no_files_and_says_why(desk: Desk, alice: User, project: Project) -> None:
    machine = desk()
    Project.objects.update(max_disk_gib=machine.disk_gib)
    job = bring(alice, machine)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "quota-exceeded")
    assert "no room for this disk" in job.error_message
    files = files_on(machine)
    assert files is not None
    assert files.message == job.error_message
    machine.refresh_from_db()
    assert (machine.task, machine.power_state, machine.error_message) == (Task.NONE, PowerState.RUNNING, "")
    assert not Volume.objects.exists()
    Project.objects.update(max_disk_gib=500)
    assert bring(alice, machine).status == JobStatus.DONE
    files = files_on(machine)
    assert files is not None
    assert files.are_here


def test_a_volume_that_could_not_be_made_is_made_the_next_time(
    desk: Desk, alice: User, fake: FakeHost, project: Project
) -> None:
    machine = desk()
    used = Project.objects.get().used_disk_gib
    fake.fail_next("create_volume", StorageFullError("The disk is full."))
    assert bring(alice, machine).status == JobStatus.FAILED
    assert state_of(alice, project) == (State.FREE, None)
    assert Project.objects.get().used_disk_gib == used
    assert bring(alice, machine).status == JobStatus.DONE
    assert Project.objects.get().used_disk_gib == used + 5


def test_what_lies_on_another_host_is_not_reached(desk: Desk, alice: User, project: Project) -> None:
    first, second = desk(), desk()
    bring(alice, first)
    put_away(first)
    assert host_of(alice, project) == first.host_id
    elsewhere = Host.objects.create(name="far", uri="fake://far", pool_dir="/nowhere")
    Machine.objects.filter(pk=second.pk).update(host=elsewhere)
    job = bring(alice, Machine.objects.get(pk=second.pk))
    Machine.objects.filter(pk=second.pk).update(host=first.host)
    assert job.status == JobStatus.FAILED
    assert "another host" in job.error_message


def test_a_machine_without_an_agent_has_no_files(desk: Desk, alice: User) -> None:
    Image.objects.update(has_agent=False)
    assert bring(alice, desk()).error_code == "profile-no-agent"


# --- what is on the disk --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("found", "words"), [(Said.OTHER_DATA, "left as it is"), (Said.NO_TOOLS, "e2fsprogs")])
def test_what_is_not_ours_is_never_formatted(
    desk: Desk, guests: FilesGuests, alice: User, project: Project, found: Said, words: str
) -> None:
    machine = desk()
    profiles.attach(alice, machine)
    job = Job.objects.get(name=JobName.PROFILE_ATTACH)
    guests.has = _Everything(found)
    work_on(job)
    assert job.status == JobStatus.FAILED
    assert words in job.error_message
    assert guests.made.total() == 0
    assert state_of(alice, project) == (State.FREE, None)
    volume = Volume.objects.get()
    assert (volume.status, volume.personal) == (VolumeStatus.AVAILABLE, True)


class _Everything(dict[str, Said]):
    """Whatever disk is looked at, this is on it."""

    def __init__(self, found: Said) -> None:
        super().__init__()
        self.found = found

    def __contains__(self, _serial: object) -> bool:
        return True

    def __getitem__(self, _serial: str) -> Said:
        return self.found


def test_a_file_system_that_is_gone_is_not_made_again(desk: Desk, guests: FilesGuests, alice: User) -> None:
    machine = desk()
    bring(alice, machine)
    put_away(machine)
    guests.has.clear()
    job = bring(alice, machine)
    assert (job.status, guests.made.total()) == (JobStatus.FAILED, 1)
    assert "tell an operator" in job.error_message


def test_what_is_damaged_can_be_read_only(desk: Desk, guests: FilesGuests, alice: User) -> None:
    machine = desk()
    bring(alice, machine)
    put_away(machine)
    guests.damaged |= set(guests.has)
    assert bring(alice, machine).status == JobStatus.DONE
    files = files_on(machine)
    assert files is not None
    assert files.is_read_only
    assert "damaged" in files.message
    put_away(machine)
    guests.damaged.clear()
    bring(alice, machine)
    files = files_on(machine)
    assert files is not None
    assert (files.is_read_only, files.message) == (False, "")


# --- whose they are -------------------------------------------------------------------------------------------------


def test_nobody_attaches_detaches_or_deletes_them_by_the_way_of_disks(
    desk: Desk, alice: User, operator: User, bob: User
) -> None:
    first, second = desk(), desk()
    bring(alice, first)
    volume, attachment = Volume.objects.get(personal=True), Attachment.objects.get(volume__personal=True)
    first = Machine.objects.get(pk=first.pk)
    for ask in (disks.request_detach, disks.set_first_at_start):
        with pytest.raises(ConflictError):
            ask(first, actor=operator, disk=str(attachment.pk))
    with pytest.raises(ConflictError):
        disks.set_kept(first, actor=operator, disk=str(attachment.pk), keep=False)
    with pytest.raises(ConflictError):
        snapshots.request_take(first, actor=alice, name="with files")
    assert list(Volume.objects.visible_to(alice)) == list(Volume.objects.visible_to(bob)) == []
    work_on(services.request_delete(first, actor=alice, delete_volumes=[volume.pk]))
    volume.refresh_from_db()
    assert volume.status == VolumeStatus.AVAILABLE
    with pytest.raises(NotFoundError):
        disks.request_attach(second, actor=alice, volume=volume)
    reconcile.reconcile_host(second.host_id)


def test_an_operator_deletes_them_only_when_they_are_put_away(
    desk: Desk, guests: FilesGuests, alice: User, operator: User, project: Project
) -> None:
    machine = desk()
    bring(alice, machine)
    guests.write(machine.pk, "a letter")
    profile = Profile.objects.get()
    with pytest.raises(ConflictError):
        profiles.request_delete(profile, actor=operator)
    put_away(machine)
    used = Project.objects.get().used_disk_gib
    job = profiles.request_delete(profile, actor=operator)
    assert job is not None
    assert work_on(job).status == JobStatus.DONE
    assert Project.objects.get().used_disk_gib == used - 5
    assert host_of(alice, project) is None
    assert bring(alice, machine).status == JobStatus.DONE
    assert guests.read(machine.pk) == []
