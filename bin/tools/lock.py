"""One Casement per CASEMENT_HOME: whoever runs it holds a lock on a file that says so."""

import fcntl
import os
from pathlib import Path

from tools.options import Options


def _lock_file(options: Options) -> Path:
    return options.run_dir / "casement.lock"


def take_lock(options: Options) -> bool:
    """Hold the lock until this process ends. False if another process holds it."""
    descriptor = os.open(_lock_file(options), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} {options.url}\n".encode(), 0)
    return True  # The descriptor stays open on purpose: the kernel gives the lock back when the process ends.


def already_running(options: Options) -> str:
    """One sentence on who holds the lock; empty if nobody does."""
    try:
        with _lock_file(options).open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pid, _, url = file.read().strip().partition(" ")
                return f"Casement runs already, at {url or options.url} (process {pid}); end that one first."
    except OSError:
        pass  # Never started, or not ours to open: `_folder_problems` says so.
    return ""
