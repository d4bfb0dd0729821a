"""A real QEMU that shows its firmware's screen; its VNC is on a UNIX socket behind a password, as libvirt does it."""

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
    argv += ["-object", f"secret,id=vnc,data={secret}", "-vnc", f"unix:{socket_path},password-secret=vnc", *options]
    process = subprocess.Popen(argv)
    try:
        _wait_for(process, Path(socket_path))
        yield process.pid
    finally:
        process.terminate()
        process.wait()
        Path(socket_path).unlink(missing_ok=True)


def _wait_for(process: "subprocess.Popen[bytes]", path: Path, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("QEMU's VNC did not come up")
        time.sleep(0.02)
