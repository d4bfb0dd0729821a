"""A browser's end of a WebSocket to an ASGI application. Channels' own helper needs another web server installed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from asgiref import testing

_communicator: Any = testing.ApplicationCommunicator  # asgiref ships no annotations for it.


class WebsocketCommunicator:
    """`scope` may be completed before `connect`, as the middleware in front would."""

    def __init__(
        self, application: Any, path: str, headers: Iterable[tuple[bytes, bytes]] = (), subprotocols: Iterable[str] = ()
    ) -> None:
        self.scope: dict[str, Any] = {
            "type": "websocket",
            "scheme": "ws",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": list(headers),
            "subprotocols": list(subprotocols),
        }
        self._application = application
        self._ends: Any = None

    async def connect(self, timeout: float = 60) -> tuple[bool, Any]:
        """Whether it was accepted, and the chosen subprotocol or the closing code."""
        self._ends = _communicator(self._application, self.scope)
        await self._ends.send_input({"type": "websocket.connect"})
        answer = await self.receive_output(timeout=timeout)
        if answer["type"] == "websocket.accept":
            return True, answer.get("subprotocol")
        return False, answer.get("code", 1000)

    async def send_to(self, *, bytes_data: bytes) -> None:
        await self._ends.send_input({"type": "websocket.receive", "bytes": bytes_data})

    async def receive_output(self, timeout: float = 60) -> dict[str, Any]:
        message: dict[str, Any] = await self._ends.receive_output(timeout=timeout)
        return message

    async def receive_nothing(self, timeout: float = 0.5) -> bool:
        nothing: bool = await self._ends.receive_nothing(timeout=timeout)
        return nothing

    async def disconnect(self, timeout: float = 60) -> None:
        await self._ends.send_input({"type": "websocket.disconnect", "code": 1000})
        await self._ends.wait(timeout=timeout)
