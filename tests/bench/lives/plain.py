"""A domain of one's own, as somebody without a portal has it: a copy of the portal's, driven by virsh and qemu-img."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4
from xml.etree import ElementTree as ET


def virsh(*arguments: str) -> str:
    return subprocess.run(["virsh", "-q", *arguments], check=True, capture_output=True, text=True).stdout


def qemu_img(*arguments: str) -> None:
    subprocess.run(["qemu-img", *arguments], check=True, capture_output=True)


@dataclass
class Plain:
    """`xml` is its definition; further disks and domains that are made of it go with it."""

    name: str
    folder: Path
    xml: ET.Element
    others: list[str] = field(default_factory=list)

    @property
    def disk(self) -> Path:
        return self.folder / "disk.qcow2"

    def start(self) -> None:
        virsh("start", self.name)

    def stop(self) -> None:
        virsh("destroy", self.name)

    def attach(self, number: int) -> None:
        volume = self.folder / f"volume-{number}.qcow2"
        qemu_img("create", "-q", "-f", "qcow2", str(volume), "1G")
        volume.chmod(0o666)
        target = f"vd{chr(ord('f') + number)}"
        options = ("--driver", "qemu", "--subdriver", "qcow2", "--targetbus", "virtio", "--live", "--config")
        virsh("attach-disk", self.name, str(volume), target, *options)

    def resize(self, vcpus: int, memory_mib: int) -> None:
        """As the portal does: more processors now, fewer and memory at the next start."""
        now = int(virsh("vcpucount", self.name, "--live", "--active"))
        virsh("setvcpus", self.name, str(vcpus), "--config", *(["--live"] if vcpus > now else []))
        virsh("setmem", self.name, f"{memory_mib}M", "--config")

    def snapshot(self, name: str) -> None:
        """Of its disks, while it runs, its file systems held still by the agent. libvirt has files beside for that."""
        virsh("snapshot-create-as", self.name, name, "--disk-only", "--atomic", "--quiesce", "--no-metadata")

    def keep(self, name: str) -> None:
        """What `restore` brings back, of all its disks: it is off."""
        for disk in self._disks():
            qemu_img("snapshot", "-q", "-c", name, str(disk))

    def restore(self, name: str) -> None:
        self.stop()
        for disk in self._disks():
            qemu_img("snapshot", "-q", "-a", name, str(disk))
        self.start()

    def _disks(self) -> list[Path]:
        return [self.disk, *sorted(self.folder.glob("volume-*.qcow2"))]

    def clone(self, number: int, *, linked: bool) -> None:
        """A domain of its own, started, on a copy of the disk or on an overlay of it. The original is off."""
        disk = self.folder / f"clone-{number}-{linked}.qcow2"
        if linked:
            qemu_img("create", "-q", "-f", "qcow2", "-b", str(self.disk), "-F", "qcow2", str(disk))
        else:
            qemu_img("convert", "-f", "qcow2", "-O", "qcow2", str(self.disk), str(disk))
        disk.chmod(0o666)
        name = f"{self.name}-{number}-{linked}"
        self.others.append(name)
        virsh("define", str(_named(self.xml, name, disk, self.folder / f"{name}.log")))
        virsh("start", name)

    def end_others(self) -> None:
        for name in self.others:
            _end(name)
        self.others.clear()


@contextmanager
def plain_of(machine: UUID, pool: Path, prefix: str) -> Iterator[Plain]:
    """On a disk of its own that holds the same, in the same pool."""
    original = ET.fromstring(virsh("dumpxml", "--inactive", "--security-info", f"casement-{machine}"))  # noqa: S314 - libvirt's own XML
    folder = Path(tempfile.mkdtemp(prefix="plain-", dir=pool))
    folder.chmod(0o755)
    name = f"{prefix}-plain"
    found = Plain(name, folder, original)
    try:
        qemu_img("convert", "-U", "-f", "qcow2", "-O", "qcow2", _source(original), str(found.disk))
        found.disk.chmod(0o666)
        virsh("define", str(_named(original, name, found.disk, folder / "serial.log")))
        yield found
    finally:
        found.end_others()
        _end(name)
        shutil.rmtree(folder)


def _end(name: str) -> None:
    for command in (("destroy", name), ("undefine", name)):
        subprocess.run(["virsh", *command], capture_output=True, check=False)


def _source(xml: ET.Element) -> str:
    source = xml.find("./devices/disk[@device='disk']/source")
    assert source is not None
    return str(source.get("file"))


def _named(xml: ET.Element, name: str, disk: Path, log: Path) -> Path:
    """The definition under another name and UUID, on this disk, written to a file."""
    made = ET.fromstring(ET.tostring(xml))  # noqa: S314 - our own copy of libvirt's XML
    uuid = uuid4()
    for tag, text in (("name", name), ("uuid", str(uuid)), ("genid", str(uuid4()))):
        element = made.find(tag)
        if element is not None:
            element.text = text
    for metadata in made.findall("metadata"):
        made.remove(metadata)
    for mac in made.findall("./devices/interface/mac"):
        mac.set("address", "52:54:00:" + ":".join(f"{byte:02x}" for byte in uuid.bytes[:3]))
    for kept in made.findall("./devices/*/log"):
        kept.set("file", str(log))
    source = made.find("./devices/disk[@device='disk']/source")
    assert source is not None
    source.set("file", str(disk))
    file = log.with_suffix(".xml")
    file.write_bytes(ET.tostring(made))
    return file
