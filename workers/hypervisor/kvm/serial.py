"""A machine's serial port: the socket that QEMU listens on, and the log of what the guest printed there.

The log is the guest's own words in a file that QEMU or libvirt's log daemon appends to. The daemon renames a file of
2 MiB to `serial.log.0` and keeps three of them; without it the driver cuts the file and keeps its end as
`serial.old.log`, see `Storage.trim_serial_logs`.
"""

from __future__ import annotations

import os
import stat
import xml.etree.ElementTree as ET
from pathlib import Path

from workers.hypervisor.kvm.storage import storage_errors

LOG_MOST_BYTES = 8 * 1024 * 1024
# Oldest first.
_LOG_FILES = ("serial.old.log", "serial.log.2", "serial.log.1", "serial.log.0", "serial.log")


def socket_of(definition: ET.Element) -> str:
    """The path of the first serial port's socket, from a running domain's XML; empty if it is something else."""
    port = definition.find("devices/serial")
    source = None if port is None or port.get("type") != "unix" else port.find("source[@mode='bind']")
    return "" if source is None else source.get("path", "")


def read_log(folder: Path) -> bytes:
    """The last LOG_MOST_BYTES of what the guest printed. A file may be cut or renamed while it is read."""
    left, pieces = LOG_MOST_BYTES, []
    with storage_errors("read the console's log"):
        for name in reversed(_LOG_FILES):
            piece = _tail(folder / name, left)
            pieces.append(piece)
            left -= len(piece)
    return b"".join(reversed(pieces))


def _tail(path: Path, most: int) -> bytes:
    """No link is followed and no device read: the file is QEMU's."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return b""
        file.seek(max(0, status.st_size - most))
        return file.read(most)
