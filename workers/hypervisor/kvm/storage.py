"""Casement's pool on a host: base images, and a folder per machine.

    images/<version>.qcow2        read-only base, root's, readable by QEMU's group
    images/<base>.base            of a base that is itself a delta: the UUID of what it is based on
    machines/<machine>/disk.qcow2 overlay of a base
    machines/<machine>/base       the base's UUID, which is believed instead of the overlay's own header
    machines/<machine>/seed.iso   NoCloud seed
    machines/<machine>/rescue*    disk, variables, base and seed of a rescue system
    isos/<iso>.iso                a disc: see `isos.py`
    machines/<machine>/serial.log what the guest printed on its serial port
    machines/<machine>/<snapshot>.* what there is of a snapshot besides the disks: see `snapshots.py`
    serial/<machine>              the socket of its serial port, apart from the disks, for whoever may reach that alone
    volumes/<volume>.qcow2        a volume of its own: see `volumes.py`
    parents/<parent>/             what machines are forked from: see `parent_files.py`; its disk.qcow2 is a base as well

Every name is made from a UUID, symbolic links are not followed, and a file appears under its final name only when it is
whole. QEMU's user may pass through the folders but neither list nor change them; libvirt gives it the disk of a machine
that starts.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from workers.hypervisor.errors import (
    HypervisorError,
    InvalidOperationError,
    StorageFullError,
    VolumeNotFoundError,
)
from workers.hypervisor.kvm.domain_xml import DomainFiles, RescueFiles
from workers.hypervisor.kvm.qcow2 import read_header
from workers.hypervisor.kvm.seed_iso import seed_iso
from workers.hypervisor.types import MachineSpec, SeedSpec, VolumeInfo
from workers.imaging.errors import CommandFailed
from workers.imaging.qemu_img import create_empty, create_overlay

_COPY_CHUNK = 4 * 1024 * 1024
# An overlay starts small and grows; with less room than this its guest could not even boot.
ROOM_FOR_A_DISK = 64 * 1024 * 1024
SERIAL_LOG_LIMIT = 4 * 1024 * 1024
SOCKET_PATH_MOST_BYTES = 107  # Of sockaddr_un, without the byte that ends it.
_FOLDER_MODE = 0o710
# Clones of clones of clones: the portal makes independent copies long before.
_MOST_BASES = 64
_IMAGE_MODE = 0o440


@contextlib.contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """OSErrors become ours; paths stay in the cause."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFullError(f"The host's storage is full: it could not {doing}.") from error
        raise HypervisorError(f"The host's storage failed: it could not {doing}.", code="storage-failed") from error


class Storage:
    """The pool under one folder. `qemu_gid` is the group of QEMU's processes, None where they are the worker's own."""

    def __init__(self, pool_dir: Path, *, qemu_gid: int | None) -> None:
        self._pool = pool_dir
        self._images = pool_dir / "images"
        self._machines = pool_dir / "machines"
        self._serial = pool_dir / "serial"
        self._volumes = pool_dir / "volumes"
        self._isos = pool_dir / "isos"
        self.parents = pool_dir / "parents"
        self.qemu_gid = qemu_gid

    # --- folders --------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        with storage_errors("make its folders"):
            within = (self._images, self._machines, self._serial, self._volumes, self._isos, self.parents)
            for folder in (self._pool, *within):
                self.make_folder(folder)

    def make_folder(self, folder: Path) -> None:
        """Idempotent. A link in a folder's place is refused: it would lead somewhere else."""
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.fchmod(descriptor, _FOLDER_MODE)
            self.give_to_group(descriptor)
        finally:
            os.close(descriptor)

    def give_to_group(self, descriptor: int) -> None:
        if self.qemu_gid is not None:
            os.fchown(descriptor, -1, self.qemu_gid)

    def files(self, machine: UUID, spec: MachineSpec | None = None) -> DomainFiles:
        """The machine's files, for its XML. `VolumeNotFoundError` if one that it, or its spec, needs is missing."""
        folder = self._folder(machine)
        files = DomainFiles(
            folder / "disk.qcow2",
            self.bases_of(machine),
            folder / "seed.iso",
            folder / "serial.log",
            self.serial_socket(machine),
            self._volumes,
            self._isos,
            self._rescue_files(machine) if spec and spec.rescue else None,
        )
        if not files.disk.is_file() or ((spec is None or spec.seeded) and not files.seed.is_file()):
            raise VolumeNotFoundError("The machine's disk or seed is not on the host.")
        if spec is not None:
            _refuse_missing(files, spec)
        return files

    def _rescue_files(self, machine: UUID) -> RescueFiles:
        folder, base = self._folder(machine), uuid_in(self._folder(machine) / "rescue-base")
        disk, seed = folder / "rescue.qcow2", folder / "rescue-seed.iso"
        if base is None or not disk.is_file() or not seed.is_file():
            raise VolumeNotFoundError("The machine's rescue system is not on the host.")
        return RescueFiles(disk, self._bases(base), seed, folder / "rescue.nvram")

    def serial_socket(self, machine: UUID) -> Path | None:
        """None where the pool's path leaves no room for a socket's address. The folder is newer than some pools."""
        with storage_errors("make a folder for serial ports"):
            self.make_folder(self._serial)
        path = self._serial / str(UUID(str(machine)))
        return path if len(os.fsencode(path)) <= SOCKET_PATH_MOST_BYTES else None

    def machine_folder(self, machine: UUID) -> Path:
        """The machine's folder, which may not exist."""
        return self._folder(machine)

    def disk(self, machine: UUID) -> Path:
        """Where the machine's root disk is, or would be."""
        return self._folder(machine) / "disk.qcow2"

    def total_bytes(self) -> int:
        with storage_errors("measure its storage"):
            return shutil.disk_usage(self._pool).total

    def free_bytes(self) -> int:
        with storage_errors("measure its free space"):
            return shutil.disk_usage(self._pool).free

    def _folder(self, machine: UUID) -> Path:
        return self._machines / str(UUID(str(machine)))

    def image(self, version: UUID) -> Path:
        """Where a base image is, or would be."""
        return self._images / f"{UUID(str(version))}.qcow2"

    # --- images ---------------------------------------------------------------------------------------------------

    def has_image(self, version: UUID) -> bool:
        return self.image(version).is_file()

    def put_image(self, version: UUID, source: Path, progress: Callable[[int], None]) -> VolumeInfo:
        """Copied under a temporary name, checked there, renamed. A second worker with this image waits and finds it."""
        with storage_errors("take the image"):
            self.prepare()
            if not self.has_image(version):
                with locked_part(self._part_of(version)) as part:
                    self._fill_part(version, part, source, progress)
            return self._image_info(version)

    def _fill_part(
        self, version: UUID, part: tuple[Path, BinaryIO], source: Path, progress: Callable[[int], None]
    ) -> None:
        path, target = part
        if self.has_image(version):
            path.unlink(missing_ok=True)
            return
        try:
            with open_regular(source) as original:
                self._refuse_if_too_big(os.fstat(original.fileno()).st_size)
                copy_file(original, target, progress)
            _refuse_dependent(path)
            self._offer(version, path, target)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _offer(self, version: UUID, path: Path, file: BinaryIO) -> None:
        """What was written to `path` becomes an image, which nobody writes to again."""
        self.give_to_group(file.fileno())
        os.fchmod(file.fileno(), _IMAGE_MODE)
        os.fsync(file.fileno())
        path.rename(self.image(version))
        sync_folder(self._images)

    def _part_of(self, version: UUID) -> Path:
        return self._images / f".{UUID(str(version))}.part"

    def make_base(self, version: UUID, parent: UUID | None, write: Callable[[Path], None]) -> VolumeInfo:
        """An image that `write` fills; a delta of `parent`, whose name is written first, as that of a disk's base.

        A second worker that makes the same one waits, and finds it.
        """
        with storage_errors("make the base"):
            self.prepare()
            with locked_part(self._part_of(version)) as (path, file):
                try:
                    if not self.has_image(version):
                        self._note_parent(version, parent)
                        write(path)
                        self._offer(version, path, file)
                except BaseException:
                    self._parent_file(version).unlink(missing_ok=True)
                    raise
                finally:
                    path.unlink(missing_ok=True)
            return self._image_info(version)

    def _parent_file(self, version: UUID) -> Path:
        return self.image(version).with_suffix(".base")

    def _note_parent(self, version: UUID, parent: UUID | None) -> None:
        if parent is None:
            self._parent_file(version).unlink(missing_ok=True)
        else:
            replace_file(self._parent_file(version), str(parent).encode())

    def _parent_of(self, base: UUID) -> UUID | None:
        return uuid_in(self.parent_folder(base) / "base") or uuid_in(self._parent_file(base))

    def _refuse_if_too_big(self, size: int) -> None:
        self.refuse_without_room(size, "this image")

    def refuse_without_room(self, size: int, what: str) -> None:
        if size > self.free_bytes():
            raise StorageFullError(f"The host has not enough free storage for {what}.")

    def delete_image(self, version: UUID) -> None:
        with storage_errors("remove the image"):
            if not self.has_image(version):
                self._parent_file(version).unlink(missing_ok=True)
                return
            self.refuse_if_based_on(version)
            # A base without the name of its own base is rubbish, and is listed until it goes; the reverse is not.
            self._parent_file(version).unlink(missing_ok=True)
            self.image(version).unlink(missing_ok=True)

    def refuse_if_based_on(self, version: UUID) -> None:
        """InvalidOperationError while a disk or another base reads from it: it is neither removed nor written to."""
        if any(base == version for base in self._bases_in_use()):
            raise InvalidOperationError("The image is in use: a machine's disk is based on it.")

    def _bases_in_use(self) -> Iterator[UUID]:
        for file in self._files_that_name_bases():
            with contextlib.suppress(OSError, ValueError):
                if base := uuid_in(file):
                    yield base

    def _files_that_name_bases(self) -> Iterator[Path]:
        for machine in self._machine_uuids():
            yield self._folder(machine) / "base"
            yield self._folder(machine) / "rescue-base"
        yield from self._images.glob("*.base")
        yield from self.parents.glob("*/base")

    def _image_info(self, version: UUID) -> VolumeInfo:
        info = volume_info(self.image(version), f"images/{version}.qcow2", None)
        return replace(info, base=self._parent_of(version))

    # --- machines -------------------------------------------------------------------------------------------------

    def create_disk(self, machine: UUID, image: UUID, size_bytes: int) -> VolumeInfo:
        """The base's name is written first: a killed worker may leave a base protected for nothing, not the reverse."""
        disk = self._folder(machine) / "disk.qcow2"
        with storage_errors("create the disk"):
            if not disk.exists():
                self._create_new_disk(machine, disk, image, size_bytes)
            return volume_info(disk, f"machines/{machine}/disk.qcow2", machine)

    def _create_new_disk(
        self, machine: UUID, disk: Path, image: UUID, size_bytes: int, *, base_name: str = "base"
    ) -> None:
        base = self.base(image)
        size = max(size_bytes, read_header(base).virtual_size)
        self.refuse_without_room_for_a_disk()
        self.make_folder(disk.parent)
        replace_file(disk.parent / base_name, str(image).encode())
        with new_file(disk) as part:
            overlay(part, base, size)

    def refuse_without_room_for_a_disk(self) -> None:
        if self.free_bytes() < ROOM_FOR_A_DISK:
            raise StorageFullError("The host has not enough free storage for a new disk.")

    def create_empty_disk(self, machine: UUID, size_bytes: int) -> VolumeInfo:
        disk = self._folder(machine) / "disk.qcow2"
        with storage_errors("create the disk"):
            if not disk.exists():
                self.refuse_without_room_for_a_disk()
                self.make_folder(disk.parent)
                with new_file(disk) as part, _tool_errors():
                    create_empty(part, size_bytes=size_bytes)
            return volume_info(disk, f"machines/{machine}/disk.qcow2", machine)

    def prepare_rescue(self, machine: UUID, image: UUID, seed: SeedSpec) -> None:
        """As large as its image: it is to mend another disk, not to be lived in."""
        disk = self._folder(machine) / "rescue.qcow2"
        with storage_errors("create the rescue system's disk"):
            if not disk.exists():
                self._create_new_disk(machine, disk, image, 0, base_name="rescue-base")
            replace_file(disk.parent / "rescue-seed.iso", seed_iso(seed))

    def end_rescue(self, machine: UUID) -> None:
        """The disk first, and what protects its base last."""
        folder = self._folder(machine)
        with storage_errors("remove the rescue system's files"):
            for name in ("rescue.qcow2", "rescue-seed.iso", "rescue.nvram", "rescue-base"):
                (folder / name).unlink(missing_ok=True)

    def own_file(self, disk: UUID) -> tuple[Path, bool]:
        """The file of a base or of a machine's root disk, and whether it is a base. Nothing reads from it besides."""
        if self.has_image(disk):
            self.refuse_if_based_on(disk)
            return self.image(disk), True
        read_header(self.disk(disk))  # VolumeNotFoundError if there is none.
        return self.disk(disk), False

    @contextlib.contextmanager
    def lent(self, path: Path, ids: tuple[int, int] | None, *, is_image: bool) -> Iterator[None]:
        """For a program that runs as QEMU's user to write to, where the worker may give it away. After a worker that
        was killed the next one makes it what it has to be again.
        """
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            descriptor, may_give = file.fileno(), ids is not None and os.geteuid() == 0
            os.fchmod(descriptor, 0o600)
            if ids is not None and may_give:
                os.fchown(descriptor, *ids)
            try:
                yield
            finally:
                if may_give:
                    os.fchown(descriptor, 0, 0)
                if is_image:
                    self.give_to_group(descriptor)
                    os.fchmod(descriptor, _IMAGE_MODE)
                os.fsync(descriptor)

    def renew_disk(self, machine: UUID, image: UUID, size_bytes: int) -> VolumeInfo:
        """The old one goes before the new one's base is named: no disk is ever read through another one's base."""
        with storage_errors("create the disk anew"):
            read_header(self.image(image))  # VolumeNotFoundError while there is still the old disk.
            self.refuse_without_room_for_a_disk()
            self.disk(machine).unlink(missing_ok=True)
            return self.create_disk(machine, image, size_bytes)

    def fill_disk(self, machine: UUID, base: UUID | None, write: Callable[[Path], None]) -> VolumeInfo:
        """A machine's disk that `write` fills; with `base` it reads from that image what it does not have itself."""
        disk = self.disk(machine)
        with storage_errors("copy the disk"):
            self.make_folder(disk.parent)
            with locked_part(disk.with_name(".disk.part")) as (path, file):
                try:
                    if not disk.exists():
                        self._note_base(machine, base)
                        write(path)
                        os.fsync(file.fileno())
                        path.rename(disk)
                finally:
                    path.unlink(missing_ok=True)
            sync_folder(disk.parent)
            return volume_info(disk, f"machines/{machine}/disk.qcow2", machine)

    def _note_base(self, machine: UUID, base: UUID | None) -> None:
        if base is None:
            (self._folder(machine) / "base").unlink(missing_ok=True)
        else:
            replace_file(self._folder(machine) / "base", str(base).encode())

    def bases_of(self, machine: UUID) -> tuple[Path, ...]:
        """What its disk reads from, nearest first; the last one stands alone."""
        return self._bases(self.base_id(machine))

    def bases_of_image(self, version: UUID) -> tuple[Path, ...]:
        """The same of a base, or of a parent's disk."""
        return self._bases(self._parent_of(version))

    def _bases(self, base: UUID | None) -> tuple[Path, ...]:
        return tuple(self.base(each) for each in self._chain(base))

    def base(self, base: UUID) -> Path:
        """What a disk is an overlay of: an image, or the disk of a parent."""
        parents = self.parent_folder(base) / "disk.qcow2"
        return parents if parents.is_file() else self.image(base)

    def parent_folder(self, parent: UUID) -> Path:
        return self.parents / str(UUID(str(parent)))

    def undo_fork(self, machine: UUID) -> None:
        """Of a machine that did not become a fork; its seed stays. What protects the parent goes last."""
        folder = self._folder(machine)
        with storage_errors("remove the disk"):
            (self._serial / folder.name).unlink(missing_ok=True)
            for name in (".restore.part", "serial.log", "disk.qcow2", "fork.json", "base"):
                (folder / name).unlink(missing_ok=True)

    def _chain(self, base: UUID | None) -> Iterator[UUID]:
        for _ in range(_MOST_BASES):
            if base is None:
                return
            yield base
            base = self._parent_of(base)
        raise HypervisorError("The disk is based on too many others.", code="storage-failed")

    def base_id(self, machine: UUID) -> UUID | None:
        """Of the image that its disk is based on."""
        return uuid_in(self._folder(machine) / "base")

    def write_seed(self, machine: UUID, seed: SeedSpec) -> None:
        folder = self._folder(machine)
        with storage_errors("write the seed"):
            self.make_folder(folder)
            replace_file(folder / "seed.iso", seed_iso(seed))

    def write_beside(self, machine: UUID, name: str, content: bytes) -> None:
        """A private file in the machine's folder, whole or not at all."""
        folder = self._folder(machine)
        with storage_errors("write beside the disk"):
            self.make_folder(folder)
            replace_file(folder / name, content)

    def delete_machine(self, machine: UUID) -> None:
        with storage_errors("remove the machine's files"), contextlib.suppress(FileNotFoundError):
            (self._serial / str(UUID(str(machine)))).unlink(missing_ok=True)
            shutil.rmtree(self._folder(machine))

    def list_volumes(self) -> list[VolumeInfo]:
        with storage_errors("list its volumes"):
            return [*self._list_images(), *self._list_machine_files(), *self._list_parents_files()]

    def _list_images(self) -> Iterator[VolumeInfo]:
        for path in regular_files(self._images):
            if path.suffix == ".qcow2":
                info = volume_info(path, f"images/{path.name}", None)
                yield replace(info, base=uuid_in(path.with_suffix(".base")))

    def _list_machine_files(self) -> Iterator[VolumeInfo]:
        for machine in self._machine_uuids():
            for path in regular_files(self._folder(machine)):
                # A file may go while the list is made.
                with contextlib.suppress(FileNotFoundError, VolumeNotFoundError):
                    volume = volume_info(path, f"machines/{machine}/{path.name}", machine)
                    yield replace(volume, base=self.base_id(machine)) if volume.is_disk else volume

    def _list_parents_files(self) -> Iterator[VolumeInfo]:
        for parent in self.parent_uuids():
            for path in regular_files(self.parent_folder(parent)):
                with contextlib.suppress(FileNotFoundError, VolumeNotFoundError):
                    volume = volume_info(path, f"parents/{parent}/{path.name}", None)
                    yield replace(volume, base=self._parent_of(parent)) if path.name == "disk.qcow2" else volume

    def parent_uuids(self) -> Iterator[UUID]:
        return _uuids_in(self.parents)

    def _machine_uuids(self) -> Iterator[UUID]:
        return _uuids_in(self._machines)

    def machines_on(self, base: UUID) -> Iterator[UUID]:
        """Those whose disk is an overlay of this base."""
        return (machine for machine in self._machine_uuids() if self.base_id(machine) == base)

    def trim_serial_logs(self) -> None:
        """A guest can print for ever; its log must not fill the host. QEMU appends, so its file may be cut."""
        for machine in self._machine_uuids():
            with contextlib.suppress(OSError):
                log = self._folder(machine) / "serial.log"
                if log.stat().st_size > SERIAL_LOG_LIMIT:
                    _keep_tail(log, SERIAL_LOG_LIMIT // 4)


def _uuids_in(folder: Path) -> Iterator[UUID]:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        with contextlib.suppress(ValueError):
            yield UUID(path.name)


@contextlib.contextmanager
def locked_part(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A temporary file, ours alone. What a killed worker left in it is cut off."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o600), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_still_at(file, path):
                continue  # Its owner renamed or removed it while we waited.
            file.truncate(0)
            yield path, file
            return


def _refuse_missing(files: DomainFiles, spec: MachineSpec) -> None:
    if not all(files.volume(disk.volume).is_file() for disk in spec.disks if disk.volume is not None):
        raise VolumeNotFoundError("A volume of the machine is not on the host.")
    if not all(files.iso(iso).is_file() for iso in spec.discs if iso is not None):
        raise VolumeNotFoundError("A disc of the machine is not on the host.")


def _refuse_dependent(image: Path) -> None:
    if not read_header(image).stands_alone:
        raise HypervisorError("The image refers to other files; only whole images are taken.", code="invalid-image")


def overlay(path: Path, base: Path, size: int) -> None:
    with _tool_errors():
        create_overlay(path, base=base, base_format="qcow2", size_bytes=size)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """To be made under another name; it gets its own when it is whole."""
    part = path.with_name(f".{path.stem}.part")
    part.unlink(missing_ok=True)
    try:
        yield part
        part.chmod(0o600)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextlib.contextmanager
def _tool_errors() -> Iterator[None]:
    try:
        yield
    except CommandFailed as error:
        if "No space left" in error.log_tail:
            raise StorageFullError("The host's storage is full: it could not create the disk.") from error
        raise HypervisorError("The host could not create the disk.", code="storage-failed") from error


def volume_info(path: Path, name: str, machine: UUID | None) -> VolumeInfo:
    status = path.lstat()
    is_disk = path.suffix == ".qcow2"
    capacity = read_header(path).virtual_size if is_disk else status.st_size
    return VolumeInfo(name=name, machine=machine, capacity_bytes=capacity, allocation_bytes=status.st_blocks * 512)


def regular_files(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(".") and path.is_file() and not path.is_symlink():
            yield path


def open_regular(path: Path) -> BinaryIO:
    """Neither a link nor a device: someone else may have made the file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise VolumeNotFoundError("The image's file is not there.") from error
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise HypervisorError("The image is not a plain file.", code="invalid-image")
    return file


def copy_file(source: BinaryIO, target: BinaryIO, progress: Callable[[int], None]) -> None:
    """`progress` gets whole percents, each once, and 100 at the end."""
    total, done, shown = max(1, os.fstat(source.fileno()).st_size), 0, -1
    while chunk := source.read(_COPY_CHUNK):
        target.write(chunk)
        done += len(chunk)
        percent = min(99, done * 100 // total)
        if percent > shown:
            shown = percent
            progress(percent)
    target.flush()
    progress(100)


def replace_file(path: Path, content: bytes) -> None:
    """Write a private file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)


def uuid_in(file: Path) -> UUID | None:
    try:
        return UUID(file.read_text(encoding="ascii"))
    except FileNotFoundError:
        return None


def _is_still_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except FileNotFoundError:
        return False


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _keep_tail(log: Path, size: int) -> None:
    with os.fdopen(os.open(log, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), "r+b") as file:
        file.seek(-size, os.SEEK_END)
        tail = file.read(size)
        replace_file(log.with_name("serial.old.log"), tail)
        file.truncate(0)
