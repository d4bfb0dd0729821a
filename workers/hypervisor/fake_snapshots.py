"""Snapshots of the hypervisor in memory.

host.snapshots[machine][snapshot]         # what was kept of the machine
host.guest(uuid).freezes = False          # its agent does not make its file systems still
"""

from __future__ import annotations

from builtins import list as list_of
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import UUID

from workers.hypervisor.errors import InvalidOperationError, VolumeNotFoundError
from workers.hypervisor.types import MachineSpec, PowerState, SnapshotInfo, VolumeInfo

if TYPE_CHECKING:
    # For annotations only: the fake imports this module.
    from workers.hypervisor.fake import FakeDomain, FakeHost

NOTE_BYTES = 4 * 1024
MIB = 1024 * 1024


@dataclass(frozen=True)
class FakeSnapshot:
    """`sizes` are of the disks by volume, None the root disk; `live` is what ran, where its memory was kept."""

    info: SnapshotInfo
    sizes: dict[UUID | None, int]
    live: MachineSpec | None

    @property
    def takes_bytes(self) -> int:
        return NOTE_BYTES + self.info.memory_bytes


class FakeSnapshots:
    """This part of HypervisorDriver, on a FakeHost."""

    host: FakeHost

    def take_snapshot(self, machine: UUID, snapshot: UUID, *, memory: bool) -> SnapshotInfo:
        with self.host.operation("take_snapshot"):
            domain = self.host.owned(machine)
            kept = self.host.snapshots.setdefault(machine, {})
            if snapshot not in kept:
                taken = self._taken(domain, machine, snapshot, memory=memory)
                self.host.take_room(taken.takes_bytes)
                kept[snapshot] = taken
            return kept[snapshot].info

    def _taken(self, domain: FakeDomain, machine: UUID, snapshot: UUID, *, memory: bool) -> FakeSnapshot:
        if domain.saved is not None:
            raise InvalidOperationError("The machine is hibernated: its saved memory belongs to its disks.")
        if memory and domain.power_state is not PowerState.RUNNING:
            raise InvalidOperationError("The machine does not run; its memory cannot be kept just now.")
        spec = domain.live or domain.spec
        volumes = frozenset(disk.volume for disk in spec.disks if disk.volume is not None)
        sizes: dict[UUID | None, int] = {None: self.host.disks[machine].capacity_bytes}
        sizes |= {volume: self.host.volumes[volume].capacity_bytes for volume in volumes}
        answers = domain.power_state is PowerState.RUNNING and domain.guest.has_agent and domain.guest.freezes
        quiesced = not memory and (domain.live is None or answers)
        info = SnapshotInfo(snapshot, quiesced, spec.memory_mib * MIB if memory else 0, volumes)
        return FakeSnapshot(info, sizes, domain.live if memory else None)

    def restore_snapshot(self, machine: UUID, snapshot: UUID) -> None:
        with self.host.operation("restore_snapshot"):
            domain = self.host.owned(machine)
            kept = self.host.snapshots.get(machine, {}).get(snapshot)
            if kept is None:
                raise VolumeNotFoundError("The snapshot is not on the host.")
            if domain.runs:
                self.host.set_power(machine, PowerState.SHUT_OFF)
            domain.saved = None
            self._refuse_unless_there(machine, kept.info.volumes)
            self.host.disks[machine] = _with_size(self.host.disks[machine], kept.sizes[None])
            for volume in kept.info.volumes:
                self.host.volumes[volume] = _with_size(self.host.volumes[volume], kept.sizes[volume])
            if kept.live is not None:
                discs = tuple(iso if iso in self.host.isos else None for iso in kept.live.discs)
                domain.saved = replace(kept.live, discs=discs)
                self.host.set_power(machine, PowerState.RUNNING)

    def _refuse_unless_there(self, machine: UUID, volumes: Iterable[UUID]) -> None:
        for volume in volumes:
            if volume not in self.host.volumes:
                raise VolumeNotFoundError("A disk of the snapshot is not on the host any more.")
            others = (other.live for uuid, other in self.host.domains.items() if uuid != machine and other.live)
            if any(disk.volume == volume for live in others for disk in live.disks):
                raise InvalidOperationError("The volume is in use by a machine that runs.")

    def delete_snapshot(self, machine: UUID, snapshot: UUID) -> None:
        with self.host.operation("delete_snapshot"):
            gone = self.host.snapshots.get(machine, {}).pop(snapshot, None)
            self.host.used_bytes -= gone.takes_bytes if gone else 0

    def snapshots(self, machine: UUID) -> list_of[UUID]:
        with self.host.operation("snapshots"):
            return sorted(self.host.snapshots.get(machine, {}))


def forget_snapshots(host: FakeHost, machine: UUID) -> None:
    """They go with the machine's files."""
    host.used_bytes -= sum(snapshot.takes_bytes for snapshot in host.snapshots.pop(machine, {}).values())


def snapshot_files(host: FakeHost) -> list_of[VolumeInfo]:
    """What there is of snapshots in the machines' folders."""
    return [
        VolumeInfo(f"machines/{machine}/{snapshot}.json", machine, NOTE_BYTES, NOTE_BYTES)
        for machine, kept in host.snapshots.items()
        for snapshot in kept
    ]


def _with_size(disk: VolumeInfo, size: int) -> VolumeInfo:
    return replace(disk, capacity_bytes=size)
