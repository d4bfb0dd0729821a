"""Door 1 at the relay: ticket, both handshakes, the client's parser and the stream, without permissions and rows.

Run by uvicorn, as the portal is; `BENCH_DISPLAY` is the display's socket, `BENCH_SECRET` its password, `BENCH_READS`
how many bytes of the display are read at once (0: as the relay does).
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from portal.console import relay as relays
from portal.console.frames import InPlace
from portal.console.relay import Ended, Step, relay
from portal.console.rfb import ClientStream, open_display
from portal.console.stream import open_browser
from portal.console.tickets import from_subprotocols, redeem
from portal.console.websocket import Receive, Send

if size := int(os.environ["BENCH_READS"]):
    relays._piece = InPlace(size)


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await receive()
    browser = await open_browser(scope, receive, send, "binary")
    ended = Ended(Step.TICKET, "unknown")
    # In a thread, as the portal asks Redis too.
    if await asyncio.to_thread(redeem, from_subprotocols(scope["subprotocols"]) or ""):
        display = await open_display(os.environ["BENCH_DISPLAY"], os.environ["BENCH_SECRET"])
        ended = await relay(browser, display, ClientStream(view_only=False), name="bench")
    await browser.close(ended)
