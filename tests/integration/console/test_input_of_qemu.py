"""What a real QEMU makes of a client's keys and buttons: it tells by its trace what goes to the guest."""

import asyncio
import struct
import time
from pathlib import Path

import pytest

from portal.console.rfb import ClientStream, open_display
from tests.integration.console.qemu import running_qemu

pytestmark = pytest.mark.real

SECRET = "s3cr3tpw"


def key(symbol: int, code: int) -> bytes:
    return struct.pack(">BBHII", 255, 0, 1, symbol, code)


HELD = {
    "ctrl, alt and shift by scan code": (
        key(0xFFE3, 0x1D) + key(0xFFE9, 0x38) + key(0xFFE1, 0x2A),
        {"ctrl", "alt", "shift"},
    ),
    "a letter by its symbol": (struct.pack(">BBxxI", 4, 1, 0x61), {"a"}),
    "the right mouse button and the left one": (struct.pack(">BBHH", 5, 0b101, 30, 40), {"left", "right"}),
}


@pytest.mark.parametrize("held", HELD)
async def test_control_that_is_lost_leaves_nothing_held_down_in_the_guest(
    socket_path: str, tmp_path: Path, held: str
) -> None:
    said, names = HELD[held]
    trace = tmp_path / "trace"
    options = ["-D", str(trace), "-trace", "input_event_key_qcode", "-trace", "input_event_btn"]
    with running_qemu(socket_path, SECRET, *options):
        display = await open_display(socket_path, SECRET)
        stream = ClientStream(view_only=False)
        display.writer.write(stream.feed(said))
        await _until(trace, names, down=1)
        stream.view_only = True
        assert stream.feed(said.replace(b"\0\1", b"\0\0")) == b"", "a watcher's own release comes too late"
        display.writer.write(stream.release())
        await _until(trace, names, down=0)
        await display.close()


async def test_a_session_that_ends_leaves_nothing_held_down_in_the_guest(socket_path: str, tmp_path: Path) -> None:
    """QEMU lets go of a viewer's keys by itself when he goes, but not of his mouse buttons."""
    trace = tmp_path / "trace"
    options = ["-D", str(trace), "-trace", "input_event_key_qcode", "-trace", "input_event_btn"]
    names = {"ctrl", "left"}
    with running_qemu(socket_path, SECRET, *options):
        display = await open_display(socket_path, SECRET)
        stream = ClientStream(view_only=False)
        display.writer.write(stream.feed(key(0xFFE3, 0x1D) + struct.pack(">BBHH", 5, 1, 30, 40)))
        await _until(trace, names, down=1)
        await display.close(stream.release())
        await _until(trace, names, down=0)


async def _until(trace: Path, names: set[str], *, down: int) -> None:
    """The last word about each of them is that it is down, or up."""
    deadline = time.monotonic() + 60
    while _last_words(trace, names) != dict.fromkeys(names, down):
        assert time.monotonic() < deadline, f"{_last_words(trace, names)} after 60 s"
        await asyncio.sleep(0.02)


def _last_words(trace: Path, names: set[str]) -> dict[str, int]:
    """Lines end in `key qcode ctrl, down 1` or `button left, down 1`."""
    found = {}
    for line in trace.read_text().splitlines() if trace.exists() else []:
        event, _, down = line.rpartition(", down ")
        name = event.rpartition(" ")[2]
        if name in names and down in {"0", "1"}:
            found[name] = int(down)
    return found
