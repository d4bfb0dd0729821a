"""SSH public keys that people paste."""

import base64
import binascii
import hashlib

from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

_KEY_TYPES = frozenset(
    {
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)


def clean_ssh_key(value: str) -> str:
    """One OpenSSH public key as one line. Line ends and a byte-order mark around it go; options are refused."""
    text = value.strip().lstrip("\ufeff").strip()
    if not text:
        return ""
    parts = text.split()
    if len(text.splitlines()) > 1 and "PRIVATE KEY" in text:
        raise ValidationError(
            _("This is a private key. Keep it secret, and paste the .pub file instead."), code="ssh-key"
        )
    if len(text.splitlines()) > 1 or len(parts) < 2 or parts[0] not in _KEY_TYPES or not _is_key_blob(*parts[:2]):
        raise ValidationError(
            _("This is not an OpenSSH public key. It looks like “ssh-ed25519 AAAA… name” and is one line."),
            code="ssh-key",
        )
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValidationError(_("The key holds control characters."), code="ssh-key")
    return " ".join(parts)


def key_comment(line: str) -> str:
    """What stands after the key in its line: usually “person@computer”. Empty if there is nothing."""
    return (line.split(maxsplit=2)[2:] or [""])[0]


def key_fingerprint(line: str) -> str:
    """The SHA-256 fingerprint as `ssh-keygen -l` prints it; empty for what is no key."""
    try:
        return "SHA256:" + _digest(line.split()[1])
    except (IndexError, binascii.Error, ValueError):
        return ""


def _digest(blob: str) -> str:
    raw = base64.b64decode(blob, validate=True)
    return base64.b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")


def _is_key_blob(kind: str, blob: str) -> bool:
    """True if the base64 part names the same key type inside, as OpenSSH writes it."""
    try:
        raw = base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        return False
    length = int.from_bytes(raw[:4], "big")
    return raw[4 : 4 + length] == kind.encode()
