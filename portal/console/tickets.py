"""Console tickets: what lets one WebSocket through, once, within half a minute.

A ticket is 256 random bits. Redis knows its SHA-256 only, so who reads Redis cannot use what is found there; GETDEL
makes redeeming atomic, however many web processes are asked at the same moment. It travels in a WebSocket subprotocol,
never in a URL, because URLs end up in logs.
"""

from __future__ import annotations

import enum
import hashlib
import json
import logging
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, cast
from uuid import UUID, uuid4

from portal.lib.secrets import TOKEN_PREFIX, hash_of
from portal.lib.store import store

TTL_S: Final = 30
SUBPROTOCOL_PREFIX: Final = "casement.ticket."
TOKEN_CREDENTIAL: Final = "token:"  # noqa: S105 - a beginning, and no secret
_API_TOKEN_IN_TEXT: Final = re.compile(re.escape(TOKEN_PREFIX) + r"[A-Za-z0-9_-]{20,}")
_TICKET_IN_TEXT: Final = re.compile(re.escape(SUBPROTOCOL_PREFIX) + r"[A-Za-z0-9_-]+")
_SHARED_IN_TEXT: Final = re.compile(r"(shared(?:/|%(?:25)*2F))[A-Za-z0-9_-]{8,}", re.IGNORECASE)


class Mode(enum.StrEnum):
    """`VIEW` is enforced by the relay: nothing that a watcher types reaches the machine."""

    CONTROL = "control"
    VIEW = "view"


class Kind(enum.StrEnum):
    """Which of a machine's two consoles: both have the same rights, limits and rules."""

    SCREEN = "screen"
    SERIAL = "serial"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a ticket stands for. `session` is the hash of the session key of the browser that asked for it.

    `number` will be the console session's.
    """

    user_id: int
    session: str
    machine_id: UUID
    mode: Mode
    number: UUID = field(default_factory=uuid4)
    kind: Kind = Kind.SCREEN


def session_hash(session_key: str | None) -> str:
    """Hashed, since a session key is as good as a password. No session has no hash that could match.

    Whoever came by an API token has `credential_of` it in the place of a session key.
    """
    return _digest(session_key) if session_key else ""


def credential_of(token_hash: str) -> str:
    """What stands for an API token where a session key stands for a browser. No session key has such a beginning."""
    return f"{TOKEN_CREDENTIAL}{token_hash}"


def credential_in(authorization: Sequence[str]) -> str | None:
    """From the Authorization headers of a WebSocket's request, which no page can send: only programs do."""
    kind, _space, secret = authorization[0].partition(" ") if len(authorization) == 1 else ("", "", "")
    return credential_of(hash_of(secret)) if kind.lower() == "bearer" and secret.startswith(TOKEN_PREFIX) else None


def issue(claim: Claim) -> str:
    """Store the claim and give the ticket, which nobody can see again."""
    token, key, value = prepare(claim)
    store().set(key, value, ex=TTL_S)
    return token


def prepare(claim: Claim) -> tuple[str, str, str]:
    """A ticket, and under which key Redis must hold which value for it to be good."""
    token = secrets.token_urlsafe(32)
    value = json.dumps([claim.user_id, claim.session, str(claim.machine_id), claim.mode, str(claim.number), claim.kind])
    return token, _key(token), value


def redeem(token: str) -> Claim | None:
    """The claim behind a ticket, which is spent by this; None when it is unknown, too old or spent before."""
    value = cast(bytes | None, store().getdel(_key(token)))
    if value is None:
        return None
    user_id, session, machine_id, mode, number, kind = json.loads(value)
    return Claim(user_id, session, UUID(machine_id), Mode(mode), UUID(number), Kind(kind))


def from_subprotocols(subprotocols: Sequence[str]) -> str | None:
    """The ticket among the offered subprotocols; two of them are as bad as none."""
    found = [name.removeprefix(SUBPROTOCOL_PREFIX) for name in subprotocols if name.startswith(SUBPROTOCOL_PREFIX)]
    return found[0] if len(found) == 1 and found[0] else None


class TicketScrubber(logging.Filter):
    """Blots secrets out of log records: tickets and API tokens, since web servers print all headers of a WebSocket when
    they log in detail, and the tokens of share links, which stand in requested addresses and in those to go to after
    signing in.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        clean = _SHARED_IN_TEXT.sub(r"\1***", _TICKET_IN_TEXT.sub(f"{SUBPROTOCOL_PREFIX}***", text))
        clean = _API_TOKEN_IN_TEXT.sub(f"{TOKEN_PREFIX}***", clean)
        if clean != text:
            record.msg, record.args = clean, None
        return True


def _key(token: str) -> str:
    return f"casement:console:ticket:{_digest(token)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
