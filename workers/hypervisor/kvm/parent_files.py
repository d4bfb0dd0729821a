"""What a parent is on disk. Its folder is in the pool, see `storage.py`.

    parents/<parent>/parent.json  what it was made from; once it is captured and was tried, what its files looked like
    parents/<parent>/base         the UUID of the image that its disk is an overlay of
    parents/<parent>/disk.qcow2   the template's disk, frozen when it was captured: the base of its forks' disks
    parents/<parent>/seed.iso     the template's seed
    parents/<parent>/ram          its memory; forks map it privately
    parents/<parent>/saved        as libvirt saved it: a head with the domain's XML, then the state of its devices
    parents/<parent>/state        the state alone
    parents/<parent>/whole        state and memory in one, as libvirt saves a machine: what a restore is made from
    parents/<parent>/trial.*      of the trial fork

The note is written before anything is made and again when all is whole, with the size of each file and the time of its
last change: a fork is refused where something was written to one of them since.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import struct
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from workers.hypervisor.errors import HypervisorError, VolumeNotFoundError
from workers.hypervisor.kvm.domain_xml import DomainFiles
from workers.hypervisor.kvm.qcow2 import read_header
from workers.hypervisor.kvm.seed_iso import seed_iso
from workers.hypervisor.kvm.storage import Storage, new_file, overlay, replace_file, storage_errors, sync_folder
from workers.hypervisor.types import ParentInfo, ParentSpec

MIB = 1024 * 1024
# What a captured parent consists of.
FROZEN = ("disk.qcow2", "seed.iso", "ram", "state", "whole")
# libvirt's save file: magic, version, length of the XML, was running, compressed, offset of its cookie, 14 unused.
_HEAD = struct.Struct("<16s19I")
_MAGIC = b"LibvirtQemudSave"
_STREAM = b"QEVM"
_CHUNK = 4 * MIB


@dataclass(frozen=True, slots=True)
class ParentNote:
    """`frozen` has the size and the time of the last change of each file; it is empty until all is whole."""

    name: str
    image: str
    vcpus: int
    memory_mib: int
    disk_bytes: int
    desktop: bool
    frozen: dict[str, list[int]] = field(default_factory=dict)

    @property
    def memory_bytes(self) -> int:
        return self.memory_mib * MIB


class ParentFiles:
    """Of all parents of a pool."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def path(self, parent: UUID, name: str) -> Path:
        return self._storage.parent_folder(parent) / name

    def note(self, parent: UUID) -> ParentNote | None:
        try:
            return ParentNote(**json.loads(self.path(parent, "parent.json").read_bytes()))
        except FileNotFoundError:
            return None

    def whole(self, parent: UUID) -> ParentNote | None:
        """None unless it is captured, was tried, and nothing of it was written to since."""
        note = self.note(parent)
        if note is None or not note.frozen:
            return None
        with contextlib.suppress(FileNotFoundError):
            return note if self._looks(parent) == note.frozen else None
        return None

    def info(self, parent: UUID, *, forks: int) -> ParentInfo:
        note = self.note(parent)
        state, whole = (self._taken(parent, name) for name in ("state", "whole"))
        captured = self.whole(parent) is not None
        return ParentInfo(
            uuid=parent,
            memory_bytes=self._taken(parent, "ram"),
            state_bytes=state + whole,
            disk_bytes=self._taken(parent, "disk.qcow2"),
            restorable=bool(captured and whole),
            forks=forks,
            captured=bool(note and captured),
        )

    def _taken(self, parent: UUID, name: str) -> int:
        try:
            return self.path(parent, name).stat().st_blocks * 512
        except FileNotFoundError:
            return 0

    def _looks(self, parent: UUID) -> dict[str, list[int]]:
        found = ((name, self.path(parent, name).stat()) for name in FROZEN)
        return {name: [status.st_size, status.st_mtime_ns] for name, status in found}

    # --- making -----------------------------------------------------------------------------------------------

    def make(self, spec: ParentSpec) -> None:
        """All that the template needs, anew. What protects the image is written first."""
        storage, folder = self._storage, self._storage.parent_folder(spec.uuid)
        with storage_errors("make the parent's files"):
            storage.prepare()
            capacity = max(spec.disk_bytes, read_header(storage.image(spec.image)).virtual_size)
            storage.refuse_without_room(spec.memory_mib * MIB, "this parent")
            storage.make_folder(folder)
            replace_file(folder / "base", str(spec.image).encode())
            for name in ("parent.json", *FROZEN, "saved", "serial.log"):
                (folder / name).unlink(missing_ok=True)
            values = (spec.name, str(spec.image), spec.vcpus, spec.memory_mib, capacity, spec.desktop)
            self._write(spec.uuid, ParentNote(*values))
            with new_file(folder / "disk.qcow2") as part:
                overlay(part, storage.image(spec.image), capacity)
            replace_file(folder / "seed.iso", seed_iso(spec.seed))
            self._make_memory(folder / "ram", spec.memory_mib * MIB)

    def _make_memory(self, path: Path, size: int) -> None:
        """QEMU's group may write to it: the template does, and a QEMU before 8.2 maps nothing it may not write to."""
        with path.open("xb") as file:
            file.truncate(size)
            self._storage.give_to_group(file.fileno())
            os.fchmod(file.fileno(), 0o600 if self._storage.qemu_gid is None else 0o660)

    def _write(self, parent: UUID, note: ParentNote) -> None:
        content = json.dumps(dataclasses.asdict(note)).encode()
        replace_file(self.path(parent, "parent.json"), content)

    def files(self, parent: UUID, of: UUID, prefix: str = "") -> DomainFiles:
        """Of the template, or with the prefix of the trial fork, whose disk reads from the template's."""
        storage, folder = self._storage, self._storage.parent_folder(parent)
        disk, bases = folder / f"{prefix}disk.qcow2", storage.bases_of_image(parent)
        return DomainFiles(
            disk,
            (folder / "disk.qcow2", *bases) if prefix else bases,
            folder / "seed.iso",
            folder / f"{prefix}serial.log",
            storage.serial_socket(of),
            storage.parents,
        )

    def make_trial_disk(self, parent: UUID) -> None:
        base, disk = self.path(parent, "disk.qcow2"), self.path(parent, "trial.disk.qcow2")
        with storage_errors("make the trial's disk"):
            disk.unlink(missing_ok=True)
            with new_file(disk) as part:
                overlay(part, base, read_header(base).virtual_size)

    def remove_trial(self, parent: UUID) -> None:
        with storage_errors("remove the trial's files"):
            for name in ("trial.disk.qcow2", "trial.serial.log"):
                self.path(parent, name).unlink(missing_ok=True)

    # --- capturing --------------------------------------------------------------------------------------------

    def has_state(self, parent: UUID) -> bool:
        """True if the template was saved, and not half: libvirt writes another word first in what is not whole."""
        if self.path(parent, "state").is_file():
            return True
        try:
            with self.path(parent, "saved").open("rb") as file:
                return file.read(len(_MAGIC)) == _MAGIC
        except FileNotFoundError:
            return False

    def keep_state(self, parent: UUID) -> None:
        """From what libvirt saved. The disk is frozen from now on."""
        state, saved = self.path(parent, "state"), self.path(parent, "saved")
        with storage_errors("keep the state of the devices"):
            if not state.is_file():
                with saved.open("rb") as source, new_file(state) as part, part.open("xb") as target:
                    source.seek(stream_begins_at(saved))
                    shutil.copyfileobj(source, target, _CHUNK)
            saved.unlink(missing_ok=True)
            self._freeze(self.path(parent, "disk.qcow2"), 0o440)

    def _freeze(self, path: Path, mode: int) -> None:
        """Nobody's but root's, and on the disk: forks read it for as long as there is one."""
        with path.open("rb") as file:
            if os.geteuid() == 0:
                os.fchown(file.fileno(), 0, -1)
            self._storage.give_to_group(file.fileno())
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())

    def finish(self, parent: UUID, *, sealed: bool) -> None:
        """From here on it is a parent."""
        note = self.note(parent)
        assert note is not None  # noqa: S101 - for the type checker; it was made.
        with storage_errors("freeze the parent's files"):
            modes = dict.fromkeys(FROZEN, 0o400) | {"disk.qcow2": 0o440}
            modes["ram"] = 0o440 if sealed else 0o660
            if self._storage.qemu_gid is None:
                modes["ram"] &= 0o700
            for name, mode in modes.items():
                self._freeze(self.path(parent, name), mode)
            sync_folder(self._storage.parent_folder(parent))
            self._write(parent, dataclasses.replace(note, frozen=self._looks(parent)))

    # --- removing ---------------------------------------------------------------------------------------------

    def delete(self, parent: UUID) -> None:
        """The note first, by which forks begin; who has begun one meanwhile has written down its base before."""
        folder = self._storage.parent_folder(parent)
        kept = folder / ".parent.json"
        with storage_errors("remove the parent"), contextlib.suppress(FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                (folder / "parent.json").rename(kept)
            try:
                self._storage.refuse_if_based_on(parent)
            except HypervisorError:
                if kept.is_file():
                    kept.rename(folder / "parent.json")
                raise
            shutil.rmtree(folder)


# --- libvirt's save files -------------------------------------------------------------------------------------------


def _read_head(head: bytes) -> tuple[int, ...]:
    """Its 19 numbers. Written on this host, in its own order of bytes."""
    if len(head) < _HEAD.size or not head.startswith(_MAGIC):
        raise HypervisorError("What was saved of the machine is not whole.", code="storage-failed")
    _magic, *numbers = _HEAD.unpack(head)
    return tuple(numbers)


def stream_begins_at(saved: Path) -> int:
    """Where QEMU's own part begins in a save file."""
    with saved.open("rb") as file:
        offset = _HEAD.size + _read_head(file.read(_HEAD.size))[1]
        file.seek(offset)
        if file.read(len(_STREAM)) != _STREAM:
            raise HypervisorError("What was saved of the machine cannot be read.", code="storage-failed")
    return offset


def write_renamed(saved: Path, target: Path, xml: str) -> None:
    """A save file of another machine: libvirt restores none under another name. Its cookie goes with it."""
    if not saved.is_file():
        raise VolumeNotFoundError("The parent's whole image is not on the host.")
    with saved.open("rb") as source, target.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        version, length, running, compressed, cookie_at, *unused = _read_head(source.read(_HEAD.size))
        data = source.read(length)
        cookie = data[cookie_at:] if cookie_at else b""
        text = xml.encode() + b"\0"
        numbers = (version, len(text) + len(cookie), running, compressed, len(text) if cookie else 0)
        file.write(_HEAD.pack(_MAGIC, *numbers, *unused) + text + cookie)
        file.flush()
        _copy_rest(source.fileno(), file.fileno(), _HEAD.size + length)


def _copy_rest(source: int, target: int, offset: int) -> None:
    """Inside the kernel, which shares the blocks where its file system can."""
    while copied := os.copy_file_range(source, target, 1 << 30, offset_src=offset):
        offset += copied
