"""Who must have signed a file of checksums, and where their keys are.

Operators put keys into the folder `keyrings` of CASEMENT_HOME, one file for each maker: `fedora.asc`, `ubuntu.gpg`.
What the system's own packages bring is used as well. Where a maker signs and there is a key, a signature is demanded.
"""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Final

from django.conf import settings

MOST_BYTES: Final = 256 * 1024
MOST_KEY_CHARACTERS: Final = 400_000
_OFFICIAL: Final = "official:"
_SYSTEM: Final = Path("/usr/share/keyrings")
# By maker, of packages that Debian or Ubuntu have (ubuntu-cloudimage-keyring).
_SYSTEM_KEYRINGS: Final = {"ubuntu": ("ubuntu-cloudimage-keyring.gpg",)}
_ARMOR: Final = re.compile(
    r"-----BEGIN PGP PUBLIC KEY BLOCK-----\s*?\n(?P<head>(?:[A-Za-z]+: .*\n)*)\s*\n"
    r"(?P<body>[A-Za-z0-9+/=\s]+?)(?:\n=[A-Za-z0-9+/]{4})?\s*\n-----END PGP PUBLIC KEY BLOCK-----"
)


class KeyTextError(Exception):
    """This is no public key."""


def of_maker(maker: str) -> str:
    """What a version keeps as its `signing_key` when it is for the portal to know the key."""
    return f"{_OFFICIAL}{maker}"


def is_makers(signing_key: str) -> bool:
    """It names a maker whose key the portal knows where to find."""
    return signing_key.startswith(_OFFICIAL)


def keyring_of(signing_key: str) -> bytes:
    """The keys in OpenPGP's own form, for gpgv; empty if nobody's signature is demanded. KeyTextError for a file that
    holds no key: better nothing is fetched than anything believed.
    """
    maker = signing_key.removeprefix(_OFFICIAL)
    if maker == signing_key:
        return dearmored(signing_key) if signing_key else b""
    file = file_of(maker)
    if file is None:
        return b""
    data = file.read_bytes()
    return data if _is_binary(data) else dearmored(data.decode("utf-8", errors="replace"))


def file_of(maker: str) -> Path | None:
    """The file with a maker's keys: the operator's, or the system's."""
    own = (Path(settings.KEYRINGS_DIR) / f"{maker}{suffix}" for suffix in (".gpg", ".asc"))
    known = (_SYSTEM / name for name in _SYSTEM_KEYRINGS.get(maker, ()))
    return next((path for path in (*own, *known) if path.is_file()), None)


def dearmored(text: str) -> bytes:
    """Of one or more blocks as `gpg --armor --export` writes them. KeyTextError if there is none that can be read."""
    blocks = [match["body"] for match in _ARMOR.finditer(text.replace("\r\n", "\n"))]
    try:
        keys = b"".join(base64.b64decode(re.sub(r"\s", "", block), validate=True) for block in blocks)
    except binascii.Error as error:
        raise KeyTextError from error
    if not _is_binary(keys) or len(keys) > MOST_BYTES:
        raise KeyTextError
    return keys


def _is_binary(data: bytes) -> bool:
    """It begins with a public key's packet (tag 6), in the old form or the new."""
    return data[:1] == b"\xc6" or (data[:1] != b"" and data[0] & 0xFC == 0x98)
