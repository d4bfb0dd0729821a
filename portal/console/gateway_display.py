"""A display's handshake for a process that waits: the one of rfb.py, on a plain socket."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from typing import Any, cast

from portal.console import rfb
from portal.console.rfb import DisplayError, ServerInit


@dataclass(slots=True)
class Display:
    """An open connection to a display, past its ServerInit; it does not block any more."""

    socket: socket.socket
    init: ServerInit


class _Blocking:
    """Reader and writer in one; each waits by itself, so the handshake is never suspended."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline

    async def readexactly(self, count: int) -> bytes:
        taken = b""
        while len(taken) < count:
            self._connection.settimeout(max(self._deadline - time.monotonic(), 0.001))
            piece = self._connection.recv(count - len(taken))
            if not piece:
                raise DisplayError("closed-early")
            taken += piece
        return taken

    def write(self, data: bytes) -> None:
        self._connection.sendall(data)


def open_display_blocking(socket_path: str, secret: str | None, *, deadline: float = 5.0) -> Display:
    """As `open_display` of rfb.py, with the same errors."""
    if secret == "":
        raise DisplayError("secret-empty")
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(deadline)
        connection.connect(socket_path)
        ends = cast(Any, _Blocking(connection, time.monotonic() + deadline))
        init = _played(rfb._greet_display(ends, ends, secret))
        connection.setblocking(False)
    except TimeoutError as error:
        connection.close()
        raise DisplayError("timeout") from error
    except ConnectionResetError as error:
        connection.close()
        raise DisplayError("closed-early") from error
    except BaseException:
        connection.close()
        raise
    return Display(connection, init)


def _played(handshake: Any) -> ServerInit:
    try:
        handshake.send(None)
    except StopIteration as result:
        return cast(ServerInit, result.value)
    raise RuntimeError("a handshake that blocks does not suspend")
