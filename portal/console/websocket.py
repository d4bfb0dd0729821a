"""An ASGI WebSocket as the relay's `Browser`, without Channels' dispatch for each message. No Django here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from portal.console.relay import BrowserGone, Ended, Step

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Private-use WebSocket close codes (4000-4999), one for each step, for logs and for clients that read no reason.
CLOSE_CODES: Final = {
    Step.ENDED: 4000,
    Step.TICKET: 4401,
    Step.PERMISSION: 4403,
    Step.REVOKED: 4408,
    Step.MACHINE_OFF: 4409,
    Step.LIMIT: 4429,
    Step.HOST: 4502,
    Step.DISPLAY: 4503,
}
# A browser that reads nothing would keep us waiting for room to say goodbye.
CLOSE_DEADLINE: Final = 1.0


def reason_of(ended: Ended) -> str:
    """The text of a close frame: at most 123 bytes, as the protocol allows."""
    return json.dumps({"step": ended.step, "reason": ended.reason[:60]}, separators=(",", ":"))


class AsgiBrowser:
    """The browser behind an ASGI `receive`/`send` pair, after "websocket.connect" was received."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send

    async def accept(self, subprotocol: str | None) -> None:
        await self._deliver({"type": "websocket.accept", "subprotocol": subprotocol})

    async def receive(self) -> bytes | None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return None
            # RFB is binary. Text has no meaning here and is passed over, so that it cannot end up in the stream.
            data: bytes | None = message.get("bytes")
            if data:
                return data

    async def send(self, data: bytes) -> None:
        await self._deliver({"type": "websocket.send", "bytes": data})

    async def close(self, ended: Ended) -> None:
        """Say goodbye with the step and the reason, if anyone listens."""
        reason = reason_of(ended)
        try:
            async with asyncio.timeout(CLOSE_DEADLINE):
                await self._deliver({"type": "websocket.close", "code": CLOSE_CODES[ended.step], "reason": reason})
        except (BrowserGone, TimeoutError):
            return

    async def _deliver(self, message: Message) -> None:
        """The servers tell in two ways that the connection is gone: ASGI 2.4 says OSError, older ones RuntimeError."""
        try:
            await self._send(message)
        except (OSError, RuntimeError) as error:
            raise BrowserGone from error
