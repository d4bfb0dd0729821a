"""Parents are built, used, fall back and go; machines are forked from them, in turn, or booted with the reason said."""

from __future__ import annotations

import datetime as dt
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone
from pytest_django.fixtures import Settings

from portal.accounts.models import User
from portal.hosts.models import Host
from portal.images.models import Image, ImageVersion
from portal.jobs.models import Job
from portal.jobs.names import JobName, JobStatus, StepName, StepStatus
from portal.lib.secrets import unseal
from portal.machines import services as machines
from portal.machines.models import Machine
from portal.machines.states import PowerState, Status
from portal.parents import services, tending
from portal.parents.models import Parent
from portal.parents.states import State
from tests.workers.support import Killed, fake_of, left_on, work_on, write_image
from workers import admission, reconcile, runner
from workers.hypervisor.errors import (
    GuestAgentError,
    HostUnreachableError,
    HypervisorError,
)
from workers.hypervisor.fake import FakeDriver, FakeHost
from workers.hypervisor.types import CommandResult, HostUsage
from workers.workflows import create, forks

pytestmark = pytest.mark.django_db

SIZE = {"vcpus": 1, "memory_mib": 1024, "disk_gib": 10}
Asked = Callable[[], tuple[Machine, Job]]


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "LOOKED_FOR_S", 0.02)
    monkeypatch.setattr(forks, "LOOKED_EVERY_S", 0.01)
    monkeypatch.setattr(create, "FORK_ADDRESS_WAIT_S", 0.0)


@pytest.fixture
def wanted(image_version: ImageVersion, host: Host) -> tuple[Parent, Job]:
    write_image(image_version)
    parent = services.want(image_version, host, **SIZE)
    assert parent is not None
    return parent, Job.objects.get(target_id=parent.pk)


@pytest.fixture
def parent(wanted: tuple[Parent, Job]) -> Parent:
    """One that is ready."""
    row, job = wanted
    assert work_on(job).status == JobStatus.DONE, job.error_message
    row.refresh_from_db()
    assert row.state == State.READY
    return row


def forked(asked: Asked) -> tuple[Machine, Job]:
    machine, job = asked()
    work_on(job)
    machine.refresh_from_db()
    assert machine.status == Status.READY, job.error_message
    return machine, job


def steps_of(job: Job) -> dict[str, str]:
    return dict(job.steps.order_by("position").values_list("name", "status"))


def no_parent_left(host: Host) -> bool:
    fake = fake_of(host)
    host.refresh_from_db()
    return not fake.parents and not fake.domains and (host.reserved_memory_mib, host.reserved_disk_gib) == (0, 0)


# --- building one ---------------------------------------------------------------------------------------------------


def test_from_wish_to_ready(wanted: tuple[Parent, Job], fake: FakeHost, host: Host) -> None:
    row, job = wanted
    assert work_on(job).status == JobStatus.DONE
    row.refresh_from_db()
    assert (row.state, row.memory_bytes, row.made_for) == (State.READY, 1 << 30, " (tcg)")
    assert row.captured_at is not None
    captured = fake.parents[row.pk]
    assert captured.guest is not None
    assert row.pk not in fake.domains
    seed = captured.spec.seed
    assert "name: casement" in seed.user_data
    assert "lock_passwd: true" in seed.user_data
    assert "$6$" not in seed.user_data
    assert "ssh_authorized_keys" not in seed.user_data


@pytest.mark.parametrize("call", ["has_image", "put_image", "start_parent", "agent_ready", "capture_parent"])
def test_when_a_step_fails_for_good_nothing_is_left_and_it_is_said(
    wanted: tuple[Parent, Job], fake: FakeHost, host: Host, call: str
) -> None:
    row, job = wanted
    fake.fail_next(call, HypervisorError("It cannot be done."))
    assert work_on(job).status == JobStatus.FAILED
    row.refresh_from_db()
    assert (row.state, row.reason, row.failures) == (State.FAILED, "It cannot be done.", 1)
    assert no_parent_left(host)


def test_one_whose_trial_fails_is_none(wanted: tuple[Parent, Job], fake: FakeHost, host: Host) -> None:
    row, job = wanted
    parent_work_start = FakeDriver.start_parent

    def start(self: FakeDriver, spec: Any) -> None:
        parent_work_start(self, spec)
        fake.parents[spec.uuid].trial_fails = True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeDriver, "start_parent", start)
        assert work_on(job).status == JobStatus.FAILED
    row.refresh_from_db()
    assert (row.state, "trial" in row.reason) == (State.FAILED, True)
    assert no_parent_left(host)


def test_a_template_that_goes_off_is_no_parent(
    wanted: tuple[Parent, Job], fake: FakeHost, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    _row, job = wanted
    monkeypatch.setattr(FakeDriver, "agent_ready", lambda self, pk: fake.guest_shuts_down(pk))
    assert work_on(job).error_message.startswith("The guest switched itself off")
    assert no_parent_left(host)


def test_it_is_waited_for_until_it_does_nothing(
    wanted: tuple[Parent, Job], fake: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Busy, then idle: two looks in a row are needed, and between them no worker is held."""
    _row, job = wanted
    idle = iter([100, 110, 200, 300, 400])
    every = iter([100, 200, 300, 400, 500])

    def run(self: FakeDriver, pk: Any, argv: tuple[str, ...], **_: Any) -> CommandResult:
        if not argv[0].endswith("cat"):
            return CommandResult(0, b"running\n", b"")
        spent = next(idle)
        return CommandResult(0, f"cpu {next(every) - spent} 0 0 {spent} 0 0 0 0\n".encode(), b"")

    monkeypatch.setattr(FakeDriver, "run_in_guest", run)
    said = []
    for _round in range(10):
        runner.run(job.pk)
        job.refresh_from_db()
        said.append(job.steps.get(name=StepName.PARENT_SETTLE).detail)
        if job.is_final:
            break
        assert job.lease_until is None
    assert job.status == JobStatus.DONE
    assert said == ["It was seen only once.", "Its processors are busy: 90 %.", "It is idle.", ""]


def test_a_guest_that_never_rests_is_given_up_with_the_reason(
    wanted: tuple[Parent, Job], host: Host, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    _row, job = wanted
    settings.GUEST_BOOT_TIMEOUT_S = -1
    starting = CommandResult(1, b"starting\n", b"")
    monkeypatch.setattr(FakeDriver, "run_in_guest", lambda self, pk, argv, **_: starting)
    work_on(job)
    assert job.error_code == "never-idle"
    assert "services are still being started" in job.error_message
    assert no_parent_left(host)


def test_an_image_in_which_no_fork_could_take_an_identity_is_refused_with_the_reason(
    wanted: tuple[Parent, Job], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    _row, job = wanted
    there_is_none = CommandResult(1, b"", b"")
    monkeypatch.setattr(FakeDriver, "run_in_guest", lambda self, pk, argv, **_: there_is_none)
    assert work_on(job).error_code == "no-identity"
    assert "no Perl" in job.error_message
    assert no_parent_left(host)


def png_of(grey: bytes) -> bytes:
    data = zlib.compress(b"".join(b"\2" + grey for _row in range(3)))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(data)) + b"IDAT" + data + b"\0\0\0\0"


def test_a_desktops_screen_is_drawn_and_stands_still(
    wanted: tuple[Parent, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    _row, job = wanted
    Image.objects.update(kind="desktop")
    pictures = iter([png_of(b"\0\0"), png_of(b"\0\x70"), png_of(b"\x70\x70"), *[png_of(b"\x71\x70")] * 5])
    monkeypatch.setattr(FakeDriver, "screenshot", lambda self, pk: next(pictures))
    said = []
    while not job.is_final:
        runner.run(job.pk)
        job.refresh_from_db()
        said.append(job.steps.get(name=StepName.PARENT_SETTLE).detail)
    assert job.status == JobStatus.DONE
    changes = "Its screen still changes."
    assert said == ["Its screen is black.", changes, changes, changes, "It is idle.", ""]


# --- machines forked from it ----------------------------------------------------------------------------------------


def test_a_machine_is_forked_and_has_its_own_identity_before_its_card(
    parent: Parent, asked: Asked, fake: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    for call in ("fork", "run_in_guest", "attach_nic"):
        original = getattr(FakeDriver, call)

        def noted(self: FakeDriver, *args: Any, _call: str = call, _original: Any = original, **kwargs: Any) -> Any:
            order.append(_call)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(FakeDriver, call, noted)
    machine, job = forked(asked)
    assert order == ["fork", "run_in_guest", "attach_nic"]
    assert (machine.made_by, machine.made_by_reason, machine.parent) == ("fork", "", parent)
    assert (machine.power_state, machine.console_socket[-8:]) == (PowerState.RUNNING, "vnc.sock")
    domain = fake.domains[machine.pk]
    assert domain.live is not None
    assert [nic.mac for nic in domain.live.nics] == [machine.mac]
    identity = domain.guest.identity
    assert (identity["hostname"], identity["user"], identity["uuid"]) == (machine.name, "alice", str(machine.pk))
    assert identity["password_hash"].startswith("$6$")
    assert domain.live.console_secret == unseal(machine.console_secret)
    skipped = {"image", "disk", "seed", "define", "start", "boot"}
    assert {name for name, status in steps_of(job).items() if status == StepStatus.SKIPPED} == skipped
    assert machine.addresses == ["10.213.0.10"]


def test_two_forks_share_nothing_and_no_secret_is_in_the_parent(parent: Parent, asked: Asked, fake: FakeHost) -> None:
    (one, _job), (other, _other_job) = forked(asked), forked(asked)
    first, second = fake.guest(one.pk).identity, fake.guest(other.pk).identity
    shared = {name for name in first if first[name] == second[name]}
    assert shared == {"root", "user", "template_user", "ssh_keys"}  # Alice's both, and she gave no key.
    for name in ("pk", "mac", "genid", "console_secret", "login_password"):
        assert getattr(one, name) != getattr(other, name), name
    captured = fake.parents[parent.pk]
    assert captured.guest is not None
    assert (captured.guest.identity, captured.guest.passwords, captured.guest.ssh_keys) == ({}, {}, {})


@pytest.mark.parametrize("call", ["write_seed", "fork", "run_in_guest", "attach_nic"])
def test_what_goes_wrong_with_a_fork_ends_in_a_cold_boot_and_is_said(
    parent: Parent, asked: Asked, fake: FakeHost, call: str
) -> None:
    fake.fail_next(call, HypervisorError("It cannot be done."))
    machine, job = forked(asked)
    assert (machine.made_by, machine.made_by_reason, machine.parent) == ("boot", "It cannot be done.", None)
    domain = fake.domains[machine.pk]
    assert domain.maps is None
    assert fake.disks[machine.pk].base == machine.image_version_id
    assert steps_of(job)["boot"] == StepStatus.DONE
    assert left_on(fake, machine.pk) == ["domain", "disk", "seed"]


def test_a_fork_that_takes_no_identity_is_booted(parent: Parent, asked: Asked, fake: FakeHost) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeDriver, "run_in_guest", lambda self, pk, argv, **_: CommandResult(2, b"", b"no such user"))
        machine, _job = forked(asked)
    assert machine.made_by == "boot"
    assert "its own name" in machine.made_by_reason


def test_an_agent_that_is_slow_is_waited_for_and_one_that_is_silent_is_not(
    parent: Parent, asked: Asked, fake: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.fail_next("run_in_guest", GuestAgentError("It does not answer."), times=3)
    machine, _job = forked(asked)
    assert machine.made_by == "fork"
    monkeypatch.setattr(forks, "IDENTITY_S", -1)
    fake.fail_next("run_in_guest", GuestAgentError("It does not answer."))
    machine, _job = forked(asked)
    assert (machine.made_by, machine.made_by_reason) == ("boot", "It does not answer.")


def test_one_that_cannot_be_forked_is_restored_and_says_why(parent: Parent, asked: Asked, fake: FakeHost) -> None:
    fake.parents[parent.pk].fork_fails = "QEMU refused its memory."
    machine, _job = forked(asked)
    assert (machine.made_by, machine.made_by_reason) == ("restore", "QEMU refused its memory.")
    assert machine.parent == parent


def test_a_parent_of_which_nothing_can_be_made_is_replaced_three_times(
    parent: Parent, asked: Asked, fake: FakeHost, image_version: ImageVersion, host: Host, project: Any
) -> None:
    project.max_machines, project.max_vcpus, project.max_memory_mib = 9, 9, 9216
    project.save()
    for time in range(1, 4):
        captured = fake.parents[Parent.objects.get(state=State.READY).pk]
        captured.fork_fails, captured.restore_fails = "No.", True
        machine, _job = forked(asked)
        assert machine.made_by == "boot"
        assert "neither forked nor restored" in machine.made_by_reason
        for job in Job.objects.filter(name=JobName.PARENT_DELETE, status=JobStatus.QUEUED):
            work_on(job)
        assert Parent.objects.filter(state=State.DELETED).count() == time
        services.want(image_version, host, **SIZE)
        for job in Job.objects.filter(name=JobName.PARENT_BUILD, status=JobStatus.QUEUED):
            work_on(job)
    assert not Parent.objects.filter(state=State.READY).exists()


def test_while_the_parent_is_being_made_machines_boot_and_say_so(wanted: tuple[Parent, Job], asked: Asked) -> None:
    machine, job = forked(asked)
    assert (machine.made_by, machine.made_by_reason) == ("boot", "the running copy on this host is being made")
    assert steps_of(job)["fork"] == StepStatus.SKIPPED


def test_where_none_is_wanted_nothing_is_said(asked: Asked) -> None:
    machine, _job = forked(asked)
    assert (machine.made_by, machine.made_by_reason) == ("", "")


def test_a_failed_build_leaves_nothing_of_a_fork(parent: Parent, asked: Asked, fake: FakeHost, host: Host) -> None:
    machine, job = asked()
    for _try in range(5):
        fake.fail_next("fork", HostUnreachableError("gone"), after=True)
    assert work_on(job).status == JobStatus.FAILED
    machine.refresh_from_db()
    assert (machine.status, machine.parent, machine.made_by) == (Status.ERROR, None, "")
    assert left_on(fake, machine.pk) == []
    job = machines.request_retry(machine, actor=machine.owner)  # type: ignore[arg-type]
    assert work_on(job).status == JobStatus.DONE
    machine.refresh_from_db()
    assert machine.made_by == "fork"


def test_cancelled_between_fork_and_identity_nothing_is_left(
    parent: Parent, asked: Asked, fake: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, job = asked()
    monkeypatch.setattr(FakeDriver, "agent_ready", lambda self, pk: False)
    runner.run(job.pk)
    job.refresh_from_db()
    assert (job.status, steps_of(job)["fork"]) == (JobStatus.WAITING, StepStatus.DONE)
    machine.refresh_from_db()
    assert machine.has_screen
    Job.objects.filter(pk=job.pk).update(cancel_requested=True)
    assert work_on(job).status == JobStatus.CANCELLED
    assert left_on(fake, machine.pk) == []
    machine.refresh_from_db()
    assert (machine.status, machine.parent) == (Status.ERROR, None)


FORK_CALLS = ["write_seed", "fork", "console", "agent_ready", "run_in_guest", "attach_nic"]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", FORK_CALLS)
def test_a_worker_killed_around_any_call_loses_nothing(
    parent: Parent, asked: Asked, fake: FakeHost, call: str, after: bool
) -> None:
    machine, job = asked()
    original = getattr(FakeDriver, call)

    def killed(self: FakeDriver, *args: Any, **kwargs: Any) -> Any:
        if after:
            original(self, *args, **kwargs)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeDriver, call, killed)
        with pytest.raises(Killed):
            work_on(job)
    Job.objects.update(lease_until=timezone.now() - dt.timedelta(seconds=1))
    work_on(job)
    machine.refresh_from_db()
    assert (job.status, machine.status, machine.made_by) == (JobStatus.DONE, Status.READY, "fork")
    assert left_on(fake, machine.pk) == ["domain", "disk", "seed"]
    assert fake.domains[machine.pk].starts == 1


# --- one goes -------------------------------------------------------------------------------------------------------


def test_a_parent_with_forks_is_never_removed(
    parent: Parent, asked: Asked, alice: User, fake: FakeHost, host: Host
) -> None:
    machine, _job = forked(asked)
    services.retire(parent)
    tending.tend()
    reconcile.reconcile_host(host.pk)
    assert parent.pk in fake.parents
    assert not Job.objects.filter(name=JobName.PARENT_DELETE).exists()
    again, _job = forked(asked)  # Nor is another one forked from it.
    assert again.parent is None
    work_on(machines.delete_for_good(machine, actor=alice, request_ip=None, delete_volumes=None))
    tending.tend()
    work_on(Job.objects.get(name=JobName.PARENT_DELETE))
    assert parent.pk not in fake.parents
    parent.refresh_from_db()
    assert (parent.state, parent.holds_capacity) == (State.DELETED, False)


def test_rows_that_say_otherwise_do_not_remove_what_the_host_still_uses(
    parent: Parent, asked: Asked, fake: FakeHost
) -> None:
    """A clone of a fork may read from the parent's disk."""
    machine, _job = forked(asked)
    Machine.objects.update(parent=None)
    services.retire(parent)
    job = Job.objects.get(name=JobName.PARENT_DELETE)
    runner.run(job.pk)
    job.refresh_from_db()
    assert job.status == JobStatus.WAITING
    assert "still reads from it" in job.steps.get(name=StepName.DELETE_PARENT).detail
    assert parent.pk in fake.parents
    driver = FakeDriver(fake)
    driver.undefine(machine.pk)
    driver.delete_storage(machine.pk)
    assert work_on(job).status == JobStatus.DONE


def test_what_could_not_be_removed_is_tried_again_later(parent: Parent, fake: FakeHost) -> None:
    fake.fail_next("delete_parent", HypervisorError("It cannot be done."))
    services.retire(parent)
    assert work_on(Job.objects.get(name=JobName.PARENT_DELETE)).status == JobStatus.FAILED
    parent.refresh_from_db()
    assert (parent.state, parent.reason) == (State.RETIRING, "It cannot be done.")
    tending.tend()
    assert Job.objects.filter(name=JobName.PARENT_DELETE).count() == 1
    Parent.objects.update(retry_at=timezone.now())
    tending.tend()
    work_on(Job.objects.get(name=JobName.PARENT_DELETE, status=JobStatus.QUEUED))
    assert fake.parents == {}


def test_one_that_is_being_made_stops_and_goes(wanted: tuple[Parent, Job], fake: FakeHost, host: Host) -> None:
    row, job = wanted
    runner.run(job.pk)
    assert row.pk in fake.domains
    services.retire(row)
    for left in Job.objects.exclude(status__in=[JobStatus.DONE]).order_by("created_at"):
        work_on(left)
    row.refresh_from_db()
    assert row.state == State.DELETED
    assert no_parent_left(host)


# --- reconciliation -------------------------------------------------------------------------------------------------


def test_reconciliation_knows_parents_and_templates(
    parent: Parent, wanted: tuple[Parent, Job], fake: FakeHost, host: Host, image_version: ImageVersion
) -> None:
    other = services.want(image_version, host, **{**SIZE, "memory_mib": 2048})
    assert other is not None
    runner.run(Job.objects.get(target_id=other.pk).pk)
    assert other.pk in fake.domains
    reconcile.reconcile_host(host.pk)
    assert host.differences.count() == 0
    assert set(fake.parents) == {parent.pk, other.pk}
    parent.refresh_from_db()
    assert parent.state == State.READY


def test_what_an_undo_could_not_reach_is_removed_when_the_host_is_back(
    wanted: tuple[Parent, Job], fake: FakeHost, host: Host
) -> None:
    row, job = wanted
    original = FakeDriver.start_parent

    def cut(self: FakeDriver, spec: Any) -> None:
        original(self, spec)
        fake.unreachable = True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeDriver, "start_parent", cut)
        assert work_on(job).status == JobStatus.FAILED
    assert row.pk in fake.parents
    fake.unreachable = False
    reconcile.reconcile_host(host.pk)
    assert no_parent_left(host)


def test_one_that_is_gone_from_its_host_is_made_anew(parent: Parent, fake: FakeHost, host: Host) -> None:
    fake.parents.clear()
    reconcile.reconcile_host(host.pk)
    parent.refresh_from_db()
    assert (parent.state, "not on the host" in parent.reason) == (State.RETIRING, True)
    work_on(Job.objects.get(name=JobName.PARENT_DELETE))
    assert no_parent_left(host)


def test_a_parent_that_no_row_knows_is_shown_and_left(parent: Parent, fake: FakeHost, host: Host) -> None:
    Parent.objects.all().delete()
    reconcile.reconcile_host(host.pk)
    [difference] = host.differences.all()
    assert (difference.kind, difference.object_id) == ("parent", parent.pk)
    assert parent.pk in fake.parents


def test_what_is_left_of_a_machine_that_could_not_be_forked_is_removed(
    parent: Parent, asked: Asked, fake: FakeHost, host: Host
) -> None:
    machine, job = asked()
    original = FakeDriver.fork

    def cut(self: FakeDriver, spec: Any, pk: Any) -> Any:
        original(self, spec, pk)
        fake.unreachable = True
        raise HostUnreachableError("gone")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeDriver, "fork", cut)
        assert work_on(job).status == JobStatus.FAILED
    assert left_on(fake, machine.pk) != []
    fake.unreachable = False
    reconcile.reconcile_host(host.pk)
    assert left_on(fake, machine.pk) == []
    assert fake.forks.get(machine.pk) is None


# --- admission ------------------------------------------------------------------------------------------------------


@pytest.fixture
def one_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "FORKS_PER_CPU", 0)
    monkeypatch.setattr(admission, "LEAST_AT_ONCE", 1)


def detail_of(job: Job) -> str:
    return job.steps.get(name=StepName.FORK).detail


def test_forks_are_taken_in_the_order_in_which_they_were_asked_for(
    parent: Parent, asked: Asked, fake: FakeHost, one_at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, first_job), (second, second_job), (third, third_job) = asked(), asked(), asked()
    with monkeypatch.context() as patch:
        patch.setattr(FakeDriver, "agent_ready", lambda self, pk: False)
        runner.run(first_job.pk)  # Begun, and not done.
    for job in (second_job, third_job):
        runner.run(job.pk)
        job.refresh_from_db()
        assert (job.status, detail_of(job)[:20]) == (JobStatus.WAITING, "Waiting for its turn")
    work_on(first_job)
    runner.run(third_job.pk)
    third.refresh_from_db()
    assert third.made_by == ""  # The second one is before it.
    work_on(second_job)
    work_on(third_job)
    for machine in (first, second, third):
        machine.refresh_from_db()
        assert machine.made_by == "fork"
    assert detail_of(third_job) == ""


def test_a_busy_host_gets_one_at_a_time(parent: Parent, asked: Asked, fake: FakeHost, host: Host) -> None:
    usage = HostUsage(load=1000.0, memory_used_mib=0, storage_free_bytes=1 << 40)
    (_first, first_job), (_second, second_job) = asked(), asked()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeDriver, "host_usage", lambda self: usage)
        with pytest.MonkeyPatch.context() as slow:
            slow.setattr(FakeDriver, "agent_ready", lambda self, pk: False)
            runner.run(first_job.pk)
        runner.run(second_job.pk)
        assert "processors are busy" in detail_of(second_job)
        work_on(first_job)
        work_on(second_job)
    assert set(Machine.objects.values_list("made_by", flat=True)) == {"fork"}


def test_a_fork_waits_for_memory_and_counts_what_young_ones_will_write(
    parent: Parent, asked: Asked, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = int(host.memory_mib * admission.MOST_MEMORY)
    usage = HostUsage(load=0, memory_used_mib=most - admission.FORK_WRITES_MIB - 10, storage_free_bytes=1 << 40)
    monkeypatch.setattr(FakeDriver, "host_usage", lambda self: usage)
    forked(asked)  # For one it is enough.
    machine, job = asked()
    runner.run(job.pk)
    job.refresh_from_db()
    assert (job.status, "memory is in use" in detail_of(job)) == (JobStatus.WAITING, True)
    Machine.objects.exclude(pk=machine.pk).update(forked_at=timezone.now() - dt.timedelta(minutes=2))
    work_on(job)
    machine.refresh_from_db()
    assert machine.made_by == "fork"


def test_memory_that_never_comes_ends_in_words(parent: Parent, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = HostUsage(load=0, memory_used_mib=1 << 20, storage_free_bytes=1 << 40)
    monkeypatch.setattr(FakeDriver, "host_usage", lambda self: usage)
    monkeypatch.setattr(admission, "PATIENCE_S", -1)
    machine, job = asked()
    assert work_on(job).error_code == "no-memory"
    machine.refresh_from_db()
    assert "no memory left" in machine.error_message
    assert left_on(fake_of(machine.host), machine.pk) == []
