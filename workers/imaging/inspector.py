"""Say what an image file is by reading its header, and refuse everything that is not a plain qcow2 or raw disk.

Its own parser, because asking a tool that opens images would already follow what a hostile header points at.
Layout: QEMU's docs/interop/qcow2.txt; integers are big-endian.
"""

import os
import stat
import struct
from dataclasses import dataclass, replace
from pathlib import Path

from workers.imaging.errors import ImageRejected
from workers.imaging.facts import ImageFacts, ImageFormat

KIB, MIB, GIB, TIB = 1024, 1024**2, 1024**3, 1024**4
MAX_VIRTUAL_BYTES = 16 * TIB
# A fresh qcow2 of 16 TiB is 200 KiB, so emptiness alone is no bomb: what counts is the table that a reader must load.
MAX_L1_BYTES = 32 * MIB
HEADER_BYTES = 64 * KIB  # The header and its extensions lie in the first cluster; 64 KiB hold any real one.
SECTOR = 512
CLUSTER_BITS = range(9, 22)
# Incompatible feature bits: 0 dirty, 1 corrupt, 2 external data file, 3 compression type, 4 extended L2 entries.
DIRTY, CORRUPT, DATA_FILE, COMPRESSION, EXTENDED_L2 = (1 << bit for bit in range(5))
DATA_FILE_EXTENSION, BACKING_FORMAT_EXTENSION, ENCRYPTION_EXTENSION = 0x44415441, 0xE2792ACA, 0x0537BE77
CONVERT = "convert it with: qemu-img convert -O qcow2"

# (offset, magic, code, sentence): formats that are not accepted, with the way out.
FOREIGN: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x1f\x8b", "gzip", "This is a gzip archive; unpack it and upload the disk inside."),
    (0, b"\xfd7zXZ\0", "xz", "This is an xz archive; unpack it and upload the disk inside."),
    (0, b"\x28\xb5\x2f\xfd", "zstd", "This is a Zstandard archive; unpack it and upload the disk inside."),
    (0, b"BZh", "bzip2", "This is a bzip2 archive; unpack it and upload the disk inside."),
    (0, b"PK\x03\x04", "zip", "This is a ZIP archive; unpack it and upload the disk inside."),
    (0, b"7z\xbc\xaf\x27\x1c", "7z", "This is a 7-Zip archive; unpack it and upload the disk inside."),
    (0, b"Rar!", "rar", "This is a RAR archive; unpack it and upload the disk inside."),
    (257, b"ustar", "tar", "This is a tar archive (an OVA is one too); unpack it and upload the disk inside."),
    (0, b"KDMV", "vmdk", f"This is a VMware disk (VMDK); {CONVERT}."),
    (0, b"COWD", "vmdk", f"This is a VMware disk (VMDK); {CONVERT}."),
    (0, b"# Disk DescriptorFile", "vmdk", f"This is only the description of a VMware disk; {CONVERT}."),
    (0x40, b"\x7f\x10\xda\xbe", "vdi", f"This is a VirtualBox disk (VDI); {CONVERT}."),
    (0, b"vhdxfile", "vhdx", f"This is a Hyper-V disk (VHDX); {CONVERT}."),
    (0, b"conectix", "vhd", f"This is a Hyper-V disk (VHD); {CONVERT}."),
    (0, b"QED\0", "qed", f"This is a QED disk; {CONVERT}."),
    (0, b"LUKS\xba\xbe", "luks", "This disk is encrypted (LUKS); decrypt it before you upload it."),
    (0, b"WithoutFreeSpace", "parallels", f"This is a Parallels disk; {CONVERT}."),
    (0, b"WithouFreSpacExt", "parallels", f"This is a Parallels disk; {CONVERT}."),
    (0, b"koly", "dmg", "This is an Apple disk image (DMG), which no guest here can start from."),
    (0, b"\x7fELF", "elf", "This is a program, not a disk image."),
    (0, b"MSWIM\0\0\0", "wim", "This is a Windows installation archive (WIM); upload an installed disk instead."),
)
ISO_AT = 0x8001


@dataclass(frozen=True)
class Limits:
    """The largest disk that is accepted, in bytes as the guest sees it."""

    max_virtual_bytes: int = MAX_VIRTUAL_BYTES


def inspect_image(path: Path, *, limits: Limits = Limits()) -> ImageFacts:
    """Facts about the file at `path`, which must be a regular file (no symbolic link). The name does not matter.

    Reads the first 64 KiB and the last sector only, so damage further in is `qemu_img.check`'s to find.
    Raises ImageRejected with a code and a sentence for people; OSError when the file cannot be read.
    """
    head, tail, size = _ends(path)
    fmt, virtual = _identify(head, tail, size)
    if virtual > limits.max_virtual_bytes:
        raise ImageRejected(
            "too-large",
            f"The disk has {virtual / GIB:,.1f} GiB; at most {limits.max_virtual_bytes / GIB:,.1f} are allowed.",
        )
    return ImageFacts(format=fmt, virtual_size_bytes=virtual, size_bytes=size)


def _ends(path: Path) -> tuple[bytes, bytes, int]:
    """The first 64 KiB, the last sector, and the size. O_NONBLOCK, so that a FIFO cannot hold the worker."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise ImageRejected("not-a-file", "This is a link, not a file.") from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ImageRejected("not-a-file", "This is not an ordinary file.")
        head = os.pread(descriptor, HEADER_BYTES, 0)
        tail = os.pread(descriptor, SECTOR, max(status.st_size - SECTOR, 0))
        return head, tail, status.st_size
    finally:
        os.close(descriptor)


def _identify(head: bytes, tail: bytes, size: int) -> tuple[ImageFormat, int]:
    if size == 0:
        raise ImageRejected("empty", "The file is empty; the upload was probably cut off. Upload it again.")
    if head.startswith(b"QFI"):
        return "qcow2", _qcow2_virtual_size(head, size)
    _refuse_foreign(head, tail)
    return "raw", _raw_virtual_size(head, size)


def _refuse_foreign(head: bytes, tail: bytes) -> None:
    for offset, magic, code, sentence in FOREIGN:
        if head[offset : offset + len(magic)] == magic:
            raise ImageRejected(code, sentence)
    if head[ISO_AT : ISO_AT + 5] == b"CD001":
        raise ImageRejected("iso", "This is an installation CD (ISO 9660); install from it, and upload the disk.")
    # A fixed-size VHD is a raw disk with a footer, and a DMG has its mark only at the end.
    if tail.startswith((b"conectix", b"koly")):
        _refuse_foreign(tail, b"")


def _raw_virtual_size(head: bytes, size: int) -> int:
    if len(head) < SECTOR or head[510:512] != b"\x55\xaa":
        raise ImageRejected(
            "unknown", "This is neither a qcow2 image nor a disk with a boot sector. Upload the image of a whole disk."
        )
    if size % SECTOR:
        raise ImageRejected("truncated", "The disk does not end at a whole sector; it was cut off. Upload it again.")
    return size


@dataclass(frozen=True)
class Qcow2Header:
    """The fields that decide; offsets and sizes in bytes, `l1_size` in entries of 8 bytes."""

    version: int
    backing_file_offset: int
    backing_file_size: int
    cluster_bits: int
    virtual_size: int
    crypt_method: int
    l1_size: int
    l1_table_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int
    snapshots: int
    snapshots_offset: int
    incompatible: int = 0
    refcount_order: int = 4
    header_length: int = 72


def _qcow2_virtual_size(head: bytes, size: int) -> int:
    header = parse_qcow2(head)
    _refuse_damage(header)
    _refuse_pointers(header)
    _refuse_features(header)
    _refuse_extensions(head, header)
    _refuse_insane(header, size)
    return header.virtual_size


def parse_qcow2(head: bytes) -> Qcow2Header:
    """Read the header of qcow2 version 2 or 3; ImageRejected when it is cut short or another version."""
    if len(head) < 72:
        raise ImageRejected("truncated", "This qcow2 image ends within its header; it was cut off. Upload it again.")
    magic, version = struct.unpack_from(">4sI", head)
    if magic != b"QFI\xfb" or version not in (2, 3):
        raise ImageRejected("qcow-version", f"This is no qcow2 image of version 2 or 3; {CONVERT}.")
    values = struct.unpack_from(">QIIQIIQQIIQ", head, 8)
    if version == 2:
        return Qcow2Header(version, *values)
    if len(head) < 104:
        raise ImageRejected("truncated", "This qcow2 image ends within its header; it was cut off. Upload it again.")
    incompatible, _compatible, _autoclear, order, length = struct.unpack_from(">QQQII", head, 72)
    header = Qcow2Header(version, *values)
    return replace(header, incompatible=incompatible, refcount_order=order, header_length=length)


def _refuse_damage(header: Qcow2Header) -> None:
    """First of all, because the cluster's size is an exponent: a wrong one would make us compute giant numbers."""
    if header.cluster_bits not in CLUSTER_BITS or header.refcount_order > 6:
        raise ImageRejected("damaged", "This image's header is damaged. Upload it again, or convert it anew.")


def _refuse_pointers(header: Qcow2Header) -> None:
    if header.backing_file_offset or header.backing_file_size:
        raise ImageRejected(
            "backing-file",
            "This image is only the difference to another file (its backing file); "
            "flatten it with: qemu-img convert -O qcow2, and upload the result.",
        )
    if header.incompatible & DATA_FILE:
        raise ImageRejected(
            "data-file",
            "This image keeps its data in another file; join them with: qemu-img convert -O qcow2.",
        )


def _refuse_features(header: Qcow2Header) -> None:
    if header.crypt_method:
        raise ImageRejected("encrypted", "This image is encrypted; decrypt it with qemu-img convert first.")
    if header.incompatible & (DIRTY | CORRUPT):
        raise ImageRejected(
            "dirty", "This image is marked as damaged or in use; mend it with: qemu-img check -r all, then upload it."
        )
    if header.incompatible & ~(COMPRESSION | EXTENDED_L2):
        raise ImageRejected("unknown-feature", f"This image uses a feature that is not known here; {CONVERT}.")


def _refuse_extensions(head: bytes, header: Qcow2Header) -> None:
    """Walk the header extensions: u32 type, u32 length, data padded to 8 bytes, until type 0 or the cluster ends."""
    position, end = header.header_length, min(1 << header.cluster_bits, len(head))
    if header.header_length % 8 or not 72 <= header.header_length <= 4096:
        raise ImageRejected("damaged", "This image's header is damaged. Upload it again, or convert it anew.")
    while position + 8 <= end:
        kind, length = struct.unpack_from(">II", head, position)
        if kind == 0:
            return
        if kind in (DATA_FILE_EXTENSION, BACKING_FORMAT_EXTENSION, ENCRYPTION_EXTENSION):
            raise ImageRejected("data-file", "This image names another file or a key; flatten and decrypt it first.")
        position += 8 + (length + 7) // 8 * 8


def _refuse_insane(header: Qcow2Header, size: int) -> None:
    """Numbers that no tool writes, and that would make a reader allocate, loop or run over the file's end."""
    cluster = 1 << header.cluster_bits
    entry = 16 if header.incompatible & EXTENDED_L2 else 8
    needed = -(-header.virtual_size // (cluster * (cluster // entry)))
    tables = (
        (header.l1_table_offset, header.l1_size * 8),
        (header.refcount_table_offset, header.refcount_table_clusters * cluster),
    )
    if header.virtual_size == 0:
        raise ImageRejected("empty", "This image holds a disk of size zero.")
    if header.l1_size < needed or any(length > MAX_L1_BYTES for _, length in tables):
        raise ImageRejected("damaged", "This image's tables do not fit its size. Upload it again, or convert it anew.")
    if any(offset % cluster or offset < cluster for offset, _ in tables):
        raise ImageRejected("damaged", "This image's header is damaged. Upload it again, or convert it anew.")
    # qemu-img creates tables as holes at the end, so the last table may begin at the end but not beyond it.
    if any(offset > size for offset, _ in tables) or header.l1_table_offset + header.l1_size * 8 > size + cluster:
        raise ImageRejected("truncated", "This image ends before its tables; it was cut off. Upload it again.")
