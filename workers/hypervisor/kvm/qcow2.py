"""The few header fields of a qcow2 file that decide whether it is safe, read without any tool."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from workers.hypervisor.errors import HypervisorError, VolumeNotFoundError

_MAGIC = b"QFI\xfb"
_EXTERNAL_DATA_FILE = 1 << 2
# magic, version, backing offset and length, cluster bits, virtual size, …, incompatible features at byte 72.
_HEAD = struct.Struct(">4sIQIIQ")
_HEADER_BYTES = 80


@dataclass(frozen=True, slots=True)
class Qcow2Header:
    virtual_size: int
    has_backing_file: bool
    has_data_file: bool

    @property
    def stands_alone(self) -> bool:
        return not (self.has_backing_file or self.has_data_file)


def read_header(path: Path) -> Qcow2Header:
    """`VolumeNotFoundError` if the file is missing, `HypervisorError` ("invalid-image") if it is no qcow2 file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise VolumeNotFoundError("The volume is not on the host.") from error
    with os.fdopen(descriptor, "rb") as file:
        return parse_header(file.read(_HEADER_BYTES))


def parse_header(head: bytes) -> Qcow2Header:
    if len(head) < _HEADER_BYTES or head[:4] != _MAGIC:
        raise HypervisorError("The image is not a qcow2 file.", code="invalid-image")
    _magic, version, backing_offset, _length, _bits, size = _HEAD.unpack_from(head)
    if version not in {2, 3}:
        raise HypervisorError("The image's qcow2 version is not known.", code="invalid-image")
    features = struct.unpack_from(">Q", head, 72)[0] if version == 3 else 0
    return Qcow2Header(size, backing_offset != 0, bool(features & _EXTERNAL_DATA_FILE))
