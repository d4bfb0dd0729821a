"""Hibernating, another size, passwords, keys and the bin, done by workers on a host in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from pytest_django.fixtures import Settings

from portal.accounts.models import Project, User
from portal.hosts.models import Difference
from portal.jobs.models import Job
from portal.jobs.names import JobName, JobStatus
from portal.lib.secrets import seal, unseal
from portal.machines import access, binning, hibernation, resizing, services
from portal.machines.models import Flavour, Machine
from portal.machines.states import PowerState, Status, Task
from tests.support.agreement import disagreements
from tests.workers.support import assert_nothing_left, left_on, work_on
from workers import reconcile, runner
from workers.hypervisor.errors import GuestAgentError, HostUnreachableError, HypervisorError
from workers.hypervisor.fake import FakeHost
from workers.hypervisor.types import PowerState as HostPowerState

Built = Callable[[], Machine]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti alice@laptop"


def larger(machine: Machine, *, vcpus: int = 1, memory_mib: int = 0) -> Flavour:
    size = {"vcpus": machine.vcpus + vcpus, "memory_mib": machine.memory_mib + memory_mib}
    return Flavour.objects.create(name=f"l{vcpus}-{memory_mib}", title="Larger", disk_gib=10, **size)


def fresh(machine: Machine) -> Machine:
    return Machine.objects.select_related("project", "host").get(pk=machine.pk)


# --- hibernating ------------------------------------------------------------------------------------------------------


def test_it_wakes_with_its_screen_secret_and_without_a_cold_start(built: Built, alice: User, fake: FakeHost) -> None:
    machine = built()
    secret = unseal(machine.console_secret)
    work_on(hibernation.request_hibernate(machine, actor=alice))
    assert fresh(machine).is_hibernated
    work_on(services.request_start(fresh(machine), actor=alice))
    row, live = fresh(machine), fake.domains[machine.pk].live
    assert live is not None
    assert secret == unseal(row.console_secret) == live.console_secret
    assert (row.power_state, row.is_hibernated, row.saved_gib) == (PowerState.RUNNING, False, 0)
    assert disagreements() == []


def test_a_disk_that_fills_up_while_hibernating_leaves_it_running(built: Built, alice: User, fake: FakeHost) -> None:
    machine = built()
    fake.fail_next("save", HypervisorError("The host's storage is full.", code="storage-full"))
    job = work_on(hibernation.request_hibernate(machine, actor=alice))
    row = fresh(machine)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "storage-full")
    assert (row.power_state, row.task, row.saved_gib) == (PowerState.RUNNING, Task.NONE, 0)
    assert "full" in row.error_message
    assert disagreements() == []


def test_a_guest_that_shuts_down_while_it_is_to_hibernate_is_off_and_not_saved(
    built: Built, alice: User, fake: FakeHost
) -> None:
    machine = built()
    job = hibernation.request_hibernate(machine, actor=alice)
    fake.guest_shuts_down(machine.pk)
    assert work_on(job).status == JobStatus.FAILED
    reconcile.reconcile_host(machine.host_id)
    assert (fresh(machine).power_state, fresh(machine).is_hibernated) == (PowerState.SHUT_OFF, False)
    assert disagreements() == []


def test_forced_off_while_it_is_saved_nothing_of_its_memory_is_kept(built: Built, alice: User, fake: FakeHost) -> None:
    machine = built()
    gentle = hibernation.request_hibernate(machine, actor=alice)
    hard = services.request_force_off(fresh(machine), actor=alice)
    fake.fail_next("force_off", HostUnreachableError("gone"))
    runner.run(hard.pk)
    work_on(gentle)
    work_on(hard)
    row = fresh(machine)
    assert (row.power_state, row.is_hibernated, row.saved_gib) == (PowerState.SHUT_OFF, False, 0)
    assert fake.domains[machine.pk].saved is None
    assert disagreements() == []


def test_what_somebody_hibernates_or_wakes_past_the_portal_is_seen(built: Built, fake: FakeHost) -> None:
    machine = built()
    domain = fake.domains[machine.pk]
    domain.saved = domain.live
    fake.set_power(machine.pk, HostPowerState.SHUT_OFF)
    reconcile.reconcile_host(machine.host_id)
    reconcile.reconcile_host(machine.host_id)
    assert fresh(machine).is_hibernated
    assert disagreements() == []
    fake.set_power(machine.pk, HostPowerState.RUNNING)
    reconcile.reconcile_host(machine.host_id)
    assert not fresh(machine).is_hibernated
    assert disagreements() == []


def test_a_hibernated_machine_is_deleted_with_its_memory(built: Built, alice: User) -> None:
    machine = built()
    work_on(hibernation.request_hibernate(machine, actor=alice))
    work_on(services.request_delete(fresh(machine), actor=alice))
    assert_nothing_left(machine)


# --- another size -----------------------------------------------------------------------------------------------------


def test_what_a_running_guest_takes_it_has_at_once_and_the_rest_at_its_next_start(
    built: Built, alice: User, fake: FakeHost
) -> None:
    machine = built()
    wanted = larger(machine, memory_mib=512)
    work_on(resizing.request_resize(machine, actor=alice, flavour=wanted))
    row, live = fresh(machine), fake.domains[machine.pk].live
    assert live is not None
    assert (live.vcpus, live.memory_mib) == (row.vcpus, row.memory_mib) == (wanted.vcpus, machine.memory_mib)
    assert row.waits_for_restart
    reconcile.reconcile_host(machine.host_id)
    assert not Difference.objects.exists()
    assert disagreements() == []
    work_on(services.request_stop(row, actor=alice))
    work_on(services.request_start(fresh(machine), actor=alice))
    row, live = fresh(machine), fake.domains[machine.pk].live
    assert live is not None
    assert (live.vcpus, live.memory_mib) == (row.vcpus, row.memory_mib) == (wanted.vcpus, wanted.memory_mib)
    assert (row.flavour, row.wanted_vcpus) == (wanted, None)
    reconcile.reconcile_host(machine.host_id)
    assert not Difference.objects.exists()
    assert disagreements() == []


def test_memory_comes_at_once_where_guests_are_trusted(
    settings: Settings, built: Built, alice: User, fake: FakeHost
) -> None:
    settings.GUEST_MEMORY_ROOM = 2.0
    machine = built()
    wanted = larger(machine, memory_mib=512)
    work_on(resizing.request_resize(fresh(machine), actor=alice, flavour=wanted))
    row, live = fresh(machine), fake.domains[machine.pk].live
    assert live is not None
    assert (live.memory_mib, row.memory_mib, row.flavour, row.wanted_vcpus) == (
        wanted.memory_mib,
        wanted.memory_mib,
        wanted,
        None,
    )
    reconcile.reconcile_host(machine.host_id)
    assert not Difference.objects.exists()


def test_a_guest_that_has_less_room_than_was_thought_waits_for_its_start(
    built: Built, alice: User, fake: FakeHost
) -> None:
    machine = built()
    Machine.objects.update(room_vcpus=32)
    Project.objects.update(max_vcpus=64)
    wanted = larger(machine, vcpus=6)
    assert work_on(resizing.request_resize(fresh(machine), actor=alice, flavour=wanted)).status == JobStatus.DONE
    assert (fresh(machine).vcpus, fresh(machine).wanted_vcpus) == (machine.vcpus, wanted.vcpus)
    assert disagreements() == []


def test_a_resize_that_fails_keeps_the_size_and_the_definition(built: Built, alice: User, fake: FakeHost) -> None:
    machine = built()
    fake.fail_next("set_vcpus", HypervisorError("No."))
    job = work_on(resizing.request_resize(machine, actor=alice, flavour=larger(machine, memory_mib=512)))
    row = fresh(machine)
    assert (job.status, row.error_message, row.wanted_vcpus) == (JobStatus.FAILED, "No.", None)
    spec = fake.domains[machine.pk].spec
    assert (spec.vcpus, spec.memory_mib) == (row.vcpus, row.memory_mib) == (machine.vcpus, machine.memory_mib)
    assert disagreements() == []


@pytest.mark.parametrize("call", ["define", "set_vcpus"])
def test_deleted_while_it_is_resized_nothing_is_left(built: Built, alice: User, fake: FakeHost, call: str) -> None:
    machine = built()
    job = resizing.request_resize(machine, actor=alice, flavour=larger(machine))
    fake.fail_next(call, HostUnreachableError("gone"), after=True)
    runner.run(job.pk)
    removal = services.request_delete(fresh(machine), actor=alice)
    for _ in range(20):
        runner.run(removal.pk)
        runner.run(job.pk)
    assert Job.objects.get(pk=removal.pk).status == JobStatus.DONE
    assert_nothing_left(machine)


# --- passwords and keys -----------------------------------------------------------------------------------------------


def test_the_new_password_is_the_guests_and_in_no_log(
    built: Built, alice: User, fake: FakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    machine = built()
    first = unseal(machine.login_password)
    fake.fail_next("set_password", GuestAgentError("The guest agent does not answer."))
    assert work_on(access.request_password(machine, actor=alice)).status == JobStatus.DONE
    password = unseal(fresh(machine).login_password)
    assert fake.guest(machine.pk).passwords == {"alice": password}
    assert password != first
    assert password not in caplog.text
    work_on(access.request_ssh_key(fresh(machine), actor=alice, public_key=KEY))
    assert fake.guest(machine.pk).ssh_keys == {"alice": [KEY]}
    assert disagreements() == []


def test_a_guest_without_an_agent_is_said_in_words_and_the_old_password_stays(
    built: Built, alice: User, fake: FakeHost
) -> None:
    machine = built()
    Machine.objects.update(login_password=seal("the-first"))
    fake.guest(machine.pk).has_agent = False
    job = work_on(access.request_password(fresh(machine), actor=alice))
    assert (job.status, job.error_code) == (JobStatus.FAILED, "guest-agent")
    assert unseal(fresh(machine).login_password) == "the-first"
    assert disagreements() == []


# --- the bin ----------------------------------------------------------------------------------------------------------


def test_from_the_bin_and_back_and_from_the_bin_for_good(built: Built, alice: User, fake: FakeHost) -> None:
    machine = built()
    Project.objects.update(bin_days=7)
    for _ in range(2):
        work_on(binning.request_removal(fresh(machine), actor=alice))
        row = fresh(machine)
        assert (row.status, row.power_state) == (Status.BINNED, PowerState.SHUT_OFF)
        assert left_on(fake, machine.pk) == ["domain", "disk", "seed"]
        reconcile.reconcile_host(machine.host_id)
        assert not Difference.objects.exists()
        assert disagreements() == []
        binning.request_restore(row, actor=alice)
        work_on(services.request_start(row, actor=alice))
        assert disagreements() == []
    work_on(binning.request_removal(fresh(machine), actor=alice))
    Machine.objects.update(purge_at=fresh(machine).binned_at)
    assert binning.purge_due() == 1
    work_on(Job.objects.get(name=JobName.MACHINE_DELETE))
    assert fresh(machine).status == Status.DELETED
    assert_nothing_left(machine)


def test_what_its_host_has_lost_goes_into_the_bin_as_well(built: Built, alice: User, fake: FakeHost) -> None:
    machine = built()
    Project.objects.update(bin_days=7)
    fake.vanish(machine.pk)
    assert work_on(binning.request_removal(fresh(machine), actor=alice)).status == JobStatus.DONE
    assert fresh(machine).status == Status.BINNED


def test_a_purge_on_a_host_that_is_away_leaves_it_in_the_bin(built: Built, alice: User, fake: FakeHost) -> None:
    machine = built()
    Project.objects.update(bin_days=7)
    work_on(binning.request_removal(fresh(machine), actor=alice))
    fake.unreachable = True
    assert work_on(services.request_delete(fresh(machine), actor=alice)).status == JobStatus.FAILED
    row = fresh(machine)
    assert (row.status, row.task) == (Status.BINNED, Task.NONE)
    assert "cannot be reached" in row.error_message
    fake.unreachable = False
    assert disagreements() == []


def test_put_into_the_bin_while_it_hibernates(built: Built, alice: User, fake: FakeHost) -> None:
    machine = built()
    Project.objects.update(bin_days=7)
    saving = hibernation.request_hibernate(machine, actor=alice)
    removal = binning.request_removal(fresh(machine), actor=alice)
    for _ in range(20):
        runner.run(removal.pk)
        runner.run(saving.pk)
    assert fresh(machine).status == Status.BINNED
    assert disagreements() == []
