"""Volumes in a folder: each a qcow2 file that stands alone, named by its UUID.

The first kind of pool. Another one (LVM, NFS, Ceph) is another class with these methods, and another source element in
the disk's XML; neither the contract nor anything above it knows where a volume lies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from workers.hypervisor.errors import HypervisorError, StorageFullError, VolumeNotFoundError
from workers.hypervisor.kvm.storage import (
    ROOM_FOR_A_DISK,
    regular_files,
    storage_errors,
    sync_folder,
    volume_info,
)
from workers.hypervisor.types import VolumeInfo
from workers.imaging import qemu_img
from workers.imaging.errors import CommandFailed


class VolumeFolder:
    """The folder itself is made by `Storage.prepare`. Nothing here asks whether a machine uses a volume."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, volume: UUID) -> Path:
        return self.folder / f"{UUID(str(volume))}.qcow2"

    def create(self, volume: UUID, size_bytes: int, *, free_bytes: int) -> VolumeInfo:
        """Made under another name and renamed, so that it is there whole or not at all."""
        path = self.path(volume)
        with storage_errors("create the volume"):
            if not path.exists():
                if free_bytes < ROOM_FOR_A_DISK:
                    raise StorageFullError("The host has not enough free storage for a new volume.")
                self._create(path, size_bytes)
            return self.info(volume)

    def _create(self, path: Path, size_bytes: int) -> None:
        part = path.with_name(f".{path.name}.part")
        part.unlink(missing_ok=True)
        try:
            with tool_errors("create the volume"):
                qemu_img.create_empty(part, size_bytes=size_bytes)
            part.chmod(0o600)
            part.rename(path)
        finally:
            part.unlink(missing_ok=True)
        sync_folder(self.folder)

    def delete(self, volume: UUID) -> None:
        with storage_errors("remove the volume"):
            self.path(volume).unlink(missing_ok=True)

    def info(self, volume: UUID) -> VolumeInfo:
        """`VolumeNotFoundError` if there is none."""
        return volume_info(self.path(volume), f"volumes/{volume}.qcow2", None)

    def list(self) -> Iterator[VolumeInfo]:
        for path in regular_files(self.folder):
            # A file may go while the list is made; one that is no volume is somebody else's, or broken: then its row
            # is told to be without it.
            with contextlib.suppress(FileNotFoundError, HypervisorError, ValueError):
                yield self.info(UUID(path.stem))


def grow_file(path: Path, size_bytes: int) -> None:
    """Of a disk that no machine has open: qemu-img is refused its lock otherwise."""
    if not path.is_file():
        raise VolumeNotFoundError("The volume is not on the host.")
    with storage_errors("grow the disk"), tool_errors("grow the disk"):
        if volume_info(path, path.name, None).capacity_bytes < size_bytes:
            qemu_img.grow(path, size_bytes=size_bytes)


@contextlib.contextmanager
def tool_errors(doing: str) -> Iterator[None]:
    """qemu-img's errors become ours; its words stay in the cause."""
    try:
        yield
    except CommandFailed as error:
        if "No space left" in error.log_tail:
            raise StorageFullError(f"The host's storage is full: it could not {doing}.") from error
        raise HypervisorError(f"The host could not {doing}.", code="storage-failed") from error
