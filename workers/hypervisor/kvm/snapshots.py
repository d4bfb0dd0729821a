"""Snapshots inside the machine's own qcow2 files, each under its UUID, and what lies beside the disk.

    machines/<machine>/<snapshot>.json    which volumes are in it; `whole` once all of it is there
    machines/<machine>/<snapshot>.mem     its memory, as libvirt saves it
    machines/<machine>/<snapshot>.nvram   the firmware's variables, where it has some
    machines/<machine>/<snapshot>.tpm     what its TPM holds, where it has one

The note is written before anything is done and again when all is done. So whoever comes after a worker that died knows
what there may be: which disks to look into, whether the guest was being frozen, whether it was paused.

No file depends on another one: snapshots are deleted in any order, and a disk with twenty of them is still one file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import time
import xml.etree.ElementTree as ET
from builtins import list as list_of
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import libvirt

from workers.hypervisor.errors import (
    DomainNotFoundError,
    GuestAgentError,
    HypervisorError,
    InvalidOperationError,
    VolumeNotFoundError,
)
from workers.hypervisor.kvm import agent, devices, life, monitor
from workers.hypervisor.kvm.connection import VirConnect, VirDomain
from workers.hypervisor.kvm.domain_xml import with_own_memory
from workers.hypervisor.kvm.storage import Storage, storage_errors
from workers.hypervisor.kvm.volumes import VolumeFolder, tool_errors
from workers.hypervisor.types import SnapshotInfo
from workers.imaging import qemu_img

logger = logging.getLogger(__name__)

T = TypeVar("T")

# The tables of large disks are copied while their guest runs; its memory is written and read as when it hibernates.
DISKS_LIMIT_S = 120.0
MEMORY_LIMIT_S = life.SAVE_LIMIT_S
# A guest that has much to write out takes its time to be still; longer than this it is taken as it is.
FREEZE_LIMIT_S = 10.0
THAW_LIMIT_S = 5.0
_THAWS = 6
_TPM_FOLDER = Path("/var/lib/libvirt/swtpm")
_STORES = Path("/var/lib/libvirt/qemu/nvram")
_NVRAM_MOST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Note:
    """`ran`: the guest was running when it was taken, so it is frozen or paused at most for the moment."""

    volumes: tuple[str, ...]
    memory: bool
    ran: bool
    whole: bool = False
    quiesced: bool = False
    memory_bytes: int = 0

    def info(self, snapshot: UUID) -> SnapshotInfo:
        return SnapshotInfo(snapshot, self.quiesced, self.memory_bytes, frozenset(map(UUID, self.volumes)))


class KvmSnapshots:
    """This part of KvmDriver. The methods without a body are the driver's."""

    _volumes: VolumeFolder

    def _storage(self) -> Storage:
        raise NotImplementedError

    def _call(self, doing: str, work: Callable[[VirConnect], T], *, limit_s: float | None = None) -> T:
        raise NotImplementedError

    def _with(self, machine: UUID, doing: str, work: Callable[[VirDomain], T], *, limit_s: float | None = None) -> T:
        raise NotImplementedError

    def force_off(self, machine: UUID) -> None:
        raise NotImplementedError

    def discard_saved(self, machine: UUID) -> None:
        raise NotImplementedError

    # --- the contract -----------------------------------------------------------------------------------------

    def take_snapshot(self, machine: UUID, snapshot: UUID, *, memory: bool) -> SnapshotInfo:
        note = self._note(machine, snapshot)
        if note is not None and note.whole:
            return note.info(snapshot)
        if note is not None:
            self._remove(machine, snapshot, note)
        note = self._begin(machine, snapshot, memory=memory)
        if memory:
            note = self._take_with_memory(machine, snapshot, note)
        else:
            quiesced = self._take_disks(machine, snapshot, note)
            note = dataclasses.replace(note, quiesced=quiesced)
            self._keep_firmware(machine, snapshot)
        note = dataclasses.replace(note, whole=True)
        self._write_note(machine, snapshot, note)
        return note.info(snapshot)

    def restore_snapshot(self, machine: UUID, snapshot: UUID) -> None:
        note = self._note(machine, snapshot)
        if note is None or not note.whole:
            raise VolumeNotFoundError("The snapshot is not on the host.")
        self.force_off(machine)
        self.discard_saved(machine)
        paths = self._paths(machine, note.volumes)
        for path in paths:
            self._refuse_unless_restorable(path, snapshot)
        with tool_errors("restore the disks"):
            for path in paths:
                qemu_img.apply_snapshot(path, str(snapshot))
        self._restore_firmware(machine, snapshot)
        if note.memory:
            file = self._beside(machine, snapshot, "mem")
            self._call("restore the memory", lambda conn: _restore_memory(conn, file), limit_s=MEMORY_LIMIT_S)

    def delete_snapshot(self, machine: UUID, snapshot: UUID) -> None:
        note = self._note(machine, snapshot)
        if note is not None:
            self._remove(machine, snapshot, note)

    def snapshots(self, machine: UUID) -> list_of[UUID]:
        found = ((UUID(path.stem), path) for path in self._note_files(machine))
        return [uuid for uuid, path in found if (note := _read_note(path)) is not None and note.whole]

    def leave_volumes(self, machine: UUID) -> None:
        """The machine's files are about to go: nothing of its snapshots is to stay in volumes that outlive it."""
        for path in self._note_files(machine):
            note = _read_note(path)
            for volume in note.volumes if note is not None else ():
                self._forget(self._volumes.path(UUID(volume)), path.stem)

    # --- taking -----------------------------------------------------------------------------------------------

    def _begin(self, machine: UUID, snapshot: UUID, *, memory: bool) -> Note:
        """Nothing is done yet; from here on the note says what there may be."""
        folder = self._volumes.folder

        def look(domain: VirDomain) -> Note:
            active = bool(domain.isActive())
            runs = active and not life.is_paused(domain)
            if not active and domain.hasManagedSaveImage(0):
                raise InvalidOperationError("The machine is hibernated: its saved memory belongs to its disks.")
            if memory and not runs:
                raise InvalidOperationError("The machine does not run; its memory cannot be kept just now.")
            volumes = devices.plugged_volumes(domain, folder)
            return Note(tuple(sorted(map(str, volumes))), memory, ran=runs)

        note = self._with(machine, "look at the machine's disks", look)
        for path in self._paths(machine, note.volumes):
            if not path.is_file():
                raise VolumeNotFoundError("A disk of the machine is not on the host.")
        self._write_note(machine, snapshot, note)
        return note

    def _take_disks(self, machine: UUID, snapshot: UUID, note: Note) -> bool:
        """True if the guest's file systems were still. Of a machine that is off, they are."""
        paths, name = self._paths(machine, note.volumes), str(snapshot)

        def work(domain: VirDomain) -> bool | None:
            if not domain.isActive():
                return None
            with _still(domain) as quiesced:
                monitor.create_snapshots(domain, paths, name)
            return quiesced

        taken = self._with(machine, "take the snapshot", work, limit_s=DISKS_LIMIT_S)
        if taken is not None:
            return taken
        with storage_errors("take the snapshot"), tool_errors("take the snapshot"):
            for path in paths:
                qemu_img.create_snapshot(path, name)
        return True

    def _take_with_memory(self, machine: UUID, snapshot: UUID, note: Note) -> Note:
        """Paused for as long as its memory is written, so that memory and disks are of one moment.

        The disks first: a QEMU that has written its memory out has let go of them until it goes on, and dies of a
        snapshot in between. That is also why one that was paused before is refused: it would stay so.
        """
        paths, file = self._paths(machine, note.volumes), self._beside(machine, snapshot, "mem")

        def work(domain: VirDomain) -> None:
            with _paused(domain):
                monitor.create_snapshots(domain, paths, str(snapshot))
                self._keep_firmware(machine, snapshot, domain)
                save_memory(domain, file)

        self._with(machine, "take the snapshot", work, limit_s=MEMORY_LIMIT_S)
        return dataclasses.replace(note, memory_bytes=file.stat().st_size)

    # --- removing ---------------------------------------------------------------------------------------------

    def _remove(self, machine: UUID, snapshot: UUID, note: Note) -> None:
        """The note last: killed before, the next one finds it and goes on."""
        if not note.whole and note.ran:
            self._let_go_on(machine, note)
        for path in self._paths(machine, note.volumes):
            self._forget(path, str(snapshot))
        with storage_errors("remove the snapshot"):
            for kind in ("mem", "nvram", "tpm", "json"):
                self._beside(machine, snapshot, kind).unlink(missing_ok=True)

    def _let_go_on(self, machine: UUID, note: Note) -> None:
        """Whoever took it may have died while the guest was frozen, or paused."""

        def work(domain: VirDomain) -> None:
            if not domain.isActive():
                return
            if note.memory and life.is_paused(domain):
                domain.resume()
            elif not note.memory and agent.answers(domain):
                _thaw(domain)

        with contextlib.suppress(DomainNotFoundError):
            self._with(machine, "let the machine go on", work, limit_s=_THAWS * THAW_LIMIT_S + THAW_LIMIT_S)

    def _forget(self, path: Path, name: str) -> None:
        """By QEMU where any machine has the file open, else by qemu-img. No error if it is not in there."""

        def by_qemu(conn: VirConnect) -> bool:
            user = devices.running_user(conn, path)
            if user is not None:
                monitor.delete_snapshot(user, path, name)
            return user is not None

        if not path.is_file() or self._call("remove the snapshot", by_qemu, limit_s=DISKS_LIMIT_S):
            return
        with tool_errors("remove the snapshot"):
            if name in qemu_img.snapshots(path):
                qemu_img.delete_snapshot(path, name)

    # --- restoring --------------------------------------------------------------------------------------------

    def _refuse_unless_restorable(self, path: Path, snapshot: UUID) -> None:
        if not path.is_file():
            raise VolumeNotFoundError("A disk of the snapshot is not on the host any more.")
        self._call("look who uses the disk", lambda conn: devices.refuse_running_user(conn, path))
        with tool_errors("look into the disk"):
            if str(snapshot) not in qemu_img.snapshots(path):
                raise VolumeNotFoundError("A disk does not hold the snapshot any more.")

    # --- what the firmware and the TPM keep -------------------------------------------------------------------

    def _keep_firmware(self, machine: UUID, snapshot: UUID, domain: VirDomain | None = None) -> None:
        """The files are there once the machine was started."""
        look = "look at the machine's firmware"
        places = _firmware(domain) if domain is not None else self._with(machine, look, _firmware)
        for kind, path in places.items():
            if path.is_file():
                with storage_errors("keep the firmware's variables"):
                    content = _read_small(path)
                self._storage().write_beside(machine, f"{snapshot}.{kind}", content)

    def _restore_firmware(self, machine: UUID, snapshot: UUID) -> None:
        """Into the file that is there, which keeps its owner; one that libvirt has not made yet is made."""
        places = self._with(machine, "look at the machine's firmware", _firmware)
        for kind, path in places.items():
            kept = self._beside(machine, snapshot, kind)
            if kept.is_file() and path.parent.is_dir():
                with storage_errors("bring the firmware's variables back"):
                    _write_over(path, _read_small(kept))

    def copy_firmware(self, machine: UUID, *, source: UUID) -> None:
        """Before its first start; libvirt takes a file that is there already."""
        theirs, own = (self._with(one, "look at its firmware", _store_of) for one in (source, machine))
        if theirs is not None and own is not None and theirs.is_file() and own.parent.is_dir():
            with storage_errors("copy the firmware's variables"):
                _write_over(own, _read_small(theirs))

    # --- files ------------------------------------------------------------------------------------------------

    def _paths(self, machine: UUID, volumes: Collection[str]) -> list_of[Path]:
        return [self._storage().disk(machine), *(self._volumes.path(UUID(volume)) for volume in volumes)]

    def _beside(self, machine: UUID, snapshot: UUID, kind: str) -> Path:
        return self._storage().machine_folder(machine) / f"{UUID(str(snapshot))}.{kind}"

    def _note(self, machine: UUID, snapshot: UUID) -> Note | None:
        return _read_note(self._beside(machine, snapshot, "json"))

    def _write_note(self, machine: UUID, snapshot: UUID, note: Note) -> None:
        content = json.dumps(dataclasses.asdict(note)).encode()
        self._storage().write_beside(machine, f"{UUID(str(snapshot))}.json", content)

    def _note_files(self, machine: UUID) -> Iterator[Path]:
        for path in sorted(self._storage().machine_folder(machine).glob("*.json")):
            with contextlib.suppress(ValueError):
                UUID(path.stem)
                yield path


def _read_note(path: Path) -> Note | None:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return Note(**{**content, "volumes": tuple(content["volumes"])})


# --- the guest ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _still(domain: VirDomain) -> Iterator[bool]:
    """The guest's file systems do not change, if it has an agent and that says so. They may again, whatever happens."""
    if not agent.answers(domain):
        yield False
        return
    try:
        yield _freeze(domain)
    finally:
        _thaw(domain)


def _freeze(domain: VirDomain) -> bool:
    try:
        agent.ask(domain, "guest-fsfreeze-freeze", limit_s=FREEZE_LIMIT_S)
    except GuestAgentError as error:
        logger.info("the guest's file systems could not be frozen: %s", error)
        return False
    return True


def _thaw(domain: VirDomain) -> None:
    """Asked again until it answers: a freeze that took too long may still come about, and the thaw waits behind it.

    `GuestAgentError`, which is tried again, if it never answers. A guest that has gone off is not frozen.
    """
    for _time in range(_THAWS):
        try:
            agent.ask(domain, "guest-fsfreeze-thaw", limit_s=THAW_LIMIT_S)
        except GuestAgentError as error:
            if not domain.isActive() or not error.retryable:
                return
            time.sleep(0.2)
        else:
            return
    raise GuestAgentError("The guest's agent does not say whether its file systems go on.")


@contextlib.contextmanager
def _paused(domain: VirDomain) -> Iterator[None]:
    """It goes on whatever happens, unless it has gone off."""
    life.suspend(domain)
    try:
        yield
    finally:
        if domain.isActive():
            life.resume(domain)


def save_memory(domain: VirDomain, file: Path) -> None:
    """libvirt's snapshot of nothing but the memory: it keeps no record of it, and the machine stays where it is."""
    snapshot = ET.Element("domainsnapshot")
    ET.SubElement(snapshot, "memory", {"snapshot": "external", "file": str(file)})
    disks = ET.SubElement(snapshot, "disks")
    for target in devices.targets(domain):
        ET.SubElement(disks, "disk", {"name": target, "snapshot": "no"})
    text = ET.tostring(snapshot, encoding="unicode")
    domain.snapshotCreateXML(text, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA)


def _restore_memory(conn: VirConnect, file: Path) -> None:
    """Its drives are empty where the disc that lay in one is not on the host any more; a fork needs its parent's
    memory no more.
    """
    text = conn.saveImageGetXMLDesc(str(file), libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE)
    root = ET.fromstring(text)  # noqa: S314 - libvirt made it.
    for drive in root.iterfind("devices/disk[@device='cdrom']"):
        source = drive.find("source")
        if source is not None and not Path(source.get("file", "")).is_file():
            drive.remove(source)
    with_own_memory(root)
    conn.restoreFlags(str(file), ET.tostring(root, encoding="unicode"), libvirt.VIR_DOMAIN_SAVE_RUNNING)


def _firmware(domain: VirDomain) -> dict[str, Path]:
    """Where the host keeps what the firmware writes down, by what it is called beside the disk."""
    root = ET.fromstring(domain.XMLDesc(0))  # noqa: S314 - libvirt made it.
    places = {}
    if store := _store_of(domain):
        places["nvram"] = store
    if root.find("devices/tpm/backend[@type='emulator']") is not None:
        # libvirt tells this place in no XML.
        places["tpm"] = _TPM_FOLDER / domain.UUIDString() / "tpm2" / "tpm2-00.permall"
    return places


def _store_of(domain: VirDomain) -> Path | None:
    """Where the UEFI's variables are, or will be: libvirt tells the place only of what was started, and calls it so."""
    root = ET.fromstring(domain.XMLDesc(0))  # noqa: S314 - libvirt made it.
    if nvram := root.findtext("os/nvram"):
        return Path(nvram)
    system = root.find("os")
    if system is None or system.get("firmware") != "efi":
        return None
    privileged = domain.connect().getURI().endswith("/system")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    folder = _STORES if privileged else config / "libvirt/qemu/nvram"
    return folder / f"{domain.name()}_VARS.fd"


def _read_small(path: Path) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        content = file.read(_NVRAM_MOST_BYTES + 1)
    if len(content) > _NVRAM_MOST_BYTES:
        raise HypervisorError("The firmware's variables take far more room than they ever should.")
    return content


def _write_over(path: Path, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
