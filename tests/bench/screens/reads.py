"""`python -m tests.bench.screens.reads BYTES websockify|gateway OPTION…`: the program, with reads of so many bytes.

0 leaves them as they are. What reads all that has come makes large pieces of small ones as soon as it is the slower
one, so the cost of a piece shows only when all relays have pieces of one size.
"""

import sys

from django.core.management import execute_from_command_line
from websockify import websocketproxy

from portal.console import gateway_stream
from portal.console.frames import InPlace


def main() -> None:
    size, what = int(sys.argv[1]), sys.argv[2]
    if what == "gateway":
        if size:
            gateway_stream._piece = InPlace(size)
        execute_from_command_line(["manage.py", what, *sys.argv[3:]])
        return
    if size:
        websocketproxy.ProxyRequestHandler.buffer_size = size
    sys.argv[1:3] = []
    websocketproxy.websockify_init()


if __name__ == "__main__":
    main()
