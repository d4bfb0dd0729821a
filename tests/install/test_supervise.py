"""What the portal's processes leave behind the supervisor waits for, as libvirt needs it to believe in an end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tools.supervise import _waits_for_orphans

# A shell that ends leaves the inner one behind; the program itself goes on.
LEAVER = """bash -c "(setsid sleep 600 & echo $! > %(here)s/left.new; mv left.new left); exec sleep 600" """
CONF = """
[supervisord]
nodaemon = true
logfile = {folder}/log
pidfile = {folder}/pid
[program:leaver]
command = {command}
directory = {folder}
"""


def test_what_a_process_leaves_behind_is_waited_for(tmp_path: Path) -> None:
    command = LEAVER.strip().replace("%(here)s", str(tmp_path))
    (tmp_path / "conf").write_text(CONF.format(folder=tmp_path, command=command))
    argv = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(tmp_path / "conf")]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, preexec_fn=_waits_for_orphans) as supervisor:  # noqa: PLW1509 - it is what is tried
        try:
            _wait_for((tmp_path / "left").exists)
            left = int((tmp_path / "left").read_text())
            _wait_for(lambda: _parent(left) == supervisor.pid)
            os.kill(left, signal.SIGKILL)
            _wait_for(lambda: not Path(f"/proc/{left}").exists())
        finally:
            supervisor.terminate()


def _parent(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("PPid:")[1].split()[0])


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
