"""Volumes, disks and network cards of the hypervisor in memory.

host.guest(uuid).keeps_devices = True     # it does not let go of what is to be detached
host.limits[uuid, volume]                 # what a disk of a running machine is held to
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

from workers.hypervisor.errors import InvalidOperationError, VolumeNotFoundError
from workers.hypervisor.types import DiskSpec, EventKind, IoLimits, MachineDevices, MachineSpec, NicSpec, VolumeInfo

if TYPE_CHECKING:
    from workers.hypervisor.fake import FakeDomain, FakeHost

VOLUME_BYTES = 200 * 1024
# As many names as virtio disks get here: vdc to vdz.
MOST_VOLUMES = 24


class FakeDevices:
    """This part of HypervisorDriver, on a FakeHost."""

    host: FakeHost

    def create_volume(self, volume: UUID, *, size_bytes: int) -> VolumeInfo:
        with self.host.operation("create_volume"):
            volumes = self.host.volumes
            if volume not in volumes:
                self.host.take_room(VOLUME_BYTES)
                volumes[volume] = VolumeInfo(f"volumes/{volume}.qcow2", None, size_bytes, VOLUME_BYTES)
            return volumes[volume]

    def delete_volume(self, volume: UUID) -> None:
        with self.host.operation("delete_volume"):
            self._refuse_used(volume)
            if self.host.volumes.pop(volume, None):
                self.host.used_bytes -= VOLUME_BYTES

    def grow_volume(self, volume: UUID, *, size_bytes: int) -> VolumeInfo:
        with self.host.operation("grow_volume"):
            self._refuse_used(volume)
            return self._grow(volume, size_bytes)

    def _grow(self, volume: UUID, size_bytes: int) -> VolumeInfo:
        info = self._existing(volume)
        self.host.volumes[volume] = replace(info, capacity_bytes=max(info.capacity_bytes, size_bytes))
        return self.host.volumes[volume]

    def _existing(self, volume: UUID) -> VolumeInfo:
        if volume not in self.host.volumes:
            raise VolumeNotFoundError("The volume is not on the host.")
        return self.host.volumes[volume]

    def _refuse_used(self, volume: UUID) -> None:
        running = (domain.live for domain in self.host.domains.values() if domain.live)
        if any(_has_volume(spec, volume) for spec in running):
            raise InvalidOperationError("The volume is in use by a machine that runs.")

    # --- disks and cards of a machine -----------------------------------------------------------------------------

    def devices(self, machine: UUID) -> MachineDevices:
        with self.host.operation("devices"):
            domain = self.host.owned(machine)
            spec = domain.live or domain.spec
            volumes = frozenset(disk.volume for disk in spec.disks if disk.volume is not None)
            return MachineDevices(volumes, frozenset(nic.mac for nic in spec.nics), spec.discs, spec.rescue)

    def attach_disk(self, machine: UUID, disk: DiskSpec) -> None:
        with self.host.operation("attach_disk"):
            domain = self.host.owned(machine)
            assert disk.volume is not None  # noqa: S101 - the root disk is there already
            self._existing(disk.volume)
            if len(domain.spec.disks) >= MOST_VOLUMES:
                raise InvalidOperationError("The machine has as many disks as there are places for.")
            domain.spec = _with_disk(domain.spec, disk)
            domain.live = domain.live and _with_disk(domain.live, disk)

    def detach_disk(self, machine: UUID, volume: UUID) -> bool:
        with self.host.operation("detach_disk"):
            domain = self.host.owned(machine)
            if domain.live and _has_volume(domain.live, volume) and not _lets_go(domain):
                return False
            domain.spec = _without_disk(domain.spec, volume)
            guest_lets_go(self.host, machine, volume=volume)
            return True

    def grow_disk(self, machine: UUID, volume: UUID | None, *, size_bytes: int) -> None:
        with self.host.operation("grow_disk"):
            self.host.owned(machine)
            if volume is not None:
                self._grow(volume, size_bytes)
            elif machine in self.host.disks:
                disk = self.host.disks[machine]
                self.host.disks[machine] = replace(disk, capacity_bytes=max(disk.capacity_bytes, size_bytes))
            else:
                raise VolumeNotFoundError("The volume is not on the host.")

    def set_io_limits(self, machine: UUID, volume: UUID | None, limits: IoLimits) -> None:
        with self.host.operation("set_io_limits"):
            self.host.owned(machine)
            self.host.limits[machine, volume] = limits

    def attach_nic(self, machine: UUID, nic: NicSpec) -> None:
        with self.host.operation("attach_nic"):
            domain = self.host.owned(machine)
            domain.spec = _with_nic(domain.spec, nic)
            domain.live = domain.live and _with_nic(domain.live, nic)

    def detach_nic(self, machine: UUID, mac: str) -> bool:
        with self.host.operation("detach_nic"):
            domain = self.host.owned(machine)
            if domain.live and any(nic.mac == mac for nic in domain.live.nics) and not _lets_go(domain):
                return False
            domain.spec = _without_nic(domain.spec, mac)
            guest_lets_go(self.host, machine, mac=mac)
            return True

    def card_addresses(self, machine: UUID) -> dict[str, tuple[str, ...]]:
        with self.host.operation("card_addresses"):
            domain = self.host.owned(machine)
            if domain.live is None or not domain.live.nics or not domain.guest.addresses:
                return {}
            return {domain.live.nics[0].mac: domain.guest.addresses, **domain.guest.further_addresses}


def guest_lets_go(host: FakeHost, machine: UUID, *, volume: UUID | None = None, mac: str = "") -> None:
    """The running guest, by itself, perhaps long after it was asked; the definition still has it."""
    domain = host.domains[machine]
    before = domain.live
    if volume is not None:
        domain.live = domain.live and _without_disk(domain.live, volume)
    if mac:
        domain.live = domain.live and _without_nic(domain.live, mac)
    if domain.live != before:
        host.emit(EventKind.DEVICE, machine)


def _lets_go(domain: FakeDomain) -> bool:
    return not domain.guest.keeps_devices


def _has_volume(spec: MachineSpec, volume: UUID) -> bool:
    return any(disk.volume == volume for disk in spec.disks)


def _with_disk(spec: MachineSpec, disk: DiskSpec) -> MachineSpec:
    known = disk.volume is not None and _has_volume(spec, disk.volume)
    return spec if known else replace(spec, disks=(*spec.disks, disk))


def _without_disk(spec: MachineSpec, volume: UUID) -> MachineSpec:
    return replace(spec, disks=tuple(disk for disk in spec.disks if disk.volume != volume))


def _with_nic(spec: MachineSpec, nic: NicSpec) -> MachineSpec:
    known = any(other.mac == nic.mac for other in spec.nics)
    return spec if known else replace(spec, nics=(*spec.nics, nic))


def _without_nic(spec: MachineSpec, mac: str) -> MachineSpec:
    return replace(spec, nics=tuple(nic for nic in spec.nics if nic.mac != mac))
