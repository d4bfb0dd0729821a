"""Volumes, disks and network cards: the contract on both drivers, and what a guest sees of them on real QEMU."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID, uuid4

import libvirt
import pytest

from tests.integration.hypervisor.harness import GIB, GUEST_S, Bench
from tests.support.libvirtd import wait_until
from workers.hypervisor.errors import DomainNotFoundError, InvalidOperationError, VolumeNotFoundError
from workers.hypervisor.types import DiskSpec, IoLimits, MachineSpec, NetworkMode, NicSpec, VolumeInfo

pytestmark = pytest.mark.timeout(900)

MIB = 1 << 20
CARD = "52:54:00:c0:ff:ee"


@pytest.fixture
def volume(bench: Bench) -> Iterator[UUID]:
    uuid = uuid4()
    bench.driver.create_volume(uuid, size_bytes=64 * MIB)
    yield uuid
    bench.clean()  # Machines go first: what a running one has is not removed.
    bench.driver.delete_volume(uuid)


def info_of(bench: Bench, volume: UUID) -> VolumeInfo | None:
    return next((info for info in bench.driver.list_volumes() if info.volume == volume), None)


def capacity_of(bench: Bench, volume: UUID) -> int:
    info = info_of(bench, volume)
    return info.capacity_bytes if info else 0


def card(bench: Bench, mac: str = CARD) -> NicSpec:
    return NicSpec(mac, NetworkMode.NAT, bench.network)


# --- volumes by themselves ----------------------------------------------------------------------------------------


def test_a_volume_is_made_once_grows_and_is_removed_once(bench: Bench) -> None:
    volume = uuid4()
    made = bench.driver.create_volume(volume, size_bytes=64 * MIB)
    assert (made.capacity_bytes, made.volume, made.machine, made.image) == (64 * MIB, volume, None, None)
    assert bench.driver.create_volume(volume, size_bytes=GIB).capacity_bytes == 64 * MIB, "it was made anew"
    assert bench.driver.grow_volume(volume, size_bytes=128 * MIB).capacity_bytes == 128 * MIB
    assert bench.driver.grow_volume(volume, size_bytes=MIB).capacity_bytes == 128 * MIB, "it was made smaller"
    assert info_of(bench, volume) is not None
    bench.driver.delete_volume(volume)
    bench.driver.delete_volume(volume)
    assert info_of(bench, volume) is None


def test_what_is_not_there_is_neither_grown_nor_attached(bench: Bench) -> None:
    spec, nothing = bench.defined(), uuid4()
    with pytest.raises(VolumeNotFoundError):
        bench.driver.grow_volume(nothing, size_bytes=GIB)
    with pytest.raises(VolumeNotFoundError):
        bench.driver.attach_disk(spec.uuid, DiskSpec(nothing))
    with pytest.raises(VolumeNotFoundError):
        bench.driver.grow_disk(spec.uuid, nothing, size_bytes=GIB)
    with pytest.raises(VolumeNotFoundError):
        bench.driver.define(replace(spec, disks=(DiskSpec(nothing),)))
    assert bench.driver.devices(spec.uuid).volumes == frozenset()


# --- a machine that is off ----------------------------------------------------------------------------------------


def test_disks_and_cards_of_a_machine_that_is_off_are_in_its_definition(bench: Bench, volume: UUID) -> None:
    spec = bench.defined()
    first = spec.nics[0].mac
    assert bench.driver.devices(spec.uuid).macs == {first}
    for _twice in range(2):
        bench.driver.attach_disk(spec.uuid, DiskSpec(volume, IoLimits(iops=100, bytes_per_s=MIB)))
        bench.driver.attach_nic(spec.uuid, card(bench))
    assert bench.driver.devices(spec.uuid).volumes == {volume}
    assert bench.driver.devices(spec.uuid).macs == {first, CARD}
    bench.driver.set_io_limits(spec.uuid, volume, IoLimits(iops=50))
    bench.driver.grow_disk(spec.uuid, volume, size_bytes=96 * MIB)
    bench.driver.grow_disk(spec.uuid, None, size_bytes=2 * GIB)
    grown = [info.capacity_bytes for info in bench.driver.list_volumes() if info.machine == spec.uuid and info.is_disk]
    assert (grown, capacity_of(bench, volume)) == ([2 * GIB], 96 * MIB)
    for _twice in range(2):
        assert bench.driver.detach_disk(spec.uuid, volume)
        assert bench.driver.detach_nic(spec.uuid, CARD)
    assert bench.driver.devices(spec.uuid).volumes == frozenset()
    assert bench.driver.devices(spec.uuid).macs == {first}


def test_a_definition_carries_volumes_and_cards(bench: Bench, volume: UUID) -> None:
    spec = bench.defined()
    whole = replace(
        spec,
        nics=(*spec.nics, card(bench)),
        disks=(DiskSpec(volume, IoLimits(iops=100), boot=2), DiskSpec(None, boot=1)),
    )
    bench.driver.define(whole)
    assert bench.driver.devices(spec.uuid).volumes == {volume}
    assert CARD in bench.driver.devices(spec.uuid).macs
    bench.driver.define(spec)
    assert bench.driver.devices(spec.uuid).volumes == frozenset()


def test_a_domain_that_is_not_ours_keeps_its_devices(bench: Bench, volume: UUID) -> None:
    foreign = bench.backstage.add_foreign()
    try:
        with pytest.raises(DomainNotFoundError):
            bench.driver.attach_disk(foreign, DiskSpec(volume))
        with pytest.raises(DomainNotFoundError):
            bench.driver.attach_nic(foreign, card(bench))
    finally:
        bench.backstage.remove_foreign(foreign)


# --- a machine that runs ------------------------------------------------------------------------------------------


def test_a_guest_that_is_not_up_keeps_its_disk_and_so_does_its_definition(bench: Bench, volume: UUID) -> None:
    """Nobody else may have the volume meanwhile: it is not removed, and detaching says that it is still there."""
    spec = bench.defined()
    bench.driver.attach_disk(spec.uuid, DiskSpec(volume))
    bench.backstage.keep_devices(spec.uuid)
    bench.driver.start(spec.uuid)
    bench.backstage.halt(spec.uuid)
    for _again in range(2):
        assert not bench.driver.detach_disk(spec.uuid, volume)
    assert bench.driver.devices(spec.uuid).volumes == {volume}
    with pytest.raises(InvalidOperationError):
        bench.driver.delete_volume(volume)
    with pytest.raises(InvalidOperationError):
        bench.driver.grow_volume(volume, size_bytes=GIB)
    bench.driver.force_off(spec.uuid)
    assert bench.driver.devices(spec.uuid).volumes == {volume}, "only half of it was detached"
    assert bench.driver.detach_disk(spec.uuid, volume)


def test_a_running_guest_sees_disks_and_cards_come_grow_and_go(bench: Bench, volume: UUID) -> None:
    """One guest for all of it: it takes seconds to boot."""
    spec = bench.booted()
    bench.driver.attach_disk(spec.uuid, DiskSpec(volume, IoLimits(iops=2000)))
    bench.driver.attach_disk(spec.uuid, DiskSpec(volume))
    bench.driver.attach_nic(spec.uuid, card(bench))
    assert bench.driver.devices(spec.uuid).volumes == {volume}
    assert bench.driver.devices(spec.uuid).macs == {spec.nics[0].mac, CARD}
    assert CARD not in bench.driver.card_addresses(spec.uuid)
    if bench.is_real:
        _marker_is_written_and_limits_hold(bench, spec, volume)
    bench.driver.grow_disk(spec.uuid, volume, size_bytes=96 * MIB)
    bench.driver.grow_disk(spec.uuid, volume, size_bytes=MIB)
    bench.driver.grow_disk(spec.uuid, None, size_bytes=2 * GIB)
    if bench.is_real:
        wait_until(lambda: sizes(bench, spec).get(serial(volume)) == 96 * MIB, GUEST_S)
        wait_until(lambda: 2 * GIB in sizes(bench, spec).values(), GUEST_S)
    wait_until(lambda: bench.driver.detach_nic(spec.uuid, CARD), GUEST_S)
    wait_until(lambda: bench.driver.detach_disk(spec.uuid, volume), GUEST_S)
    assert bench.driver.devices(spec.uuid).volumes == frozenset()
    assert bench.driver.devices(spec.uuid).macs == {spec.nics[0].mac}
    assert capacity_of(bench, volume) == 96 * MIB
    if bench.is_real:
        assert serial(volume) not in sizes(bench, spec)
        assert not shell(bench, spec, f"grep -il {CARD} /sys/class/net/*/address || true")
        # What was written stays: it comes back with the disk.
        bench.driver.attach_disk(spec.uuid, DiskSpec(volume))
        wait_until(lambda: serial(volume) in sizes(bench, spec), GUEST_S)
        assert shell(bench, spec, f"dd if={device(bench, spec, volume)} bs=9 count=1 2>/dev/null") == "casement!"
    else:
        bench.driver.attach_disk(spec.uuid, DiskSpec(volume))
    bench.driver.force_off(spec.uuid)
    assert bench.driver.devices(spec.uuid).volumes == {volume}, "the definition has what was attached while it ran"


def _marker_is_written_and_limits_hold(bench: Bench, spec: MachineSpec, volume: UUID) -> None:
    wait_until(lambda: sizes(bench, spec).get(serial(volume)) == 64 * MIB, GUEST_S)
    wait_until(lambda: bool(shell(bench, spec, f"grep -il {CARD} /sys/class/net/*/address || true")), GUEST_S)
    assert filters_of(CARD) == ["clean-traffic"]
    # The guest sets it up as any other, through its filter.
    name = shell(bench, spec, f"grep -il {CARD} /sys/class/net/*/address | cut -d/ -f5")
    shell(bench, spec, f"ip link set {name} up && udhcpc -n -q -t 60 -T 1 -i {name} -s /etc/udhcpc")
    wait_until(lambda: {CARD, spec.nics[0].mac} <= set(bench.driver.card_addresses(spec.uuid)), GUEST_S)
    disk = device(bench, spec, volume)
    shell(bench, spec, f"echo -n casement! | dd of={disk} conv=fsync 2>/dev/null")
    bench.driver.set_io_limits(spec.uuid, volume, IoLimits(bytes_per_s=MIB))
    limited = seconds_to_read(bench, spec, disk)
    # libvirt lets a burst of a tenth of a second pass; the rest of the 6 MiB comes at its rate.
    assert limited > 4
    bench.driver.set_io_limits(spec.uuid, volume, IoLimits())
    assert seconds_to_read(bench, spec, disk) < limited / 2


def seconds_to_read(bench: Bench, spec: MachineSpec, disk: str) -> float:
    began = time.monotonic()
    shell(bench, spec, f"dd if={disk} of=/dev/null bs=64k count=96 iflag=direct 2>/dev/null")
    return time.monotonic() - began


def serial(volume: UUID) -> str:
    return volume.hex[:20]


def shell(bench: Bench, spec: MachineSpec, command: str) -> str:
    done = bench.driver.run_in_guest(spec.uuid, ("/bin/sh", "-c", command), timeout_s=GUEST_S)
    assert done.exit_code == 0, (command, done.stderr)
    return done.stdout.decode().strip()


def sizes(bench: Bench, spec: MachineSpec) -> dict[str, int]:
    """The guest's disks by serial number (its own name where there is none), in bytes."""
    lines = shell(
        bench,
        spec,
        'for d in /sys/block/vd*; do s=$(cat $d/serial); echo "${s:-${d##*/}} $(cat $d/size)"; done',
    ).splitlines()
    return {name: int(sectors) * 512 for name, sectors in (line.split() for line in lines)}


def device(bench: Bench, spec: MachineSpec, volume: UUID) -> str:
    return "/dev/" + shell(bench, spec, f"grep -l {serial(volume)} /sys/block/vd*/serial | cut -d/ -f4")


def filters_of(mac: str) -> list[str]:
    conn = libvirt.open("qemu:///system")
    try:
        bindings = [ET.fromstring(binding.XMLDesc(0)) for binding in conn.listAllNWFilterBindings()]  # noqa: S314 - libvirt made it.
    finally:
        conn.close()
    ours = [b for b in bindings if any(found.get("address") == mac for found in b.iterfind("mac"))]
    return [str(found.get("filter")) for b in ours for found in b.iterfind("filterref")]
