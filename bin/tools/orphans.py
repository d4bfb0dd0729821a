"""Find and end what an earlier run left behind: when a supervisor is killed outright, its processes may outlive it.

Ours are known by a mark in their environment, never by name or by a pid alone, which may be another's by now. Guests do
not carry it: libvirt gives them an environment of their own.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

GRACE_S = 15.0


def end_orphans(home: Path, *, grace_s: float = GRACE_S) -> int:
    """End the marked processes of this home: ask, wait, then kill. Returns how many there were."""
    found = set(marked(home))
    _signal(found, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while (left := set(marked(home))) and time.monotonic() < deadline:
        found |= left
        time.sleep(0.1)
    _signal(left, signal.SIGKILL)
    while set(marked(home)) & left and time.monotonic() < deadline + 5:
        time.sleep(0.05)
    return len(found)


def marked(home: Path) -> Iterator[int]:
    """The pids of living processes with our mark, without this one and those it descends from."""
    mark = b"CASEMENT_SUPERVISED=" + os.fsencode(home)
    spared = set(_lineage(os.getpid()))
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) not in spared:
            # A process may end while it is looked at, or belong to another user and so not be ours.
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0") and _state(folder) not in "ZX":
                    yield int(folder.name)


def _lineage(pid: int) -> Iterator[int]:
    while pid > 0:
        yield pid
        pid = int(_status_fields(Path(f"/proc/{pid}"))[1])


def _state(folder: Path) -> str:
    return _status_fields(folder)[0]


def _status_fields(folder: Path) -> list[str]:
    """State, parent and so on; the command's name before them may hold blanks and brackets."""
    return (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
