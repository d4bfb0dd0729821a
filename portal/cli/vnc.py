"""A machine's screen on a port of this machine, for a viewer of one's own; the port is gone with the command.

Each viewer that connects gets a ticket of its own. Everybody on this machine could connect to a port, and the screen
asks for no password, so a connection of another user is turned away (where the system tells whose it is: Linux).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, WebSocketException

from portal.cli.client import Client, Json
from portal.cli.errors import FAILED, CliError
from portal.cli.line import closed, opened

HOST: Final = "127.0.0.1"
PIECE: Final = 64 * 1024
LOOKS: Final = 10
LOOK_AGAIN_S: Final = 0.05

Ready = Callable[[int], list[str] | None]


def serve(client: Client, machine: Json, *, watch: bool, port: int, ready: Ready) -> None:
    """Until the viewer that `ready` names has ended, or, without one, until the first connection has."""
    asyncio.run(_serve(client, machine, watch=watch, port=port, ready=ready))


async def _serve(client: Client, machine: Json, *, watch: bool, port: int, ready: Ready) -> None:
    ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    with_viewer = False

    async def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not await _is_ours(writer):
            writer.close()
            return
        try:
            await _relay(client, machine, reader, writer, watch=watch)
        except (CliError, OSError, WebSocketException) as error:
            if not ended.done():
                ended.set_exception(error if isinstance(error, CliError) else CliError(f"The screen: {error}"))
        finally:
            writer.close()
            if not with_viewer and not ended.done():
                ended.set_result(None)

    server = await asyncio.start_server(come, HOST, port)
    async with server:
        viewer = ready(server.sockets[0].getsockname()[1])
        with_viewer = viewer is not None
        if viewer is None:
            await ended
            return
        try:
            process = await asyncio.create_subprocess_exec(*viewer)
        except OSError as error:
            raise CliError(f"{viewer[0]} cannot be started: {error.strerror or error}", FAILED) from error
        waiting: asyncio.Future[Any] = asyncio.ensure_future(process.wait())
        await asyncio.wait([waiting, ended], return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            process.terminate()
            await waiting
            ended.result()


async def _relay(
    client: Client, machine: Json, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, watch: bool
) -> None:
    body = {"mode": "view" if watch else "control"}
    ticket = await asyncio.to_thread(client.send, "POST", f"machines/{machine['id']}/screen/ticket", body)
    async with opened(client.portal, ticket) as screen:
        ways = {asyncio.create_task(_up(reader, screen)), asyncio.create_task(_down(screen, writer))}
        done, rest = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        for task in done:
            task.result()


async def _up(reader: asyncio.StreamReader, screen: ClientConnection) -> None:
    while data := await reader.read(PIECE):
        await screen.send(data)


async def _down(screen: ClientConnection, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionClosed):
        async for data in screen:
            writer.write(data if isinstance(data, bytes) else data.encode())
            await writer.drain()
    if screen.close_code not in {1000, 1001}:
        raise CliError(f"The screen was closed: {closed(screen).words}")


async def _is_ours(writer: asyncio.StreamWriter) -> bool:
    """By the system's table of connections, which moves while it is read and may leave a row out once."""
    ends = [_as_written(*writer.get_extra_info(end)[:2]) for end in ("peername", "sockname")]
    for _look in range(LOOKS):
        if owners := _owners(ends):
            return owners == {os.getuid()}
        await asyncio.sleep(LOOK_AGAIN_S)
    return False


def _owners(ends: list[str]) -> set[int]:
    """Whose the connection with both these ends is. One port may serve connections to several places, and one that
    lingers there is said to be root's.
    """
    try:
        rows = map(str.split, Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:])
    except OSError:
        return {os.getuid()}  # Not Linux.
    return {int(row[7]) for row in rows if row[1:3] == ends}


def _as_written(host: str, port: int) -> str:
    return f"{int.from_bytes(bytes(int(part) for part in host.split('.')), 'little'):08X}:{port:04X}"
