"""Host and database agree again, whatever happened behind Casement's back, and silence deletes nothing."""

import dataclasses
import datetime as dt
from collections.abc import Callable
from uuid import uuid4

import pytest
from django.utils import timezone

from portal.accounts.models import User
from portal.hosts.models import Host
from portal.jobs.models import Job
from portal.machines import services
from portal.machines.models import Machine
from portal.machines.states import PowerState, Status, Task
from tests.workers.support import assert_nothing_left, left_on, work_on
from workers import reconcile, watch
from workers.hosts import driver_of
from workers.hypervisor.errors import HypervisorError
from workers.hypervisor.fake import FakeDriver, FakeHost
from workers.hypervisor.types import EventKind, MachineEvent
from workers.hypervisor.types import PowerState as HostPowerState
from workers.workflows.common import spec_of

Built = Callable[[], Machine]


def test_a_host_tells_its_sizes_and_that_it_lives(host: Host) -> None:
    Host.objects.update(cpus=0, last_seen_at=None)
    reconcile.reconcile_host(host.pk)
    host.refresh_from_db()
    assert (host.cpus, host.accelerator, host.last_error) == (16, "tcg", "")
    assert host.last_seen_at is not None


def test_a_host_that_does_not_answer_makes_its_machines_unknown_and_deletes_nothing(
    built: Built, fake: FakeHost
) -> None:
    machine = built()
    fake.unreachable = True
    reconcile.reconcile_host(machine.host_id)
    machine.refresh_from_db()
    machine.host.refresh_from_db()
    assert (machine.status, machine.power_state) == (Status.READY, PowerState.UNKNOWN)
    assert "cannot be reached" in machine.host.last_error
    fake.unreachable = False
    reconcile.reconcile_host(machine.host_id)
    machine.refresh_from_db()
    assert machine.power_state == PowerState.RUNNING
    assert machine.has_screen


def test_one_bulk_call_tells_the_power_of_all_machines(built: Built, fake: FakeHost) -> None:
    machine = built()
    fake.guest_shuts_down(machine.pk)
    calls = fake.calls["list"]
    reconcile.reconcile_host(machine.host_id)
    machine.refresh_from_db()
    assert (machine.power_state, machine.console_socket) == (PowerState.SHUT_OFF, "")
    assert fake.calls["list"] == calls + 1


def test_a_machine_that_vanished_from_its_host_is_unknown_and_kept(built: Built, fake: FakeHost) -> None:
    machine = built()
    fake.vanish(machine.pk)
    reconcile.reconcile_host(machine.host_id)
    machine.refresh_from_db()
    assert (machine.status, machine.power_state) == (Status.READY, PowerState.UNKNOWN)
    assert left_on(fake, machine.pk) == ["disk", "seed"]


def test_a_screen_and_an_address_that_are_not_known_are_looked_up(built: Built) -> None:
    machine = built()
    Machine.objects.update(console_socket="", addresses=[])
    reconcile.reconcile_host(machine.host_id)
    machine.refresh_from_db()
    assert machine.has_screen
    assert machine.addresses == ["10.213.0.10"]


def test_what_a_deleted_machine_left_is_removed(built: Built, fake: FakeHost) -> None:
    machine = built()
    services.record_deleted(machine)
    assert left_on(fake, machine.pk) == ["domain", "disk", "seed"]
    reconcile.reconcile_host(machine.host_id)
    assert_nothing_left(machine)


def test_a_domain_that_nobody_here_knows_is_never_touched(built: Built, fake: FakeHost) -> None:
    machine = built()
    spec = spec_of(machine, secret="12345678")
    foreign = dataclasses.replace(spec, uuid=uuid4(), name="foreign")
    fake.add_foreign_domain(foreign)
    other = uuid4()
    fake.domains[other] = fake.domains[machine.pk]  # Casement's mark, but no row here: another portal's.
    reconcile.reconcile_host(machine.host_id)
    assert foreign.uuid in fake.domains
    assert other in fake.domains


def test_a_task_without_a_job_ends_by_the_clock(built: Built) -> None:
    machine = built()
    Machine.objects.update(task=Task.STOPPING, task_since=timezone.now())
    reconcile.reconcile_host(machine.host_id)
    machine.refresh_from_db()
    assert machine.task == Task.STOPPING
    Machine.objects.update(task_since=timezone.now() - dt.timedelta(minutes=5))
    reconcile.reconcile_host(machine.host_id)
    machine.refresh_from_db()
    assert machine.task == Task.NONE


def test_shutting_down_inside_the_guest_reaches_the_row_by_the_event(built: Built, fake: FakeHost) -> None:
    machine = built()
    fake.guest_shuts_down(machine.pk)
    event = MachineEvent(EventKind.CHANGED, timezone.now(), machine.pk, HostPowerState.SHUT_OFF)
    watch.handle(machine.host, driver_of(machine.host), event)
    machine.refresh_from_db()
    assert machine.power_state == PowerState.SHUT_OFF


def test_a_machine_that_somebody_started_by_other_means_gets_its_screen(
    built: Built, alice: User, fake: FakeHost
) -> None:
    machine = built()
    work_on(services.request_stop(machine, actor=alice))
    driver = driver_of(machine.host)
    driver.start(machine.pk)
    watch.handle(
        machine.host, driver, MachineEvent(EventKind.CHANGED, timezone.now(), machine.pk, HostPowerState.RUNNING)
    )
    machine.refresh_from_db()
    assert machine.has_screen


def test_lost_events_are_made_good_by_comparing_everything(built: Built, fake: FakeHost) -> None:
    machine = built()
    fake.guest_shuts_down(machine.pk)
    watch.handle(machine.host, driver_of(machine.host), MachineEvent(EventKind.RESYNC, timezone.now()))
    machine.refresh_from_db()
    assert machine.power_state == PowerState.SHUT_OFF


def test_an_error_on_one_machine_does_not_stop_the_others(
    built: Built, fake: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = built(), built()
    Machine.objects.update(addresses=[])
    original = FakeDriver.addresses

    def broken(self: FakeDriver, pk: object) -> tuple[str, ...]:
        if pk == first.pk:
            raise HypervisorError("no")
        return original(self, second.pk)

    monkeypatch.setattr(FakeDriver, "addresses", broken)
    reconcile.reconcile_host(first.host_id)
    second.refresh_from_db()
    assert second.addresses == ["10.213.0.10"]
    assert not Job.objects.filter(status="failed").exists()
