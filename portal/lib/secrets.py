"""Secrets at rest: what must be read again (a guest's first password, a VNC secret) is kept encrypted."""

import base64
import hashlib
import secrets

from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings

# No 0/O, 1/l/I: people type these from a screen.
_ALPHABET = "abcdefghjkmnpqrstuvwxyzABCDEFGHJKMNPQRSTUVWXYZ23456789"


def _fernet() -> Fernet:
    key = hashlib.sha256(b"casement-at-rest:" + settings.SECRET_KEY.encode()).digest()
    return Fernet(base64.urlsafe_b64encode(key))


def seal(text: str) -> str:
    """Encrypt; the empty text stays empty."""
    return _fernet().encrypt(text.encode()).decode() if text else ""


def unseal(sealed: str) -> str:
    """Decrypt what `seal` gave. Empty when it was sealed with another SECRET_KEY: the secret is lost then."""
    try:
        return _fernet().decrypt(sealed.encode()).decode() if sealed else ""
    except InvalidToken:
        return ""


def new_password(length: int = 14) -> str:
    """A password that a person can type, of about 5.7 bits a character."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
