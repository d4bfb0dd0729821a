"""Discs: ISO files in a folder of the pool, and the drives of machines that they lie in.

An ISO is whatever bytes somebody uploaded. It is always given to QEMU as raw and read-only, so that a header of another
format in it means nothing; and it keeps its owner, so that no QEMU may write to what others start from.
"""

from __future__ import annotations

import contextlib
import os
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import libvirt

from workers.hypervisor.errors import InvalidOperationError, StorageFullError, VolumeNotFoundError
from workers.hypervisor.kvm.connection import VirConnect, VirDomain
from workers.hypervisor.kvm.domain_xml import HostTraits, drive_device, drive_xml, to_text
from workers.hypervisor.kvm.storage import (
    copy_file,
    locked_part,
    open_regular,
    regular_files,
    storage_errors,
    sync_folder,
    volume_info,
)
from workers.hypervisor.types import VolumeInfo

# libvirt waits some seconds for the guest to open the drive.
DISC_LIMIT_S = 60.0
_LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE
_CONFIG = libvirt.VIR_DOMAIN_AFFECT_CONFIG
_FORCE = libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE
_ISO_MODE = 0o440


class IsoFolder:
    """The folder itself is made by `Storage.prepare`. `qemu_gid` is the group of QEMU's processes, or None."""

    def __init__(self, folder: Path, *, qemu_gid: int | None) -> None:
        self.folder = folder
        self._qemu_gid = qemu_gid

    def path(self, iso: UUID) -> Path:
        return self.folder / f"{UUID(str(iso))}.iso"

    def has(self, iso: UUID) -> bool:
        return self.path(iso).is_file()

    def put(self, iso: UUID, source: Path, progress: Callable[[int], None], *, free_bytes: int) -> VolumeInfo:
        """Copied under a temporary name and renamed. A second worker with this ISO waits and finds it."""
        with storage_errors("take the disc"):
            if not self.has(iso):
                with (
                    open_regular(source) as original,
                    locked_part(self.folder / f".{self.path(iso).stem}.part") as part,
                ):
                    _refuse_if_too_big(original, free_bytes)
                    self._fill(iso, part, original, progress)
            return self.info(iso)

    def _fill(
        self, iso: UUID, locked: tuple[Path, BinaryIO], original: BinaryIO, progress: Callable[[int], None]
    ) -> None:
        part, target = locked
        if self.has(iso):
            part.unlink(missing_ok=True)
            return
        try:
            copy_file(original, target, progress)
            if self._qemu_gid is not None:
                os.fchown(target.fileno(), -1, self._qemu_gid)
            os.fchmod(target.fileno(), _ISO_MODE)
            os.fsync(target.fileno())
            part.rename(self.path(iso))
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync_folder(self.folder)

    def delete(self, iso: UUID) -> None:
        with storage_errors("remove the disc"):
            self.path(iso).unlink(missing_ok=True)

    def info(self, iso: UUID) -> VolumeInfo:
        return volume_info(self.path(iso), f"isos/{iso}.iso", None)

    def list(self) -> Iterator[VolumeInfo]:
        for path in regular_files(self.folder):
            with contextlib.suppress(FileNotFoundError, ValueError):
                if path.suffix == ".iso":
                    yield self.info(UUID(path.stem))


def _refuse_if_too_big(original: BinaryIO, free_bytes: int) -> None:
    if os.fstat(original.fileno()).st_size > free_bytes:
        raise StorageFullError("The host has not enough free storage for this disc.")


# --- the drives of a domain -------------------------------------------------------------------------------------------


def discs_in(root: ET.Element, folder: Path) -> tuple[UUID | None, ...]:
    """What lies in each drive of a domain's XML, the first drive first."""
    drives = sorted((_target(drive), drive) for drive in root.iterfind("devices/disk[@device='cdrom']"))
    return tuple(_iso_of(drive, folder) for _name, drive in drives)


def _iso_of(drive: ET.Element, folder: Path) -> UUID | None:
    source = Path(_source(drive) or "/")
    try:
        return UUID(source.stem) if source.parent == folder else None
    except ValueError:
        return None


def insert_disc(domain: VirDomain, slot: int, disc: Path | None, host: HostTraits, *, force: bool) -> bool:
    """What runs first: a guest that keeps its drive shut has the disc after its next start as well."""
    if disc is not None and not disc.is_file():
        raise VolumeNotFoundError("The disc is not on the host.")
    text = to_text(drive_xml(slot, disc, host))
    if domain.isActive() and not _changed_live(domain, slot, disc, text, force=force):
        return False
    drive = _drive(_definition(domain), slot)
    if drive is None:  # It was defined before machines had drives.
        domain.attachDeviceFlags(text, _CONFIG)
    elif _source(drive) != _text_of(disc):
        domain.updateDeviceFlags(text, _CONFIG)
    return True


def _changed_live(domain: VirDomain, slot: int, disc: Path | None, text: str, *, force: bool) -> bool:
    drive = _drive(_now(domain), slot)
    if drive is None:
        raise InvalidOperationError("What runs was started without this disc drive: shut it down and start it first.")
    if _source(drive) == _text_of(disc):
        return True
    try:
        domain.updateDeviceFlags(text, _LIVE | (_FORCE if force else 0))
    except libvirt.libvirtError as error:
        if not domain.isActive():
            return True  # It went off just now: its definition is all that there is.
        if _source(_drive(_now(domain), slot)) == _text_of(disc):
            return True
        if force or not _says_shut(error):
            raise
        return False
    return True


def _says_shut(error: libvirt.libvirtError) -> bool:
    """Neither QEMU nor libvirt has a code for it."""
    message = (error.get_error_message() or "").lower()
    return any(word in message for word in ("locked", "tray"))


def refuse_in_drive(conn: VirConnect, disc: Path) -> None:
    """`InvalidOperationError` while the disc lies in a drive of a domain, ours or not, that runs or is defined."""
    for domain in conn.listAllDomains(0):
        with _gone_meanwhile():
            places = [_now(domain), *([_definition(domain)] if domain.isPersistent() else [])]
            if any(_source(drive) == str(disc) for root in places for drive in root.iterfind("devices/disk")):
                raise InvalidOperationError("The disc lies in a machine's drive.")


def _drive(root: ET.Element, slot: int) -> ET.Element | None:
    device = drive_device(slot)
    drives = root.iterfind("devices/disk[@device='cdrom']")
    return next((drive for drive in drives if _target(drive) == device), None)


def _target(drive: ET.Element) -> str:
    target = drive.find("target")
    return "" if target is None else str(target.get("dev"))


def _source(drive: ET.Element | None) -> str | None:
    source = None if drive is None else drive.find("source")
    return None if source is None else source.get("file")


def _text_of(disc: Path | None) -> str | None:
    return None if disc is None else str(disc)


def _now(domain: VirDomain) -> ET.Element:
    return ET.fromstring(domain.XMLDesc(0))  # noqa: S314 - libvirt made it.


def _definition(domain: VirDomain) -> ET.Element:
    return ET.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))  # noqa: S314 - libvirt made it.


@contextlib.contextmanager
def _gone_meanwhile() -> Iterator[None]:
    """A domain may end between being listed and being asked."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise
