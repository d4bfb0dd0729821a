"""Copies of disks on the hypervisor in memory.

host.unknown_systems.add(machine)     # what is copied from it is no system that is known
host.without_identity[disk]           # there if its identity was removed; true if what people left went, too
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from workers.hypervisor.errors import HypervisorError, InvalidOperationError, VolumeNotFoundError
from workers.hypervisor.types import VolumeInfo

if TYPE_CHECKING:
    # For annotations only: the fake imports this module.
    from workers.hypervisor.fake import FakeHost


class FakeCopies:
    """The part of FakeDriver that copies disks."""

    host: FakeHost

    if TYPE_CHECKING:

        def delete_snapshot(self, machine: UUID, snapshot: UUID) -> None: ...

    def renew_disk(self, machine: UUID, *, image: UUID, size_bytes: int) -> VolumeInfo:
        with self.host.operation("renew_disk"):
            host = self.host
            self._refuse_running(machine)
            if image not in host.images:
                raise VolumeNotFoundError("The volume is not on the host.")
            for snapshot in list(host.snapshots.get(machine, {})):
                self.delete_snapshot(machine, snapshot)
            old = host.disks.get(machine)
            size = max(size_bytes, host.images[image].capacity_bytes)
            disk = VolumeInfo(f"machines/{machine}/disk.qcow2", machine, size, _DISK_BYTES, image)
            host.take_room(_DISK_BYTES - (old.allocation_bytes if old else 0))
            host.disks[machine], host.bases[machine] = disk, image
            host.without_identity.pop(machine, None)
            return disk

    def copy_disk(
        self, machine: UUID, *, source: UUID, snapshot: UUID | None, base: UUID | None, progress: Callable[[int], None]
    ) -> VolumeInfo:
        with self.host.operation("copy_disk"):
            host = self.host
            self._refuse_changing(source, snapshot)
            if machine not in host.disks:
                original = self._disk(source)
                if base is not None and host.bases.get(source) != base:
                    raise InvalidOperationError("The disk is not based on this image, so its copy cannot be.")
                host.take_room(original.allocation_bytes)
                progress(100)
                host.disks[machine] = replace(
                    original, name=f"machines/{machine}/disk.qcow2", machine=machine, base=base
                )
                if base is not None:
                    host.bases[machine] = base
                self._know(machine, source)
            return host.disks[machine]

    def make_base(
        self, base: UUID, *, source: UUID, snapshot: UUID | None, flat: bool, progress: Callable[[int], None]
    ) -> VolumeInfo:
        with self.host.operation("make_base"):
            host = self.host
            self._refuse_changing(source, snapshot)
            if base not in host.images:
                original = self._disk(source)
                host.take_room(original.allocation_bytes)
                progress(100)
                parent = None if flat else host.bases.get(source)
                host.images[base] = replace(original, name=f"images/{base}.qcow2", machine=None, base=parent)
                self._know(base, source)
            return host.images[base]

    def remove_identity(self, disk: UUID, *, personal: bool) -> None:
        with self.host.operation("remove_identity"):
            host = self.host
            self._refuse_running(disk)
            if disk not in host.images and disk not in host.disks:
                raise VolumeNotFoundError("The volume is not on the host.")
            self.refuse_if_based_on(disk)
            if disk in host.unknown_systems:
                raise HypervisorError("No system is known on this disk.", code="unknown-system")
            host.without_identity[disk] = personal or host.without_identity.get(disk, False)

    def copy_firmware(self, machine: UUID, *, source: UUID) -> None:
        with self.host.operation("copy_firmware"):
            self.host.owned(source)
            self.host.owned(machine)

    def get_image(self, version: UUID, destination: Path, *, progress: Callable[[int], None]) -> None:
        with self.host.operation("get_image"):
            image = self.host.images.get(version)
            if image is None:
                raise VolumeNotFoundError("The volume is not on the host.")
            if image.base is not None:
                raise InvalidOperationError("The image is a part only: it reads from another one.")
            destination.write_bytes(_empty_qcow2(image.capacity_bytes))
            progress(100)

    def refuse_if_based_on(self, image: UUID) -> None:
        bases = (info.base for info in self.host.images.values())
        parents = (parent.spec.image for parent in self.host.parents.values())
        in_use = {*bases, *parents, *self.host.bases.values(), *self.host.rescues.values()}
        if image in self.host.images and image in in_use:
            raise InvalidOperationError("The image is in use: a machine's disk is based on it.")

    def _refuse_changing(self, source: UUID, snapshot: UUID | None) -> None:
        if snapshot is None:
            self._refuse_running(source)

    def _refuse_running(self, machine: UUID) -> None:
        domain = self.host.domains.get(machine)
        if domain is not None and domain.runs:
            raise InvalidOperationError("The machine runs; its disk is in use.")

    def _disk(self, machine: UUID) -> VolumeInfo:
        if machine not in self.host.disks:
            raise VolumeNotFoundError("The volume is not on the host.")
        return self.host.disks[machine]

    def _know(self, copy: UUID, source: UUID) -> None:
        if source in self.host.unknown_systems:
            self.host.unknown_systems.add(copy)


_DISK_BYTES = 200 * 1024


def _empty_qcow2(size: int) -> bytes:
    """Header, and room for the tables that it tells of, all of them empty."""
    cluster = 1 << 16
    tables = -(-size // (cluster * cluster // 8))
    head = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 0, 0, 16, size, 0, tables, 3 * cluster, cluster, 1, 0, 0)
    head += struct.pack(">QQQII", 0, 0, 0, 4, 104)
    return head.ljust(3 * cluster + tables * 8, b"\0")
