"""Secrets at rest: what must be read again (a guest's first password, a VNC secret) is kept encrypted."""

import base64
import hashlib
import secrets
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings

# No 0/O, 1/l/I: people type these from a screen.
_ALPHABET = "abcdefghjkmnpqrstuvwxyzABCDEFGHJKMNPQRSTUVWXYZ23456789"

# By it people, and scanners of secrets, know an API token; see portal.accounts.tokens.
TOKEN_PREFIX = "casement_"  # noqa: S105 - a beginning, and no secret

# Every token of Fernet begins with its version, and the first bytes of a time before the year 2106.
_SEALED = "gAAAAA"


def _fernet(secret_key: str | None = None) -> Fernet:
    key = hashlib.sha256(b"casement-at-rest:" + (secret_key or settings.SECRET_KEY).encode()).digest()
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


class Resealer:
    """Seals anew what was sealed with another SECRET_KEY. Called with any value: all else is given back as it is.

    It tells sealed texts by opening them, so no list of columns has to be kept.
    """

    def __init__(self, old_key: str) -> None:
        self._old = None if old_key == settings.SECRET_KEY else _fernet(old_key)

    def __call__(self, value: Any) -> Any:
        if self._old is None:
            return value
        if isinstance(value, dict):
            return {name: self(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self(item) for item in value]
        if not isinstance(value, str) or not value.startswith(_SEALED):
            return value
        try:
            return seal(self._old.decrypt(value.encode()).decode())
        except InvalidToken:
            return value


def hash_of(secret: str) -> str:
    """Of a secret that is random enough for a fast hash: nobody finds the origin of 256 random bits."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def new_password(length: int = 14) -> str:
    """A password that a person can type, of about 5.7 bits a character."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
