"""Killed at any line, on real QEMU: what is done to machines, and what happens to QEMU and libvirt meanwhile."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from django.db import connection

from portal.hosts.models import Host
from portal.jobs.models import Job
from portal.jobs.names import JobName, JobStatus, StepName
from portal.machines import services
from portal.machines.models import Machine
from portal.machines.states import PowerState, Status
from tests.integration.crash.real import (
    RealStage,
    is_of_machines,
    killed_around,
    libvirtd,
    other_uri,
    own_folders,
    played,
    qemus,
    stage,
    watched_shortly,
    wrong,
)
from tests.integration.crash.scenes import Scene
from tests.integration.crash.steps import step_replaced
from tests.support.libvirtd import Libvirtd, wait_until
from workers.hosts import driver_of
from workers.hypervisor.types import PowerState as HostPowerState
from workers.watch import Watcher
from workers.workflows.base import Context

__all__ = ["libvirtd", "other_uri", "own_folders", "stage", "watched_shortly"]

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]


@pytest.mark.by_turns
@pytest.mark.parametrize(("name", "scene", "step", "after"), played(is_of_machines))
def test_killed_around_a_step_the_work_is_done_all_the_same(
    stage: RealStage, name: JobName, scene: Scene, step: StepName, after: bool
) -> None:
    killed_around(stage, name, scene, step, after=after)


def _kill_qemu(stage: RealStage, machine: UUID) -> None:
    (pid,) = qemus(str(machine))
    os.kill(pid, signal.SIGKILL)
    # Until libvirt has seen it.
    wait_until(lambda: driver_of(stage.host).power_state(machine) == HostPowerState.SHUT_OFF, 120)


def test_a_guest_whose_qemu_is_killed_while_it_is_built_is_taken_back(stage: RealStage) -> None:
    stage.plays(stage.booting)
    machine = stage.asked()
    with step_replaced(JobName.MACHINE_CREATE, StepName.BOOT, _first(lambda: _kill_qemu(stage, machine.pk))):
        job = stage.work_on(Job.objects.get(target_id=machine.pk))
    assert job.status == JobStatus.FAILED
    assert "switched itself off" in job.error_message
    stage.reconcile()
    machine.refresh_from_db()
    assert machine.status == Status.ERROR
    assert wrong() == []


@pytest.mark.restarts_libvirtd
@pytest.mark.parametrize("step", [StepName.DISK, StepName.BOOT])
def test_a_libvirtd_that_restarts_in_the_middle_of_a_build_holds_it_up_only(
    stage: RealStage, libvirtd: Libvirtd, step: StepName
) -> None:
    if not libvirtd.ours:
        pytest.skip("this machine's libvirtd is not the tests' to restart")
    stage.plays(stage.booting)
    with step_replaced(JobName.MACHINE_CREATE, step, _first(libvirtd.restart)):
        machine = stage.built_anew()
    stage.reconcile()
    assert machine.power_state == PowerState.RUNNING
    assert wrong() == []


def _first(happens: Callable[[], None]) -> Callable[[Callable[..., None]], Callable[[Context[Any]], None]]:
    """Before the step runs for the first time, something happens."""
    left = [happens]

    def made(run: Callable[..., None]) -> Callable[[Context[Any]], None]:
        def step(context: Context[Any]) -> None:
            if left:
                left.pop()()
            run(context)

        return step

    return made


def test_a_qemu_that_is_killed_later_is_seen_and_can_be_started_again(stage: RealStage) -> None:
    stage.plays(stage.booting)
    machine = stage.built()
    _kill_qemu(stage, machine.pk)
    stage.reconcile()
    machine.refresh_from_db()
    assert machine.power_state == PowerState.SHUT_OFF
    assert wrong() == []
    job = stage.work_on(services.request_start(machine, actor=stage.alice))
    assert job.status == JobStatus.DONE
    assert wrong() == []


@pytest.mark.restarts_libvirtd
def test_events_reach_the_rows_through_a_libvirtd_that_restarts(stage: RealStage, libvirtd: Libvirtd) -> None:
    if not libvirtd.ours:
        pytest.skip("this machine's libvirtd is not the tests' to restart")
    stage.plays(stage.booting)
    machine = stage.built()
    with watching():
        for restarted in (False, True):
            if restarted:
                machine.refresh_from_db()
                job = stage.work_on(services.request_start(machine, actor=stage.alice))
                assert job.status == JobStatus.DONE, job.error_message
                libvirtd.restart()
                # A guest that ends before libvirtd has it back ends without an event.
                assert driver_of(stage.host).screenshot(machine.pk)
            _kill_qemu(stage, machine.pk)
            off = Machine.objects.filter(pk=machine.pk, power_state=PowerState.SHUT_OFF)
            rows = Machine.objects.filter(pk=machine.pk).values("status", "task", "power_state", "power_state_at")
            wait_until(off.exists, 120, rows.get)
    assert wrong() == []


@contextmanager
def watching() -> Iterator[None]:
    """As `python -m workers.watch`, from when it follows the hosts."""
    watcher = Watcher()
    thread = threading.Thread(target=_watch, args=(watcher,))
    thread.start()
    try:
        wait_until(lambda: len(watcher.threads) == Host.objects.count(), 120)
        yield
    finally:
        watcher.stop()
        thread.join(120)
        assert not thread.is_alive()


def _watch(watcher: Watcher) -> None:
    try:
        watcher.run()
    finally:
        connection.close()
