"""Discs and rescue systems of the hypervisor in memory.

host.guest(uuid).keeps_disc = True        # it keeps its drive shut
host.rescues[uuid]                        # the image of a machine's rescue system
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from workers.hypervisor.errors import InvalidOperationError, VolumeNotFoundError
from workers.hypervisor.types import MachineSpec, SeedSpec, VolumeInfo

if TYPE_CHECKING:
    # For annotations only: the fake imports this module.
    from workers.hypervisor.fake import FakeHost

EMPTY_DISK_BYTES = RESCUE_BYTES = 200 * 1024


class FakeDiscs:
    """This part of HypervisorDriver, on a FakeHost."""

    host: FakeHost

    def create_empty_disk(self, machine: UUID, *, size_bytes: int) -> VolumeInfo:
        with self.host.operation("create_empty_disk"):
            disks = self.host.disks
            if machine not in disks:
                self.host.take_room(EMPTY_DISK_BYTES)
                disks[machine] = VolumeInfo(f"machines/{machine}/disk.qcow2", machine, size_bytes, EMPTY_DISK_BYTES)
            return disks[machine]

    def put_iso(self, iso: UUID, source: Path, *, progress: Callable[[int], None]) -> VolumeInfo:
        with self.host.operation("put_iso"):
            if iso not in self.host.isos:
                if not source.is_file():
                    raise VolumeNotFoundError("The image's file is not there.")
                size = source.stat().st_size
                self.host.take_room(size)
                progress(100)
                self.host.isos[iso] = VolumeInfo(f"isos/{iso}.iso", None, size, size)
            return self.host.isos[iso]

    def has_iso(self, iso: UUID) -> bool:
        with self.host.operation("has_iso"):
            return iso in self.host.isos

    def delete_iso(self, iso: UUID) -> None:
        with self.host.operation("delete_iso"):
            specs = [spec for domain in self.host.domains.values() for spec in (domain.spec, domain.live) if spec]
            if any(iso in spec.discs for spec in specs):
                raise InvalidOperationError("The disc lies in a machine's drive.")
            gone = self.host.isos.pop(iso, None)
            self.host.used_bytes -= gone.allocation_bytes if gone else 0

    def insert_disc(self, machine: UUID, slot: int, iso: UUID | None, *, force: bool = False) -> bool:
        with self.host.operation("insert_disc"):
            domain = self.host.owned(machine)
            if iso is not None and iso not in self.host.isos:
                raise VolumeNotFoundError("The disc is not on the host.")
            if domain.live is not None:
                if slot >= len(domain.live.discs):
                    raise InvalidOperationError("What runs was started without this disc drive.")
                shut = domain.guest.keeps_disc and domain.live.discs[slot] is not None
                if shut and domain.live.discs[slot] != iso and not force:
                    return False
                domain.live = _with_disc(domain.live, slot, iso)
            domain.spec = _with_disc(domain.spec, slot, iso)
            return True

    def prepare_rescue(self, machine: UUID, *, image: UUID, seed: SeedSpec) -> None:
        with self.host.operation("prepare_rescue"):
            if machine not in self.host.rescues:
                if image not in self.host.images:
                    raise VolumeNotFoundError("The volume is not on the host.")
                self.host.take_room(RESCUE_BYTES)
                self.host.rescues[machine] = image

    def end_rescue(self, machine: UUID) -> None:
        with self.host.operation("end_rescue"):
            self._remove_rescue(machine)

    # --- for the other parts --------------------------------------------------------------------------------------

    def _remove_rescue(self, machine: UUID) -> None:
        if self.host.rescues.pop(machine, None):
            self.host.used_bytes -= RESCUE_BYTES

    def _rescue_files(self) -> Iterator[VolumeInfo]:
        for machine in self.host.rescues:
            yield VolumeInfo(f"machines/{machine}/rescue.qcow2", machine, RESCUE_BYTES, RESCUE_BYTES)

    def _check_discs(self, spec: MachineSpec) -> None:
        if any(iso not in self.host.isos for iso in spec.discs if iso is not None):
            raise VolumeNotFoundError("A disc of the machine is not on the host.")
        if spec.rescue and spec.uuid not in self.host.rescues:
            raise VolumeNotFoundError("The machine's rescue system is not on the host.")


def _with_disc(spec: MachineSpec, slot: int, iso: UUID | None) -> MachineSpec:
    discs = [*spec.discs, *[None] * (slot + 1 - len(spec.discs))]
    discs[slot] = iso
    return replace(spec, discs=tuple(discs))
