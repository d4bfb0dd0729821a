"""The WebSocket of screens and serial consoles: `console_app`, an ASGI application that is mounted at `ws/console/`.

It needs the session of Channels' SessionMiddlewareStack in its scope, and nothing else of Channels. With
uvicorn's `--ws portal.console.stream:StreamProtocol` the relay gets the connection itself; elsewhere messages go
straight from `receive` to the relay and from the relay to `send`: a dispatch for each would halve the speed.

uvicorn's settings that go with it: `--ws-per-message-deflate false` (the picture is packed already; packing it again
was measured to take 1,400 MB/s down to 30), `--ws-max-size 2097152` (for the other WebSockets; a screen's frames have
the relay's own limit), `--ws-ping-interval 20` (a still screen outlives a proxy's 60 s) and `--ws-ping-timeout 120`
(who is busy with a big picture answers late; the default of 20 s would kill the session, as STALL_DEADLINE does).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from channels.db import database_sync_to_async

from portal.console import limits, tickets
from portal.console.admission import Admitted, Refused, admit, depart
from portal.console.origins import is_ours
from portal.console.relay import BrowserGone, Ended, InputFilter, Step, relay
from portal.console.rfb import READ_SIZE, ClientStream, Connection, Display, DisplayError, open_display
from portal.console.serial_line import LineError, SerialInput, open_line
from portal.console.stream import Door, open_browser
from portal.console.tickets import Kind
from portal.console.watch import watch
from portal.console.websocket import Receive, Send
from portal.lib import log

Scope = dict[str, Any]
SUBPROTOCOL: Final = "binary"

logger = logging.getLogger(__name__)


async def console_app(scope: Scope, receive: Receive, send: Send) -> None:
    """One WebSocket from its request to its close. Another site's page is turned away before it is let in (403)."""
    await receive()
    if not origin_allowed(scope):
        logger.warning("console refused: the request comes from another site")
        await send({"type": "websocket.close", "code": 4403})
        return
    try:
        chosen = SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None
        browser = await open_browser(scope, receive, send, chosen)
    except BrowserGone:
        return
    ended = await _serve(scope, browser)
    logger.info("console ended: step=%s reason=%s", ended.step, ended.reason)
    await browser.close(ended)


def origin_allowed(scope: Scope) -> bool:
    """Whether the page that asks is one of ours; see origins.py."""
    headers = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
    origins = [value for name, value in headers if name == b"origin"]
    hosts = [value for name, value in headers if name == b"host"]
    return is_ours(origins, hosts, secure=scope.get("scheme") == "wss")


async def _serve(scope: Scope, browser: Door) -> Ended:
    """Everything between accept and close. Whatever fails becomes an `Ended` that the browser can explain."""
    with limits.process_place() as free:
        if not free:
            return Ended(Step.LIMIT, "process")
        token = tickets.from_subprotocols(scope["subprotocols"])
        try:
            admitted = await database_sync_to_async(admit)(token, _credential(scope), request_ip=_client_ip(scope))
        except Refused as refusal:
            return refusal.ended
        log.bind(actor=admitted.claim.user_id, machine=admitted.claim.machine_id)
        # The session's row gets its end whatever happens, also when this task is cancelled.
        ended = Ended(Step.ENDED, "portal-stopped")
        try:
            ended = await _relayed(browser, admitted)
        except Refused as refusal:
            ended = refusal.ended
        finally:
            await database_sync_to_async(depart)(admitted, ended)
        return ended


async def _relayed(browser: Door, admitted: Admitted) -> Ended:
    display, stream = await _open(admitted)
    with watch().over(admitted, stream) as stop:
        return await relay(browser, display, stream, name=admitted.target.machine.name, stop=stop)


async def _open(admitted: Admitted) -> tuple[Connection, InputFilter]:
    """What the ticket is for, and what filters its input."""
    if admitted.claim.kind is Kind.SERIAL:
        return await _attach(admitted), SerialInput(admitted.view_only)
    return await _connect(admitted), ClientStream(admitted.view_only)


async def _attach(admitted: Admitted) -> Connection:
    try:
        line = await asyncio.to_thread(open_line, admitted.target)
    except LineError as error:
        raise Refused(error.step, error.reason) from error
    return Connection(*await asyncio.open_unix_connection(sock=line, limit=READ_SIZE))


async def _connect(admitted: Admitted) -> Display:
    try:
        return await open_display(admitted.target.socket_path, admitted.target.secret)
    except DisplayError as error:
        logger.warning("console of machine %s: %s", admitted.claim.machine_id, error)
        raise Refused(Step.DISPLAY, error.reason) from error
    except OSError as error:
        logger.warning("console of machine %s: %s", admitted.claim.machine_id, error)
        raise Refused(Step.HOST, "unreachable") from error


def _credential(scope: Scope) -> str | None:
    """A program's API token, or a browser's session."""
    headers = [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"authorization"]
    own: str | None = tickets.credential_in(headers) or scope["session"].session_key
    return own


def _client_ip(scope: Scope) -> str | None:
    """As the web server saw it; it heeds forwarding headers only of proxies that it was told to trust."""
    client = scope.get("client")
    return client[0] if client else None
