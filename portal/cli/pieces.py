"""A file sent in pieces: what breaks off goes on where it was, also when the command is run again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, cast

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from portal.cli.client import Client, Json
from portal.cli.errors import CONFLICT, UNREACHABLE, CliError
from portal.cli.output import Output, clean

PIECE_BYTES: Final = 8 * 1024 * 1024
# How long a portal that does not answer is waited for, since it answered last.
PATIENCE_S: Final = 300.0
PAUSE_S: Final = 2.0


def send_file(client: Client, output: Output, file: Path) -> tuple[str, str]:
    """The id of the whole upload, and the file's SHA-256. One of this name and size that broke off is gone on with."""
    size = file.stat().st_size
    if size == 0:
        raise CliError(f"{file.name} is empty.")
    upload = _begun(client, file.name, size) or client.send("POST", "uploads", {"name": file.name, "size_bytes": size})
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
        console=output.notes,
        disable=output.form == "quiet" or not output.notes.is_terminal,
        transient=True,
    )
    with bar, file.open("rb") as data:
        task = bar.add_task(clean(file.name), total=size, completed=upload["offset"])
        digest = _send(client, data, upload, lambda offset: bar.update(task, completed=offset))
    return str(upload["id"]), digest


def _begun(client: Client, name: str, size: int) -> Json | None:
    mine = client.get("uploads")["items"]
    found = (one for one in mine if (one["name"], one["size_bytes"]) == (name, size))
    return cast("Json | None", next(found, None))


def _send(client: Client, data: BinaryIO, upload: Json, tell: Callable[[int], None]) -> str:
    """What had arrived before is read for the checksum only."""
    digest, offset, read = hashlib.sha256(), int(upload["offset"]), 0
    while piece := data.read(PIECE_BYTES):
        digest.update(piece)
        end = read + len(piece)
        while offset < end:
            offset = _send_piece(client, str(upload["id"]), piece[max(offset - read, 0) :], offset)
            tell(offset)
        read = end
    return digest.hexdigest()


def _send_piece(client: Client, upload: str, piece: bytes, offset: int) -> int:
    """How much has arrived then. When the line breaks it is asked for, until PATIENCE_S have passed."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return int(client.add_piece(f"uploads/{upload}", piece, offset)["offset"])
        except CliError as error:
            if error.exit_code not in {UNREACHABLE, CONFLICT} or time.monotonic() > until:
                raise
        have = _offset(client, upload)
        if have is not None and have != offset:
            return have
        time.sleep(PAUSE_S)


def _offset(client: Client, upload: str) -> int | None:
    """None while the portal does not answer."""
    try:
        return int(client.get(f"uploads/{upload}")["offset"])
    except CliError as error:
        if error.exit_code != UNREACHABLE:
            raise
        return None
