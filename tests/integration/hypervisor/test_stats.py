"""What machines use, by the driver in memory and by real QEMU: a busy guest is seen to be busy, an idle one idle."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest

from portal.figures import live
from portal.figures.points import Level
from portal.figures.selectors import busiest_machines, host_figures, machine_figures
from portal.lib.store import store
from portal.machines.models import Machine
from tests.integration.hypervisor.harness import Bench
from tests.support.libvirtd import wait_until
from tests.support.redis import redis_db, redis_url
from workers import sample
from workers.hypervisor.driver import HypervisorDriver
from workers.hypervisor.errors import GuestAgentError, HostUnreachableError
from workers.hypervisor.fake_stats import Work
from workers.hypervisor.stats import HostStats, MachineStats

__all__ = ["redis_db", "redis_url"]

pytestmark = pytest.mark.timeout(900)

MIB = 1024 * 1024
LONG_S = 120


def of(stats: HostStats, machine: UUID) -> MachineStats:
    return next(one for one in stats.machines if one.uuid == machine)


def cpu_between(before: HostStats, after: HostStats, machine: UUID) -> float:
    """Whole processors kept busy."""
    began, ended = of(before, machine), of(after, machine)
    assert before.clock == after.clock
    assert began.run == ended.run
    assert began.cpu_ns is not None and ended.cpu_ns is not None
    return (ended.cpu_ns - began.cpu_ns) / 1e9 / (after.at_s - before.at_s)


def keep_busy(bench: Bench, machine: UUID) -> None:
    """For a while: it computes, and reads what it has not read yet from its disk."""
    if not bench.is_real:
        bench.backstage.host.meters.work[machine] = Work(cpu=1.0, disk_read=50 * MIB, net_sent=1024.0)  # type: ignore[attr-defined]  # The one in memory has a host.
        return
    with contextlib.suppress(GuestAgentError):
        script = "(cat /dev/vda >/dev/null; timeout 240 sh -c 'while :; do :; done') >/dev/null 2>&1 &"
        bench.driver.run_in_guest(machine, ("/bin/sh", "-c", script))


def test_a_busy_guest_is_seen_to_be_busy_and_an_idle_one_idle(bench: Bench) -> None:
    """One boot of each for all that is told of them: booting is what takes time."""
    driver = bench.driver
    off, idle, busy = bench.defined(), bench.booted(), bench.booted()
    first = driver.stats()
    assert off.uuid not in {machine.uuid for machine in first.machines}
    keep_busy(bench, busy.uuid)
    before, after = _while_it_is_busy(bench, idle.uuid, busy.uuid)
    assert cpu_between(before, after, busy.uuid) < 1.1
    _host_is_told(before, after)
    _guest_is_told(bench, after, busy.uuid, memory_mib=256)
    _disk_was_read(driver, first, busy.uuid)


def _has_passed(began: float, seconds: float) -> bool:
    return time.monotonic() - began > seconds


def _while_it_is_busy(bench: Bench, idle: UUID, busy: UUID) -> tuple[HostStats, HostStats]:
    """Two looks between which the busy one had what the busy one should have, and the idle one little. This machine
    has other work, too, and what it leaves to the busy one in some seconds may be less: then it is looked again.

    Between the two are some seconds: on a busy host a call takes a good part of one.
    """
    deadline = time.monotonic() + 3 * LONG_S
    while True:
        before, began = bench.driver.stats(), time.monotonic()
        wait_until(partial(_has_passed, began, 10 if bench.is_real else 0.3), LONG_S)
        after = bench.driver.stats()
        used = {machine: cpu_between(before, after, machine) for machine in (idle, busy)}
        if used[busy] > 0.3 > used[idle] and used[busy] > 3 * used[idle]:
            return before, after
        assert time.monotonic() < deadline, f"whole processors, the busy one {used[busy]}, the idle one {used[idle]}"


def _host_is_told(before: HostStats, after: HostStats) -> None:
    assert 0 <= after.cpu_ns - before.cpu_ns <= (after.at_s - before.at_s) * after.cpus * 1e9 * 1.15
    assert 0 < after.memory_used_bytes < after.memory_total_bytes
    assert after.cpus >= 1


def _guest_is_told(bench: Bench, stats: HostStats, machine: UUID, *, memory_mib: int) -> None:
    wait_until(lambda: of(bench.driver.stats(), machine).memory_used_bytes is not None, LONG_S)
    found = of(bench.driver.stats(), machine)
    assert found.vcpus == 1
    assert found.memory_total_bytes == memory_mib * MIB
    assert found.memory_used_bytes is not None and 0 < found.memory_used_bytes < memory_mib * MIB
    assert found.memory_taken_bytes is not None and found.memory_taken_bytes > 16 * MIB
    assert found.net_received_bytes is not None and found.net_sent_bytes is not None
    # It asked for an address and got one.
    wait_until(lambda: min(_traffic(bench.driver, machine)) > 0, LONG_S)


def _traffic(driver: HypervisorDriver, machine: UUID) -> tuple[int, int]:
    found = of(driver.stats(), machine)
    return found.net_received_bytes or 0, found.net_sent_bytes or 0


def _disk_was_read(driver: HypervisorDriver, first: HostStats, machine: UUID) -> None:
    before = of(first, machine).disk_read_bytes or 0
    wait_until(lambda: (of(driver.stats(), machine).disk_read_bytes or 0) > before + MIB, LONG_S)
    assert of(driver.stats(), machine).disk_written_bytes is not None


def test_each_start_is_another_run_whose_counters_begin_again(bench: Bench) -> None:
    spec = bench.started()
    before = of(bench.driver.stats(), spec.uuid)
    bench.driver.force_off(spec.uuid)
    assert spec.uuid not in {machine.uuid for machine in bench.driver.stats().machines}
    bench.driver.start(spec.uuid)
    assert of(bench.driver.stats(), spec.uuid).run != before.run


def test_a_machine_of_someone_else_is_told_of_and_not_touched(bench: Bench) -> None:
    foreign = bench.backstage.add_foreign()
    try:
        assert foreign not in {machine.uuid for machine in bench.driver.stats().machines}, "it is off"
    finally:
        bench.backstage.remove_foreign(foreign)


def _at(now_s: float, _client: object) -> float:
    return now_s


def _is_past(moment: float) -> bool:
    return time.monotonic() > moment


@pytest.mark.real
@pytest.mark.django_db
def test_a_sampler_reads_real_qemu(
    real_bench: Bench, redis_db: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From QEMU to what a page shows. A guest that boots computes.

    Between two readings are some seconds: on a busy host a call takes a good part of one, and a share that comes out
    above all there is counts as not known.
    """
    bench = real_bench
    monkeypatch.setattr(sample, "driver_of", lambda _host: bench.driver)
    at_s = live.now_s(store())
    try:
        spec = bench.started()
        Machine.objects.filter(pk=machine.pk).update(id=spec.uuid, memory_mib=256)
        found = Machine.objects.get()
        for slot in range(3):
            monkeypatch.setattr(live, "now_s", partial(_at, at_s + 10 * slot))
            began = time.monotonic()
            wait_until(partial(_is_past, began + 5), LONG_S)
            sample.sample_host(found.host_id)
        own, host = machine_figures(found, Level.LIVE).now, host_figures(found.host, Level.LIVE).now
        assert own.cpu is not None and 0 < own.cpu <= 1
        assert own.memory_taken is not None and own.memory_taken > 16 * MIB
        assert own.disk_read is not None and own.net_sent is not None
        assert host.cpu is not None and 0 < host.cpu <= 1
        assert host.memory_taken is not None and host.memory_taken >= own.memory_taken
        assert [one.machine for one in busiest_machines()] == [found]
    finally:
        bench.clean()


@pytest.mark.real
def test_a_qemu_that_hangs_hides_no_other_machine(real_bench: Bench) -> None:
    """libvirt waits for it for ever; the next bulk call leaves it out."""
    bench = real_bench
    try:
        hung, other = bench.started(), bench.started()
        pid = int(Path(f"/run/libvirt/qemu/{hung.name}.pid").read_text(encoding="ascii"))
        os.kill(pid, signal.SIGSTOP)
        try:
            with contextlib.suppress(HostUnreachableError):
                bench.driver.stats()
            # libvirt itself may be asking the other one for something at one moment; the hung one it asks for ever.
            wait_until(lambda: of(bench.driver.stats(), other.uuid).disk_read_bytes is not None, LONG_S)
            found = bench.driver.stats()
            assert of(found, hung.uuid).disk_read_bytes is None
            assert of(found, hung.uuid).cpu_ns is not None
        finally:
            os.kill(pid, signal.SIGCONT)
    finally:
        bench.clean()
