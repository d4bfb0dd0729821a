"""A real QEMU that shows its firmware's screen; its VNC is on a UNIX socket behind a password, as libvirt does it."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def running_qemu(socket_path: str, secret: str, *options: str) -> Iterator[int]:
    """Gives its process id. SeaBIOS waits a minute for Escape, which opens its boot menu: a guest that answers keys
    within a second.
    """
    argv = ["qemu-system-x86_64", "-accel", "tcg", "-m", "64", "-nic", "none", "-display", "none"]
    argv += ["-boot", "menu=on,splash-time=60000"]
    # Where the firmware says, letter by letter, what it shows.
    argv += ["-chardev", f"file,id=firmware,path={_said_by_firmware(socket_path)}"]
    argv += ["-device", "isa-debugcon,iobase=0x402,chardev=firmware"]
    argv += ["-object", f"secret,id=vnc,data={secret}", "-vnc", f"unix:{socket_path},password-secret=vnc", *options]
    process = subprocess.Popen(argv)
    try:
        _wait_for(process, Path(socket_path))
        yield process.pid
    finally:
        process.terminate()
        process.wait()
        Path(socket_path).unlink(missing_ok=True)


def _said_by_firmware(socket_path: str) -> Path:
    return Path(f"{socket_path}.firmware")


def times_asked(socket_path: str) -> int:
    """How often since its start the firmware has begun to wait for Escape. It has chosen its text mode by then."""
    said = _said_by_firmware(socket_path)
    return said.read_bytes().count(b"Press ESC for boot menu.") if said.exists() else 0


async def firmware_asks(socket_path: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not times_asked(socket_path):
        assert time.monotonic() < deadline, "the firmware did not come so far"
        await asyncio.sleep(0.02)


def _wait_for(process: "subprocess.Popen[bytes]", path: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("QEMU's VNC did not come up")
        time.sleep(0.02)
