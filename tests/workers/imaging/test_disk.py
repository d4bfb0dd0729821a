import struct
import subprocess
import uuid
import zlib
from pathlib import Path

import pytest

from workers.imaging import bootloader, disk
from workers.imaging.errors import ImageBuildError

MIB = 1024 * 1024
SIZE = 128 * MIB


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk packed from a tree that has all a disk needs, though nothing that would run."""
    directory = tmp_path_factory.mktemp("disk")
    root = directory / "root"
    (root / "boot/grub").mkdir(parents=True)
    for name in ("vmlinuz", "initrd.img", "boot/grub/grub.cfg"):
        (root / name).write_text(name)
    (root / "suid").write_text("")
    (root / "suid").chmod(0o4755)
    disk.pack_disk(root, directory / "disk", size_bytes=SIZE, root_uuid=str(uuid.uuid4()), scratch=directory)
    return directory / "disk"


def test_both_partition_tables_are_whole(packed: Path) -> None:
    image = packed.read_bytes()
    for offset in (512, SIZE - 512):
        header = bytearray(image[offset : offset + 92])
        assert header[:8] == b"EFI PART"
        checksum = struct.unpack_from("<I", header, 16)[0]
        header[16:20] = bytes(4)
        assert zlib.crc32(header) == checksum


def test_partitions_touch_nothing_but_themselves(packed: Path) -> None:
    root = disk.root_partition(SIZE)
    assert disk.BIOS_BOOT.start + disk.BIOS_BOOT.size <= disk.ESP.start
    assert disk.ESP.start + disk.ESP.size <= root.start
    assert (root.start + root.size) * 512 <= SIZE - 34 * 512
    assert root.start * 512 % MIB == 0


def test_the_mbr_leads_to_the_loader_and_keeps_its_table(packed: Path) -> None:
    image = packed.read_bytes()
    assert image[510:512] == b"\x55\xaa"
    assert image[446 + 4] == 0xEE
    assert struct.unpack_from("<Q", image, 0x5C)[0] == disk.BIOS_BOOT.start
    assert image[0x66:0x68] == b"\x90\x90"


def test_the_loaders_first_sector_leads_to_its_second(packed: Path) -> None:
    sector = packed.read_bytes()[disk.BIOS_BOOT.start * 512 :][:512]
    start, length, segment = struct.unpack_from("<QHH", sector, 500)
    assert start == disk.BIOS_BOOT.start + 1
    assert 0 < length < disk.BIOS_BOOT.size
    assert segment == 0x820


def test_the_root_file_system_is_clean_and_keeps_owners_and_modes(packed: Path, tmp_path: Path) -> None:
    root = tmp_path / "root.ext4"
    layout = disk.root_partition(SIZE)
    root.write_bytes(packed.read_bytes()[layout.start * 512 : (layout.start + layout.size) * 512])
    subprocess.run(["e2fsck", "-fn", root], check=True, capture_output=True)
    told = subprocess.run(["debugfs", "-R", "stat /suid", root], check=True, capture_output=True, text=True).stdout
    assert "Mode:  04755" in told


def test_the_efi_partition_holds_the_loader(packed: Path, tmp_path: Path) -> None:
    esp = tmp_path / "esp"
    esp.write_bytes(packed.read_bytes()[disk.ESP.start * 512 :][: disk.ESP.size * 512])
    subprocess.run(["mcopy", "-i", esp, "::/EFI/BOOT/BOOTX64.EFI", tmp_path / "loader"], check=True)
    assert (tmp_path / "loader").read_bytes()[:2] == b"MZ"


def test_a_loader_too_large_for_its_partition_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "disk").open("w+b") as stream, pytest.raises(ImageBuildError, match="larger"):
        bootloader.embed_bios(stream, boot_image=bytes(512), core=bytes(1025), start_sector=1, sectors=2)


def test_the_menu_holds_no_more_than_root_and_arguments() -> None:
    text = bootloader.menu("u-u-i-d", ("console=tty0", "quiet"))
    assert "$kernel /vmlinuz root=UUID=u-u-i-d ro console=tty0 quiet\n" in text


def test_leftovers_with_something_mounted_in_them_are_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch/root/proc").mkdir(parents=True)
    table = f"1 2 0:1 / {tmp_path}/scratch/root/proc rw - proc proc rw\n"
    monkeypatch.setattr(disk, "mount_table", lambda: table)
    with pytest.raises(OSError, match="mounted"):
        disk.clean_scratch(tmp_path / "scratch")
    assert (tmp_path / "scratch/root/proc").exists()
