"""How passwords are kept."""

from __future__ import annotations

from django.contrib.auth import hashers


class Argon2Hasher(hashers.Argon2PasswordHasher):
    """Argon2id as OWASP's cheat sheet has it first: one pass over 46 MiB on one processor.

    Who guesses needs that memory for each try; who signs in waits some 60 ms. Django's own numbers, and its scrypt,
    take five times as much of a processor, which ten people who come at the same moment wait for.
    """

    time_cost = 1
    memory_cost = 47_104
    parallelism = 1
