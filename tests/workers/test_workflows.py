"""Every workflow does its work, can fail or be killed at any step, and leaves either the machine or nothing."""

import datetime as dt
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.utils import timezone
from pytest_django.fixtures import Settings

from portal.accounts.models import User
from portal.images.models import Image
from portal.jobs import services as jobs
from portal.jobs.models import Job
from portal.jobs.names import STEPS, JobName, JobStatus, StepName, StepStatus
from portal.lib.secrets import unseal
from portal.machines import services
from portal.machines.models import Machine
from portal.machines.states import PowerState, Status, Task
from tests.workers.support import Killed, assert_nothing_left, left_on, work_on
from workers import celery, reconcile, runner
from workers.hypervisor.errors import HostUnreachableError, HypervisorError, InvalidOperationError, StorageFullError
from workers.hypervisor.fake import FakeDriver, FakeHost
from workers.hypervisor.types import PowerState as HostPowerState
from workers.workflows import WORKFLOWS, common, power

Asked = Callable[[], tuple[Machine, Job]]
Built = Callable[[], Machine]

# The driver's calls of building a machine, in order: each is a place to fail and to be killed at.
CREATE_CALLS = ["has_image", "put_image", "create_disk", "write_seed", "define", "start", "console", "agent_ready"]


def test_every_job_has_a_workflow_with_the_steps_that_people_see() -> None:
    assert set(WORKFLOWS) == set(JobName)
    for name, workflow in WORKFLOWS.items():
        assert tuple(step.name for step in workflow.steps) == STEPS[name], name


def test_every_job_is_a_registered_task_and_the_reverse() -> None:
    celery.app.loader.import_default_modules()
    clock = {"jobs.send_again", "console.end_lost_sessions", "hosts.refresh", "hosts.refresh_one", "machines.purge_due"}
    clock |= {"events.deliver", "events.wake_due", "events.prune", "uploads.prune"}
    clock |= {"console.read_log"}  # Asked for by whoever looks at the log.
    clock |= {"machines.forget_requests", "snapshots.keep_schedules"}
    clock |= {"parents.tend"}
    clock |= {"pools.tend", "pools.tend_one", "pools.keep_times", "pools.look_inside", "pools.look_inside_one"}
    clock |= {"pools.check_entitlements"}
    clock |= {"figures.sample", "figures.sample_one", "figures.forget"}
    ours = {name for name in celery.app.tasks if not name.startswith("celery.")}
    assert ours - clock == {name.value for name in JobName}


def test_from_request_to_ready(asked: Asked, fake: FakeHost) -> None:
    machine, job = asked()
    work_on(job)
    machine.refresh_from_db()
    assert job.status == JobStatus.DONE
    fork = {"fork", "fork_identity"}  # Nobody keeps anything to be forked from.
    assert {step.name for step in job.steps.all() if step.status == StepStatus.SKIPPED} == fork
    assert {step.status for step in job.steps.exclude(name__in=fork)} == {StepStatus.DONE}
    assert (machine.status, machine.task, machine.power_state) == (Status.READY, Task.NONE, PowerState.RUNNING)
    assert machine.addresses == ["10.213.0.10"]
    assert machine.console_socket.endswith("vnc.sock")
    domain = fake.domains[machine.pk]
    assert domain.live is not None
    assert domain.live.console_secret == unseal(machine.console_secret)
    assert machine.ready_at is not None


def test_while_the_guest_boots_its_screen_is_there_and_no_worker_is_held(asked: Asked, fake: FakeHost) -> None:
    machine, job = asked()
    fake.delay("start", 0)
    original = FakeDriver.start

    def slow_guest(self: FakeDriver, pk: Any) -> None:
        fake.guest(pk).agent_after_pings = 3
        original(self, pk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeDriver, "start", slow_guest)
        runner.run(job.pk)
    job.refresh_from_db()
    machine.refresh_from_db()
    assert job.status == JobStatus.WAITING
    assert job.lease_until is None
    assert machine.status == Status.BUILDING
    assert machine.has_screen
    assert work_on(job).status == JobStatus.DONE


@pytest.mark.parametrize("call", CREATE_CALLS)
def test_when_a_step_fails_for_good_nothing_is_left_and_the_person_reads_why(
    asked: Asked, fake: FakeHost, call: str
) -> None:
    machine, job = asked()
    fake.fail_next(call, HypervisorError("It cannot be done."))
    work_on(job)
    machine.refresh_from_db()
    assert (job.status, job.error_message) == (JobStatus.FAILED, "It cannot be done.")
    assert (machine.status, machine.error_message, machine.task) == (Status.ERROR, "It cannot be done.", Task.NONE)
    assert_nothing_left(machine)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", CREATE_CALLS)
def test_a_worker_killed_around_any_call_loses_nothing(
    asked: Asked, fake: FakeHost, call: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, job = asked()
    original = getattr(FakeDriver, call)

    def killed(self: FakeDriver, *args: Any, **kwargs: Any) -> Any:
        if after:
            original(self, *args, **kwargs)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(FakeDriver, call, killed)
        with pytest.raises(Killed):
            work_on(job)
    Job.objects.update(lease_until=timezone.now() - dt.timedelta(seconds=1))  # The dead worker's lease runs out.
    work_on(job)
    machine.refresh_from_db()
    assert (job.status, machine.status) == (JobStatus.DONE, Status.READY)
    assert left_on(fake, machine.pk) == ["domain", "disk", "seed"]
    assert fake.domains[machine.pk].starts == 1


def test_a_full_disk_is_said_in_words_and_leaves_nothing(asked: Asked, fake: FakeHost) -> None:
    machine, job = asked()
    fake.fail_next("create_disk", StorageFullError("The host has not enough free storage."))
    work_on(job)
    machine.refresh_from_db()
    assert "storage" in machine.error_message
    assert job.error_code == "storage-full"
    assert_nothing_left(machine)


def test_a_host_that_is_away_for_a_moment_is_tried_again(asked: Asked, fake: FakeHost) -> None:
    _machine, job = asked()
    fake.fail_next("define", HostUnreachableError("gone"), times=2)
    work_on(job)
    assert job.status == JobStatus.DONE
    assert job.retries == 2
    # What an earlier attempt ran into is said while it lasts, and not of a step that is done.
    assert {step.detail for step in job.steps.all()} == {""}


def test_what_is_waited_for_is_said_meanwhile(asked: Asked, fake: FakeHost) -> None:
    _machine, job = asked()
    fake.fail_next("define", HostUnreachableError("The host did not answer."))
    runner.run(job.pk)
    (step,) = job.steps.filter(name=StepName.DEFINE)
    assert step.detail == "The host did not answer. Trying again."


def test_a_host_that_stays_away_ends_in_a_message_and_is_cleaned_when_it_is_back(asked: Asked, fake: FakeHost) -> None:
    machine, job = asked()
    original = FakeDriver.start

    def cut(self: FakeDriver, pk: Any) -> None:
        original(self, pk)
        fake.unreachable = True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeDriver, "start", cut)
        work_on(job)
    machine.refresh_from_db()
    assert (job.status, job.error_code) == (JobStatus.FAILED, "host-unreachable")
    assert "cannot be reached" in machine.error_message
    assert left_on(fake, machine.pk) != []
    fake.unreachable = False
    reconcile.reconcile_host(machine.host_id)
    assert_nothing_left(machine)


def test_a_guest_that_never_boots_is_given_up_with_a_remedy(
    asked: Asked, fake: FakeHost, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.GUEST_BOOT_TIMEOUT_S = -1
    monkeypatch.setattr(FakeDriver, "agent_ready", lambda self, pk: False)
    machine, job = asked()
    work_on(job)
    machine.refresh_from_db()
    assert job.error_code == "guest-boot-timeout"
    assert "did not come up" in machine.error_message
    assert_nothing_left(machine)


def test_a_guest_that_switches_itself_off_while_starting_is_told_at_once(
    asked: Asked, fake: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, job = asked()
    original = FakeDriver.console

    def dies(self: FakeDriver, pk: Any) -> Any:
        endpoint = original(self, pk)
        fake.guest_shuts_down(pk)
        return endpoint

    monkeypatch.setattr(FakeDriver, "console", dies)
    assert work_on(job).error_code == "guest-off"
    assert_nothing_left(machine)


def test_an_image_without_an_agent_is_ready_when_its_address_is_known(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    _machine, job = asked()
    Image.objects.update(has_agent=False)
    monkeypatch.setattr(FakeDriver, "agent_ready", lambda self, pk: False)
    assert work_on(job).status == JobStatus.DONE


def test_a_guest_that_says_nothing_and_need_not_is_ready_with_a_hint(
    asked: Asked, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image without an agent, and a guest that asks for no address: only its screen tells."""
    settings.GUEST_BOOT_TIMEOUT_S = -1
    _machine, job = asked()
    Image.objects.update(has_agent=False)
    monkeypatch.setattr(FakeDriver, "agent_ready", lambda self, pk: False)
    monkeypatch.setattr(FakeDriver, "addresses", lambda self, pk: ())
    assert work_on(job).status == JobStatus.DONE
    (step,) = job.steps.filter(name=StepName.BOOT)
    assert "screen shows how far it came" in step.detail


def test_a_fault_of_our_own_is_admitted_and_cleaned_up(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object, **_kwargs: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(FakeDriver, "write_seed", broken)
    machine, job = asked()
    work_on(job)
    assert job.error_code == "internal"
    assert "a bug" not in job.error_message
    assert_nothing_left(machine)


@pytest.mark.parametrize("call", CREATE_CALLS)
def test_deleted_while_building_nothing_comes_back(
    asked: Asked, alice: User, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, job = asked()
    original = getattr(FakeDriver, call)

    def deleted_meanwhile(self: FakeDriver, *args: Any, **kwargs: Any) -> Any:
        services.request_delete(Machine.objects.get(pk=machine.pk), actor=alice)
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(FakeDriver, call, deleted_meanwhile)
        runner.run(job.pk)
    removal = Job.objects.get(name=JobName.MACHINE_DELETE)
    for _ in range(20):
        runner.run(removal.pk)
        runner.run(job.pk)
    job.refresh_from_db()
    removal.refresh_from_db()
    machine.refresh_from_db()
    assert removal.status == JobStatus.DONE
    assert job.status in (JobStatus.CANCELLED, JobStatus.DONE)
    assert machine.status == Status.DELETED
    assert_nothing_left(machine)


def test_deleting_waits_for_the_worker_that_still_builds(asked: Asked, alice: User) -> None:
    machine, job = asked()
    held = jobs.take_lease(job.pk, owner="busy")
    assert held is not None
    removal = services.request_delete(machine, actor=alice)
    runner.run(removal.pk)
    removal.refresh_from_db()
    assert removal.status == JobStatus.WAITING
    jobs.finish(held, JobStatus.CANCELLED)
    assert work_on(removal).status == JobStatus.DONE


NOT_NOW = InvalidOperationError("The machine's state does not allow it.")


def test_a_guest_that_was_asked_twice_to_restart_and_stays_off_is_started(
    built: Built, alice: User, fake: FakeHost
) -> None:
    """The worker before died right after it had asked, and the guest is on its way down."""
    machine = built()
    first_secret = unseal(machine.console_secret)
    job = services.request_reboot(machine, actor=alice)
    Job.objects.filter(pk=job.pk).update(crashes=1)
    runner.run(job.pk)
    job.refresh_from_db()
    assert job.status == JobStatus.WAITING
    fake.set_power(machine.pk, HostPowerState.SHUT_OFF)
    fake.fail_next("reboot", NOT_NOW)
    assert work_on(job).status == JobStatus.DONE
    assert fake.domains[machine.pk].power_state == HostPowerState.RUNNING
    assert fake.guest(machine.pk).reboots == 1, "it was asked once more"
    _has_a_screen_secret_of_its_own(machine, fake, {first_secret})


def _has_a_screen_secret_of_its_own(machine: Machine, fake: FakeHost, others: set[str]) -> str:
    machine.refresh_from_db()
    secret = unseal(machine.console_secret)
    live = fake.domains[machine.pk].live
    assert live is not None
    assert live.console_secret == secret
    assert len(secret) == common.SECRET_LENGTH
    assert secret not in others
    return secret


def test_a_screen_secret_is_new_at_each_start_and_for_each_machine(built: Built, alice: User, fake: FakeHost) -> None:
    first, second = built(), built()
    seen: set[str] = set()
    for machine in (first, second):
        seen.add(_has_a_screen_secret_of_its_own(machine, fake, seen))
    for _round in range(2):
        work_on(services.request_force_off(first, actor=alice))
        work_on(services.request_start(first, actor=alice))
        seen.add(_has_a_screen_secret_of_its_own(first, fake, seen))
    assert len(seen) == 4


def test_a_guest_that_restarts_already_is_watched_for_a_while(
    built: Built, alice: User, fake: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = built()
    monkeypatch.setattr(power, "WATCHED_S", 0)
    fake.fail_next("reboot", NOT_NOW)
    assert work_on(services.request_reboot(machine, actor=alice)).status == JobStatus.DONE


def test_a_guest_that_is_halted_cannot_be_asked_to_restart(built: Built, alice: User, fake: FakeHost) -> None:
    machine = built()
    fake.set_power(machine.pk, HostPowerState.PAUSED)
    fake.fail_next("reboot", NOT_NOW)
    assert work_on(services.request_reboot(machine, actor=alice)).status == JobStatus.FAILED


def test_stop_start_restart_reset_force_off(built: Built, alice: User, fake: FakeHost) -> None:
    machine = built()
    first_secret = unseal(machine.console_secret)
    work_on(services.request_stop(machine, actor=alice))
    machine.refresh_from_db()
    assert (machine.power_state, machine.task, machine.console_socket) == (PowerState.SHUT_OFF, Task.NONE, "")
    work_on(services.request_start(machine, actor=alice))
    machine.refresh_from_db()
    assert machine.has_screen
    live = fake.domains[machine.pk].live
    assert live is not None
    assert live.console_secret == unseal(machine.console_secret) != first_secret
    work_on(services.request_reboot(machine, actor=alice))
    work_on(services.request_reset(machine, actor=alice))
    assert fake.guest(machine.pk).reboots == 2
    work_on(services.request_force_off(machine, actor=alice))
    machine.refresh_from_db()
    assert (machine.power_state, machine.task) == (PowerState.SHUT_OFF, Task.NONE)


def test_a_guest_that_ignores_the_button_is_reported_and_runs_on(
    built: Built, alice: User, fake: FakeHost, settings: Settings
) -> None:
    settings.GUEST_SHUTDOWN_TIMEOUT_S = -1
    machine = built()
    fake.guest(machine.pk).ignores_shutdown = True
    job = work_on(services.request_stop(machine, actor=alice))
    machine.refresh_from_db()
    assert (job.status, job.error_code) == (JobStatus.FAILED, "guest-ignores")
    assert "Force off" in machine.error_message
    assert (machine.power_state, machine.task) == (PowerState.RUNNING, Task.NONE)


def test_forcing_off_ends_a_shutdown_that_the_guest_ignores(built: Built, alice: User, fake: FakeHost) -> None:
    machine = built()
    fake.guest(machine.pk).ignores_shutdown = True
    gentle = services.request_stop(machine, actor=alice)
    runner.run(gentle.pk)
    hard = services.request_force_off(machine, actor=alice)
    work_on(hard)
    work_on(gentle)
    machine.refresh_from_db()
    assert (machine.power_state, machine.task) == (PowerState.SHUT_OFF, Task.NONE)
    assert gentle.status in (JobStatus.CANCELLED, JobStatus.DONE)


def test_deleting_leaves_nothing(built: Built, alice: User) -> None:
    machine = built()
    work_on(services.request_delete(machine, actor=alice))
    machine.refresh_from_db()
    assert (machine.status, machine.console_secret) == (Status.DELETED, "")
    assert_nothing_left(machine)


def test_deleting_on_a_host_that_is_away_keeps_the_machine_and_its_quota(
    built: Built, alice: User, fake: FakeHost
) -> None:
    machine = built()
    fake.unreachable = True
    job = work_on(services.request_delete(machine, actor=alice))
    machine.refresh_from_db()
    assert (job.status, machine.status, machine.task) == (JobStatus.FAILED, Status.READY, Task.NONE)
    assert "cannot be reached" in machine.error_message
    assert machine.holds_quota


def test_progress_names_the_step_that_was_started(asked: Asked) -> None:
    _machine, job = asked()
    work_on(job)
    step = job.steps.get(name=StepName.DISK)
    assert step.started_at is not None
    assert step.finished_at is not None


def test_a_job_that_kills_its_workers_is_given_up_in_words(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_args: object, **_kwargs: object) -> None:
        raise Killed

    machine, job = asked()
    monkeypatch.setattr(FakeDriver, "define", dies)
    for _ in range(runner.MOST_CRASHES + 1):
        with pytest.raises(Killed):
            runner.run(job.pk)
        Job.objects.update(lease_until=timezone.now() - dt.timedelta(seconds=1))
    work_on(job)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "worker-dies")
    assert_nothing_left(machine)


def test_a_job_far_past_its_time_is_given_up(asked: Asked) -> None:
    machine, job = asked()
    Job.objects.update(started_at=timezone.now() - dt.timedelta(days=1))
    work_on(job)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "stuck")
    assert_nothing_left(machine)


@pytest.mark.django_db(transaction=True)
def test_a_step_that_hangs_for_ever_loses_the_job_to_the_clock(
    asked: Asked, fake: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker is alive and beats, and yet the lease is not renewed past the job's limit."""
    monkeypatch.setattr(runner, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(jobs, "LEASE", dt.timedelta(seconds=0.2))
    machine, job = asked()
    fake.call_limit_s = 60
    fake.hang("define")
    thread = threading.Thread(target=_run_and_close, args=(job.pk,))
    thread.start()
    try:
        _wait_until(lambda: fake.calls["define"] == 1)
        Job.objects.update(started_at=timezone.now() - dt.timedelta(days=1))
        monkeypatch.setattr(jobs, "seconds_left", lambda _job: -1.0)
        _wait_until(lambda: Job.objects.filter(pk=job.pk, lease_until__lt=timezone.now()).exists())
        assert jobs.send_again() == 1
        runner.run(job.pk)
        job.refresh_from_db()
        assert (job.status, job.error_code) == (JobStatus.FAILED, "stuck")
    finally:
        fake.release("define")
        thread.join(60)
    # The one that hung comes to itself, finds that it has lost the job, and leaves everything alone.
    job.refresh_from_db()
    assert job.status == JobStatus.FAILED
    reconcile.reconcile_host(machine.host_id)
    assert_nothing_left(machine)


def _run_and_close(pk: Any) -> None:
    try:
        runner.run(pk)
    finally:
        connection.close()


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_database_that_is_away_ends_nothing(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker lets go without a word; when the database is back the lease has run out and the work goes on."""

    def away(*_args: object, **_kwargs: object) -> None:
        raise OperationalError("the server closed the connection unexpectedly")

    machine, job = asked()
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "end_step", away)
        patch.setattr(connection, "close", lambda: None)
        runner.run(job.pk)
    job.refresh_from_db()
    assert (job.status, job.outcome) == (JobStatus.RUNNING, "")
    Job.objects.update(lease_until=timezone.now() - dt.timedelta(seconds=1))
    assert work_on(job).status == JobStatus.DONE
    machine.refresh_from_db()
    assert machine.status == Status.READY
