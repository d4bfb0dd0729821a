"""Write a file under a hidden name and give it its own only when it is whole."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def partial_file(destination: Path) -> Iterator[Path]:
    """A hidden name beside `destination` to write to; whatever has that name before and after is removed."""
    partial = partial_path(destination)
    partial.unlink(missing_ok=True)
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def partial_path(destination: Path) -> Path:
    return destination.with_name(f".{destination.name}.partial")


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in lower-case hex; also makes sure that it is on the disk before anyone renames it."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        return hashlib.file_digest(stream, "sha256").hexdigest()
