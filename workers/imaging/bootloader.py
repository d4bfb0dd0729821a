"""GRUB for BIOS and UEFI, made by grub-mkimage and put into place as bytes: no loop device, no mount, no install step.

Layouts are those of GRUB 2's own `grub-bios-setup`: boot.img (the MBR) says where core.img begins; core.img's first
sector says where the rest of it lies. Source: GRUB's include/grub/i386/pc/boot.h and util/setup.c.
"""

import struct
from pathlib import Path
from typing import IO

from workers.imaging.commands import run
from workers.imaging.errors import ImageBuildError

SECTOR = 512
KERNEL_SECTOR_AT = 0x5C
DRIVE_CHECK_AT = 0x66
MBR_CODE_BYTES = 0x1B8  # What follows is the disk's signature and its partition table.
BLOCKLIST_AT = SECTOR - 12
LOAD_SEGMENT = 0x820
# Everything that the menu needs is inside, so that the image itself holds nothing but grub.cfg.
COMMON_MODULES = ("part_gpt", "ext2", "search", "search_fs_uuid", "normal", "configfile", "test", "linux")
BIOS_MODULES = (*COMMON_MODULES, "biosdisk", "linux16")
UEFI_MODULES = (*COMMON_MODULES, "efi_gop", "all_video", "fat")
HOST_MODULES = (Path("/usr/lib/grub"), Path("/usr/share/grub"), Path("/usr/lib/grub2"))


def menu(root_uuid: str, arguments: tuple[str, ...]) -> str:
    """grub.cfg: boots at once. Debian keeps /vmlinuz and /initrd.img pointing at the newest kernel.

    On a BIOS the kernel is started by its 16-bit entry: GRUB's 32-bit loader first moves the kernel's whole room in
    memory (over 50 MB) byte by byte, which under software emulation is half the time until the kernel starts.
    """
    line = " ".join((f"root=UUID={root_uuid}", "ro", *arguments))
    return (
        "set default=0\nset timeout=0\n"
        "set kernel=linux\nset ramdisk=initrd\n"
        'if [ "$grub_platform" = pc ]; then\n  set kernel=linux16\n  set ramdisk=initrd16\nfi\n'
        f"menuentry 'Newest kernel' {{\n  $kernel /vmlinuz {line}\n  $ramdisk /initrd.img\n}}\n"
        f"menuentry 'Kernel before that' {{\n  $kernel /vmlinuz.old {line}\n  $ramdisk /initrd.img.old\n}}\n"
    )


def make_bios_core(destination: Path, *, root_uuid: str) -> None:
    """core.img for a BIOS boot partition."""
    _mkimage("i386-pc", BIOS_MODULES, destination, root_uuid)


def make_uefi_loader(destination: Path, *, root_uuid: str) -> None:
    """A stand-alone loader to be called EFI/BOOT/BOOTX64.EFI."""
    _mkimage("x86_64-efi", UEFI_MODULES, destination, root_uuid)


def _mkimage(platform: str, modules: tuple[str, ...], destination: Path, root_uuid: str) -> None:
    config = destination.with_suffix(".cfg")
    config.write_text(f"search.fs_uuid {root_uuid} root\nset prefix=($root)/boot/grub\n", encoding="ascii")
    argv = ["grub-mkimage", "-O", platform, "-d", str(module_directory(platform)), "-p", "/boot/grub"]
    run([*argv, "-c", str(config), "-o", str(destination), *modules])


def module_directory(platform: str) -> Path:
    """Where the host keeps GRUB's modules for `platform`; ImageBuildError when they are not installed."""
    for directory in HOST_MODULES:
        if (directory / platform / "moddep.lst").exists():
            return directory / platform
    package = "grub-pc-bin" if platform == "i386-pc" else "grub-efi-amd64-bin"
    raise ImageBuildError(f"The host lacks GRUB's files for {platform}: install {package}.")


def embed_bios(disk: IO[bytes], *, boot_image: bytes, core: bytes, start_sector: int, sectors: int) -> None:
    """Write MBR code and core.img into an open disk whose BIOS boot partition is `sectors` long."""
    if len(core) > sectors * SECTOR:
        raise ImageBuildError("The boot loader is larger than its partition.")
    disk.seek(0)
    disk.write(patched_mbr_code(boot_image, start_sector))
    disk.seek(start_sector * SECTOR)
    disk.write(patched_core(core, start_sector))


def patched_mbr_code(boot_image: bytes, core_sector: int) -> bytes:
    """boot.img's code (440 bytes) told where core.img begins, and to believe the BIOS about the drive's number."""
    code = bytearray(boot_image[:MBR_CODE_BYTES])
    struct.pack_into("<Q", code, KERNEL_SECTOR_AT, core_sector)
    code[DRIVE_CHECK_AT : DRIVE_CHECK_AT + 2] = b"\x90\x90"
    return bytes(code)


def patched_core(core: bytes, core_sector: int) -> bytes:
    """core.img with its block list saying that sectors two and following come right after the first."""
    padded = bytearray(core.ljust(-(-len(core) // SECTOR) * SECTOR, b"\0"))
    rest = len(padded) // SECTOR - 1
    struct.pack_into("<QHH", padded, BLOCKLIST_AT, core_sector + 1, rest, LOAD_SEGMENT)
    return bytes(padded)
