"""Pack a directory into a bootable GPT disk without loop devices or mounts: BIOS boot, ESP and one ext4 root.

The root partition comes last, so that a guest on a larger disk grows it in place.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workers.imaging import bootloader
from workers.imaging.commands import run

SECTOR = 512
MIB = 1024 * 1024


@dataclass(frozen=True)
class Partition:
    """Start and size in sectors of 512 bytes."""

    start: int
    size: int
    type_guid: str
    label: str


BIOS_BOOT = Partition(2048, 2048, "21686148-6449-6E6F-744E-656564454649", "bios")
ESP = Partition(4096, 64 * MIB // SECTOR, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "efi")
ROOT_TYPE = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
ROOT_START = ESP.start + ESP.size
GPT_TAIL = MIB // SECTOR  # Room for the second partition table, rounded up to whole MiB.
# Newer mke2fs turns these on, and the GRUB or the e2fsck of an older guest does not know them.
FEATURES = "^metadata_csum_seed,^orphan_file"


def root_partition(size_bytes: int) -> Partition:
    """All that is left of a disk of `size_bytes`."""
    return Partition(ROOT_START, size_bytes // SECTOR - ROOT_START - GPT_TAIL, ROOT_TYPE, "root")


def pack_disk(
    root: Path, destination: Path, *, size_bytes: int, root_uuid: str, scratch: Path, inside: Sequence[str] = ()
) -> None:
    """Write the raw (sparse) disk `destination`, `size_bytes` long (whole MiB), from the directory tree `root`.

    `root` must hold /vmlinuz, /initrd.img and /boot/grub/grub.cfg. Owners are kept as they are on disk; `inside` is an
    argv prefix that runs a tool where those owners can be read (a user namespace).
    Raises CommandFailed and ImageBuildError.
    """
    layout = root_partition(size_bytes)
    destination.touch()
    os.truncate(destination, size_bytes)
    run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", str(destination)], stdin=_table(layout))
    _write_root(root, destination, layout, root_uuid, inside)
    _write_esp(destination, root_uuid, scratch)
    _write_bios_loader(destination, root_uuid, scratch)


def _table(root: Partition) -> str:
    rows = [f"start={p.start}, size={p.size}, type={p.type_guid}, name={p.label}" for p in (BIOS_BOOT, ESP, root)]
    return "\n".join(["label: gpt", *rows, ""])


def _write_root(root: Path, disk: Path, layout: Partition, uuid: str, inside: Sequence[str]) -> None:
    extended = f"offset={layout.start * SECTOR},lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0"
    shape = ["-t", "ext4", "-O", FEATURES, "-b", "4096", "-m", "1", "-E", extended]
    blocks = layout.size * SECTOR // 4096
    run([*inside, "mke2fs", "-q", "-F", *shape, "-U", uuid, "-L", "root", "-d", str(root), str(disk), str(blocks)])


def _write_esp(disk: Path, root_uuid: str, scratch: Path) -> None:
    loader, esp = scratch / "BOOTX64.EFI", scratch / "esp.fat"
    bootloader.make_uefi_loader(loader, root_uuid=root_uuid)
    esp.touch()
    os.truncate(esp, ESP.size * SECTOR)
    run(["mkfs.fat", "-F", "32", "-n", "EFI", str(esp)])
    run(["mmd", "-i", str(esp), "::/EFI", "::/EFI/BOOT"])
    run(["mcopy", "-i", str(esp), str(loader), "::/EFI/BOOT/BOOTX64.EFI"])
    copy_sparse(esp, disk, offset=ESP.start * SECTOR)


def _write_bios_loader(disk: Path, root_uuid: str, scratch: Path) -> None:
    core = scratch / "core.img"
    bootloader.make_bios_core(core, root_uuid=root_uuid)
    boot_image = (bootloader.module_directory("i386-pc") / "boot.img").read_bytes()
    with disk.open("r+b") as stream:
        bootloader.embed_bios(
            stream,
            boot_image=boot_image,
            core=core.read_bytes(),
            start_sector=BIOS_BOOT.start,
            sectors=BIOS_BOOT.size,
        )


def copy_sparse(source: Path, disk: Path, *, offset: int) -> None:
    """Copy `source` into `disk` at byte `offset`, leaving out blocks of zeros: there the disk is still a hole."""
    with source.open("rb") as reader, disk.open("r+b") as writer:
        for position in range(0, source.stat().st_size, MIB):
            block = reader.read(MIB)
            if block.count(0) != len(block):
                writer.seek(offset + position)
                writer.write(block)


def make_scratch(directory: Path) -> Path:
    """An empty directory for one build, in place of whatever an earlier build left there."""
    clean_scratch(directory)
    directory.mkdir(parents=True, mode=0o711)  # Passable, because a user namespace's root is another user.
    return directory


def clean_scratch(directory: Path) -> None:
    """Remove a build's leftovers; OSError if something is mounted in them: that would delete the host's own files."""
    if not directory.exists():
        return
    inside = f"{directory.resolve()}/"
    if any(line.split()[4].startswith(inside) for line in mount_table().splitlines()):
        raise OSError(f"{directory} has something mounted in it.")
    shutil.rmtree(directory)


def mount_table() -> str:
    """The kernel's list of what is mounted; the fifth word of a line is where."""
    return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
