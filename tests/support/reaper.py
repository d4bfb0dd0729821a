"""Runs a program and waits for whatever it leaves behind: `python -m tests.support.reaper FILE PROGRAM…`.

A guest's process is nobody's child once libvirtd has started it. libvirtd believes that it ended only when somebody has
waited for it, and where the first process of the machine takes its time with that, each end of a guest takes as long.
The program's number is written to FILE.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


def main(file: str, *argv: str) -> int:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    child = os.posix_spawn(argv[0], argv, os.environ)
    Path(file).write_text(str(child), encoding="ascii")
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return abs(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
