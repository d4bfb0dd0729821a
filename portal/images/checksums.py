"""Checksums as people paste them and as distributions publish them. Only what is strong enough: SHA-256 and SHA-512."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_ALGORITHMS: Final = {64: "sha256", 128: "sha512"}


@dataclass(frozen=True, slots=True)
class Checksum:
    """`algorithm` as hashlib calls it; `hex` in lower case. As text: `sha256:<hex>`."""

    algorithm: str
    hex: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def checksum_of(text: str) -> Checksum | None:
    """Of a typed one, with or without `sha256:` before it; None if it is none. How long it is says what it is."""
    match = re.fullmatch(r"(?:(sha256|sha512)[:= ])?\s*([0-9a-f]+)", text.strip().lower())
    if match is None or len(match[2]) not in _ALGORITHMS:
        return None
    algorithm = _ALGORITHMS[len(match[2])]
    return Checksum(algorithm, match[2]) if match[1] in (None, algorithm) else None


_LINES: Final = (
    re.compile(r"(?P<hex>[0-9a-fA-F]{64}|[0-9a-fA-F]{128}) [ *](?P<name>\S+)"),  # sha256sum, sha512sum
    re.compile(r"SHA(?:256|512) \((?P<name>[^)]+)\) = (?P<hex>[0-9a-fA-F]{64}|[0-9a-fA-F]{128})"),  # --tag, as BSD
)


def find_checksum(text: str, name: str) -> Checksum | None:
    """What a file of checksums says of the file `name`. Other lines, such as of a signature, are passed over."""
    for line in text.splitlines():
        for pattern in _LINES:
            match = pattern.fullmatch(line.strip())
            if match and match["name"].removeprefix("./") == name:
                return checksum_of(match["hex"])
    return None
