"""Run the console gateway."""

import socket
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal.console.gateway import serve

BACKLOG = 1024


class Command(BaseCommand):
    help = "Answer consoles' WebSockets in a process of their own; see CONSOLE_GATEWAY_URL in README.md."
    # It serves no pages, and nothing here may open the database before the first fork.
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--bind", default="127.0.0.1", help="the address to listen on")
        parser.add_argument("--port", type=int, default=8001)
        parser.add_argument("--fd", type=int, help="a socket that listens already, in their place")

    def handle(self, *args: Any, **options: Any) -> None:
        serve(_listener(options["bind"], options["port"], options["fd"]))


def _listener(bind: str, port: int, fd: int | None) -> socket.socket:
    if fd is not None:
        return socket.socket(fileno=fd)
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    try:
        return socket.create_server((bind, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise CommandError(f"The gateway cannot listen on {bind}, port {port}: {error.strerror}.") from error
