"""What goes wrong on either side, in slugs of ours."""

from __future__ import annotations


class RfbError(Exception):
    """The other side broke the protocol or refused. `reason` is a slug of ours, never text of the other side."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class DisplayError(RfbError):
    """The display (QEMU's VNC) is at fault."""


class ClientError(RfbError):
    """The browser is at fault."""
