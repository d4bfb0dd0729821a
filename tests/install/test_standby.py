"""A libvirtd of ours starts only where no other serves, and steps in when that one goes."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tools import standby

SCRIPT = Path(__file__).resolve().parents[2] / "bin" / "tools" / "standby.py"


def test_it_waits_while_another_serves_and_then_steps_in(tmp_path: Path) -> None:
    (tmp_path / "workers" / "hypervisor" / "kvm").mkdir(parents=True)
    (tmp_path / "workers" / "hypervisor" / "kvm" / "daemon.py").write_text("import sys; print(sys.argv[1:])", "utf-8")
    program = SCRIPT.read_text(encoding="utf-8").replace("LOOK_EVERY_S = 5", "LOOK_EVERY_S = 0.1")
    (tmp_path / "standby.py").write_text(program, encoding="utf-8")
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        argv = [sys.executable, "standby.py", "/run-dir", str(path)]
        environment = {"PATH": os.environ["PATH"]}
        with subprocess.Popen(argv, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
            time.sleep(0.5)
            assert process.poll() is None
            other.close()
            assert process.communicate(timeout=60)[0] == "['--run-dir', '/run-dir']\n"


@pytest.mark.parametrize("made", [False, True])
def test_a_dead_socket_serves_nobody(tmp_path: Path, made: bool) -> None:
    path = tmp_path / "sock"
    if made:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    assert not standby.serves(path)
