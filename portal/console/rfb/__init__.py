"""RFB (VNC) as the relay needs it: the handshake towards a display, towards a browser, and the client's messages.

No Django and no WebSocket here. `handshake` and `client_stream` do no I/O; `display` and `browser` drive them for
asyncio and for blocking calls. Sources: RFC 6143, the community "rfbproto" document, QEMU's docs/interop and ui/vnc.c.
"""

from portal.console.rfb.browser import HandshakeReader, greet_browser, greet_browser_blocking
from portal.console.rfb.client_stream import MAX_CUT_TEXT, ClientStream
from portal.console.rfb.display import (
    READ_SIZE,
    Connected,
    Connection,
    Display,
    DisplayAddress,
    RemoteDisplay,
    connect_display,
    open_display,
    open_display_blocking,
)
from portal.console.rfb.errors import ClientError, DisplayError, RfbError
from portal.console.rfb.handshake import (
    Handshake,
    ServerInit,
    browser_handshake,
    check_frame,
    display_handshake,
    vnc_response,
)

__all__ = [
    "MAX_CUT_TEXT",
    "READ_SIZE",
    "ClientError",
    "ClientStream",
    "Connected",
    "Connection",
    "Display",
    "DisplayAddress",
    "DisplayError",
    "Handshake",
    "HandshakeReader",
    "RemoteDisplay",
    "RfbError",
    "ServerInit",
    "browser_handshake",
    "check_frame",
    "connect_display",
    "display_handshake",
    "greet_browser",
    "greet_browser_blocking",
    "open_display",
    "open_display_blocking",
    "vnc_response",
]
