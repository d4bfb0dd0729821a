"""A machine's console log, which the portal brings from the machine's host while somebody asks for it."""

from __future__ import annotations

import time
from typing import Final, cast

from portal.cli.client import Client, Json
from portal.cli.errors import CliError

POLL_S: Final = 1.0
PATIENCE_S: Final = 30.0


def console_log(client: Client, machine: Json, words: str | None) -> Json:
    """The log, or of its lines those with the words. CliError if it cannot be brought."""
    until = time.monotonic() + PATIENCE_S
    while True:
        log = cast(Json, client.get(f"machines/{machine['id']}/console-log", q=words))
        if log["read_at"]:
            return log
        if log["problem"]:
            raise CliError(log["problem"])
        if time.monotonic() > until:
            raise CliError("The log is still on its way from the host. Try again in a moment.")
        time.sleep(POLL_S)
