"""Snapshots: the contract on both drivers, and on real QEMU what a guest finds after each."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from uuid import UUID, uuid4

import libvirt
import pytest

from tests.integration.hypervisor.harness import BOOT_S, GIB, GUEST_S, Bench
from tests.support.libvirtd import wait_until
from tests.support.microguest import ROOT_UUID
from workers.hypervisor.errors import DomainNotFoundError, InvalidOperationError, VolumeNotFoundError
from workers.hypervisor.kvm import agent
from workers.hypervisor.kvm.driver import KvmDriver
from workers.hypervisor.types import DiskSpec, Firmware, MachineSpec, PowerState
from workers.imaging import qemu_img

pytestmark = pytest.mark.timeout(900)

MIB = 1 << 20
# Nothing of it starts a program, so it is as quick as the guest; a file system that is still holds it up.
TICKER = "while read up idle < /proc/uptime; do echo $up; done >> /disk/ticks"
COUNTER = "i=0; while :; do i=$((i+1)); echo $i > /run/counted; sleep 0.05; done"
LONGEST_PAUSE_S = 0.5
TRIES = 5


@pytest.fixture
def volume(bench: Bench) -> Iterator[UUID]:
    uuid = uuid4()
    bench.driver.create_volume(uuid, size_bytes=64 * MIB)
    yield uuid
    bench.clean()
    bench.driver.delete_volume(uuid)


def root_size(bench: Bench, spec: MachineSpec) -> int:
    (size,) = [
        info.capacity_bytes for info in bench.driver.list_volumes() if info.machine == spec.uuid and info.is_disk
    ]
    return size


def size_of(bench: Bench, volume: UUID) -> int:
    (size,) = [info.capacity_bytes for info in bench.driver.list_volumes() if info.volume == volume]
    return size


def files_of(bench: Bench, spec: MachineSpec, snapshot: UUID) -> set[str]:
    names = [info.name for info in bench.driver.list_volumes() if info.machine == spec.uuid]
    return {name.rpartition(".")[2] for name in names if str(snapshot) in name}


# --- a machine that is off ----------------------------------------------------------------------------------------


def test_of_a_machine_that_is_off_every_disk_comes_back_with_its_size(bench: Bench, volume: UUID) -> None:
    spec, driver, snapshot = bench.defined(), bench.driver, uuid4()
    driver.attach_disk(spec.uuid, DiskSpec(volume))
    for _twice in range(2):
        info = driver.take_snapshot(spec.uuid, snapshot, memory=False)
        assert (info.uuid, info.quiesced, info.memory_bytes, info.volumes) == (snapshot, True, 0, frozenset({volume}))
        assert driver.snapshots(spec.uuid) == [snapshot]
    assert [v.snapshot for v in driver.list_volumes() if v.snapshot] == [snapshot]
    driver.grow_disk(spec.uuid, volume, size_bytes=96 * MIB)
    driver.grow_disk(spec.uuid, None, size_bytes=2 * GIB)
    for _twice in range(2):
        driver.restore_snapshot(spec.uuid, snapshot)
        assert (root_size(bench, spec), size_of(bench, volume)) == (GIB, 64 * MIB)
        assert driver.power_state(spec.uuid) is PowerState.SHUT_OFF
    for _twice in range(2):
        driver.delete_snapshot(spec.uuid, snapshot)
        assert driver.snapshots(spec.uuid) == []
    assert files_of(bench, spec, snapshot) == set()
    with pytest.raises(VolumeNotFoundError):
        driver.restore_snapshot(spec.uuid, snapshot)


def test_there_is_no_memory_to_keep_of_a_machine_that_is_off(bench: Bench) -> None:
    spec, snapshot = bench.defined(), uuid4()
    with pytest.raises(InvalidOperationError):
        bench.driver.take_snapshot(spec.uuid, snapshot, memory=True)
    assert bench.driver.snapshots(spec.uuid) == []
    assert files_of(bench, spec, snapshot) == set()


def test_a_domain_that_is_not_ours_is_not_snapshotted(bench: Bench) -> None:
    foreign = bench.backstage.add_foreign()
    try:
        with pytest.raises(DomainNotFoundError):
            bench.driver.take_snapshot(foreign, uuid4(), memory=False)
    finally:
        bench.backstage.remove_foreign(foreign)


def test_a_snapshot_is_not_restored_while_one_of_its_disks_is_elsewhere_or_gone(bench: Bench, volume: UUID) -> None:
    spec, driver, snapshot = bench.defined(), bench.driver, uuid4()
    driver.attach_disk(spec.uuid, DiskSpec(volume))
    driver.take_snapshot(spec.uuid, snapshot, memory=False)
    driver.detach_disk(spec.uuid, volume)
    other = bench.defined()
    driver.attach_disk(other.uuid, DiskSpec(volume))
    driver.start(other.uuid)
    driver.grow_disk(spec.uuid, None, size_bytes=2 * GIB)
    with pytest.raises(InvalidOperationError):
        driver.restore_snapshot(spec.uuid, snapshot)
    assert root_size(bench, spec) == 2 * GIB, "half of it was restored"
    # It goes from the disk that another machine runs with, too.
    if bench.is_real:
        assert str(snapshot) in inside(bench, volume)
    driver.delete_snapshot(spec.uuid, snapshot)
    if bench.is_real:
        assert str(snapshot) not in inside(bench, volume)
    driver.undefine(other.uuid)
    driver.attach_disk(spec.uuid, DiskSpec(volume))
    driver.take_snapshot(spec.uuid, snapshot, memory=False)
    driver.detach_disk(spec.uuid, volume)
    driver.delete_volume(volume)
    with pytest.raises(VolumeNotFoundError):
        driver.restore_snapshot(spec.uuid, snapshot)
    assert root_size(bench, spec) == 2 * GIB
    driver.delete_snapshot(spec.uuid, snapshot)
    assert driver.snapshots(spec.uuid) == []


def inside(bench: Bench, volume: UUID) -> set[str]:
    """The names of what is in a volume's file."""
    driver = bench.driver
    assert isinstance(driver, KvmDriver)
    return qemu_img.snapshots(driver._volumes.path(volume))


def test_snapshots_go_with_the_machines_files_from_volumes_that_stay_too(bench: Bench, volume: UUID) -> None:
    spec, driver, snapshot = bench.defined(), bench.driver, uuid4()
    driver.attach_disk(spec.uuid, DiskSpec(volume))
    driver.take_snapshot(spec.uuid, snapshot, memory=False)
    driver.undefine(spec.uuid)
    driver.delete_storage(spec.uuid)
    assert driver.snapshots(spec.uuid) == []
    assert not [info for info in driver.list_volumes() if info.machine == spec.uuid]
    if bench.is_real:
        assert inside(bench, volume) == set()


# --- a machine that runs ------------------------------------------------------------------------------------------


def test_one_that_is_hibernated_is_refused_and_woken_by_no_restore(bench: Bench) -> None:
    spec, driver, snapshot = bench.started(), bench.driver, uuid4()
    info = driver.take_snapshot(spec.uuid, snapshot, memory=True)
    assert (info.quiesced, info.memory_bytes > 0) == (False, True)
    driver.save(spec.uuid)
    with pytest.raises(InvalidOperationError):
        driver.take_snapshot(spec.uuid, uuid4(), memory=False)
    driver.restore_snapshot(spec.uuid, snapshot)
    assert driver.power_state(spec.uuid) is PowerState.RUNNING
    assert not driver.get(spec.uuid).saved, "its saved memory would meet other disks"
    assert driver.console(spec.uuid).secret == spec.console_secret


def test_it_goes_on_without_a_disc_that_is_gone(bench: Bench, tmp_path: Path) -> None:
    driver, snapshot, kept, gone = bench.driver, uuid4(), uuid4(), uuid4()
    for iso in (kept, gone):
        file = tmp_path / f"{iso}.iso"
        file.write_bytes(bytes(MIB))
        driver.put_iso(iso, file, progress=lambda _percent: None)
    try:
        spec = bench.started(discs=(kept, gone))
        driver.take_snapshot(spec.uuid, snapshot, memory=True)
        assert driver.insert_disc(spec.uuid, 1, None, force=True)
        driver.delete_iso(gone)
        for _twice in range(2):
            driver.restore_snapshot(spec.uuid, snapshot)
            assert driver.power_state(spec.uuid) is PowerState.RUNNING
            assert driver.devices(spec.uuid).discs == (kept, None)
        assert driver.console(spec.uuid).secret == spec.console_secret
    finally:
        bench.clean()
        driver.delete_iso(kept)


def test_one_that_is_paused_stays_so_and_its_memory_is_not_kept(bench: Bench) -> None:
    """QEMU lets go of the disks when it writes memory out, until it goes on; what is asked of them then ends it."""
    spec, driver, snapshot = bench.started(), bench.driver, uuid4()
    driver.suspend(spec.uuid)
    with pytest.raises(InvalidOperationError):
        driver.take_snapshot(spec.uuid, snapshot, memory=True)
    assert not driver.take_snapshot(spec.uuid, snapshot, memory=False).quiesced
    driver.delete_snapshot(spec.uuid, snapshot)
    assert driver.power_state(spec.uuid) is PowerState.PAUSED


def test_a_guest_without_an_agent_is_kept_as_it_is(bench: Bench) -> None:
    spec, snapshot = bench.started(), uuid4()
    if not bench.is_real:
        bench.backstage.host.guest(spec.uuid).has_agent = False  # type: ignore[attr-defined]  # the fake's own
    # The real one is in its firmware yet.
    info = bench.driver.take_snapshot(spec.uuid, snapshot, memory=False)
    assert not info.quiesced
    assert bench.driver.power_state(spec.uuid) is PowerState.RUNNING


def test_a_guest_finds_its_disk_as_it_was_and_its_processes_running(bench: Bench) -> None:
    """One guest for all of it: it takes seconds to boot."""
    spec, driver = bench.booted(), bench.driver
    inside = Inside(bench, spec)
    inside.run(f"mkdir -p /disk && mount -t ext4 $(findfs UUID={ROOT_UUID}) /disk && echo old > /disk/old && sync")
    first, second, third = uuid4(), uuid4(), uuid4()
    assert driver.take_snapshot(spec.uuid, first, memory=False).quiesced
    inside.run(f"echo new > /disk/new; ({COUNTER}) >/dev/null 2>&1 & echo $! > /run/pid")
    counted = inside.counted(at_least=2)
    with_memory = driver.take_snapshot(spec.uuid, second, memory=True)
    assert with_memory.memory_bytes > 0
    assert driver.power_state(spec.uuid) is PowerState.RUNNING
    inside.run("echo newest > /disk/newest && sync")
    driver.take_snapshot(spec.uuid, third, memory=False)
    assert set(driver.snapshots(spec.uuid)) == {first, second, third}
    if bench.is_real:
        gaps: list[float] = []
        while len(gaps) < TRIES and min(gaps, default=LONGEST_PAUSE_S) >= LONGEST_PAUSE_S:
            gaps.append(inside.longest_gap())
        assert min(gaps) < LONGEST_PAUSE_S, gaps
    driver.delete_snapshot(spec.uuid, third)
    assert set(driver.snapshots(spec.uuid)) == {first, second}

    driver.restore_snapshot(spec.uuid, second)
    wait_until(lambda: driver.agent_ready(spec.uuid), BOOT_S)
    if bench.is_real:
        assert inside.run("ls /disk | grep -x -e old -e new -e newest").split() == ["new", "old"]
        assert inside.run("kill -0 $(cat /run/pid) && echo lives").strip() == "lives"
        assert inside.counted(at_least=counted + 1) > counted
    driver.delete_snapshot(spec.uuid, second)
    assert driver.snapshots(spec.uuid) == [first]

    driver.restore_snapshot(spec.uuid, first)
    assert driver.power_state(spec.uuid) is PowerState.SHUT_OFF
    driver.start(spec.uuid)
    wait_until(lambda: driver.agent_ready(spec.uuid), BOOT_S)
    inside.run(f"mkdir -p /disk && mount -t ext4 $(findfs UUID={ROOT_UUID}) /disk")
    if bench.is_real:
        assert inside.run("ls /disk | grep -x -e old -e new -e newest").split() == ["old"]
        _what_a_dead_worker_left_is_put_right(bench, spec)
    assert driver.snapshots(spec.uuid) == [first]


def _what_a_dead_worker_left_is_put_right(bench: Bench, spec: MachineSpec) -> None:
    """It died between freezing and thawing, or while the guest was paused: by the next try, or by taking it back."""
    driver, snapshot = bench.driver, uuid4()
    assert isinstance(driver, KvmDriver)
    for finish in (lambda: driver.take_snapshot(spec.uuid, snapshot, memory=False), None):
        driver._begin(spec.uuid, snapshot, memory=False)
        assert driver._with(
            spec.uuid, "freeze", lambda domain: agent.ask(domain, "guest-fsfreeze-freeze", limit_s=GUEST_S)
        )
        if finish is not None:
            finish()
        driver.delete_snapshot(spec.uuid, snapshot)
        status = driver._with(
            spec.uuid, "ask", lambda domain: agent.ask(domain, "guest-fsfreeze-status", limit_s=GUEST_S)
        )
        assert status == "thawed"
    driver._begin(spec.uuid, snapshot, memory=True)
    driver.suspend(spec.uuid)
    driver.delete_snapshot(spec.uuid, snapshot)
    assert driver.power_state(spec.uuid) is PowerState.RUNNING
    assert files_of(bench, spec, snapshot) == set()


class Inside:
    """What the programs of a guest do and see. The fake's guest does nothing, and prints nothing."""

    def __init__(self, bench: Bench, spec: MachineSpec) -> None:
        self._bench, self._machine = bench, spec.uuid

    def run(self, script: str) -> str:
        result = self._bench.driver.run_in_guest(self._machine, ("/bin/sh", "-c", script), timeout_s=GUEST_S)
        assert result.exit_code == 0, (script, result.stderr)
        return result.stdout.decode()

    def counted(self, *, at_least: int) -> int:
        if not self._bench.is_real:
            return at_least
        wait_until(lambda: int(self.run("cat /run/counted 2>/dev/null || echo 0") or 0) >= at_least, GUEST_S)
        return int(self.run("cat /run/counted") or at_least)

    def longest_gap(self) -> float:
        """In seconds, between two lines that it wrote to its disk while a snapshot of that was taken."""
        driver, snapshot = self._bench.driver, uuid4()
        self.run(f": > /disk/ticks; ({TICKER}) >/dev/null 2>&1 & echo $! > /run/ticker")
        wait_until(lambda: int(self.run("wc -l < /disk/ticks")) > 100, GUEST_S)
        assert driver.take_snapshot(self._machine, snapshot, memory=False).quiesced
        self.run("kill $(cat /run/ticker)")
        driver.delete_snapshot(self._machine, snapshot)
        ticks = [float(line) for line in self.run("uniq /disk/ticks").split()]
        return max(after - before for before, after in pairwise(ticks))


@pytest.mark.real
def test_a_uefi_machine_has_its_firmwares_variables_of_then(real_bench: Bench) -> None:
    spec, driver, snapshot = real_bench.started(firmware=Firmware.UEFI), real_bench.driver, uuid4()
    try:
        conn = libvirt.open("qemu:///system")
        try:
            definition = ET.fromstring(conn.lookupByUUIDString(str(spec.uuid)).XMLDesc())  # noqa: S314 - libvirt made it.
        finally:
            conn.close()
        variables = Path(definition.findtext("os/nvram") or "")
        driver.take_snapshot(spec.uuid, snapshot, memory=True)
        assert files_of(real_bench, spec, snapshot) == {"json", "mem", "nvram"}
        driver.force_off(spec.uuid)
        then, owner = variables.read_bytes(), variables.stat().st_uid
        with variables.open("r+b") as file:
            file.write(b"another boot order")
        # Of what was defined anew and not started yet, libvirt does not tell where they are.
        driver.define(spec)
        driver.restore_snapshot(spec.uuid, snapshot)
        assert driver.power_state(spec.uuid) is PowerState.RUNNING
        driver.force_off(spec.uuid)
        assert not variables.read_bytes().startswith(b"another")
        assert (len(variables.read_bytes()), variables.stat().st_uid) == (len(then), owner)
        driver.delete_snapshot(spec.uuid, snapshot)
        assert files_of(real_bench, spec, snapshot) == set()
    finally:
        real_bench.clean()
