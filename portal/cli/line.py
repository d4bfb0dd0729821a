"""The WebSocket of a screen or of a serial line, opened by a ticket, and how it ended, in words."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from portal.cli.client import Json
from portal.cli.config import Portal

LARGEST: Final = 4 * 1024 * 1024
# What a server closes with that goes away or restarts; it says nothing more then.
_PORTAL_STOPS: Final = frozenset({1001, 1012})

_WORDS: Final = {
    "signed-out": "your token ended, or you were locked out",
    "forbidden": "your role does not allow it any more",
    "not-found": "the machine was deleted, or you left its project",
    "kicked": "you were removed from it",
    "ended-by-operator": "an operator ended it",
    "stopped": "the machine was shut down",
    "display-closed": "the machine stopped or restarted",
    "display-moved": "the machine restarted",
    "portal-stopped": "the portal restarted",
    "lost": "the connection was lost",
    "silent": "nothing was heard of it any more",
}
# As in the browser: what passes by itself. The rest is somebody's decision.
_PASSES: Final = frozenset({"ended", "host", "network", "display"})


@dataclass(frozen=True, slots=True)
class Closed:
    """Why a line is closed: a step and a reason of the portal's relay, or `network` of ours."""

    step: str
    reason: str

    @property
    def words(self) -> str:
        return _WORDS.get(self.reason, f"{self.step}, {self.reason}")

    @property
    def may_pass(self) -> bool:
        """Whether to connect again."""
        return self.step in _PASSES or self.reason == "unavailable"


def opened(portal: Portal, ticket: Json) -> Any:
    """A context manager with the connection."""
    return connect(
        address(portal, ticket["path"]),
        origin=Origin(_origin(portal)),
        additional_headers={"Authorization": f"Bearer {portal.token}"},
        subprotocols=[Subprotocol("binary"), Subprotocol(f"casement.ticket.{ticket['ticket']}")],
        compression=None,
        max_size=LARGEST,
        ssl=_trusted(portal),
    )


def closed(line: ClientConnection) -> Closed:
    """The portal closes with a step and a reason, as JSON; a line that broke says nothing."""
    try:
        said = json.loads(line.close_reason or "")
        return Closed(str(said["step"]), str(said["reason"]))
    except (json.JSONDecodeError, KeyError, TypeError):
        return Closed("ended", "portal-stopped") if line.close_code in _PORTAL_STOPS else Closed("network", "lost")


def address(portal: Portal, path: str) -> str:
    """Where the WebSocket is: on the portal, or at the gateway that it names."""
    if "://" in path:
        return path
    whole = urljoin(f"{portal.url}/", path)
    return whole.replace("http", "ws", 1)


def _origin(portal: Portal) -> str:
    parts = urlsplit(portal.url)
    return f"{parts.scheme}://{parts.netloc}"


def _trusted(portal: Portal) -> ssl.SSLContext | None:
    if not portal.url.startswith("https://"):
        return None
    return ssl.create_default_context(cafile=portal.ca or None)
