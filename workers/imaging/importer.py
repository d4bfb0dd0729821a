"""Take in an image that somebody else made: look at it, check it, and copy it into a fresh qcow2 of our own.

What is kept is never the file that was uploaded: qemu-img reads it with its format fixed and its resources limited,
and writes new tables, so no crafted header survives.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from workers.imaging import commands, qemu_img
from workers.imaging.errors import CommandFailed, ImageRejected
from workers.imaging.facts import ImageFacts
from workers.imaging.files import partial_file, sha256_of
from workers.imaging.inspector import Limits as InspectorLimits
from workers.imaging.inspector import inspect_image

MIB = 1024 * 1024
GIB = 1024 * MIB
BLOCK = 4 * MIB


@dataclass(frozen=True)
class ImportLimits:
    """Caps for one import: sizes in bytes, times in seconds. `max_result_bytes` also caps what qemu-img may write."""

    max_virtual_bytes: int = 128 * GIB
    max_source_bytes: int = 32 * GIB
    max_result_bytes: int = 64 * GIB
    memory_bytes: int = 1 * GIB
    cpu_seconds: int = 1800
    timeout: float = 3600


Report = Callable[[int, str], None]


def import_image(source: Path, destination: Path, *, limits: ImportLimits, progress: Report) -> ImageFacts:
    """Make the qcow2 `destination` out of the uploaded `source`, which is left as it is.

    Nothing is at `destination` unless all went well; a hidden `.partial` file beside it can outlive only a SIGKILL,
    and the next import of the same name removes it. The facts carry both digests. An exception out of `progress`
    (percent 0-100, what is being done) cancels. Raises ImageRejected; OSError when the disk is full or unreadable.
    """
    progress(0, "Inspecting")
    if source.lstat().st_size > limits.max_source_bytes:
        raise ImageRejected("too-large", f"The file is larger than the {limits.max_source_bytes // GIB} GiB allowed.")
    found = inspect_image(source, limits=InspectorLimits(limits.max_virtual_bytes))
    progress(2, "Reading the upload")
    source_digest = _digest(source, lambda percent: progress(2 + percent * 18 // 100, "Reading the upload"))
    progress(20, "Checking")
    _check(source, found, limits)
    with partial_file(destination) as partial:
        _convert(source, partial, found, limits, progress)
        facts = _accepted(partial, found, limits)
        facts = replace(facts, sha256=sha256_of(partial), source_sha256=source_digest)
        partial.replace(destination)
    progress(100, "Done")
    return facts


def _digest(path: Path, progress: Callable[[int], None]) -> str:
    """SHA-256 in lower-case hex, 4 MiB at a time, so that a long read can be seen and cancelled."""
    digest, size, done = hashlib.sha256(), path.stat().st_size, 0
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            done += len(block)
            progress(min(done * 100 // size, 100))
    return digest.hexdigest()


def _sandbox(limits: ImportLimits) -> commands.Limits:
    return commands.Limits(
        address_space=limits.memory_bytes,
        file_size=limits.max_result_bytes,
        cpu_seconds=limits.cpu_seconds,
        timeout=limits.timeout,
    )


def _check(source: Path, found: ImageFacts, limits: ImportLimits) -> None:
    try:
        qemu_img.check(source, found.format, limits=_sandbox(limits))
    except CommandFailed as error:
        raise ImageRejected(
            "damaged", "This image is damaged or was cut off: its check failed. Upload it again, or convert it anew."
        ) from error


def _convert(source: Path, partial: Path, found: ImageFacts, limits: ImportLimits, progress: Report) -> None:
    progress(25, "Converting")
    try:
        qemu_img.convert(
            source,
            partial,
            source_format=found.format,
            limits=_sandbox(limits),
            progress=lambda percent: progress(25 + percent * 70 // 100, "Converting"),
        )
    except CommandFailed as error:
        raise ImageRejected(
            "not-convertible", "This image could not be converted within its limits of size, memory and time."
        ) from error


def _accepted(partial: Path, found: ImageFacts, limits: ImportLimits) -> ImageFacts:
    facts = inspect_image(partial, limits=InspectorLimits(limits.max_virtual_bytes))
    if facts.format != "qcow2" or facts.virtual_size_bytes != found.virtual_size_bytes:
        raise ImageRejected("changed", "The file changed while it was imported. Upload it again.")
    return facts
