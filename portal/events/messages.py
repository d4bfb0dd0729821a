"""An event as other programs get it, and the signature by which they know that it is from here.

The form is that of Standard Webhooks (standardwebhooks.com): the body has type, timestamp and data; the headers are
webhook-id, the same at each attempt, webhook-timestamp and webhook-signature.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Any

from portal.events.models import Event


def message_of(event: Event) -> dict[str, Any]:
    """The same for an event at any time: it is made of the row alone, which never changes."""
    return {
        "type": event.kind,
        "timestamp": event.at.isoformat(),
        "data": {
            "id": str(event.uid),
            "project": str(event.project_id) if event.project_id else None,
            "subject": {"type": event.subject_type, "id": str(event.subject_id), "name": event.subject_name},
            "actor": event.actor_name or None,
            "detail": event.data,
        },
    }


def body_of(event: Event) -> bytes:
    return json.dumps(message_of(event), separators=(",", ":"), sort_keys=True).encode()


def headers_of(event: Event, *, body: bytes, secrets: Sequence[str], at: int) -> dict[str, str]:
    """`at`: seconds since 1970 of this attempt. A secret that is not one of ours signs with its own bytes. With several
    secrets, whoever knows one of them finds a signature of theirs.
    """
    name = f"evt_{event.uid.hex}"
    return {
        "Content-Type": "application/json",
        "webhook-id": name,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(signature(secret, name=name, at=at, body=body) for secret in secrets),
    }


def signature(secret: str, *, name: str, at: int, body: bytes) -> str:
    """HMAC-SHA256 over "id.timestamp.body", as `v1,<base64>`."""
    text = secret.removeprefix("whsec_")
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = text.encode()
    signed = hmac.digest(key, f"{name}.{at}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(signed).decode()
