"""Copies of machines' disks: other machines' disks, bases of linked clones, images. The contract is `../driver.py`.

What a disk reads from is known from the pool, never asked of its header: a guest that broke out may have written that.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from workers.hypervisor.errors import HypervisorError, InvalidOperationError, VolumeNotFoundError
from workers.hypervisor.kvm.qcow2 import read_header
from workers.hypervisor.kvm.storage import Storage, copy_file, storage_errors, sync_folder
from workers.hypervisor.kvm.volumes import tool_errors
from workers.hypervisor.types import VolumeInfo
from workers.imaging import qemu_img

Progress = Callable[[int], None]


def copy_disk(
    storage: Storage, machine: UUID, *, source: UUID, snapshot: UUID | None, base: UUID | None, progress: Progress
) -> VolumeInfo:
    if base is not None and base != storage.base_id(source):
        raise InvalidOperationError("The disk is not based on this image, so its copy cannot be.")
    copying = _copying(storage, source, snapshot, keep_base=base is not None, progress=progress)
    return storage.fill_disk(machine, base, copying)


def make_base(
    storage: Storage, base: UUID, *, source: UUID, snapshot: UUID | None, flat: bool, progress: Progress
) -> VolumeInfo:
    parent = None if flat else storage.base_id(source)
    copying = _copying(storage, source, snapshot, keep_base=parent is not None, progress=progress)
    return storage.make_base(base, parent, copying)


def _copying(
    storage: Storage, source: UUID, snapshot: UUID | None, *, keep_base: bool, progress: Progress
) -> Callable[[Path], None]:
    """What writes the copy. Looked at when there is something to write: of a copy that is there the source may go."""

    def write(part: Path) -> None:
        disk, bases = storage.disk(source), storage.bases_of(source)
        if read_header(disk).has_data_file:
            raise HypervisorError("The disk keeps its data in another file.", code="invalid-image")
        read = [disk] if keep_base else [disk, *bases]
        storage.refuse_without_room(sum(_allocated(path) for path in read), "a copy of the disk")
        with tool_errors("copy the disk"):
            qemu_img.copy(
                disk,
                part,
                bases=bases,
                snapshot=None if snapshot is None else str(UUID(str(snapshot))),
                keep_base=keep_base,
                progress=each_once(progress),
            )
        progress(100)

    return write


def each_once(progress: Progress) -> Progress:
    """Percents below a hundred, each once: qemu-img repeats itself."""
    shown = -1

    def report(percent: int) -> None:
        nonlocal shown
        if shown < percent < 100:
            shown = percent
            progress(percent)

    return report


def _allocated(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError as error:
        raise VolumeNotFoundError("The volume is not on the host.") from error


def get_image(storage: Storage, version: UUID, destination: Path, progress: Progress) -> None:
    """Byte for byte, under a hidden name until it is whole."""
    part = destination.with_name(f".{destination.name}.partial")
    with storage_errors("hand the image out"):
        if not storage.has_image(version):
            raise VolumeNotFoundError("The volume is not on the host.")
        if not read_header(storage.image(version)).stands_alone:
            raise InvalidOperationError("The image is a part only: it reads from another one.")
        with suppress(FileNotFoundError):
            part.unlink()
        try:
            with storage.image(version).open("rb") as source, part.open("xb") as target:
                copy_file(source, target, progress)
                os.fsync(target.fileno())
            part.rename(destination)
        finally:
            part.unlink(missing_ok=True)
        sync_folder(destination.parent)
