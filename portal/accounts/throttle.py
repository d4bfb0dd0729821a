"""Slows down guessing of passwords: so many failures for a name from an address, then a pause.

Counted in Django's cache, which by default is each web process's own memory: with several processes a guesser has as
many times the tries, which is still far too few to guess.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

MOST_FAILURES = 10
PAUSE_S = 60


@dataclass(frozen=True, slots=True)
class Attempt:
    username: str
    ip: str | None

    @property
    def key(self) -> str:
        """Hashed: what people type into a name field may be their password."""
        digest = hashlib.sha256(f"{self.ip}\n{self.username.lower()}".encode()).hexdigest()
        return f"login-failures:{digest}"


def check(attempt: Attempt) -> None:
    if cache.get(attempt.key, 0) >= MOST_FAILURES:
        raise ValidationError(_("Too many failed tries. Wait a minute, then try again."), code="throttled")


def record_failure(attempt: Attempt) -> None:
    cache.add(attempt.key, 0, PAUSE_S)
    try:
        cache.incr(attempt.key)
    except ValueError:
        # It expired between the two lines: this failure is the first of a new minute.
        cache.set(attempt.key, 1, PAUSE_S)


def forget(attempt: Attempt) -> None:
    cache.delete(attempt.key)
